//! The bytes of the log on disk: one record for each sync, carrying what all groups had to write.
//!
//! ```text
//! part       version u8 (1) · sequence u64 · part u16 · parts u16 · CRC-32 u32 · body
//! body       the parts' bodies, joined, are operations until the end:
//! operation  group u64 · kind u8 · length u32 · payload
//!
//! kind 0  begin       segment u64; the first operation of each segment, its group is 0
//!      1  append      entries until the end of the payload
//!      2  vote        vote
//!      3  truncate    optional log id: entries after it are gone
//!      4  purge       log id: entries up to it are gone
//!      5  commit      optional log id
//!      6  snapshot    manifest: the group's current snapshot
//!      7  carry       entries, again: same ids, moved here out of an old segment
//!      8  checkpoint  optional vote · optional commit · optional purge · optional last log id ·
//!                     first index u64 · optional manifest; nothing older is needed to know these
//!      9  forget      the group has left this node
//! ```
//!
//! A part is one value of the segment's table, under the number `sequence · 65,536 + part`. The CRC covers the
//! part but for itself. Sequences rise by one over all segments, so a lost record shows.

use crate::codec::{
    ENTRY_OVERHEAD, Malformed, put_entry, put_log_id, put_option, put_vote, take_bytes, take_entry,
    take_log_id, take_option, take_u8, take_u16, take_u32, take_u64, take_vote,
};
use crate::disk::VALUE_BYTES_MAX;
use crate::snapshot::Manifest;
use crate::types::{Entry, LogId, Payload, Vote};
use bytes::{BufMut, Bytes};
use proto::GroupId;

const VERSION: u8 = 1;
const PART_HEADER: usize = 1 + 8 + 2 + 2 + 4;
const CRC_AT: usize = PART_HEADER - 4;
const BODY_BYTES_MAX: usize = VALUE_BYTES_MAX - PART_HEADER;

/// What one operation takes beyond its payload.
pub(crate) const OPERATION_OVERHEAD: usize = 8 + 1 + 4;

/// The most bytes of operations that a record can hold: 65,535 parts.
pub(crate) const RECORD_BYTES_MAX: usize = BODY_BYTES_MAX * u16::MAX as usize;

/// Something that a group had to write. Most are entries, which lie elsewhere: what is rare and large does too.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operation {
    /// This is the first record of the segment.
    Begin(u64),
    /// Entries follow the last one.
    Append(Vec<Entry>),
    /// The vote is this.
    Vote(Vote),
    /// Entries after this one are gone.
    Truncate(Option<LogId>),
    /// Entries up to this one are gone.
    Purge(LogId),
    /// Entries up to this one are committed.
    Commit(Option<LogId>),
    /// The current snapshot is this.
    Snapshot(Box<Manifest>),
    /// Entries that stood in an old segment now stand here as well.
    Carry(Vec<Entry>),
    /// All of a group's state but for its entries.
    Checkpoint(Box<Checkpoint>),
    /// The group has left.
    Forget,
}

/// See [`Operation::Checkpoint`].
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Checkpoint {
    pub(crate) vote: Option<Vote>,
    pub(crate) committed: Option<LogId>,
    pub(crate) purged: Option<LogId>,
    /// The last entry, or `purged` where there is none.
    pub(crate) last: Option<LogId>,
    /// The index of the first entry; where there is none, of the one that comes next, or 0.
    pub(crate) first: u64,
    pub(crate) snapshot: Option<Manifest>,
}

impl Operation {
    fn kind(&self) -> u8 {
        match self {
            Self::Begin(_) => 0,
            Self::Append(_) => 1,
            Self::Vote(_) => 2,
            Self::Truncate(_) => 3,
            Self::Purge(_) => 4,
            Self::Commit(_) => 5,
            Self::Snapshot(_) => 6,
            Self::Carry(_) => 7,
            Self::Checkpoint(_) => 8,
            Self::Forget => 9,
        }
    }

