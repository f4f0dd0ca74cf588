//! Any sequence of commands, sensible or not. The rig checks what holds after each of them.

use super::*;
use proptest::prelude::*;

/// What happens next; numbers are taken modulo what there is.
#[derive(Clone, Debug)]
enum Event {
    Join { node: u64, disk: u128, zone: u8, weight: u32 },
    Node { node: u64, what: u8 },
    Add { count: u32, weight: u32 },
    AddBack { group: u64 },
    Group { group: u64, what: u8 },
    Move { shard: u32, to: u64 },
    Rebalance,
    Cancel { which: prop::sample::Index },
    Done { which: prop::sample::Index },
    Aborted { which: prop::sample::Index },
    OldDone { which: prop::sample::Index },
    Pause(bool),
    Throttle { moves_max: u32 },
    Step { group: u64 },
    Own,
    Gone,
    Copied,
}

fn event() -> impl Strategy<Value = Event> {
    use prop::sample::Index;
    prop_oneof![
        3 => (1..8_u64, 0..3_u128, 0..3_u8, 1..4_u32)
            .prop_map(|(node, disk, zone, weight)| Event::Join { node, disk, zone, weight }),
        6 => (1..8_u64, 0..5_u8).prop_map(|(node, what)| Event::Node { node, what }),
        2 => (1..3_u32, 1..4_u32).prop_map(|(count, weight)| Event::Add { count, weight }),
        1 => (1..9_u64).prop_map(|group| Event::AddBack { group }),
        3 => (0..9_u64, 0..2_u8).prop_map(|(group, what)| Event::Group { group, what }),
        3 => (0..33_u32, 0..9_u64).prop_map(|(shard, to)| Event::Move { shard, to }),
        1 => Just(Event::Rebalance),
        2 => any::<Index>().prop_map(|which| Event::Cancel { which }),
        10 => any::<Index>().prop_map(|which| Event::Done { which }),
        3 => any::<Index>().prop_map(|which| Event::Aborted { which }),
        2 => any::<Index>().prop_map(|which| Event::OldDone { which }),
        1 => any::<bool>().prop_map(Event::Pause),
        1 => (1..6_u32).prop_map(|moves_max| Event::Throttle { moves_max }),
        8 => (0..9_u64).prop_map(|group| Event::Step { group }),
        1 => Just(Event::Own),
        2 => Just(Event::Gone),
        1 => Just(Event::Copied),
    ]
}

/// A rig with every move that was ever seen, and every owner that was ever announced.
struct World {
    rig: Rig,
    seen: Vec<MoveView>,
    owners: Vec<GroupId>,
}

impl World {
    fn new(nodes: u64, groups: u32) -> Self {
        let nodes = (1..=nodes).map(|node| (NodeId(node), spec(node, "", 1))).collect();
        let rig = Rig::of(Birth { shards: 32, groups, replicas: 3, nodes });
        let owners = rig.controller.state.shards.iter().map(|shard| shard.owner).collect();
        Self { rig, seen: Vec::new(), owners }
    }

    fn one<T: Clone>(all: &[T], which: &prop::sample::Index) -> Option<T> {
        (!all.is_empty()).then(|| which.get(all).clone())
    }

