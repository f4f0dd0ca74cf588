//! The controller's rules, one by one. This file owns the rig that the tests share: it checks after every
//! command what holds of every state, and that a refusal has changed nothing.

mod groups;
mod members;
mod moves;
mod nodes;
mod own;
mod random;

use super::*;
use crate::membership::{Members, MembershipStep, next_step};
use proto::{
    Birth, Incarnation, MembersReport, MoveState, MoveView, NewGroups, NodeId, NodeSpec, NodeState, ShardMap,
};
use std::collections::BTreeSet;

impl Controller {
    /// What a steward would do next about the members of a group.
    pub(crate) fn next_step(&self, group: GroupId) -> Option<MembershipStep> {
        if self.state.is_spent(group) {
            return None;
        }
        let leader = self.hints.get(&group).and_then(|hint| hint.leader);
        let group = self.state.groups.get(&group)?;
        let (voters, learners) = group.members();
        let members = Members { voters: &voters, learners: &learners, leader };
        next_step(&group.replicas, &members, &self.state.disks())
    }

    /// The groups of which a driver would drop the replicas.
    pub(crate) fn spent_groups(&self) -> Vec<GroupId> {
        let spent: Vec<GroupId> = crate::spent(&self.cluster_map().unwrap()).collect();
        let own = self.state.groups.keys().copied().filter(|group| self.state.is_spent(*group));
        assert_eq!(own.collect::<Vec<_>>(), spent, "the map says what the state does");
        spent
    }
}

/// A controller with all maps that it ever had.
#[derive(Clone)]
pub(crate) struct Rig {
    pub(crate) controller: Controller,
    recorded: BTreeMap<Epoch, ShardMap>,
}

impl Rig {
    /// A cluster of so many nodes and groups, with three replicas each and 256 shards.
    pub(crate) fn born(nodes: u64, groups: u32) -> Self {
        let nodes = (1..=nodes).map(|node| (NodeId(node), spec(node, "", 1))).collect();
        Self::of(Birth { shards: 256, groups, replicas: 3, nodes })
    }

    pub(crate) fn of(birth: Birth) -> Self {
        let mut rig = Self { controller: Controller::new(), recorded: BTreeMap::new() };
        rig.tell(ControllerChange::Birth(birth)).unwrap();
        assert_eq!(rig.controller.epoch(), Epoch(1));
        rig
    }

    pub(crate) fn tell(&mut self, change: ControllerChange) -> ControllerAnswer {
        self.command(&ControllerCommand { expect: None, change })
    }

    pub(crate) fn command(&mut self, command: &ControllerCommand) -> ControllerAnswer {
        let before = self.controller.clone();
        let answer = self.controller.execute(command);
        self.check();
        let (epoch, state) = (self.controller.epoch(), &self.controller.state);
        if epoch == before.epoch() {
            assert_eq!(*state, before.state, "a change raises the epoch: {command:?}");
        } else {
            assert_eq!(epoch.0, before.epoch().0 + 1, "the epoch rises by one: {command:?}");
            self.recorded.insert(epoch, self.controller.shard_map(None).unwrap());
        }
        match &answer {
            Ok(reply) => assert_eq!(reply.epoch(), epoch),
            Err(_) => assert_eq!(proto::encode(&self.controller), proto::encode(&before), "{command:?}"),
        }
        answer
    }

    /// What holds between commands.
    fn check(&self) {
        self.controller.check().unwrap();
        let state = &self.controller.state;
        assert_eq!(state.startable(), [], "whatever can start has started");
        let judged = |moved: &&state::Move| moved.state == MoveState::Running;
        assert!(state.moves.values().filter(judged).all(|moved| moved.id <= state.epoch));
    }

    /// Every map that there ever was is answered as it was then.
    pub(crate) fn check_history(&self) {
        for (epoch, map) in &self.recorded {
            assert_eq!(self.controller.shard_map(Some(*epoch)).as_ref(), Ok(map));
        }
    }

    pub(crate) fn moves(&self) -> Vec<MoveView> {
        self.controller.cluster_map().unwrap().moves
    }

    /// How many shards each group is to have.
    pub(crate) fn targets(&self) -> BTreeMap<GroupId, u32> {
        let mut targets = BTreeMap::new();
        for run in self.controller.shard_map(None).unwrap().runs {
            *targets.entry(run.target).or_default() += run.count;
        }
        targets
    }

    /// The target of each shard.
    pub(crate) fn target_of_each(&self) -> Vec<GroupId> {
        self.controller.state.shards.iter().map(|shard| shard.target).collect()
    }

    pub(crate) fn finish(&mut self, moved: &MoveView) -> ControllerAnswer {
        let MoveView { shard, from, to, id, .. } = *moved;
        self.tell(ControllerChange::MoveDone { shard, from, to, id })
    }

    /// Lets all moves come to their ends.
    pub(crate) fn finish_all(&mut self) {
        while let Some(moved) = self.moves().first() {
            self.finish(moved).unwrap();
        }
    }

