//! Commands and pieces of copies for the key/value machine, as a log or another node hands them over. Also
//! what fuzzing runs.

#[path = "later_build.rs"]
mod later_build;

use crate::panics;
use kvserver::machine::KvMachine;
use later_build::is_of_a_later_build;
use proto::{
    ClientId, Command, CopyToken, Epoch, Expect, GroupId, MoveCommand, MoveStep, Operation, PieceEnd,
    Sequence, ShardId, Stamp, Write,
};
use raftstore::{Machine, Moment};
use std::sync::LazyLock;

const SHARDS: u32 = 8;

fn at(index: u64) -> Moment {
    Moment { index, time_ms: 1_000 * index }
}

/// A machine that serves a few shards with a few keys and sessions.
fn machine() -> KvMachine {
    let mut machine = KvMachine::new();
    let own = Command::Own { shards: (0..SHARDS).map(ShardId).collect(), epoch: Epoch(1) };
    machine.apply(at(1), &proto::encode(&own));
    commands().iter().zip(2..).for_each(|(command, index)| drop(machine.apply(at(index), command)));
    machine
}

/// Commands as they stand in logs.
pub fn commands() -> Vec<Vec<u8>> {
    let write = |number: u64, operation| {
        let stamp = Stamp {
            client: ClientId(u128::from(number % 3) << 90),
            sequence: Sequence(1 + number / 3),
            lowest_open: Sequence(1),
        };
        proto::encode(&Command::Write(Write { shard: ShardId(1), stamp: Some(stamp), operation }))
    };
    let (expect, value) = (Expect::Any, &b"value"[..]);
    vec![
        write(0, Operation::Put { key: b"a", value, expect }),
        write(1, Operation::Append { key: b"a", value, expect }),
        write(2, Operation::Put { key: b"b", value, expect: Expect::Absent }),
        write(3, Operation::Delete { key: b"a", expect }),
        write(4, Operation::Append { key: b"c", value, expect: Expect::Present }),
        step(MoveStep::ImportBegin { from: GroupId(2), copy: CopyToken(1) }),
        import_piece(b""),
    ]
}

/// Pieces of a copy of the whole, as snapshots hold them.
pub fn pieces() -> Vec<Vec<u8>> {
    let mut machine = machine();
    let copy = machine.copy_begin();
    std::iter::from_fn(|| Some(machine.copy_next(copy, 64).bytes).filter(|bytes| !bytes.is_empty())).collect()
}

/// Has a machine that works load a piece, and one that is new; what passes for a piece leaves a machine that
/// works.
pub fn load(piece: &[u8]) {
    panics::none_in(|| {
        for mut machine in [KvMachine::new(), machine()] {
            if machine.load(piece).is_ok() {
                commands().iter().for_each(|command| drop(machine.apply(at(1_000), command)));
            }
        }
    });
}

/// A step of a move of a shard that is not here, with a piece of a copy that begins so.
pub fn import_piece(bytes: &[u8]) -> Vec<u8> {
    step(MoveStep::ImportPiece { copy: CopyToken(1), number: 0, end: PieceEnd::Activate, bytes })
}

fn step(step: MoveStep<'_>) -> Vec<u8> {
    proto::encode(&Command::Move(MoveCommand { shard: ShardId(SHARDS), epoch: Epoch(2), step }))
}

/// Whether this build can carry the command out, where the bytes are one.
fn is_ours(command: &[u8]) -> bool {
    static PIECE: LazyLock<Vec<u8>> = LazyLock::new(|| pieces().swap_remove(0));
    proto::decode(command).is_ok_and(|command| !is_of_a_later_build(&command, &PIECE))
}

/// Has a machine carry out a command, where this build can: at others it stops, as it is meant to.
pub fn apply(command: &[u8]) {
    if is_ours(command) {
        panics::none_in(|| drop(machine().apply(at(1_000), command)));
    }
}
