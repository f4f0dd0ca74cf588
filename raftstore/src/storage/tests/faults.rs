//! A disk that fails stops the storage, with the reason; a log that lost something is not started.

use super::*;
use crate::disk::Fault;

async fn refused(disk: &SimulatedDisk) -> StorageError {
    open(disk, tiny()).await.map(|_| ()).unwrap_err()
}

/// The first failed write or sync ends everything: who waited and whoever comes later gets the reason, the host
/// is told, and nothing more is written, though the disk would take it.
#[test]
fn the_first_failure_is_the_last_act() {
    for fault in [Fault::Failed, Fault::Full] {
        for on_sync in [true, false] {
            simulated(|disk| async move {
                let storage = open(&disk, tiny()).await.unwrap();
                let mut log = storage.log(G1);
                append_synced(&mut log, entries(1, 0..3, 10)).await;
                let mut failure = storage.failure();
                assert!(failure.borrow_and_update().is_none());
                match on_sync {
                    true => disk.fail_sync(0, fault),
                    false => disk.fail_write(0, fault),
                }
                let told = [
                    append(&mut log, entries(1, 3..5, 10)).await,
                    append(&mut storage.log(G2), entries(1, 0..5, 10)).await,
                ];
                for told in told {
                    let error = told.await.unwrap().unwrap_err().to_string();
                    assert!(error.starts_with(if on_sync { "sync" } else { "write" }), "{error}");
                }
                failure.changed().await.unwrap();
                let reason = failure.borrow().as_ref().map(ToString::to_string).unwrap();
                assert!(
                    reason.contains(if fault == Fault::Full { "storage" } else { "input/output" }),
                    "{reason}"
                );
                let before = disk.counters();
                assert_eq!(log.save_vote(&Vote::new(1, 1)).await.unwrap_err().to_string(), reason);
                assert_eq!(log.purge(id(1, 1)).await.unwrap_err().to_string(), reason);
                assert_eq!(log.save_committed(None).await.unwrap_err().to_string(), reason);
                assert_eq!(storage.snapshots(G1).create().await.unwrap_err().to_string(), reason);
                assert_eq!(storage.close().await.unwrap_err().to_string(), reason);
                assert_eq!(disk.counters(), before);
                // After a restart everything that was acknowledged is there.
                let storage = open(&disk.crash(1), tiny()).await.unwrap();
                assert_eq!(all(&storage.log(G1)).await[..3], entries(1, 0..3, 10));
            });
        }
    }
}

/// A caller that waits for room in the queue when the storage fails is told, too.
#[test]
fn callers_that_wait_for_room_are_told() {
    simulated(|disk| async move {
        let config = StorageConfig { queue_bytes_max: 1_000, ..tiny() };
        let storage = open(&disk, config).await.unwrap();
        disk.fail_sync(0, Fault::Failed);
        let mut log = storage.log(G1);
        let mut outcome = Ok(());
        for index in 0..10 {
            let (tell, _told) = TypeConfig::oneshot();
            outcome = log.append([entry(1, index, 500)], IOFlushed::<TypeConfig>::signal(tell)).await;
        }
        assert!(outcome.unwrap_err().to_string().contains("input/output"));
    });
}

/// A flipped bit anywhere in what was acknowledged is found: the node does not start, or finds all there is.
#[test]
fn a_flipped_bit_is_found() {
    simulated(|disk| async move {
        let storage = open(&disk, StorageConfig { slack_bytes: 1 << 30, ..tiny() }).await.unwrap();
        let mut log = storage.log(G1);
        log.save_vote(&Vote::new(4, 1)).await.unwrap();
        for index in 0..40 {
            append_synced(&mut log, vec![entry(1, index, 300)]).await;
        }
        storage.close().await.unwrap();
        drop((storage, log));
        for seed in 0..300 {
            let damaged = disk.duplicate();
            let (table, _) = damaged.flip_bit(seed).unwrap();
            let error = refused(&damaged).await.to_string();
            let named = error.contains(&table) || error.contains("acknowledged records are lost");
            assert!(named, "seed {seed}: {table}: {error}");
        }
        // Undamaged it starts: the refusals above were for the bits.
        assert_eq!(all(&open(&disk.duplicate(), tiny()).await.unwrap().log(G1)).await.len(), 40);
    });
}

/// Segments that vanish are missed: the last by its mark, one in between by the gap, the first by the entries.
#[test]
fn a_lost_segment_is_missed() {
    simulated(|disk| async move {
        let storage = open(&disk, StorageConfig { slack_bytes: 1 << 30, ..tiny() }).await.unwrap();
        let mut log = storage.log(G1);
        for index in 0..40 {
            append_synced(&mut log, vec![entry(1, index, 300)]).await;
        }
        storage.close().await.unwrap();
        let segments = disk.tables().unwrap();
        assert!(segments.len() > 4);
        for (lost, want) in [
            (segments.last(), "acknowledged records are lost"),
            (segments.get(2), "is missing"),
            (segments.first(), "the first entry should be 0"),
        ] {
            let damaged = disk.duplicate();
            damaged.remove(lost.unwrap()).unwrap();
            let error = refused(&damaged).await.to_string();
            assert!(error.contains(want), "{lost:?}: {error}");
        }
        let damaged = disk.duplicate();
        segments.iter().for_each(|segment| damaged.remove(segment).unwrap());
        let error = refused(&damaged).await.to_string();
        assert!(error.contains("acknowledged records are lost"), "{error}");
    });
}

/// Records that are read from disk while the node runs are checked again, and damage then stops the node.
#[test]
fn damage_found_while_reading_stops_the_node() {
    simulated(|disk| async move {
        let config = StorageConfig { tail_bytes_max: 0, segment_bytes: 1 << 20, ..tiny() };
        let storage = open(&disk, config).await.unwrap();
        let mut log = storage.log(G1);
        append_synced(&mut log, entries(1, 0..40, 300)).await;
        disk.flip_bit(5).unwrap();
        let error = log.try_get_log_entries(..).await.unwrap_err().to_string();
        assert!(error.contains("log is damaged in log-00000001 at record 1"), "{error}");
        assert_eq!(storage.close().await.unwrap_err().to_string(), error);
    });
}

/// Where the mark is stale, as a crash of the machine may leave it, a damaged record is taken for one that was cut
/// short only if it is the last; anything that follows it is proof that it was whole once.
#[test]
fn only_the_last_record_may_be_damaged() {
    simulated(|disk| async move {
        let config = StorageConfig { slack_bytes: 1 << 30, segment_bytes: 1 << 20, ..tiny() };
        let storage = open(&disk, config).await.unwrap();
        let mut log = storage.log(G1);
        for index in 0..10 {
            append_synced(&mut log, vec![entry(1, index, 300)]).await;
        }
        storage.close().await.unwrap();
        let mut last = 0;
        for seed in 0..100 {
            let damaged = disk.duplicate();
            let (_, key) = damaged.flip_bit(seed).unwrap();
            damaged.write_mark(0).unwrap();
            let opened = open(&damaged, tiny()).await;
            if key >> 16 == 10 {
                last += 1;
                let log = opened.unwrap().log(G1);
                assert_eq!(all(&log).await, entries(1, 0..9, 300));
            } else {
                let error = opened.map(|_| ()).unwrap_err().to_string();
                assert!(error.contains(&format!("log-00000001 at record {}", key >> 16)), "{error}");
            }
        }
        assert!(last > 0);
    });
}
