//! What a handle does that has no replica, with others like it on a simulated network.

use super::*;
use crate::Controller;
use proto::{Birth, Incarnation, NodeSpec};
use raftstore::{
    HostConfig, RaftConfig, Services, SimulatedClock, SimulatedDisk, SimulatedNetwork, StorageConfig,
    TransportConfig,
};
use std::pin::Pin;
use tokio::time::{sleep, timeout_at};

const NODES: u64 = 3;

fn address(node: u64) -> Address {
    Address { peer: format!("h{node}:1"), http: format!("h{node}:2") }
}

fn spec(node: u64) -> NodeSpec {
    let Address { peer, http } = address(node);
    NodeSpec { peer, http, zone: String::new(), weight: 1, incarnation: Incarnation(node.into()) }
}

struct Peers(Arc<ControllerHandle>);

impl Services for Peers {
    fn call(
        &self,
        _from: NodeId,
        _service: u8,
        body: Bytes,
        deadline: Duration,
    ) -> Pin<Box<dyn Future<Output = Result<Bytes, Refusal>> + Send>> {
        let handle = self.0.clone();
        Box::pin(async move { handle.serve(&body, deadline, |_| async { None }).await })
    }
}

/// A node without a replica of group 0, which knows all others.
async fn node(network: &SimulatedNetwork, node: u64) -> (Arc<ControllerHandle>, JoinSet<()>) {
    let config = HostConfig {
        cluster: "test".into(),
        node: NodeId(node),
        listen: address(node).peer,
        raft: RaftConfig::default(),
        storage: StorageConfig::default(),
        transport: TransportConfig::default(),
    };
    let (disk, clock) = (Arc::new(SimulatedDisk::new()), Arc::new(SimulatedClock::starting_at(0)));
    let network = network.host(&format!("h{node}"));
    let host = Host::start(config, disk, network, clock).await.unwrap();
    let seeds = (1..=NODES).filter(|other| *other != node);
    let seeds = seeds.map(|other| (NodeId(other), address(other))).collect();
    let settings = Settings { seeds, named: Epoch(0), spec: spec(node), birth: None };
    let (handle, tasks) = ControllerHandle::start(host.clone(), None, settings);
    host.set_services(Arc::new(Peers(handle.clone())));
    (handle, tasks)
}

/// A node without a replica that is told that it leads goes on asking others.
#[tokio::test(start_paused = true)]
async fn a_node_is_not_talked_into_leading() {
    let (handle, _tasks) = node(&SimulatedNetwork::new(), 1).await;
    handle.note_leader(Some(NodeId(1)));
    assert_eq!(handle.whom(0), Some((NodeId(2), address(2).peer)));
    handle.note_leader(Some(NodeId(3)));
    assert_eq!(handle.whom(0), Some((NodeId(3), address(3).peer)));
}

/// Two nodes that came to follow each other, because the one that knows was out of reach, hear of a later
/// map all the same once it is back.
#[tokio::test(start_paused = true)]
async fn who_follows_in_a_circle_leaves_it() {
    let network = SimulatedNetwork::new();
    let mut nodes = Vec::new();
    for id in 1..=NODES {
        nodes.push(node(&network, id).await);
    }
    network.partition(&["h1"], &["h2", "h3"]);
    sleep(FOLLOW_TIME * 3).await;
    network.heal();
    let mut controller = Controller::new();
    let born = Birth {
        shards: 8,
        groups: 1,
        replicas: 3,
        nodes: (1..=NODES).map(|node| (NodeId(node), spec(node))).collect(),
    };
    controller.execute(&ControllerCommand { expect: None, change: ControllerChange::Birth(born) }).unwrap();
    nodes[0].0.learn(controller.cluster_map().unwrap());
    for (handle, _) in &nodes {
        let mut map = handle.map();
        let heard = timeout_at(Instant::now() + FOLLOW_TIME * 4, map.wait_for(Option::is_some)).await;
        assert!(heard.is_ok(), "{} follows in a circle", handle.host.node());
    }
}
