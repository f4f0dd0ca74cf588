//! From what went wrong to what the caller hears: which code, and whether anything may have happened.
//!
//! Must never say "no effect" of a write that may have reached a log.

use crate::machine::bounds::KEY_BYTES_MAX;
use proto::{Code, Error, GroupId, Item, Limits, NodeId, Operation};
use raftstore::{CallError, ProposeError, ReadError, Refusal};
use std::time::Duration;

/// Refuses an operation whose parts are of a size that is not taken. What is configured binds writes that add: a
/// limit may have been higher once, and what was written then is still to be read and deleted. The machine's format
/// binds all.
pub(crate) fn within(limits: &Limits, operation: &Operation<'_>) -> Result<(), Error> {
    let too_large = |code: Code, what: &str, length: usize, most: usize| {
        Err(Error::new(code, format!("{what} is {length} bytes long, limit is {most}")))
    };
    if let Operation::Scan { prefix, after, start, limit, .. } = *operation {
        if limit == 0 {
            return Err(Error::new(Code::BadRequest, "limit of a scan must be at least 1, not 0"));
        }
        let longest = [prefix, start, after.unwrap_or_default()].into_iter().map(<[u8]>::len).max();
        return match longest {
            Some(length) if length > KEY_BYTES_MAX => {
                too_large(Code::KeyTooLarge, "bound of a scan", length, KEY_BYTES_MAX)
            }
            _ => Ok(()),
        };
    }
    let key = operation.key().unwrap_or_default();
    if key.is_empty() {
        return Err(Error::new(Code::BadRequest, "key is empty"));
    }
    let adds = matches!(operation, Operation::Put { .. } | Operation::Append { .. });
    let longest = if adds { limits.key_bytes_max } else { KEY_BYTES_MAX };
    if key.len() > longest {
        return too_large(Code::KeyTooLarge, "key", key.len(), longest);
    }
    match operation {
        Operation::Put { value, .. } | Operation::Append { value, .. }
            if value.len() > limits.value_bytes_max =>
        {
            too_large(Code::ValueTooLarge, "value", value.len(), limits.value_bytes_max)
        }
        _ => Ok(()),
    }
}

/// This node does not lead the group.
pub(crate) fn not_leader(group: GroupId, leader: Option<NodeId>) -> Error {
    match leader {
        Some(_) => Error::new(Code::NotLeader { group, leader }, format!("this node does not lead {group}")),
        None => Error::new(Code::NoLeader, format!("{group} has no leader that is known here")),
    }
}

/// The replica lags more than the caller allows.
pub(crate) fn too_stale(group: GroupId, lag: Duration) -> Error {
    Error::new(Code::TooStale, format!("replica of {group} lags too far: {} ms", lag.as_millis()))
}

/// The group's leader did not answer an item that was sent to it.
pub(crate) fn unanswered(leader: NodeId, item: &Item<'_>, error: &CallError) -> Error {
    match error {
        CallError::Refused(Refusal::Overloaded(why)) => Error::new(Code::Overloaded, why.clone()),
        CallError::MaybeDelivered(_) => lost(item, format!("leader {leader}: {error}")),
        CallError::Refused(_) | CallError::NotDelivered(_) => {
            Error::new(Code::Unavailable, format!("leader {leader}: {error}"))
        }
    }
}

/// An item was sent, and what became of it is not known.
pub(crate) fn lost(item: &Item<'_>, why: String) -> Error {
    match item.operation.is_read() {
        true => Error::new(Code::Unavailable, why),
        false => Error::unknown(Code::Unavailable, why),
    }
}

/// A read could not be confirmed.
pub(crate) fn unread(error: ReadError) -> Error {
    match error {
        ReadError::NotLeader { group, leader } => not_leader(group, leader),
        ReadError::NoQuorum(_) => Error::new(Code::NoLeader, error.to_string()),
        ReadError::Overloaded(_) => Error::new(Code::Overloaded, error.to_string()),
        ReadError::Stopped(_) => Error::new(Code::Unavailable, error.to_string()),
    }
}

