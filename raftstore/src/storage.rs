//! A node's durable state: one log for all its groups, one current snapshot for each.
//!
//! ```text
//!   GroupLog (g0) ─┐                                     ┌─ view: what the group sees, at once
//!   GroupLog (g1) ─┼─▶ Queue ─▶ log writer ─▶ segment ───┤
//!   SnapshotWriter ┘   bounded    one record,  one table └─ index: what the disk has, after the sync
//!                                 one sync     of the Disk
//! ```
//!
//! This relies on [`Disk`] for durability and nothing else, and on openraft for calling each group's log in
//! turn. It must never acknowledge what was not synced, never retry on a file after an error (the storage stops
//! with the first, see [`Storage::failure`]), and never start on a log that lost something it acknowledged.

mod config;
mod error;
mod identity;
mod stats;

#[cfg(test)]
mod tests;

pub use config::StorageConfig;
pub use error::StorageError;
pub use identity::Identity;
pub(crate) use stats::Counters;
pub(crate) use stats::count;
pub use stats::{LATENCY_BUCKETS, StorageStats};

use crate::disk::{Disk, lock, offload};
use crate::log::GroupLog;
use crate::log::queue::{Item, Queue};
use crate::log::recovery::{Recovered, recover};
use crate::log::segment::Shelf;
use crate::log::state::{Group, State};
use crate::log::writer::Writer;
use crate::snapshot::{Bin, SnapshotStore};
use proto::GroupId;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// A node's durable state. Handles share it; it closes with the last of them, and of the logs and snapshot
/// stores made from it.
#[derive(Clone, Debug)]
pub(crate) struct Storage {
    handle: Arc<Handle>,
}

/// What every handle holds.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) shared: Arc<Shared>,
}

/// What handles and the log writer share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) config: StorageConfig,
    pub(crate) queue: Arc<Queue>,
    pub(crate) bin: Arc<Bin>,
    pub(crate) shelf: Shelf,
    pub(crate) counters: Counters,
    groups: Mutex<BTreeMap<GroupId, Arc<Group>>>,
    /// Above every number in use.
    next_snapshot: AtomicU64,
    /// The first error, for good.
    failure: watch::Sender<Option<StorageError>>,
    /// Whether the log writer has ended, and let go of the disk.
    ended: watch::Sender<bool>,
}

impl Storage {
    /// Opens what is on `disk`, or begins anew where there is nothing, and starts the log writer. Called within
    /// a runtime.
    ///
    /// # Errors
    /// [`StorageError`] where the disk belongs to another node or cluster, was written by a newer build, is
    /// damaged, or lost something that was acknowledged. Nothing was written or removed then.
    pub(crate) async fn open(
        disk: Arc<dyn Disk>,
        identity: Identity,
        config: StorageConfig,
    ) -> Result<Self, StorageError> {
        config.validate().map_err(StorageError::Refused)?;
        let queue = Arc::new(Queue::new(config.queue_bytes_max));
        let bin = Arc::new(Bin::new(Arc::clone(&queue)));
        let work = {
            let (disk, bin, config) = (Arc::clone(&disk), Arc::clone(&bin), config.clone());
            async move {
                identity.establish(&*disk)?;
                recover(&disk, &bin, &config)
            }
        };
        let Recovered { groups, next_snapshot, log } = offload(&disk, work).await??;
        let shared = Arc::new(Shared {
            shelf: Shelf::new(Arc::clone(&disk)),
            disk,
            config,
            queue,
            bin,
            counters: Counters::default(),
            groups: Mutex::new(groups),
            next_snapshot: AtomicU64::new(next_snapshot),
            failure: watch::Sender::new(None),
            ended: watch::Sender::new(false),
        });
        let writer = Writer::new(Arc::clone(&shared), log);
        shared.disk.drive("log-writer", Box::pin(writer.run()))?;
        let storage = Self { handle: Arc::new(Handle { shared }) };
        let stats = storage.stats();
        tracing::info!(
            groups = storage.groups().len(),
            segments = stats.segments,
            bytes = stats.segment_bytes,
            "log recovered"
        );
        Ok(storage)
    }

