//! Snapshots, one about every ten entries: the log stays bounded, and whoever missed entries that are gone is sent
//! the snapshot.

use crate::cluster::{AGREEMENT, Cluster, MS, Settings, eventually};
use crate::persistence::unreliable;
use crate::rounds;
use raftstore::Link;
use tokio::time::{Instant, sleep};

/// The most bytes of log that may remain once everything has come to rest.
const LOG_BYTES_MAX: u64 = 4_000;

async fn logs_are_bounded(cluster: &Cluster) {
    for node in cluster.up() {
        let bounded = || (cluster.status(node).log_bytes <= LOG_BYTES_MAX).then_some(());
        eventually(&format!("the log of n{node} is short"), AGREEMENT, bounded).await;
    }
}

/// Snapshots are made as the log grows, and the log stays bounded.
#[tokio::test(start_paused = true)]
async fn snapshot_basic() {
    let cluster = Cluster::start(Settings::new(3, 40).with_snapshots()).await;
    cluster.leader().await;
    for _ in 0..5 {
        write_some(&cluster, 50).await;
        logs_are_bounded(&cluster).await;
    }
    for node in cluster.nodes() {
        let status = cluster.status(node);
        assert!(status.snapshot_index >= Some(150), "{status:?}");
        assert!(status.purged_index >= Some(100), "{status:?}");
    }
    cluster.settle().await;
}

async fn write_some(cluster: &Cluster, count: u64) {
    for _ in 0..count {
        cluster.write().await;
    }
}

/// Writes until the logs of `nodes` no longer reach back to `index`.
pub async fn write_until_purged(cluster: &Cluster, nodes: &[u64], index: Option<u64>) {
    let until = Instant::now() + 6 * AGREEMENT;
    while nodes.iter().any(|&node| cluster.status(node).purged_index <= index) {
        assert!(Instant::now() < until, "logs are never purged up to {index:?}");
        cluster.write().await;
        sleep(20 * MS).await;
    }
}

/// One replica after another misses so much that the log no longer reaches it, and is sent the snapshot.
async fn install(mut cluster: Cluster, crash: bool, iterations: u64) {
    cluster.write_all().await;
    let mut leader = cluster.leader().await;
    for round in 0..iterations {
        let (victim, sender) =
            if round % 3 == 1 { (leader, leader % 3 + 1) } else { (leader % 3 + 1, leader) };
        let missed = cluster.status(victim).last_index;
        if crash {
            cluster.kill(victim);
        } else {
            cluster.isolate(victim);
        }
        write_some(&cluster, 31).await;
        let up: Vec<u64> = cluster.nodes().into_iter().filter(|&node| node != victim).collect();
        if victim == leader {
            cluster.leader().await;
        } else {
            assert_eq!(cluster.leader().await, sender);
        }
        cluster.applied(&up, cluster.truth().len(), AGREEMENT).await;
        write_until_purged(&cluster, &up, missed).await;
        let count = cluster.truth().len();
        let sent = |cluster: &Cluster| -> u64 {
            up.iter().map(|&node| cluster.node(node).host.transport_stats().sent.snapshots).sum()
        };
        let before = sent(&cluster);
        if crash {
            cluster.boot(victim).await.unwrap();
        } else {
            cluster.connect(victim);
        }
        cluster.write_all().await;
        leader = cluster.leader().await;
        cluster.applied(&[victim], count, AGREEMENT).await;
        assert!(sent(&cluster) > before, "n{victim} needed no snapshot");
    }
    cluster.rack.network.set_default_link(Link::default());
    cluster.settle().await;
    logs_are_bounded(&cluster).await;
}

/// A replica that was cut off is sent the snapshot. 6 rounds by default, 30 in full.
#[tokio::test(start_paused = true)]
async fn snapshot_install() {
    install(Cluster::start(Settings::new(3, 41).with_snapshots()).await, false, rounds(30, 6)).await;
}

/// The same on an unreliable network.
#[tokio::test(start_paused = true)]
async fn snapshot_install_unreliable() {
    let cluster = Cluster::start(Settings::new(3, 42).with_snapshots()).await;
    cluster.leader().await;
    cluster.rack.network.set_default_link(unreliable());
    install(cluster, false, rounds(30, 6)).await;
}

/// A replica that crashed is sent the snapshot. 6 rounds by default, 30 in full.
#[tokio::test(start_paused = true)]
async fn snapshot_install_crash() {
    install(Cluster::start(Settings::new(3, 43).with_snapshots()).await, true, rounds(30, 6)).await;
}

/// The same on an unreliable network.
#[tokio::test(start_paused = true)]
async fn snapshot_install_unreliable_crash() {
    let cluster = Cluster::start(Settings::new(3, 44).with_snapshots()).await;
    cluster.leader().await;
    cluster.rack.network.set_default_link(unreliable());
    install(cluster, true, rounds(30, 6)).await;
}

/// All replicas crash at once, five times, with snapshots behind them: the last index never goes back.
#[tokio::test(start_paused = true)]
async fn snapshot_all_crash() {
    let mut cluster = Cluster::start(Settings::new(3, 45).with_snapshots()).await;
    cluster.write_all().await;
    for _ in 0..5 {
        write_some(&cluster, 15).await;
        let last = cluster.write_all().await;
        cluster.kill_all();
        cluster.boot_all().await;
        cluster.leader().await;
        assert!(cluster.write_all().await > last);
    }
    cluster.settle().await;
}

/// A replica that starts from a snapshot and crashes again before it has made another loses nothing.
#[tokio::test(start_paused = true)]
async fn snapshot_init() {
    let mut cluster = Cluster::start(Settings::new(3, 46).with_snapshots()).await;
    write_some(&cluster, 31).await;
    cluster.write_all().await;
    for _ in 0..2 {
        let before = cluster.truth().len();
        cluster.kill_all();
        cluster.boot_all().await;
        cluster.write_all().await;
        assert_eq!(cluster.truth().len(), before + 1);
        cluster.applied(&cluster.nodes(), before + 1, AGREEMENT).await;
    }
    cluster.settle().await;
}
