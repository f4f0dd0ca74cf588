//! The machine's bytes: commands, copies, and what hostile ones come to.

use super::*;
use crate::controller::tests::{node, report, spec};
use proptest::prelude::*;
use proto::{
    Birth, ControllerChange, ControllerReply, Epoch, GroupId, Incarnation, MoveView, NewGroups, NodeSpec,
    ShardId,
};
use std::panic::{AssertUnwindSafe, catch_unwind};

fn apply(machine: &mut ControllerMachine, change: ControllerChange) -> ControllerAnswer {
    let command = proto::encode(&ControllerCommand { expect: None, change });
    let answer = machine.apply(Moment { index: 1, time_ms: 1 }, &command);
    proto::decode(&answer).expect("an answer is always well formed")
}

fn birth(shards: u32) -> ControllerChange {
    let nodes = (1..=3).map(|id| (node(id), spec(id, "", 1))).collect();
    ControllerChange::Birth(Birth { shards, groups: 2, replicas: 3, nodes })
}

/// A machine whose state has something of everything.
fn eventful() -> ControllerMachine {
    let mut machine = ControllerMachine::new();
    let abort = ControllerChange::MoveAborted { shard: ShardId(0), id: Epoch(4), why: "no".into() };
    let (lost, judged) = (Incarnation(3), Epoch(3));
    let dead = ControllerChange::NodeDead { node: node(3), incarnation: lost, judged };
    let wiped = NodeSpec { incarnation: Incarnation(1 << 64), zone: "z".into(), ..spec(3, "", 1) };
    let changes = [
        birth(8),
        ControllerChange::MembersReport(report(1, 2, 3, &[1, 2, 3], &[])),
        ControllerChange::GroupAdd { groups: NewGroups::Count(1), weight: 2 },
        dead,
        ControllerChange::NodeJoin { node: node(3), spec: wiped },
        ControllerChange::ShardMove { shard: ShardId(7), to: GroupId(1) },
    ];
    for change in changes {
        apply(&mut machine, change).unwrap();
    }
    let moved = machine.controller.cluster_map().unwrap().moves[0].clone();
    let id = moved.id;
    apply(&mut machine, ControllerChange::MoveAborted { shard: moved.shard, id, why: "no".into() }).unwrap();
    let moved = machine.controller.cluster_map().unwrap().moves[0].clone();
    let done =
        ControllerChange::MoveDone { shard: moved.shard, from: moved.from, to: moved.to, id: moved.id };
    apply(&mut machine, done).unwrap();
    assert!(apply(&mut machine, abort).is_err());
    machine
}

/// The pieces of a copy that are left.
fn rest_of(machine: &mut ControllerMachine, copy: CopyId, bytes_max: usize) -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    loop {
        let step = machine.copy_next(copy, bytes_max);
        pieces.push(step.bytes);
        if step.remaining == 0 {
            return pieces;
        }
    }
}

fn pieces(machine: &mut ControllerMachine, bytes_max: usize) -> Vec<Vec<u8>> {
    let copy = machine.copy_begin();
    let pieces = rest_of(machine, copy, bytes_max);
    machine.copy_end(copy);
    pieces
}

fn loaded(pieces: &[Vec<u8>]) -> ControllerMachine {
    let mut machine = ControllerMachine::new();
    pieces.iter().for_each(|piece| machine.load(piece).unwrap());
    machine
}

/// What this build cannot read stops the machine, by a panic that says so.
fn stops(machine: &mut ControllerMachine, bytes: &[u8]) -> bool {
    let applied = || machine.apply(Moment { index: 2, time_ms: 2 }, bytes);
    let panic = match catch_unwind(AssertUnwindSafe(applied)) {
        Ok(answer) => {
            drop(proto::decode::<ControllerAnswer>(&answer).expect("an answer is always well formed"));
            return false;
        }
        Err(panic) => panic,
    };
    let told = panic.downcast_ref::<String>().expect("a sentence");
    assert!(told.starts_with("a command in entry 2 cannot be read by this build"), "{told}");
    true
}

/// Commands and answers travel in bytes; at what is none that this build knows the machine stops, for replicas of a
/// build that knows it go on otherwise.
#[test]
fn bytes_in_and_out() {
    let mut machine = ControllerMachine::new();
    assert_eq!(apply(&mut machine, birth(8)), Ok(ControllerReply::Done { epoch: Epoch(1) }));
    let before = machine.controller.clone();
    for bytes in [&b""[..], b"\x02", b"\x01\x00\xff", b"\x01\x00\x0b\x00"] {
        assert!(stops(&mut machine, bytes), "{bytes:?}");
    }
    assert_eq!(machine.controller, before);
    assert_eq!(machine.time_ms(), 0);
}

