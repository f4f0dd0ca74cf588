//! The logs of a node's groups: one on disk for all, one to look at for each.
//!
//! A group's replica sees its own log, a [`GroupLog`]. What it appends is readable at once, out of memory, and
//! is reported durable once the node's log writer has synced the record that carries it. See [`record`] for the
//! bytes, [`writer`] for writing, [`recovery`] for reading it all again, [`carry`] for giving disk space back.

mod carry;
mod index;
pub(crate) mod queue;
pub(crate) mod record;
pub(crate) mod recovery;
pub(crate) mod segment;
pub(crate) mod state;
mod tail;
pub(crate) mod writer;

use crate::disk::offload;
use crate::storage::{Handle, Shared, StorageError, count};
use crate::types::{Entry, LogId, TypeConfig, Vote};
use futures_util::stream::{self, Stream, StreamExt};
use index::Run;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use queue::{Done, Item};
use record::{Operation, entry_bytes};
use state::{Group, State, next_index};
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds, RangeInclusive};
use std::sync::Arc;
use tokio::sync::oneshot;

/// A read from disk is tried again when the entries were moved or purged under it, this often.
const READ_ATTEMPTS: usize = 8;

/// One group's log.
#[derive(Clone, Debug)]
pub(crate) struct GroupLog {
    handle: Arc<Handle>,
    pub(crate) group: Arc<Group>,
}

/// What a read must fetch.
struct Plan {
    /// On disk, in order.
    runs: Vec<Run>,
    /// After these, from memory.
    memory: Vec<Entry>,
}

impl GroupLog {
    pub(crate) fn new(handle: Arc<Handle>, group: Arc<Group>) -> Self {
        Self { handle, group }
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    /// About what the entries take that were not purged, each counted once.
    pub(crate) fn bytes(&self) -> u64 {
        self.group.state().view.log_bytes
    }

    /// About what the entries after `index` take on disk.
    pub(crate) fn bytes_after(&self, index: u64) -> u64 {
        self.group.state().bytes_after(index)
    }

    /// Waits for room, changes the view and queues the operation behind that change, in one step.
    async fn enqueue(
        &self,
        operation: Operation,
        done: Done,
        change: impl FnOnce(&mut State) -> Result<(), String>,
    ) -> Result<(), StorageError> {
        let shared = self.shared();
        let mut item = Item::new(&self.group, operation, done);
        item.room = match shared.queue.room(item.bytes).await {
            None => {
                item.done.tell(Err(shared.stopped()));
                return Err(shared.stopped());
            }
            room => room,
        };
        let refused = {
            let mut state = self.group.state();
            match change(&mut state) {
                Ok(()) => {
                    item.truncations = state.view.truncations;
                    shared.queue.push(item).err().map(|item| (item.done, shared.stopped()))
                }
                Err(why) => Some((item.done, StorageError::Refused(format!("{}: {why}", self.group.id)))),
            }
        };
        let Some((done, error)) = refused else { return Ok(()) };
        done.tell(Err(error.clone()));
        Err(error)
    }

    /// See [`crate::storage::Storage::forget`].
    pub(crate) async fn forget(&self) -> Result<(), StorageError> {
        let (tell, told) = oneshot::channel();
        let clear = |state: &mut State| {
            // The count goes on, so that entries still queued are not taken for the next log's.
            let truncations = state.view.truncations + 1;
            state.view = state::View { truncations, ..state::View::default() };
            state.lives += 1;
            Ok(())
        };
        self.enqueue(Operation::Forget, Done::Waiter(tell), clear).await?;
        told.await.unwrap_or(Err(StorageError::Closed))
    }

    /// The entries of a range that are there, from the first on, about `bytes_max` of them.
    async fn read(&self, start: u64, end: u64, bytes_max: usize) -> Result<Vec<Entry>, StorageError> {
        let mut plan = self.group.state().plan(start, end, bytes_max);
        for _ in 0..READ_ATTEMPTS {
            if plan.runs.is_empty() {
                break;
            }
            count(&self.shared().counters.disk_reads, 1);
            let (shared, group, runs) = (Arc::clone(self.shared()), self.group.id, plan.runs.clone());
            let work = async move { shared.shelf.entries(group, &runs) };
            let read = offload(&self.shared().disk, work).await.map_err(StorageError::from).flatten();
            match read {
                Ok(mut entries) => {
                    entries.append(&mut plan.memory);
                    return Ok(limit(entries, bytes_max));
                }
                Err(error) => {
                    let again = self.group.state().plan(start, end, bytes_max);
                    if again.runs == plan.runs {
                        self.shared().fail(error.clone());
                        return Err(error);
                    }
                    plan = again;
                }
            }
        }
        if plan.runs.is_empty() {
            return Ok(limit(plan.memory, bytes_max));
        }
        Err(StorageError::Refused(format!(
            "entries of {} moved {READ_ATTEMPTS} times while being read",
            self.group.id
        )))
    }
}

impl State {
    /// Where the entries of a range are, about `bytes_max` of them.
    fn plan(&self, start: u64, end: u64, bytes_max: usize) -> Plan {
        let Self { view, durable, .. } = self;
        let start = start.max(next_index(view.purged.as_ref()));
        let end = end.min(next_index(view.last.as_ref()));
        let in_memory = view.tail.first().unwrap_or(end);
        let mut bytes = 0;
        let mut below = |more: usize| {
            let below = bytes < bytes_max;
            bytes += more;
            below
        };
        let on_disk = durable.index.range(start, end.min(in_memory).max(start));
        let runs: Vec<Run> =
            on_disk.take_while(|run| below(usize::try_from(run.bytes).unwrap_or(usize::MAX))).collect();
        let complete = runs.last().is_none_or(|run| run.last + 1 >= end.min(in_memory));
        let memory = match complete {
            true if start < end => {
                view.tail.range(start, end).take_while(|entry| below(entry_bytes(entry))).cloned().collect()
            }
            _ => Vec::new(),
        };
        Plan { runs, memory }
    }
}

/// At most `bytes_max` of entries, but at least one.
fn limit(mut entries: Vec<Entry>, bytes_max: usize) -> Vec<Entry> {
    let mut bytes = 0;
    let fits = |entry: &&Entry| {
        bytes += entry_bytes(entry);
        bytes <= bytes_max
    };
    let count = entries.iter().take_while(fits).count().max(1);
    entries.truncate(count);
    entries
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(&start) => start,
        Bound::Excluded(&before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(&last) => last.saturating_add(1),
        Bound::Excluded(&end) => end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl RaftLogReader<TypeConfig> for GroupLog {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let (start, end) = bounds(&range);
        Ok(self.read(start, end, usize::MAX).await?)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        Ok(self.read(start, end, self.shared().config.read_bytes_max).await?)
    }

    /// In pieces, so that a replica that has much to apply does not hold it all in memory.
    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = io::Result<Entry>> + Send
    where
        RB: RangeBounds<u64> + Clone + Debug + Send,
    {
        let (start, end) = bounds(&range);
        let log = self.clone();
        let pieces = stream::unfold(Some(start), move |next| {
            let log = log.clone();
            async move {
                let start = next.filter(|start| *start < end)?;
                match log.read(start, end, log.shared().config.read_bytes_max).await {
                    Ok(entries) => {
                        let last = entries.last()?.log_id.index();
                        Some((Ok(entries), Some(last + 1)))
                    }
                    Err(error) => Some((Err(error), None)),
                }
            }
        });
        Box::pin(pieces.flat_map(|piece| {
            let items: Vec<io::Result<Entry>> = match piece {
                Ok(entries) => entries.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error.into())],
            };
            stream::iter(items)
        }))
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.group.state().view.vote)
    }

    /// The last log id of each leader in the range, known without reading an entry.
    async fn get_key_log_ids(&mut self, range: RangeInclusive<LogId>) -> Result<Vec<LogId>, io::Error> {
        let (first, last) = (range.start().index(), *range.end());
        let state = self.group.state();
        let in_memory = state.view.tail.first().unwrap_or(last.index() + 1).max(first);
        let on_disk = state.durable.index.range(first, in_memory.min(last.index() + 1));
        let on_disk = on_disk.map(|run| LogId::new(crate::types::CommittedLeaderId::new(run.term), run.last));
        let memory = state.view.tail.range(in_memory, last.index() + 1).map(|entry| entry.log_id);
        let mut ids: Vec<LogId> = Vec::new();
        for id in on_disk.chain(memory) {
            match ids.last_mut().filter(|known| known.committed_leader_id() == id.committed_leader_id()) {
                Some(known) => *known = id,
                None => ids.push(id),
            }
        }
        if ids.last() == Some(&last) {
            return Ok(ids);
        }
        let why = format!("{}: the log does not hold {last} as asked for", self.group.id);
        Err(StorageError::Refused(why).into())
    }
}

