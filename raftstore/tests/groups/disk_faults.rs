//! Disks that fail: the node stops with the reason, the others go on, nothing acknowledged is lost.

use crate::cluster::{Cluster, ELECTION, Settings};
use raftstore::{Fatal, Fault};
use std::time::Duration;
use tokio::time::timeout;

/// One node's disk fails once; everything else is as ever.
async fn one_fails(seed: u64, leads: bool, fault: Fault, at_sync: bool) {
    let mut cluster = Cluster::start(Settings::new(3, seed)).await;
    for _ in 0..3 {
        cluster.write_all().await;
    }
    let leader = cluster.leader().await;
    let struck = if leads { leader } else { leader % 3 + 1 };
    let disk = cluster.rack.disk(struck);
    match at_sync {
        true => disk.fail_sync(1, fault),
        false => disk.fail_write(1, fault),
    }
    for _ in 0..5 {
        let proposal = cluster.propose(leader, cluster.fresh("d"));
        timeout(Duration::from_secs(2), proposal).await.ok();
    }
    let fatal = cluster.node(struck).failure(ELECTION).await.expect("a node whose disk fails stops");
    let reason = match fault {
        Fault::Failed => "input/output error",
        Fault::Full => "no storage space",
    };
    assert!(matches!(&fatal, Fatal::Storage(why) if why.contains(reason)), "{fatal}");

    // What remains of the node is taken down, as its process would be; its disk works again.
    cluster.kill(struck);
    cluster.leader().await;
    for _ in 0..3 {
        cluster.write_all().await;
    }
    cluster.boot(struck).await.unwrap();
    cluster.settle().await;
    cluster.end().await;
}

/// A sync that fails stops the node, whether it leads or follows.
#[tokio::test(start_paused = true)]
async fn a_failed_sync_stops_the_node() {
    one_fails(80, true, Fault::Failed, true).await;
    one_fails(81, false, Fault::Failed, true).await;
}

/// A full disk stops the node, whether it leads or follows.
#[tokio::test(start_paused = true)]
async fn a_full_disk_stops_the_node() {
    one_fails(82, true, Fault::Full, false).await;
    one_fails(83, false, Fault::Full, false).await;
    one_fails(84, true, Fault::Full, true).await;
}

/// A failed node answers nothing that could mislead: what is proposed to it after the failure is never acknowledged,
/// and the others go on without it being taken down.
#[tokio::test(start_paused = true)]
async fn a_failed_leader_is_replaced_while_its_process_lives() {
    let cluster = Cluster::start(Settings::new(3, 85)).await;
    cluster.write_all().await;
    let leader = cluster.leader().await;
    cluster.rack.disk(leader).fail_sync(0, Fault::Failed);
    let told = timeout(Duration::from_secs(2), cluster.propose(leader, cluster.fresh("d"))).await;
    cluster.node(leader).failure(ELECTION).await.expect("a node whose disk fails stops");
    let after = timeout(Duration::from_secs(2), cluster.propose(leader, cluster.fresh("d"))).await;
    assert!(!matches!(after, Ok(Ok(_))), "{told:?} then {after:?}");
    let read = timeout(Duration::from_secs(2), cluster.read(leader)).await;
    assert!(!matches!(read, Ok(Ok(_))), "{read:?}");
    cluster.isolate(leader);
    let successor = cluster.leader().await;
    assert_ne!(successor, leader);
    cluster.write().await;
    cluster.check();
}
