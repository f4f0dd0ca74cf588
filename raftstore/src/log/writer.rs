//! The log writer: one for a node, the only one that writes the log.
//!
//! It takes everything that waits, puts it into one record, syncs once, and then tells everyone. Between two
//! records it keeps house: it levels the tails in memory and has others do the rest, beside its own work: make the
//! next segment's table before it is needed and close the last one's, remove segments that hold nothing any more,
//! empty old ones (see [`super::carry`]), remove old snapshots' tables, sync the mark. The first error of any of
//! them is its last act.
//!
//! Crash points. A record counts once it is whole, so a crash before or during its sync leaves it or leaves
//! it not; nobody was told. The mark is written after the sync, so it never names a record that is not
//! durable. A segment is removed after the record that made it superfluous (a purge, a carry, and in any case
//! the checkpoint that begins a later segment) was synced; a crash in between leaves a segment too many,
//! which recovery reads like any other. Segments go oldest first, so what remains has no gap. A table that
//! was made in advance and never written to is an empty segment to recovery. It goes like any other, once
//! those before it have.

use super::carry::carry;
use super::queue::{Done, Item};
use super::record::{Checkpoint, Operation, RecordWriter};
use super::recovery::{LogEnd, Segment};
use super::segment::segment_name;
use super::state::Group;
use super::tail::level_tails;
use crate::disk::{DiskError, Syncs, Table, lock, offload};
use crate::mutation;
use crate::storage::{Shared, StorageError, count};
use crate::types::LogId;
use proto::GroupId;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// While records are written, the mark is synced this often.
const MARK_SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// A sync that takes this long is worth a word: every write of the node waits for it.
const SLOW_SYNC: Duration = Duration::from_millis(100);

/// Slow syncs are spoken of this often: on a disk that is slow for good, each of them is one.
const SLOW_SYNC_SAID: Duration = Duration::from_secs(1);

/// Slow syncs since they were last spoken of.
#[derive(Debug, Default)]
struct SlowSyncs {
    count: u64,
    longest: Duration,
    said: Option<Instant>,
}

impl SlowSyncs {
    /// Counts a sync that ended `now`. How many slow ones there were and how long the longest took, where it
    /// is time to say so.
    fn note(&mut self, took: Duration, now: Instant) -> Option<(u64, Duration)> {
        if took < SLOW_SYNC {
            return None;
        }
        self.count += 1;
        self.longest = self.longest.max(took);
        if self.said.is_some_and(|said| now - said < SLOW_SYNC_SAID) {
            return None;
        }
        let Self { count, longest, .. } =
            std::mem::replace(self, Self { said: Some(now), ..Self::default() });
        Some((count, longest))
    }
}

/// See the [module](self).
pub(crate) struct Writer {
    shared: Arc<Shared>,
    log: LogEnd,
    /// The table of the last segment, once this writer has begun it. A segment of an earlier start is never
    /// written again.
    active: Option<Arc<dyn Table>>,
    /// The next segment's table, once it was made in advance: that takes several syncs.
    spare: Arc<Mutex<Option<Arc<dyn Table>>>>,
    /// Bytes of entries written since the tails were last levelled.
    fresh: usize,
    mark_synced: Instant,
    slow_syncs: SlowSyncs,
    /// What is done beside the writing, where blocking the log for it would be a pity.
    making_spare: Chore,
    retiring: Chore,
    emptying: Chore,
    removing: Chore,
    syncing_mark: Chore,
}

/// Disk work beside the writing; at most one of a kind at a time.
#[derive(Debug, Default)]
struct Chore {
    task: Option<JoinHandle<()>>,
    /// Cleared by the task before it has the writer look again.
    busy: Arc<AtomicBool>,
}

impl Chore {
    fn is_idle(&self) -> bool {
        !self.busy.load(Ordering::Acquire)
    }

    /// Starts work; its error stops the storage. Has the writer look again afterwards.
    fn start(
        &mut self,
        shared: &Arc<Shared>,
        work: impl Future<Output = Result<(), StorageError>> + Send + 'static,
    ) {
        let (shared, busy) = (Arc::clone(shared), Arc::clone(&self.busy));
        busy.store(true, Ordering::Release);
        self.task = Some(tokio::spawn(async move {
            match offload(&shared.disk, work).await.map_err(StorageError::from).flatten() {
                // Closing: it is done another time.
                Ok(()) | Err(StorageError::Closed) => {
                    busy.store(false, Ordering::Release);
                    shared.queue.nudge();
                }
                Err(error) => shared.fail(error),
            }
        }));
    }

