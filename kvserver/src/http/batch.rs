//! `POST /v1/batch`: many operations in one body, as JSON for people and as `proto`'s messages for clients.
//!
//! A batch that is wrong in any part is refused whole, with the place of the fault, before anything is handed on;
//! what goes wrong with an operation that was handed on stands in its own answer.

use crate::http::body::RequestBody;
use crate::http::config::{binary_bytes_max, json_bytes_max};
use crate::http::front::{self, Asked, Front, Response};
use crate::http::json::{self, Object};
use crate::http::key::{check_key, check_new_key, written_status};
use crate::http::problem::Problem;
use crate::http::target::Query;
use crate::service::{Answer, BatchAnswer, Call, Operation, Reply};
use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use proto::{Code, Error, Expect, Outcome, Version};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::time::Duration;
use tokio::time::timeout;

pub(crate) const JSON_TYPE: &str = "application/json";
const BINARY_TYPE: &str = "application/vnd.flotilla.batch";

/// The version of the map that the answering node knows.
const EPOCH: HeaderName = HeaderName::from_static("flotilla-epoch");

/// How many operations on single keys the answering node sent on to others.
const FORWARDED: HeaderName = HeaderName::from_static("flotilla-forwarded");

/// Chooses by the content type; its parameters, such as a charset, are passed over.
pub(crate) async fn batch(
    front: &Front,
    asked: &Asked<'_>,
    body: &mut RequestBody,
) -> Result<Response, Problem> {
    let given = asked.head.headers.get(CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
    let essence = given.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    if essence.eq_ignore_ascii_case(BINARY_TYPE.as_bytes()) {
        return binary(front, asked, body).await;
    }
    if essence.eq_ignore_ascii_case(JSON_TYPE.as_bytes()) {
        return from_json(front, asked, body).await;
    }
    let given = String::from_utf8_lossy(given);
    Err(Problem::unsupported_media_type(format!(
        "content-type must be {JSON_TYPE} or {BINARY_TYPE}, not {given}"
    )))
}

/// The request carries its own deadline; here it is only held to the longest that there is.
async fn binary(front: &Front, asked: &Asked<'_>, body: &mut RequestBody) -> Result<Response, Problem> {
    Query::parse(asked.head.uri.query(), &[])?;
    let limits = front.body_limits(binary_bytes_max(&front.limits), Code::BatchTooLarge);
    let (request, _held) = body.read(limits).await?;
    let longest = Duration::from_millis(front.config.timeout_ms_max);
    match timeout(longest, front.service.batch(request)).await {
        Ok(Ok(BatchAnswer { reply, epoch, forwarded })) => {
            // What the batch holds is not looked at here: it may have written.
            let mut response = front.counted_body(BINARY_TYPE, reply, Outcome::Unknown)?;
            if let Some(epoch) = epoch {
                response.headers_mut().insert(EPOCH, HeaderValue::from(epoch.0));
            }
            if forwarded > 0 {
                response.headers_mut().insert(FORWARDED, HeaderValue::from(forwarded));
            }
            Ok(response)
        }
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(Error::unknown(Code::Timeout, "the service did not answer within the deadline").into()),
    }
}

/// The JSON body.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Batch<'a> {
    #[serde(borrow)]
    operations: Vec<Object<Item<'a>>>,
}

/// One operation of the JSON body; with `b64`, key and value are base64.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Item<'a> {
    op: Kind,
    #[serde(borrow)]
    key: Cow<'a, str>,
    #[serde(borrow)]
    value: Option<Cow<'a, str>>,
    #[serde(default)]
    b64: bool,
    version: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Get,
    Put,
    Append,
    Delete,
    Cas,
}

async fn from_json(front: &Front, asked: &Asked<'_>, body: &mut RequestBody) -> Result<Response, Problem> {
    let query = Query::parse(asked.head.uri.query(), &["consistency", "max-lag", "timeout"])?;
    let consistency = front::consistency(&query)?;
    front.deadline(&query)?;
    let idempotency_key = front::idempotency_key(&asked.head.headers)?;
    let limits = front.body_limits(json_bytes_max(&front.limits), Code::BatchTooLarge);
    let (text, _held) = body.read(limits).await?;
    let Object(batch): Object<Batch<'_>> = serde_json::from_slice(&text)
        .map_err(|error| Problem::bad_request(format!("batch is not as expected: {error}")))?;
    let operations = operations(front, &batch)?;
    if operations.is_empty() {
        return Ok(json_body(&Answered { answers: Vec::new() }));
    }
    let outcome = front::outcome_unanswered(&operations);
    let answers = front
        .execute(Call {
            operations: operations.clone(),
            consistency,
            deadline: front.deadline(&query)?,
            request_id: asked.id.0,
            idempotency_key,
            answer_bytes_max: front.config.answer_bytes_max,
        })
        .await?;
    let items = operations.iter().zip(&answers.answers).map(|(operation, answer)| item(operation, answer));
    let text = json_text(&Answered { answers: items.collect() });
    let mut response = front.counted_body(JSON_TYPE, text, outcome)?;
    front::tell_lag(&mut response, consistency, &answers);
    Ok(response)
}

