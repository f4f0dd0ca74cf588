//! Steps one by one, and that any members come to be those that are wanted.

use super::*;
use proptest::prelude::*;

type Replicas = BTreeMap<NodeId, Incarnation>;

/// A group, and all nodes as they are now.
#[derive(Clone, Debug)]
struct World {
    replicas: Replicas,
    voters: Replicas,
    learners: Replicas,
    disks: BTreeMap<NodeId, Disk>,
    leader: Option<NodeId>,
}

fn old(node: NodeId) -> (NodeId, Incarnation) {
    (node, Incarnation(u128::from(node.0)))
}

impl World {
    fn new(replicas: &[u64], voters: &[u64], learners: &[u64]) -> Self {
        let nodes = |ids: &[u64]| ids.iter().map(|&id| old(NodeId(id))).collect();
        Self::of(nodes(replicas), nodes(voters), nodes(learners))
    }

    fn of(replicas: Replicas, voters: Replicas, learners: Replicas) -> Self {
        let disk = |(node, incarnation)| (node, Disk { incarnation, live: true });
        let disks = (1..10).map(|id| disk(old(NodeId(id)))).collect();
        Self { replicas, voters, learners, disks, leader: None }
    }

    /// Gives some nodes another disk, and ends others.
    fn with(mut self, wiped: &[u64], dead: &[u64], leader: u64) -> Self {
        for (id, disk) in &mut self.disks {
            disk.live = !dead.contains(&id.0);
            if wiped.contains(&id.0) {
                disk.incarnation = Incarnation(disk.incarnation.0 | 1 << 64);
                self.replicas.entry(*id).and_modify(|replica| *replica = disk.incarnation);
            }
        }
        Self { leader: Some(NodeId(leader)), ..self }
    }

    fn next(&self) -> Option<MembershipStep> {
        let members = Members { voters: &self.voters, learners: &self.learners, leader: self.leader };
        next_step(&self.replicas, &members, &self.disks)
    }

    fn take(&mut self, step: MembershipStep) {
        match step {
            MembershipStep::AddLearner { node, incarnation } => {
                assert_eq!(self.replicas.get(&node), Some(&incarnation));
                assert!(!self.voters.contains_key(&node));
                assert_eq!(self.learners.insert(node, incarnation), None);
            }
            MembershipStep::Promote { node, replacing } => {
                let disk = self.learners.remove(&node).expect("only learners are promoted");
                assert_eq!(self.disks[&node], Disk { incarnation: disk, live: true });
                assert_eq!(self.voters.insert(node, disk), None);
                assert!(replacing.is_none_or(|old| self.voters.remove(&old).is_some()));
            }
            MembershipStep::RemoveVoter { node } => assert!(self.voters.remove(&node).is_some()),
            MembershipStep::RemoveLearner { node } => assert!(self.learners.remove(&node).is_some()),
        }
    }
}

fn add(node: u64) -> Option<MembershipStep> {
    Some(MembershipStep::AddLearner { node: NodeId(node), incarnation: Incarnation(u128::from(node)) })
}

fn promote(node: u64, replacing: Option<u64>) -> Option<MembershipStep> {
    Some(MembershipStep::Promote { node: NodeId(node), replacing: replacing.map(NodeId) })
}

fn remove_voter(node: u64) -> Option<MembershipStep> {
    Some(MembershipStep::RemoveVoter { node: NodeId(node) })
}

fn remove_learner(node: u64) -> Option<MembershipStep> {
    Some(MembershipStep::RemoveLearner { node: NodeId(node) })
}

/// A replica is replaced by a learner that is given a vote in the same change that takes the other's.
#[test]
fn a_replica_is_replaced() {
    let mut world = World::new(&[1, 2, 4], &[1, 2, 3], &[]);
    for step in [add(4), promote(4, Some(3)), None] {
        assert_eq!(world.next(), step);
        step.into_iter().for_each(|step| world.take(step));
    }
}

/// A group grows and shrinks one member at a time.
#[test]
fn a_group_grows_and_shrinks() {
    let mut world = World::new(&[1, 2, 3], &[1], &[]);
    for step in [add(2), promote(2, None), add(3), promote(3, None), None] {
        assert_eq!(world.next(), step);
        step.into_iter().for_each(|step| world.take(step));
    }
    let mut world = World::new(&[1, 2, 3], &[1, 2, 3, 4, 5], &[6]).with(&[], &[5], 4);
    for step in [remove_learner(6), remove_voter(5), remove_voter(4), None] {
        assert_eq!(world.next(), step);
        step.into_iter().for_each(|step| world.take(step));
    }
}