/// A write was not answered by the machine.
pub(crate) fn unwritten(error: ProposeError) -> Error {
    match error {
        ProposeError::NotLeader { group, leader } => not_leader(group, leader),
        ProposeError::Overloaded(_) => Error::new(Code::Overloaded, error.to_string()),
        ProposeError::TooLarge { .. } => Error::new(Code::BatchTooLarge, error.to_string()),
        ProposeError::Unknown { .. } => Error::unknown(Code::Unavailable, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::{Expect, Outcome};

    fn scan(after: Option<&[u8]>, limit: u32) -> Operation<'_> {
        Operation::Scan { prefix: b"", after, start: b"", limit, bytes_max: 1 }
    }

    /// Sizes at their limits pass, one byte more is refused by name, and a scan asks for something.
    #[test]
    fn sizes_are_held_to_the_limits() {
        let limits = Limits { key_bytes_max: 3, value_bytes_max: 2, batch_bytes_max: 9 };
        let put = |key, value| Operation::Put { key, value, expect: Expect::Any };
        let code = |operation: Operation<'_>| within(&limits, &operation).map_err(|error| error.code);
        assert_eq!(code(put(b"abc", b"vv")), Ok(()));
        assert_eq!(code(put(b"abcd", b"")), Err(Code::KeyTooLarge));
        assert_eq!(code(put(b"abc", b"vvv")), Err(Code::ValueTooLarge));
        assert_eq!(code(put(b"", b"v")), Err(Code::BadRequest));
        let append = |key| Operation::Append { key, value: b"v", expect: Expect::Any };
        assert_eq!(code(append(b"abcd")), Err(Code::KeyTooLarge));
        // What was written under a higher limit.
        let (most, more) = ([b'a'; KEY_BYTES_MAX], [b'a'; KEY_BYTES_MAX + 1]);
        let delete = |key| Operation::Delete { key, expect: Expect::Any };
        for (key, expected) in [(&b"abcd"[..], Ok(())), (&most, Ok(())), (&more, Err(Code::KeyTooLarge))] {
            assert_eq!(code(Operation::Get { key }), expected);
            assert_eq!(code(delete(key)), expected);
        }
        assert_eq!(code(Operation::Get { key: b"" }), Err(Code::BadRequest));
        assert_eq!(code(scan(Some(&[b'a'; KEY_BYTES_MAX]), 1)), Ok(()));
        assert_eq!(code(scan(Some(&[b'a'; KEY_BYTES_MAX + 1]), 1)), Err(Code::KeyTooLarge));
        assert_eq!(code(scan(None, 0)), Err(Code::BadRequest));
    }

    /// Only a write that may have reached a log is of unknown outcome, and every such write is.
    #[test]
    fn outcomes_are_the_truth() {
        let write = Item { stamp: None, operation: Operation::Delete { key: b"k", expect: Expect::Any } };
        let read = Item { stamp: None, operation: Operation::Get { key: b"k" } };
        let maybe = CallError::MaybeDelivered("cut".into());
        let outcome = |item, error: &CallError| unanswered(NodeId(2), item, error).outcome;
        assert_eq!(outcome(&write, &maybe), Outcome::Unknown);
        assert_eq!(outcome(&read, &maybe), Outcome::None);
        for error in [
            CallError::NotDelivered("no connection".into()),
            CallError::Refused(Refusal::Overloaded("full".into())),
            CallError::Refused(Refusal::Unavailable("starting".into())),
        ] {
            assert_eq!(outcome(&write, &error), Outcome::None, "{error}");
        }
        let group = GroupId(1);
        let unknown = ProposeError::Unknown { group, why: "leadership changed" };
        assert_eq!(unwritten(unknown).outcome, Outcome::Unknown);
        assert_eq!(unwritten(ProposeError::Overloaded(group)).outcome, Outcome::None);
        assert_eq!(unwritten(ProposeError::NotLeader { group, leader: None }).outcome, Outcome::None);
    }
}
