//! Which nodes live, as the controller's leader hears: a pure judge of when somebody was silent for too long.
//!
//! Owns when each node was last heard of since this node began to lead, by its disk: what another process
//! says under the same number is no sign of this one. Must never judge by what an earlier leader heard, nor
//! by the time before a node was on the map, nor by a time in which this node itself stood still: whoever has
//! just begun to lead, or has just joined, has the whole of the time before it.

use crate::api::Sign;
use proto::{ClusterMap, ControllerChange, GroupId, GroupState, GroupView, Incarnation, NodeId, NodeState};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Liveness {
    /// When this node began to lead, until it has judged for the first time.
    since: Option<Instant>,
    /// When it judged last, or began to lead.
    judged: Instant,
    known: BTreeMap<(NodeId, Incarnation), Known>,
}

/// Of a node, by its disk.
#[derive(Debug)]
struct Known {
    /// When it was heard of last; before that, since when it was listened to.
    at: Instant,
    sign: Option<Sign>,
}

impl Liveness {
    /// Nothing was heard yet.
    pub(crate) fn new(now: Instant) -> Self {
        Self { since: Some(now), judged: now, known: BTreeMap::new() }
    }

    /// A node gave a sign of life.
    pub(crate) fn hear(&mut self, now: Instant, sign: Sign) {
        self.known.insert((sign.node, sign.incarnation), Known { at: now, sign: Some(sign) });
    }

    /// For how long a node was not heard of; `None` where it never was.
    pub(crate) fn silence(&self, now: Instant, node: NodeId, disk: Incarnation) -> Option<Duration> {
        let known = self.known.get(&(node, disk)).filter(|known| known.sign.is_some())?;
        Some(now.saturating_duration_since(known.at))
    }

