//! Which nodes live, as the controller's leader hears: a pure judge of when somebody was silent for too long.
//!
//! Owns when each node was last heard of since this node began to lead. Must never judge by what an earlier leader
//! heard: whoever has just begun to lead has heard of nobody, and waits for the whole of the time.

use crate::api::Sign;
use proto::{ClusterMap, ControllerChange, GroupId, GroupState, NodeId, NodeState};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Liveness {
    /// When this node began to lead.
    since: Instant,
    heard: BTreeMap<NodeId, (Instant, Sign)>,
}

impl Liveness {
    /// Nothing was heard yet.
    pub(crate) fn new(now: Instant) -> Self {
        Self { since: now, heard: BTreeMap::new() }
    }

    /// A node gave a sign of life.
    pub(crate) fn hear(&mut self, now: Instant, sign: Sign) {
        self.heard.insert(sign.node, (now, sign));
    }

    /// What the controller is to be told, given its map.
    pub(crate) fn judge(&mut self, now: Instant, map: &ClusterMap) -> Vec<ControllerChange> {
        self.heard.retain(|node, _| map.nodes.iter().any(|view| view.node == *node));
        let dead_after = Duration::from_millis(map.settings.dead_after_ms);
        let judged = map.shard_map.epoch;
        let mut changes = Vec::new();
        for view in &map.nodes {
            let (node, incarnation) = (view.node, view.spec.incarnation);
            let heard = self.heard.get(&node).filter(|(_, sign)| sign.incarnation == incarnation);
            let at = heard.map_or(self.since, |(at, _)| *at);
            let silent = now.saturating_duration_since(at) >= dead_after;
            match view.state {
                NodeState::Up | NodeState::Draining if silent => {
                    changes.push(ControllerChange::NodeDead { node, incarnation, judged });
                }
                NodeState::Dead if heard.is_some() && !silent => {
                    changes.push(ControllerChange::NodeAlive { node, incarnation, judged });
                }
                _ => {}
            }
        }
        changes.extend(self.gone(map).into_iter().map(|group| ControllerChange::GroupGone { group }));
        changes
    }

    /// The groups that have nothing left to do and of which no living node says that it holds a replica.
    fn gone(&self, map: &ClusterMap) -> Vec<GroupId> {
        let living = map.nodes.iter().filter(|view| view.state != NodeState::Dead);
        let mut held: BTreeSet<GroupId> = BTreeSet::new();
        for view in living {
            match self.heard.get(&view.node) {
                Some((_, sign)) if sign.incarnation == view.spec.incarnation => held.extend(&sign.groups),
                _ => return Vec::new(),
            }
        }
        spent(map).filter(|group| !held.contains(group)).collect()
    }
}

/// The groups that are leaving, own no shard and take part in no move.
pub fn spent(map: &ClusterMap) -> impl Iterator<Item = GroupId> + '_ {
    let leaving = map.groups.iter().filter(|view| view.state == GroupState::Leaving);
    leaving.map(|view| view.group).filter(|&group| {
        let owns = map.shard_map.runs.iter().any(|run| run.owner == group || run.target == group);
        !owns && !map.moves.iter().any(|moving| moving.from == group || moving.to == group)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Controller;
    use proto::{Birth, ControllerCommand, Epoch, Incarnation, NewGroups, NodeSpec};

    fn tell(controller: &mut Controller, change: ControllerChange) {
        controller.execute(&ControllerCommand { expect: None, change }).unwrap();
    }

    fn controller() -> Controller {
        let mut controller = Controller::new();
        let node = |id: u64| {
            let (peer, http) = (format!("n{id}:1"), format!("n{id}:2"));
            let incarnation = Incarnation(id.into());
            (NodeId(id), NodeSpec { peer, http, zone: String::new(), weight: 1, incarnation })
        };
        let nodes = (1..=3).map(node).collect();
        tell(&mut controller, ControllerChange::Birth(Birth { shards: 8, groups: 2, replicas: 3, nodes }));
        tell(&mut controller, ControllerChange::DeadAfter { ms: 10_000 });
        controller
    }

    fn sign(node: u64, disk: u128, groups: &[u64]) -> Sign {
        let groups = groups.iter().copied().map(GroupId).collect();
        Sign { node: NodeId(node), incarnation: Incarnation(disk), groups }
    }

    /// Who is silent for too long is dead, who is heard of again lives; nobody is judged by silence before this
    /// leader's time, nor saved by a sign from another disk.
    #[test]
    fn silence_is_judged() {
        let mut controller = controller();
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut liveness = Liveness::new(start);
        let map = controller.cluster_map().unwrap();
        assert_eq!(liveness.judge(at(9), &map), []);
        for node in [1, 2] {
            liveness.hear(at(9), sign(node, node.into(), &[]));
        }
        liveness.hear(at(9), sign(3, 99, &[]));
        let judged = map.shard_map.epoch;
        let (node, incarnation) = (NodeId(3), Incarnation(3));
        let dead = ControllerChange::NodeDead { node, incarnation, judged };
        assert_eq!(liveness.judge(at(10), &map), std::slice::from_ref(&dead));
        tell(&mut controller, dead);
        let map = controller.cluster_map().unwrap();
        assert_eq!(liveness.judge(at(11), &map), []);
        liveness.hear(at(12), sign(3, 3, &[]));
        let judged = map.shard_map.epoch;
        assert_eq!(liveness.judge(at(12), &map), [ControllerChange::NodeAlive { node, incarnation, judged }]);
    }

    /// A group is gone once it has nothing to do and every living node has said that it holds no replica of it.
    #[test]
    fn groups_are_gone_when_nobody_holds_them() {
        let mut controller = controller();
        tell(&mut controller, ControllerChange::GroupAdd { groups: NewGroups::Count(1), weight: 1 });
        tell(&mut controller, ControllerChange::GroupRemove { group: GroupId(3) });
        while let Some(moving) = controller.cluster_map().unwrap().moves.first().cloned() {
            let proto::MoveView { shard, from, to, id, .. } = moving;
            tell(&mut controller, ControllerChange::MoveDone { shard, from, to, id });
        }
        let map = controller.cluster_map().unwrap();
        assert_eq!(spent(&map).collect::<Vec<_>>(), [GroupId(3)]);
        let now = Instant::now();
        let mut liveness = Liveness::new(now);
        for (node, groups) in [(1, &[1, 2][..]), (2, &[1, 2, 3]), (3, &[])] {
            assert_eq!(liveness.judge(now, &map), []);
            liveness.hear(now, sign(node, node.into(), groups));
        }
        assert_eq!(liveness.judge(now, &map), []);
        liveness.hear(now, sign(2, 2, &[1, 2]));
        assert_eq!(liveness.judge(now, &map), [ControllerChange::GroupGone { group: GroupId(3) }]);
        assert!(map.shard_map.epoch > Epoch(2));
    }
}
