//! Followers that missed what the log no longer holds: they catch up by snapshot, whatever happens meanwhile.

use crate::cluster::{AGREEMENT, Cluster, MS, SECOND, Settings, eventually};
use crate::power::host_name;
use crate::snapshots::write_until_purged;
use bytes::Bytes;
use raftstore::{Disk, Effect, Link};
use std::collections::BTreeSet;
use tokio::time::sleep;

/// How many writers there are in [`grow`], each with a record of its name in every snapshot.
const WRITERS: u64 = 20;

/// The bytes of such a name, unless a test says otherwise.
const NAME_BYTES: usize = 8_000;

/// Lets each of many writers with long names write once.
async fn grow(cluster: &Cluster, name_bytes: usize) {
    let leader = cluster.leader().await;
    for writer in 0..WRITERS {
        let command = cluster.fresh(&format!("{writer:02}{}", "-".repeat(name_bytes)));
        cluster.propose(leader, command).await.unwrap();
    }
}

/// Three nodes, one of which was killed and has missed what the others have purged. Their snapshot holds a name for
/// each of the [`WRITERS`]. Returns the leader and the one that is down.
async fn with_a_laggard(seed: u64, name_bytes: usize) -> (Cluster, u64, u64) {
    let mut settings = Settings::new(3, seed).with_snapshots();
    settings.storage.segment_bytes = 100_000;
    settings.storage.slack_bytes = 200_000;
    settings.storage.snapshot_part_bytes = 50_000;
    settings.transport.snapshot_window_bytes = 32 << 10;
    let mut cluster = Cluster::start(settings).await;
    cluster.write_all().await;
    let leader = cluster.leader().await;
    let laggard = leader % 3 + 1;
    let missed = cluster.status(laggard).last_index;
    cluster.kill(laggard);
    grow(&cluster, name_bytes).await;
    let up: Vec<u64> = cluster.up();
    write_until_grown(&cluster, &up, missed).await;
    (cluster, leader, laggard)
}

/// Lets the log grow until nobody's reaches back to `missed`.
async fn write_until_grown(cluster: &Cluster, nodes: &[u64], missed: Option<u64>) {
    for _ in 0..20 {
        if nodes.iter().all(|&node| cluster.status(node).purged_index > missed) {
            break;
        }
        grow(cluster, NAME_BYTES).await;
        sleep(SECOND).await;
    }
    write_until_purged(cluster, nodes, missed).await;
}

fn snapshots_sent(cluster: &Cluster, node: u64) -> u64 {
    cluster.node(node).host.transport_stats().sent.snapshots
}

/// A slow transfer is overtaken: while it lasts the leader writes, makes further snapshots and purges. Its disk does not
/// keep what it began to send; the follower takes a later snapshot in and catches up with the rest.
#[tokio::test(start_paused = true)]
async fn further_snapshots_do_not_disturb_a_transfer() {
    let (mut cluster, leader, laggard) = with_a_laggard(70, NAME_BYTES).await;
    let slow = Link { delay_min: MS, delay_max: MS, bytes_per_second: Some(50_000), ..Link::default() };
    cluster.rack.network.set_link(&host_name(leader), &host_name(laggard), slow);
    cluster.boot(laggard).await.unwrap();
    eventually("a transfer begins", AGREEMENT, || (snapshots_sent(&cluster, leader) > 0).then_some(())).await;
    let (first, purged) = {
        let status = cluster.status(leader);
        (status.snapshot_index, status.purged_index)
    };
    let sent = snapshot_tables(&cluster, leader);
    for _ in 0..4 {
        grow(&cluster, NAME_BYTES).await;
        sleep(500 * MS).await;
    }
    assert!(cluster.status(leader).snapshot_index > first, "further snapshots were made");
    assert!(cluster.status(laggard).applied_index < first, "the transfer was still under way");
    assert!(snapshot_tables(&cluster, leader).is_disjoint(&sent), "what is sent by now is a later one");
    let written = cluster.truth().len();
    cluster.applied(&[laggard], written, 6 * AGREEMENT).await;
    assert!(cluster.status(leader).purged_index >= purged);
    cluster.settle().await;
}

