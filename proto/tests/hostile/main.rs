//! Hostile bytes: whoever reads a message from disk or wire gets a message or an error, and no length inside
//! it takes more memory than its bound allows.

mod messages;

use messages::{read, samples};
use proptest::prelude::*;
use proptest::sample::Index;

/// No reader reserves more for a length whose bytes it has not seen: the codec's own bound.
const RESERVED_BYTES_MAX: u64 = 64 << 20;

/// What a message takes in memory for each of its bytes, at most: an item of three bytes is an
/// [`Item`](proto::Item).
const BYTES_EACH_MAX: u64 = 256;

/// Reads `bytes` and looks at the most memory that was held meanwhile.
fn bounded(bytes: &[u8]) {
    let held = allocation_counter::measure(|| read(bytes)).bytes_max;
    let bound = RESERVED_BYTES_MAX + BYTES_EACH_MAX * bytes.len() as u64;
    assert!(held <= bound, "{held} bytes were held for a message of {}: {bytes:?}", bytes.len());
}

/// Samples are what they say: each is read as some message, and all of them are different.
#[test]
fn samples_are_messages() {
    let all = samples();
    assert!(all.len() > 10 && all.iter().collect::<std::collections::BTreeSet<_>>().len() == all.len());
    all.iter().for_each(|bytes| bounded(bytes));
}

/// A count of items that a few bytes claim is refused by the bound or by the bytes' end, whatever it claims.
#[test]
fn counts_without_items_are_refused() {
    for claimed in
        [&[250][..], &[251, 0xff, 0xff], &[252, 0, 0, 0, 1], &[252, 0xff, 0xff, 0xff, 0xff], &[253; 9]]
    {
        // A batch: deadline, consistency and id in a byte each, then the count of its items.
        let batch = [&[proto::VERSION, 1, 0, 0][..], claimed].concat();
        assert!(proto::decode::<proto::BatchRequest<'_>>(&batch).is_err(), "{claimed:?}");
        bounded(&batch);
    }
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
    fn damaged_messages(
        which in any::<Index>(),
        changes in prop::collection::vec((any::<Index>(), any::<u8>()), 0..4),
        end in prop::option::of(any::<Index>()),
        more in prop::collection::vec(any::<u8>(), 0..8),
    ) {
        let all = samples();
        let mut bytes = all[which.index(all.len())].clone();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(end.map_or(bytes.len(), |end| end.index(bytes.len())));
        bytes.extend(more);
        bounded(&bytes);
    }
}
