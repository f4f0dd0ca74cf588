//! Hostile bytes: whatever comes in as a command or as a piece of a copy, the machine answers or refuses.

use kvserver::machine::KvMachine;
use proptest::prelude::*;
use proto::{Answer, ClientId, Command, Expect, Operation, Sequence, ShardId, Stamp};
use raftstore::{Machine, Moment};

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
    proto::encode(&Command { shard: ShardId(number as u32 % 2), stamp: Some(stamp), operation })
}

/// A piece with records of every kind.
fn piece() -> Vec<u8> {
    let mut machine = KvMachine::new();
    let copy = machine.copy_begin();
    let mut bytes = vec![];
    for number in 0..40 {
        machine.apply(Moment { index: number, time_ms: 1000 * number }, &command(number));
        if number == 20 {
            bytes = machine.copy_next(copy, usize::MAX).bytes;
        }
    }
    machine.apply(Moment { index: 41, time_ms: 10_000_000 }, b"");
    bytes.extend_from_slice(&machine.copy_next(copy, usize::MAX).bytes[1..]);
    bytes
}

/// Bytes replaced here and there, then cut.
fn damage(
    mut bytes: Vec<u8>,
    changes: &[(prop::sample::Index, u8)],
    end: Option<prop::sample::Index>,
) -> Vec<u8> {
    for (at, byte) in changes {
        let at = at.index(bytes.len());
        bytes[at] = *byte;
    }
    if let Some(end) = end {
        bytes.truncate(end.index(bytes.len()));
    }
    bytes
}

fn apply(machine: &mut KvMachine, bytes: &[u8]) {
    let answer = machine.apply(Moment { index: 1, time_ms: 20_000_000 }, bytes);
    let answer = proto::decode::<Answer<'_>>(&answer).expect("an answer is always well formed");
    if proto::decode::<Command<'_>>(bytes).is_err() {
        assert_eq!(answer.expect_err("nonsense is refused").code, proto::Code::BadRequest);
    }
}

/// A machine that took a damaged piece for a good one still works, and copies itself into another.
fn go_on(mut machine: KvMachine) {
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// No bytes at all make a machine panic, neither as commands nor as pieces.
    #[test]
    fn arbitrary_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut machine = KvMachine::new();
        apply(&mut machine, &bytes);
        let versioned = [&[1][..], &bytes].concat();
        apply(&mut machine, &versioned);
        for bytes in [bytes, versioned] {
            let mut machine = KvMachine::new();
            if machine.load(&bytes).is_ok() {
                go_on(machine);
            }
        }
    }

    /// Damaged commands are answered, and damaged pieces are refused or, where the damage makes sense, loaded.
    #[test]
    fn damaged_bytes(
        number in 0..100_u64,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        end in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut machine = KvMachine::new();
        apply(&mut machine, &damage(command(number), &changes, end));
        let mut machine = KvMachine::new();
        if machine.load(&damage(piece(), &changes, end)).is_ok() {
            go_on(machine);
        }
    }
}