    fn put_payload(&self, into: &mut Vec<u8>) {
        match self {
            Self::Begin(segment) => into.put_u64_le(*segment),
            Self::Append(entries) | Self::Carry(entries) => {
                entries.iter().for_each(|entry| put_entry(into, entry));
            }
            Self::Vote(vote) => put_vote(into, vote),
            Self::Truncate(id) | Self::Commit(id) => put_option(into, id.as_ref(), put_log_id),
            Self::Purge(id) => put_log_id(into, id),
            Self::Snapshot(manifest) => manifest.put(into),
            Self::Checkpoint(checkpoint) => {
                put_option(into, checkpoint.vote.as_ref(), put_vote);
                put_option(into, checkpoint.committed.as_ref(), put_log_id);
                put_option(into, checkpoint.purged.as_ref(), put_log_id);
                put_option(into, checkpoint.last.as_ref(), put_log_id);
                into.put_u64_le(checkpoint.first);
                put_option(into, checkpoint.snapshot.as_ref(), |into, manifest| manifest.put(into));
            }
            Self::Forget => {}
        }
    }

    fn take_payload(kind: u8, from: &mut Bytes) -> Result<Self, Malformed> {
        Ok(match kind {
            0 => Self::Begin(take_u64(from, "begin")?),
            1 => Self::Append(take_entries(from)?),
            2 => Self::Vote(take_vote(from)?),
            3 => Self::Truncate(take_option(from, "truncate", take_log_id)?),
            4 => Self::Purge(take_log_id(from)?),
            5 => Self::Commit(take_option(from, "commit", take_log_id)?),
            6 => Self::Snapshot(Box::new(Manifest::take(from)?)),
            7 => Self::Carry(take_entries(from)?),
            8 => Self::Checkpoint(Box::new(Checkpoint {
                vote: take_option(from, "checkpoint", take_vote)?,
                committed: take_option(from, "checkpoint", take_log_id)?,
                purged: take_option(from, "checkpoint", take_log_id)?,
                last: take_option(from, "checkpoint", take_log_id)?,
                first: take_u64(from, "checkpoint")?,
                snapshot: take_option(from, "checkpoint", Manifest::take)?,
            })),
            9 => Self::Forget,
            _ => return Err(Malformed { what: "operation", why: "unknown kind" }),
        })
    }
}

fn take_entries(from: &mut Bytes) -> Result<Vec<Entry>, Malformed> {
    let mut entries = Vec::new();
    while !from.is_empty() {
        entries.push(take_entry(from)?);
    }
    Ok(entries)
}

/// The bytes that an entry takes in a record; a good guess for the rare memberships.
pub(crate) fn entry_bytes(entry: &Entry) -> usize {
    const MEMBERSHIP_BYTES: usize = 1024;
    ENTRY_OVERHEAD
        + match &entry.payload {
            Payload::Blank => 0,
            Payload::Normal(data) => data.0.len(),
            Payload::Membership(_) => MEMBERSHIP_BYTES,
        }
}

/// A record being put together.
#[derive(Debug, Default)]
pub(crate) struct RecordWriter {
    body: Vec<u8>,
}

impl RecordWriter {
    /// Adds an operation.
    pub(crate) fn push(&mut self, group: GroupId, operation: &Operation) {
        self.body.put_u64_le(group.0);
        self.body.put_u8(operation.kind());
        let length_at = self.body.len();
        self.body.put_u32_le(0);
        operation.put_payload(&mut self.body);
        let length = u32::try_from(self.body.len() - length_at - 4)
            .expect("an operation is bounded by the queue's bytes, far below 4 GiB");
        self.body[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
    }

    /// The record's parts, in order, each with its number in the table.
    pub(crate) fn parts(&self, sequence: u64) -> impl Iterator<Item = (u64, Vec<u8>)> {
        let parts = self.body.chunks(BODY_BYTES_MAX);
        let count = u16::try_from(parts.len()).expect("a batch is bounded far below 65,535 parts");
        parts
            .zip(0u16..)
            .map(move |(body, part)| (part_key(sequence, part), put_part(sequence, part, count, body)))
    }
}

/// The number of a part in its segment's table.
pub(crate) fn part_key(sequence: u64, part: u16) -> u64 {
    (sequence << 16) | u64::from(part)
}

fn put_part(sequence: u64, part: u16, parts: u16, body: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(PART_HEADER + body.len());
    value.put_u8(VERSION);
    value.put_u64_le(sequence);
    value.put_u16_le(part);
    value.put_u16_le(parts);
    value.put_u32_le(0);
    value.put_slice(body);
    let crc = part_crc(&value).to_le_bytes();
    value[CRC_AT..PART_HEADER].copy_from_slice(&crc);
    value
}

fn part_crc(value: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&value[..CRC_AT]);
    hasher.update(&value[PART_HEADER..]);
    hasher.finalize()
}

