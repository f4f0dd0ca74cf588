//! `GET /v1/kv`: keys in byte order, page by page.

use crate::http::cursor::Listing;
use crate::http::front::{self, Asked, Front, Response};
use crate::http::key::check_key;
use crate::http::problem::Problem;
use crate::http::target::Query;
use crate::http::{batch, json};
use crate::service::{Call, Operation, Record, Reply};
use bytes::Bytes;
use proto::Outcome;
use serde::Serialize;
use std::borrow::Cow;

const LIMIT_DEFAULT: u64 = 100;
const LIMIT_MAX: u64 = 1_000;

const PARAMETERS: [&str; 8] =
    ["prefix", "start", "limit", "cursor", "keys-only", "consistency", "max-lag", "timeout"];

/// A page, as it is written.
#[derive(Serialize)]
struct Page<'a> {
    keys: Vec<Listed<'a>>,
    cursor: Option<String>,
}

/// A record, as it is written.
#[derive(Serialize)]
struct Listed<'a> {
    key: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Cow<'a, str>>,
    version: u64,
    revision: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    b64: bool,
}

impl<'a> Listed<'a> {
    fn of(record: &'a Record, keys_only: bool) -> Self {
        let value = (!keys_only).then_some(&record.value[..]);
        let b64 = json::needs_base64(&[&record.key, value.unwrap_or_default()]);
        Self {
            key: json::text(&record.key, b64),
            value: value.map(|value| json::text(value, b64)),
            version: record.version.0,
            revision: record.revision.0,
            b64,
        }
    }
}

/// Answers one page.
pub(crate) async fn list(front: &Front, asked: &Asked<'_>) -> Result<Response, Problem> {
    let query = Query::parse(asked.head.uri.query(), &PARAMETERS)?;
    let consistency = front::consistency(&query)?;
    let keys_only = query.switch("keys-only")?;
    let limit = query.number("limit", 1, LIMIT_MAX)?.unwrap_or(LIMIT_DEFAULT);
    let [prefix, start] = ["prefix", "start"].map(|name| query.bytes(name).unwrap_or_default());
    check_key(prefix)?;
    check_key(start)?;
    let listing = Listing { cluster: &front.cluster, prefix, start };
    let after = query.bytes("cursor").map(|cursor| listing.last(cursor)).transpose();
    let scan = Operation::Scan {
        prefix: Bytes::copy_from_slice(prefix),
        after: after.map_err(Problem::bad_cursor)?.map(Bytes::from),
        start: Bytes::copy_from_slice(start),
        limit: u32::try_from(limit).expect("the limit is at most LIMIT_MAX"),
        bytes_max: front.config.page_bytes_max,
    };
    let mut answers = front
        .execute(Call {
            operations: vec![scan],
            consistency,
            deadline: front.deadline(&query)?,
            request_id: asked.id.0,
            idempotency_key: front::idempotency_key(&asked.head.headers)?,
            answer_bytes_max: front.config.answer_bytes_max,
        })
        .await?;
    let (records, more) = match answers.answers.pop() {
        Some(Ok(Reply::Page { records, more })) => (records, more),
        Some(Err(error)) => return Err(error.into()),
        _ => return Err(Problem::internal("a scan was answered by something else", Outcome::None)),
    };
    let cursor = records.last().filter(|_| more).map(|last| listing.cursor(&last.key));
    let keys = records.iter().map(|record| Listed::of(record, keys_only)).collect();
    let text = batch::json_text(&Page { keys, cursor });
    let mut response = front.counted_body(batch::JSON_TYPE, text, Outcome::None)?;
    front::tell_lag(&mut response, consistency, &answers);
    Ok(response)
}
