//! A group's snapshots on disk: written piece by piece, current from one instant to the next, removed when
//! nobody reads them any more.
//!
//! A snapshot is first written and made durable, then installed, in two steps: one that a peer sends is whole on
//! this disk before the log is allowed to be replaced by it, and nothing of it remains where it is refused.
//!
//! Pieces (what a machine hands out in one step of a copy, up to 4 MiB) are laid end to end, cut into values
//! and put into tables of at most 32 MiB, the parts: `snap-g1-00000007-p0003` is part 3 of snapshot 7 of
//! group 1. What makes a snapshot current is its **manifest**, and that is an operation in the log's own queue:
//! it goes into the record of the next group commit, and into every segment's checkpoint. So a crash finds the
//! old manifest or the new one, never neither and never half of one; and a purge, which comes after it in the
//! same queue, never reaches the disk without it. Tables that no current manifest names are leftovers, and go
//! when the storage is next opened; a superseded snapshot's go with its last reader.

mod manifest;
mod pieces;
mod reader;
mod room;
mod writer;

pub(crate) use manifest::{Manifest, parse_table_name};
pub(crate) use reader::SnapshotReader;
pub(crate) use room::{CopyRoom, ReceiveRoom, Room};
pub(crate) use writer::SnapshotWriter;

use crate::disk::{Disk, OpenTable, Syncs, lock};
use crate::log::queue::{Done, Item, Queue};
use crate::log::record::Operation;
use crate::log::state::{Group, State};
use crate::storage::{Handle, StorageError};
use crate::types::SnapshotMeta;
use manifest::table_name;
use proto::GroupId;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use tokio::sync::{oneshot, watch};

/// The longest piece of a copy, in bytes: a value of 4 MiB with all that stands around it.
pub const PIECE_BYTES_MAX: usize = (4 << 20) + (64 << 10);

/// One group's snapshots, until the group is forgotten.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotStore {
    handle: Arc<Handle>,
    group: Arc<Group>,
    room: Arc<Room>,
    /// The group's [`State::lives`] when this was made.
    life: u64,
}

impl SnapshotStore {
    pub(crate) fn new(handle: Arc<Handle>, group: Arc<Group>) -> Self {
        let life = group.state().lives;
        Self { handle, group, room: Arc::default(), life }
    }

    /// Where a snapshot beside the current one may be written.
    pub(crate) fn room(&self) -> &Arc<Room> {
        &self.room
    }

    /// Whether a snapshot still has a place to go to.
    fn alive(&self) -> Result<(), StorageError> {
        self.handle.shared.alive()?;
        self.check_life(&self.group.state())
    }

    /// A copy that is under way when its group is dropped does not end with it, but where it is next written.
    /// Never may it become current.
    fn check_life(&self, state: &State) -> Result<(), StorageError> {
        if state.lives == self.life {
            return Ok(());
        }
        Err(StorageError::Refused(format!("{} was dropped while its snapshot was made", self.group.id)))
    }

    /// Starts a new snapshot. Dropped unfinished, it leaves nothing behind.
    ///
    /// # Errors
    /// Where the storage has stopped, or the group was forgotten.
    pub(crate) async fn create(&self) -> Result<SnapshotWriter, StorageError> {
        self.alive()?;
        Ok(SnapshotWriter::new(self.clone()))
    }

    /// Makes a finished snapshot the one that a restart finds, durably. The one before is removed with its last
    /// reader. Where the current one is newer by its log id, it stays.
    ///
    /// # Errors
    /// Where the disk fails, the storage has stopped or the group was forgotten; the snapshot that was
    /// current stays so.
    pub(crate) async fn install(&self, snapshot: &Snapshot) -> Result<(), StorageError> {
        let number = |snapshot: &Snapshot| snapshot.manifest().number;
        if self.current().as_ref().map(number) == Some(number(snapshot)) {
            return Ok(());
        }
        let (tell, told) = oneshot::channel();
        let operation = Operation::Snapshot(Box::new(snapshot.manifest().clone()));
        let item = Item::new(&self.group, operation, Done::Waiter(tell));
        let item = Item { snapshot: Some(Box::new(snapshot.clone())), ..item };
        self.handle.shared.submit(item, |state| self.check_life(state)).await?;
        told.await.unwrap_or(Err(StorageError::Closed))
    }

    /// The last indexes of snapshots that are not current any more but still read: whoever is sent one needs
    /// the log after it.
    pub(crate) fn in_use(&self) -> Vec<u64> {
        self.retired().iter().map(|stored| stored.index()).collect()
    }

    /// Has those of them be sent no further that end before `index`.
    pub(crate) fn withdraw_before(&self, index: u64) {
        for stored in self.retired().iter().filter(|stored| stored.index() < index) {
            stored.withdrawn.send_replace(true);
        }
    }

    fn retired(&self) -> Vec<Arc<Stored>> {
        let mut state = self.group.state();
        state.durable.retired.retain(|retired| retired.strong_count() > 0);
        state.durable.retired.iter().filter_map(Weak::upgrade).collect()
    }

    /// The snapshot that a restart would find.
    pub(crate) fn current(&self) -> Option<Snapshot> {
        self.group.state().durable.snapshot.clone()
    }
}

