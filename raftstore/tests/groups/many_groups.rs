//! Many groups on the same nodes: they share connections, heartbeats and syncs.

use crate::cluster::{Cluster, ELECTION, MS, SECOND, Settings, eventually};
use crate::power::host_name;
use futures_util::future::join_all;
use proto::GroupId;
use raftstore::Role;
use std::collections::BTreeSet;
use tokio::time::sleep;

const GROUPS: u64 = 64;

/// 64 groups of three, paced as hundreds of groups should be.
fn settings(seed: u64) -> Settings {
    let mut settings = Settings::new(3, seed);
    settings.groups = (1..=GROUPS).map(GroupId).collect();
    settings.raft.heartbeat_interval_ms = 500;
    settings.raft.election_timeout_ms_min = 2_000;
    settings.raft.election_timeout_ms_max = 4_000;
    settings
}

async fn started(seed: u64) -> Cluster {
    let cluster = Cluster::start(settings(seed)).await;
    for group in cluster.settings.groups.clone() {
        let led = || {
            let leads = |&node: &u64| cluster.node(node).groups[&group].status().role == Role::Leader;
            cluster.nodes().into_iter().find(leads)
        };
        eventually(&format!("{group} has a leader"), 4 * ELECTION, led).await;
    }
    cluster
}

/// All groups elect, and an idle group costs one heartbeat a follower each interval, its answer, and nothing else.
/// Heartbeats of all groups fall on the same lines, so those of one node to another share a write, and their answers too.
#[tokio::test(start_paused = true)]
async fn idle_groups_cost_their_heartbeats_and_no_more() {
    let cluster = started(100).await;
    sleep(2 * SECOND).await;
    let pairs = [(1, 2), (1, 3), (2, 1), (2, 3), (3, 1), (3, 2)];
    let writes =
        |(from, to): (u64, u64)| cluster.rack.network.counters(&host_name(from), &host_name(to)).writes;
    let heartbeats = || -> u64 {
        cluster
            .nodes()
            .into_iter()
            .map(|node| cluster.node(node).host.transport_stats().sent.heartbeats)
            .sum()
    };
    let all_writes = || pairs.map(writes).into_iter().sum::<u64>();
    let (before_writes, before_beats) = (all_writes(), heartbeats());
    sleep(10 * SECOND).await;
    let (writes, beats) = (all_writes() - before_writes, heartbeats() - before_beats);
    let due = 10 * 2 * 2 * GROUPS;
    assert!(
        beats * 10 >= due * 9,
        "every leader shows itself to both followers: {beats} of {due} heartbeats"
    );
    assert!(beats * 10 <= due * 11, "{beats} heartbeats where {due} were due");
    assert!(writes <= beats / 4, "{writes} writes for {beats} heartbeats and their answers");
    cluster.check();
}

/// What all groups write at the same time is made durable by a few syncs of each node.
#[tokio::test(start_paused = true)]
async fn groups_share_their_syncs() {
    let cluster = started(101).await;
    for node in cluster.nodes() {
        cluster.rack.disk(node).set_sync_delay(5 * MS);
    }
    let syncs = || -> Vec<u64> {
        cluster.nodes().into_iter().map(|node| cluster.node(node).host.storage_stats().syncs).collect()
    };
    let before = syncs();
    const ROUNDS: u64 = 5;
    for _ in 0..ROUNDS {
        join_all(cluster.settings.groups.iter().map(|&group| cluster.write_in(group))).await;
    }
    let writes = ROUNDS * GROUPS;
    for (node, (after, before)) in syncs().into_iter().zip(before).enumerate() {
        let syncs = after - before;
        assert!(syncs * 8 <= writes, "n{}: {syncs} syncs for {writes} writes", node + 1);
    }
    cluster.check();
}

/// A node with a replica of every group crashes: every group goes on, and the node takes part in all of them again.
#[tokio::test(start_paused = true)]
async fn all_groups_survive_the_crash_of_a_node() {
    let mut cluster = started(102).await;
    join_all(cluster.settings.groups.iter().map(|&group| cluster.write_in(group))).await;
    cluster.kill(1);
    sleep(2 * ELECTION).await;
    join_all(cluster.settings.groups.iter().map(|&group| cluster.write_in(group))).await;
    cluster.boot(1).await.unwrap();
    for group in cluster.settings.groups.clone() {
        let digests = || {
            let digest = |node| {
                cluster.node(node).groups[&group].read_stale(|machine| (machine.len(), machine.digest()))
            };
            let digests: BTreeSet<(u64, u64)> = cluster.nodes().into_iter().map(digest).collect();
            (digests.len() == 1 && digests.first()?.0 >= 2).then_some(())
        };
        eventually(&format!("all replicas of {group} hold the same"), 2 * ELECTION, digests).await;
    }
    cluster.check();
}