/// A copy, in pieces of whatever size, gives an equal machine, which answers all queries alike. In one piece it takes
/// what was said that it would, and the piece's head.
#[test]
fn a_copy_is_equal() {
    let mut machine = eventful();
    for bytes_max in [1, 10, 100, 1000, usize::MAX] {
        let pieces = pieces(&mut machine, bytes_max);
        assert!(pieces.iter().all(|piece| piece.len() <= bytes_max.max(10)));
        let copy = loaded(&pieces);
        assert_eq!(copy.controller, machine.controller);
        for epoch in 0..=machine.controller.epoch().0 + 1 {
            let ask = |machine: &ControllerMachine| machine.controller.shard_map(Some(Epoch(epoch)));
            assert_eq!(ask(&copy), ask(&machine));
        }
    }
    let [whole] = &pieces(&mut machine, usize::MAX)[..] else { panic!("the state is small") };
    assert_eq!(whole.len() as u64, machine.copy_bytes() + 9);
}

/// A copy holds what changed while it was made: its last piece makes it exactly the present state. Copies do
/// not disturb each other, and one that has ended goes on when the state changes.
#[test]
fn a_copy_catches_up() {
    let mut machine = eventful();
    let (copy, other) = (machine.copy_begin(), machine.copy_begin());
    let mut handed = vec![machine.copy_next(copy, 50).bytes, machine.copy_next(copy, 50).bytes];
    let untouched = rest_of(&mut machine, other, 70);
    assert_eq!(loaded(&untouched).controller, machine.controller);
    apply(&mut machine, ControllerChange::DeadAfter { ms: 9_000 }).unwrap();
    assert!(apply(&mut machine, ControllerChange::DeadAfter { ms: 0 }).is_err());
    handed.extend(rest_of(&mut machine, copy, 60));
    assert_eq!(loaded(&handed).controller, machine.controller);
    assert_eq!(machine.copy_next(copy, 60), CopyStep::default());
    apply(&mut machine, ControllerChange::MovesPause).unwrap();
    handed.extend(rest_of(&mut machine, copy, 60));
    assert_eq!(loaded(&handed).controller, machine.controller);
}

/// Pieces that are damaged, lost, swapped or of another format are refused, and so are states that cannot be.
#[test]
fn impossible_pieces_are_refused() {
    let mut machine = eventful();
    let pieces = pieces(&mut machine, 60);
    let refused = |pieces: &[&[u8]]| {
        let mut machine = ControllerMachine::new();
        pieces.iter().any(|piece| machine.load(piece).is_err())
    };
    let [first, second, third] = [&pieces[0][..], &pieces[1][..], &pieces[2][..]];
    assert!(!refused(&[first, second, third]));
    assert!(refused(&[second]) && refused(&[first, third]) && refused(&[first, second, second]));
    assert!(refused(&[b""]) && refused(&[&first[..9]]) && refused(&[&first[..5]]));
    let changed = |at: usize, byte: u8| {
        let mut piece = second.to_vec();
        piece[at] = byte;
        refused(&[first, &piece])
    };
    assert!(changed(0, 2) && changed(1, 0xff) && changed(5, 0xff));
    let mut long = first.to_vec();
    long[5..9].copy_from_slice(&20_u32.to_le_bytes());
    assert!(refused(&[&long]));

    let mut odd = machine.controller.clone();
    odd.leave_a_shard_to(GroupId(99));
    let odd = proto::encode(&odd);
    let whole = (odd.len() as u32).to_le_bytes();
    assert!(refused(&[&[&[1, 0, 0, 0, 0][..], &whole, &odd].concat()]));
}

