//! Listing keys in order, over all shards that a machine serves.
//!
//! Owns the merge: keys are hashed over shards, each of which is ordered, so a heap of one cursor for each
//! shard yields the order of the whole. A page costs one seek for each shard, then the logarithm of their
//! number for each record.

use super::bounds::{SCAN_BYTES_MAX, SCAN_RECORDS_MAX};
use super::shard::{Entry, Shard};
use proto::Record;
use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::collections::btree_map::Range;
use std::ops::Bound;

/// What a scan asks for; the fields of [`proto::Operation::Scan`].
#[derive(Clone, Copy, Debug)]
pub struct ScanRange<'a> {
    /// Only keys that start so.
    pub prefix: &'a [u8],
    /// Only keys strictly after this one.
    pub after: Option<&'a [u8]>,
    /// Only keys at or after this one.
    pub start: &'a [u8],
    /// The most records, cut to [`SCAN_RECORDS_MAX`].
    pub limit: usize,
    /// The most bytes of keys and values, cut to [`SCAN_BYTES_MAX`]; the first record always fits.
    pub bytes_max: usize,
}

impl<'a> ScanRange<'a> {
    /// Where the range begins: keys that start with the prefix are not below it.
    fn lower(&self) -> Bound<&'a [u8]> {
        let from = self.prefix.max(self.start);
        match self.after {
            Some(after) if after >= from => Bound::Excluded(after),
            _ => Bound::Included(from),
        }
    }
}

/// A shard's cursor: its next key, and what follows.
struct Cursor<'a> {
    key: &'a [u8],
    entry: &'a Entry,
    rest: Range<'a, Box<[u8]>, Entry>,
}

impl<'a> Cursor<'a> {
    fn of(mut rest: Range<'a, Box<[u8]>, Entry>, prefix: &[u8]) -> Option<Self> {
        let (key, entry) = rest.next().filter(|(key, _)| key.starts_with(prefix))?;
        Some(Self { key, entry, rest })
    }

    fn advance(&mut self, prefix: &[u8]) -> bool {
        match self.rest.next().filter(|(key, _)| key.starts_with(prefix)) {
            Some((key, entry)) => {
                (self.key, self.entry) = (key, entry);
                true
            }
            None => false,
        }
    }
}

/// Cursors are ordered by their next key, the least being the greatest, as the heap wants it.
impl Ord for Cursor<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        other.key.cmp(self.key)
    }
}
impl PartialOrd for Cursor<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl PartialEq for Cursor<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Cursor<'_> {}

/// The records of one page of the range, and whether more follow; that is exact.
pub(super) fn page<'a>(
    shards: impl Iterator<Item = &'a Shard>,
    range: &ScanRange<'_>,
) -> (Vec<Record<'a>>, bool) {
    let records_max = range.limit.min(SCAN_RECORDS_MAX);
    let bytes_max = range.bytes_max.min(SCAN_BYTES_MAX);
    let bounds = (range.lower(), Bound::Unbounded);
    let mut heap: BinaryHeap<Cursor<'a>> =
        shards.filter_map(|shard| Cursor::of(shard.data.range::<[u8], _>(bounds), range.prefix)).collect();
    let mut records: Vec<Record<'a>> = Vec::new();
    let mut bytes = 0;
    while let Some(mut cursor) = heap.peek_mut() {
        let record = cursor.entry.record(cursor.key);
        bytes += record.key.len() + record.value.len();
        if records.len() >= records_max || (!records.is_empty() && bytes > bytes_max) {
            break;
        }
        records.push(record);
        if !cursor.advance(range.prefix) {
            PeekMut::pop(cursor);
        }
    }
    (records, !heap.is_empty())
}
