//! Errors as HTTP tells them: `application/problem+json` (RFC 9457) with the three things that a caller acts on:
//! `code`, `retryable` and `outcome`.
//!
//! It must never soften an outcome: what may have taken effect says `unknown`, whatever the status.

use crate::http::request_id::RequestId;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CONTENT_TYPE, ETAG, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use proto::{Code, ControllerError, Error, Outcome, Version};
use serde::Serialize;

/// The content type of every error.
pub(crate) const PROBLEM_TYPE: &str = "application/problem+json";

/// After which time to try again what was refused for now.
const RETRY_AFTER_SECONDS: &str = "1";

/// An error on its way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    pub(crate) code: &'static str,
    pub(crate) detail: String,
    pub(crate) retryable: bool,
    pub(crate) outcome: Outcome,
    /// The key's version, where a condition on it failed.
    pub(crate) current: Option<Version>,
    /// The methods that the path has, where the one asked for is not among them.
    pub(crate) allow: Option<&'static str>,
}

/// The document's members, in their order.
#[derive(Serialize)]
struct Document<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: &'a str,
    code: &'static str,
    retryable: bool,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    request_id: String,
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        let (detail, outcome) = (detail.into(), Outcome::None);
        Self { status, code, detail, retryable: false, outcome, current: None, allow: None }
    }

    /// The request is wrong in itself.
    pub(crate) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", detail)
    }

    /// The cursor is not one that this listing gave out.
    pub(crate) fn bad_cursor(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_cursor", detail)
    }

    /// Nothing is served under this path.
    pub(crate) fn unknown_path() -> Self {
        Self::new(StatusCode::NOT_FOUND, "unknown_path", "nothing is served under this path")
    }

    /// The path exists, the method does not.
    pub(crate) fn method_not_allowed(allow: &'static str) -> Self {
        let detail = format!("this path has the methods {allow}");
        let problem = Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail);
        Self { allow: Some(allow), ..problem }
    }

    /// The body did not arrive in time.
    pub(crate) fn request_timeout(detail: impl Into<String>) -> Self {
        let problem = Self::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", detail);
        Self { retryable: true, ..problem }
    }

    /// The body is of a kind that is not read here.
    pub(crate) fn unsupported_media_type(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail)
    }

    /// A condition on a key that was read did not hold.
    pub(crate) fn version_mismatch(current: Version) -> Self {
        let message = format!("the condition does not hold, key is at version {current}");
        Self::from(Error::new(Code::VersionMismatch { current }, message))
    }

    /// The service answered something that was not asked.
    pub(crate) fn internal(detail: &'static str, outcome: Outcome) -> Self {
        Self::from(Error { code: Code::Internal, outcome, message: detail.into() })
    }

    /// The outcome as it is written.
    pub(crate) fn outcome(&self) -> &'static str {
        match self.outcome {
            Outcome::None => "none",
            Outcome::Unknown => "unknown",
        }
    }

    /// The document for the request `id`.
    pub(crate) fn document(&self, id: RequestId) -> Vec<u8> {
        let document = Document {
            r#type: format!("urn:flotilla:error:{}", self.code),
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            code: self.code,
            retryable: self.retryable,
            outcome: self.outcome(),
            version: self.current.map(|version| version.0),
            request_id: id.to_string(),
        };
        serde_json::to_vec(&document).expect("a document of strings and numbers is always JSON")
    }

    /// Whether the caller is asked to come back: 429 and 503.
    pub(crate) fn asks_to_wait(&self) -> bool {
        matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
    }

    /// The answer to the request `id`.
    pub(crate) fn into_response(self, id: RequestId) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(Bytes::from(self.document(id))));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_TYPE));
        if let Some(current) = self.current {
            headers.insert(ETAG, etag(current));
        }
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        if self.asks_to_wait() {
            headers.insert(RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
        }
        response
    }

    /// The whole answer as bytes, for a connection that hyper does not serve or no longer serves; the connection
    /// closes after it.
    pub(crate) fn into_message(self, id: RequestId) -> Vec<u8> {
        let document = self.document(id);
        let wait = if self.asks_to_wait() {
            format!("retry-after: {RETRY_AFTER_SECONDS}\r\n")
        } else {
            String::new()
        };
        let head = format!(
            "HTTP/1.1 {}\r\ncontent-type: {PROBLEM_TYPE}\r\nflotilla-request-id: {id}\r\n{wait}connection: close\r\ncontent-length: {}\r\n\r\n",
            self.status,
            document.len()
        );
        [head.into_bytes(), document].concat()
    }
}