/// A transfer that is cut half-way, by a lost connection or a silent link, is made again; nothing of the half
/// remains.
#[tokio::test(start_paused = true)]
async fn a_transfer_that_is_cut_is_made_again() {
    // Large enough that the half is on disk, not only in the receiver's memory.
    const LONG: usize = 25 * NAME_BYTES;
    for silent in [false, true] {
        let (mut cluster, leader, laggard) = with_a_laggard(71, LONG).await;
        let slow =
            Link { delay_min: MS, delay_max: MS, bytes_per_second: Some(1_000_000), ..Link::default() };
        cluster.rack.network.set_link(&host_name(leader), &host_name(laggard), slow);
        let bytes = || cluster_bytes(&cluster, leader, laggard);
        let before = bytes();
        cluster.boot(laggard).await.unwrap();
        let bytes = || cluster_bytes(&cluster, leader, laggard);
        eventually("half of it is sent", AGREEMENT, || {
            (bytes() - before > WRITERS * LONG as u64 / 2).then_some(())
        })
        .await;
        assert_eq!(cluster.status(laggard).snapshot_index, None);
        let half = snapshot_tables(&cluster, laggard);
        assert!(!half.is_empty(), "half of it is on disk");
        if silent {
            cluster.isolate(laggard);
            sleep(8 * SECOND).await;
            cluster.connect(laggard);
        } else {
            cluster.rack.network.reset(&host_name(leader), &host_name(laggard));
        }
        cluster.applied(&[laggard], cluster.truth().len(), 3 * AGREEMENT).await;
        assert!(cluster.status(laggard).snapshot_index.is_some());
        cluster.settle().await;
        let removed = || snapshot_tables(&cluster, laggard).is_disjoint(&half).then_some(());
        eventually("the half is removed", AGREEMENT, removed).await;
        cluster.end().await;
    }
}

fn snapshot_tables(cluster: &Cluster, node: u64) -> BTreeSet<String> {
    let tables = cluster.rack.disk(node).tables().unwrap();
    tables.into_iter().filter(|table| table.starts_with("snap-")).collect()
}

fn cluster_bytes(cluster: &Cluster, from: u64, to: u64) -> u64 {
    cluster.rack.network.counters(&host_name(from), &host_name(to)).bytes
}

/// The follower's power goes at every sync of the installation, whichever: it comes back, is sent the snapshot again
/// where it must be, and holds what the others hold.
#[tokio::test(start_paused = true)]
async fn a_follower_may_crash_at_every_sync_of_an_installation() {
    let (mut cluster, _, laggard) = with_a_laggard(72, NAME_BYTES).await;
    for at in 0.. {
        let written = cluster.truth().len();
        let effect = if at % 2 == 0 { Effect::Lost } else { Effect::Done };
        cluster.rack.arm(at, effect, &[laggard], &[laggard], at);
        let booted = cluster.boot(laggard).await;
        assert!(booted.is_ok() || cluster.rack.blown());
        let caught_up = || cluster.up().contains(&laggard) && cluster.len(laggard) >= written;
        let ended = || (cluster.rack.blown() || caught_up()).then_some(());
        eventually("its power goes, or it has caught up", 3 * AGREEMENT, ended).await;
        if !cluster.rack.blown() {
            assert!(at >= 4, "an installation has no more than {at} sync points");
            break;
        }
        cluster.lay_out(laggard);
        cluster.rack.disarm();
        cluster.boot(laggard).await.unwrap();
        cluster.applied(&[laggard], written, 3 * AGREEMENT).await;

        // It falls behind again.
        let missed = cluster.status(laggard).last_index;
        cluster.kill(laggard);
        let up = cluster.up();
        write_until_grown(&cluster, &up, missed).await;
    }
    cluster.rack.disarm();
    cluster.settle().await;
}

/// A follower that answers all the time but cannot keep up does not hold its leader's log: its stream is ended, the
/// log is purged, and it is sent snapshots instead. Once its link is better it catches up.
#[tokio::test(start_paused = true)]
async fn a_follower_that_cannot_keep_up_does_not_hold_the_log() {
    const COMMAND_BYTES: u64 = 2_000;
    let mut settings = Settings::new(3, 73).with_snapshots();
    settings.raft.snapshot_log_bytes_min = 40_000;
    settings.storage.segment_bytes = 20_000;
    settings.storage.slack_bytes = 40_000;
    settings.transport.window_bytes = 64 << 10;
    settings.transport.stream_window_bytes = 16 << 10;
    settings.transport.append_bytes = 8 << 10;
    let due = settings.raft.snapshot_log_bytes_min;
    let cluster = Cluster::start(settings).await;
    cluster.write_all().await;
    let leader = cluster.leader().await;
    let slow = leader % 3 + 1;
    let link = Link { delay_min: MS, delay_max: MS, bytes_per_second: Some(20_000), ..Link::default() };
    cluster.rack.network.set_link(&host_name(leader), &host_name(slow), link);
    // The link carries ten commands a second, of fifty.
    for number in 0..2_000 {
        let command = Bytes::from(format!("w/{number}/{}", "x".repeat(COMMAND_BYTES as usize)));
        cluster.propose(leader, command).await.unwrap();
        sleep(20 * MS).await;
        let log_bytes = cluster.status(leader).log_bytes;
        assert!(log_bytes < 6 * due, "{log_bytes} bytes of log after {number} commands");
    }
    assert!(snapshots_sent(&cluster, leader) > 1, "the slow follower is sent snapshots");
    cluster.rack.network.set_link(&host_name(leader), &host_name(slow), Link::default());
    cluster.settle().await;
    cluster.end().await;
}
