//! Where requests go: which group serves a shard, who leads a group, where a node is reached.
//!
//! Owns what was learnt beside the controller's map: a group that has given a shard away says where it went before the
//! map does, and a node that does not lead says who does. Nothing here needs to be right: a machine answers only for
//! the shards that its group serves, and whoever was sent to the wrong place is told, and sent on.

use proto::{ClusterMap, Code, Epoch, Error, GroupId, NodeId, ShardId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Semaphore, SemaphorePermit, watch};

/// The most messages that wait at this node for shards to arrive; further ones are told that they have not.
const WAITING_MAX: usize = 4_096;

/// See the [module](self).
pub(crate) struct Routes {
    map: watch::Receiver<Option<Arc<ClusterMap>>>,
    learnt: Mutex<Learnt>,
    /// One permit for each message that may wait for a shard to arrive.
    waiting: Semaphore,
}

#[derive(Default)]
struct Learnt {
    /// Where a shard went by a move, as its former group says.
    moved: BTreeMap<ShardId, (Epoch, GroupId)>,
    leaders: BTreeMap<GroupId, NodeId>,
    /// Who was asked last as the leader of a group and did not confirm it; nobody who was named its leader since.
    doubted: BTreeMap<GroupId, NodeId>,
}

impl Learnt {
    fn led_by(&mut self, group: GroupId, leader: NodeId) {
        self.leaders.insert(group, leader);
        if self.doubted.get(&group) == Some(&leader) {
            self.doubted.remove(&group);
        }
    }
}

impl Routes {
    pub(crate) fn new(map: watch::Receiver<Option<Arc<ClusterMap>>>) -> Self {
        Self { map, learnt: Mutex::default(), waiting: Semaphore::new(WAITING_MAX) }
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

    /// The version of the map that is known here.
    pub(crate) fn epoch(&self) -> Option<Epoch> {
        self.map.borrow().as_ref().map(|map| map.shard_map.epoch)
    }

    /// The group that serves a shard, as far as is known here.
    pub(crate) fn group_of(&self, map: &ClusterMap, shard: ShardId) -> Option<GroupId> {
        let mut learnt = self.lock();
        if let Some(&(epoch, to)) = learnt.moved.get(&shard) {
            if is_news(map, shard, epoch) {
                return Some(to);
            }
            learnt.moved.remove(&shard);
        }
        map.shard_map.owner_of(shard)
    }

    /// All groups that may serve shards, and whether the map says that they do: of the others, those to which
    /// shards are moving or have just moved, nobody knows yet whether they serve anything.
    pub(crate) fn groups(&self, map: &ClusterMap) -> BTreeMap<GroupId, bool> {
        let mut learnt = self.lock();
        learnt.moved.retain(|&shard, &mut (epoch, _)| is_news(map, shard, epoch));
        let moved = learnt.moved.values().map(|&(_, to)| (to, false));
        let moving = map.moves.iter().map(|moving| (moving.to, false));
        let owners = map.shard_map.runs.iter().map(|run| (run.owner, true));
        moved.chain(moving).chain(owners).collect()
    }

    /// Whether any shard may be on its way, as far as is known here.
    pub(crate) fn is_moving(&self, map: &ClusterMap) -> bool {
        !map.moves.is_empty() || !self.lock().moved.is_empty()
    }

    /// A place among those who wait for shards to arrive, where there is one.
    pub(crate) fn waiting_place(&self) -> Option<SemaphorePermit<'_>> {
        self.waiting.try_acquire().ok()
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
            Code::NotLeader { group, leader: Some(leader) } => learnt.led_by(group, leader),
            Code::NotLeader { group, leader: None } => drop(learnt.leaders.remove(&group)),
            Code::NoLeader => drop(learnt.leaders.remove(&group)),
            _ => {}
        }
    }

    /// Who is to be asked next for a group that this node does not lead, of those that were not `asked` yet:
    /// whoever was last said to lead it, or else one of its members, who know; whoever is doubted comes last.
    pub(crate) fn next_to_ask(
        &self,
        map: &ClusterMap,
        group: GroupId,
        asked: &BTreeSet<NodeId>,
    ) -> Option<NodeId> {
        let (known, doubted) = {
            let learnt = self.lock();
            (learnt.leaders.get(&group).copied(), learnt.doubted.get(&group).copied())
        };
        let view = map.groups.iter().find(|view| view.group == group);
        let leader = view.and_then(|view| view.leader);
        let members =
            view.into_iter().flat_map(|view| view.voters.keys().chain(view.replicas.keys())).copied();
        let all = known.into_iter().chain(leader).chain(members).filter(|node| !asked.contains(node));
        all.clone().find(|node| Some(*node) != doubted).or_else(|| all.clone().next())
    }

    /// Whether the map wants or knows a replica of `group` on `node`.
    pub(crate) fn is_member(map: &ClusterMap, group: GroupId, node: NodeId) -> bool {
        let view = map.groups.iter().find(|view| view.group == group);
        view.is_some_and(|view| {
            [&view.replicas, &view.voters, &view.learners].iter().any(|members| members.contains_key(&node))
        })
    }

    /// A node answered as only the leader of a group can, which a quorum follows.
    pub(crate) fn led_by(&self, group: GroupId, leader: NodeId) {
        self.lock().led_by(group, leader);
    }

    /// A node that was asked as the leader of a group was not reached, or did not confirm in time that it leads. It may
    /// be cut off from all others and go on believing that it does: they are to be asked before it, whatever the map
    /// says, until somebody names it again.
    pub(crate) fn doubt(&self, group: GroupId, leader: NodeId) {
        let mut learnt = self.lock();
        if learnt.leaders.get(&group).is_none_or(|known| *known == leader) {
            learnt.leaders.remove(&group);
            learnt.doubted.insert(group, leader);
        }
    }

    /// Whether a node is asked for a group only after all others.
    pub(crate) fn is_doubted(&self, group: GroupId, node: NodeId) -> bool {
        self.lock().doubted.get(&group) == Some(&node)
    }

    /// Where other nodes reach a node.
    pub(crate) fn peer_of(map: &ClusterMap, node: NodeId) -> Option<String> {
        map.nodes.iter().find(|view| view.node == node).map(|view| view.spec.peer.clone())
    }
}

