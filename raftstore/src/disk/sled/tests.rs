//! What the real disk makes durable, and when; and who waits for whom.

use super::*;
use crate::disk::OpenTable;
use crate::disk::sled::journal::JOURNAL_BYTES;
use futures_util::FutureExt;
use std::collections::BTreeMap;
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
    let table = disk.create("t", Syncs::Seldom).unwrap();
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
    let _table = disk.create("t", Syncs::Seldom).unwrap();
    let tables = folder.path().join("tables");
    let table = tables.join("t");
    let want = [table.join("db"), table.join("conf"), table.clone(), table, tables];
    assert_eq!(paths(&witness.take()), want);
}

/// A table that is synced often has the journal's blocks, all of them, before anyone has the table; then a sync is one
/// of the journal, with what was put in it, or, where the journal is full, one of sled's file, with all that was put.
#[test]
fn a_journal_is_synced_in_place_of_sled() {
    let (folder, witness, disk) = witnessed();
    let table = disk.create("t", Syncs::Often).unwrap();
    let folder = folder.path().join("tables/t");
    let (journal, db) = (folder.join("journal"), folder.join("db"));
    let making = witness.take();
    assert_eq!(making[0].path, journal);
    assert_eq!(making[0].bytes.len(), JOURNAL_BYTES);
    let value = |number: u64| format!("{number:08}").repeat(5_000).into_bytes();
    let mut full = 0;
    for number in 0..40 {
        table.put(number, &value(number)).unwrap();
        sync(&*table).unwrap();
        let syncs = witness.take();
        let [synced] = &syncs[..] else { panic!("one sync: {:?}", paths(&syncs)) };
        if synced.path == journal {
            assert_eq!(synced.bytes.len(), JOURNAL_BYTES);
            assert!(contains(&synced.bytes, &value(number)));
        } else {
            assert_eq!(synced.path, db);
            assert!((0..=number).all(|number| contains(&synced.bytes, &value(number))), "up to {number}");
            full += 1;
        }
    }
    assert_eq!(full, 40 / 7, "of seven values one does not fit");

    // Closed, it has everything in sled, durably, and no journal.
    drop(table);
    let syncs = witness.take();
    assert_eq!(paths(&syncs), [&db, &folder]);
    assert!((0..40).all(|number| contains(&syncs[0].bytes, &value(number))));
    assert!(!journal.exists());
}

/// A sync that fails is not taken for one that succeeded, whosever it was; and after it nobody hands anything on, or
/// removes the journal: it may hold the only durable copy. The next start finds everything, and nothing twice.
#[test]
fn after_a_failed_sync_the_journal_stays() {
    for what in ["journal", "db"] {
        let (folder, witness, disk) = witnessed();
        let table = disk.create("t", Syncs::Often).unwrap();
        let path = folder.path().join("tables/t").join(what);
        witness.fail(Some(path.clone()));
        let mut number = 0;
        let error = loop {
            number += 1;
            table.put(number, &[number as u8; 20_000]).unwrap();
            if let Err(error) = sync(&*table) {
                break error;
            }
        };
        let named = format!("tables/t/{what}");
        assert!(matches!(&error, DiskError::Io { during, .. } if during.contains(&named)), "{error}");
        assert_eq!(number, if what == "db" { 14 } else { 1 });
        witness.fail(None);
        witness.take();
        drop(table);
        assert_eq!(paths(&witness.take()), Vec::<&Path>::new());
        for start in 0..2 {
            let table = disk.open("t").unwrap();
            let found: Vec<u64> = table.scan(0, usize::MAX).unwrap().iter().map(|(key, _)| *key).collect();
            assert_eq!(found, (1..=number).collect::<Vec<_>>(), "start {start} after {what} failed");
            drop(table);
            assert!(folder.path().join("tables/t/journal").exists());
        }
    }
}

/// A table that is removed while somebody has it open is closed without a word.
#[test]
fn a_journalled_table_may_be_removed_while_it_is_open() {
    let (_folder, _witness, disk) = witnessed();
    let table = disk.create("t", Syncs::Often).unwrap();
    table.put(1, b"one").unwrap();
    sync(&*table).unwrap();
    disk.remove("t").unwrap();
    assert_eq!(table.scan(0, 1).unwrap(), [(1, "one".into())]);
    drop(table);
    assert_eq!(disk.tables().unwrap(), Vec::<String>::new());
}

