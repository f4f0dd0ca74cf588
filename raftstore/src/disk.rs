//! A node's disk as the log and the snapshots see it: named tables of (number → bytes), a few small cells, and
//! the mark of the last record known to be durable.
//!
//! There are two: [`SledDisk`], one small sled database a table, and [`SimulatedDisk`], which keeps synced and
//! unsynced bytes apart so that a test can lose the latter. Everything above relies on three promises and on
//! nothing else: what [`Table::sync`] has returned for survives a crash; of what was not synced, a prefix
//! survives, its last value perhaps damaged; cells and removals are durable when their calls return, or, on a
//! simulated disk, take effect in their order.
//!
//! Calls here block, except in [`SimulatedDisk`]. They belong on the threads that [`Disk::drive`] and
//! [`Disk::offload`] provide, never on a worker of the runtime.

mod mark;
mod simulated;
mod sled;

pub use self::simulated::{DiskCounters, Effect, Fault, SimulatedDisk};
pub use self::sled::SledDisk;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::fmt;
use std::future::Future;
use std::io;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// The longest value of a table. Larger ones would leave the database's own file on [`SledDisk`], see there.
pub const VALUE_BYTES_MAX: usize = 96 << 10;

/// Why the disk did not do what it was asked. None of these is worth a retry: after a failed write or sync,
/// what the file holds is unknown.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DiskError {
    /// Another process, or another handle in this one, has the directory open.
    #[error("data directory is in use by another process: {0}")]
    InUse(String),
    /// The operating system refused.
    #[error("{during}: {error}")]
    Io {
        /// What was being done, and to what.
        during: String,
        /// The reason.
        error: Arc<io::Error>,
    },
    /// What is on the disk is not what was written there.
    #[error("{what} is damaged: {why}")]
    Damaged {
        /// The table, cell or file.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// There is no such table.
    #[error("table is missing: {0}")]
    Missing(String),
    /// There is such a table already.
    #[error("table exists already: {0}")]
    Exists(String),
    /// The value exceeds [`VALUE_BYTES_MAX`].
    #[error("value of {0} bytes exceeds the limit of {VALUE_BYTES_MAX}")]
    TooLarge(usize),
    /// The simulated machine lost its power, or the thread that worked on the disk was lost.
    #[error("disk is gone: {0}")]
    Gone(&'static str),
}

impl DiskError {
    pub(crate) fn io(during: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let during = during.into();
        move |error| Self::Io { during, error: Arc::new(error) }
    }

    pub(crate) fn damaged(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Damaged { what: what.into(), why: why.into() }
    }
}

/// What a table is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syncs {
    /// To be synced after every few values, as a log is. No number is put twice.
    Often,
    /// To be synced after many, as a snapshot is.
    Seldom,
}

/// A number → bytes table. Numbers are put in rising order; a number that was put before is replaced.
pub trait Table: fmt::Debug + Send + Sync + 'static {
    /// Writes a value; visible at once, durable after the next [`sync`](Self::sync).
    ///
    /// # Errors
    /// [`DiskError::TooLarge`] without effect; otherwise the table must not be used further.
    fn put(&self, key: u64, value: &[u8]) -> Result<(), DiskError>;

    /// Values in order of their numbers, from `from` on, about `bytes_max` of them (at least one, where there
    /// is one). Nothing says that nothing follows.
    ///
    /// # Errors
    /// Where the disk fails or finds damage.
    fn scan(&self, from: u64, bytes_max: usize) -> Result<Vec<(u64, Bytes)>, DiskError>;

    /// Makes all values put so far durable. The future may block its thread.
    fn sync(&self) -> BoxFuture<'_, Result<(), DiskError>>;
}

/// The first values, as many as [`Table::scan`] returns for so many bytes.
fn up_to<V: AsRef<[u8]>>(
    bytes_max: usize,
    values: impl Iterator<Item = (u64, V)>,
) -> impl Iterator<Item = (u64, V)> {
    let (mut bytes, mut goes_on) = (0, true);
    values.take_while(move |(_, value)| {
        bytes += value.as_ref().len();
        std::mem::replace(&mut goes_on, bytes < bytes_max)
    })
}

