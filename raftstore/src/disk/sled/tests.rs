//! What the real disk makes durable, and when; and who waits for whom.

use super::*;
use crate::disk::OpenTable;
use futures_util::FutureExt;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;
use tempfile::TempDir;

/// One sync, as the disk asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Synced {
    path: PathBuf,
    inode: u64,
    /// What stood in the file; nothing for a folder.
    bytes: Vec<u8>,
}

/// Writes down every sync, and fails those of one path on demand.
#[derive(Debug, Default)]
struct Witness {
    syncs: Mutex<Vec<Synced>>,
    fails: Mutex<Option<PathBuf>>,
}

impl Witness {
    fn note(&self, file: &File, path: &Path) -> std::io::Result<()> {
        let inode = file.metadata()?.ino();
        let bytes = if path.is_dir() { Vec::new() } else { fs::read(path)? };
        lock(&self.syncs).push(Synced { path: path.to_path_buf(), inode, bytes });
        if lock(&self.fails).as_deref() == Some(path) {
            return Err(std::io::Error::other("input/output error"));
        }
        Ok(())
    }

    /// The syncs since this was last asked.
    fn take(&self) -> Vec<Synced> {
        std::mem::take(&mut lock(&self.syncs))
    }

    fn fail(&self, path: Option<PathBuf>) {
        *lock(&self.fails) = path;
    }
}

impl Syncer for Witness {
    fn sync_data(&self, file: &File, path: &Path) -> std::io::Result<()> {
        self.note(file, path)
    }

    fn sync_all(&self, file: &File, path: &Path) -> std::io::Result<()> {
        self.note(file, path)
    }
}

fn witnessed() -> (TempDir, Arc<Witness>, SledDisk) {
    let (folder, witness) = (TempDir::new().unwrap(), Arc::new(Witness::default()));
    let disk = SledDisk::open_with(folder.path(), witness.clone()).unwrap();
    witness.take();
    (folder, witness, disk)
}

fn paths(syncs: &[Synced]) -> Vec<&Path> {
    syncs.iter().map(|synced| &*synced.path).collect()
}

fn sync(table: &dyn Table) -> Result<(), DiskError> {
    table.sync().now_or_never().unwrap()
}

fn contains(bytes: &[u8], value: &[u8]) -> bool {
    bytes.windows(value.len()).any(|window| window == value)
}

/// Each sync of a table has sled's own file synced, once, when what was put stands in it: sled's flush alone
/// is not durable. A sync that fails is not taken for one that succeeded.
#[test]
fn a_tables_sync_syncs_its_file() {
    let (folder, witness, disk) = witnessed();
    let table = disk.create("t").unwrap();
    let path = folder.path().join("tables/t/db");
    let inode = fs::metadata(&path).unwrap().ino();
    for number in 0..3 {
        let value = format!("a value that nothing else in the file looks like: {number}").into_bytes();
        table.put(number, &value).unwrap();
        witness.take();
        sync(&*table).unwrap();
        let syncs = witness.take();
        assert_eq!(paths(&syncs), [&path]);
        assert_eq!(syncs[0].inode, inode);
        assert!(contains(&syncs[0].bytes, &value), "value {number} was not in the file when it was synced");
    }
    witness.fail(Some(path));
    let error = sync(&*table).unwrap_err();
    assert!(matches!(&error, DiskError::Io { during, .. } if during.contains("tables/t/db")), "{error}");
}

/// A new table's file, sled's settings, and the names of all of them are durable before anyone has the table.
#[test]
fn a_new_table_is_durable() {
    let (folder, witness, disk) = witnessed();
    let _table = disk.create("t").unwrap();
    let tables = folder.path().join("tables");
    let table = tables.join("t");
    let want = [table.join("db"), table.join("conf"), table.clone(), table, tables];
    assert_eq!(paths(&witness.take()), want);
}

/// What an earlier process left of a table in the system's cache is durable before sled looks at it.
#[test]
fn a_table_that_is_opened_is_synced_first() {
    let (folder, witness, disk) = witnessed();
    drop(disk.create("t").unwrap());
    witness.take();
    let _table = disk.open("t").unwrap();
    assert_eq!(paths(&witness.take()), [folder.path().join("tables/t/db")]);
}

/// A cell is replaced once its new value is durable, and its name after that.
#[test]
fn a_cell_is_durable() {
    let (folder, witness, disk) = witnessed();
    let cells = folder.path().join("cells");
    disk.write_cell("c", b"value").unwrap();
    let syncs = witness.take();
    assert_eq!(paths(&syncs), [&cells.join("c.next"), &cells]);
    assert_eq!(syncs[0].bytes, b"value");
    assert_eq!(disk.read_cell("c").unwrap().unwrap(), "value");
}