/// Whatever is read of a table that is synced often is what was put, wherever it stands at that moment.
#[test]
fn a_journalled_table_reads_as_any_other() {
    let (_folder, _witness, disk) = witnessed();
    let often = disk.create("often", Syncs::Often).unwrap();
    let seldom = disk.create("seldom", Syncs::Seldom).unwrap();
    let mut number = 0;
    for step in 0..400_u64 {
        number += 1 + step % 3;
        let value = vec![step as u8; 7_000 + usize::try_from(step * 37 % 500).unwrap()];
        for table in [&often, &seldom] {
            table.put(number, &value).unwrap();
        }
        if step % 7 == 0 {
            sync(&*often).unwrap();
        }
        if step % 20 != 0 {
            continue;
        }
        for (from, bytes_max) in [
            (0, 1),
            (0, 30_000),
            (number / 2, 100_000),
            (number.saturating_sub(40), 1 << 30),
            (number + 1, 1),
        ] {
            let (found, want) = (often.scan(from, bytes_max).unwrap(), seldom.scan(from, bytes_max).unwrap());
            assert!(found == want, "{} values from {from}, not {}", found.len(), want.len());
        }
    }
}

/// A process that is killed leaves what it had put into the journal, a machine that loses its power what was synced:
/// the next one finds all of it, in order and nothing twice, whatever of sled's file had reached the disk, and may be
/// killed itself before it is done.
#[test]
fn what_was_synced_outlives_its_process() {
    let (folder, witness, disk) = witnessed();
    let table = disk.create("t", Syncs::Often).unwrap();
    let making = witness.take();
    let path = folder.path().join("tables/t");
    let value = |number: u64| vec![number as u8; 20_000];
    // What stood in each file when it was last synced: what a loss of power leaves at least.
    let mut durable: BTreeMap<PathBuf, Vec<u8>> = BTreeMap::new();
    let mut note = |syncs: Vec<Synced>| {
        let files = syncs.into_iter().filter(|synced| !synced.bytes.is_empty());
        durable.extend(files.map(|synced| (synced.path, synced.bytes)));
        durable.clone()
    };
    note(making);
    for number in 0..60_u64 {
        table.put(number, &value(number)).unwrap();
        sync(&*table).unwrap();
        let durable = note(witness.take());
        let power_lost = TempDir::new().unwrap();
        let killed = TempDir::new().unwrap();
        for root in [power_lost.path(), killed.path()] {
            fs::create_dir_all(root.join("tables/t")).unwrap();
            fs::write(root.join("tables/t").join(MADE), b"").unwrap();
        }
        for (file, bytes) in &durable {
            fs::write(power_lost.path().join("tables/t").join(file.file_name().unwrap()), bytes).unwrap();
        }
        for name in ["db", "conf", "journal"] {
            fs::copy(path.join(name), killed.path().join("tables/t").join(name)).unwrap();
        }
        for root in [power_lost.path(), killed.path()] {
            for start in 0..3 {
                let disk = SledDisk::open(root).unwrap();
                let found = disk.open("t").unwrap().scan(0, usize::MAX).unwrap();
                let numbers: Vec<u64> = found.iter().map(|(key, _)| *key).collect();
                assert_eq!(numbers, (0..=number).collect::<Vec<_>>(), "start {start} after {number}");
                assert!(
                    found.iter().all(|(key, bytes)| bytes[..] == value(*key)),
                    "start {start} after {number}"
                );
                assert!(root.join("tables/t/journal").exists());
            }
        }
    }
}

/// What an earlier process left of a table in the system's cache is durable before sled looks at it.
#[test]
fn a_table_that_is_opened_is_synced_first() {
    let (folder, witness, disk) = witnessed();
    drop(disk.create("t", Syncs::Seldom).unwrap());
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
    drop(disk.create("old", Syncs::Seldom).unwrap());
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| disk.create("slow", Syncs::Seldom).unwrap());
        arrival.recv().unwrap();
        let same = scope.spawn(|| disk.create("slow", Syncs::Seldom).map(|_| ()).unwrap_err());
        let _quick = disk.create("quick", Syncs::Seldom).unwrap();
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
        let table = disk.create("t", Syncs::Seldom).unwrap();
        drop(OpenTable::new(disk.clone(), table));
        assert_eq!(disk.open_tables(), ["t"]);
        free();
        until_closed(&disk, "t").await;
        let table = disk.create("u", Syncs::Seldom).unwrap();
        drop(OpenTable::new(disk.clone(), table));
        let path = disk.root.path.clone();
        drop(disk);
        SledDisk::open(path).unwrap();
    });
}
