//! Elections: one leader a term, a new one when it is lost, none without a quorum.

use crate::cluster::{Cluster, ELECTION, SECOND, Settings};
use crate::rounds;
use rand::seq::IteratorRandom;
use tokio::time::sleep;

/// A new cluster elects one leader, all agree on it and its term, and both stay while nothing fails.
#[tokio::test(start_paused = true)]
async fn initial_election() {
    let cluster = Cluster::start(Settings::new(3, 1)).await;
    let leader = cluster.leader().await;
    let terms: Vec<u64> = cluster.nodes().iter().map(|&node| cluster.status(node).term).collect();
    assert!(terms.iter().all(|&term| term == terms[0] && term >= 1), "{terms:?}");
    sleep(4 * SECOND).await;
    assert_eq!(cluster.leader().await, leader);
    let later: Vec<u64> = cluster.nodes().iter().map(|&node| cluster.status(node).term).collect();
    assert_eq!(terms, later, "no term passes while nothing fails");
}

/// A leader that is a quorum by itself is never behind; one that is not is, as soon as nobody confirms it.
#[tokio::test(start_paused = true)]
async fn a_leader_knows_whether_it_is_confirmed() {
    for (nodes, confirmed) in [(1, true), (3, false)] {
        let cluster = Cluster::start(Settings::new(nodes, 5)).await;
        let leader = cluster.leader().await;
        assert!(cluster.group(leader).lag().unwrap() < SECOND);
        cluster.isolate(leader);
        sleep(10 * SECOND).await;
        let lag = cluster.group(leader).lag();
        assert_eq!(lag.is_some_and(|lag| lag < SECOND), confirmed, "{lag:?} in a group of {nodes}");
    }
}

/// A lost leader is replaced; its return disturbs nobody; without a quorum nobody leads, and with one somebody
/// does again.
#[tokio::test(start_paused = true)]
async fn re_election() {
    let cluster = Cluster::start(Settings::new(3, 2)).await;
    let first = cluster.leader().await;
    cluster.isolate(first);
    let second = cluster.leader().await;
    assert_ne!(first, second);
    let term = cluster.status(second).term;
    cluster.connect(first);
    assert_eq!(cluster.leader().await, second);
    sleep(3 * SECOND).await;
    assert_eq!(cluster.leader().await, second, "a rejoining node is harmless");
    assert_eq!(cluster.status(second).term, term);

    let third = cluster.nodes().into_iter().find(|node| ![first, second].contains(node)).unwrap();
    cluster.isolate(second);
    cluster.isolate(third);
    sleep(2 * ELECTION).await;
    for node in [first, third] {
        assert_ne!(cluster.status(node).role, raftstore::Role::Leader, "n{node} has no quorum");
    }
    cluster.connect(third);
    cluster.leader().await;
    cluster.connect(second);
    cluster.leader().await;
    cluster.settle().await;
}

/// Of seven replicas any three may be cut off, again and again: the others have one leader.
#[tokio::test(start_paused = true)]
async fn many_elections() {
    let cluster = Cluster::start(Settings::new(7, 3)).await;
    cluster.leader().await;
    for _ in 0..rounds(9, 9) {
        let cut = cluster.nodes().into_iter().sample(&mut raftstore::random(), 3);
        cut.iter().for_each(|&node| cluster.isolate(node));
        cluster.leader().await;
        cut.iter().for_each(|&node| cluster.connect(node));
    }
    cluster.leader().await;
    cluster.settle().await;
}
