//! Nodes that join at the same instant.

use crate::cluster::Cluster;
use proto::{ControllerChange, ControllerError, Incarnation, NodeId, NodeSpec};
use shardctrler::ExecuteError;
use std::time::Duration;
use tokio::task::JoinSet;

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