/// Of the voters to be replaced the dead go first and the leader last.
#[test]
fn the_dead_go_first_and_the_leader_last() {
    let world = World::new(&[1, 4, 5], &[1, 2, 3], &[4]);
    assert_eq!(world.clone().with(&[], &[3], 2).next(), promote(4, Some(3)));
    assert_eq!(world.clone().with(&[], &[], 2).next(), promote(4, Some(3)));
    assert_eq!(world.with(&[], &[], 3).next(), promote(4, Some(2)));
}

/// Whoever lost its disk is removed before anything else, learner or voter.
#[test]
fn the_wiped_are_removed_first() {
    let world = World::new(&[1, 2, 3], &[1, 2, 3], &[4]).with(&[3], &[], 1);
    assert_eq!(world.next(), remove_learner(4), "not the voter first: a learner counts in no quorum");
    let world = World::new(&[1, 2, 3], &[1, 2, 3], &[]).with(&[3], &[], 1);
    assert_eq!(world.next(), remove_voter(3));
    let world = World::new(&[1, 2, 3], &[1, 2], &[3]).with(&[3], &[], 1);
    assert_eq!(world.next(), remove_learner(3));
}

/// Nothing is changed that a quorum of live voters could not commit, nor anything given up that has no
/// successor.
#[test]
fn nothing_below_a_quorum() {
    let world = World::new(&[1, 4, 5], &[1, 2, 3], &[]);
    assert_eq!(world.clone().with(&[], &[2, 3], 1).next(), None);
    assert_eq!(world.clone().with(&[2], &[3], 1).next(), None);
    let world = World::new(&[1, 2, 4], &[1, 2, 3], &[]);
    assert_eq!(world.clone().with(&[], &[4], 1).next(), None, "3 is all that stands in for 4");
    let world = World::new(&[1, 2, 4], &[1, 2, 3], &[4]);
    assert_eq!(world.with(&[], &[4], 1).next(), None, "a dead learner does not catch up");
    assert_eq!(World::new(&[], &[1], &[]).next(), None);
}

fn any_nodes() -> impl Strategy<Value = Replicas> {
    prop::collection::btree_set((1..8_u64).prop_map(NodeId), 0..5)
        .prop_map(|nodes| nodes.into_iter().map(old).collect())
}

fn any_ids() -> impl Strategy<Value = Vec<u64>> {
    prop::collection::vec(1..8_u64, 0..4)
}

proptest! {
    /// Where a quorum of voters is live, it stays so through every step; the steps come to an end, and then
    /// every live replica that is wanted votes, nobody votes for a lost disk, and nobody is a member in vain.
    #[test]
    fn members_come_to_be_as_wanted(
        (replicas, voters, learners) in (any_nodes(), any_nodes(), any_nodes()),
        (wiped, dead) in (any_ids(), any_ids()),
        leader in 0..8_u64,
    ) {
        prop_assume!(!replicas.is_empty());
        let learners = learners.into_iter().filter(|(node, _)| !voters.contains_key(node)).collect();
        let mut world = World::of(replicas, voters, learners).with(&wiped, &dead, leader);
        let lost = !has_quorum(&world.voters, &world.disks);
        let mut left = 40;
        while let Some(step) = world.next() {
            prop_assert!(!lost, "nothing can be committed");
            world.take(step);
            prop_assert!(has_quorum(&world.voters, &world.disks), "{step:?}");
            left -= 1;
            prop_assert!(left > 0, "steps come to an end");
        }
        if !lost {
            let live = |node: &&NodeId| world.disks[*node].live;
            prop_assert!(world.replicas.keys().filter(live).all(|node| world.voters.contains_key(node)));
            prop_assert!(world.learners.keys().all(|node| world.replicas.contains_key(node)));
            let members = world.voters.iter().chain(&world.learners);
            for (node, disk) in members {
                prop_assert_eq!(world.disks[node].incarnation, *disk);
            }
            prop_assert!(!world.replicas.keys().all(|node| live(&node)) || world.voters == world.replicas);
        }
    }
}
