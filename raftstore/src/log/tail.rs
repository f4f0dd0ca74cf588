//! The newest entries of a group's log, in memory: openraft reads each of them again for replication and for
//! applying it, soon after it was appended.

use super::record::entry_bytes;
use super::state::Group;
use crate::types::Entry;
use std::collections::VecDeque;
use std::sync::Arc;

/// Consecutive entries, up to the last of the log.
///
/// Invariant: every entry that the disk may not have yet is here; such entries are never let go.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// Entries below this index are durable; may exceed the last one's.
    durable: u64,
}

impl Tail {
    /// The index of the first entry here; `None` where there is none.
    pub(crate) fn first(&self) -> Option<u64> {
        self.entries.front().map(|entry| entry.log_id.index())
    }

    pub(crate) fn last(&self) -> Option<&Entry> {
        self.entries.back()
    }

    /// What the entries here take.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds an entry, which follows the last one.
    pub(crate) fn push(&mut self, entry: Entry) {
        let index = entry.log_id.index();
        assert!(
            self.last().is_none_or(|last| last.log_id.index() + 1 == index),
            "entries of the tail follow one another"
        );
        self.bytes += entry_bytes(&entry);
        self.entries.push_back(entry);
    }

    /// The entries from `start` up to, not including, `end`, as far as they are here.
    pub(crate) fn range(&self, start: u64, end: u64) -> impl Iterator<Item = &Entry> {
        let first = self.first().unwrap_or(0);
        let place = |index: u64| usize::try_from(index.saturating_sub(first)).unwrap_or(usize::MAX);
        let from = place(start).min(self.entries.len());
        self.entries.range(from..place(end).clamp(from, self.entries.len()))
    }

    /// Drops the entries from `end` on.
    pub(crate) fn truncate(&mut self, end: u64) {
        while let Some(entry) = self.entries.pop_back_if(|entry| entry.log_id.index() >= end) {
            self.bytes -= entry_bytes(&entry);
        }
        self.durable = self.durable.min(end);
    }

    /// Drops the entries before `start`.
    pub(crate) fn purge(&mut self, start: u64) {
        while let Some(entry) = self.entries.pop_front_if(|entry| entry.log_id.index() < start) {
            self.bytes -= entry_bytes(&entry);
        }
    }

    /// Says that the entries before `end` are durable.
    pub(crate) fn set_durable(&mut self, end: u64) {
        self.durable = self.durable.max(end);
    }

    /// Lets go of the oldest durable entries, until `bytes` were freed or none is left. Returns what was freed.
    pub(crate) fn evict(&mut self, bytes: usize) -> usize {
        let before = self.bytes;
        while before - self.bytes < bytes {
            let durable = self.durable;
            let Some(entry) = self.entries.pop_front_if(|entry| entry.log_id.index() < durable) else {
                break;
            };
            self.bytes -= entry_bytes(&entry);
        }
        before - self.bytes
    }

    pub(crate) fn clear(&mut self) {
        *self = Self { durable: self.durable, ..Self::default() };
    }
}

/// Lets go of entries where the groups' tails together exceed `bytes_max`, down to seven eighths of it, so that
/// the next time is some way off. The largest tails give first, down to a common level: a quiet group keeps
/// its few entries beside a busy one. Returns what remains.
pub(crate) fn level_tails<'a>(groups: impl Iterator<Item = &'a Arc<Group>>, bytes_max: usize) -> usize {
    let mut tails: Vec<(usize, &Arc<Group>)> =
        groups.map(|group| (group.state().view.tail.bytes(), group)).collect();
    let total: usize = tails.iter().map(|(bytes, _)| bytes).sum();
    if total <= bytes_max {
        return total;
    }
    tails.sort_by_key(|(bytes, group)| (*bytes, group.id));
    let level = common_level(tails.iter().map(|(bytes, _)| *bytes), tails.len(), bytes_max / 8 * 7);
    let above = tails.iter().filter(|(bytes, _)| *bytes > level);
    let freed: usize = above.map(|(bytes, group)| group.state().view.tail.evict(bytes - level)).sum();
    total - freed
}

/// The level to which rising `sizes` must be cut so that together they do not exceed `total`.
fn common_level(sizes: impl Iterator<Item = usize>, count: usize, total: usize) -> usize {
    let mut left = total;
    for (size, remaining) in sizes.zip((1..=count).rev()) {
        if size > left / remaining {
            return left / remaining;
        }
        left -= size;
    }
    usize::MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Small tails stay whole; large ones are cut to one level, and the sum keeps to the bound.
    #[test]
    fn levels_are_fair() {
        assert_eq!(common_level([1, 2, 100, 200].into_iter(), 4, 103), 50);
        assert_eq!(common_level([1, 2, 3].into_iter(), 3, 6), usize::MAX);
        assert_eq!(common_level([10, 10].into_iter(), 2, 5), 2);
    }
}