/// A part, checked.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) part: u16,
    pub(crate) parts: u16,
    pub(crate) body: Bytes,
}

/// Checks a value of a segment's table.
///
/// # Errors
/// [`Malformed`] where it is not the part that its number says, whole.
pub(crate) fn take_part(key: u64, mut value: Bytes) -> Result<Part, Malformed> {
    let refuse = |why| Err(Malformed { what: "record", why });
    if value.len() < PART_HEADER {
        return refuse("part ends early");
    }
    let crc = part_crc(&value);
    let version = take_u8(&mut value, "record")?;
    let sequence = take_u64(&mut value, "record")?;
    let part = take_u16(&mut value, "record")?;
    let parts = take_u16(&mut value, "record")?;
    if take_u32(&mut value, "record")? != crc {
        return refuse("checksum does not match");
    }
    if version != VERSION {
        return refuse("unknown version");
    }
    if key != part_key(sequence, part) || part >= parts {
        return refuse("part stands in another's place");
    }
    Ok(Part { part, parts, body: value })
}

/// The operations of a whole record's body, one after another.
#[derive(Debug)]
pub(crate) struct Operations {
    body: Bytes,
}

impl Operations {
    pub(crate) fn new(body: Bytes) -> Self {
        Self { body }
    }

    /// Only the entries of one group; other operations are stepped over unread.
    pub(crate) fn entries_of(mut self, group: GroupId) -> Result<Vec<Entry>, Malformed> {
        let mut entries = Vec::new();
        while !self.body.is_empty() {
            let (owner, kind, mut payload) = self.take_header()?;
            if owner == group && (kind == 1 || kind == 7) {
                entries.append(&mut take_entries(&mut payload)?);
            }
        }
        Ok(entries)
    }

    fn take_header(&mut self) -> Result<(GroupId, u8, Bytes), Malformed> {
        let group = GroupId(take_u64(&mut self.body, "operation")?);
        let kind = take_u8(&mut self.body, "operation")?;
        let length = take_u32(&mut self.body, "operation")? as usize;
        Ok((group, kind, take_bytes(&mut self.body, length, "operation")?))
    }

    fn take_operation(&mut self) -> Result<(GroupId, Operation), Malformed> {
        let (group, kind, mut payload) = self.take_header()?;
        let operation = Operation::take_payload(kind, &mut payload)?;
        if !payload.is_empty() {
            return Err(Malformed { what: "operation", why: "stray bytes follow" });
        }
        Ok((group, operation))
    }
}

impl Iterator for Operations {
    type Item = Result<(GroupId, Operation), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        (!self.body.is_empty()).then(|| self.take_operation())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{CommittedLeaderId, Data};
    use proptest::prelude::*;

    fn id(term: u64, index: u64) -> LogId {
        LogId::new(CommittedLeaderId::new(term), index)
    }

    fn entry(index: u64, bytes: usize) -> Entry {
        Entry { log_id: id(1, index), payload: Payload::Normal(Data(vec![7; bytes].into())) }
    }

    fn manifest() -> Manifest {
        Manifest { number: 7, meta: Default::default(), parts: 2, values: 3, pieces: 4, bytes: 5 }
    }

    fn every_operation() -> Vec<Operation> {
        let checkpoint = Checkpoint {
            vote: Some(Vote::new(1, 2)),
            committed: Some(id(1, 4)),
            purged: Some(id(1, 3)),
            last: Some(id(1, 5)),
            first: 4,
            snapshot: Some(manifest()),
        };
        vec![
            Operation::Begin(3),
            Operation::Append(vec![entry(1, 2), entry(2, 0)]),
            Operation::Vote(Vote::new_committed(1, 2)),
            Operation::Truncate(None),
            Operation::Purge(id(1, 2)),
            Operation::Commit(Some(id(1, 2))),
            Operation::Snapshot(Box::new(manifest())),
            Operation::Carry(vec![entry(3, 1)]),
            Operation::Checkpoint(Box::new(checkpoint)),
            Operation::Checkpoint(Box::default()),
            Operation::Forget,
        ]
    }