/// The mark's file is synced each time, and its name until that has succeeded once: a failure is not
/// remembered as a success.
#[test]
fn a_marks_name_is_durable_once_its_sync_succeeded() {
    let (folder, witness, disk) = witnessed();
    let (root, mark) = (folder.path().to_path_buf(), folder.path().join("mark"));
    disk.write_mark(1).unwrap();
    for failing in [&mark, &root] {
        witness.fail(Some(failing.clone()));
        disk.sync_mark().unwrap_err();
        witness.take();
    }
    witness.fail(None);
    disk.sync_mark().unwrap();
    assert_eq!(paths(&witness.take()), [&mark, &root]);
    disk.write_mark(2).unwrap();
    disk.sync_mark().unwrap();
    assert_eq!(paths(&witness.take()), [&mark]);
    assert_eq!(disk.read_mark().unwrap(), Some(2));
}

/// Lets the creation of the table "slow" wait until another was created.
#[derive(Debug)]
struct Gate {
    reached: mpsc::SyncSender<()>,
    passed: Mutex<mpsc::Receiver<()>>,
    overtaken: AtomicBool,
}

impl Syncer for Gate {
    fn sync_data(&self, _: &File, _: &Path) -> std::io::Result<()> {
        Ok(())
    }

    fn sync_all(&self, _: &File, path: &Path) -> std::io::Result<()> {
        if path.ends_with("slow/conf") {
            self.reached.send(()).map_err(std::io::Error::other)?;
            // Given up after a while, so that the test fails where it would else hang.
            let passed = lock(&self.passed).recv_timeout(Duration::from_secs(20));
            self.overtaken.store(passed.is_ok(), Ordering::SeqCst);
        }
        Ok(())
    }
}

/// While one table is being made, which takes several syncs, others are made, opened and removed; only who
/// wants the same one waits.
#[test]
fn nobody_waits_for_the_making_of_another_table() {
    let folder = TempDir::new().unwrap();
    let ((reached, arrival), (pass, passed)) = (mpsc::sync_channel(1), mpsc::channel());
    let gate = Arc::new(Gate { reached, passed: Mutex::new(passed), overtaken: AtomicBool::new(false) });
    let disk = SledDisk::open_with(folder.path(), gate.clone()).unwrap();
    drop(disk.create("old").unwrap());
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| disk.create("slow").unwrap());
        arrival.recv().unwrap();
        let same = scope.spawn(|| disk.create("slow").map(|_| ()).unwrap_err());
        let _quick = disk.create("quick").unwrap();
        drop(disk.open("old").unwrap());
        disk.remove("old").unwrap();
        pass.send(()).unwrap();
        let slow = slow.join().unwrap();
        assert!(matches!(same.join().unwrap(), DiskError::Exists(_)));
        assert!(Arc::ptr_eq(&slow, &disk.open("slow").unwrap()));
    });
    assert!(gate.overtaken.load(Ordering::SeqCst));
}

/// Runs on one thread, with one more for blocking work, which is kept busy until `free` is called.
fn with_the_blocking_thread_busy(test: impl AsyncFnOnce(Arc<SledDisk>, Box<dyn FnOnce()>)) {
    let folder = TempDir::new().unwrap();
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.max_blocking_threads(1).build().unwrap().block_on(async {
        let (free, freed) = mpsc::channel::<()>();
        drop(tokio::task::spawn_blocking(move || freed.recv().ok()));
        test(Arc::new(SledDisk::open(folder.path()).unwrap()), Box::new(move || drop(free))).await;
    });
}

async fn until_closed(disk: &SledDisk, table: &str) {
    while disk.open_tables().iter().any(|open| open == table) {
        tokio::task::yield_now().await;
    }
}

/// Whoever lets go of a table on a worker of the runtime does not wait until it is closed, which is left to a
/// thread where that may block; and the directory is not free before it was.
#[test]
fn letting_go_of_a_table_blocks_no_worker() {
    with_the_blocking_thread_busy(async |disk, free| {
        let table = disk.create("t").unwrap();
        drop(OpenTable::new(disk.clone(), table));
        assert_eq!(disk.open_tables(), ["t"]);
        free();
        until_closed(&disk, "t").await;
        let table = disk.create("u").unwrap();
        drop(OpenTable::new(disk.clone(), table));
        let path = disk.root.path.clone();
        drop(disk);
        SledDisk::open(path).unwrap();
    });
}
