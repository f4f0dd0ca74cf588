//! The real disk: every table is a small, short-lived sled database in a directory of its own.
//!
//! ```text
//! <root>/lock            held locked while the directory is open
//! <root>/mark            see [`super::mark`]
//! <root>/cells/<name>    replaced by rename
//! <root>/tables/<name>/  a sled database; with the file `made` once it was whole and durable, and, while it is
//!                        synced often, the file `journal`: see [`journal`]
//! <root>/tables/removed.<name>/  on its way out; removed for good at the next start
//! ```
//!
//! What sled 0.34.7 does and does not promise shapes this file:
//! - Its flush is `sync_file_range`, which neither writes the file's size nor empties the drive's cache. So
//!   [`Table::sync`] flushes and then syncs sled's file through a handle of our own.
//! - A flush wakes all seven threads of its pool, whatever it has to write. A table that is synced often syncs a
//!   [`journal`] instead, and gives sled its values by the quarter of a mebibyte.
//! - A batch of values is written behind a note of its own, one that waits for every flush in the process, and whose
//!   failure wakes nobody. Values are put one by one.
//! - A page larger than a quarter of a segment leaves the file for one under `blobs/`, which nobody syncs.
//!   A page holds at most one tree's values, so a tree is closed to new values before it could outgrow that
//!   quarter (see [`table`]), and the next one begins, named by its first number.
//! - Values of one tree are rewritten together from the tenth on. Few large values to a tree, as above, keep
//!   the disk's use near what was put.
//! - While it opens a database it writes notes on its file under a name of their own first, `snap.….generating`,
//!   but reads those left by a killed process as if they were finished. They are removed before.
//! - At damage in the middle of its file it keeps what comes before and forgets the rest, without a word, or
//!   panics. Panics become [`DiskError::Damaged`] here; forgotten values are the log's to notice.
//! - A thread of its pool may hold the file, and so its lock, for a moment after the database was dropped.
//!   Opening waits for that lock first.

mod journal;
mod registry;
mod syncer;
mod table;

#[cfg(test)]
mod tests;

use super::mark::{SLOT_BYTES, SLOT_OFFSETS, put_slot, take_slot};
use super::{Disk, DiskError, Syncs, Table, lock};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use registry::Registry;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use syncer::{Syncer, SystemSyncer};
use table::SledTable;
use tokio::runtime::Handle;

const REMOVED: &str = "removed.";

/// The file in a table's folder that says that its creation was finished.
const MADE: &str = "made";

/// The real disk: a directory, in which every table is a small sled database.
#[derive(Debug)]
pub struct SledDisk {
    root: Arc<Root>,
    mark: Mutex<Mark>,
    registry: Arc<Registry>,
}

/// The directory, locked. Open tables hold it too, so that the lock outlives them.
#[derive(Debug)]
struct Root {
    path: PathBuf,
    syncer: Arc<dyn Syncer>,
    _lock: File,
}

impl Root {
    fn sync_data(&self, file: &File, path: &Path) -> Result<(), DiskError> {
        self.syncer.sync_data(file, path).map_err(failed("sync", path))
    }

    fn sync_all(&self, file: &File, path: &Path) -> Result<(), DiskError> {
        self.syncer.sync_all(file, path).map_err(failed("sync", path))
    }

    fn sync_folder(&self, path: &Path) -> Result<(), DiskError> {
        sync_folder(&*self.syncer, path)
    }
}

#[derive(Debug)]
struct Mark {
    file: Option<Arc<File>>,
    /// Whether the file's name is durable.
    named: bool,
    /// The slot that the next mark goes to: never the one that holds the greatest.
    next_slot: usize,
}

