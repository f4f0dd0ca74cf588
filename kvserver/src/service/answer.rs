//! Operations and answers as owned values: the mirror of `proto`'s borrowed ones. Clones share their bytes.
//!
//! It must stay a mirror: what it cannot express, `proto` cannot either.

use bytes::Bytes;
use proto::{Error, Expect, NodeId, Revision, Version};

/// One thing asked of the key/value machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Reads a value.
    Get {
        /// The key, any bytes.
        key: Bytes,
    },
    /// Replaces a value, or creates it.
    Put {
        /// The key, any bytes.
        key: Bytes,
        /// The new value.
        value: Bytes,
        /// The condition.
        expect: Expect,
    },
    /// Adds to the end of a value; an absent key counts as empty.
    Append {
        /// The key, any bytes.
        key: Bytes,
        /// The bytes to add.
        value: Bytes,
        /// The condition.
        expect: Expect,
    },
    /// Removes a key.
    Delete {
        /// The key, any bytes.
        key: Bytes,
        /// The condition.
        expect: Expect,
    },
    /// Lists keys of the whole cluster in byte order.
    Scan {
        /// Only keys that start so.
        prefix: Bytes,
        /// Only keys strictly after this one.
        after: Option<Bytes>,
        /// Only keys at or after this one; empty for no bound.
        start: Bytes,
        /// The most records to answer.
        limit: u32,
        /// The most bytes of keys and values to answer; at least one record is answered where there is one.
        bytes_max: u32,
    },
}

impl Operation {
    /// The same, borrowed: what goes on the wire and into the log.
    pub fn wire(&self) -> proto::Operation<'_> {
        match self {
            Self::Get { key } => proto::Operation::Get { key },
            Self::Put { key, value, expect } => proto::Operation::Put { key, value, expect: *expect },
            Self::Append { key, value, expect } => proto::Operation::Append { key, value, expect: *expect },
            Self::Delete { key, expect } => proto::Operation::Delete { key, expect: *expect },
            Self::Scan { prefix, after, start, limit, bytes_max } => proto::Operation::Scan {
                prefix,
                after: after.as_deref(),
                start,
                limit: *limit,
                bytes_max: *bytes_max,
            },
        }
    }

    /// Whether it changes nothing.
    pub fn is_read(&self) -> bool {
        matches!(self, Self::Get { .. } | Self::Scan { .. })
    }
}

/// A key with its value and counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// The key's version.
    pub version: Version,
    /// The shard's revision at the key's last change.
    pub revision: Revision,
}

/// What an operation that was carried out answers; see [`proto::Reply`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// `Get`: the value as it stands.
    Value {
        /// The bytes.
        value: Bytes,
        /// The key's version.
        version: Version,
        /// The shard's revision at the key's last change.
        revision: Revision,
    },
    /// `Put` and `Append`: done.
    Written {
        /// The key's version after the write; 1 where the write created it.
        version: Version,
        /// The shard's revision after the write.
        revision: Revision,
        /// The value's length after the write, in bytes.
        length: u64,
    },
    /// `Delete`: done.
    Deleted {
        /// The shard's revision after the write.
        revision: Revision,
    },
    /// `Scan`: records in byte order of their keys.
    Page {
        /// The records.
        records: Vec<Record>,
        /// Whether more keys of the range follow the last record.
        more: bool,
    },
}

impl Reply {
    /// `reply`, which borrows from `message`, as a value that shares the memory of `message`.
    ///
    /// # Panics
    /// If `reply` does not borrow from `message`.
    pub fn sharing(message: &Bytes, reply: &proto::Reply<'_>) -> Self {
        match reply {
            proto::Reply::Value { value, version, revision } => {
                Self::Value { value: message.slice_ref(value), version: *version, revision: *revision }
            }
            proto::Reply::Written { version, revision, length } => {
                Self::Written { version: *version, revision: *revision, length: *length }
            }
            proto::Reply::Deleted { revision } => Self::Deleted { revision: *revision },
            // A share passes for no page where it is made one of: whoever merges shares knows whether they
            // are all.
            proto::Reply::Page { records, more } | proto::Reply::Share { records, more, .. } => {
                let records = records.iter().map(|record| Record {
                    key: message.slice_ref(record.key),
                    value: message.slice_ref(record.value),
                    version: record.version,
                    revision: record.revision,
                });
                Self::Page { records: records.collect(), more: *more }
            }
        }
    }
}

/// What comes back for one operation.
pub type Answer = Result<Reply, Error>;

/// What comes back for a [`Call`](super::Call).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answers {
    /// One for each operation, in their order.
    pub answers: Vec<Answer>,
    /// How far the answering replica was behind the leader, in milliseconds; 0 for linearizable reads.
    pub lag_ms: u64,
    /// The node whose replica answered.
    pub node: NodeId,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Owned replies equal the borrowed ones that they are made of, and share their message's memory.
    #[test]
    fn owned_replies_share_memory() {
        let record = proto::Record { key: b"k", value: b"vv", version: Version(2), revision: Revision(9) };
        let message = Bytes::from(proto::encode(&vec![
            proto::Reply::Value { value: b"value", version: Version(1), revision: Revision(3) },
            proto::Reply::Written { version: Version(4), revision: Revision(5), length: 6 },
            proto::Reply::Deleted { revision: Revision(8) },
            proto::Reply::Page { records: vec![record], more: true },
        ]));
        let replies: Vec<proto::Reply<'_>> = proto::decode(&message).unwrap();
        let owned: Vec<Reply> = replies.iter().map(|reply| Reply::sharing(&message, reply)).collect();
        let text = Bytes::from_static;
        let record =
            Record { key: text(b"k"), value: text(b"vv"), version: Version(2), revision: Revision(9) };
        let expected = [
            Reply::Value { value: text(b"value"), version: Version(1), revision: Revision(3) },
            Reply::Written { version: Version(4), revision: Revision(5), length: 6 },
            Reply::Deleted { revision: Revision(8) },
            Reply::Page { records: vec![record], more: true },
        ];
        assert_eq!(owned, expected);
        let (Reply::Value { value, .. }, Reply::Page { records, .. }) = (&owned[0], &owned[3]) else {
            unreachable!("they equal what is expected")
        };
        for part in [value, &records[0].key, &records[0].value] {
            assert!(message.as_ptr_range().contains(&part.as_ptr()), "{part:?}");
        }
    }
}
