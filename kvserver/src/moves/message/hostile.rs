//! Hostile bytes: what a group's destination asks, and what its source answers, as anybody may have made it
//! up.

#[path = "../../../../proto/tests/hostile/damage.rs"]
mod damage;
#[path = "../../../../proto/tests/hostile/memory.rs"]
mod memory;
#[path = "../../../../proto/tests/hostile/read_back.rs"]
mod read_back;

use super::{Question, Word};
use crate::machine::Held;
use damage::damaged;
use memory::Bound;
use proptest::prelude::*;
use proto::{ClientId, CopyToken, Epoch, GroupId, LifecycleError, NodeId, Revision, ShardId};
use read_back::read_back;

/// What reading takes: of a message, what its lengths may reserve, and of an error, its text.
const BOUND: Bound = Bound { own: 1 << 10, each: 64 };

fn samples() -> Vec<Vec<u8>> {
    let (group, shard, copy, epoch) = (GroupId(1), ShardId(2), CopyToken(300), Epoch(5));
    let (key, session) = (Some(b"key".to_vec()), Some(ClientId(9 << 64)));
    let held = Held { key, session, revision: Revision(7), bytes: 8 };
    let questions = [
        Question::Begin { group, shard, epoch },
        Question::Next { copy, number: 6, bytes_max: 70_000 },
        Question::Freeze { group, shard, to: GroupId(4), epoch },
        Question::End { copy },
        Question::Resume { group, shard, copy, number: 6, held },
        Question::State { group, shard },
    ];
    let words = [
        Word::Begun { bytes: 9, frozen: Some(epoch), copy },
        Word::Piece { bytes: b"piece".to_vec(), remaining: 1, frozen: None },
        Word::Taken(Err(LifecycleError::Piece { why: "why".into() })),
        Word::NotLeader(Some(NodeId(2))),
        Word::Busy("why".into()),
        Word::State { frozen: Some(epoch) },
    ];
    questions.iter().map(proto::encode).chain(words.iter().map(proto::encode)).collect()
}

/// Reads `bytes` as either.
fn read(bytes: &[u8]) {
    read_back::<Question>(bytes, BOUND);
    read_back::<Word>(bytes, BOUND);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 999, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any bytes are a message or none, and so are messages that were damaged; neither takes more memory than
    /// its bytes pay for.
    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..100), damaged in damaged(samples())) {
        read(&[&[proto::VERSION][..], &bytes].concat());
        read(&damaged);
    }
}