/// A node's disk: named tables of (number → bytes), a few small cells, and the mark of the last record known to
/// be durable. Calls block, except on a simulated disk.
pub trait Disk: fmt::Debug + Send + Sync + 'static {
    /// A new, empty table; it is on disk for certain once it was synced. What it is made for changes what its use
    /// costs, and nothing else.
    ///
    /// # Errors
    /// [`DiskError::Exists`], or where the disk fails.
    fn create(&self, table: &str, syncs: Syncs) -> Result<Arc<dyn Table>, DiskError>;

    /// A table that exists. Handles that are open at the same time share it; it closes with the last of them.
    ///
    /// # Errors
    /// [`DiskError::Missing`], [`DiskError::Damaged`], or where the disk fails.
    fn open(&self, table: &str) -> Result<Arc<dyn Table>, DiskError>;

    /// Removes a table and gives its space back. Readers that have it open may go on.
    ///
    /// # Errors
    /// Where the disk fails. That there is no such table is no error.
    fn remove(&self, table: &str) -> Result<(), DiskError>;

    /// Removes for good what creations and removals that were cut short have left. To be called before the
    /// first table is created, and not before the disk is known to be this node's.
    ///
    /// # Errors
    /// Where the disk fails.
    fn remove_leftovers(&self) -> Result<(), DiskError>;

    /// Lets go of a table from anywhere, also from a worker of the runtime: closing it may block, and the
    /// caller does not wait for that.
    fn release(&self, table: Arc<dyn Table>);

    /// The names of all tables, in order; not of leftovers.
    ///
    /// # Errors
    /// Where the disk fails.
    fn tables(&self) -> Result<Vec<String>, DiskError>;

    /// A small value outside all tables.
    ///
    /// # Errors
    /// Where the disk fails.
    fn read_cell(&self, name: &str) -> Result<Option<Bytes>, DiskError>;

    /// Replaces such a value, atomically; durable on return.
    ///
    /// # Errors
    /// Where the disk fails; the old value may then still stand.
    fn write_cell(&self, name: &str, value: &[u8]) -> Result<(), DiskError>;

    /// The mark, as it was last found whole; `None` where none was ever written.
    ///
    /// # Errors
    /// [`DiskError::Damaged`] where there is a mark but no whole copy of it.
    fn read_mark(&self) -> Result<Option<u64>, DiskError>;

    /// Sets the mark, cheaply: after a crash of the machine an older one may stand instead, never a newer.
    ///
    /// # Errors
    /// Where the disk fails.
    fn write_mark(&self, mark: u64) -> Result<(), DiskError>;

    /// Makes the mark durable.
    ///
    /// # Errors
    /// Where the disk fails.
    fn sync_mark(&self) -> Result<(), DiskError>;

    /// The bytes that everything here takes on disk.
    ///
    /// # Errors
    /// Where the disk fails.
    fn bytes(&self) -> Result<u64, DiskError>;

    /// Runs a long-lived task in which calls to this disk may block: on a thread of that name, or, simulated,
    /// as a task of the runtime. Called within a runtime.
    ///
    /// # Errors
    /// Where no thread can be had.
    fn drive(&self, name: &str, task: BoxFuture<'static, ()>) -> Result<(), DiskError>;

    /// Runs a piece of work in which calls to this disk may block, and waits for it. On a real disk the work
    /// goes on when the waiting is given up.
    fn offload(&self, work: BoxFuture<'static, ()>) -> BoxFuture<'static, ()>;
}

/// [`Disk::offload`] for work that returns something.
pub(crate) async fn offload<T: Send + 'static>(
    disk: &Arc<dyn Disk>,
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, DiskError> {
    let (done, result) = oneshot::channel();
    let work = async move {
        if done.send(work.await).is_err() {
            tracing::debug!("nobody waits for this disk work any more");
        }
    };
    disk.offload(Box::pin(work)).await;
    result.await.or(Err(DiskError::Gone("its worker panicked")))
}

/// A table that somebody has open who may be dropped anywhere: see [`Disk::release`].
#[derive(Debug)]
pub(crate) struct OpenTable {
    disk: Arc<dyn Disk>,
    /// Taken out only when this is dropped.
    table: Option<Arc<dyn Table>>,
}

impl OpenTable {
    pub(crate) fn new(disk: Arc<dyn Disk>, table: Arc<dyn Table>) -> Self {
        Self { disk, table: Some(table) }
    }

    /// Lets go of the table here and now, where that may block.
    pub(crate) fn close(mut self) {
        drop(self.table.take());
    }
}

impl Deref for OpenTable {
    type Target = dyn Table;

    fn deref(&self) -> &Self::Target {
        &**self.table.as_ref().expect("the table is taken out only when its holder is dropped")
    }
}

impl Drop for OpenTable {
    fn drop(&mut self) {
        if let Some(table) = self.table.take() {
            self.disk.release(table);
        }
    }
}

/// Locks, whatever became of earlier holders: each critical section here leaves its data whole, or poisons the
/// store by other means.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
