//! One group's log state, twice: as its replica sees it, where each accepted call has taken effect, and as the
//! disk has it, where only what was synced has.
//!
//! The view is changed by the group's own calls, the durable side only by the log writer (and by recovery,
//! before it starts), in the order of the records.

use super::index::{Index, Ledger, Run, runs_of};
use super::record::{Checkpoint, Operation, entry_bytes};
use super::tail::Tail;
use crate::disk::lock;
use crate::snapshot::{Snapshot, Stored};
use crate::types::{Entry, LogId, Vote};
use proto::GroupId;
use std::sync::{Mutex, MutexGuard, Weak};

/// A group on this node.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) id: GroupId,
    state: Mutex<State>,
}

/// Both sides, under one lock, so that a reader sees them together.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) view: View,
    pub(crate) durable: Durable,
    /// How often the group was forgotten since this process started. What was begun before that must not
    /// reach the disk behind it, or a group that was dropped would come back.
    pub(crate) lives: u64,
}

/// What the replica sees.
#[derive(Debug, Default)]
pub(crate) struct View {
    /// The last vote that was saved; durable before it shows here.
    pub(crate) vote: Option<Vote>,
    pub(crate) committed: Option<LogId>,
    pub(crate) purged: Option<LogId>,
    /// The last entry, or `purged` where there is none.
    pub(crate) last: Option<LogId>,
    pub(crate) tail: Tail,
    /// How often the log was cut back. Entries that were queued before a cut may not be in it any more.
    pub(crate) truncations: u64,
    /// About what the entries take on disk, each once.
    pub(crate) log_bytes: u64,
}

/// What the disk has.
#[derive(Debug, Default)]
pub(crate) struct Durable {
    pub(crate) checkpoint: Checkpoint,
    pub(crate) index: Index,
    /// The snapshot that the checkpoint names.
    pub(crate) snapshot: Option<Snapshot>,
    /// Those that it named before and somebody may still read.
    pub(crate) retired: Vec<Weak<Stored>>,
}

/// The first index after a log id.
pub(crate) fn next_index(id: Option<&LogId>) -> u64 {
    id.map_or(0, |id| id.index() + 1)
}

