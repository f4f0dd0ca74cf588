//! The real disk.

use super::*;
use crate::disk::{DiskError, Syncs};
use crate::types::SnapshotMeta;
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

fn config() -> StorageConfig {
    StorageConfig {
        segment_bytes: 1 << 20,
        tail_bytes_max: 1 << 16,
        slack_bytes: 1 << 30,
        ..StorageConfig::default()
    }
}

/// Closes and waits until nothing holds the directory any more.
async fn close(storage: Storage) {
    storage.close().await.unwrap();
    let disk = Arc::downgrade(&storage.handle.shared.disk);
    drop(storage);
    while disk.strong_count() > 0 {
        tokio::task::yield_now().await;
    }
}

fn blobs(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            let inside = blobs(&path);
            found.extend(inside);
        } else if path.parent().is_some_and(|parent| parent.ends_with("blobs")) {
            found.push(path);
        }
    }
    found
}

/// Several segments of real files: all is there after a restart, in memory and on disk, and read in pieces.
#[test]
fn everything_is_there_after_a_restart() {
    real(|folder| async move {
        let storage = open_real(&folder, config()).await.unwrap();
        let mut log = storage.log(G1);
        log.save_vote(&Vote::new(3, 1)).await.unwrap();
        for start in (0..400).step_by(20) {
            append_synced(&mut log, entries(1, start..start + 20, 10_000)).await;
        }
        log.save_committed(Some(id(1, 17))).await.unwrap();
        assert_eq!(all(&log).await, entries(1, 0..400, 10_000));
        drop(log);
        close(storage).await;
        let storage = open_real(&folder, config()).await.unwrap();
        let mut log = storage.log(G1);
        assert_eq!(all(&log).await, entries(1, 0..400, 10_000));
        assert_eq!(log.limited_get_log_entries(5, 400).await.unwrap().first(), Some(&entry(1, 5, 10_000)));
        assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new(3, 1)));
        assert_eq!(log.read_committed().await.unwrap(), Some(id(1, 17)));
    });
}

/// Old segments and superseded snapshots leave the disk.
#[test]
fn space_comes_back() {
    real(|folder| async move {
        let config = StorageConfig { slack_bytes: 1 << 20, ..config() };
        let storage = open_real(&folder, config.clone()).await.unwrap();
        let (mut quiet, mut log) = (storage.log(G2), storage.log(G1));
        append_synced(&mut quiet, entries(1, 0..10, 100)).await;
        for start in (0..800).step_by(20) {
            append_synced(&mut log, entries(1, start..start + 20, 10_000)).await;
        }
        let full = storage.handle.shared.disk.bytes().unwrap();
        log.purge(id(1, 790)).await.unwrap();
        // The quiet group's entries move on at their own pace; each write has the writer look again.
        let mut purged = full;
        for _ in 0..10_000 {
            settle(&storage).await;
            purged = storage.handle.shared.disk.bytes().unwrap();
            if purged < 3_500_000 {
                break;
            }
        }
        assert!(full > 8_000_000 && purged < 3_500_000, "{purged} of {full}: {:?}", storage.stats());
        assert_eq!(all(&quiet).await, entries(1, 0..10, 100));
        drop((quiet, log));
        close(storage).await;
        let storage = open_real(&folder, config).await.unwrap();
        assert_eq!(all(&storage.log(G2)).await, entries(1, 0..10, 100));
        assert_eq!(all(&storage.log(G1)).await, entries(1, 791..800, 10_000));
    });
}

