//! What can be asked through [`Client::batch`](crate::Client::batch), and every call's answer, as owned values.

use bytes::Bytes;
use proto::{Expect, Revision, Version};

/// What an operation costs in a batch beside its keys and values: stamp, tags and lengths, rounded up.
const OVERHEAD_BYTES: usize = 64;

/// One operation of a batch. Clones share their bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation(pub(crate) Kind);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Get { key: Bytes },
    Put { key: Bytes, value: Bytes, expect: Expect },
    Append { key: Bytes, value: Bytes, expect: Expect },
    Delete { key: Bytes, expect: Expect },
    Scan { prefix: Bytes, start: Bytes, after: Option<Bytes>, limit: u32, bytes_max: u32 },
}

impl Operation {
    /// Reads a value.
    pub fn get(key: impl AsRef<[u8]>) -> Self {
        Self(Kind::Get { key: owned(key) })
    }

    /// Replaces a value, or creates it, where `expect` holds.
    pub fn put(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>, expect: Expect) -> Self {
        Self(Kind::Put { key: owned(key), value: owned(value), expect })
    }

    /// Adds to the end of a value where `expect` holds; an absent key counts as empty.
    pub fn append(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>, expect: Expect) -> Self {
        Self(Kind::Append { key: owned(key), value: owned(value), expect })
    }

    /// Removes a key where `expect` holds.
    pub fn delete(key: impl AsRef<[u8]>, expect: Expect) -> Self {
        Self(Kind::Delete { key: owned(key), expect })
    }

    pub(crate) fn wire(&self) -> proto::Operation<'_> {
        match &self.0 {
            Kind::Get { key } => proto::Operation::Get { key },
            Kind::Put { key, value, expect } => proto::Operation::Put { key, value, expect: *expect },
            Kind::Append { key, value, expect } => proto::Operation::Append { key, value, expect: *expect },
            Kind::Delete { key, expect } => proto::Operation::Delete { key, expect: *expect },
            Kind::Scan { prefix, start, after, limit, bytes_max } => proto::Operation::Scan {
                prefix,
                after: after.as_deref(),
                start,
                limit: *limit,
                bytes_max: *bytes_max,
            },
        }
    }

    /// What it takes of a batch's bytes. A scan counts with the page that it asks for, so that a few large pages
    /// fill a batch.
    pub(crate) fn weight(&self) -> usize {
        let page = match self.0 {
            Kind::Scan { bytes_max, .. } => bytes_max as usize,
            _ => 0,
        };
        OVERHEAD_BYTES + page + self.wire().payload_bytes()
    }
}

pub(crate) fn owned(bytes: impl AsRef<[u8]>) -> Bytes {
    Bytes::copy_from_slice(bytes.as_ref())
}

/// A value as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// The bytes.
    pub bytes: Bytes,
    /// The key's version, from 1.
    pub version: Version,
    /// The shard's revision at the key's last change.
    pub revision: Revision,
}

/// A write that took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// The key's version after it; 1 where it created the key.
    pub version: Version,
    /// The shard's revision after it.
    pub revision: Revision,
    /// The value's length after it, in bytes.
    pub length: u64,
}

/// A removal that took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deleted {
    /// The shard's revision after it.
    pub revision: Revision,
}

/// A key with its value and counters, as a scan finds it.
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

/// What an operation of a batch answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// [`Operation::get`]: the value, `None` where the key does not exist.
    Value(Option<Value>),
    /// [`Operation::put`] and [`Operation::append`].
    Written(Written),
    /// [`Operation::delete`].
    Deleted(Deleted),
}

/// Every reply that may come back, scans included.
#[derive(Debug)]
pub(crate) enum Answered {
    Value(Value),
    Written(Written),
    Deleted(Deleted),
    Page { records: Vec<Record>, more: bool },
}

impl Answered {
    /// The reply, copied out of the message that it came in; `None` where it does not answer `operation`.
    pub(crate) fn of(operation: &Operation, reply: proto::Reply<'_>) -> Option<Self> {
        Some(match (&operation.0, reply) {
            (Kind::Get { .. }, proto::Reply::Value { value, version, revision }) => {
                Self::Value(Value { bytes: owned(value), version, revision })
            }
            (Kind::Put { .. } | Kind::Append { .. }, proto::Reply::Written { version, revision, length }) => {
                Self::Written(Written { version, revision, length })
            }
            (Kind::Delete { .. }, proto::Reply::Deleted { revision }) => Self::Deleted(Deleted { revision }),
            (Kind::Scan { .. }, proto::Reply::Page { records, more }) => {
                Self::Page { records: records.iter().map(Record::of).collect(), more }
            }
            _ => return None,
        })
    }
}

impl Record {
    fn of(record: &proto::Record<'_>) -> Self {
        let proto::Record { key, value, version, revision } = *record;
        Self { key: owned(key), value: owned(value), version, revision }
    }
}
