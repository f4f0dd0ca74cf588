//! The controller's rows of the public examination, at the level of the machine: commands and answers in
//! bytes, as they are in the log.

use proptest::prelude::*;
use proto::{
    Birth, ControllerAnswer, ControllerChange, ControllerCommand, ControllerError, ControllerReply, Epoch,
    GroupId, Incarnation, MoveView, NewGroups, NodeId, NodeSpec, ShardId, ShardMap,
};
use raftstore::{Machine, Moment};
use shardctrler::ControllerMachine;
use std::collections::{BTreeMap, BTreeSet};

const SHARDS: u32 = 256;

fn born(groups: u32) -> ControllerMachine {
    let node = |id: u64| {
        let (peer, http, zone) = (format!("n{id}:1"), format!("n{id}:2"), String::new());
        (NodeId(id), NodeSpec { peer, http, zone, weight: 1, incarnation: Incarnation(u128::from(id)) })
    };
    let mut machine = ControllerMachine::new();
    let birth = Birth { shards: SHARDS, groups, replicas: 3, nodes: (1..=3).map(node).collect() };
    apply(&mut machine, None, ControllerChange::Birth(birth)).expect("a cluster is born");
    machine
}

fn apply(
    machine: &mut ControllerMachine,
    expect: Option<Epoch>,
    change: ControllerChange,
) -> ControllerAnswer {
    let command = proto::encode(&ControllerCommand { expect, change });
    let answer = machine.apply(Moment { index: 0, time_ms: 0 }, &command);
    proto::decode(&answer).expect("an answer is well formed")
}

fn join(machine: &mut ControllerMachine, count: u32) -> Vec<GroupId> {
    match apply(machine, None, ControllerChange::GroupAdd { groups: NewGroups::Count(count), weight: 1 }) {
        Ok(ControllerReply::GroupsAdded { groups, .. }) => groups,
        other => panic!("groups join: {other:?}"),
    }
}

fn leave(machine: &mut ControllerMachine, group: u64) {
    let change = ControllerChange::GroupRemove { group: GroupId(group) };
    apply(machine, None, change).expect("a group leaves");
}

fn map(machine: &ControllerMachine, epoch: Option<Epoch>) -> ShardMap {
    machine.controller().shard_map(epoch).expect("the epoch is known")
}

/// The target of each shard.
fn targets(machine: &ControllerMachine) -> Vec<GroupId> {
    let runs = map(machine, None).runs;
    runs.iter().flat_map(|run| std::iter::repeat_n(run.target, run.count as usize)).collect()
}

/// Every shard has a target among exactly these groups, and no group has two shards more than another.
fn check_balance(machine: &ControllerMachine, groups: &[u64]) {
    let mut counts: BTreeMap<GroupId, u32> = groups.iter().map(|&group| (GroupId(group), 0)).collect();
    for target in targets(machine) {
        *counts.get_mut(&target).expect("a group that serves") += 1;
    }
    assert!(counts.values().max() <= counts.values().min().map(|least| least + 1).as_ref(), "{counts:?}");
}

/// Lets all moves come to their ends, and spent groups go.
fn finish(machine: &mut ControllerMachine) {
    while let Some(MoveView { shard, from, to, id, .. }) = moves(machine).first().cloned() {
        apply(machine, None, ControllerChange::MoveDone { shard, from, to, id }).expect("the move ends");
    }
    let now = machine.controller().cluster_map().expect("it is born");
    for group in shardctrler::spent(&now) {
        apply(machine, None, ControllerChange::GroupGone { group }).expect("the group goes");
    }
    assert!(map(machine, None).runs.iter().all(|run| run.owner == run.target));
}

fn moves(machine: &ControllerMachine) -> Vec<MoveView> {
    machine.controller().cluster_map().expect("the cluster is born").moves
}

/// A machine loaded from a copy, as after a crash that lost everything but the snapshot.
fn crashed(machine: &mut ControllerMachine) -> ControllerMachine {
    let copy = machine.copy_begin();
    let mut loaded = ControllerMachine::new();
    loop {
        let step = machine.copy_next(copy, 4096);
        if !step.bytes.is_empty() {
            loaded.load(&step.bytes).expect("a piece of a copy loads");
        }
        if step.remaining == 0 {
            machine.copy_end(copy);
            return loaded;
        }
    }
}

