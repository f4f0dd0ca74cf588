//! Operations and answers as owned values: the mirror of `proto`'s borrowed ones. Clones share their bytes.
//!
//! It must stay a mirror: what it cannot express, `proto` cannot either.

use bytes::Bytes;
use proto::{BatchReply, DecodeError, Error, Expect, NodeId, Revision, Version};

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
            proto::Reply::Page { records, more } => {
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

impl Answers {
    /// The answers in an encoded [`BatchReply`] of `node`, sharing its memory.
    ///
    /// # Errors
    /// [`DecodeError`] where the bytes are not a reply.
    pub fn decode(message: &Bytes, node: NodeId) -> Result<Self, DecodeError> {
        let BatchReply { answers, lag_ms } = proto::decode(message)?;
        let owned = |answer: proto::Answer<'_>| answer.map(|reply| Reply::sharing(message, &reply));
        Ok(Self { answers: answers.into_iter().map(owned).collect(), lag_ms, node })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::Code;

    /// A reply decodes to equal owned values that share the message's memory.
    #[test]
    fn decoding_shares_memory() {
        let record = proto::Record { key: b"k", value: b"vv", version: Version(2), revision: Revision(9) };
        let reply = BatchReply {
            answers: vec![
                Ok(proto::Reply::Value { value: b"value", version: Version(1), revision: Revision(3) }),
                Ok(proto::Reply::Written { version: Version(4), revision: Revision(5), length: 6 }),
                Ok(proto::Reply::Deleted { revision: Revision(8) }),
                Ok(proto::Reply::Page { records: vec![record], more: true }),
                Err(Error::new(Code::NotFound, "key does not exist")),
            ],
            lag_ms: 7,
        };
        let message = Bytes::from(proto::encode(&reply));
        let owned = Answers::decode(&message, NodeId(2)).unwrap();
        assert_eq!((owned.answers.len(), owned.lag_ms, owned.node), (5, 7, NodeId(2)));
        let Ok(Reply::Value { value, version: Version(1), revision: Revision(3) }) = &owned.answers[0] else {
            panic!("{owned:?}")
        };
        assert_eq!(value, "value");
        assert!(message.as_ptr_range().contains(&value.as_ptr()));
        let Ok(Reply::Page { records, more: true }) = &owned.answers[3] else { panic!("{owned:?}") };
        assert_eq!((&records[0].key[..], &records[0].value[..]), (&b"k"[..], &b"vv"[..]));
        assert_eq!(owned.answers[4], Err(Error::new(Code::NotFound, "key does not exist")));
        assert!(Answers::decode(&message.slice(..message.len() - 1), NodeId(2)).is_err());
    }
}