fn operations(front: &Front, batch: &Batch<'_>) -> Result<Vec<Operation>, Problem> {
    let (count, count_max) = (batch.operations.len(), front.config.batch_operations_max);
    if count > count_max {
        let message = format!("batch of {count} operations exceeds the limit of {count_max}");
        return Err(Error::new(Code::BatchTooLarge, message).into());
    }
    let mut bytes = 0;
    let mut operations = Vec::with_capacity(count);
    for (place, Object(item)) in batch.operations.iter().enumerate() {
        let operation = operation(front, item).map_err(|mut problem| {
            problem.detail = format!("operation {place}: {}", problem.detail);
            problem
        })?;
        bytes += operation.wire().payload_bytes();
        operations.push(operation);
    }
    let bytes_max = front.limits.batch_bytes_max;
    if bytes > bytes_max {
        let message = format!("batch of {bytes} bytes exceeds the limit of {bytes_max}");
        return Err(Error::new(Code::BatchTooLarge, message).into());
    }
    Ok(operations)
}

fn operation(front: &Front, item: &Item<'_>) -> Result<Operation, Problem> {
    let bytes = |what: &str, text: &str| {
        json::bytes(text, item.b64).ok_or_else(|| Problem::bad_request(format!("{what} is not base64")))
    };
    let key = bytes("key", &item.key)?;
    if key.is_empty() {
        return Err(Problem::bad_request("key is empty"));
    }
    match item.op {
        Kind::Put | Kind::Append | Kind::Cas => check_new_key(front, &key)?,
        Kind::Get | Kind::Delete => check_key(&key)?,
    }
    let value = item.value.as_deref().map(|text| bytes("value", text)).transpose()?;
    let bytes_max = front.limits.value_bytes_max;
    if let Some(length) = value.as_ref().map(Bytes::len).filter(|length| *length > bytes_max) {
        let message = format!("value of {length} bytes exceeds the limit of {bytes_max}");
        return Err(Error::new(Code::ValueTooLarge, message).into());
    }
    let expect = match item.version {
        None => Expect::Any,
        Some(0) => Expect::Absent,
        Some(version) => Expect::Version(Version(version)),
    };
    match (item.op, value, item.version) {
        (Kind::Get, None, None) => Ok(Operation::Get { key }),
        (Kind::Get, ..) => Err(Problem::bad_request("get takes neither value nor version")),
        (Kind::Delete, None, _) => Ok(Operation::Delete { key, expect }),
        (Kind::Delete, Some(_), _) => Err(Problem::bad_request("delete takes no value")),
        (Kind::Cas, _, None) => Err(Problem::bad_request("version is missing")),
        (Kind::Put | Kind::Append | Kind::Cas, None, _) => Err(Problem::bad_request("value is missing")),
        (Kind::Put | Kind::Cas, Some(value), _) => Ok(Operation::Put { key, value, expect }),
        (Kind::Append, Some(value), _) => Ok(Operation::Append { key, value, expect }),
    }
}

/// The JSON answer.
#[derive(Serialize)]
struct Answered<'a> {
    answers: Vec<AnsweredItem<'a>>,
}

/// One operation's answer: the status that it would have had alone, and the members that go with it.
#[derive(Default, Serialize)]
#[serde(default)]
struct AnsweredItem<'a> {
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    b64: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    length: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retryable: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'static str>,
}

fn item<'a>(operation: &Operation, answer: &'a Answer) -> AnsweredItem<'a> {
    match (operation, answer) {
        (Operation::Get { .. }, Ok(Reply::Value { value, version, revision })) => {
            let b64 = json::needs_base64(&[value]);
            AnsweredItem {
                status: StatusCode::OK.as_u16(),
                value: Some(json::text(value, b64)),
                b64,
                version: Some(version.0),
                revision: Some(revision.0),
                ..AnsweredItem::default()
            }
        }
        (
            Operation::Put { .. } | Operation::Append { .. },
            Ok(Reply::Written { version, revision, length }),
        ) => AnsweredItem {
            status: written_status(*version).as_u16(),
            version: Some(version.0),
            revision: Some(revision.0),
            length: Some(*length),
            ..AnsweredItem::default()
        },
        (Operation::Delete { .. }, Ok(Reply::Deleted { revision })) => AnsweredItem {
            status: StatusCode::NO_CONTENT.as_u16(),
            revision: Some(revision.0),
            ..AnsweredItem::default()
        },
        (_, Err(error)) => failed(error.clone().into()),
        (operation, Ok(_)) => {
            let outcome = if operation.is_read() { Outcome::None } else { Outcome::Unknown };
            failed(Problem::internal("an operation was answered by something else", outcome))
        }
    }
}

fn failed(problem: Problem) -> AnsweredItem<'static> {
    AnsweredItem {
        status: problem.status.as_u16(),
        version: problem.current.map(|version| version.0),
        code: Some(problem.code),
        retryable: Some(problem.retryable),
        outcome: Some(problem.outcome()),
        detail: Some(problem.detail),
        ..AnsweredItem::default()
    }
}

/// An answer of JSON.
pub(crate) fn json_body(value: &impl Serialize) -> Response {
    front::body(JSON_TYPE, json_text(value))
}

/// The JSON of an answer.
pub(crate) fn json_text(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain structs with string keys are always JSON")
}
