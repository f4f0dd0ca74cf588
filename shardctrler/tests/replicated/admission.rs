//! Nodes that join at the same instant, and such as are removed before they know that they have joined.

use crate::cluster::{Cluster, eventually};
use proto::{ControllerChange, ControllerError, Epoch, Incarnation, NodeId, NodeSpec};
use shardctrler::ExecuteError;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// More than all of them need.
const TIME: Duration = Duration::from_secs(60);

/// Of nodes that join at the same instant with one HTTP address among them one is admitted, and the others hear
/// whose the address is; those with addresses of their own are all admitted meanwhile. The leader itself is
/// asked: it looks at the map for all of them before it has carried out anything.
#[tokio::test(start_paused = true)]
async fn an_http_address_is_given_once() {
    let cluster = Cluster::start(1, 41).await;
    let leader = cluster.leader().await;
    let mut joining = JoinSet::new();
    for node in 11..=20 {
        let handle = cluster.handle(leader);
        let http = if node <= 15 { "shared:2".to_owned() } else { format!("h{node}:2") };
        let (peer, zone, incarnation) = (format!("h{node}:1"), String::new(), Incarnation(node.into()));
        let spec = NodeSpec { peer, http, zone, weight: 1, incarnation };
        let change = ControllerChange::NodeJoin { node: NodeId(node), spec };
        joining.spawn(async move { (node, handle.execute(None, change, TIME).await) });
    }
    let (mut admitted, mut refused) = (Vec::new(), Vec::new());
    for (node, outcome) in joining.join_all().await {
        match outcome {
            Ok(_) => admitted.push(node),
            Err(ExecuteError::Refused(ControllerError::Invalid { why })) => refused.push((node, why)),
            other => panic!("n{node} is admitted or refused: {other:?}"),
        }
    }
    admitted.sort_unstable();
    assert_eq!((admitted.len(), &admitted[1..]), (6, &[16, 17, 18, 19, 20][..]));
    let holder = admitted[0];
    assert!(refused.len() == 4 && refused.iter().all(|(node, _)| *node <= 15), "{refused:?}");
    for (_, why) in refused {
        assert_eq!(why, format!("http address shared:2 is that of n{holder}"));
    }
    let map = cluster.map().await;
    let shared = map.nodes.iter().filter(|view| view.spec.http == "shared:2").map(|view| view.node);
    assert_eq!(shared.collect::<Vec<_>>(), [NodeId(holder)]);
    cluster.end().await;
}

/// A cluster that n4 is to join on a disk that knows of nothing, with a leader that is far away from it, as all others
/// are; and the leader.
async fn with_a_distant_newcomer(seed: u64) -> (Cluster, u64) {
    let cluster = Cluster::start_with(3, 1, seed).await;
    eventually("all nodes have joined", async || {
        (cluster.known(1).is_some_and(|map| map.nodes.len() == 5)).then_some(())
    })
    .await;
    let leader = cluster.leader().await;
    cluster.change(leader, ControllerChange::NodeDrain { node: NodeId(4) }).await.unwrap();
    cluster.change(leader, remove(4)).await.unwrap();
    cluster.crash(4).await;
    for other in [1, 2, 3, 5] {
        cluster.delay(4, other, Duration::from_millis(150));
    }
    cluster.boot(4).await;
    (cluster, leader)
}

fn remove(node: u64) -> ControllerChange {
    ControllerChange::NodeRemove { node: NodeId(node) }
}

fn names(cluster: &Cluster, at: u64, node: u64) -> bool {
    cluster.known(at).is_some_and(|map| map.nodes.iter().any(|view| view.node == NodeId(node)))
}

/// A node that cannot know yet that it is a member is not removed: it would join again. It is once it has given a sign
/// of life, and then stays away.
#[tokio::test(start_paused = true)]
async fn who_may_join_again_is_not_removed() {
    let (cluster, leader) = with_a_distant_newcomer(42).await;
    eventually("n4 is a member", async || names(&cluster, leader, 4).then_some(())).await;
    let early = cluster.handle(leader).execute(None, remove(4), Duration::from_millis(140)).await;
    let Err(ExecuteError::Unreached(why)) = early else { panic!("{early:?}") };
    assert!(why.contains("n4 may not know yet that it is a member"), "{why}");
    assert!(names(&cluster, leader, 4));
    cluster.handle(leader).execute(None, remove(4), TIME).await.unwrap();
    assert!(cluster.handle(4).named() > Epoch(0));
    sleep(TIME).await;
    assert!(!names(&cluster, leader, 4));
    cluster.end().await;
}

/// A join is carried out at the map that the node has seen, or not at all, so that one that comes late does nothing. The
/// node looks again, and has joined once the map stands still for long enough.
#[tokio::test(start_paused = true)]
async fn a_join_that_comes_late_does_nothing() {
    let (cluster, leader) = with_a_distant_newcomer(43).await;
    eventually("n4 knows the map", async || cluster.known(4)).await;
    for round in 0..50 {
        let change =
            if round % 2 == 0 { ControllerChange::MovesPause } else { ControllerChange::MovesResume };
        cluster.change(leader, change).await.unwrap();
        sleep(Duration::from_millis(100)).await;
        assert!(!names(&cluster, leader, 4), "all that it says is several changes old");
    }
    eventually("n4 is a member", async || names(&cluster, leader, 4).then_some(())).await;
    cluster.end().await;
}
