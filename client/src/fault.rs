//! Why one attempt failed. Everything that can go wrong between a batch and its answers becomes a [`Fault`] here,
//! and each fault says whether the operation may have taken effect. Where nobody said so for certain, it may.

use crate::transport::{Response, TransportError};
use proto::{Code, Outcome};
use serde::Deserialize;
use std::time::Duration;

/// No wait that a node asks for is honoured beyond this.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(5);

/// The failure of one attempt.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) code: Code,
    /// Whether this attempt may have taken effect.
    pub(crate) outcome: Outcome,
    /// Whether another attempt under the same stamp may succeed.
    pub(crate) retryable: bool,
    /// The wait that the node asked for.
    pub(crate) retry_after: Option<Duration>,
    pub(crate) message: String,
    /// Nothing came back, or nothing that a healthy node would say: other nodes are better asked first.
    pub(crate) node_failed: bool,
    /// The batch or its answer was too large: fewer operations at once may pass.
    pub(crate) oversize: bool,
    /// Known once a batch carried the attempt.
    pub(crate) request_id: Option<u128>,
}

/// The body of a refusal, `application/problem+json`.
#[derive(Deserialize)]
struct Problem {
    code: String,
    #[serde(default)]
    detail: String,
    retryable: bool,
    outcome: ProblemOutcome,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum ProblemOutcome {
    None,
    Unknown,
}

impl Fault {
    /// The attempt never left this process.
    pub(crate) fn not_sent(message: impl Into<String>) -> Self {
        Self::transport(Outcome::None, message.into())
    }

    /// The attempt may have reached a node, and no answer that makes sense came back.
    pub(crate) fn no_answer(message: impl Into<String>) -> Self {
        Self::transport(Outcome::Unknown, message.into())
    }

    fn transport(outcome: Outcome, message: String) -> Self {
        Self {
            code: Code::Unavailable,
            outcome,
            retryable: true,
            retry_after: None,
            message,
            node_failed: true,
            oversize: false,
            request_id: None,
        }
    }

    /// The node answered this operation with an error.
    pub(crate) fn of_answer(error: proto::Error) -> Self {
        Self {
            retryable: error.retryable(),
            code: error.code,
            outcome: error.outcome,
            retry_after: None,
            message: error.message,
            node_failed: false,
            oversize: false,
            request_id: None,
        }
    }

    /// The node refused the whole batch. A refusal that does not explain itself (a proxy's, say) is taken to have
    /// had no effect only where its status says that the request was not even looked at.
    pub(crate) fn of_refusal(response: &Response) -> Self {
        let fault = match serde_json::from_slice::<Problem>(&response.body) {
            Ok(problem) => Self {
                code: code_named(&problem.code, problem.retryable),
                outcome: match problem.outcome {
                    ProblemOutcome::None => Outcome::None,
                    ProblemOutcome::Unknown => Outcome::Unknown,
                },
                retryable: problem.retryable,
                message: format!("status {}: {}", response.status, problem.detail),
                ..Self::no_answer("")
            },
            Err(_) => {
                let message = format!("unexplained status {}", response.status);
                match response.status {
                    429 => Self { code: Code::Overloaded, ..Self::not_sent(message) },
                    413 => Self { code: Code::BatchTooLarge, retryable: false, ..Self::not_sent(message) },
                    400..=407 | 409..=424 | 426..=499 => {
                        Self { code: Code::BadRequest, retryable: false, ..Self::not_sent(message) }
                    }
                    _ => Self::no_answer(message),
                }
            }
        };
        let retry_after = response.retry_after.map(|wait| wait.min(RETRY_AFTER_MAX));
        let node_failed = !matches!(fault.code, Code::Overloaded) && fault.retryable;
        Self { retry_after, node_failed, oversize: response.status == 413, ..fault }
    }

    /// Whether the answer can only be the replicated machine's own word on this very write, so that it holds
    /// whatever became of earlier attempts.
    pub(crate) fn is_final_answer(&self) -> bool {
        matches!(self.code, Code::NotFound | Code::VersionMismatch { .. }) && self.outcome == Outcome::None
    }

    /// For people, in an error that ends a call.
    pub(crate) fn describe(&self) -> String {
        match self.request_id {
            Some(id) => format!("{}: {} (request {id:032x})", self.code, self.message),
            None => format!("{}: {}", self.code, self.message),
        }
    }
}

impl From<TransportError> for Fault {
    fn from(error: TransportError) -> Self {
        let message = error.to_string();
        match error {
            TransportError::NotSent(_) | TransportError::Refused(_) => Self::not_sent(message),
            TransportError::NoAnswer(_) => Self::no_answer(message),
            TransportError::TooLarge { .. } => {
                Self { node_failed: false, oversize: true, ..Self::no_answer(message) }
            }
        }
    }
}

/// The code that a refusal names; all others by what they ask of the caller: unknown ones, those that carry data,
/// and those about a session, because a refused batch never reached the machine that alone knows sessions.
fn code_named(name: &str, retryable: bool) -> Code {
    let plain = [
        Code::BadRequest,
        Code::KeyTooLarge,
        Code::ValueTooLarge,
        Code::BatchTooLarge,
        Code::NoLeader,
        Code::Timeout,
        Code::Overloaded,
        Code::TooStale,
        Code::Unavailable,
        Code::Internal,
    ];
    let fallback = if retryable { Code::Unavailable } else { Code::BadRequest };
    plain.into_iter().find(|code| code.to_string() == name).unwrap_or(fallback)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn refusal(status: u16, body: &'static str) -> Fault {
        Fault::of_refusal(&Response {
            status,
            retry_after: Some(Duration::from_secs(3600)),
            body: Bytes::from(body),
            ..Response::default()
        })
    }

    /// A refusal that explains itself is believed; the wait it asks for is bounded.
    #[test]
    fn explained_refusals() {
        let fault =
            refusal(429, r#"{"code":"overloaded","detail":"full","retryable":true,"outcome":"none"}"#);
        assert_eq!((fault.code, fault.outcome, fault.retryable), (Code::Overloaded, Outcome::None, true));
        assert_eq!(fault.retry_after, Some(RETRY_AFTER_MAX));
        let fault = refusal(504, r#"{"code":"timeout","retryable":true,"outcome":"unknown"}"#);
        assert_eq!((fault.code, fault.outcome, fault.node_failed), (Code::Timeout, Outcome::Unknown, true));
        let fault = refusal(418, r#"{"code":"new_one","retryable":false,"outcome":"none"}"#);
        assert_eq!((fault.code, fault.retryable), (Code::BadRequest, false));
        let fault = refusal(409, r#"{"code":"session_expired","retryable":false,"outcome":"unknown"}"#);
        assert_eq!((fault.code, fault.outcome), (Code::BadRequest, Outcome::Unknown), "no word on a stamp");
    }

    /// An unexplained failure of a server or a proxy may have taken effect; an unexplained refusal did not.
    #[test]
    fn unexplained_refusals() {
        for status in [500, 502, 503, 504, 408, 200, 302] {
            assert_eq!(refusal(status, "<html>").outcome, Outcome::Unknown, "{status}");
        }
        for status in [400, 401, 403, 404, 413, 429] {
            assert_eq!(refusal(status, "<html>").outcome, Outcome::None, "{status}");
        }
    }
}