    pub(crate) fn add_groups(&mut self, count: u32) -> Vec<GroupId> {
        let change = ControllerChange::GroupAdd { groups: NewGroups::Count(count), weight: 1 };
        match self.tell(change).unwrap() {
            ControllerReply::GroupsAdded { groups, .. } => groups,
            other => panic!("groups are added: {other:?}"),
        }
    }

    /// Where a group's replicas are to be.
    pub(crate) fn replicas(&self, group: u64) -> BTreeSet<u64> {
        self.controller.state.groups[&GroupId(group)].replicas.keys().map(|node| node.0).collect()
    }

    /// Reports members on the disks that their nodes have now.
    pub(crate) fn report(
        &mut self,
        group: u64,
        index: u64,
        voters: &[u64],
        learners: &[u64],
    ) -> ControllerAnswer {
        let mut report = report(group, 1, index, voters, learners);
        for (id, disk) in report.voters.iter_mut().chain(&mut report.learners) {
            *disk = self.controller.state.nodes.get(id).map_or(*disk, |node| node.spec.incarnation);
        }
        self.tell(ControllerChange::MembersReport(report))
    }

    /// The members of a group after a step, reported as a driver would.
    pub(crate) fn after(&self, id: GroupId, step: MembershipStep) -> MembersReport {
        let (mut voters, mut learners) = self.controller.state.groups[&id].members();
        match step {
            MembershipStep::AddLearner { node, incarnation } => {
                assert!(!voters.contains_key(&node) && learners.insert(node, incarnation).is_none());
            }
            MembershipStep::RemoveLearner { node } => assert!(learners.remove(&node).is_some()),
            MembershipStep::RemoveVoter { node } => assert!(voters.remove(&node).is_some()),
            MembershipStep::Promote { node, replacing } => {
                let disk = learners.remove(&node).expect("only learners are promoted");
                assert!(voters.insert(node, disk).is_none());
                assert!(replacing.is_none_or(|old| voters.remove(&old).is_some()));
            }
        }
        let index = 1 + self.controller.hints.get(&id).map_or(0, |hint| hint.index);
        let leader = voters.keys().next().copied();
        MembersReport { group: id, term: 1, index, voters, learners, leader }
    }

    pub(crate) fn judge(&mut self, node: u64, dead: bool) -> ControllerAnswer {
        let (node, judged) = (NodeId(node), self.controller.epoch());
        let incarnation = self.controller.state.nodes[&node].spec.incarnation;
        self.tell(match dead {
            true => ControllerChange::NodeDead { node, incarnation, judged },
            false => ControllerChange::NodeAlive { node, incarnation, judged },
        })
    }
}

impl Controller {
    /// Breaks what must hold, for tests of who finds out.
    pub(crate) fn leave_a_shard_to(&mut self, group: GroupId) {
        self.state.shards[0].owner = group;
    }
}

/// A node's spec, under an incarnation of its own.
pub(crate) fn spec(node: u64, zone: &str, weight: u32) -> NodeSpec {
    NodeSpec {
        peer: format!("n{node}:7201"),
        http: format!("n{node}:7101"),
        zone: zone.into(),
        weight,
        incarnation: Incarnation(u128::from(node)),
    }
}

/// The same node with another disk.
pub(crate) fn wiped(node: u64, disk: u128) -> NodeSpec {
    NodeSpec { incarnation: Incarnation(disk << 64), ..spec(node, "", 1) }
}

/// Members on the first disks of their nodes.
pub(crate) fn report(group: u64, term: u64, index: u64, voters: &[u64], learners: &[u64]) -> MembersReport {
    let nodes = |ids: &[u64]| ids.iter().map(|&id| (NodeId(id), Incarnation(u128::from(id)))).collect();
    let (voters, learners): (BTreeMap<NodeId, Incarnation>, _) = (nodes(voters), nodes(learners));
    let leader = voters.keys().next().copied();
    MembersReport { group: GroupId(group), term, index, voters, learners, leader }
}

pub(crate) fn node(id: u64) -> NodeId {
    NodeId(id)
}

/// A cluster is born once: the same again changes nothing, another is refused, and so is everything before
/// it.
#[test]
fn a_cluster_is_born_once() {
    let nodes: BTreeMap<_, _> = (1..=3).map(|id| (node(id), spec(id, "", 1))).collect();
    let birth = Birth { shards: 16, groups: 2, replicas: 3, nodes };
    let mut unborn = Controller::new();
    let rebalance = ControllerCommand { expect: None, change: ControllerChange::ShardRebalance };
    assert_eq!(unborn.execute(&rebalance), Err(ControllerError::Unborn));
    assert_eq!(unborn.shard_map(None), Err(ControllerError::Unborn));
    assert_eq!(unborn, Controller::new());

    let mut rig = Rig::of(birth.clone());
    rig.tell(ControllerChange::ShardRebalance).unwrap();
    rig.tell(ControllerChange::Birth(birth.clone())).unwrap();
    assert_eq!(rig.controller.epoch(), Epoch(1));
    let other = Birth { shards: 32, ..birth };
    assert_eq!(rig.tell(ControllerChange::Birth(other)), Err(ControllerError::Born));
}

