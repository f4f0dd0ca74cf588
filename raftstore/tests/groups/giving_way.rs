//! A follower that copies its machine while its leader sends it a snapshot: the copy gives way, and the disk never
//! holds both.

use crate::cluster::{AGREEMENT, Cluster, MS, SECOND, eventually};
use crate::flow_control::{Peaks, RECORDS, settings, write};
use crate::rounds;
use raftstore::{Disk, Effect};
use std::collections::BTreeMap;
use tokio::time::sleep;

/// The pace of the slow follower's copies while nobody waits for them: a minute for each.
const COPY_BYTES_PER_SECOND: u64 = 256 << 10;

/// Writes that nearly make a copy due, those of a step towards it, and those after which its leader's log has left a
/// follower behind that has taken none of them.
const NEARLY_DUE: u64 = RECORDS / 4;
const STEP: u64 = RECORDS / 8;
const LEFT_BEHIND: u64 = 3 * RECORDS / 2;

/// A follower whose copies are slow, half-way through one of them. Returns its leader, it, and the number of the next
/// write.
async fn half_way_through_a_copy(seed: u64) -> (Cluster, u64, u64, u64) {
    let mut cluster = Cluster::start(settings(seed)).await;
    let leader = cluster.leader().await;
    let slow = leader % 3 + 1;
    write(&cluster, leader, 0..2 * RECORDS).await;
    cluster.applied(&[slow], 2 * RECORDS, AGREEMENT).await;
    cluster.kill(slow);
    let mut config = cluster.config(slow);
    config.raft.snapshot_bytes_per_second_max = COPY_BYTES_PER_SECOND;
    cluster.boot_as(slow, config).await.unwrap();
    let (mut next, mut step) = (2 * RECORDS, NEARLY_DUE);
    while tables_begun(&cluster, slow) == 0 {
        assert!(next < 5 * RECORDS, "n{slow} makes a copy");
        write(&cluster, leader, next..next + step).await;
        (next, step) = (next + step, STEP);
        // Time for a mebibyte to gather, which is when the first of it is written.
        sleep(20 * SECOND).await;
    }
    let half = || (tables_begun(&cluster, slow) >= 4).then_some(());
    eventually("half of the copy is on disk", 60 * SECOND, half).await;
    (cluster, leader, slow, next)
}

/// Tables of snapshots that are not current on this node's disk.
fn tables_begun(cluster: &Cluster, node: u64) -> usize {
    let mut parts = BTreeMap::<String, usize>::new();
    for table in cluster.rack.disk(node).tables().unwrap() {
        if let Some((snapshot, _)) = table.strip_prefix("snap-").and_then(|name| name.rsplit_once('-')) {
            *parts.entry(snapshot.to_owned()).or_default() += 1;
        }
    }
    // The numbers rise, so the last is the one that is being made, where there are two.
    if parts.len() < 2 { 0 } else { parts.pop_last().map_or(0, |(_, count)| count) }
}

fn snapshots_sent(cluster: &Cluster, node: u64) -> u64 {
    cluster.node(node).host.transport_stats().sent.snapshots
}

/// What a copy has written goes before the leader's snapshot comes, and no copy begins before that is taken in: the
/// disk stays within its bound, and the machine is never exchanged under a copy's feet.
#[tokio::test(start_paused = true)]
async fn a_copy_gives_way_to_the_leaders_snapshot() {
    let (cluster, leader, slow, next) = half_way_through_a_copy(183).await;
    let sent = snapshots_sent(&cluster, leader);
    // Writes take their time, for nobody looks at the log more often than five times a second.
    cluster.nodes().into_iter().for_each(|node| cluster.rack.disk(node).set_sync_delay(20 * MS));
    let peaks = Peaks::follow(&cluster);
    write(&cluster, leader, next..next + LEFT_BEHIND).await;
    cluster.applied(&[slow], next + LEFT_BEHIND, 30 * AGREEMENT).await;
    assert!(snapshots_sent(&cluster, leader) > sent, "n{slow} was sent a snapshot");
    peaks.check();
    drop(peaks);
    cluster.settle().await;
    cluster.end().await;
}

/// The follower's power goes at a sync of its own, whichever, from the half-made copy to the installed snapshot and the
/// log after it: it comes back, holds what the others hold, and nothing of either half is left. Every ninth of
/// these syncs by default, each in full.
#[tokio::test(start_paused = true)]
async fn a_follower_may_crash_at_every_sync_of_giving_way() {
    let mut at = 0;
    loop {
        let (mut cluster, leader, slow, next) = half_way_through_a_copy(184).await;
        let sent = snapshots_sent(&cluster, leader);
        let effect = if at % 2 == 0 { Effect::Lost } else { Effect::Done };
        cluster.rack.arm(at, effect, &[slow], &[slow], at / 2);
        write(&cluster, leader, next..next + LEFT_BEHIND).await;
        let written = next + LEFT_BEHIND;
        let ended = || (cluster.rack.blown() || cluster.len(slow) >= written).then_some(());
        eventually("its power goes, or it has caught up", 30 * AGREEMENT, ended).await;
        let blown = cluster.rack.blown();
        if blown {
            cluster.lay_out(slow);
            cluster.rack.disarm();
            cluster.boot(slow).await.unwrap();
            cluster.applied(&[slow], written, 6 * AGREEMENT).await;
        } else {
            assert!(snapshots_sent(&cluster, leader) > sent, "n{slow} was sent a snapshot");
            assert!(at > 20, "there are no more than {at} syncs");
            cluster.rack.disarm();
        }
        cluster.settle().await;
        let alone = || (tables_begun(&cluster, slow) == 0).then_some(());
        eventually("one snapshot is left on its disk", 30 * AGREEMENT, alone).await;
        cluster.end().await;
        if !blown {
            return;
        }
        at += rounds(1, 9);
    }
}
