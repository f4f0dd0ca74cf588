//! Calls between front ends: a batch forwarded to a leader, a follower's question for a read index.
//!
//! The caller's next step hangs on one thing: whether the call may have been carried out. It certainly was not
//! while its frame had not been handed to a connection, and where the receiver says so; in every other failure it
//! may have been, or may still be.

use super::config::TransportConfig;
use super::frame::{Frame, HEADER, Kind};
use super::inbound::Refusal;
use super::message::{put_request, put_text, take_text};
use super::queue::Queue;
use crate::codec::{Malformed, take_u8};
use bytes::{BufMut, Bytes};
use proto::GroupId;
use std::sync::Arc;
use std::time::Duration;

/// The bytes of a request before its body.
const REQUEST_OVERHEAD: usize = 1 + 4;

/// Why a call has no reply, by whether it may have been carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// It was not carried out and will not be: no connection, a full queue, too large, out of time unsent.
    #[error("call was not delivered: {0}")]
    NotDelivered(String),
    /// The other node refused it before doing anything.
    #[error("call was refused: {0}")]
    Refused(#[from] Refusal),
    /// The connection or the time ran out after it was sent: it may have been carried out, or may still be.
    #[error("call may have been delivered: {0}")]
    MaybeDelivered(String),
}

impl CallError {
    /// Whether the call may have had an effect.
    pub fn may_have_happened(&self) -> bool {
        matches!(self, Self::MaybeDelivered(_))
    }
}

/// Asks once.
pub(crate) async fn call(
    queue: &Arc<Queue>,
    config: &TransportConfig,
    service: u8,
    body: &Bytes,
    deadline: Duration,
) -> Result<Bytes, CallError> {
    let bytes = HEADER + REQUEST_OVERHEAD + body.len();
    if bytes > config.request_frame_bytes_max {
        let max = config.request_frame_bytes_max;
        return Err(CallError::NotDelivered(format!("request is too large: {bytes} bytes, at most {max}")));
    }
    let deadline_ms = u32::try_from(deadline.as_millis()).unwrap_or(u32::MAX);
    let put = |into: &mut Vec<u8>| put_request(into, service, deadline_ms, body);
    let call = queue.call(Kind::Request, GroupId(0), REQUEST_OVERHEAD + body.len(), put);
    let call = call.map_err(|failure| CallError::NotDelivered(failure.reason))?;
    match call.answer(deadline).await {
        Ok(Frame { kind: Kind::Reply, payload, .. }) => Ok(payload),
        Ok(Frame { payload, .. }) => Err(match take_refusal(payload) {
            Ok(Some(refusal)) => CallError::Refused(refusal),
            Ok(None) => {
                CallError::MaybeDelivered("carried out, but the reply is too large for a frame".into())
            }
            Err(error) => CallError::MaybeDelivered(error.to_string()),
        }),
        Err(failure) if failure.sent => Err(CallError::MaybeDelivered(failure.reason)),
        Err(failure) => Err(CallError::NotDelivered(failure.reason)),
    }
}

pub(crate) fn put_refusal(into: &mut Vec<u8>, refusal: &Refusal) {
    let (code, why) = match refusal {
        Refusal::Overloaded(why) => (1, why),
        Refusal::Unavailable(why) => (2, why),
        Refusal::Unsupported(why) => (3, why),
    };
    into.put_u8(code);
    put_text(into, why);
}

/// Says that the call was carried out and its reply cannot be sent.
pub(crate) fn put_lost_reply(into: &mut Vec<u8>, bytes: usize) {
    into.put_u8(0);
    put_text(into, &format!("reply is too large for a frame: {bytes} bytes"));
}

/// `None` where the call was carried out and its reply could not be sent.
fn take_refusal(mut from: Bytes) -> Result<Option<Refusal>, Malformed> {
    let what = "refusal";
    let code = take_u8(&mut from, what)?;
    let why = take_text(&mut from, what)?;
    match code {
        0 => Ok(None),
        1 => Ok(Some(Refusal::Overloaded(why))),
        2 => Ok(Some(Refusal::Unavailable(why))),
        3 => Ok(Some(Refusal::Unsupported(why))),
        _ => Err(Malformed { what, why: "unknown code" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A refusal arrives as it was given; its layout does not drift.
    #[test]
    fn refusals_come_back() {
        let refusals = [
            Refusal::Overloaded("a".into()),
            Refusal::Unavailable("b".into()),
            Refusal::Unsupported(String::new()),
        ];
        for refusal in refusals {
            let mut bytes = Vec::new();
            put_refusal(&mut bytes, &refusal);
            assert_eq!(take_refusal(Bytes::from(bytes)), Ok(Some(refusal)));
        }
        let mut bytes = Vec::new();
        put_refusal(&mut bytes, &Refusal::Overloaded("a".into()));
        assert_eq!(bytes, [1, 1, 0, b'a']);
    }
}
