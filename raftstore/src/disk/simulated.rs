//! A disk in memory that forgets what was not synced, fails when told to, and does the same again for the same
//! seed.
//!
//! It keeps two states: what reads see, and what is durable. The difference is a list of writes for each table
//! and a list of changes to the directory (tables made and removed). A crash keeps a prefix of each list, of
//! which the seed decides, and may damage the last value that it keeps.

use super::{Disk, DiskError, Syncs, Table, VALUE_BYTES_MAX, lock, up_to};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A fault of the device, as programs see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The device failed: EIO.
    Failed,
    /// The device is full: ENOSPC.
    Full,
}

impl Fault {
    fn error(self, during: &str) -> DiskError {
        let kind = match self {
            Self::Failed => io::Error::other("input/output error"),
            Self::Full => io::Error::from(io::ErrorKind::StorageFull),
        };
        DiskError::io(during)(kind)
    }
}

/// What becomes of the operation during which the power goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It did not happen.
    Lost,
    /// It happened, but nobody was told.
    Done,
}

/// What a disk was asked to do so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskCounters {
    /// Everything below, and tables made and removed, cells and marks written: where
    /// [`SimulatedDisk::die_at`] can strike.
    pub operations: u64,
    /// Values put.
    pub writes: u64,
    /// Bytes of these values.
    pub bytes_written: u64,
    /// Tables synced.
    pub syncs: u64,
}

/// A disk in memory that keeps what was synced apart from what was not, and fails when told to. Handles share
/// one disk.
#[derive(Clone, Debug, Default)]
pub struct SimulatedDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Clone, Debug, Default)]
struct State {
    /// Names as reads see them.
    names: BTreeMap<String, u64>,
    /// Names as a crash leaves them, before any of `changes`.
    durable_names: BTreeMap<String, u64>,
    /// Unsynced changes of the directory, oldest first.
    changes: Vec<Change>,
    /// Every table under either kind of name, or held open.
    contents: BTreeMap<u64, Contents>,
    next_id: u64,
    cells: BTreeMap<String, Bytes>,
    mark: Option<u64>,
    durable_mark: Option<u64>,
    sync_delay: Duration,
    counters: DiskCounters,
    fail_write: Option<(u64, Fault)>,
    fail_sync: Option<(u64, Fault)>,
    die_at: Option<(u64, Effect)>,
    dead: bool,
}

#[derive(Clone, Debug)]
enum Change {
    Made(String, u64),
    Removed(String),
}

#[derive(Clone, Debug, Default)]
struct Contents {
    visible: BTreeMap<u64, Bytes>,
    durable: BTreeMap<u64, Bytes>,
    /// Unsynced writes, oldest first.
    pending: Vec<(u64, Bytes)>,
    /// Open handles: a removed table goes with its last.
    handles: usize,
}

impl SimulatedDisk {
    /// An empty disk that is as fast as the clock.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets each sync take this long, by tokio's clock.
    pub fn set_sync_delay(&self, delay: Duration) {
        lock(&self.state).sync_delay = delay;
    }

    /// Lets the write after `successes` more fail.
    pub fn fail_write(&self, successes: u64, fault: Fault) {
        let mut state = lock(&self.state);
        state.fail_write = Some((state.counters.writes + successes, fault));
    }

    /// Lets the sync after `successes` more fail. What it should have made durable never will be, even where a
    /// later sync succeeds: so do systems that drop failed pages from their cache.
    pub fn fail_sync(&self, successes: u64, fault: Fault) {
        let mut state = lock(&self.state);
        state.fail_sync = Some((state.counters.syncs + successes, fault));
    }

    /// Cuts the power at the operation after `successes` more: it and everything later fails. What survives is
    /// for [`crash`](Self::crash) to say.
    pub fn die_at(&self, successes: u64, effect: Effect) {
        let mut state = lock(&self.state);
        state.die_at = Some((state.counters.operations + successes, effect));
    }

    /// Whether the power went, by [`die_at`](Self::die_at) or [`crash`](Self::crash).
    pub fn is_dead(&self) -> bool {
        lock(&self.state).dead
    }

    /// Cuts the power. Returns the disk as the machine finds it when it starts again; this one, and every
    /// handle to it, is dead from now on.
    pub fn crash(&self, seed: u64) -> Self {
        let mut state = lock(&self.state);
        state.dead = true;
        let survived = state.survivors(&mut StdRng::seed_from_u64(seed));
        Self { state: Arc::new(Mutex::new(survived)) }
    }