impl Group {
    pub(crate) fn new(id: GroupId) -> Self {
        Self { id, state: Mutex::default() }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl State {
    /// Whether the group has nothing here, and nothing on its way.
    pub(crate) fn is_empty(&self) -> bool {
        let Self { view, durable, .. } = self;
        durable.checkpoint == Checkpoint::default() && view.last.is_none() && view.vote.is_none()
    }

    /// Appends to the view. Says what is wrong where the entries do not follow the last one.
    pub(crate) fn append(&mut self, entries: Vec<Entry>) -> Result<(), String> {
        let view = &mut self.view;
        // The first entry of an empty log may have any index: a snapshot may have gone before it.
        let mut next = view.last.map(|last| last.index() + 1);
        for entry in &entries {
            let index = entry.log_id.index();
            if next.is_some_and(|next| next != index) {
                return Err(format!("entry {index} does not follow {}", next.unwrap_or(0).saturating_sub(1)));
            }
            next = Some(index + 1);
        }
        for entry in entries {
            view.log_bytes += entry_bytes(&entry) as u64;
            view.last = Some(entry.log_id);
            view.tail.push(entry);
        }
        Ok(())
    }

    /// Cuts the view back to the entries up to `after`.
    pub(crate) fn truncate(&mut self, after: Option<LogId>) {
        let Self { view, durable, .. } = self;
        let end = next_index(after.as_ref());
        if next_index(view.last.as_ref()) > end {
            view.log_bytes -= bytes_of(view, &durable.index, end, u64::MAX);
            view.tail.truncate(end);
            view.last = after.max(view.purged);
            view.truncations += 1;
        }
    }

    /// About what the view's entries after `index` take on disk.
    pub(crate) fn bytes_after(&self, index: u64) -> u64 {
        bytes_of(&self.view, &self.durable.index, index + 1, u64::MAX)
    }

    /// Forgets the view's entries up to `upto`.
    pub(crate) fn purge(&mut self, upto: LogId) {
        let Self { view, durable, .. } = self;
        if view.purged.is_some_and(|purged| purged >= upto) {
            return;
        }
        let start = upto.index() + 1;
        view.log_bytes -= bytes_of(view, &durable.index, next_index(view.purged.as_ref()), start);
        view.tail.purge(start);
        view.purged = Some(upto);
        if next_index(view.last.as_ref()) <= start {
            view.last = Some(upto);
            view.log_bytes = 0;
        }
    }
}

/// About what the view's entries from `start` up to `end` take; never more than all of them.
fn bytes_of(view: &View, index: &Index, start: u64, end: u64) -> u64 {
    let in_memory = view.tail.first().unwrap_or(next_index(view.last.as_ref()));
    let disk: u64 = index.range(start, end.min(in_memory).max(start)).map(|run| run.bytes).sum();
    let memory: u64 = view.tail.range(start.max(in_memory), end).map(|entry| entry_bytes(entry) as u64).sum();
    (disk + memory).min(view.log_bytes)
}

impl Durable {
    /// Puts another snapshot, or none, in the place of the one that the checkpoint named before.
    pub(crate) fn replace_snapshot(&mut self, snapshot: Option<Snapshot>) {
        let old = std::mem::replace(&mut self.snapshot, snapshot);
        self.retired.retain(|retired| retired.strong_count() > 0);
        self.retired.extend(old.map(Snapshot::supersede));
    }

    /// Takes in an operation that a record in `segment` has made durable.
    pub(crate) fn apply(&mut self, operation: &Operation, segment: u64, sequence: u64, ledger: &mut Ledger) {
        let Self { checkpoint, index, .. } = self;
        match operation {
            Operation::Begin(_) => {}
            Operation::Append(entries) => {
                for run in runs_of(entries, segment, sequence) {
                    index.append(run, ledger);
                }
                if let (None, Some(first)) = (checkpoint.last, entries.first()) {
                    checkpoint.first = first.log_id.index();
                }
                checkpoint.last = entries.last().map(|entry| entry.log_id).or(checkpoint.last);
            }
            Operation::Vote(vote) => checkpoint.vote = Some(*vote),
            Operation::Truncate(after) => {
                index.truncate(next_index(after.as_ref()), ledger);
                if next_index(checkpoint.last.as_ref()) > next_index(after.as_ref()) {
                    checkpoint.last = (*after).max(checkpoint.purged);
                }
            }
            Operation::Purge(upto) => {
                index.purge(upto.index() + 1, ledger);
                checkpoint.purged = checkpoint.purged.max(Some(*upto));
                checkpoint.last = checkpoint.last.max(Some(*upto));
                checkpoint.first = checkpoint.first.max(upto.index() + 1);
            }
            Operation::Commit(committed) => checkpoint.committed = *committed,
            Operation::Snapshot(manifest) => checkpoint.snapshot = Some((**manifest).clone()),
            Operation::Carry(entries) => {
                runs_of(entries, segment, sequence).into_iter().for_each(|run| index.carry(run, ledger));
            }
            Operation::Checkpoint(whole) => *checkpoint = (**whole).clone(),
            Operation::Forget => {
                index.truncate(0, ledger);
                *checkpoint = Checkpoint::default();
            }
        }
    }

    /// What is missing between the checkpoint and the entries found, or contradicts it, in words.
    pub(crate) fn gap(&self) -> Option<String> {
        let Self { checkpoint, index, .. } = self;
        if let Some((last, next)) = index.hole() {
            return Some(format!("entries {} to {} are missing", last + 1, next - 1));
        }
        let last = index.last().map(|run: &Run| (run.term, run.last));
        let known = checkpoint.last.map(|id| (id.committed_leader_id().term, id.index()));
        let purged = checkpoint.purged.map(|id| (id.committed_leader_id().term, id.index()));
        if last.or(purged) != known {
            return Some(format!(
                "the last entry (term, index) should be {known:?}, is {:?}",
                last.or(purged)
            ));
        }
        let first = index.first().map(|run| run.first).filter(|first| *first != checkpoint.first);
        let first = first.map(|first| format!("the first entry should be {}, is {first}", checkpoint.first));
        first.or_else(|| self.contradiction())
    }

    /// Where the log has an entry of another term than the commit mark or the snapshot says, in words: what is
    /// committed is never replaced, and what contradicts a snapshot is truncated before it is installed.
    fn contradiction(&self) -> Option<String> {
        let Self { checkpoint, index, .. } = self;
        let is_other = |(what, id): (&str, LogId)| {
            let (term, at) = (id.committed_leader_id().term, id.index());
            let purged = checkpoint.purged.filter(|purged| purged.index() == at);
            let there = index.range(at, at + 1).next().map(|run| run.term);
            let there = there.or(purged.map(|purged| purged.committed_leader_id().term))?;
            (there != term)
                .then(|| format!("entry {at} is of term {there} in the log, of {term} by the {what}"))
        };
        let snapshot = checkpoint.snapshot.as_ref().and_then(|manifest| manifest.meta.last_log_id);
        let told = [("commit mark", checkpoint.committed), ("snapshot", snapshot)];
        told.into_iter().filter_map(|(what, id)| Some((what, id?))).find_map(is_other)
    }
}
