//! Who is judged to live, and who is asked, while leaders are cut off and nodes do not answer.

use crate::cluster::{Cluster, NODES, SHARDS, eventually};
use proto::{ControllerChange, Epoch, NodeState};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// The shortest silence that counts as death.
const DEAD_AFTER: Duration = Duration::from_millis(shardctrler::bounds::DEAD_AFTER_MIN_MS);

/// Several times that.
const LONG: Duration = Duration::from_secs(30);

async fn die_early(cluster: &Cluster, node: u64) {
    let ms = DEAD_AFTER.as_millis() as u64;
    cluster.change(node, ControllerChange::DeadAfter { ms }).await.unwrap();
}

/// A cluster whose controller has replicas on n1, n2 and n3 alone, while n4 and n5 have joined; nodes count as dead as
/// early as may be, and all have found the leader.
async fn with_three_replicas(seed: u64) -> Cluster {
    let cluster = Cluster::start_with(3, 1, seed).await;
    eventually("all nodes have joined", async || {
        (cluster.known(1).is_some_and(|map| map.nodes.len() == 5)).then_some(())
    })
    .await;
    die_early(&cluster, 4).await;
    sleep(DEAD_AFTER).await;
    cluster
}

/// The nodes that are dead on the map that `node` knows.
fn dead(cluster: &Cluster, node: u64) -> BTreeSet<u64> {
    let map = cluster.known(node).unwrap();
    let dead = map.nodes.iter().filter(|view| view.state == NodeState::Dead);
    dead.map(|view| view.node.0).collect()
}

/// Who was dead at any time on the map that `node` knows.
async fn died(cluster: &Cluster, node: u64, time: Duration) -> BTreeSet<u64> {
    let until = Instant::now() + time;
    let mut died = BTreeSet::new();
    while Instant::now() < until {
        died.extend(dead(cluster, node));
        sleep(Duration::from_millis(100)).await;
    }
    died
}

/// A leader that lost its quorum for long, without a successor, judges nobody meanwhile: not a word of it is in its log
/// to be agreed on later, and once the quorum is back nobody is dead for having been out of reach of it.
#[tokio::test(start_paused = true)]
async fn a_leader_without_a_quorum_judges_nobody() {
    let cluster = Cluster::start(1, 21).await;
    die_early(&cluster, 1).await;
    let leader = cluster.leader().await;
    cluster.map().await;
    sleep(DEAD_AFTER).await;
    let others: Vec<u64> = cluster.up().into_iter().filter(|node| *node != leader).collect();
    cluster.cut(&[leader], &others);
    cluster.cut(&others[..2], &others[2..]);
    let last = || cluster.handle(leader).group().unwrap().status().last_index;
    let before = last();
    sleep(LONG).await;
    assert_eq!(last(), before, "n{leader} has judged");
    cluster.heal();
    for node in cluster.up() {
        assert_eq!(died(&cluster, node, DEAD_AFTER).await, BTreeSet::new(), "n{node} says so");
    }
    cluster.end().await;
}

/// Nodes that reach everybody do not go on giving their signs of life to a leader that was cut off from the other
/// replicas, and do not die of it: the successor hears them in time, and only the one that was cut off is dead.
#[tokio::test(start_paused = true)]
async fn an_isolated_leader_swallows_no_signs() {
    let cluster = with_three_replicas(22).await;
    let leader = cluster.leader().await;
    let others: Vec<u64> = (1..=3).filter(|node| *node != leader).collect();
    cluster.cut(&[leader], &others);
    sleep(DEAD_AFTER).await;
    let successor = cluster.leader().await;
    assert_ne!(successor, leader);
    assert_eq!(died(&cluster, successor, LONG).await, BTreeSet::from([leader]));
    cluster.end().await;
}

/// A node without a replica lives on though the first of those that it could ask swallows every question: the next sign
/// of life is given to another.
#[tokio::test(start_paused = true)]
async fn one_that_swallows_questions_kills_nobody() {
    let cluster = with_three_replicas(23).await;
    if cluster.leader().await == 1 {
        cluster.crash(1).await;
        cluster.leader().await;
        cluster.boot(1).await;
        sleep(DEAD_AFTER).await;
    }
    let leader = cluster.leader().await;
    assert_ne!(leader, 1, "it is the first that is asked, and must have nothing to say");
    cluster.crash(4).await;
    cluster.cut(&[1], &[4]);
    cluster.boot(4).await;
    assert_eq!(died(&cluster, leader, LONG).await, BTreeSet::new());
    cluster.end().await;
}

/// What is only asked is asked again, of another, where the one that was asked has gone silent meanwhile: no outcome of
/// it is unknown.
#[tokio::test(start_paused = true)]
async fn a_question_is_asked_again() {
    let cluster = with_three_replicas(24).await;
    let epoch: Epoch = cluster.map().await.shard_map.epoch;
    let leader = cluster.leader().await;
    cluster.isolate(leader);
    let told = cluster.handle(4).history(None, LONG).await;
    assert_eq!(told.map(|map| map.epoch), Ok(epoch));
    cluster.end().await;
}

/// A change has all of its time through a node that does not lead: it may not be said twice, so nothing is won by giving
/// up early on a leader that is far away.
#[tokio::test(start_paused = true)]
async fn a_change_has_all_of_its_time() {
    let cluster = with_three_replicas(25).await;
    let leader = cluster.leader().await;
    cluster.delay(4, leader, Duration::from_secs(2));
    let changed = cluster.handle(4).execute(None, ControllerChange::MovesPause, LONG).await;
    assert!(changed.is_ok(), "{changed:?}");
    cluster.end().await;
}

/// A birth that cannot be is not only refused over and over: whoever leads says why, as operators see it.
#[tokio::test(start_paused = true)]
async fn a_refused_birth_is_told() {
    let cluster = Cluster::start_unborn(NODES, SHARDS + 1, 26).await;
    let why =
        eventually("somebody says why", async || (1..=NODES).find_map(|node| cluster.handle(node).refused()))
            .await;
    assert!(why.contains(&format!("groups must be from 1 to {SHARDS}: {}", SHARDS + 1)), "{why}");
    cluster.end().await;
}