impl SledDisk {
    /// Opens the data directory, which is made where there is none.
    ///
    /// # Errors
    /// [`DiskError::InUse`] where another process has it open, [`DiskError::Io`] where it cannot be used.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, DiskError> {
        Self::open_with(path.as_ref(), Arc::new(SystemSyncer))
    }

    fn open_with(path: &Path, syncer: Arc<dyn Syncer>) -> Result<Self, DiskError> {
        for folder in [path.to_path_buf(), path.join("tables"), path.join("cells")] {
            fs::create_dir_all(&folder).map_err(failed("create", &folder))?;
        }
        let lock = open_file(&path.join("lock"))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => DiskError::InUse(path.display().to_string()),
            TryLockError::Error(error) => failed("lock", path)(error),
        })?;
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            sync_folder(&*syncer, parent)?;
        }
        sync_folder(&*syncer, path)?;
        Ok(Self {
            root: Arc::new(Root { path: path.to_path_buf(), syncer, _lock: lock }),
            mark: Mutex::new(Mark { file: None, named: false, next_slot: 0 }),
            registry: Arc::default(),
        })
    }

    fn folder(&self, table: &str) -> PathBuf {
        self.root.path.join("tables").join(table)
    }

    /// What stands in the tables' folder, in order: the tables, or what creations and removals that were cut
    /// short have left. Nothing was ever put into a table that is not marked as made: it is handed out only
    /// then.
    fn entries(&self, leftovers: bool) -> Result<Vec<String>, DiskError> {
        let folder = self.root.path.join("tables");
        let mut names = Vec::new();
        for entry in fs::read_dir(&folder).map_err(failed("list", &folder))? {
            let entry = entry.map_err(failed("list", &folder))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if (name.starts_with(REMOVED) || !self.is_made(&name)?) == leftovers {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Where the disk cannot say, nobody guesses.
    fn is_made(&self, table: &str) -> Result<bool, DiskError> {
        let folder = self.folder(table);
        folder.join(MADE).try_exists().map_err(failed("look into", &folder))
    }

    /// The names of the tables that are open, in order.
    #[cfg(test)]
    pub(crate) fn open_tables(&self) -> Vec<String> {
        self.registry.open()
    }

    fn mark_path(&self) -> PathBuf {
        self.root.path.join("mark")
    }

    fn mark_file(&self, mark: &mut Mark) -> Result<Arc<File>, DiskError> {
        if mark.file.is_none() {
            mark.file = Some(Arc::new(open_file(&self.mark_path())?));
        }
        Ok(Arc::clone(mark.file.as_ref().expect("the file was opened just now")))
    }
}

impl Disk for SledDisk {
    fn create(&self, table: &str, syncs: Syncs) -> Result<Arc<dyn Table>, DiskError> {
        let exists = || DiskError::Exists(table.to_owned());
        let Err(claim) = self.registry.find(table) else { return Err(exists()) };
        let folder = self.folder(table);
        fs::create_dir(&folder).map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => exists(),
            _ => failed("create", &folder)(error),
        })?;
        let made = SledTable::open(self, table, Some(syncs))?;
        claim.opened(&made);
        Ok(made)
    }

    fn open(&self, table: &str) -> Result<Arc<dyn Table>, DiskError> {
        let claim = match self.registry.find(table) {
            Ok(open) => return Ok(open),
            Err(claim) => claim,
        };
        if !self.is_made(table)? {
            return Err(DiskError::Missing(table.to_owned()));
        }
        let opened = SledTable::open(self, table, None)?;
        claim.opened(&opened);
        Ok(opened)
    }

    fn remove(&self, table: &str) -> Result<(), DiskError> {
        let (folder, removed) = (self.folder(table), self.folder(&format!("{REMOVED}{table}")));
        // Renamed first: a crash half-way must not leave what looks like an empty table.
        let claim = self.registry.claim(table);
        let renamed = fs::rename(&folder, &removed);
        drop(claim);
        match renamed {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed("remove", &folder)(error)),
        }
        self.root.sync_folder(&self.root.path.join("tables"))?;
        fs::remove_dir_all(&removed).map_err(failed("remove", &removed))
    }

    fn remove_leftovers(&self) -> Result<(), DiskError> {
        for name in self.entries(true)? {
            let folder = self.folder(&name);
            fs::remove_dir_all(&folder).map_err(failed("remove", &folder))?;
        }
        Ok(())
    }

    fn release(&self, table: Arc<dyn Table>) {
        let Ok(runtime) = Handle::try_current() else { return drop(table) };
        let releasing = Registry::release(&self.registry, table);
        drop(runtime.spawn_blocking(move || drop(releasing)));
    }

    fn tables(&self) -> Result<Vec<String>, DiskError> {
        self.entries(false)
    }

    fn read_cell(&self, name: &str) -> Result<Option<Bytes>, DiskError> {
        let path = self.root.path.join("cells").join(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &path)(error)),
        }
    }

    fn write_cell(&self, name: &str, value: &[u8]) -> Result<(), DiskError> {
        let folder = self.root.path.join("cells");
        let (path, next) = (folder.join(name), folder.join(format!("{name}.next")));
        let write = || {
            let file = File::create(&next)?;
            file.write_all_at(value, 0)?;
            self.root.syncer.sync_all(&file, &next)?;
            fs::rename(&next, &path)
        };
        write().map_err(failed("write", &path))?;
        self.root.sync_folder(&folder)
    }

    fn read_mark(&self) -> Result<Option<u64>, DiskError> {
        let path = self.mark_path();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("read", &path)(error)),
        };
        let slot = |offset: u64| {
            let from = usize::try_from(offset).ok()?;
            take_slot(bytes.get(from..from + SLOT_BYTES)?)
        };
        let [first, second] = SLOT_OFFSETS.map(slot);
        let greatest = first.max(second);
        lock(&self.mark).next_slot = usize::from(first >= second);
        match greatest {
            // Nothing whole, but nothing else either: its creation was cut short.
            None if bytes.iter().all(|&byte| byte == 0) => Ok(None),
            None => Err(DiskError::damaged(path.display().to_string(), "neither copy is whole")),
            Some(mark) => Ok(Some(mark)),
        }
    }

    fn write_mark(&self, value: u64) -> Result<(), DiskError> {
        let mut mark = lock(&self.mark);
        let file = self.mark_file(&mut mark)?;
        let offset = SLOT_OFFSETS[mark.next_slot];
        file.write_all_at(&put_slot(value), offset).map_err(failed("write", &self.mark_path()))?;
        mark.next_slot = 1 - mark.next_slot;
        Ok(())
    }

    fn sync_mark(&self) -> Result<(), DiskError> {
        let (file, named) = {
            let mut mark = lock(&self.mark);
            (self.mark_file(&mut mark)?, mark.named)
        };
        // Marks may be written meanwhile.
        self.root.sync_data(&file, &self.mark_path())?;
        if !named {
            self.root.sync_folder(&self.root.path)?;
            lock(&self.mark).named = true;
        }
        Ok(())
    }

    fn bytes(&self) -> Result<u64, DiskError> {
        folder_bytes(&self.root.path)
    }

    fn drive(&self, name: &str, task: BoxFuture<'static, ()>) -> Result<(), DiskError> {
        let runtime = Handle::current();
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || runtime.block_on(task))
            .map(|_| ())
            .map_err(DiskError::io(format!("start thread {name}")))
    }

    fn offload(&self, work: BoxFuture<'static, ()>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let runtime = Handle::current();
            if let Err(error) = tokio::task::spawn_blocking(move || runtime.block_on(work)).await {
                tracing::error!(%error, "disk work was lost");
            }
        })
    }
}