/// A finished snapshot. As long as a handle to it is held, it can be read.
#[derive(Clone)]
pub(crate) struct Snapshot {
    pub(crate) meta: SnapshotMeta,
    /// The bytes of all pieces.
    pub(crate) bytes: u64,
    stored: Arc<Stored>,
}

#[derive(Debug)]
pub(crate) struct Stored {
    manifest: Manifest,
    tables: Arc<Tables>,
    /// Set once it is not to be sent any more.
    withdrawn: watch::Sender<bool>,
}

impl Stored {
    /// The last index that it covers.
    fn index(&self) -> u64 {
        self.manifest.meta.last_log_id.map_or(0, |id| id.index())
    }
}

impl Snapshot {
    pub(crate) fn new(manifest: Manifest, tables: Arc<Tables>) -> Self {
        let (meta, bytes) = (manifest.meta.clone(), manifest.bytes);
        let stored = Stored { manifest, tables, withdrawn: watch::Sender::new(false) };
        Self { meta, bytes, stored: Arc::new(stored) }
    }

    pub(crate) fn manifest(&self) -> &Manifest {
        &self.stored.manifest
    }

    /// Reads the pieces in order, from the first.
    pub(crate) fn read(&self) -> SnapshotReader {
        SnapshotReader::new(self.clone())
    }

    /// Looks for every part among the names of the tables.
    pub(crate) fn check_tables(&self, tables: &[String]) -> Result<(), StorageError> {
        let stored = &self.stored;
        let mut parts = (0..stored.manifest.parts).map(|part| stored.tables.name(part));
        match parts.find(|name| !tables.contains(name)) {
            None => Ok(()),
            Some(name) => Err(StorageError::Snapshot {
                snapshot: format!("{:?}", stored.tables),
                why: format!("{name} is missing"),
            }),
        }
    }

    /// Resolves once the snapshot is not to be sent any more.
    pub(crate) fn withdrawn(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut withdrawn = self.stored.withdrawn.subscribe();
        async move {
            // An error means that nobody can withdraw it any more.
            if withdrawn.wait_for(|withdrawn| *withdrawn).await.is_err() {
                std::future::pending().await
            }
        }
    }

    /// Keeps the tables: the snapshot is current, durably.
    pub(crate) fn keep(&self) {
        self.stored.tables.doom(false);
    }

    /// Lets the tables go with the last handle: another snapshot is current, durably.
    pub(crate) fn supersede(self) -> Weak<Stored> {
        self.stored.tables.doom(true);
        Arc::downgrade(&self.stored)
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Snapshot").field(&self.stored.manifest).finish()
    }
}

/// The tables of one snapshot. Doomed ones are removed when this is dropped: those of a snapshot that is not
/// finished, or not current any more.
pub(crate) struct Tables {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) group: GroupId,
    pub(crate) number: u64,
    made: Mutex<u32>,
    doomed: AtomicBool,
    bin: Arc<Bin>,
}

impl Tables {
    pub(crate) fn new(disk: Arc<dyn Disk>, bin: Arc<Bin>, group: GroupId, number: u64, made: u32) -> Self {
        Self { disk, group, number, made: Mutex::new(made), doomed: AtomicBool::new(false), bin }
    }

    /// The next part's table. One task at a time makes parts, so nobody waits at the count while the disk
    /// works.
    fn make(&self) -> Result<OpenTable, StorageError> {
        let part = self.made();
        let table = self.disk.create(&self.name(part), Syncs::Seldom)?;
        *lock(&self.made) = part + 1;
        Ok(OpenTable::new(Arc::clone(&self.disk), table))
    }

    fn open(&self, part: u32) -> Result<OpenTable, StorageError> {
        let table = self.disk.open(&self.name(part))?;
        Ok(OpenTable::new(Arc::clone(&self.disk), table))
    }

    fn made(&self) -> u32 {
        *lock(&self.made)
    }

    fn name(&self, part: u32) -> String {
        table_name(self.group, self.number, part)
    }

    fn doom(&self, doomed: bool) {
        self.doomed.store(doomed, Ordering::Release);
    }
}

impl Drop for Tables {
    fn drop(&mut self) {
        if self.doomed.load(Ordering::Acquire) {
            self.bin.throw((0..self.made()).map(|part| self.name(part)));
        }
    }
}

impl fmt::Debug for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} snapshot {} in {} tables", self.group, self.number, self.made())
    }
}

/// Tables to be removed, oldest first, which the log writer sees to. What is still in here when the storage
/// closes is removed once it is open again.
#[derive(Debug)]
pub(crate) struct Bin {
    tables: Mutex<Vec<String>>,
    queue: Arc<Queue>,
}

impl Bin {
    pub(crate) fn new(queue: Arc<Queue>) -> Self {
        Self { tables: Mutex::default(), queue }
    }

    /// Adds tables that nobody needs any more.
    pub(crate) fn throw(&self, tables: impl Iterator<Item = String>) {
        lock(&self.tables).extend(tables);
        self.queue.nudge();
    }

    pub(crate) fn is_empty(&self) -> bool {
        lock(&self.tables).is_empty()
    }

    /// Takes everything out.
    pub(crate) fn empty(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.tables))
    }
}
