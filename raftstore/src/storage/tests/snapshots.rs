//! Snapshots: written, installed, read, superseded.

use super::*;
use crate::snapshot::{PIECE_BYTES_MAX, Snapshot};
use crate::types::SnapshotMeta;
use std::time::Duration;

fn meta(index: u64) -> SnapshotMeta {
    SnapshotMeta { last_log_id: Some(id(1, index)), ..SnapshotMeta::default() }
}

fn pieces(count: usize, bytes: usize) -> Vec<Vec<u8>> {
    (0..count).map(|number| vec![number as u8; bytes]).collect()
}

async fn write(storage: &Storage, index: u64, pieces: &[Vec<u8>]) -> Snapshot {
    let mut writer = storage.snapshots(G1).create().await.unwrap();
    for piece in pieces {
        writer.append(piece).await.unwrap();
    }
    writer.finish(meta(index)).await.unwrap()
}

async fn read(snapshot: &Snapshot) -> Result<Vec<Vec<u8>>, StorageError> {
    let (mut reader, mut pieces) = (snapshot.read(), Vec::new());
    while let Some(piece) = reader.next().await? {
        pieces.push(piece.to_vec());
    }
    Ok(pieces)
}

fn parts(disk: &SimulatedDisk) -> Vec<String> {
    disk.tables().unwrap().into_iter().filter(|name| name.starts_with("snap-")).collect()
}

/// Pieces come back in order and whole, before and after a restart, from as many parts as they need.
#[test]
fn pieces_come_back() {
    simulated(|disk| async move {
        let storage = open(&disk, tiny()).await.unwrap();
        let pieces = [pieces(3, 1_000_000), pieces(100, 10), vec![vec![]], pieces(1, 4 << 20)].concat();
        let snapshot = write(&storage, 7, &pieces).await;
        storage.snapshots(G1).install(&snapshot).await.unwrap();
        assert_eq!(snapshot.bytes, 3_000_000 + 1_000 + (4 << 20));
        assert!(parts(&disk).len() > 30);
        assert_eq!(read(&snapshot).await.unwrap(), pieces);
        storage.close().await.unwrap();
        let storage = open(&disk, tiny()).await.unwrap();
        let current = storage.snapshots(G1).current().unwrap();
        assert_eq!((current.meta.clone(), current.bytes), (meta(7), snapshot.bytes));
        assert_eq!(read(&current).await.unwrap(), pieces);
    });
}

/// A snapshot that was being made, or was made, when its group was forgotten does not bring the group back,
/// whatever it was about to do, and leaves nothing behind. The group's next life on this node has its own.
#[test]
fn a_forgotten_group_does_not_come_back() {
    simulated(|disk| async move {
        let storage = open(&disk, tiny()).await.unwrap();
        let snapshots = storage.snapshots(G1);
        append_synced(&mut storage.log(G1), entries(1, 0..10, 10)).await;
        let made = write(&storage, 9, &pieces(3, 100_000)).await;
        let mut making = snapshots.create().await.unwrap();
        making.append(vec![1; 2_000_000]).await.unwrap();
        let nearly_made = snapshots.create().await.unwrap();
        storage.forget(G1).await.unwrap();

        let error = snapshots.install(&made).await.unwrap_err().to_string();
        assert!(error.contains("g1 was dropped"), "{error}");
        assert!(making.append(vec![1; 2_000_000]).await.is_err());
        assert!(nearly_made.finish(meta(9)).await.is_err());
        assert!(snapshots.create().await.is_err());
        drop((made, making));
        settle(&storage).await;
        settle(&storage).await;
        assert_eq!(parts(&disk), Vec::<String>::new());
        assert!(!storage.groups().contains(&G1));

        // Older by its log id than what was forgotten.
        let next = write(&storage, 3, &pieces(1, 10)).await;
        storage.snapshots(G1).install(&next).await.unwrap();
        assert_eq!(storage.snapshots(G1).current().unwrap().meta, meta(3));
        storage.close().await.unwrap();
        let storage = open(&disk, tiny()).await.unwrap();
        assert_eq!(storage.snapshots(G1).current().unwrap().meta, meta(3));
    });
}

/// A snapshot that was queued for the disk before its group was forgotten is forgotten with it.
#[test]
fn a_snapshot_that_is_being_installed_is_forgotten_too() {
    simulated(|disk| async move {
        let storage = open(&disk, tiny()).await.unwrap();
        let snapshots = storage.snapshots(G1);
        let made = write(&storage, 9, &pieces(3, 100_000)).await;
        disk.set_sync_delay(Duration::from_millis(10));
        let (installed, forgotten) = tokio::join!(snapshots.install(&made), storage.forget(G1));
        installed.unwrap();
        forgotten.unwrap();
        assert!(storage.snapshots(G1).current().is_none());
        drop(made);
        settle(&storage).await;
        settle(&storage).await;
        assert_eq!(parts(&disk), Vec::<String>::new());
        assert!(!open(&disk.crash(1), tiny()).await.unwrap().groups().contains(&G1));
    });
}

/// What is written at the end of a part is synced once.
#[test]
fn a_part_is_synced_once_at_its_end() {
    simulated(|disk| async move {
        let storage = open(&disk, StorageConfig::default()).await.unwrap();
        let before = disk.counters().syncs;
        write(&storage, 5, &pieces(1, 100)).await;
        assert_eq!(disk.counters().syncs - before, 1);
        // As it grows, and at its end.
        write(&storage, 6, &pieces(3, 1 << 20)).await;
        assert_eq!(disk.counters().syncs - before, 1 + 3 + 1);
    });
}