    /// What the controller is to be told, given its map. To be asked several times in the time of silence that
    /// counts as death: where much of it has passed since it was last, this node stood still (stopped, swapped
    /// out, starved), what others said meanwhile may still wait to be heard, and nobody is judged by it.
    pub(crate) fn judge(&mut self, now: Instant, map: &ClusterMap) -> Vec<ControllerChange> {
        let dead_after = Duration::from_millis(map.settings.dead_after_ms);
        if now.saturating_duration_since(self.judged) >= dead_after / 2 {
            *self = Self::new(now);
        }
        self.judged = now;
        let is_on_map = |&(node, disk): &(NodeId, Incarnation)| {
            map.nodes.iter().any(|view| view.node == node && view.spec.incarnation == disk)
        };
        self.known.retain(|known, _| is_on_map(known));
        let since = self.since.take().unwrap_or(now);
        let judged = map.shard_map.epoch;
        let mut changes = Vec::new();
        for view in &map.nodes {
            let (node, incarnation) = (view.node, view.spec.incarnation);
            let known = self.known.entry((node, incarnation)).or_insert(Known { at: since, sign: None });
            let silent = now.saturating_duration_since(known.at) >= dead_after;
            match view.state {
                NodeState::Up | NodeState::Draining if silent => {
                    changes.push(ControllerChange::NodeDead { node, incarnation, judged });
                }
                NodeState::Dead if known.sign.is_some() && !silent => {
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
            match self.known.get(&(view.node, view.spec.incarnation)).and_then(|known| known.sign.as_ref()) {
                Some(sign) => held.extend(&sign.groups),
                None => return Vec::new(),
            }
        }
        spent(map).filter(|group| !held.contains(group)).collect()
    }
}

/// The groups that are leaving, own no shard and take part in no move: their replicas can be dropped, then they are
/// [gone](ControllerChange::GroupGone). A group that is spent stays so.
pub fn spent(map: &ClusterMap) -> impl Iterator<Item = GroupId> + '_ {
    let is_spent = |view: &&GroupView| {
        let shards = map.shard_map.runs.iter().map(|run| (run.owner, run.target));
        let moves = map.moves.iter().map(|moving| (moving.from, moving.to));
        is_spent(view.group, Some(view.state), shards, moves)
    };
    map.groups.iter().filter(is_spent).map(|view| view.group)
}

/// Whether a group in this state has nothing left to do, given each shard's owner and target, and where each move
/// comes from and goes.
pub(crate) fn is_spent(
    group: GroupId,
    state: Option<GroupState>,
    mut shards: impl Iterator<Item = (GroupId, GroupId)>,
    mut moves: impl Iterator<Item = (GroupId, GroupId)>,
) -> bool {
    let is_apart = |(one, other): (GroupId, GroupId)| one != group && other != group;
    state == Some(GroupState::Leaving) && shards.all(is_apart) && moves.all(is_apart)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Controller;
    use proto::{Birth, ControllerCommand, Epoch, Incarnation, NewGroups, NodeSpec};
    use std::ops::RangeInclusive;

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

    /// Judges each second from `begin` to `end`, when nobody is to be judged.
    fn nobody_is_judged(
        liveness: &mut Liveness,
        begin: Instant,
        seconds: RangeInclusive<u64>,
        map: &ClusterMap,
    ) {
        for second in seconds {
            assert_eq!(liveness.judge(begin + Duration::from_secs(second), map), [], "at {second}");
        }
    }

    fn sign(node: u64, disk: u128, groups: &[u64]) -> Sign {
        let groups = groups.iter().copied().map(GroupId).collect();
        Sign { node: NodeId(node), incarnation: Incarnation(disk), groups }
    }

    /// Who is silent for too long is dead, who is heard of again lives; nobody is judged by silence before
    /// this leader's time, nor saved by a sign from another disk.
    #[test]
    fn silence_is_judged() {
        let mut controller = controller();
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut liveness = Liveness::new(start);
        let map = controller.cluster_map().unwrap();
        nobody_is_judged(&mut liveness, start, 1..=9, &map);
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

    /// A node that joins has the whole of the time before it, however long the leader has led; and what
    /// another disk says under a node's number neither kills that node nor keeps it alive.
    #[test]
    fn signs_are_of_one_disk() {
        let mut controller = controller();
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut liveness = Liveness::new(begin);
        let hear_all = |liveness: &mut Liveness, seconds| {
            (1..=3).for_each(|node| liveness.hear(at(seconds), sign(node, node.into(), &[])));
        };
        let map = controller.cluster_map().unwrap();
        for second in 1..=100 {
            hear_all(&mut liveness, second);
            assert_eq!(liveness.judge(at(second), &map), []);
        }
        let (peer, http) = ("n4:1".to_owned(), "n4:2".to_owned());
        let spec = NodeSpec { peer, http, zone: String::new(), weight: 1, incarnation: Incarnation(4) };
        tell(&mut controller, ControllerChange::NodeJoin { node: NodeId(4), spec });
        let map = controller.cluster_map().unwrap();
        nobody_is_judged(&mut liveness, begin, 101..=105, &map);
        hear_all(&mut liveness, 105);
        liveness.hear(at(105), sign(4, 4, &[]));
        liveness.hear(at(106), sign(4, 99, &[]));
        assert_eq!(liveness.silence(at(107), NodeId(4), Incarnation(4)), Some(Duration::from_secs(2)));
        assert_eq!(liveness.silence(at(107), NodeId(5), Incarnation(5)), None);
        assert_eq!(liveness.judge(at(107), &map), [], "a stranger that speaks in its name is not its death");
        nobody_is_judged(&mut liveness, begin, 108..=114, &map);
        hear_all(&mut liveness, 114);
        liveness.hear(at(114), sign(4, 99, &[]));
        let (node, incarnation, judged) = (NodeId(4), Incarnation(4), map.shard_map.epoch);
        assert_eq!(
            liveness.judge(at(115), &map),
            [ControllerChange::NodeDead { node, incarnation, judged }],
            "nor its life"
        );
    }

    /// A judge that stood still for much of the time that counts as death has heard nobody meanwhile, and judges nobody
    /// by it, as often as that happens: the silence was its own. Whoever stays silent from then on is dead in the end.
    #[test]
    fn who_stood_still_judges_nobody() {
        let map = controller().cluster_map().unwrap();
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut liveness = Liveness::new(begin);
        for node in 1..=3 {
            liveness.hear(at(0), sign(node, node.into(), &[]));
        }
        nobody_is_judged(&mut liveness, begin, 1..=2, &map);
        for woken in [14, 26, 31] {
            assert_eq!(liveness.judge(at(woken), &map), [], "it wakes at {woken}");
        }
        nobody_is_judged(&mut liveness, begin, 32..=40, &map);
        assert_eq!(liveness.judge(at(41), &map).len(), 3);
    }

    /// A group is gone once it has nothing to do and every living node has said that it holds no replica of
    /// it.
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