    async fn end(&mut self) {
        if let Some(work) = self.task.take()
            && let Err(error) = work.await
        {
            tracing::error!(%error, "disk work was lost");
        }
    }
}

/// Says, however the writer ends, that it has.
struct End {
    shared: Arc<Shared>,
    orderly: bool,
}

impl Drop for End {
    fn drop(&mut self) {
        if !self.orderly {
            self.shared.fail(DiskError::Gone("the log writer was lost").into());
        }
        self.shared.shelf.clear();
        self.shared.end();
    }
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>, log: LogEnd) -> Self {
        let writer = Self {
            shared,
            log,
            active: None,
            spare: Arc::default(),
            fresh: 0,
            mark_synced: Instant::now(),
            slow_syncs: SlowSyncs::default(),
            making_spare: Chore::default(),
            retiring: Chore::default(),
            emptying: Chore::default(),
            removing: Chore::default(),
            syncing_mark: Chore::default(),
        };
        writer.gauge();
        writer
    }

    /// Works until the queue is closed and empty, or until the first error.
    pub(crate) async fn run(self) {
        let mut end = End { shared: Arc::clone(&self.shared), orderly: false };
        let outcome = self.work().await;
        end.orderly = true;
        if let Err(error) = outcome {
            end.shared.fail(error);
        }
    }

    async fn work(mut self) -> Result<(), StorageError> {
        while let Some(batch) = self.shared.queue.take(self.shared.config.record_bytes_max).await {
            self.write(batch).await?;
            self.keep_house();
        }
        let chores = [&mut self.making_spare, &mut self.retiring, &mut self.emptying, &mut self.removing];
        for chore in chores.into_iter().chain([&mut self.syncing_mark]) {
            chore.end().await;
        }
        self.shared.alive()?;
        if lock(&self.spare).take().is_some() {
            self.shared.disk.remove(&segment_name(self.next_segment()))?;
        }
        // What goes wrong with the mark alone harms nothing that was acknowledged, but says that the disk is ill.
        if self.active.is_some() {
            self.shared.disk.sync_mark()?;
        }
        Ok(())
    }

    async fn write(&mut self, batch: Vec<Item>) -> Result<(), StorageError> {
        let (items, overtaken) = self.admit(batch);
        let written = match self.shared.alive() {
            Ok(()) if items.is_empty() => Ok(()),
            Ok(()) => self.write_record(&items).await,
            // A chore failed, or somebody else's work on the disk.
            stopped => stopped,
        };
        match &written {
            Ok(()) => self.take_effect(items),
            Err(error) => {
                // First the door, then the bad news: nobody who hears it may find the storage still open.
                self.shared.fail(error.clone());
                items.into_iter().for_each(|item| item.done.tell(Err(error.clone())));
            }
        }
        overtaken.into_iter().for_each(|done| done.tell(written.clone()));
        written
    }

    /// What of a batch is still to be written, carries first: they speak of the log as it stands before the
    /// batch. Also returns whom to tell of snapshots that were overtaken by newer ones.
    fn admit(&self, batch: Vec<Item>) -> (Vec<Item>, Vec<Done>) {
        let mut newest: BTreeMap<GroupId, Option<LogId>> = BTreeMap::new();
        let (mut carries, mut others, mut overtaken) = (Vec::new(), Vec::new(), Vec::new());
        for mut item in batch {
            match &mut item.operation {
                Operation::Carry(_) => carries.extend(still_standing(item)),
                Operation::Snapshot(manifest) => {
                    let current = || current_snapshot(&item.group);
                    let newest = newest.entry(item.group.id).or_insert_with(current);
                    if manifest.meta.last_log_id < *newest {
                        overtaken.push(item.done);
                    } else {
                        *newest = manifest.meta.last_log_id;
                        others.push(item);
                    }
                }
                _ => others.push(item),
            }
        }
        carries.append(&mut others);
        (carries, overtaken)
    }

    async fn write_record(&mut self, items: &[Item]) -> Result<(), StorageError> {
        let mut record = RecordWriter::default();
        let table = self.table(&mut record).await?;
        items.iter().for_each(|item| record.push(item.group.id, &item.operation));
        let sequence = self.log.sequence + 1;
        let mut bytes = 0;
        for (key, part) in record.parts(sequence) {
            table.put(key, &part)?;
            bytes += part.len() as u64;
        }
        let started = Instant::now();
        mutation::sync(&table).await?;
        let (counters, took) = (&self.shared.counters, started.elapsed());
        counters.synced(took);
        if let Some((count, longest)) = self.slow_syncs.note(took, started + took) {
            let longest_ms = longest.as_millis();
            tracing::warn!(longest_ms, count, "disk is slow: syncs of the log take long");
        }
        count(&counters.records, 1);
        count(&counters.bytes_written, bytes);
        self.log.sequence = sequence;
        if let Some(segment) = self.log.segments.back_mut() {
            segment.bytes += bytes;
        }
        self.shared.disk.write_mark(sequence)?;
        Ok(())
    }

    /// The table to write to. Where it is new, its first operations are put into the record.
    async fn table(&mut self, record: &mut RecordWriter) -> Result<Arc<dyn Table>, StorageError> {
        if let (Some(table), Some(segment)) = (&self.active, self.log.segments.back())
            && segment.bytes < self.shared.config.segment_bytes
        {
            return Ok(Arc::clone(table));
        }
        if let Some(full) = self.active.take() {
            self.retire(full).await;
        }
        let number = self.next_segment();
        self.making_spare.end().await;
        self.shared.alive()?;
        let spare = lock(&self.spare).take();
        let table = match spare {
            Some(spare) => spare,
            None => self.shared.disk.create(&segment_name(number), Syncs::Often)?,
        };
        self.log.segments.push_back(Segment { number, bytes: 0 });
        self.active = Some(Arc::clone(&table));
        record.push(GroupId(0), &Operation::Begin(number));
        for group in self.shared.all_groups() {
            let checkpoint = group.state().durable.checkpoint.clone();
            if checkpoint != Checkpoint::default() {
                record.push(group.id, &Operation::Checkpoint(Box::new(checkpoint)));
            }
        }
        Ok(table)
    }

    fn next_segment(&self) -> u64 {
        self.log.segments.back().map_or(0, |segment| segment.number) + 1
    }

    /// Closes a full segment's table, which leaves its newest values to sled as soon as nobody reads it, and makes
    /// durable that it was full.
    async fn retire(&mut self, full: Arc<dyn Table>) {
        self.retiring.end().await;
        let disk = Arc::clone(&self.shared.disk);
        self.retiring.start(&self.shared, async move {
            drop(full);
            Ok(disk.sync_mark()?)
        });
    }

    /// Has the next segment's table made while the active one is filling.
    fn make_spare(&mut self) {
        let Some(active) = self.log.segments.back().filter(|_| self.active.is_some()) else { return };
        let half_full = active.bytes >= self.shared.config.segment_bytes / 2;
        if !half_full || !self.making_spare.is_idle() || lock(&self.spare).is_some() {
            return;
        }
        let (disk, spare) = (Arc::clone(&self.shared.disk), Arc::clone(&self.spare));
        let name = segment_name(self.next_segment());
        self.making_spare.start(&self.shared, async move {
            *lock(&spare) = Some(disk.create(&name, Syncs::Often)?);
            Ok(())
        });
    }

    /// The record is durable: notes what it changed, then tells who waits.
    fn take_effect(&mut self, items: Vec<Item>) {
        let segment = self.log.segments.back().map_or(0, |segment| segment.number);
        let sequence = self.log.sequence;
        let counters = &self.shared.counters;
        for item in items {
            let Item { group, operation, truncations, bytes, done, snapshot, .. } = item;
            let mut state = group.state();
            state.durable.apply(&operation, segment, sequence, &mut self.log.ledger);
            match operation {
                Operation::Append(entries) => {
                    self.fresh += bytes;
                    count(&counters.entries, entries.len() as u64);
                    let last = entries.last().filter(|_| state.view.truncations == truncations);
                    if let Some(last) = last {
                        state.view.tail.set_durable(last.log_id.index() + 1);
                    }
                }
                Operation::Carry(_) => count(&counters.bytes_carried, bytes as u64),
                Operation::Vote(vote) => state.view.vote = Some(vote),
                Operation::Snapshot(_) => {
                    snapshot.iter().for_each(|snapshot| snapshot.keep());
                    state.durable.replace_snapshot(snapshot.map(|snapshot| *snapshot));
                }
                Operation::Forget => state.durable.replace_snapshot(None),
                _ => {}
            }
            drop(state);
            done.tell(Ok(()));
        }
    }

    fn keep_house(&mut self) {
        if self.fresh > self.shared.config.tail_bytes_max / 16 {
            self.fresh = 0;
            let groups = self.shared.all_groups();
            let tails = level_tails(groups.iter(), self.shared.config.tail_bytes_max);
            self.shared.counters.tail_bytes.store(tails as u64, Ordering::Relaxed);
        }
        self.make_spare();
        if self.active.is_some() {
            self.remove_segments();
            self.tidy_shelf();
            self.empty_oldest();
        }
        self.empty_bin();
        if self.mark_synced.elapsed() >= MARK_SYNC_INTERVAL && self.syncing_mark.is_idle() {
            self.mark_synced = Instant::now();
            let disk = Arc::clone(&self.shared.disk);
            self.syncing_mark.start(&self.shared, async move { Ok(disk.sync_mark()?) });
        }
        self.gauge();
    }

    /// Throws away the oldest segments as long as they hold nothing, never the active one.
    fn remove_segments(&mut self) {
        while self.log.segments.len() > 1
            && let Some(oldest) = self.log.segments.front().copied()
            && self.log.ledger.usage(oldest.number).runs == 0
        {
            self.shared.bin.throw(std::iter::once(segment_name(oldest.number)));
            self.log.segments.pop_front();
            self.log.ledger.forget(oldest.number);
            count(&self.shared.counters.segments_removed, 1);
        }
    }

    /// Has the segments closed that readers need no more.
    fn tidy_shelf(&mut self) {
        let Some(oldest) = self.log.segments.front().filter(|_| self.retiring.is_idle()) else { return };
        let closed = self.shared.shelf.tidy(oldest.number);
        if !closed.is_empty() {
            self.retiring.start(&self.shared, async move {
                drop(closed);
                Ok(())
            });
        }
    }

    /// Has the oldest segment emptied where the log takes much more than what is needed of it.
    fn empty_oldest(&mut self) {
        let total: u64 = self.log.segments.iter().map(|segment| segment.bytes).sum();
        let bound = 2 * self.log.ledger.live_bytes() + self.shared.config.slack_bytes;
        let Some(oldest) = self.log.segments.front().filter(|_| self.log.segments.len() > 1) else { return };
        if total > bound && self.emptying.is_idle() {
            self.emptying.start(&self.shared, carry(Arc::clone(&self.shared), oldest.number));
        }
    }

    /// Has the tables removed that were thrown away, in the order in which they were.
    fn empty_bin(&mut self) {
        if !self.removing.is_idle() || self.shared.bin.is_empty() {
            return;
        }
        let (disk, tables) = (Arc::clone(&self.shared.disk), self.shared.bin.empty());
        let work = async move { Ok(tables.iter().try_for_each(|table| disk.remove(table))?) };
        self.removing.start(&self.shared, work);
    }

    fn gauge(&self) {
        let counters = &self.shared.counters;
        let bytes = self.log.segments.iter().map(|segment| segment.bytes).sum();
        counters.segments.store(self.log.segments.len() as u64, Ordering::Relaxed);
        counters.segment_bytes.store(bytes, Ordering::Relaxed);
        counters.live_bytes.store(self.log.ledger.live_bytes(), Ordering::Relaxed);
    }
}

