//! The bytes of a shard's life: what one release writes into a log, every later one must read.

use proptest::prelude::*;
use proto::{
    Command, CopyToken, Epoch, GroupId, LifecycleAnswer, LifecycleError, MoveCommand, MoveStep, PieceEnd,
    ShardId, ShardSet, ShardState, decode, encode,
};

/// The steps of a move keep their bytes: kind of command, shard, epoch, kind of step, its own.
#[test]
fn golden_steps() {
    let copy = CopyToken(300);
    let piece = |end| MoveStep::ImportPiece { copy, number: 5, end, bytes: b"xy" };
    let golden: [(MoveStep<'_>, &[u8]); 10] = [
        (MoveStep::ImportBegin { from: GroupId(4), copy }, &[0, 4, 251, 44, 1]),
        (piece(PieceEnd::More), &[1, 251, 44, 1, 5, 0, 2, b'x', b'y']),
        (piece(PieceEnd::Last), &[1, 251, 44, 1, 5, 1, 2, b'x', b'y']),
        (piece(PieceEnd::Activate), &[1, 251, 44, 1, 5, 2, 2, b'x', b'y']),
        (MoveStep::Activate { copy }, &[2, 251, 44, 1]),
        (MoveStep::Freeze { to: GroupId(6) }, &[3, 6]),
        (MoveStep::Drop, &[4]),
        (MoveStep::Abort, &[5]),
        (MoveStep::Thaw, &[6]),
        (MoveStep::Export, &[7]),
    ];
    for (step, bytes) in golden {
        let command = Command::Move(MoveCommand { shard: ShardId(7), epoch: Epoch(9), step });
        let want = [&[1, 2, 7, 9], bytes].concat();
        assert_eq!(encode(&command), want, "{command:?}");
        assert_eq!(decode::<Command<'_>>(&want), Ok(command));
    }
}

/// A birth keeps its bytes.
#[test]
fn golden_birth() {
    let command = Command::Own { shards: ShardSet::from_iter([ShardId(0), ShardId(2)]), epoch: Epoch(1) };
    assert_eq!(encode(&command), [1, 1, 1, 5, 1]);
    assert_eq!(decode::<Command<'_>>(&[1, 1, 1, 5, 1]), Ok(command));
}

/// What comes back keeps its bytes.
#[test]
fn golden_answers() {
    let state = ShardState::Aborted { epoch: Epoch(3) };
    let golden: [(LifecycleAnswer, &[u8]); 7] = [
        (Ok(()), &[0]),
        (Err(LifecycleError::Stale { epoch: Epoch(8) }), &[1, 0, 8]),
        (Err(LifecycleError::Active), &[1, 1]),
        (Err(LifecycleError::State { state }), &[1, 2, 5, 3]),
        (Err(LifecycleError::Copy { copy: CopyToken(2), next: 4 }), &[1, 3, 2, 4]),
        (Err(LifecycleError::Piece { why: "no".into() }), &[1, 4, 2, b'n', b'o']),
        (Err(LifecycleError::Invalid { shard: ShardId(6) }), &[1, 5, 6]),
    ];
    for (answer, bytes) in golden {
        let want = [&[1], bytes].concat();
        assert_eq!(encode(&answer), want, "{answer:?}");
        assert_eq!(decode::<LifecycleAnswer>(&want), Ok(answer));
    }
}

/// The states of a shard keep their bytes: they are in logs' answers and in copies.
#[test]
fn golden_states() {
    let (to, epoch, since) = (GroupId(4), Epoch(9), Epoch(2));
    let importing = ShardState::Importing { from: to, epoch, copy: CopyToken(300), next: 5, complete: true };
    let golden: [(ShardState, &[u8]); 6] = [
        (ShardState::Absent, &[0]),
        (importing, &[1, 4, 9, 251, 44, 1, 5, 1]),
        (ShardState::Serving { epoch: since, fence: epoch }, &[2, 2, 9]),
        (ShardState::Frozen { to, epoch, since }, &[3, 4, 9, 2]),
        (ShardState::Dropped { to, epoch }, &[4, 4, 9]),
        (ShardState::Aborted { epoch }, &[5, 9]),
    ];
    for (state, bytes) in golden {
        let want = [&[1], bytes].concat();
        assert_eq!(encode(&state), want, "{state:?}");
        assert_eq!(decode::<ShardState>(&want), Ok(state));
    }
}

proptest! {
    /// Hostile bytes are refused, or read as a command that is written as it was read or shorter.
    #[test]
    fn arbitrary_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        let mut bytes = bytes;
        if let Some(first) = bytes.first_mut() {
            *first = 1;
        }
        if let Ok(command) = decode::<Command<'_>>(&bytes) {
            prop_assert!(encode(&command).len() <= bytes.len());
        }
    }
}
