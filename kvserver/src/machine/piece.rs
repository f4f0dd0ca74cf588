//! The bytes of a copy.
//!
//! Owns the format: a piece is a version byte, then records one after another, each in bincode 2 (standard
//! configuration: little-endian, variable-length integers), the record's kind first. Byte strings borrow from
//! the piece, so reading allocates nothing that the piece's own bytes do not pay for. The golden test below
//! holds the layout fast; kinds are only ever added at the end.

use super::events::Change;
use bincode::config::{Configuration, standard};
use bincode::{BorrowDecode, Encode};
use proto::{ClientId, Revision, Sequence, ShardId, ShardState, Version};

/// The version that this build writes and the only one that it reads. Before the second, shards had no
/// states. Another kind of record is another version: a machine that does not know it must stop at it.
pub(super) const VERSION: u8 = 2;

const CONFIG: Configuration = standard();

/// What a record takes at most beside its byte strings.
pub(super) const RECORD_OVERHEAD_BYTES: usize = 64;

/// One record of a machine's state. A later record of the same place replaces an earlier one.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
pub(super) enum StateRecord<'a> {
    /// The machine's replicated time.
    Time { time_ms: u64 },
    /// A key that is present.
    Key {
        shard: ShardId,
        key: &'a [u8],
        value: &'a [u8],
        version: Version,
        created: Revision,
        modified: Revision,
    },
    /// A key that was handed out before and is no more.
    KeyGone { shard: ShardId, key: &'a [u8] },
    /// A session; `answers` as in [`Session::encode_answers`](super::session::Session::encode_answers).
    Session { shard: ShardId, client: ClientId, lowest: Sequence, active_s: u64, answers: &'a [u8] },
    /// A session that was handed out before and is no more.
    SessionGone { shard: ShardId, client: ClientId },
    /// A change that the shard remembers.
    Event { shard: ShardId, revision: Revision, change: Change, key: &'a [u8] },
    /// The end of a shard's events: those above `floor` and up to `revision` have been handed out.
    Tail { shard: ShardId, floor: Revision, revision: Revision },
    /// Where a shard stands in its life; comes before all else of the shard. A copy of one shard has none.
    State { shard: ShardId, state: ShardState },
    /// All that was handed out of a shard, but its state, is no more.
    Cleared { shard: ShardId },
    /// A key that is not present, and may or may not have been handed out: whoever took a copy over does not
    /// know.
    KeyAbsent { shard: ShardId, key: &'a [u8] },
}

impl StateRecord<'_> {
    /// The shard that it is about; `None` for the time.
    pub(super) fn shard(&self) -> Option<ShardId> {
        match *self {
            Self::Time { .. } => None,
            Self::Key { shard, .. }
            | Self::KeyGone { shard, .. }
            | Self::KeyAbsent { shard, .. }
            | Self::Session { shard, .. }
            | Self::SessionGone { shard, .. }
            | Self::Event { shard, .. }
            | Self::Tail { shard, .. }
            | Self::State { shard, .. }
            | Self::Cleared { shard } => Some(shard),
        }
    }

    /// Appends the record's bytes.
    pub(super) fn encode(&self, bytes: &mut Vec<u8>) {
        bincode::encode_into_std_write(self, bytes, CONFIG).expect("writing to memory does not fail");
    }
}

/// A piece being filled.
pub(super) struct Piece {
    bytes: Vec<u8>,
    bytes_max: usize,
    /// Whether it holds a record yet: the first one fits always, so that every step gets somewhere.
    begun: bool,
}

impl Piece {
    /// An empty piece of about `bytes_max` bytes. It starts small: many last steps of a copy are.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { bytes: vec![VERSION], bytes_max, begun: false }
    }

    /// Whether a record with `length` bytes of byte strings still fits.
    pub(super) fn has_room(&self, length: usize) -> bool {
        !self.begun || self.bytes.len() + length + RECORD_OVERHEAD_BYTES <= self.bytes_max
    }

    /// Adds a record.
    pub(super) fn push(&mut self, record: &StateRecord<'_>) {
        record.encode(&mut self.bytes);
        self.begun = true;
    }

    /// Adds the time, which is small and does not count as the piece's first record.
    pub(super) fn push_time(&mut self, time_ms: u64) {
        StateRecord::Time { time_ms }.encode(&mut self.bytes);
    }

    /// Whether it holds any record but the time.
    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }

    /// How many bytes it has.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes: none at all where no record was added.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        if self.bytes.len() > 1 { self.bytes } else { Vec::new() }
    }
}

/// The records of a piece; nothing for no bytes.
pub(super) fn records(piece: &[u8]) -> Result<Records<'_>, String> {
    check_version(piece)?;
    Ok(Records { rest: piece.get(1..).unwrap_or_default() })
}

/// Whether a piece is of the version that this build reads, or holds nothing.
pub(super) fn check_version(piece: &[u8]) -> Result<(), String> {
    match piece.first() {
        None | Some(&VERSION) => Ok(()),
        Some(version) => Err(format!("piece has format version {version}, this build reads {VERSION}")),
    }
}

/// Whether this build can read a piece, to its end.
///
/// # Errors
/// Why it cannot.
pub(crate) fn check(piece: &[u8]) -> Result<(), String> {
    records(piece)?.try_for_each(|record| record.map(drop))
}

/// The records of a piece, in order; ends after the first that is malformed.
pub(super) struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<StateRecord<'a>, String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        match bincode::borrow_decode_from_slice(self.rest, CONFIG) {
            Ok((record, used)) => {
                self.rest = &self.rest[used..];
                Some(Ok(record))
            }
            Err(error) => {
                self.rest = &[];
                Some(Err(error.to_string()))
            }
        }
    }
}