/// LeaveJoin: groups join and leave, alone and several at once; after each step exactly those that are there
/// share all shards evenly, and those that left own none once the moves are done.
#[test]
fn leave_join() {
    let mut machine = born(1);
    check_balance(&machine, &[1]);
    assert_eq!(join(&mut machine, 1), [GroupId(2)]);
    check_balance(&machine, &[1, 2]);
    finish(&mut machine);
    assert_eq!(join(&mut machine, 3), [GroupId(3), GroupId(4), GroupId(5)]);
    check_balance(&machine, &[1, 2, 3, 4, 5]);
    leave(&mut machine, 2);
    check_balance(&machine, &[1, 3, 4, 5]);
    leave(&mut machine, 5);
    check_balance(&machine, &[1, 3, 4]);
    finish(&mut machine);
    let groups = machine.controller().cluster_map().expect("the cluster is born").groups;
    assert_eq!(groups.iter().map(|view| view.group.0).collect::<Vec<_>>(), [1, 3, 4]);
    assert_eq!(join(&mut machine, 1), [GroupId(6)]);
    finish(&mut machine);
    check_balance(&machine, &[1, 3, 4, 6]);
}

/// HistoricalQueries: each epoch's map is answered as it was then, by the machine itself and by one that was
/// loaded from a copy.
#[test]
fn historical_queries() {
    let mut machine = born(2);
    let mut recorded = vec![map(&machine, None)];
    let mut record = |machine: &mut ControllerMachine| {
        let now = map(machine, None);
        assert_eq!(now.epoch.0, recorded.len() as u64 + 1, "one change, one epoch");
        recorded.push(now);
        for known in &recorded {
            assert_eq!(map(machine, Some(known.epoch)), *known);
        }
        *machine = crashed(machine);
        for known in &recorded {
            assert_eq!(map(machine, Some(known.epoch)), *known);
        }
    };
    join(&mut machine, 2);
    record(&mut machine);
    for _ in 0..40 {
        let MoveView { shard, from, to, id, .. } = moves(&machine)[0].clone();
        apply(&mut machine, None, ControllerChange::MoveDone { shard, from, to, id }).expect("the move ends");
        record(&mut machine);
    }
    leave(&mut machine, 1);
    record(&mut machine);
    let ahead = machine.controller().shard_map(Some(Epoch(1000)));
    assert_eq!(ahead, Err(ControllerError::EpochAhead { current: machine.controller().epoch() }));
    assert_eq!(
        machine.controller().shard_map(Some(Epoch(0))),
        Err(ControllerError::EpochForgotten { oldest: Epoch(1) })
    );
}

/// Move: a shard goes where it was sent and stays there, and the others stay where they are, until a group
/// joins.
#[test]
fn moves_are_pinned() {
    let mut machine = born(2);
    for shard in 0..10 {
        let to = GroupId(1 + u64::from(shard % 2));
        let there = targets(&machine)[shard as usize] == to;
        let sent = apply(&mut machine, None, ControllerChange::ShardMove { shard: ShardId(shard), to });
        assert_eq!(sent.is_err(), there);
        finish(&mut machine);
    }
    for shard in 0..10 {
        assert_eq!(map(&machine, None).owner_of(ShardId(shard)), Some(GroupId(1 + u64::from(shard % 2))));
    }
    join(&mut machine, 1);
    check_balance(&machine, &[1, 2, 3]);
    finish(&mut machine);
}

/// MinimalTransfer: a group that joins takes what it needs and not a shard more, and nothing moves between
/// the others.
#[test]
fn minimal_transfer() {
    let mut machine = born(3);
    let mut groups: Vec<u64> = vec![1, 2, 3];
    for _ in 0..7 {
        let before = targets(&machine);
        let [new] = join(&mut machine, 1)[..] else { panic!("one group joins") };
        groups.push(new.0);
        let moved: Vec<GroupId> = before
            .iter()
            .zip(targets(&machine))
            .filter(|(old, now)| **old != *now)
            .map(|(_, now)| now)
            .collect();
        assert_eq!(moved.len(), SHARDS as usize / groups.len());
        assert!(moved.iter().all(|to| *to == new));
        check_balance(&machine, &groups);
        finish(&mut machine);
    }
}

/// MinimalTransferAfterLeave: a group that leaves gives away what it has and nothing else moves; the one that
/// joined last gives each shard back to the group that it came from.
#[test]
fn minimal_transfer_after_leave() {
    let mut machine = born(3);
    let before = targets(&machine);
    join(&mut machine, 1);
    finish(&mut machine);
    assert_eq!(before.iter().zip(targets(&machine)).filter(|(old, now)| **old != *now).count(), 64);
    leave(&mut machine, 4);
    assert_eq!(targets(&machine), before);
    finish(&mut machine);
    let before = targets(&machine);
    leave(&mut machine, 2);
    for (old, now) in before.iter().zip(targets(&machine)) {
        assert!(*old == GroupId(2) || *old == now, "nothing moves between bystanders");
    }
    check_balance(&machine, &[1, 3]);
}

