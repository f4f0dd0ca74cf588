//! Hostile bytes: whatever comes in as a command the machine answers, or stops at where no build of today wrote it; and
//! whatever comes in as a piece of a copy it takes in or refuses.

#[path = "../../proto/tests/hostile/damage.rs"]
mod damage;
#[path = "hostile/later_build.rs"]
mod later_build;
mod machine_rig;

use damage::damaged;
use kvserver::machine::KvMachine;
use later_build::is_of_a_later_build;
use machine_rig::{owning, write};
use proptest::prelude::*;
use proto::{
    Answer, ClientId, Command, CopyToken, Epoch, Expect, GroupId, LifecycleAnswer, MoveCommand, MoveStep,
    Operation, PieceEnd, Sequence, ShardId, Stamp,
};
use raftstore::{Machine, Moment};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::LazyLock;

fn command(number: u64) -> Vec<u8> {
    let key = [number as u8 % 5];
    let operation = match number % 3 {
        0 => Operation::Delete { key: &key, expect: Expect::Any },
        _ => Operation::Append { key: &key, value: b"value", expect: Expect::Any },
    };
    let stamp = Stamp {
        client: ClientId(u128::from(number % 4) << 90),
        sequence: Sequence(1 + number / 4),
        lowest_open: Sequence(1),
    };
    write(ShardId(number as u32 % 2), Some(stamp), operation)
}

/// The steps that bring shard 7 in with move 5, in two pieces.
fn incoming() -> Vec<Vec<u8>> {
    let mut source = owning(KvMachine::new(), 8);
    let (shard, copy) = (ShardId(7), CopyToken(1));
    let operation = |number: u64| match number % 3 {
        0 => Operation::Delete { key: b"ab", expect: Expect::Any },
        _ => Operation::Append { key: b"ab", value: b"value", expect: Expect::Any },
    };
    fn of_move(step: MoveStep<'_>) -> Vec<u8> {
        proto::encode(&Command::Move(MoveCommand { shard: ShardId(7), epoch: Epoch(5), step }))
    }
    source.shard_copy_begin(shard, copy).expect("the shard is here");
    let mut steps = vec![of_move(MoveStep::ImportBegin { from: GroupId(1), copy })];
    for (number, end) in [(0, PieceEnd::More), (1, PieceEnd::Activate)] {
        for sequence in 1 + 10 * number..=10 + 10 * number {
            let stamp = Stamp { client: ClientId(9), sequence: Sequence(sequence), lowest_open: Sequence(1) };
            let moment = Moment { index: 1, time_ms: 1000 * sequence };
            source.apply(moment, &write(shard, Some(stamp), operation(sequence)));
        }
        let bytes = source.shard_copy_next(copy, usize::MAX).expect("the copy runs").bytes;
        steps.push(of_move(MoveStep::ImportPiece { copy, number, end, bytes: &bytes }));
    }
    steps
}

/// The same steps, of which one was damaged.
fn incoming_damaged() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let whole = incoming();
    let step = |at: usize| damaged(vec![whole[at].clone()]);
    (0..3_usize, [step(0), step(1), step(2)]).prop_map(move |(which, damaged)| {
        let mut steps = whole.clone();
        steps[which].clone_from(&damaged[which]);
        steps
    })
}

/// A piece with records of every kind but one.
fn piece() -> Vec<u8> {
    let mut machine = owning(KvMachine::new(), 8);
    let copy = machine.copy_begin();
    let mut bytes = vec![];
    for number in 0..40 {
        machine.apply(Moment { index: number, time_ms: 1000 * number }, &command(number));
        if number == 20 {
            bytes = machine.copy_next(copy, usize::MAX).bytes;
        }
    }
    let nothing = proto::encode(&Command::Own { shards: [].into_iter().collect(), epoch: Epoch(1) });
    machine.apply(Moment { index: 41, time_ms: 10_000_000 }, &nothing);
    bytes.extend_from_slice(&machine.copy_next(copy, usize::MAX).bytes[1..]);
    bytes
}

fn apply(machine: &mut KvMachine, bytes: &[u8]) {
    let at = Moment { index: 1, time_ms: 20_000_000 };
    let well_formed = "an answer is always well formed";
    static PIECE: LazyLock<Vec<u8>> = LazyLock::new(piece);
    let ours = |command: &Command<'_>| !is_of_a_later_build(command, &PIECE);
    match proto::decode::<Command<'_>>(bytes).ok().filter(ours) {
        Some(Command::Write(_)) => {
            drop(proto::decode::<Answer<'_>>(&machine.apply(at, bytes)).expect(well_formed))
        }
        Some(Command::Own { .. } | Command::Move(_)) => {
            drop(proto::decode::<LifecycleAnswer>(&machine.apply(at, bytes)).expect(well_formed));
        }
        None => {
            let before = machine.digest();
            let stopped = catch_unwind(AssertUnwindSafe(|| machine.apply(at, bytes)));
            let panic = stopped.expect_err("what cannot be read is not passed over");
            let told = panic.downcast_ref::<String>().expect("a sentence");
            assert!(told.starts_with("a command in entry 1 cannot be read by this build: "), "{told}");
            assert_eq!(machine.digest(), before, "nothing was done of it");
        }
    }
}

/// A machine that took a damaged piece for a good one still works, and copies itself into another.
fn go_on(machine: KvMachine) {
    let mut machine = owning(machine, 8);
    (0..50).for_each(|number| apply(&mut machine, &command(number)));
    let copy = machine.copy_begin();
    let mut twin = KvMachine::new();
    twin.load(&machine.copy_next(copy, usize::MAX).bytes).expect("what it holds can be held");
    assert_eq!(twin.digest(), machine.digest());
}

/// The undamaged piece loads, so that the properties below start from something that gets far.
#[test]
fn the_whole_piece_loads() {
    let mut machine = KvMachine::new();
    machine.load(&piece()).unwrap();
    go_on(machine);
}

/// So do the undamaged steps of a move.
#[test]
fn the_whole_shard_comes_in() {
    let mut machine = KvMachine::new();
    incoming().iter().for_each(|step| apply(&mut machine, step));
    assert!(machine.get(ShardId(7), b"ab").is_some());
    go_on(machine);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// At bytes that are no command a machine stops before it does anything, and no bytes at all make it panic
    /// otherwise, neither as commands nor as pieces.
    #[test]
    fn arbitrary_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut machine = owning(KvMachine::new(), 8);
        apply(&mut machine, &bytes);
        apply(&mut machine, &[&[1][..], &bytes].concat());
        let versioned = [&[2][..], &bytes].concat();
        for bytes in [bytes, versioned] {
            let mut machine = KvMachine::new();
            if machine.load(&bytes).is_ok() {
                go_on(machine);
            }
        }
    }

    /// The steps of a move are answered whatever is damaged in them; what makes sense all the same is taken
    /// in, and the machine goes on.
    #[test]
    fn damaged_steps(steps in incoming_damaged()) {
        let mut machine = KvMachine::new();
        steps.iter().for_each(|step| apply(&mut machine, step));
        go_on(machine);
    }

    /// Damaged commands are answered, and damaged pieces are refused or, where the damage makes sense,
    /// loaded.
    #[test]
    fn damaged_bytes(
        command in damaged((0..100).map(command).collect()),
        piece in damaged(vec![piece()]),
    ) {
        apply(&mut owning(KvMachine::new(), 8), &command);
        let mut machine = KvMachine::new();
        if machine.load(&piece).is_ok() {
            go_on(machine);
        }
    }
}