    /// The log of a group; every handle to it is the same log. Only one of them may write.
    pub(crate) fn log(&self, group: GroupId) -> GroupLog {
        GroupLog::new(Arc::clone(&self.handle), self.handle.shared.group(group))
    }

    /// The snapshots of a group.
    pub(crate) fn snapshots(&self, group: GroupId) -> SnapshotStore {
        SnapshotStore::new(Arc::clone(&self.handle), self.handle.shared.group(group))
    }

    /// The groups that have something here.
    pub(crate) fn groups(&self) -> Vec<GroupId> {
        let groups: Vec<Arc<Group>> = lock(&self.handle.shared.groups).values().cloned().collect();
        groups.iter().filter(|group| !group.state().is_empty()).map(|group| group.id).collect()
    }

    /// Forgets a group's log, vote and snapshot, durably: its replica has left this node for good, and the
    /// group's handles are not used any more. A snapshot that is still being made comes to nothing.
    ///
    /// # Errors
    /// Where the storage has stopped.
    pub(crate) async fn forget(&self, group: GroupId) -> Result<(), StorageError> {
        self.log(group).forget().await
    }

    /// The first error, as soon as there is one: the node must stop.
    pub(crate) fn failure(&self) -> watch::Receiver<Option<StorageError>> {
        self.handle.shared.failure.subscribe()
    }

    /// What was done so far.
    pub(crate) fn stats(&self) -> StorageStats {
        self.handle.shared.counters.read()
    }

    /// Writes what still waits, then closes the disk. Every later call is refused.
    ///
    /// # Errors
    /// The first error of this storage, where there is one.
    pub(crate) async fn close(&self) -> Result<(), StorageError> {
        let shared = &self.handle.shared;
        shared.queue.close();
        let mut ended = shared.ended.subscribe();
        if ended.wait_for(|ended| *ended).await.is_err() {
            tracing::debug!("the log writer was gone already");
        }
        let failure = shared.failure.borrow().clone();
        failure.map_or(Ok(()), Err)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.queue.close();
    }
}

impl Shared {
    pub(crate) fn group(&self, id: GroupId) -> Arc<Group> {
        let mut groups = lock(&self.groups);
        Arc::clone(groups.entry(id).or_insert_with(|| Arc::new(Group::new(id))))
    }

    /// All groups, in order.
    pub(crate) fn all_groups(&self) -> Vec<Arc<Group>> {
        lock(&self.groups).values().cloned().collect()
    }

    pub(crate) fn next_snapshot(&self) -> u64 {
        self.next_snapshot.fetch_add(1, Ordering::Relaxed)
    }

    /// The error that stopped the storage, if one did.
    pub(crate) fn alive(&self) -> Result<(), StorageError> {
        self.failure.borrow().clone().map_or(Ok(()), Err)
    }

    /// Why nothing can be written any more.
    pub(crate) fn stopped(&self) -> StorageError {
        self.failure.borrow().clone().unwrap_or(StorageError::Closed)
    }

    /// Waits for room, then queues the item, if `check` agrees to it with a look at its group, in one step.
    pub(crate) async fn submit(
        &self,
        mut item: Item,
        check: impl FnOnce(&State) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        item.room = Some(self.queue.room(item.bytes).await.ok_or_else(|| self.stopped())?);
        let group = Arc::clone(&item.group);
        let state = group.state();
        check(&state)?;
        self.queue.push(item).map_err(|_| self.stopped())
    }

    /// Stops the storage for good: nothing is written any more, whoever waits is told, and the host learns why.
    pub(crate) fn fail(&self, error: StorageError) {
        let first = self.failure.send_if_modified(|failure| {
            let first = failure.is_none();
            failure.get_or_insert_with(|| error.clone());
            first
        });
        if first {
            tracing::error!(%error, "storage stops");
        }
        let stopped = self.stopped();
        for item in self.queue.abandon() {
            item.done.tell(Err(stopped.clone()));
        }
    }

    pub(crate) fn end(&self) {
        self.ended.send_replace(true);
    }
}
