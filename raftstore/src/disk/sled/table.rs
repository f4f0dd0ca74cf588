//! One table: one sled database in its directory, and a journal beside it where it is synced often.

use super::super::{DiskError, Syncs, Table, VALUE_BYTES_MAX, lock, up_to};
use super::journal::Journal;
use super::registry::Registry;
use super::{MADE, Root, SledDisk, failed, open_file};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// sled's segments: 2 MiB, so that pages up to 512 KiB stay in its file.
const SEGMENT_BYTES: usize = 2 << 20;

/// A tree takes no more values beyond this; with overheads it stays below a quarter of a segment.
const TREE_BYTES_MAX: usize = 480 << 10;

/// What a value takes in a page beyond its own bytes, counted generously.
const VALUE_OVERHEAD: usize = 32;

/// sled's page cache, for each open table.
const CACHE_BYTES: u64 = 4 << 20;

/// The journal's name in the table's folder.
const JOURNAL: &str = "journal";

/// A table: one sled database, and its newest values.
pub(super) struct SledTable {
    name: String,
    /// Taken out only when this is dropped.
    database: Option<::sled::Db>,
    /// sled's file again, for syncing it.
    file: File,
    path: PathBuf,
    folder: PathBuf,
    /// Takes the newest values, where there is one.
    journal: Option<Mutex<Newest>>,
    /// The tree that takes the next value, and the bytes in it. New trees only ever follow it.
    last_tree: Mutex<Option<(u64, usize)>>,
    registry: Arc<Registry>,
    root: Arc<Root>,
}

/// The values of a table that is synced often, on their way to sled.
struct Newest {
    journal: Journal,
    /// Whether the journal was full since the last sync: sled has been given all that stands in it, and is given all
    /// that follows, until the next sync.
    full: bool,
    /// Whether something failed: then nobody knows what sled's file holds, and the journal stays.
    failed: bool,
}

/// Removes the notes on its file that sled was writing when its process was killed, in the middle of opening it: sled
/// takes them for finished ones, the newest even, and then for damaged. Those that are finished have another name.
fn remove_unfinished_notes(folder: &Path) -> Result<(), DiskError> {
    for entry in fs::read_dir(folder).map_err(failed("list", folder))? {
        let entry = entry.map_err(failed("list", folder))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            let path = entry.path();
            fs::remove_file(&path).map_err(failed("remove", &path))?;
        }
    }
    Ok(())
}

impl SledTable {
    /// Opens a database, or makes a `new` one, durably. One that was journalled has all its values in sled after that,
    /// and no journal of its own.
    pub(super) fn open(disk: &SledDisk, name: &str, new: Option<Syncs>) -> Result<Arc<Self>, DiskError> {
        let (folder, root) = (disk.folder(name), &disk.root);
        let (path, journal_path) = (folder.join("db"), folder.join(JOURNAL));
        if new.is_none() && path.exists() {
            // Wait for a straggler's lock; and make durable what an earlier process may have left in the
            // system's cache, before sled writes notes that rely on it.
            let file = open_file(&path)?;
            file.lock().map_err(failed("lock", &path))?;
            root.sync_data(&file, &path)?;
            remove_unfinished_notes(&folder)?;
            file.unlock().map_err(failed("unlock", &path))?;
        }
        let config = ::sled::Config::new()
            .path(&folder)
            .segment_size(SEGMENT_BYTES)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(None);
        let database = guarded(name, || config.open())?;
        let file = open_file(&path)?;
        let mut journal = None;
        if let Some(syncs) = new {
            if syncs == Syncs::Often {
                let made = Journal::create(journal_path.clone(), root)?;
                journal = Some(Mutex::new(Newest { journal: made, full: false, failed: false }));
            }
            guarded(name, || database.flush())?;
            root.sync_all(&file, &path)?;
            let conf = folder.join("conf");
            root.sync_all(&open_file(&conf)?, &conf)?;
            root.sync_folder(&folder)?;
            // Only now: a process that is killed before this leaves what the next start removes.
            open_file(&folder.join(MADE))?;
            root.sync_folder(&folder)?;
            root.sync_folder(&root.path.join("tables"))?;
        }
        let table = Self {
            name: name.to_owned(),
            database: Some(database),
            file,
            path,
            folder,
            journal,
            last_tree: Mutex::new(None),
            registry: Arc::clone(&disk.registry),
            root: Arc::clone(root),
        };
        let last = table.trees().last().copied();
        // How full an old tree is was not kept: it takes no more values beyond replacements.
        *lock(&table.last_tree) = last.map(|tree| (tree, TREE_BYTES_MAX));
        if new.is_none()
            && let Some(values) = Journal::read(&journal_path)?
        {
            table.restore(&values)?;
        }
        Ok(Arc::new(table))
    }