/// No value ever leaves sled's own file, whatever its size and number: nobody would sync it there.
#[test]
fn nothing_becomes_a_blob() {
    let folder = TempDir::new().unwrap();
    let disk = SledDisk::open(folder.path()).unwrap();
    for (number, bytes) in [10, 1_000, 5_000, 20_000, 50_000, 96 << 10].into_iter().enumerate() {
        let table = disk.create(&format!("t{number}"), Syncs::Seldom).unwrap();
        for key in 0..(4_000_000 / (bytes as u64 + 1_000)) {
            table.put(key, &vec![key as u8; bytes]).unwrap();
        }
        let synced = futures_util::FutureExt::now_or_never(table.sync());
        synced.unwrap().unwrap();
    }
    drop(disk);
    assert_eq!(blobs(folder.path()), Vec::<PathBuf>::new());
    let disk = SledDisk::open(folder.path()).unwrap();
    let table = disk.open("t3").unwrap();
    assert_eq!(table.scan(7, 1).unwrap(), [(7, vec![7; 20_000].into())]);
    assert_eq!(table.scan(1_000_000, 1).unwrap(), []);
    let scanned = table.scan(5, 50_000).unwrap();
    assert_eq!(scanned.iter().map(|(key, _)| *key).collect::<Vec<_>>(), vec![5, 6, 7]);
    assert!(matches!(table.put(0, &vec![0; (96 << 10) + 1]), Err(DiskError::TooLarge(_))));
    assert!(matches!(disk.create("t3", Syncs::Seldom), Err(DiskError::Exists(_))));
    assert!(matches!(disk.open("t9"), Err(DiskError::Missing(_))));
}

/// A directory in use is refused as such, also to the same process, and free once it is closed.
#[test]
fn a_directory_in_use_is_refused() {
    real(|folder| async move {
        let storage = open_real(&folder, config()).await.unwrap();
        let error = open_real(&folder, config()).await.map(|_| ()).unwrap_err();
        assert!(matches!(error, StorageError::Disk(DiskError::InUse(_))), "{error}");
        assert!(error.to_string().contains(&folder.path().display().to_string()), "{error}");
        close(storage).await;
        open_real(&folder, config()).await.unwrap();
    });
}

/// A bit flipped anywhere in a segment's file is found at the start, or changes nothing; never is something
/// silently lost.
#[test]
fn flipped_bits_in_files_are_found() {
    real(|folder| async move {
        let storage = open_real(&folder, config()).await.unwrap();
        let mut log = storage.log(G1);
        for start in (0..200).step_by(10) {
            append_synced(&mut log, entries(1, start..start + 10, 10_000)).await;
        }
        drop(log);
        close(storage).await;
        let mut refused = 0;
        for segment in ["log-00000001", "log-00000002"] {
            let length = fs::metadata(folder.path().join("tables").join(segment).join("db")).unwrap().len();
            for tenth in 0..10 {
                let damaged = TempDir::new().unwrap();
                copy(folder.path(), damaged.path());
                flip(&damaged.path().join("tables").join(segment).join("db"), length * tenth / 10 + 777);
                match open_real(&damaged, config()).await {
                    Err(error) => {
                        refused += 1;
                        let text = error.to_string();
                        assert!(
                            text.contains("damaged") || text.contains("missing") || text.contains("lost"),
                            "{text}"
                        );
                        // And it stays refused: what sled did to the file meanwhile hides nothing.
                        assert!(open_real(&damaged, config()).await.is_err());
                    }
                    Ok(storage) => {
                        let read = storage.log(G1).try_get_log_entries(..).await;
                        assert!(read.is_err() || read.unwrap() == entries(1, 0..200, 10_000));
                        storage.close().await.ok();
                    }
                }
            }
        }
        assert!(refused >= 15, "{refused} of 20");
        assert_eq!(all(&open_real(&folder, config()).await.unwrap().log(G1)).await.len(), 200);
    });
}