/// A version as an entity tag.
pub(crate) fn etag(version: Version) -> HeaderValue {
    HeaderValue::try_from(format!("\"{version}\"")).expect("digits in quotes are a header value")
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let retryable = error.retryable();
        let (status, code) = match error.code {
            Code::BadRequest => (StatusCode::BAD_REQUEST, "bad_request"),
            Code::NotFound => (StatusCode::NOT_FOUND, "not_found"),
            Code::VersionMismatch { .. } => (StatusCode::PRECONDITION_FAILED, "version_mismatch"),
            Code::KeyTooLarge => (StatusCode::BAD_REQUEST, "key_too_large"),
            Code::ValueTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "value_too_large"),
            Code::BatchTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "batch_too_large"),
            Code::SessionExpired => (StatusCode::CONFLICT, "session_expired"),
            Code::SequenceOutOfWindow => (StatusCode::CONFLICT, "sequence_out_of_window"),
            Code::NotLeader { .. } => (StatusCode::SERVICE_UNAVAILABLE, "not_leader"),
            Code::NoLeader => (StatusCode::SERVICE_UNAVAILABLE, "no_leader"),
            Code::Timeout => (StatusCode::GATEWAY_TIMEOUT, "timeout"),
            Code::Overloaded => (StatusCode::TOO_MANY_REQUESTS, "overloaded"),
            Code::TooStale => (StatusCode::SERVICE_UNAVAILABLE, "too_stale"),
            Code::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            Code::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
            Code::IdempotencyKeyReused => (StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused"),
            Code::WrongGroup { .. } => (StatusCode::SERVICE_UNAVAILABLE, "wrong_group"),
        };
        let current = match error.code {
            Code::VersionMismatch { current } => Some(current),
            _ => None,
        };
        Self { status, code, detail: error.message, retryable, outcome: error.outcome, current, allow: None }
    }
}

impl From<ControllerError> for Problem {
    /// A refusal changed nothing.
    fn from(error: ControllerError) -> Self {
        use ControllerError as Of;
        let (bad, missing, conflict) = (StatusCode::BAD_REQUEST, StatusCode::NOT_FOUND, StatusCode::CONFLICT);
        let (status, code) = match error {
            Of::EpochMismatch { .. } => (conflict, "epoch_mismatch"),
            Of::Stale { .. } => (conflict, "stale"),
            Of::Unborn => (StatusCode::SERVICE_UNAVAILABLE, "unborn"),
            Of::Born => (conflict, "born"),
            Of::Invalid { .. } => (bad, "invalid"),
            Of::UnknownNode { .. } => (missing, "unknown_node"),
            Of::UnknownGroup { .. } => (missing, "unknown_group"),
            Of::UnknownShard { .. } => (missing, "unknown_shard"),
            Of::GroupIdUsed { .. } => (conflict, "group_id_used"),
            Of::GroupLeaving { .. } => (conflict, "group_leaving"),
            Of::LastGroup { .. } => (conflict, "last_group"),
            Of::GroupInUse { .. } => (conflict, "group_in_use"),
            Of::NoPlace { .. } => (conflict, "no_place"),
            Of::NoQuorum { .. } => (conflict, "no_quorum"),
            Of::NodeInUse { .. } => (conflict, "node_in_use"),
            Of::ShardMoving { .. } => (conflict, "shard_moving"),
            Of::ShardThere { .. } => (conflict, "shard_there"),
            Of::ShardNotMoving { .. } => (conflict, "shard_not_moving"),
            Of::EpochAhead { .. } => (missing, "epoch_ahead"),
            Of::EpochForgotten { .. } => (missing, "epoch_forgotten"),
        };
        let passes = matches!(error, Of::Unborn | Of::GroupInUse { .. } | Of::ShardMoving { .. });
        Self { retryable: passes, ..Self::new(status, code, error.to_string()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A problem document is what clients were built against.
    #[test]
    fn golden_document() {
        let problem = Problem::version_mismatch(Version(7));
        let golden = r#"{"type":"urn:flotilla:error:version_mismatch","title":"Precondition Failed","status":412,"detail":"the condition does not hold, key is at version 7","code":"version_mismatch","retryable":false,"outcome":"none","version":7,"request_id":"0000000000000000000000000000002a"}"#;
        assert_eq!(String::from_utf8(problem.document(RequestId(42))).unwrap(), golden);
    }
}