    /// Gives sled what a journal holds and sled has not got, durably.
    fn restore(&self, values: &BTreeMap<u64, Vec<u8>>) -> Result<(), DiskError> {
        let greatest = self.greatest()?;
        let mut missing = false;
        for (&key, value) in values {
            let tree = self.tree_of(key);
            let held = match tree {
                Some(tree) => guarded(&self.name, || {
                    self.database().open_tree(tree.to_be_bytes())?.contains_key(key.to_be_bytes())
                })?,
                None => false,
            };
            if held {
                continue;
            }
            missing = true;
            match tree.filter(|_| Some(key) < greatest) {
                // No tree begins among the numbers of another.
                Some(tree) => self.insert_into(tree, key, value)?,
                None => self.insert(key, value)?,
            }
        }
        if missing { self.flush() } else { Ok(()) }
    }

    /// The greatest number that sled holds.
    fn greatest(&self) -> Result<Option<u64>, DiskError> {
        let Some(tree) = self.trees().last().copied() else { return Ok(None) };
        let last = guarded(&self.name, || self.database().open_tree(tree.to_be_bytes())?.last())?;
        Ok(last.and_then(|(key, _)| <[u8; 8]>::try_from(&key[..]).ok()).map(u64::from_be_bytes))
    }

    fn database(&self) -> &::sled::Db {
        self.database.as_ref().expect("the database is taken out only when the table is dropped")
    }

    /// The trees' names: the first number of each, in order.
    fn trees(&self) -> Vec<u64> {
        let names = self.database().tree_names();
        let mut trees: Vec<u64> = names
            .iter()
            .filter_map(|name| <[u8; 8]>::try_from(&name[..]).ok())
            .map(u64::from_be_bytes)
            .collect();
        trees.sort_unstable();
        trees
    }

    /// The tree that `key` belongs to, where there is one.
    fn tree_of(&self, key: u64) -> Option<u64> {
        self.trees().into_iter().rev().find(|&first| first <= key)
    }

    /// The tree that a new value goes to; counts the value.
    fn tree_for(&self, key: u64, length: usize) -> u64 {
        let mut last = lock(&self.last_tree);
        let bytes = length + VALUE_OVERHEAD;
        match &mut *last {
            Some((tree, taken)) if key >= *tree && *taken + bytes <= TREE_BYTES_MAX => {
                *taken += bytes;
                *tree
            }
            Some((tree, _)) if key < *tree => self.tree_of(key).unwrap_or(key),
            _ => {
                *last = Some((key, bytes));
                key
            }
        }
    }

    fn insert(&self, key: u64, value: &[u8]) -> Result<(), DiskError> {
        self.insert_into(self.tree_for(key, value.len()), key, value)
    }

    fn insert_into(&self, tree: u64, key: u64, value: &[u8]) -> Result<(), DiskError> {
        guarded(&self.name, || {
            let tree = self.database().open_tree(tree.to_be_bytes())?;
            tree.insert(key.to_be_bytes(), value).map(|_| ())
        })
    }

    /// Makes durable what sled was given.
    fn flush(&self) -> Result<(), DiskError> {
        guarded(&self.name, || self.database().flush())?;
        self.root.sync_data(&self.file, &self.path)
    }

    /// Gives sled all values of a journal, in their order.
    fn hand_on(&self, journal: &Journal) -> Result<(), DiskError> {
        journal.values(0).try_for_each(|(key, value)| self.insert(key, value))
    }

    fn put_newest(&self, newest: &mut Newest, key: u64, value: &[u8]) -> Result<(), DiskError> {
        if !newest.full && newest.journal.has_room(value) {
            newest.journal.put(key, value);
            return Ok(());
        }
        if !newest.full {
            newest.full = true;
            self.hand_on(&newest.journal)?;
        }
        self.insert(key, value)
    }

