//! A node's disk with every change of it traced, and with a note of the first one that the device refused.

use crate::trace::Trace;
use crate::wire::Plug;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use raftstore::{Disk, DiskError, SimulatedDisk, Syncs, Table};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the device has refused anything; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Refused(Arc<AtomicBool>);

impl Refused {
    /// Whether it has.
    pub fn has(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct TracedDisk {
    disk: SimulatedDisk,
    node: u64,
    trace: Trace,
    refused: Refused,
    lies: bool,
    plug: Plug,
}

impl TracedDisk {
    /// `disk` as `node`, plugged in by `plug`, has it; one that `lies` reports syncs that it has not made.
    pub fn new(
        disk: SimulatedDisk,
        node: u64,
        trace: &Trace,
        refused: &Refused,
        lies: bool,
        plug: &Plug,
    ) -> Self {
        let (trace, refused, plug) = (trace.clone(), refused.clone(), plug.clone());
        Self { disk, node, trace, refused, lies, plug }
    }

    fn note<T>(
        &self,
        what: &str,
        name: &str,
        bytes: &[u8],
        done: Result<T, DiskError>,
    ) -> Result<T, DiskError> {
        let (node, length, crc) = (self.node, bytes.len(), crc32fast::hash(bytes));
        match &done {
            Ok(_) => self.trace.note(format_args!("n{node} disk {what} {name} {length} {crc:08x}")),
            Err(error) => {
                if matches!(error, DiskError::Io { .. }) {
                    self.refused.0.store(true, Ordering::Relaxed);
                }
                self.trace.note(format_args!("n{node} disk {what} {name} {length}: {error}"));
            }
        }
        done
    }

    fn table(&self, name: &str, table: Arc<dyn Table>) -> Arc<dyn Table> {
        Arc::new(TracedTable { table, name: name.into(), disk: self.clone() })
    }
}

impl Disk for TracedDisk {
    fn create(&self, table: &str, syncs: Syncs) -> Result<Arc<dyn Table>, DiskError> {
        let created = self.note("create", table, &[], self.disk.create(table, syncs))?;
        Ok(self.table(table, created))
    }

    fn open(&self, table: &str) -> Result<Arc<dyn Table>, DiskError> {
        Ok(self.table(table, self.disk.open(table)?))
    }

    fn remove(&self, table: &str) -> Result<(), DiskError> {
        self.note("remove", table, &[], self.disk.remove(table))
    }

    fn remove_leftovers(&self) -> Result<(), DiskError> {
        self.disk.remove_leftovers()
    }

    fn release(&self, table: Arc<dyn Table>) {
        self.disk.release(table);
    }

    fn tables(&self) -> Result<Vec<String>, DiskError> {
        self.disk.tables()
    }

    fn read_cell(&self, name: &str) -> Result<Option<Bytes>, DiskError> {
        self.disk.read_cell(name)
    }

    fn write_cell(&self, name: &str, value: &[u8]) -> Result<(), DiskError> {
        self.note("cell", name, value, self.disk.write_cell(name, value))
    }

    fn read_mark(&self) -> Result<Option<u64>, DiskError> {
        self.disk.read_mark()
    }

    fn write_mark(&self, mark: u64) -> Result<(), DiskError> {
        self.note("mark", "", &mark.to_le_bytes(), self.disk.write_mark(mark))
    }

    fn sync_mark(&self) -> Result<(), DiskError> {
        self.note("sync mark", "", &[], self.disk.sync_mark())
    }

    fn bytes(&self) -> Result<u64, DiskError> {
        self.disk.bytes()
    }

    fn drive(&self, name: &str, task: BoxFuture<'static, ()>) -> Result<(), DiskError> {
        self.disk.drive(name, task)
    }

    fn offload(&self, work: BoxFuture<'static, ()>) -> BoxFuture<'static, ()> {
        self.disk.offload(work)
    }
}

#[derive(Debug)]
struct TracedTable {
    table: Arc<dyn Table>,
    name: Box<str>,
    disk: TracedDisk,
}

impl Table for TracedTable {
    fn put(&self, key: u64, value: &[u8]) -> Result<(), DiskError> {
        self.disk.note("put", &self.name, value, self.table.put(key, value))
    }

    fn scan(&self, from: u64, bytes_max: usize) -> Result<Vec<(u64, Bytes)>, DiskError> {
        self.table.scan(from, bytes_max)
    }

    fn sync(&self) -> BoxFuture<'_, Result<(), DiskError>> {
        Box::pin(async move {
            let synced = if self.disk.lies { Ok(()) } else { self.table.sync().await };
            // Whoever stands still does not hear of it. Whose power is gone finds that out by itself.
            drop(self.disk.plug.runs().await);
            self.disk.note("sync", &self.name, &[], synced)
        })
    }
}
