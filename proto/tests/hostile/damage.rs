//! Bytes that were valid once. Whoever tests a reader against hostile bytes damages its samples by this.

use proptest::prelude::*;
use proptest::sample::{Index, select};

/// One of `samples` in which bytes were replaced, which was cut, or which goes on.
pub fn damaged(samples: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let changes = prop::collection::vec((any::<Index>(), any::<u8>()), 0..4);
    let end = prop::option::of(any::<Index>());
    let more = prop::collection::vec(any::<u8>(), 0..8);
    (select(samples), changes, end, more).prop_map(|(mut bytes, changes, end, more)| {
        if !bytes.is_empty() {
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes.truncate(end.map_or(bytes.len(), |end| end.index(bytes.len())));
        }
        bytes.extend(more);
        bytes
    })
}
