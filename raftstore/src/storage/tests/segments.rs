//! Segments: begun, emptied, removed.

use super::*;
use crate::log::queue::{Done, Item};
use crate::log::record::Operation;
use std::time::Duration;

fn config() -> StorageConfig {
    StorageConfig {
        segment_bytes: 10_000,
        slack_bytes: 30_000,
        tail_bytes_max: 5_000,
        ..StorageConfig::default()
    }
}

fn segments(disk: &SimulatedDisk) -> Vec<String> {
    disk.tables().unwrap().into_iter().filter(|name| name.starts_with("log-")).collect()
}

/// The log goes on in a new segment when one is full, and reads cross the border.
#[test]
fn segments_follow_each_other() {
    simulated(|disk| async move {
        let storage = open(&disk, config()).await.unwrap();
        let mut log = storage.log(G1);
        for index in 0..100 {
            append_synced(&mut log, vec![entry(1, index, 1_000)]).await;
        }
        assert_eq!(all(&log).await, entries(1, 0..100, 1_000));
        storage.close().await.unwrap();
        assert_eq!(segments(&disk).len(), 10);
        let storage = open(&disk, config()).await.unwrap();
        assert_eq!(all(&storage.log(G1)).await, entries(1, 0..100, 1_000));
    });
}

/// The next segment's table is made while the active one fills, from its half on, and is the one that is gone
/// on with: no write waits until it is made. A clean stop takes it away again.
#[test]
fn the_next_segments_table_is_made_in_advance() {
    simulated(|disk| async move {
        let storage = open(&disk, config()).await.unwrap();
        let mut log = storage.log(G1);
        for index in 0..4 {
            append_synced(&mut log, vec![entry(1, index, 1_000)]).await;
            settle(&storage).await;
            assert_eq!(segments(&disk), ["log-00000001"]);
        }
        append_synced(&mut log, entries(1, 4..6, 1_000)).await;
        settle(&storage).await;
        assert_eq!(segments(&disk), ["log-00000001", "log-00000002"]);
        assert_eq!(storage.stats().segments, 1);
        while storage.stats().segments == 1 {
            let next = log.group.state().view.last.unwrap().index() + 1;
            append_synced(&mut log, vec![entry(1, next, 1_000)]).await;
        }
        // Another of that name cannot be made, and one of another name was not.
        assert_eq!(segments(&disk), ["log-00000001", "log-00000002"]);
        let next = log.group.state().view.last.unwrap().index() + 1;
        append_synced(&mut log, entries(1, next..next + 6, 1_000)).await;
        settle(&storage).await;
        assert_eq!(segments(&disk), ["log-00000001", "log-00000002", "log-00000003"]);
        storage.close().await.unwrap();
        assert_eq!(segments(&disk), ["log-00000001", "log-00000002"]);
    });
}

/// A table that was made in advance when the power went is an empty segment at the next start: nothing is
/// missing because of it, the log goes on after it, and it goes when its turn comes.
#[test]
fn a_table_made_in_advance_may_stay_empty() {
    simulated(|disk| async move {
        let storage = open(&disk, config()).await.unwrap();
        append_synced(&mut storage.log(G1), entries(1, 0..6, 1_000)).await;
        settle(&storage).await;
        let found = disk.duplicate();
        assert_eq!(segments(&found), ["log-00000001", "log-00000002"]);
        let storage = open(&found, config()).await.unwrap();
        let mut log = storage.log(G1);
        assert_eq!(all(&log).await, entries(1, 0..6, 1_000));
        append_synced(&mut log, entries(1, 6..8, 1_000)).await;
        assert_eq!(segments(&found), ["log-00000001", "log-00000002", "log-00000003"]);
        log.purge(id(1, 6)).await.unwrap();
        settle(&storage).await;
        settle(&storage).await;
        assert_eq!(segments(&found), ["log-00000003"]);
        storage.close().await.unwrap();
        let storage = open(&found, config()).await.unwrap();
        assert_eq!(all(&storage.log(G1)).await, entries(1, 7..8, 1_000));
    });
}

/// Purged entries give their disk space back.
#[test]
fn a_purge_gives_space_back() {
    simulated(|disk| async move {
        let storage = open(&disk, config()).await.unwrap();
        let mut log = storage.log(G1);
        for index in 0..200 {
            append_synced(&mut log, vec![entry(1, index, 1_000)]).await;
        }
        let full = storage.handle.shared.disk.bytes().unwrap();
        assert!(full > 200_000);
        log.purge(id(1, 195)).await.unwrap();
        settle(&storage).await;
        settle(&storage).await;
        let purged = storage.handle.shared.disk.bytes().unwrap();
        assert!(purged < 20_000, "{purged} of {full}");
        assert_eq!(storage.stats().live_bytes, 4 * 1_021);
        assert_eq!(log.bytes(), 4 * 1_021);
        assert_eq!(all(&log).await, entries(1, 196..200, 1_000));
        storage.close().await.unwrap();
        let storage = open(&disk, config()).await.unwrap();
        assert_eq!(all(&storage.log(G1)).await, entries(1, 196..200, 1_000));
    });
}