    /// A copy of the disk as it stands, unsynced changes and all; neither knows of the other.
    pub fn duplicate(&self) -> Self {
        let mut state = lock(&self.state).clone();
        state.contents.values_mut().for_each(|table| table.handles = 0);
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Flips one bit of one durable value, both chosen by `seed`, and says in which table and under which
    /// number. `None` where there is no value.
    pub fn flip_bit(&self, seed: u64) -> Option<(String, u64)> {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut state = lock(&self.state);
        let State { names, contents, .. } = &mut *state;
        let mut places = Vec::new();
        for (name, id) in names.iter() {
            let values = contents.get(id).into_iter().flat_map(|table| &table.durable);
            places.extend(values.filter(|(_, value)| !value.is_empty()).map(|(&key, _)| (name, *id, key)));
        }
        if places.is_empty() {
            return None;
        }
        let (name, id, key) = places[rng.random_range(0..places.len())];
        let table = contents.get_mut(&id)?;
        let mut value = table.durable.get(&key)?.to_vec();
        let at = rng.random_range(0..value.len());
        value[at] ^= 1 << rng.random_range(0..8);
        table.durable.insert(key, value.clone().into());
        table.visible.insert(key, value.into());
        Some((name.clone(), key))
    }

    /// What was asked of this disk so far.
    pub fn counters(&self) -> DiskCounters {
        lock(&self.state).counters
    }

    fn handle(&self, id: u64, name: &str) -> Arc<dyn Table> {
        lock(&self.state).table(id).handles += 1;
        Arc::new(SimulatedTable { disk: self.clone(), id, name: name.to_owned() })
    }
}

impl State {
    fn alive(&self) -> Result<(), DiskError> {
        if self.dead { Err(DiskError::Gone("the power went")) } else { Ok(()) }
    }

    /// Counts a change and carries it out, unless the power goes.
    fn operate<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, DiskError>) -> Result<T, DiskError> {
        self.alive()?;
        let number = self.counters.operations;
        self.counters.operations += 1;
        match self.die_at {
            Some((at, effect)) if at == number => {
                if effect == Effect::Done {
                    work(self)?;
                }
                self.dead = true;
                self.alive()?;
                Err(DiskError::Gone("the power went"))
            }
            _ => work(self),
        }
    }

    fn table(&mut self, id: u64) -> &mut Contents {
        self.contents.entry(id).or_default()
    }

    fn put(&mut self, id: u64, key: u64, value: &[u8]) -> Result<(), DiskError> {
        let number = self.counters.writes;
        self.counters.writes += 1;
        self.counters.bytes_written += value.len() as u64;
        if let Some((_, fault)) = self.fail_write.filter(|(at, _)| *at == number) {
            return Err(fault.error("write"));
        }
        let value = Bytes::copy_from_slice(value);
        let table = self.table(id);
        table.visible.insert(key, value.clone());
        table.pending.push((key, value));
        Ok(())
    }

    fn sync(&mut self, id: u64) -> Result<(), DiskError> {
        let number = self.counters.syncs;
        self.counters.syncs += 1;
        let failed = self.fail_sync.filter(|(at, _)| *at == number);
        let table = self.table(id);
        let pending = std::mem::take(&mut table.pending);
        if let Some((_, fault)) = failed {
            return Err(fault.error("sync"));
        }
        table.durable.extend(pending);
        // The directory's changes are kept in order, so those before this table's making come along.
        let made = |change: &Change| matches!(change, Change::Made(_, made) if *made == id);
        if let Some(last) = self.changes.iter().rposition(made) {
            for change in self.changes.drain(..=last).collect::<Vec<_>>() {
                change.apply(&mut self.durable_names);
            }
            self.collect();
        }
        Ok(())
    }

    /// Frees what no name and no handle leads to.
    fn collect(&mut self) {
        let Self { names, durable_names, changes, contents, .. } = self;
        let named = |id: u64| names.values().chain(durable_names.values()).any(|&named| named == id);
        let made =
            |id: u64| changes.iter().any(|change| matches!(change, Change::Made(_, made) if *made == id));
        contents.retain(|&id, table| table.handles > 0 || named(id) || made(id));
    }

    fn survivors(&self, rng: &mut StdRng) -> Self {
        let mut names = self.durable_names.clone();
        let kept = rng.random_range(0..=self.changes.len());
        for change in &self.changes[..kept] {
            change.clone().apply(&mut names);
        }
        let mut contents = BTreeMap::new();
        for id in names.values() {
            let table = self.contents.get(id).cloned().unwrap_or_default();
            let durable = table.survivors(rng);
            contents.insert(*id, Contents { visible: durable.clone(), durable, ..Contents::default() });
        }
        let mark = if rng.random_bool(0.5) { self.mark } else { self.durable_mark };
        Self {
            durable_names: names.clone(),
            names,
            contents,
            next_id: self.next_id,
            cells: self.cells.clone(),
            mark,
            durable_mark: mark,
            sync_delay: self.sync_delay,
            ..Self::default()
        }
    }
}

impl Change {
    fn apply(self, names: &mut BTreeMap<String, u64>) {
        match self {
            Self::Made(name, id) => {
                names.insert(name, id);
            }
            Self::Removed(name) => {
                names.remove(&name);
            }
        }
    }
}