    fn write(operations: &[Operation]) -> RecordWriter {
        let mut record = RecordWriter::default();
        operations.iter().for_each(|operation| record.push(GroupId(9), operation));
        record
    }

    /// The layout does not drift: the part's header, the operation's header, and each kind's payload.
    #[test]
    fn golden_bytes() {
        let (key, part) = write(&[Operation::Purge(id(2, 3))]).parts(258).next().unwrap();
        assert_eq!(key, 258 << 16);
        let body = [9, 0, 0, 0, 0, 0, 0, 0, 4, 16, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0];
        let header = [1, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];
        assert_eq!(part[..13], header);
        assert_eq!(part[13..17], crc32fast::hash(&[&header[..], &body].concat()).to_le_bytes());
        assert_eq!(part[17..], body);

        let payload = |operation: &Operation| {
            let mut bytes = Vec::new();
            operation.put_payload(&mut bytes);
            (operation.kind(), bytes)
        };
        let kinds: Vec<(u8, Vec<u8>)> = every_operation().iter().map(payload).collect();
        assert_eq!(kinds[0], (0, vec![3, 0, 0, 0, 0, 0, 0, 0]));
        assert_eq!((kinds[1].0, kinds[1].1.len()), (1, 2 * ENTRY_OVERHEAD + 2));
        assert_eq!(kinds[2], (2, vec![1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1]));
        assert_eq!(kinds[3], (3, vec![0]));
        assert_eq!(kinds[5], (5, vec![1, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]));
        assert_eq!((kinds[6].0, kinds[7].0, kinds[8].0), (6, 7, 8));
        assert_eq!(kinds[9], (8, vec![0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
        assert_eq!(kinds[10], (9, vec![]));
    }

    /// Every operation is read back as it was written, in order, in one part or many.
    #[test]
    fn operations_come_back() {
        let mut operations = every_operation();
        operations.push(Operation::Append((0..5).map(|index| entry(index, 100_000)).collect()));
        let record = write(&operations);
        let mut body = Vec::new();
        for (number, (key, value)) in (0..).zip(record.parts(5)) {
            assert!(value.len() <= VALUE_BYTES_MAX);
            let part = take_part(key, value.into()).unwrap();
            assert_eq!((key >> 16, part.part, part.parts), (5, number, 6));
            body.extend_from_slice(&part.body);
        }
        let body = Bytes::from(body);
        let found: Vec<_> = Operations::new(body.clone()).collect::<Result<_, _>>().unwrap();
        assert!(found.iter().all(|(group, _)| *group == GroupId(9)));
        assert_eq!(found.into_iter().map(|(_, operation)| operation).collect::<Vec<_>>(), operations);
        let entries = Operations::new(body.clone()).entries_of(GroupId(9)).unwrap();
        assert_eq!(entries.len(), 2 + 1 + 5);
        assert_eq!(Operations::new(body).entries_of(GroupId(8)).unwrap(), vec![]);
    }

    /// No flipped bit, no cut and no other place goes unnoticed.
    #[test]
    fn damage_is_refused() {
        let (key, part) = write(&every_operation()).parts(258).next().unwrap();
        for bit in 0..part.len() * 8 {
            let mut damaged = part.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(take_part(key, damaged.into()).is_err(), "bit {bit}");
        }
        for length in 0..part.len() {
            assert!(take_part(key, part[..length].to_vec().into()).is_err(), "length {length}");
        }
        assert!(take_part(key + 1, part.clone().into()).is_err());
        assert!(take_part(key, part.into()).is_ok());
    }

    proptest! {
        /// Hostile bytes under a valid checksum give an error or operations, never a panic.
        #[test]
        fn arbitrary_bodies_never_panic(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let body = Bytes::from(body);
            let read = Operations::new(body.clone()).take(100).collect::<Result<Vec<_>, _>>();
            let entries = Operations::new(body.clone()).entries_of(GroupId(0));
            prop_assert!(body.is_empty() || body.len() >= OPERATION_OVERHEAD || read.is_err() && entries.is_err());
        }
    }
}