    /// Carries out an event; whether it was refused does not matter, only what holds then.
    fn happen(&mut self, event: &Event) {
        let moves = self.rig.moves();
        let shards: Vec<ShardId> = (0..33).map(ShardId).collect();
        let change = match event {
            Event::Join { node, disk, zone, weight } => {
                let zone = ["", "a", "b"][usize::from(*zone)];
                let incarnation = Incarnation(u128::from(*node) | *disk << 64);
                let spec = NodeSpec { incarnation, ..spec(*node, zone, *weight) };
                ControllerChange::NodeJoin { node: NodeId(*node), spec }
            }
            Event::Node { node, what } => {
                let node = NodeId(*node);
                let known = self.rig.controller.state.nodes.get(&node);
                let incarnation = known.map_or(Incarnation(0), |node| node.spec.incarnation);
                let judged = self.rig.controller.epoch();
                match what {
                    0 => ControllerChange::NodeDrain { node },
                    1 => ControllerChange::NodeUndrain { node },
                    2 => ControllerChange::NodeRemove { node },
                    3 => ControllerChange::NodeDead { node, incarnation, judged },
                    _ => ControllerChange::NodeAlive { node, incarnation, judged },
                }
            }
            Event::Add { count, weight } => {
                ControllerChange::GroupAdd { groups: NewGroups::Count(*count), weight: *weight }
            }
            Event::AddBack { group } => {
                let groups = NewGroups::Ids([GroupId(*group)].into());
                ControllerChange::GroupAdd { groups, weight: 1 }
            }
            Event::Group { group, what: 0 } => ControllerChange::GroupRemove { group: GroupId(*group) },
            Event::Group { group, .. } => ControllerChange::GroupWeight { group: GroupId(*group), weight: 2 },
            Event::Move { shard, to } => {
                ControllerChange::ShardMove { shard: ShardId(*shard), to: GroupId(*to) }
            }
            Event::Rebalance => ControllerChange::ShardRebalance,
            Event::Cancel { which } => {
                let moving = Self::one(&moves, which).map(|moved| moved.shard);
                ControllerChange::MoveCancel { shard: moving.unwrap_or_else(|| *which.get(&shards)) }
            }
            Event::Done { which } | Event::OldDone { which } => {
                let of = if matches!(event, Event::Done { .. }) { &moves } else { &self.seen };
                let Some(MoveView { shard, from, to, id, .. }) = Self::one(of, which) else { return };
                ControllerChange::MoveDone { shard, from, to, id }
            }
            Event::Aborted { which } => {
                let Some(MoveView { shard, id, .. }) = Self::one(&moves, which) else { return };
                ControllerChange::MoveAborted { shard, id, why: "why not".into() }
            }
            Event::Pause(true) => ControllerChange::MovesPause,
            Event::Pause(false) => ControllerChange::MovesResume,
            Event::Throttle { moves_max } => {
                ControllerChange::MovesThrottle { copy_bytes_per_second: None, moves_max: *moves_max }
            }
            Event::Step { group } => match self.rig.controller.next_step(GroupId(*group)) {
                Some(step) => ControllerChange::MembersReport(self.rig.after(GroupId(*group), step)),
                None => return,
            },
            // As its leader says at first: the first nodes are its members, on the disks of their births.
            Event::Own => {
                let birth = self.rig.controller.state.birth.as_ref().expect("every rig is born");
                let voters: Vec<u64> = birth.nodes.keys().map(|node| node.0).collect();
                if self.rig.controller.state.groups.contains_key(&GroupId(0)) {
                    return;
                }
                ControllerChange::MembersReport(report(0, 1, 1, &voters, &[]))
            }
            Event::Gone => match self.rig.controller.spent_groups().first() {
                Some(&group) => ControllerChange::GroupGone { group },
                None => return,
            },
            Event::Copied => {
                let bytes = proto::encode(&self.rig.controller);
                let copy: Controller = proto::decode(&bytes).unwrap();
                assert_eq!(copy, self.rig.controller);
                self.rig.controller = copy;
                return;
            }
        };
        self.tell(change);
    }

    /// An owner changes by the end of a move that the controller knew, and by nothing else; a group gives up
    /// one replica at most on a node that is still fit.
    fn tell(&mut self, change: ControllerChange) {
        let before = self.rig.controller.state.clone();
        let answer = self.rig.tell(change.clone());
        let state = &self.rig.controller.state;
        for (shard, owner) in state.shards.iter().zip(&mut self.owners) {
            if shard.owner != *owner {
                let arrived = shard.arrived.expect("whoever has a new owner has arrived");
                assert!(answer.is_ok() && (arrived.from, arrived.to) == (*owner, shard.owner), "{change:?}");
                let moved =
                    |seen: &MoveView| (seen.from, seen.to, seen.id) == (arrived.from, arrived.to, arrived.id);
                assert!(self.seen.iter().any(moved), "it moved before it arrived");
                *owner = shard.owner;
            }
        }
        for (id, group) in &state.groups {
            let Some(before) = before.groups.get(id) else { continue };
            let lost = before.replicas.iter().filter(|(node, incarnation)| {
                let known = state.nodes.get(node);
                let fit = known.is_some_and(|node| node.is_fit() && node.spec.incarnation == **incarnation);
                fit && !group.replicas.contains_key(node)
            });
            assert!(lost.count() <= 1, "{change:?}");
            assert!(group.replicas.len() >= before.replicas.len(), "{change:?}");
        }
        self.seen.extend(self.rig.moves());
        self.check_own(&before);
    }

    /// The controller's own group never goes away, and nothing of it is a shard's.
    fn check_own(&self, before: &state::State) {
        let (own, state) = (GroupId(0), &self.rig.controller.state);
        assert!(state.groups.contains_key(&own) >= before.groups.contains_key(&own));
        assert!(state.shards.iter().all(|shard| shard.owner != own && shard.target != own));
        assert!(state.moves.values().all(|moved| moved.from != own && moved.to != own));
        let Some(group) = state.groups.get(&own) else { return };
        assert!(!self.rig.controller.spent_groups().contains(&own) && group.preferred.is_none());
        let wanted = state.settings.replicas as usize;
        assert!(group.replicas.len() <= wanted, "{} replicas of {wanted}", group.replicas.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    /// Whatever happens, every shard has one owner, moves keep to their rules and bounds, epochs only grow,
    /// and the history answers what was so then; and when the troubles end, every shard gets to where it is
    /// to be.
    #[test]
    fn any_sequence_keeps_the_rules(
        (nodes, groups) in (1..5_u64, 1..5_u32),
        events in prop::collection::vec(event(), 1..120),
    ) {
        let mut world = World::new(nodes, groups);
        events.iter().for_each(|event| world.happen(event));
        world.rig.check_history();
        world.tell(ControllerChange::MovesResume);
        let mut left = 32 * 8;
        while let Some(MoveView { shard, from, to, id, .. }) = world.rig.moves().first().cloned() {
            world.tell(ControllerChange::MoveDone { shard, from, to, id });
            left -= 1;
            prop_assert!(left > 0, "moves come to an end");
        }
        prop_assert!(world.rig.controller.state.shards.iter().all(|shard| !shard.is_due()));
    }
}
