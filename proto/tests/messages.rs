//! The bytes of messages: what one release writes, every later one must read.

use proptest::prelude::*;
use proto::{
    Answer, BatchReply, BatchRequest, ClientId, Code, Command, Consistency, DecodeError, Epoch, Error,
    Expect, GroupId, Item, NodeId, Operation, Record, Reply, Revision, Sequence, ShardId, ShardSet, Stamp,
    Version, Write, decode, encode,
};

fn stamp() -> Stamp {
    Stamp { client: ClientId(0x0102), sequence: Sequence(7), lowest_open: Sequence(5) }
}

/// A command, as it stands in logs, keeps its bytes.
#[test]
fn golden_command() {
    let operation = Operation::Put { key: b"k", value: b"vv", expect: Expect::Version(Version(300)) };
    let command = Command::Write(Write { shard: ShardId(9), stamp: Some(stamp()), operation });
    let want: &[u8] = &[1, 0, 9, 1, 251, 2, 1, 7, 5, 1, 1, b'k', 2, b'v', b'v', 3, 251, 44, 1];
    assert_eq!(encode(&command), want);
    assert_eq!(decode::<Command<'_>>(want), Ok(command));
}

/// An answer, as it crosses the wire, keeps its bytes.
#[test]
fn golden_answers() {
    let written: Answer<'_> = Ok(Reply::Written { version: Version(1), revision: Revision(2), length: 3 });
    assert_eq!(encode(&written), [1, 0, 1, 1, 2, 3]);
    let code = Code::NotLeader { group: GroupId(1), leader: Some(NodeId(2)) };
    let refused: Answer<'_> = Err(Error::unknown(code, "no"));
    assert_eq!(encode(&refused), [1, 1, 8, 1, 1, 2, 1, 2, b'n', b'o']);
    let reused: Answer<'_> = Err(Error::new(Code::IdempotencyKeyReused, "no"));
    assert_eq!(encode(&reused), [1, 1, 15, 0, 2, b'n', b'o']);
    let code = Code::WrongGroup { shard: ShardId(7), to: Some(GroupId(2)), epoch: Epoch(9) };
    let moved: Answer<'_> = Err(Error::new(code, "no"));
    assert_eq!(encode(&moved), [1, 1, 16, 7, 1, 2, 9, 0, 2, b'n', b'o']);
    let record = Record { key: b"k", value: b"v", version: Version(1), revision: Revision(2) };
    let shards = ShardSet::from_iter([ShardId(1)]);
    let share: Answer<'_> = Ok(Reply::Share { shards, records: vec![record], more: true });
    assert_eq!(encode(&share), [1, 0, 4, 1, 2, 1, 1, b'k', 1, b'v', 1, 2, 1]);
    for answer in [written, refused, reused, moved, share] {
        assert_eq!(decode::<Answer<'_>>(&encode(&answer)), Ok(answer.clone()));
    }
}

/// A named session is known by its id and nothing else, and its name's digest makes it.
#[test]
fn golden_named_sessions() {
    let golden = ClientId(0x666c_6f74_6e6d_0000_0000_0000_0000_002a);
    assert_eq!(ClientId::named(42), golden);
    assert_eq!(ClientId::named(42 | 1 << 80), golden, "80 bits count");
    assert!(golden.is_named() && ClientId::named(u128::MAX).is_named());
    for other in [0, 42, u128::MAX, golden.0 ^ 1 << 80, golden.0 ^ 1 << 127] {
        assert!(!ClientId(other).is_named(), "{other:x}");
    }
}

/// A batch and its reply keep their bytes.
#[test]
fn golden_batches() {
    let request = BatchRequest {
        deadline_ms: 250,
        consistency: Consistency::Stale { lag_ms_max: Some(4) },
        request_id: 3,
        items: vec![Item { stamp: None, operation: Operation::Get { key: b"k" } }],
    };
    let want: &[u8] = &[1, 250, 2, 1, 4, 3, 1, 0, 0, 1, b'k'];
    assert_eq!(encode(&request), want);
    assert_eq!(decode::<BatchRequest<'_>>(want), Ok(request));

    let record = Record { key: b"k", value: b"v", version: Version(1), revision: Revision(2) };
    let reply =
        BatchReply { answers: vec![Ok(Reply::Page { records: vec![record], more: true })], lag_ms: 6 };
    let want: &[u8] = &[1, 1, 0, 3, 1, 1, b'k', 1, b'v', 1, 2, 1, 6];
    assert_eq!(encode(&reply), want);
    assert_eq!(decode::<BatchReply<'_>>(want), Ok(reply));
}

/// Nothing, another format and stray bytes are each refused by name.
#[test]
fn refusals_name_the_reason() {
    assert_eq!(decode::<Command<'_>>(b""), Err(DecodeError::Empty));
    assert_eq!(decode::<Command<'_>>(&[9, 0]), Err(DecodeError::Version(9)));
    let mut bytes = encode(&stamp());
    bytes.push(0);
    assert_eq!(decode::<Stamp>(&bytes), Err(DecodeError::Trailing(1)));
}

proptest! {
    /// Whatever an operation holds, it comes back; and no cut of its bytes passes for a message.
    #[test]
    fn operations_come_back(
        key in proptest::collection::vec(any::<u8>(), 0..40),
        value in proptest::collection::vec(any::<u8>(), 0..300),
        version in any::<u64>(),
        kind in 0..5,
        cut in any::<prop::sample::Index>(),
    ) {
        let expect = Expect::Version(Version(version));
        let operation = match kind {
            0 => Operation::Get { key: &key },
            1 => Operation::Put { key: &key, value: &value, expect },
            2 => Operation::Append { key: &key, value: &value, expect: Expect::Absent },
            3 => Operation::Delete { key: &key, expect: Expect::Present },
            _ => Operation::Scan { prefix: &key, after: Some(&value), start: &[], limit: 7, bytes_max: 9 },
        };
        let item = Item { stamp: Some(stamp()), operation };
        let bytes = encode(&item);
        prop_assert_eq!(decode::<Item<'_>>(&bytes), Ok(item));
        prop_assert!(decode::<Item<'_>>(&bytes[..cut.index(bytes.len())]).is_err());
    }

    /// Hostile bytes are refused, or read as a message that is written as it was read or shorter (bincode takes
    /// a number that is longer than it must be).
    #[test]
    fn arbitrary_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut bytes = bytes;
        if let Some(first) = bytes.first_mut() {
            *first = 1;
        }
        if let Ok(request) = decode::<BatchRequest<'_>>(&bytes) {
            prop_assert!(encode(&request).len() <= bytes.len());
        }
        if let Ok(reply) = decode::<BatchReply<'_>>(&bytes) {
            prop_assert!(encode(&reply).len() <= bytes.len());
        }
    }
}