/// A group that hardly ever writes does not hold the segments of a busy one: its entries move on, its vote
/// stays known, and the disk stays within twice what is needed and the slack.
#[test]
fn a_quiet_group_does_not_pin_segments() {
    simulated(|disk| async move {
        let storage = open(&disk, config()).await.unwrap();
        let (mut quiet, mut busy) = (storage.log(G1), storage.log(G2));
        quiet.save_vote(&Vote::new_committed(9, 3)).await.unwrap();
        append_synced(&mut quiet, entries(9, 0..3, 100)).await;
        quiet.save_committed(Some(id(9, 1))).await.unwrap();
        for index in 0..1_000 {
            append_synced(&mut busy, vec![entry(1, index, 1_000)]).await;
            if index > 5 {
                busy.purge(id(1, index - 5)).await.unwrap();
            }
            let stats = storage.stats();
            let bound = 2 * stats.live_bytes + 30_000 + 10_000 + 2_000;
            assert!(stats.segment_bytes <= bound, "{stats:?}");
        }
        let stats = storage.stats();
        assert!(stats.bytes_carried > 0 && stats.segments_removed > 80, "{stats:?}");
        assert_eq!(all(&quiet).await, entries(9, 0..3, 100));
        storage.close().await.unwrap();
        let storage = open(&disk, config()).await.unwrap();
        let mut quiet = storage.log(G1);
        assert_eq!(all(&quiet).await, entries(9, 0..3, 100));
        assert_eq!(quiet.read_vote().await.unwrap(), Some(Vote::new_committed(9, 3)));
        assert_eq!(quiet.read_committed().await.unwrap(), Some(id(9, 1)));
    });
}

/// Entries that were truncated while they were being moved do not come back.
#[test]
fn carried_entries_do_not_undo_a_truncation() {
    simulated(|disk| async move {
        let storage = open(&disk, StorageConfig { slack_bytes: 0, ..config() }).await.unwrap();
        let (mut log, mut busy) = (storage.log(G1), storage.log(G2));
        append_synced(&mut log, entries(1, 0..8, 100)).await;
        disk.set_sync_delay(Duration::from_millis(1));
        for index in 0..300 {
            append_synced(&mut busy, vec![entry(1, index, 1_000)]).await;
            busy.purge(id(1, index)).await.unwrap();
            // The log of the group changes its tail all the time, while the rest of it is moved.
            log.truncate_after(Some(id(1, 3))).await.unwrap();
            drop(append(&mut log, entries(index + 2, 4..8, 100)).await);
        }
        let mut want = entries(1, 0..4, 100);
        want.extend(entries(301, 4..8, 100));
        assert!(storage.stats().bytes_carried > 0);
        assert_eq!(all(&log).await, want);
        storage.close().await.unwrap();
        let storage = open(&disk, config()).await.unwrap();
        assert_eq!(all(&storage.log(G1)).await, want);
    });
}

/// A record larger than a value is written in parts and read back whole.
#[test]
fn large_records_go_in_parts() {
    simulated(|disk| async move {
        let config = StorageConfig { tail_bytes_max: 0, ..StorageConfig::default() };
        let storage = open(&disk, config.clone()).await.unwrap();
        let mut log = storage.log(G1);
        append_synced(&mut log, entries(1, 0..3, 1 << 20)).await;
        append_synced(&mut log, entries(1, 3..4, 100)).await;
        assert_eq!(all(&log).await, [entries(1, 0..3, 1 << 20), entries(1, 3..4, 100)].concat());
        storage.close().await.unwrap();
        let storage = open(&disk, config).await.unwrap();
        assert_eq!(all(&storage.log(G1)).await.len(), 4);
    });
}

/// Entries on their way out of an old segment, as the log stood when they were read.
fn carried(log: &GroupLog, moved: Vec<Entry>) -> Item {
    let origin = log.group.state().durable.index.first().copied().unwrap();
    let item = Item::new(&log.group, Operation::Carry(moved), Done::Nobody);
    Item { origin: Some(Box::new(origin)), ..item }
}

/// A carry speaks of the log as it stood before the batch that it leaves with, wherever it stood in the queue;
/// and what was cut by an earlier batch it leaves out.
#[test]
fn a_carry_yields_to_a_truncation_beside_it_and_before_it() {
    for beside in [true, false] {
        simulated(|disk| async move {
            let storage = open(&disk, tiny()).await.unwrap();
            let mut log = storage.log(G1);
            append_synced(&mut log, entries(1, 0..8, 10)).await;
            let carry = carried(&log, entries(1, 0..8, 10));
            disk.set_sync_delay(Duration::from_millis(1));
            // While this is being synced, the next batch gathers.
            let busy = append(&mut storage.log(G2), entries(1, 0..1, 10)).await;
            tokio::task::yield_now().await;
            log.truncate_after(Some(id(1, 3))).await.unwrap();
            let told = append(&mut log, entries(2, 4..6, 10)).await;
            if !beside {
                told.await.unwrap().unwrap();
            }
            assert!(storage.handle.shared.queue.push(carry).is_ok());
            storage.handle.shared.queue.nudge();
            busy.await.unwrap().unwrap();
            settle(&storage).await;
            assert!(storage.stats().bytes_carried > 0);
            storage.close().await.unwrap();
            let storage = open(&disk, StorageConfig { tail_bytes_max: 0, ..tiny() }).await.unwrap();
            let want = [entries(1, 0..4, 10), entries(2, 4..6, 10)].concat();
            assert_eq!(all(&storage.log(G1)).await, want);
        });
    }
}