/// What one of several operators does next: reads the map, or sends what it decided by it.
#[derive(Clone, Debug)]
struct Turn {
    operator: usize,
    joins: bool,
    which: prop::sample::Index,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    /// ConcurrentLeaveJoin: ten operators add and remove groups by maps that they read before, in any order,
    /// while moves end. Each command takes effect once or, if the map has changed since, not at all; at the
    /// end exactly the groups that joined and did not leave share the shards evenly.
    #[test]
    fn concurrent_leave_join(
        turns in prop::collection::vec(
            (0..10_usize, any::<bool>(), any::<prop::sample::Index>())
                .prop_map(|(operator, joins, which)| Turn { operator, joins, which }),
            1..60,
        ),
    ) {
        let mut machine = born(2);
        let mut serving: BTreeSet<u64> = [1, 2].into();
        let mut seen: [Option<Epoch>; 10] = [None; 10];
        for Turn { operator, joins, which } in turns {
            let Some(expect) = seen[operator].take() else {
                seen[operator] = Some(machine.controller().epoch());
                continue;
            };
            let current = machine.controller().epoch();
            let group = *which.get(&serving.iter().copied().collect::<Vec<_>>());
            let change = match joins {
                true => ControllerChange::GroupAdd { groups: NewGroups::Count(1), weight: 1 },
                false => ControllerChange::GroupRemove { group: GroupId(group) },
            };
            match apply(&mut machine, Some(expect), change.clone()) {
                Ok(ControllerReply::GroupsAdded { groups, .. }) => {
                    serving.extend(groups.iter().map(|group| group.0));
                }
                Ok(_) => prop_assert!(serving.remove(&group)),
                Err(refusal) if expect != current => {
                    prop_assert_eq!(refusal, ControllerError::EpochMismatch { current });
                    continue;
                }
                Err(refusal) => {
                    prop_assert_eq!(refusal, ControllerError::LastGroup { group: GroupId(group) });
                }
            }
            let now = machine.controller().epoch();
            if now != current {
                let again = apply(&mut machine, Some(expect), change);
                prop_assert_eq!(again, Err(ControllerError::EpochMismatch { current: now }), "sent twice");
            }
            check_balance(&machine, &serving.iter().copied().collect::<Vec<_>>());
            if let Some(MoveView { shard, from, to, id, .. }) = moves(&machine).first().cloned() {
                let done = ControllerChange::MoveDone { shard, from, to, id };
                apply(&mut machine, None, done).expect("the move ends");
            }
        }
        finish(&mut machine);
        let groups = machine.controller().cluster_map().expect("the cluster is born").groups;
        prop_assert!(groups.iter().map(|view| view.group.0).eq(serving.iter().copied()));
    }

    /// Two machines that are given the same commands are equal in every bit, the second one in spite of
    /// crashes.
    #[test]
    fn the_same_commands_make_the_same_machine(
        commands in prop::collection::vec((0..8_u8, 0..300_u32, 0..6_u64, any::<bool>()), 1..60),
    ) {
        let (mut one, mut two) = (born(2), born(2));
        for (kind, shard, group, crash) in commands {
            let (shard, group) = (ShardId(shard), GroupId(group));
            let done = moves(&one).first().cloned();
            let change = match (kind, done) {
                (0, _) => {
                    let weight = 1 + group.0 as u32;
                    ControllerChange::GroupAdd { groups: NewGroups::Count(1), weight }
                }
                (1, _) => ControllerChange::GroupRemove { group },
                (2, _) => ControllerChange::ShardMove { shard, to: group },
                (3, _) => ControllerChange::NodeRemove { node: NodeId(group.0) },
                (4, _) => ControllerChange::MoveCancel { shard },
                (_, Some(MoveView { shard, from, to, id, .. })) => {
                    ControllerChange::MoveDone { shard, from, to, id }
                }
                (_, None) => ControllerChange::ShardRebalance,
            };
            if crash {
                two = crashed(&mut two);
            }
            prop_assert_eq!(apply(&mut one, None, change.clone()), apply(&mut two, None, change));
        }
        prop_assert_eq!(one.controller(), two.controller());
        prop_assert_eq!(proto::encode(one.controller()), proto::encode(two.controller()));
    }
}
