//! Where requests go: which group serves a shard, who leads a group, where a node is reached.
//!
//! Owns what was learnt beside the controller's map: a group that has given a shard away says where it went before the
//! map does, and a node that does not lead says who does. Nothing here needs to be right: a machine answers only for
//! the shards that its group serves, and whoever was sent to the wrong place is told, and sent on.

use proto::{ClusterMap, Code, Epoch, Error, GroupId, NodeId, ShardId};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// See the [module](self).
pub(crate) struct Routes {
    map: watch::Receiver<Option<Arc<ClusterMap>>>,
    learnt: Mutex<Learnt>,
}

#[derive(Default)]
struct Learnt {
    /// Where a shard went by a move, as its former group says.
    moved: BTreeMap<ShardId, (Epoch, GroupId)>,
    leaders: BTreeMap<GroupId, NodeId>,
}

impl Routes {
    pub(crate) fn new(map: watch::Receiver<Option<Arc<ClusterMap>>>) -> Self {
        Self { map, learnt: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Learnt> {
        self.learnt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The map, as it is known here.
    ///
    /// # Errors
    /// [`Code::Unavailable`] as long as none is known.
    pub(crate) fn map(&self) -> Result<Arc<ClusterMap>, Error> {
        let unknown = || Error::new(Code::Unavailable, "the node has not heard of the cluster's map yet");
        self.map.borrow().clone().ok_or_else(unknown)
    }

    /// The group that serves a shard, as far as is known here.
    pub(crate) fn group_of(&self, map: &ClusterMap, shard: ShardId) -> Option<GroupId> {
        let mut learnt = self.lock();
        if let Some(&(epoch, to)) = learnt.moved.get(&shard) {
            let under_way = map.moves.iter().any(|moving| moving.shard == shard && moving.id == epoch);
            if under_way || map.shard_map.epoch < epoch {
                return Some(to);
            }
            learnt.moved.remove(&shard);
        }
        map.shard_map.owner_of(shard)
    }

    /// All groups that serve shards, by the map and by what was learnt since.
    pub(crate) fn groups(&self, map: &ClusterMap) -> Vec<GroupId> {
        let owners = map.shard_map.runs.iter().map(|run| run.owner);
        let mut groups: Vec<GroupId> = owners.chain(self.lock().moved.values().map(|(_, to)| *to)).collect();
        groups.sort_unstable();
        groups.dedup();
        groups
    }

    /// Learns from a refusal of `group`.
    pub(crate) fn learn(&self, group: GroupId, code: &Code) {
        let mut learnt = self.lock();
        let known = |shard: &ShardId| learnt.moved.get(shard).copied();
        match *code {
            Code::WrongGroup { shard, to: Some(to), epoch }
                if known(&shard).is_none_or(|(known, _)| known <= epoch) =>
            {
                learnt.moved.insert(shard, (epoch, to));
            }
            // It was sent there by what was learnt, and is not there: the map knows better.
            Code::WrongGroup { shard, to: None, epoch }
                if known(&shard).is_some_and(|(known, at)| at == group && known <= epoch) =>
            {
                learnt.moved.remove(&shard);
            }
            Code::NotLeader { group, leader: Some(leader) } => drop(learnt.leaders.insert(group, leader)),
            Code::NotLeader { group, leader: None } => drop(learnt.leaders.remove(&group)),
            _ => {}
        }
    }

    /// Who is to be asked for a group of which this node has no replica: whoever was last said to lead it, or one of
    /// its voters.
    pub(crate) fn leader_of(&self, map: &ClusterMap, group: GroupId) -> Option<NodeId> {
        let learnt = self.lock().leaders.get(&group).copied();
        let view = map.groups.iter().find(|view| view.group == group);
        learnt.or_else(|| view.and_then(|view| view.leader.or(view.voters.keys().next().copied())))
    }

    /// Whoever was said to lead a group could not be reached.
    pub(crate) fn forget_leader(&self, group: GroupId) {
        self.lock().leaders.remove(&group);
    }

    /// Where other nodes reach a node.
    pub(crate) fn peer_of(map: &ClusterMap, node: NodeId) -> Option<String> {
        map.nodes.iter().find(|view| view.node == node).map(|view| view.spec.peer.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::{ClusterSettings, MoveState, MoveView, ShardMap, ShardRun};

    const SHARD: ShardId = ShardId(1);

    fn map(epoch: u64, owner: u64, moving: Option<u64>) -> ClusterMap {
        let owner = GroupId(owner);
        let (from, to, state) = (GroupId(1), GroupId(2), MoveState::Running);
        let moving = moving.map(|id| MoveView { shard: SHARD, from, to, id: Epoch(id), state });
        let runs = vec![ShardRun { first: ShardId(0), count: 2, owner, target: owner }];
        ClusterMap {
            shard_map: ShardMap { epoch: Epoch(epoch), shards: 2, runs },
            settings: ClusterSettings {
                moves_paused: false,
                copy_bytes_per_second: None,
                moves_max: 4,
                replicas: 3,
                dead_after_ms: 1,
            },
            nodes: vec![],
            groups: vec![],
            moves: moving.into_iter().collect(),
            setbacks: vec![],
        }
    }

    fn wrong(to: Option<u64>, epoch: u64) -> Code {
        Code::WrongGroup { shard: SHARD, to: to.map(GroupId), epoch: Epoch(epoch) }
    }

    /// What a group says of a shard that it gave away holds until the map knows how the move has ended.
    #[test]
    fn moves_are_followed_before_the_map_knows() {
        let routes = Routes::new(watch::Sender::new(None).subscribe());
        let group = |map: ClusterMap| routes.group_of(&map, SHARD).map(|group| group.0);
        assert_eq!(group(map(4, 1, None)), Some(1));
        routes.learn(GroupId(1), &wrong(Some(2), 5));
        assert_eq!(group(map(4, 1, None)), Some(2), "the map is older than the move");
        assert_eq!(group(map(6, 1, Some(5))), Some(2), "the move goes on, the shard is frozen");
        assert_eq!(group(map(7, 1, None)), Some(1), "it was given up");
        routes.learn(GroupId(1), &wrong(Some(2), 8));
        routes.learn(GroupId(1), &wrong(Some(3), 7));
        assert_eq!(group(map(8, 1, Some(8))), Some(2), "an older move is no news");
        routes.learn(GroupId(2), &wrong(None, 8));
        assert_eq!(group(map(8, 1, Some(8))), Some(1), "it is not there yet");
    }

    /// Leaders are learnt from refusals, and forgotten.
    #[test]
    fn leaders_are_learnt() {
        let routes = Routes::new(watch::Sender::new(None).subscribe());
        let (map, group) = (map(1, 1, None), GroupId(1));
        assert_eq!(routes.leader_of(&map, group), None);
        routes.learn(group, &Code::NotLeader { group, leader: Some(NodeId(3)) });
        assert_eq!(routes.leader_of(&map, group), Some(NodeId(3)));
        routes.forget_leader(group);
        assert_eq!(routes.leader_of(&map, group), None);
        assert!(routes.map().is_err());
    }
}
