//! What can be asked of a key, and what can be answered.

use crate::{ClientId, Epoch, Error, MoveCommand, Revision, Sequence, ShardId, ShardSet, Version};
use bincode::{BorrowDecode, Encode};

/// What must hold of a key for a write to take effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, bincode::Decode)]
pub enum Expect {
    /// No condition.
    #[default]
    Any,
    /// The key must not exist (`If-None-Match: *`).
    Absent,
    /// The key must exist (`If-Match: *`).
    Present,
    /// The key must be at this version (`If-Match: "7"`).
    Version(Version),
}

/// One thing asked of the key/value machine.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
pub enum Operation<'a> {
    /// Reads a value.
    Get {
        /// The key, any bytes.
        key: &'a [u8],
    },
    /// Replaces a value, or creates it.
    Put {
        /// The key, any bytes.
        key: &'a [u8],
        /// The new value.
        value: &'a [u8],
        /// The condition.
        expect: Expect,
    },
    /// Adds to the end of a value; an absent key counts as empty.
    Append {
        /// The key, any bytes.
        key: &'a [u8],
        /// The bytes to add.
        value: &'a [u8],
        /// The condition.
        expect: Expect,
    },
    /// Removes a key. An absent key answers [`Code::NotFound`](crate::Code::NotFound).
    Delete {
        /// The key, any bytes.
        key: &'a [u8],
        /// The condition.
        expect: Expect,
    },
    /// Lists keys of one group in byte order.
    Scan {
        /// Only keys that start so.
        prefix: &'a [u8],
        /// Only keys strictly after this one (`None`: from the first).
        after: Option<&'a [u8]>,
        /// Only keys at or after this one; empty for no bound.
        start: &'a [u8],
        /// The most records to answer.
        limit: u32,
        /// The most bytes of keys and values to answer; at least one record is answered where there is one.
        bytes_max: u32,
    },
}

impl<'a> Operation<'a> {
    /// The key that decides the shard; `None` for a scan, which concerns a whole group.
    pub fn key(&self) -> Option<&'a [u8]> {
        match *self {
            Self::Get { key }
            | Self::Put { key, .. }
            | Self::Append { key, .. }
            | Self::Delete { key, .. } => Some(key),
            Self::Scan { .. } => None,
        }
    }

    /// The bytes of its keys and values: what counts against a batch's limit.
    pub fn payload_bytes(&self) -> usize {
        match *self {
            Self::Get { key } | Self::Delete { key, .. } => key.len(),
            Self::Put { key, value, .. } | Self::Append { key, value, .. } => key.len() + value.len(),
            Self::Scan { prefix, after, start, .. } => {
                prefix.len() + start.len() + after.map_or(0, <[u8]>::len)
            }
        }
    }

    /// Whether it changes nothing, and so never enters the log.
    pub fn is_read(&self) -> bool {
        matches!(self, Self::Get { .. } | Self::Scan { .. })
    }
}

/// A write's place in its client's session with one shard: what makes it take effect once.
///
/// The session keeps replies from `lowest_open` up; a client counts from 1 for each shard and never reuses a
/// sequence. Invariant: `1 <= lowest_open <= sequence`.
///
/// The session of a [named](ClientId::is_named) request holds that one write. Its sequence does not count: it
/// is a digest of what is asked, so that the same name for anything else is found out, and equals
/// `lowest_open`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, bincode::Decode)]
pub struct Stamp {
    /// The session.
    pub client: ClientId,
    /// This write's number.
    pub sequence: Sequence,
    /// The lowest number whose answer the client still waits for.
    pub lowest_open: Sequence,
}

/// What stands in a group's log.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
pub enum Command<'a> {
    /// A write; answered with an [`Answer`].
    Write(Write<'a>),
    /// Shards are born in this group: those that were never here are served from now on, all others are left
    /// as they are. Answered with a [`LifecycleAnswer`](crate::LifecycleAnswer).
    Own {
        /// Which.
        shards: ShardSet,
        /// The cluster's birth.
        epoch: Epoch,
    },
    /// A step of a shard's move; answered with a [`LifecycleAnswer`](crate::LifecycleAnswer).
    Move(MoveCommand<'a>),
}

/// A write to one key.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
pub struct Write<'a> {
    /// The shard of the operation's key.
    pub shard: ShardId,
    /// `None` only where a caller takes at-least-once upon itself.
    pub stamp: Option<Stamp>,
    /// Never a read.
    pub operation: Operation<'a>,
}

/// A key with its value and counters.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
pub struct Record<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The value.
    pub value: &'a [u8],
    /// The key's version.
    pub version: Version,
    /// The shard's revision at the key's last change.
    pub revision: Revision,
}

/// What an operation that was carried out answers.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
pub enum Reply<'a> {
    /// `Get`: the value as it stands.
    Value {
        /// The bytes.
        value: &'a [u8],
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
        records: Vec<Record<'a>>,
        /// Whether more keys of the range follow the last record.
        more: bool,
    },
    /// `Scan` over all shards, of one group: its share of a page. A page is whole where each shard of the
    /// cluster is in just one of the shares that it is merged of: while shards move, one may be in none or in
    /// two.
    Share {
        /// The shards that the group serves, whose keys `records` are.
        shards: ShardSet,
        /// The records.
        records: Vec<Record<'a>>,
        /// Whether more keys of the range follow the last record.
        more: bool,
    },
}

/// What comes back for one operation.
pub type Answer<'a> = Result<Reply<'a>, Error>;
