//! What waits for the log writer: bounded in bytes and in number, in one order for all groups.
//!
//! Who has something to write first takes room, waiting where there is none, and then adds it without waiting.
//! Room is given back when the work is done, so the bound covers what is under way as well. Commit marks take
//! no room and wake nobody; they leave with whatever is written next.

use super::index::Run;
use super::record::{OPERATION_OVERHEAD, Operation, entry_bytes};
use super::state::Group;
use crate::disk::lock;
use crate::snapshot::Snapshot;
use crate::storage::StorageError;
use crate::types::TypeConfig;
use openraft::storage::IOFlushed;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

/// The most operations that wait or are under way, of all groups; each takes at least this share of the bytes.
const OPERATIONS_MAX: usize = 65_536;

/// The most commit marks that wait. Further ones are left out: a mark only saves a restart some waiting.
const MARKS_MAX: usize = 4_096;

/// About what a manifest takes: its membership is the most of it.
const MANIFEST_BYTES: usize = 1024;

/// At most what votes and log ids take.
const SMALL_BYTES: usize = 32;

/// Whom to tell that an operation is durable, or that it never will be.
pub(crate) enum Done {
    /// Nobody.
    Nobody,
    /// openraft, for appended entries.
    Flushed(IOFlushed<TypeConfig>),
    /// Whoever waits.
    Waiter(oneshot::Sender<Result<(), StorageError>>),
}

impl Done {
    pub(crate) fn tell(self, result: Result<(), StorageError>) {
        match self {
            Self::Nobody => {}
            Self::Flushed(callback) => callback.io_completed(result.map_err(Into::into)),
            Self::Waiter(waiter) => {
                if waiter.send(result).is_err() {
                    tracing::trace!("nobody waits for this write any more");
                }
            }
        }
    }
}

/// An operation with what belongs to it.
pub(crate) struct Item {
    pub(crate) group: Arc<Group>,
    pub(crate) operation: Operation,
    /// The group's count of truncations when this was added, see [`super::state::View`].
    pub(crate) truncations: u64,
    pub(crate) bytes: usize,
    pub(crate) done: Done,
    /// What the manifest of a snapshot operation is about.
    pub(crate) snapshot: Option<Box<Snapshot>>,
    /// Where the entries of a carry operation stood when it was added.
    pub(crate) origin: Option<Box<Run>>,
    /// Given back when the item is dropped.
    pub(crate) room: Option<OwnedSemaphorePermit>,
}

impl Item {
    /// An item that has no room yet.
    pub(crate) fn new(group: &Arc<Group>, operation: Operation, done: Done) -> Self {
        let bytes = OPERATION_OVERHEAD
            + match &operation {
                Operation::Append(entries) | Operation::Carry(entries) => {
                    entries.iter().map(entry_bytes).sum()
                }
                Operation::Snapshot(_) => MANIFEST_BYTES,
                _ => SMALL_BYTES,
            };
        let group = Arc::clone(group);
        Self { group, operation, truncations: 0, bytes, done, snapshot: None, origin: None, room: None }
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Notify,
    room: Arc<Semaphore>,
    bytes_max: u32,
}

#[derive(Default)]
struct Waiting {
    items: VecDeque<Item>,
    /// The commit marks among them.
    marks: usize,
    /// Whether somebody waits for something here to be written.
    wanted: bool,
    closed: bool,
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} items, {} marks, wanted {}, closed {}",
            self.items.len(),
            self.marks,
            self.wanted,
            self.closed
        )
    }
}

impl Queue {
    pub(crate) fn new(bytes_max: usize) -> Self {
        let bytes_max = u32::try_from(bytes_max).unwrap_or(u32::MAX);
        Self {
            waiting: Mutex::default(),
            arrived: Notify::new(),
            room: Arc::new(Semaphore::new(bytes_max as usize)),
            bytes_max,
        }
    }

    /// Waits for room for `bytes`; `None` once the queue is closed. What exceeds the queue altogether takes all
    /// of it.
    pub(crate) async fn room(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let share = self.bytes_max / u32::try_from(OPERATIONS_MAX).unwrap_or(u32::MAX);
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).max(share).clamp(1, self.bytes_max);
        Arc::clone(&self.room).acquire_many_owned(bytes).await.ok()
    }

    /// Adds an item.
    ///
    /// # Errors
    /// The item, where the queue is closed.
    pub(crate) fn push(&self, item: Item) -> Result<(), Box<Item>> {
        let mut waiting = lock(&self.waiting);
        if waiting.closed {
            return Err(Box::new(item));
        }
        if is_mark(&item) {
            if waiting.marks < MARKS_MAX {
                waiting.marks += 1;
                waiting.items.push_back(item);
            }
            return Ok(());
        }
        waiting.items.push_back(item);
        if !waiting.wanted {
            waiting.wanted = true;
            self.arrived.notify_one();
        }
        Ok(())
    }

    /// Wakes the writer though nothing was added.
    pub(crate) fn nudge(&self) {
        lock(&self.waiting).wanted = true;
        self.arrived.notify_one();
    }

    /// Waits until somebody wants something written, then takes everything that waits, up to about `bytes_max`
    /// (at least one item, where there is one). `None` once the queue is closed and empty.
    pub(crate) async fn take(&self, bytes_max: usize) -> Option<Vec<Item>> {
        loop {
            let arrived = self.arrived.notified();
            {
                let mut waiting = lock(&self.waiting);
                if waiting.wanted || waiting.closed {
                    let batch = waiting.take(bytes_max);
                    return (!batch.is_empty() || !waiting.closed).then_some(batch);
                }
            }
            arrived.await;
        }
    }

    /// Lets nothing more in.
    pub(crate) fn close(&self) {
        lock(&self.waiting).closed = true;
        self.room.close();
        self.arrived.notify_one();
    }

    /// Closes, and takes out whatever waits.
    pub(crate) fn abandon(&self) -> Vec<Item> {
        self.close();
        lock(&self.waiting).items.drain(..).collect()
    }
}

impl Waiting {
    fn take(&mut self, bytes_max: usize) -> Vec<Item> {
        let mut bytes = 0;
        let fits = |item: &&Item| {
            let fits = bytes == 0 || bytes + item.bytes <= bytes_max;
            bytes += item.bytes;
            fits
        };
        let count = self.items.iter().take_while(fits).count();
        let batch: Vec<Item> = self.items.drain(..count).collect();
        self.marks -= batch.iter().filter(|item| is_mark(item)).count();
        self.wanted = self.items.len() > self.marks;
        batch
    }
}

fn is_mark(item: &Item) -> bool {
    matches!(item.operation, Operation::Commit(_))
}