/// A bit flipped anywhere in the journal that a killed process left is found at the start: what was acknowledged is
/// all there, or the start says that something is lost. The last record alone cannot be told from one that was cut
/// short, and its mark says so all the same.
#[test]
fn flipped_bits_in_a_journal_are_found() {
    real(|folder| async move {
        let storage = open_real(&folder, config()).await.unwrap();
        let mut log = storage.log(G1);
        for start in 0..20 {
            append_synced(&mut log, entries(1, start..start + 1, 10_000)).await;
        }
        // What a process leaves that is killed at this moment.
        let killed = TempDir::new().unwrap();
        copy(folder.path(), killed.path());
        drop(log);
        close(storage).await;
        let segment = Path::new("tables").join("log-00000001");
        assert!(!folder.path().join(&segment).join("journal").exists());
        let whole = TempDir::new().unwrap();
        copy(killed.path(), whole.path());
        let storage = open_real(&whole, config()).await.unwrap();
        assert_eq!(all(&storage.log(G1)).await, entries(1, 0..20, 10_000));
        close(storage).await;
        let (mut refused, mut harmless) = (0, 0);
        for step in 0..40 {
            let damaged = TempDir::new().unwrap();
            copy(killed.path(), damaged.path());
            flip(&damaged.path().join(&segment).join("journal"), step * 6_000 + 2);
            match open_real(&damaged, config()).await {
                Err(error) => {
                    refused += 1;
                    let text = error.to_string();
                    assert!(text.contains("lost") || text.contains("damaged"), "{text}");
                    assert!(open_real(&damaged, config()).await.is_err(), "and it stays refused");
                }
                Ok(storage) => {
                    harmless += 1;
                    assert_eq!(all(&storage.log(G1)).await, entries(1, 0..20, 10_000), "step {step}");
                    storage.close().await.ok();
                }
            }
        }
        assert!(refused >= 30 && harmless > 0, "{refused} refused, {harmless} beyond what was written");
    });
}

fn flip(path: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    byte[0] ^= 0x10;
    file.write_all_at(&byte, at).unwrap();
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            fs::create_dir_all(&to).unwrap();
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), &to).unwrap();
        }
    }
}

/// A damaged mark is a refusal when both copies are bad, and no harm when one is.
#[test]
fn the_mark_has_two_copies() {
    real(|folder| async move {
        let storage = open_real(&folder, config()).await.unwrap();
        append_synced(&mut storage.log(G1), entries(1, 0..10, 10)).await;
        append_synced(&mut storage.log(G1), entries(1, 10..20, 10)).await;
        close(storage).await;
        let mark = folder.path().join("mark");
        flip(&mark, 3);
        close(open_real(&folder, config()).await.unwrap()).await;
        flip(&mark, 4096 + 3);
        let error = open_real(&folder, config()).await.map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("mark") && error.contains("damaged"), "{error}");
    });
}

/// A process that is killed at any step of making a table leaves nothing that a start stumbles over: what is not
/// whole is removed, whatever sled had written of it.
#[test]
fn a_creation_cut_short_is_undone() {
    let folder = tempfile::tempdir().unwrap();
    let whole = {
        let disk = SledDisk::open(folder.path()).unwrap();
        disk.create("whole", Syncs::Seldom).unwrap().put(1, b"kept").unwrap();
        let files = fs::read_dir(folder.path().join("tables/whole")).unwrap();
        files.map(|file| file.unwrap().file_name()).collect::<Vec<_>>()
    };
    assert!(whole.iter().any(|name| name == "conf"), "sled has the file that was found cut short: {whole:?}");
    for cut in ["nothing", "conf", "db"] {
        let table = folder.path().join("tables").join("cut");
        fs::create_dir(&table).unwrap();
        if cut != "nothing" {
            fs::write(table.join(cut), b"\x01").unwrap();
        }
        let disk = SledDisk::open(folder.path()).unwrap();
        assert_eq!(disk.tables().unwrap(), ["whole"], "cut at {cut}");
        assert!(matches!(disk.open("cut"), Err(DiskError::Missing(_))), "cut at {cut}");
        disk.remove_leftovers().unwrap();
        drop(disk.create("cut", Syncs::Seldom).unwrap());
        disk.remove("cut").unwrap();
    }
    let disk = SledDisk::open(folder.path()).unwrap();
    assert_eq!(disk.open("whole").unwrap().scan(0, 100).unwrap(), [(1, "kept".into())]);
}