    fn sync_newest(&self, newest: &Mutex<Newest>) -> Result<(), DiskError> {
        let full = lock(newest).full;
        if full {
            self.flush()?;
            let mut newest = lock(newest);
            newest.full = false;
            newest.journal.begin_lap();
            return Ok(());
        }
        // Readers need not wait for the disk.
        let (file, path) = lock(newest).journal.write()?;
        self.root.sync_data(&file, &path)
    }

    /// Says that something failed, where it did.
    fn noting<T>(&self, outcome: Result<T, DiskError>) -> Result<T, DiskError> {
        if let (Err(_), Some(newest)) = (&outcome, &self.journal) {
            lock(newest).failed = true;
        }
        outcome
    }

    fn scan_sled(&self, from: u64, bytes_max: usize) -> Result<Vec<(u64, Bytes)>, DiskError> {
        let trees = self.trees();
        let start = trees.partition_point(|&first| first <= from).saturating_sub(1);
        let mut found = Vec::new();
        let mut bytes = 0;
        guarded(&self.name, || {
            for tree in &trees[start..] {
                for item in self.database().open_tree(tree.to_be_bytes())?.range(from.to_be_bytes()..) {
                    let (key, value) = item?;
                    let Ok(key) = <[u8; 8]>::try_from(&key[..]) else { continue };
                    bytes += value.len();
                    found.push((u64::from_be_bytes(key), Bytes::copy_from_slice(&value)));
                    if bytes >= bytes_max {
                        return Ok(());
                    }
                }
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Leaves everything to sled, where there is a journal and nothing has failed, and removes the journal for good.
    fn close_journal(&self) -> Result<(), DiskError> {
        let Some(newest) = &self.journal else { return Ok(()) };
        let newest = lock(newest);
        if newest.failed {
            return Ok(());
        }
        if !newest.full {
            self.hand_on(&newest.journal)?;
        }
        self.flush()?;
        let journal = self.folder.join(JOURNAL);
        match fs::remove_file(&journal) {
            Ok(()) => self.root.sync_folder(&self.folder),
            // The table was removed while it was open.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(failed("remove", &journal)(error)),
        }
    }
}

impl Table for SledTable {
    fn put(&self, key: u64, value: &[u8]) -> Result<(), DiskError> {
        if value.len() > VALUE_BYTES_MAX {
            return Err(DiskError::TooLarge(value.len()));
        }
        let Some(newest) = &self.journal else { return self.insert(key, value) };
        let put = self.put_newest(&mut lock(newest), key, value);
        self.noting(put)
    }

    fn scan(&self, from: u64, bytes_max: usize) -> Result<Vec<(u64, Bytes)>, DiskError> {
        // The newest first: what is handed on to sled meanwhile is then found twice, not missed.
        let newest = self.journal.as_ref().map(|newest| lock(newest).journal.newest(from, bytes_max));
        let found = self.scan_sled(from, bytes_max)?;
        let Some(newest) = newest.filter(|newest| !newest.is_empty()) else { return Ok(found) };
        let mut merged: BTreeMap<u64, Bytes> = found.into_iter().collect();
        merged.extend(newest);
        Ok(up_to(bytes_max, merged.into_iter()).collect())
    }

    fn sync(&self) -> BoxFuture<'_, Result<(), DiskError>> {
        Box::pin(async move {
            match &self.journal {
                Some(newest) => self.noting(self.sync_newest(newest)),
                None => self.flush(),
            }
        })
    }
}

impl Drop for SledTable {
    fn drop(&mut self) {
        if let Err(error) = self.close_journal() {
            tracing::error!(table = self.name, %error, "the table's newest values were not handed on");
        }
        let database = self.database.take();
        // sled syncs while it closes, and panics where that fails.
        if catch_unwind(AssertUnwindSafe(|| drop(database))).is_err() {
            tracing::error!(table = self.name, "closing the table failed");
        }
        self.registry.closed(&self.name);
    }
}

impl fmt::Debug for SledTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SledTable").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Calls into sled, whose panics at damage become errors.
fn guarded<T>(table: &str, work: impl FnOnce() -> ::sled::Result<T>) -> Result<T, DiskError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(::sled::Error::Io(error))) => Err(DiskError::io(format!("table {table}"))(error)),
        Ok(Err(error)) => Err(DiskError::damaged(format!("table {table}"), error.to_string())),
        Err(_) => Err(DiskError::damaged(format!("table {table}"), "sled panicked")),
    }
}
