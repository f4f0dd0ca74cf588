//! Where a group's entries stand on disk: for each record that holds some of them, one run.
//!
//! The index is kept by whoever writes the log, in the order in which it writes; it lags behind what a replica
//! sees. A ledger counts, over all groups, what each segment still holds, so that segments that hold nothing
//! can go.

use super::record::entry_bytes;
use crate::types::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

/// Consecutive entries of one term in one record. Invariant: `first <= last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) term: u64,
    pub(crate) segment: u64,
    /// The record that holds them.
    pub(crate) sequence: u64,
    /// About what they take; exact until the run is cut.
    pub(crate) bytes: u64,
}

impl Run {
    fn entries(&self) -> u64 {
        self.last - self.first + 1
    }

    /// The same, only from `first` to `last`.
    fn cut(self, first: u64, last: u64) -> Self {
        let part = last - first + 1;
        let bytes = u128::from(self.bytes) * u128::from(part) / u128::from(self.entries());
        Self { first, last, bytes: u64::try_from(bytes).unwrap_or(self.bytes), ..self }
    }
}

/// The runs of the entries of one record, by terms.
pub(crate) fn runs_of(entries: &[Entry], segment: u64, sequence: u64) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for entry in entries {
        let (index, term) = (entry.log_id.index(), entry.log_id.committed_leader_id().term);
        let bytes = entry_bytes(entry) as u64;
        match runs.last_mut() {
            Some(run) if run.term == term && run.last + 1 == index => {
                run.last = index;
                run.bytes += bytes;
            }
            _ => runs.push(Run { first: index, last: index, term, segment, sequence, bytes }),
        }
    }
    runs
}

/// What each segment holds that is still needed.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    segments: BTreeMap<u64, Usage>,
}

/// What one segment holds that is still needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) runs: u64,
    pub(crate) bytes: u64,
}

impl Ledger {
    pub(crate) fn usage(&self, segment: u64) -> Usage {
        self.segments.get(&segment).copied().unwrap_or_default()
    }

    pub(crate) fn live_bytes(&self) -> u64 {
        self.segments.values().map(|usage| usage.bytes).sum()
    }

    pub(crate) fn forget(&mut self, segment: u64) {
        self.segments.remove(&segment);
    }

    fn add(&mut self, run: &Run) {
        let usage = self.segments.entry(run.segment).or_default();
        usage.runs += 1;
        usage.bytes += run.bytes;
    }

    fn remove(&mut self, run: &Run) {
        let usage = self.segments.entry(run.segment).or_default();
        usage.runs -= 1;
        usage.bytes -= run.bytes;
    }
}

/// One group's runs. Invariant: in order, without overlap; without holes, too, once recovery is over.
#[derive(Debug, Default)]
pub(crate) struct Index {
    runs: VecDeque<Run>,
    bytes: u64,
}

impl Index {
    pub(crate) fn first(&self) -> Option<&Run> {
        self.runs.front()
    }

    pub(crate) fn last(&self) -> Option<&Run> {
        self.runs.back()
    }

    /// About what all entries take.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The entries before and after the first hole, where there is one.
    pub(crate) fn hole(&self) -> Option<(u64, u64)> {
        let pairs = self.runs.iter().zip(self.runs.iter().skip(1));
        pairs.map(|(run, next)| (run.last, next.first)).find(|(last, next)| last + 1 != *next)
    }

    /// The runs that hold entries from `start` up to, not including, `end`, cut to these.
    pub(crate) fn range(&self, start: u64, end: u64) -> impl Iterator<Item = Run> {
        let from = self.runs.partition_point(|run| run.last < start);
        let runs = self.runs.range(from..).take_while(move |run| start < end && run.first < end);
        runs.map(move |run| run.cut(run.first.max(start), run.last.min(end - 1)))
    }

    /// The runs that stand in a segment.
    pub(crate) fn in_segment(&self, segment: u64) -> impl Iterator<Item = Run> {
        self.runs.iter().filter(move |run| run.segment == segment).copied()
    }

    /// What of a run still stands where it says.
    pub(crate) fn standing(&self, run: &Run) -> Vec<Run> {
        let place = |run: &Run| (run.segment, run.sequence, run.term);
        self.range(run.first, run.last + 1).filter(|found| place(found) == place(run)).collect()
    }

    /// Adds a run at the end. Where entries stand there already they are replaced, with all that follow.
    pub(crate) fn append(&mut self, run: Run, ledger: &mut Ledger) {
        self.truncate(run.first, ledger);
        self.replace(self.runs.len()..self.runs.len(), &[run], ledger);
    }