/// A process that is killed while it opens a table leaves half of sled's notes on it, which the next start passes over:
/// at whatever byte they were cut, all that was put is there.
#[test]
fn an_opening_cut_short_is_survived() {
    let folder = TempDir::new().unwrap();
    let disk = SledDisk::open(folder.path()).unwrap();
    let table = disk.create("t1", Syncs::Seldom).unwrap();
    table.put(1, b"kept").unwrap();
    let synced = futures_util::FutureExt::now_or_never(table.sync());
    assert!(matches!(synced, Some(Ok(()))));
    drop((table, disk));
    let path = folder.path().join("tables/t1");
    // Opened once more, so that there are finished notes as well.
    drop(SledDisk::open(folder.path()).unwrap().open("t1").unwrap());
    let notes = || -> Vec<String> {
        let files = fs::read_dir(&path).unwrap();
        let names = files.map(|file| file.unwrap().file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with("snap.")).collect()
    };
    let [finished] = &notes()[..] else { panic!("sled keeps its notes in one file: {:?}", notes()) };
    let whole = fs::read(path.join(finished)).unwrap();
    for bytes in [0, 1, whole.len() / 2, whole.len() - 1, whole.len()] {
        fs::write(path.join(format!("{finished}.generating")), &whole[..bytes]).unwrap();
        let disk = SledDisk::open(folder.path()).unwrap();
        assert_eq!(disk.open("t1").unwrap().scan(0, 100).unwrap(), [(1, "kept".into())], "cut at {bytes}");
        assert!(notes().iter().all(|name| !name.ends_with(".generating")), "{:?}", notes());
    }
}

/// A table whose removal was cut short does not come back as an empty one.
#[test]
fn a_removal_cut_short_is_finished() {
    let folder = TempDir::new().unwrap();
    drop(SledDisk::open(folder.path()).unwrap().create("t1", Syncs::Seldom).unwrap());
    let tables = folder.path().join("tables");
    fs::rename(tables.join("t1"), tables.join("removed.t1")).unwrap();
    fs::remove_file(tables.join("removed.t1").join("db")).unwrap();
    let disk = SledDisk::open(folder.path()).unwrap();
    assert_eq!(disk.tables().unwrap(), Vec::<String>::new());
    disk.remove_leftovers().unwrap();
    assert!(!tables.join("removed.t1").exists());
}

/// Every file below a folder, and what stands in it; a folder stands for nothing.
fn tree(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            let inside = tree(&path);
            found.extend(inside);
            found.insert(path, Vec::new());
        } else {
            let bytes = fs::read(&path).unwrap();
            found.insert(path, bytes);
        }
    }
    found
}

/// A directory that belongs to another node or cluster, or was written by a newer build, is left as it is,
/// leftovers and all: they may be what its owner is to be rescued from. Its owner clears them away.
#[test]
fn a_foreign_directory_is_left_as_it_is() {
    real(|folder| async move {
        let storage = open_real(&folder, config()).await.unwrap();
        append_synced(&mut storage.log(G1), entries(1, 0..10, 10)).await;
        close(storage).await;
        let tables = folder.path().join("tables");
        for leftover in ["removed.log-00000009", "log-00000002"] {
            fs::create_dir(tables.join(leftover)).unwrap();
            fs::write(tables.join(leftover).join("db"), b"half").unwrap();
        }
        let before = tree(folder.path());
        let refused = async |identity| {
            let disk = SledDisk::open(folder.path()).unwrap();
            let refused = Storage::open(Arc::new(disk), identity, config()).await;
            refused.map(|_| ()).unwrap_err()
        };
        for (cluster, node) in [("test", 2), ("another", 1)] {
            let error = refused(Identity { cluster: cluster.into(), node: NodeId(node) }).await;
            assert!(matches!(error, StorageError::Foreign { .. }), "{error}");
            assert_eq!(tree(folder.path()), before);
        }
        let cell = folder.path().join("cells/identity");
        let own = fs::read(&cell).unwrap();
        fs::write(&cell, [&[own[0] + 1], &own[1..]].concat()).unwrap();
        let newer = tree(folder.path());
        let error = refused(identity()).await;
        assert!(matches!(error, StorageError::Version { .. }), "{error}");
        assert_eq!(tree(folder.path()), newer);

        fs::write(&cell, own).unwrap();
        let storage = open_real(&folder, config()).await.unwrap();
        assert_eq!(all(&storage.log(G1)).await, entries(1, 0..10, 10));
        append_synced(&mut storage.log(G1), entries(1, 10..11, 10)).await;
        assert!(!tables.join("removed.log-00000009").exists());
    });
}