impl RaftLogStorage<TypeConfig> for GroupLog {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let state = self.group.state();
        Ok(LogState { last_purged_log_id: state.view.purged, last_log_id: state.view.last })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    /// Returns once the vote is durable.
    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let (tell, told) = oneshot::channel();
        self.enqueue(Operation::Vote(*vote), Done::Waiter(tell), |_| Ok(())).await?;
        Ok(told.await.unwrap_or(Err(StorageError::Closed))?)
    }

    /// Queues the mark; it reaches the disk with whatever is written next, or when the storage closes.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let shared = self.shared();
        let mut state = self.group.state();
        state.view.committed = committed;
        let item = Item::new(&self.group, Operation::Commit(committed), Done::Nobody);
        Ok(shared.queue.push(item).map_err(|_| shared.stopped())?)
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.group.state().view.committed)
    }

    /// Returns once the entries can be read; tells `callback` once they are durable.
    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let readable = entries.clone();
        let done = Done::Flushed(callback);
        Ok(self.enqueue(Operation::Append(entries), done, |state| state.append(readable)).await?)
    }

    /// Returns at once: what follows in this group's log is queued behind it, so no later entry is ever durable
    /// before the cut is, and nothing is vouched for by the cut itself.
    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let cut = |state: &mut State| {
            state.truncate(last_log_id);
            Ok(())
        };
        Ok(self.enqueue(Operation::Truncate(last_log_id), Done::Nobody, cut).await?)
    }

    /// Returns at once: a purge that a crash undoes only leaves entries that nobody needs.
    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        let purge = |state: &mut State| {
            state.purge(log_id);
            Ok(())
        };
        Ok(self.enqueue(Operation::Purge(log_id), Done::Nobody, purge).await?)
    }
}