/// A cluster's first map is the one that clusters without a controller had: contiguous ranges, whose keys are
/// there.
#[test]
fn shards_are_born_in_ranges() {
    for groups in [1, 2, 3, 7, 256] {
        let rig = Rig::born(3, groups);
        let runs = rig.controller.shard_map(None).unwrap().runs;
        assert_eq!(runs.len(), groups as usize);
        for run in runs {
            let group = |shard: u32| GroupId(1 + u64::from(shard) * u64::from(groups) / 256);
            assert_eq!((run.owner, run.target), (group(run.first.0), group(run.first.0)));
            assert_eq!(run.owner, group(run.first.0 + run.count - 1));
        }
    }
}

/// Shapes that cannot be are refused at birth, each by name.
#[test]
fn impossible_births_are_refused() {
    let nodes: BTreeMap<_, _> = (1..=3).map(|id| (node(id), spec(id, "", 1))).collect();
    let good = Birth { shards: 16, groups: 2, replicas: 3, nodes: nodes.clone() };
    let with = |id: u64, changed: NodeSpec| {
        let mut nodes = nodes.clone();
        nodes.insert(node(id), changed);
        Birth { nodes, ..good.clone() }
    };
    let bad = [
        Birth { shards: 0, ..good.clone() },
        Birth { shards: crate::bounds::SHARDS_MAX + 1, ..good.clone() },
        Birth { groups: 0, ..good.clone() },
        Birth { groups: 17, ..good.clone() },
        Birth { replicas: 0, ..good.clone() },
        Birth { replicas: crate::bounds::REPLICAS_MAX + 1, ..good.clone() },
        Birth { nodes: BTreeMap::new(), ..good.clone() },
        with(0, spec(9, "", 1)),
        with(4, spec(1, "", 1)),
        with(1, spec(1, "", 0)),
        with(1, spec(1, &"z".repeat(65), 1)),
        with(1, NodeSpec { peer: String::new(), ..spec(1, "", 1) }),
        with(1, NodeSpec { http: "h".repeat(257), ..spec(1, "", 1) }),
    ];
    for birth in bad {
        let mut controller = Controller::new();
        let command = ControllerCommand { expect: None, change: ControllerChange::Birth(birth) };
        let answer = controller.execute(&command);
        assert!(matches!(answer, Err(ControllerError::Invalid { .. })), "{answer:?} to {command:?}");
        assert_eq!(controller, Controller::new());
    }
}

/// A command that names an epoch is refused where the map has changed since, a retry of itself included.
#[test]
fn commands_are_fenced_by_epoch() {
    let mut rig = Rig::born(3, 2);
    let change = ControllerChange::GroupAdd { groups: NewGroups::Count(1), weight: 1 };
    let add = ControllerCommand { expect: Some(Epoch(1)), change };
    assert_eq!(rig.command(&add).map(|reply| reply.epoch()), Ok(Epoch(2)));
    let mismatch = Err(ControllerError::EpochMismatch { current: Epoch(2) });
    assert_eq!(rig.command(&add), mismatch);
    assert_eq!(rig.controller.plan(&add), Err(ControllerError::EpochMismatch { current: Epoch(2) }));
    let pause = ControllerCommand { expect: Some(Epoch(3)), change: ControllerChange::MovesPause };
    assert_eq!(rig.command(&pause), mismatch);
}

/// Numbers that cannot be set are refused; those that can are on the map.
#[test]
fn settings_keep_to_their_bounds() {
    let mut rig = Rig::born(3, 2);
    let throttle = |copy_bytes_per_second, moves_max| ControllerChange::MovesThrottle {
        copy_bytes_per_second,
        moves_max,
    };
    let dead_after = |ms| ControllerChange::DeadAfter { ms };
    let throttles = [throttle(None, 0), throttle(Some(0), 1), throttle(None, 257)];
    for bad in throttles.into_iter().chain([0, 1, 4_999].map(dead_after)) {
        assert!(matches!(rig.tell(bad.clone()), Err(ControllerError::Invalid { .. })), "{bad:?}");
    }
    rig.tell(throttle(Some(9), 7)).unwrap();
    rig.tell(dead_after(5_000)).unwrap();
    rig.tell(ControllerChange::MovesPause).unwrap();
    let settings = rig.controller.cluster_map().unwrap().settings;
    let set =
        (settings.copy_bytes_per_second, settings.moves_max, settings.dead_after_ms, settings.moves_paused);
    assert_eq!(set, (Some(9), 7, 5_000, true));
    assert_eq!(settings.replicas, 3);
}