impl Contents {
    /// The durable values and a prefix of the others, the last of which may be cut or garbled.
    fn survivors(&self, rng: &mut StdRng) -> BTreeMap<u64, Bytes> {
        let mut durable = self.durable.clone();
        let kept = rng.random_range(0..=self.pending.len());
        durable.extend(self.pending[..kept].iter().cloned());
        if let Some((key, value)) = kept.checked_sub(1).map(|last| &self.pending[last])
            && !value.is_empty()
        {
            let mut torn = value.to_vec();
            match rng.random_range(0..3) {
                0 => torn.truncate(rng.random_range(0..value.len())),
                1 => {
                    let from = rng.random_range(0..value.len());
                    torn[from..].fill(0);
                }
                _ => {}
            }
            durable.insert(*key, torn.into());
        }
        durable
    }
}

impl Disk for SimulatedDisk {
    fn create(&self, table: &str, _: Syncs) -> Result<Arc<dyn Table>, DiskError> {
        let id = lock(&self.state).operate(|state| {
            if state.names.contains_key(table) {
                return Err(DiskError::Exists(table.to_owned()));
            }
            let id = state.next_id;
            state.next_id += 1;
            state.names.insert(table.to_owned(), id);
            state.changes.push(Change::Made(table.to_owned(), id));
            state.contents.insert(id, Contents::default());
            Ok(id)
        })?;
        Ok(self.handle(id, table))
    }

    fn open(&self, table: &str) -> Result<Arc<dyn Table>, DiskError> {
        let state = lock(&self.state);
        state.alive()?;
        let id = state.names.get(table).copied();
        drop(state);
        id.map(|id| self.handle(id, table)).ok_or_else(|| DiskError::Missing(table.to_owned()))
    }

    fn remove(&self, table: &str) -> Result<(), DiskError> {
        lock(&self.state).operate(|state| {
            if state.names.remove(table).is_some() {
                state.changes.push(Change::Removed(table.to_owned()));
            }
            Ok(())
        })
    }

    /// There are none: making and removing are one step here.
    fn remove_leftovers(&self) -> Result<(), DiskError> {
        lock(&self.state).alive()
    }

    fn release(&self, table: Arc<dyn Table>) {
        drop(table);
    }

    fn tables(&self) -> Result<Vec<String>, DiskError> {
        let state = lock(&self.state);
        state.alive()?;
        Ok(state.names.keys().cloned().collect())
    }

    fn read_cell(&self, name: &str) -> Result<Option<Bytes>, DiskError> {
        let state = lock(&self.state);
        state.alive()?;
        Ok(state.cells.get(name).cloned())
    }

    fn write_cell(&self, name: &str, value: &[u8]) -> Result<(), DiskError> {
        lock(&self.state).operate(|state| {
            state.cells.insert(name.to_owned(), Bytes::copy_from_slice(value));
            Ok(())
        })
    }

    fn read_mark(&self) -> Result<Option<u64>, DiskError> {
        let state = lock(&self.state);
        state.alive()?;
        Ok(state.mark)
    }

    fn write_mark(&self, mark: u64) -> Result<(), DiskError> {
        lock(&self.state).operate(|state| {
            state.mark = Some(mark);
            Ok(())
        })
    }

    fn sync_mark(&self) -> Result<(), DiskError> {
        lock(&self.state).operate(|state| {
            state.durable_mark = state.mark;
            Ok(())
        })
    }

    fn bytes(&self) -> Result<u64, DiskError> {
        let state = lock(&self.state);
        state.alive()?;
        let tables = state.names.values().filter_map(|id| state.contents.get(id));
        Ok(tables.flat_map(|table| table.visible.values()).map(|value| value.len() as u64).sum())
    }

    fn drive(&self, _name: &str, task: BoxFuture<'static, ()>) -> Result<(), DiskError> {
        drop(tokio::spawn(task));
        Ok(())
    }

    fn offload(&self, work: BoxFuture<'static, ()>) -> BoxFuture<'static, ()> {
        work
    }
}

#[derive(Debug)]
struct SimulatedTable {
    disk: SimulatedDisk,
    id: u64,
    name: String,
}

impl Table for SimulatedTable {
    fn put(&self, key: u64, value: &[u8]) -> Result<(), DiskError> {
        if value.len() > VALUE_BYTES_MAX {
            return Err(DiskError::TooLarge(value.len()));
        }
        lock(&self.disk.state).operate(|state| state.put(self.id, key, value))
    }

    fn scan(&self, from: u64, bytes_max: usize) -> Result<Vec<(u64, Bytes)>, DiskError> {
        let mut state = lock(&self.disk.state);
        state.alive()?;
        let values = state.table(self.id).visible.range(from..).map(|(&key, value)| (key, value.clone()));
        Ok(up_to(bytes_max, values).collect())
    }

    fn sync(&self) -> BoxFuture<'_, Result<(), DiskError>> {
        Box::pin(async move {
            let delay = lock(&self.disk.state).sync_delay;
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            tracing::trace!(table = self.name, "sync");
            lock(&self.disk.state).operate(|state| state.sync(self.id))
        })
    }
}

impl Drop for SimulatedTable {
    fn drop(&mut self) {
        let mut state = lock(&self.disk.state);
        state.table(self.id).handles -= 1;
        state.collect();
    }
}