/// Whether the map does not know yet how a move of a shard has ended, so that its former group knows better.
fn is_news(map: &ClusterMap, shard: ShardId, epoch: Epoch) -> bool {
    let under_way = map.moves.iter().any(|moving| moving.shard == shard && moving.id == epoch);
    under_way || map.shard_map.epoch < epoch
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::{
        ClusterSettings, GroupState, GroupView, Incarnation, MoveState, MoveView, ShardMap, ShardRun,
    };

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
            groups_at_birth: 1,
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

    /// Every group that may serve something is named, and none any more to which a shard went by a move that
    /// is past: it may have ended since, and nobody would answer for it.
    #[test]
    fn groups_of_past_moves_are_not_asked() {
        let routes = Routes::new(watch::Sender::new(None).subscribe());
        let groups = |map: ClusterMap| routes.groups(&map);
        assert_eq!(groups(map(4, 1, None)), [(GroupId(1), true)].into());
        assert_eq!(groups(map(4, 1, Some(4))), [(GroupId(1), true), (GroupId(2), false)].into());
        routes.learn(GroupId(1), &wrong(Some(3), 5));
        assert_eq!(groups(map(4, 1, None)), [(GroupId(1), true), (GroupId(3), false)].into());
        assert_eq!(groups(map(6, 1, None)), [(GroupId(1), true)].into());
        assert_eq!(groups(map(4, 1, None)), [(GroupId(1), true)].into(), "it was forgotten");
    }

    /// Whoever is said to lead is asked first, then the members, each of them once.
    #[test]
    fn leaders_are_learnt() {
        let routes = Routes::new(watch::Sender::new(None).subscribe());
        let (mut map, group) = (map(1, 1, None), GroupId(1));
        let ask = |map: &ClusterMap, asked: &[u64]| {
            let asked = asked.iter().map(|&node| NodeId(node)).collect();
            routes.next_to_ask(map, group, &asked).map(|node| node.0)
        };
        assert_eq!(ask(&map, &[]), None);
        let members = |nodes: &[u64]| nodes.iter().map(|&node| (NodeId(node), Incarnation(1))).collect();
        map.groups.push(GroupView {
            group,
            state: GroupState::Serving,
            weight: 1,
            first: members(&[1, 2]),
            replicas: members(&[2, 4]),
            voters: members(&[1, 2]),
            learners: members(&[]),
            leader: Some(NodeId(2)),
            preferred: None,
        });
        assert_eq!((ask(&map, &[]), ask(&map, &[2]), ask(&map, &[1, 2])), (Some(2), Some(1), Some(4)));
        assert_eq!(ask(&map, &[1, 2, 4]), None);
        routes.learn(group, &Code::NotLeader { group, leader: Some(NodeId(3)) });
        assert_eq!((ask(&map, &[]), ask(&map, &[3])), (Some(3), Some(2)));
        routes.learn(group, &Code::NoLeader);
        assert_eq!(ask(&map, &[]), Some(2), "it does not know");
        routes.led_by(group, NodeId(3));
        assert_eq!(ask(&map, &[]), Some(3));
        routes.doubt(group, NodeId(3));
        assert_eq!(ask(&map, &[]), Some(2));
        assert!(Routes::is_member(&map, group, NodeId(4)) && !Routes::is_member(&map, group, NodeId(3)));
        assert!(routes.map().is_err());
    }

    /// Whoever did not confirm that it leads is asked after all others, also where the map names it, until it is named
    /// by somebody else or answers.
    #[test]
    fn the_doubted_are_asked_last() {
        let routes = Routes::new(watch::Sender::new(None).subscribe());
        let (mut map, group) = (map(1, 1, None), GroupId(1));
        let members: BTreeMap<_, _> = [1, 2, 3].map(|node| (NodeId(node), Incarnation(1))).into();
        map.groups.push(GroupView {
            group,
            state: GroupState::Serving,
            weight: 1,
            first: members.clone(),
            replicas: members.clone(),
            voters: members,
            learners: BTreeMap::new(),
            leader: Some(NodeId(1)),
            preferred: None,
        });
        let order = || {
            let mut asked = BTreeSet::new();
            std::iter::from_fn(|| {
                let next = routes.next_to_ask(&map, group, &asked)?;
                asked.insert(next).then_some(next.0)
            })
            .collect::<Vec<_>>()
        };
        assert_eq!(order(), [1, 2, 3]);
        routes.led_by(group, NodeId(1));
        routes.doubt(group, NodeId(1));
        assert_eq!(order(), [2, 3, 1]);
        assert!(routes.is_doubted(group, NodeId(1)) && !routes.is_doubted(GroupId(2), NodeId(1)));
        routes.learn(group, &Code::NotLeader { group, leader: Some(NodeId(3)) });
        assert_eq!(order(), [3, 2, 1]);
        routes.doubt(group, NodeId(1));
        assert_eq!(order(), [3, 2, 1], "who was named since is not forgotten");
        routes.learn(group, &Code::NotLeader { group, leader: Some(NodeId(1)) });
        assert_eq!(order(), [1, 2, 3]);
    }

    /// No more wait than there are places.
    #[test]
    fn those_who_wait_are_bounded() {
        let routes = Routes::new(watch::Sender::new(None).subscribe());
        let mut places: Vec<_> = (0..WAITING_MAX).map(|_| routes.waiting_place().unwrap()).collect();
        assert!(routes.waiting_place().is_none());
        places.pop();
        assert!(routes.waiting_place().is_some());
    }
}
