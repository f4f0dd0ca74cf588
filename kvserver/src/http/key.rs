//! `/v1/kv/{key}`: one key read, written, appended to or deleted.
//!
//! Everything that can be refused from the head alone is refused before the body is asked for, and nothing is
//! handed on before the body has arrived whole.

use crate::http::body::RequestBody;
use crate::http::condition::{self, Evaluation, ReadCondition};
use crate::http::front::{self, Asked, Front, Response};
use crate::http::problem::{Problem, etag};
use crate::http::route::KEY_PREFIX;
use crate::http::target::{Plus, Query, decode};
use crate::machine::bounds::KEY_BYTES_MAX;
use crate::service::{Answers, Call, Operation, Reply};
use bytes::Bytes;
use hyper::header::{ETAG, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use proto::{Code, Consistency, Error, Outcome, Revision, Version, shard_of};

const REVISION: HeaderName = HeaderName::from_static("flotilla-revision");
const SHARD: HeaderName = HeaderName::from_static("flotilla-shard");
const LENGTH: HeaderName = HeaderName::from_static("flotilla-length");

/// `GET` and `HEAD`; hyper leaves the body of the latter out.
pub(crate) async fn read(front: &Front, asked: &Asked<'_>) -> Result<Response, Problem> {
    let key = key(front, asked)?;
    let query = Query::parse(asked.head.uri.query(), &["consistency", "max-lag", "timeout"])?;
    let consistency = front::consistency(&query)?;
    let condition = ReadCondition::of(&asked.head.headers)?;
    let idempotency_key = front::idempotency_key(&asked.head.headers)?;
    let mut answers = front
        .execute(Call {
            operations: vec![Operation::Get { key: key.clone() }],
            consistency,
            deadline: front.deadline(&query)?,
            request_id: asked.id.0,
            idempotency_key,
            // Not today's limit: the value may be older, or have grown by appends. It is but one.
            answer_bytes_max: usize::MAX,
        })
        .await?;
    let mut response = match value(front, &key, &condition, &mut answers) {
        Ok(response) => response,
        Err(problem) => problem.into_response(asked.id),
    };
    front::tell_lag(&mut response, consistency, &answers);
    Ok(response)
}

fn value(
    front: &Front,
    key: &[u8],
    condition: &ReadCondition<'_>,
    answers: &mut Answers,
) -> Result<Response, Problem> {
    let (value, version, revision) = match answers.answers.pop() {
        Some(Ok(Reply::Value { value, version, revision })) => (value, version, revision),
        Some(Err(error)) if error.code == Code::NotFound => {
            return match condition.evaluate(Version(0)) {
                Evaluation::Failed => Err(Problem::version_mismatch(Version(0))),
                Evaluation::Serve | Evaluation::NotModified => Err(error.into()),
            };
        }
        Some(Err(error)) => return Err(error.into()),
        _ => return Err(Problem::internal("a read was answered by something else", Outcome::None)),
    };
    let mut response = match condition.evaluate(version) {
        Evaluation::Failed => return Err(Problem::version_mismatch(version)),
        Evaluation::NotModified => front::empty(StatusCode::NOT_MODIFIED),
        Evaluation::Serve => front.counted_body("application/octet-stream", value, Outcome::None)?,
    };
    mark(&mut response, front, key, revision);
    response.headers_mut().insert(ETAG, etag(version));
    Ok(response)
}

/// `PUT`, `POST` and `DELETE`.
pub(crate) async fn write(
    front: &Front,
    asked: &Asked<'_>,
    body: &mut RequestBody,
) -> Result<Response, Problem> {
    let key = key(front, asked)?;
    let query = Query::parse(asked.head.uri.query(), &["timeout"])?;
    front.deadline(&query)?;
    let expect = condition::of_write(&asked.head.headers)?;
    let idempotency_key = front::idempotency_key(&asked.head.headers)?;
    let (operation, _held) = if asked.head.method == Method::DELETE {
        (Operation::Delete { key: key.clone(), expect }, None)
    } else {
        let limits = front.body_limits(front.limits.value_bytes_max, Code::ValueTooLarge);
        let (value, held) = body.read(limits).await?;
        let key = key.clone();
        let operation = match asked.head.method {
            Method::POST => Operation::Append { key, value, expect },
            _ => Operation::Put { key, value, expect },
        };
        (operation, Some(held))
    };
    let mut answers = front
        .execute(Call {
            operations: vec![operation],
            consistency: Consistency::Linearizable,
            deadline: front.deadline(&query)?,
            request_id: asked.id.0,
            idempotency_key,
            answer_bytes_max: 0,
        })
        .await?;
    written(front, &key, asked.head.method == Method::DELETE, answers.answers.pop())
}

fn written(
    front: &Front,
    key: &[u8],
    delete: bool,
    answer: Option<Result<Reply, Error>>,
) -> Result<Response, Problem> {
    let (mut response, revision) = match answer {
        Some(Ok(Reply::Written { version, revision, length })) if !delete => {
            let mut response = front::empty(written_status(version));
            response.headers_mut().insert(ETAG, etag(version));
            response.headers_mut().insert(LENGTH, HeaderValue::from(length));
            (response, revision)
        }
        Some(Ok(Reply::Deleted { revision })) if delete => (front::empty(StatusCode::NO_CONTENT), revision),
        Some(Err(error)) => return Err(error.into()),
        _ => return Err(Problem::internal("a write was answered by something else", Outcome::Unknown)),
    };
    mark(&mut response, front, key, revision);
    Ok(response)
}

/// 201 where the write created the key, which then is at version 1; 200 otherwise.
pub(crate) fn written_status(version: Version) -> StatusCode {
    if version == Version(1) { StatusCode::CREATED } else { StatusCode::OK }
}

fn mark(response: &mut Response, front: &Front, key: &[u8], revision: Revision) {
    response.headers_mut().insert(REVISION, HeaderValue::from(revision.0));
    response.headers_mut().insert(SHARD, HeaderValue::from(shard_of(key, front.shards).0));
}

/// The key in the path: everything behind the prefix, decoded and nothing else done to it.
fn key(front: &Front, asked: &Asked<'_>) -> Result<Bytes, Problem> {
    let text = asked.head.uri.path().strip_prefix(KEY_PREFIX).unwrap_or_default();
    let key = decode(text, Plus::Literal)
        .map_err(|at| Problem::bad_request(format!("key has a malformed percent-encoding at byte {at}")))?;
    if key.is_empty() {
        return Err(Problem::bad_request("key is empty"));
    }
    match asked.head.method {
        Method::PUT | Method::POST => check_new_key(front, &key)?,
        _ => check_key(&key)?,
    }
    Ok(Bytes::copy_from_slice(&key))
}

/// Refuses a key beyond the limit, which binds what adds.
pub(crate) fn check_new_key(front: &Front, key: &[u8]) -> Result<(), Error> {
    check_length(key, front.limits.key_bytes_max)
}

/// Refuses a key, or a part of one, that is longer than any can be: the limit may have been higher when it was written.
pub(crate) fn check_key(key: &[u8]) -> Result<(), Error> {
    check_length(key, KEY_BYTES_MAX)
}

fn check_length(key: &[u8], bytes_max: usize) -> Result<(), Error> {
    if key.len() > bytes_max {
        let message = format!("key of {} bytes exceeds the limit of {bytes_max}", key.len());
        return Err(Error::new(Code::KeyTooLarge, message));
    }
    Ok(())
}