impl Drop for SledDisk {
    /// Whoever opens the directory next finds it free of what was let go of here. This may block for as long
    /// as a few tables take to close, once in the disk's life.
    fn drop(&mut self) {
        self.registry.settle();
    }
}

fn failed(what: &str, path: &Path) -> impl FnOnce(std::io::Error) -> DiskError {
    DiskError::io(format!("{what} {}", path.display()))
}

fn open_file(path: &Path) -> Result<File, DiskError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).open(path).map_err(failed("open", path))
}

fn sync_folder(syncer: &dyn Syncer, path: &Path) -> Result<(), DiskError> {
    File::open(path).and_then(|folder| syncer.sync_all(&folder, path)).map_err(failed("sync", path))
}

fn folder_bytes(path: &Path) -> Result<u64, DiskError> {
    let mut bytes = 0;
    // What is removed meanwhile counts as nothing.
    let gone = |error: &std::io::Error| error.kind() == ErrorKind::NotFound;
    let entries = match fs::read_dir(path) {
        Err(error) if gone(&error) => return Ok(0),
        entries => entries.map_err(failed("list", path))?,
    };
    for entry in entries {
        let entry = entry.map_err(failed("list", path))?;
        let metadata = match entry.metadata() {
            Err(error) if gone(&error) => continue,
            metadata => metadata.map_err(failed("measure", path))?,
        };
        bytes += if metadata.is_dir() { folder_bytes(&entry.path())? } else { metadata.blocks() * 512 };
    }
    Ok(bytes)
}
