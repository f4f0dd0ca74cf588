//! What stands in for the controller behind a front end that has no node: its pure machine, with a cluster that
//! has just been born.

use proto::{Birth, ControllerChange, ControllerCommand, Incarnation, NodeId, NodeSpec};
use shardctrler::Controller;

/// What a node says of itself.
pub fn spec(node: u64) -> NodeSpec {
    NodeSpec {
        peer: format!("n{node}:1"),
        http: format!("n{node}:2"),
        zone: String::new(),
        weight: 1,
        incarnation: Incarnation(node.into()),
    }
}

/// A cluster of so many nodes, two groups and sixteen shards.
pub fn born(nodes: u64) -> Controller {
    let nodes = (1..=nodes).map(|node| (NodeId(node), spec(node))).collect();
    let mut controller = Controller::new();
    let birth = ControllerChange::Birth(Birth { shards: 16, groups: 2, replicas: 3, nodes });
    controller.execute(&ControllerCommand { expect: None, change: birth }).expect("a cluster is born");
    controller
}