/// A piece beyond the limit is refused by its size.
#[test]
fn a_large_piece_is_refused() {
    simulated(|disk| async move {
        let storage = open(&disk, tiny()).await.unwrap();
        let mut writer = storage.snapshots(G1).create().await.unwrap();
        let error = writer.append(vec![0; PIECE_BYTES_MAX + 1]).await.unwrap_err().to_string();
        assert!(error.contains(&(PIECE_BYTES_MAX + 1).to_string()), "{error}");
    });
}

/// A snapshot that is not installed is not current, and leaves nothing behind.
#[test]
fn an_unfinished_snapshot_leaves_nothing() {
    simulated(|disk| async move {
        let storage = open(&disk, tiny()).await.unwrap();
        let mut unfinished = storage.snapshots(G1).create().await.unwrap();
        unfinished.append(vec![1; 2_000_000]).await.unwrap();
        let finished = write(&storage, 5, &pieces(3, 100_000)).await;
        assert!(parts(&disk).len() > 10);
        assert!(storage.snapshots(G1).current().is_none());
        drop((unfinished, finished));
        settle(&storage).await;
        settle(&storage).await;
        assert_eq!(parts(&disk), Vec::<String>::new());
    });
}

/// What an unfinished snapshot left when the power went is removed at the next start.
#[test]
fn leftovers_are_removed_at_the_start() {
    simulated(|disk| async move {
        let storage = open(&disk, tiny()).await.unwrap();
        let installed = write(&storage, 5, &pieces(3, 100_000)).await;
        storage.snapshots(G1).install(&installed).await.unwrap();
        let unfinished = write(&storage, 9, &pieces(3, 100_000)).await;
        let disk = disk.crash(3);
        let storage = open(&disk, tiny()).await.unwrap();
        let current = storage.snapshots(G1).current().unwrap();
        assert_eq!(current.meta, meta(5));
        assert_eq!(parts(&disk).len(), current.manifest().parts as usize);
        // The names of what was removed are not used again.
        let next = write(&storage, 9, &pieces(1, 10)).await;
        assert!(next.manifest().number > unfinished.manifest().number);
    });
}

/// A superseded snapshot can be read by those who began to, and goes with the last of them.
#[test]
fn a_superseded_snapshot_goes_with_its_last_reader() {
    simulated(|disk| async move {
        let storage = open(&disk, tiny()).await.unwrap();
        let snapshots = storage.snapshots(G1);
        let old = write(&storage, 5, &pieces(3, 1_000_000)).await;
        snapshots.install(&old).await.unwrap();
        let mut reader = old.read();
        assert!(reader.next().await.unwrap().is_some());
        let new = write(&storage, 9, &pieces(1, 10)).await;
        snapshots.install(&new).await.unwrap();
        assert_eq!(snapshots.current().unwrap().meta, meta(9));
        drop(old);
        settle(&storage).await;
        settle(&storage).await;
        assert!(parts(&disk).len() > 10);
        assert_eq!(snapshots.in_use(), vec![5]);
        assert!(reader.next().await.unwrap().is_some());
        assert!(reader.next().await.unwrap().is_some());
        assert!(reader.next().await.unwrap().is_none());
        drop(reader);
        settle(&storage).await;
        settle(&storage).await;
        assert_eq!(parts(&disk).len(), 1);
        assert_eq!(snapshots.in_use(), Vec::<u64>::new());
    });
}

/// An older snapshot never takes a newer one's place.
#[test]
fn an_older_snapshot_does_not_replace_a_newer() {
    simulated(|disk| async move {
        let storage = open(&disk, tiny()).await.unwrap();
        let snapshots = storage.snapshots(G1);
        let (old, new) = (write(&storage, 5, &pieces(1, 10)).await, write(&storage, 9, &pieces(1, 10)).await);
        let (first, second) = tokio::join!(snapshots.install(&new), snapshots.install(&old));
        first.unwrap();
        second.unwrap();
        assert_eq!(snapshots.current().unwrap().meta, meta(9));
        // Installed again it changes nothing either, and stays readable.
        snapshots.install(&new).await.unwrap();
        drop(new);
        settle(&storage).await;
        assert_eq!(read(&snapshots.current().unwrap()).await.unwrap(), pieces(1, 10));
        storage.close().await.unwrap();
        let storage = open(&disk, tiny()).await.unwrap();
        assert_eq!(storage.snapshots(G1).current().unwrap().meta, meta(9));
    });
}

/// A flipped bit in a snapshot is found by whoever reads it.
#[test]
fn a_damaged_piece_is_found() {
    simulated(|disk| async move {
        let storage = open(&disk, tiny()).await.unwrap();
        let snapshot = write(&storage, 5, &pieces(3, 1_000_000)).await;
        storage.snapshots(G1).install(&snapshot).await.unwrap();
        let damaged = (0..).find(|&seed| disk.flip_bit(seed).unwrap().0.starts_with("snap-"));
        assert!(damaged.is_some());
        let error = read(&snapshot).await.unwrap_err();
        assert!(matches!(error, StorageError::Snapshot { .. }), "{error}");
    });
}

/// A snapshot that misses a part is not started with.
#[test]
fn a_missing_part_is_noticed_at_the_start() {
    simulated(|disk| async move {
        let storage = open(&disk, tiny()).await.unwrap();
        let snapshot = write(&storage, 5, &pieces(3, 1_000_000)).await;
        storage.snapshots(G1).install(&snapshot).await.unwrap();
        storage.close().await.unwrap();
        let lost = &parts(&disk)[2];
        disk.remove(lost).unwrap();
        let error = open(&disk, tiny()).await.map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(lost.as_str()), "{error}");
    });
}