/// The state of a usual cluster is small, with hundreds of moves in its history.
#[test]
fn a_usual_state_is_small() {
    let nodes = (1..=5).map(|id| (node(id), spec(id, "", 1))).collect();
    let mut machine = ControllerMachine::new();
    let birth = Birth { shards: 256, groups: 8, replicas: 3, nodes };
    apply(&mut machine, ControllerChange::Birth(birth)).unwrap();
    apply(&mut machine, ControllerChange::GroupAdd { groups: NewGroups::Count(8), weight: 1 }).unwrap();
    while let Some(moved) = machine.controller.cluster_map().unwrap().moves.first() {
        let MoveView { shard, from, to, id, .. } = *moved;
        apply(&mut machine, ControllerChange::MoveDone { shard, from, to, id }).unwrap();
    }
    let bytes = proto::encode(&machine.controller).len();
    assert!(bytes < 8 << 10, "{bytes}");
}

/// The layout of a copy, byte for byte: these bytes are on disks.
#[test]
fn golden_copy() {
    let mut machine = ControllerMachine::new();
    let nodes = [(
        node(1),
        NodeSpec { peer: "p".into(), http: "h".into(), zone: "z".into(), weight: 4, ..spec(5, "", 1) },
    )];
    let birth = Birth { shards: 2, groups: 1, replicas: 3, nodes: nodes.into() };
    apply(&mut machine, ControllerChange::Birth(birth)).unwrap();
    apply(&mut machine, ControllerChange::MembersReport(report(1, 6, 7, &[1], &[2]))).unwrap();
    apply(&mut machine, ControllerChange::GroupAdd { groups: NewGroups::Count(1), weight: 1 }).unwrap();
    #[rustfmt::skip]
    let golden: &[&[u8]] = &[
        b"\x01\x03", // version, epoch
        b"\x01\x02\x01\x03\x01\x01\x01p\x01h\x01z\x04\x05", // birth: shards, groups, replicas, nodes
        b"\x00\x01\xfc\x00\x00\x80\x00\x04\x03\xfb\x60\xea", // settings: 8 MiB a second, 60,000 ms
        b"\x01\x01\x01p\x01h\x01z\x04\x05\x00\x00\x01\x00", // nodes: draining, dead, since, lost disks
        b"\x02", // groups
        b"\x01\x00\x01\x01\x01\x05\x01\x01\x05", // the first: state, weight, first members, replicas
        b"\x01\x01\x01\x01\x01\x02\x02\x01\x01", // its reported voters and learners, preferred leader
        b"\x02\x00\x01\x01\x01\x05\x01\x01\x05", // the second, the same way
        b"\x00\x01\x01", // not reported, preferred leader
        b"\x02", // the highest id of a group
        b"\x02\x01\x02\x01\x00\x01\x01\x01\x00", // shards: owner, target, origin, arrival
        b"\x01\x00\x01\x02\x03\x00", // moves: shard, from, to, id, state
        b"\x00", // setbacks
        b"\x01\x01\x06\x07\x01\x01", // who leads: group, term, index, leader
        b"\x01\x02\x00\x01\x00\x01\x01\x01", // history: oldest epoch, what was replaced at each
    ];
    let picture = proto::encode(&machine.controller);
    assert_eq!(picture, golden.concat());
    let head = [&[1, 0, 0, 0, 0][..], &(picture.len() as u32).to_le_bytes()].concat();
    assert_eq!(pieces(&mut machine, usize::MAX), [[head, picture].concat()]);
}

/// Bytes replaced here and there.
fn damaged(mut bytes: Vec<u8>, changes: &[(prop::sample::Index, u8)]) -> Vec<u8> {
    for (at, byte) in changes {
        let at = at.index(bytes.len());
        bytes[at] = *byte;
    }
    bytes
}

proptest! {
    /// Damaged copies are refused, or give a machine that goes on without a panic.
    #[test]
    fn damaged_copies_do_no_harm(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut machine = eventful();
        let picture = damaged(proto::encode(&machine.controller), &changes);
        let whole = (picture.len() as u32).to_le_bytes();
        if machine.load(&[&[1, 0, 0, 0, 0][..], &whole, &picture].concat()).is_ok() {
            let add = ControllerChange::GroupAdd { groups: NewGroups::Count(1), weight: 1 };
            for change in [ControllerChange::ShardRebalance, add] {
                drop(apply(&mut machine, change));
                machine.controller.check().unwrap();
            }
        }
    }

    /// Any bytes that are a command are answered, and the machine stops at all others.
    #[test]
    fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        let mut machine = eventful();
        let bytes = [&[1, 0][..], &bytes].concat();
        let is_command = proto::decode::<ControllerCommand>(&bytes).is_ok();
        prop_assert_eq!(stops(&mut machine, &bytes), !is_command);
        machine.controller.check().unwrap();
    }
}