    /// Says that entries stand elsewhere from now on; adds them where they are not known yet.
    pub(crate) fn carry(&mut self, run: Run, ledger: &mut Ledger) {
        let from = self.runs.partition_point(|old| old.last < run.first);
        let to = self.runs.partition_point(|old| old.first <= run.last);
        let overlapped = self.runs.range(from..to);
        let before = overlapped.clone().next().filter(|old| old.first < run.first);
        let after = overlapped.clone().next_back().filter(|old| old.last > run.last);
        let parts: Vec<Run> = [
            before.map(|old| old.cut(old.first, run.first - 1)),
            Some(run),
            after.map(|old| old.cut(run.last + 1, old.last)),
        ]
        .into_iter()
        .flatten()
        .collect();
        self.replace(from..to, &parts, ledger);
    }

    /// Drops the entries from `end` on.
    pub(crate) fn truncate(&mut self, end: u64, ledger: &mut Ledger) {
        let from = self.runs.partition_point(|run| run.last < end);
        let kept = self.runs.get(from).filter(|run| run.first < end).map(|run| run.cut(run.first, end - 1));
        self.replace(from..self.runs.len(), kept.as_slice(), ledger);
    }

    /// Drops the entries before `start`.
    pub(crate) fn purge(&mut self, start: u64, ledger: &mut Ledger) {
        let whole = self.runs.partition_point(|run| run.last < start);
        let cut = self.runs.get(whole).filter(|run| run.first < start).map(|run| run.cut(start, run.last));
        self.replace(0..whole + usize::from(cut.is_some()), cut.as_slice(), ledger);
    }

    fn replace(&mut self, range: Range<usize>, by: &[Run], ledger: &mut Ledger) {
        let at = range.start;
        for run in self.runs.range(range.clone()) {
            ledger.remove(run);
            self.bytes -= run.bytes;
        }
        // Both ends of the queue are cheap to change, and nearly every change is at an end.
        self.runs.drain(range);
        for (offset, run) in by.iter().enumerate() {
            ledger.add(run);
            self.bytes += run.bytes;
            self.runs.insert(at + offset, *run);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(first: u64, last: u64, segment: u64) -> Run {
        Run { first, last, term: 1, segment, sequence: segment * 100, bytes: (last - first + 1) * 10 }
    }

    /// The places of all entries, one by one.
    fn places(index: &Index) -> BTreeMap<u64, u64> {
        index.runs.iter().flat_map(|run| (run.first..=run.last).map(|i| (i, run.segment))).collect()
    }

    #[derive(Clone, Debug)]
    enum Step {
        Append(u64, u64),
        Carry(u64, u64),
        Truncate(u64),
        Purge(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0u64..30, 0u64..6).prop_map(|(first, more)| Step::Append(first, first + more)),
            (0u64..30, 0u64..6).prop_map(|(first, more)| Step::Carry(first, first + more)),
            (0u64..30).prop_map(Step::Truncate),
            (0u64..30).prop_map(Step::Purge),
        ]
    }

    proptest! {
        /// The index agrees with a map from entry to segment under any sequence of changes, and the ledger with
        /// the index.
        #[test]
        fn agrees_with_a_map(steps in proptest::collection::vec(step(), 0..40)) {
            let (mut index, mut ledger, mut model) = (Index::default(), Ledger::default(), BTreeMap::new());
            for (segment, step) in (1..).zip(&steps) {
                match *step {
                    Step::Append(first, last) => {
                        index.append(run(first, last, segment), &mut ledger);
                        model.retain(|&i, _| i < first);
                        model.extend((first..=last).map(|i| (i, segment)));
                    }
                    Step::Carry(first, last) => {
                        index.carry(run(first, last, segment), &mut ledger);
                        model.extend((first..=last).map(|i| (i, segment)));
                    }
                    Step::Truncate(end) => {
                        index.truncate(end, &mut ledger);
                        model.retain(|&i, _| i < end);
                    }
                    Step::Purge(start) => {
                        index.purge(start, &mut ledger);
                        model.retain(|&i, _| i >= start);
                    }
                }
                prop_assert_eq!(&places(&index), &model);
                prop_assert_eq!(index.bytes(), model.len() as u64 * 10);
                prop_assert_eq!(ledger.live_bytes(), index.bytes());
                for segment in 1..=segment {
                    let runs = index.in_segment(segment).count() as u64;
                    prop_assert_eq!(ledger.usage(segment).runs, runs);
                }
                let cut: BTreeMap<u64, u64> =
                    index.range(5, 20).flat_map(|run| (run.first..=run.last).map(move |i| (i, run.segment))).collect();
                prop_assert_eq!(cut, model.range(5..20).map(|(&i, &s)| (i, s)).collect());
            }
        }
    }

    /// An empty range lies within a run as well as between two, and holds nothing.
    #[test]
    fn an_empty_range_holds_nothing() {
        let (mut index, mut ledger) = (Index::default(), Ledger::default());
        index.append(run(1, 5, 1), &mut ledger);
        for at in 0..8 {
            assert_eq!(index.range(at, at).count(), 0, "at {at}");
        }
        assert_eq!(index.range(3, 4).map(|run| (run.first, run.last)).collect::<Vec<_>>(), [(3, 3)]);
    }
}
