//! The controller's leader is cut off again and again while groups come and go: each successor takes up what its
//! predecessor left, and each predecessor that returns follows.

use crate::churn::{Churn, Clerks};
use crate::cluster::{Cluster, Shape};
use crate::map::Map;
use crate::rounds;
use crate::serving::{append_all, keys, write_all};
use std::sync::Arc;

const CLERKS: u64 = 5;

/// Each round cuts the controller's leader off in the midst of a change, makes another change by its successor, and
/// lets the old leader come back in the midst of that one.
async fn partition_recovery(cluster: Arc<Cluster>, rounds: u64, clerks: u64) {
    write_all(&mut cluster.clerk(), &keys()).await;
    let (clerks, mut churn) = (Clerks::begin(&cluster, clerks), Churn::new(&cluster));
    for _ in 0..rounds {
        let leader = cluster.controller().await;
        churn.change().await;
        cluster.isolate(leader);
        churn.change().await;
        cluster.connect(leader);
        churn.change().await;
        let map = Map::settled(&cluster).await;
        assert_eq!(map.groups("serving"), churn.groups.iter().copied().collect());
        map.check_balance();
    }
    clerks.end().await;
    append_all(&mut cluster.clerk(), &keys()).await;
    cluster.end().await;
}

/// PartitionRecovery, reliable, no clerks: five rounds.
#[tokio::test(flavor = "multi_thread")]
async fn partition_recovery_reliable_no_clerks() {
    let cluster = Cluster::start(Shape::new(1, 70).on_few_nodes()).await;
    partition_recovery(cluster, rounds(5, 2), 0).await;
}

/// PartitionRecovery, unreliable, no clerks: three rounds.
#[tokio::test(flavor = "multi_thread")]
async fn partition_recovery_unreliable_no_clerks() {
    let cluster = Cluster::start(Shape::new(1, 71).on_few_nodes()).await;
    cluster.make_unreliable();
    partition_recovery(cluster, rounds(3, 1), 0).await;
}

/// PartitionRecovery, reliable, with five clerks: as many rounds as take a minute.
#[tokio::test(flavor = "multi_thread")]
async fn partition_recovery_reliable_clerks() {
    let cluster = Cluster::start(Shape::new(1, 72).on_few_nodes()).await;
    partition_recovery(cluster, rounds(20, 2), CLERKS).await;
}

/// PartitionRecovery, unreliable, with five clerks: as many rounds as take a minute.
#[tokio::test(flavor = "multi_thread")]
async fn partition_recovery_unreliable_clerks() {
    let cluster = Cluster::start(Shape::new(1, 73).on_few_nodes()).await;
    cluster.make_unreliable();
    partition_recovery(cluster, rounds(12, 1), CLERKS).await;
}