/// Whoever gives up writing or reading a snapshot half-way, on a worker of the runtime, does not wait there
/// until the table is closed.
#[test]
fn a_snapshot_that_is_given_up_blocks_no_worker() {
    let folder = TempDir::new().unwrap();
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().max_blocking_threads(1).build().unwrap();
    runtime.block_on(async {
        let disk = Arc::new(SledDisk::open(folder.path()).unwrap());
        let storage = Storage::open(disk.clone(), identity(), config()).await.unwrap();
        let snapshots = storage.snapshots(G1);
        let mut writer = snapshots.create().await.unwrap();
        for _ in 0..3 {
            writer.append(vec![7; 1 << 20]).await.unwrap();
        }
        let meta = SnapshotMeta { last_log_id: Some(id(1, 5)), ..SnapshotMeta::default() };
        let mut reader = writer.finish(meta).await.unwrap().read();
        reader.next().await.unwrap().unwrap();
        let mut writer = snapshots.create().await.unwrap();
        for _ in 0..3 {
            writer.append(vec![7; 1 << 20]).await.unwrap();
        }
        let open = || disk.open_tables().into_iter().filter(|name| name.starts_with("snap-")).count();
        assert_eq!(open(), 2);
        // The only thread that may close them is busy until the sender is dropped.
        let (free, freed) = std::sync::mpsc::channel::<()>();
        drop(tokio::task::spawn_blocking(move || freed.recv().ok()));
        drop((reader, writer));
        assert_eq!(open(), 2);
        drop(free);
        while open() > 0 {
            tokio::task::yield_now().await;
        }
        storage.close().await.unwrap();
    });
}

/// Snapshots on real files: read by several at once, whole, and removed with the last reader.
#[test]
fn snapshots_on_files() {
    real(|folder| async move {
        let config = StorageConfig { snapshot_part_bytes: 1 << 20, ..config() };
        let storage = open_real(&folder, config).await.unwrap();
        let snapshots = storage.snapshots(G1);
        let mut writer = snapshots.create().await.unwrap();
        for number in 0..50u8 {
            writer.append(vec![number; 100_000]).await.unwrap();
        }
        let meta = SnapshotMeta { last_log_id: Some(id(1, 5)), ..SnapshotMeta::default() };
        let snapshot = writer.finish(meta).await.unwrap();
        snapshots.install(&snapshot).await.unwrap();
        let readers = (0..3).map(|_| {
            let mut reader = snapshot.read();
            tokio::spawn(async move {
                for number in 0..50u8 {
                    assert_eq!(reader.next().await.unwrap().unwrap(), vec![number; 100_000]);
                }
                assert!(reader.next().await.unwrap().is_none());
            })
        });
        for reader in readers.collect::<Vec<_>>() {
            reader.await.unwrap();
        }
        assert!(blobs(folder.path()).is_empty());
        assert_eq!(snapshot.manifest().parts, 6);
    });
}

/// What the disk holds at any moment after an acknowledgement, with nothing closed, is enough to go on from: so a
/// process that is killed loses nothing, and neither does one that is killed again and again.
#[test]
fn a_killed_process_loses_nothing() {
    real(|folder| async move {
        let mut folder = folder;
        let mut running = Vec::new();
        for generation in 0..4u64 {
            let storage = open_real(&folder, config()).await.unwrap();
            let mut log = storage.log(G1);
            assert_eq!(all(&log).await, entries(1, 0..generation * 150, 10_000));
            log.save_vote(&Vote::new(generation, 1)).await.unwrap();
            for start in (generation * 150..(generation + 1) * 150).step_by(10) {
                append_synced(&mut log, entries(1, start..start + 10, 10_000)).await;
            }
            let found = Arc::new(TempDir::new().unwrap());
            copy(folder.path(), found.path());
            folder = found;
            running.push(storage);
        }
        let storage = open_real(&folder, config()).await.unwrap();
        assert_eq!(all(&storage.log(G1)).await.len(), 600);
        assert_eq!(storage.log(G1).read_vote().await.unwrap(), Some(Vote::new(3, 1)));
    });
}
