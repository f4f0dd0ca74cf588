//! Hostile bytes: whoever reads a message from disk or wire gets a message or an error, and no length inside
//! it takes more memory than the message's own bytes pay for.

mod damage;
mod memory;
mod messages;

use damage::damaged;
use memory::Bound;
use messages::{read, samples};
use proptest::prelude::*;
use proto::{
    Answer, BatchReply, BatchRequest, ControllerAnswer, ControllerReply, Epoch, GroupId, Item, Operation,
    Record, Reply, Revision, ShardId, ShardSet, Version, decode, encode,
};

/// What reading a message as each kind takes. Maps are the dearest: the first pair makes room for eleven.
const BOUND: Bound = Bound { own: 4 << 10, each: 512 };

/// What a length alone may reserve for each byte of its message: the codec's own bound.
const LENGTH_BOUND: Bound = Bound { own: 256, each: 64 };

fn bounded(bytes: &[u8]) {
    BOUND.hold(bytes, || read(bytes));
}

/// Samples are what they say: each is read as some message, and all of them are different.
#[test]
fn samples_are_messages() {
    let all = samples();
    assert!(all.len() > 10 && all.iter().collect::<std::collections::BTreeSet<_>>().len() == all.len());
    all.iter().for_each(|bytes| bounded(bytes));
}

/// A length that a few bytes claim is refused, and reserves no more than those bytes pay for, whatever it
/// claims.
#[test]
fn lengths_without_bytes_cost_nothing() {
    for claimed in (0..u64::BITS).flat_map(|bit| [1 << bit, u64::MAX >> bit]) {
        let length = &encode(&claimed)[1..];
        // A batch: deadline, consistency and id in a byte each, then the count of its items. An answer: that
        // it is an error, its code and outcome, then the length of its text. Groups that were added, behind
        // the epoch. The words of a set.
        let batch = [&[proto::VERSION, 1, 0, 0][..], length].concat();
        let text = [&[proto::VERSION, 1, 0, 0][..], length].concat();
        let groups = [&[proto::VERSION, 0, 1, 7][..], length].concat();
        let set = [&[proto::VERSION][..], length].concat();
        let all = [
            LENGTH_BOUND.hold(&batch, || decode::<BatchRequest<'_>>(&batch).is_err()),
            LENGTH_BOUND.hold(&text, || decode::<Answer<'_>>(&text).is_err()),
            LENGTH_BOUND.hold(&groups, || decode::<ControllerAnswer>(&groups).is_err()),
            LENGTH_BOUND.hold(&set, || decode::<ShardSet>(&set).is_err()),
        ];
        assert_eq!(all, [true; 4], "of {claimed} items none is there");
    }
}

/// The bound refuses nothing that is there: of each kind of list, thousands of the smallest items are read.
#[test]
fn the_densest_lists_are_read() {
    const COUNT: usize = 20_000;
    let item = Item { stamp: None, operation: Operation::Get { key: b"" } };
    let (deadline_ms, consistency, request_id) = (1, Default::default(), 0);
    let request = BatchRequest { deadline_ms, consistency, request_id, items: vec![item; COUNT] };
    let bytes = encode(&request);
    assert_eq!(bytes.len(), 7 + 3 * COUNT);
    assert_eq!(decode(&bytes), Ok(request));
    let answers = vec![Ok(Reply::Deleted { revision: Revision(0) }); COUNT];
    let reply = BatchReply { answers, lag_ms: 0 };
    assert_eq!(decode(&encode(&reply)), Ok(reply));
    let record = Record { key: b"", value: b"", version: Version(0), revision: Revision(0) };
    let shards: ShardSet = (0..64_000).step_by(64).map(ShardId).collect();
    let share: Answer<'_> = Ok(Reply::Share { shards, records: vec![record; COUNT], more: false });
    assert_eq!(decode(&encode(&share)), Ok(share));
    let added = ControllerReply::GroupsAdded { epoch: Epoch(0), groups: vec![GroupId(0); COUNT] };
    assert_eq!(decode(&encode(&added)), Ok(added));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 800, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any bytes at all are a message or none; never a panic.
    #[test]
    fn arbitrary_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        bounded(&bytes);
        bounded(&[&[proto::VERSION][..], &bytes].concat());
    }

    /// So are messages in which bytes were replaced, which were cut, or which go on.
    #[test]
    fn damaged_messages(bytes in damaged(samples())) {
        bounded(&bytes);
    }
}