fn current_snapshot(group: &Group) -> Option<LogId> {
    group.state().durable.snapshot.as_ref().and_then(|snapshot| snapshot.meta.last_log_id)
}

/// The entries of a carry that still stand where they stood when it was queued; `None` where none does.
fn still_standing(mut item: Item) -> Option<Item> {
    let (Operation::Carry(entries), Some(origin)) = (&mut item.operation, &item.origin) else { return None };
    let standing = item.group.state().durable.index.standing(origin);
    entries.retain(|entry| standing.iter().any(|run| (run.first..=run.last).contains(&entry.log_id.index())));
    (!entries.is_empty()).then_some(item)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first slow sync is spoken of at once, those within a second of it together with the next after
    /// that, and none twice.
    #[tokio::test(start_paused = true)]
    async fn slow_syncs_are_spoken_of_once_a_second() {
        let (start, ms) = (Instant::now(), Duration::from_millis);
        let mut slow = SlowSyncs::default();
        let mut note = |took: u64, at: u64| slow.note(ms(took), start + ms(at));
        assert_eq!(note(99, 0), None);
        assert_eq!(note(100, 100), Some((1, ms(100))));
        assert_eq!(note(300, 400), None);
        assert_eq!(note(200, 1_099), None);
        assert_eq!(note(99, 1_500), None);
        assert_eq!(note(150, 1_600), Some((3, ms(300))));
        assert_eq!(note(120, 2_599), None);
        assert_eq!(note(110, 9_000), Some((2, ms(120))));
    }
}
