//! Ids and counters as newtypes, so that a shard's id cannot pass for a group's.

use bincode::{Decode, Encode};
use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

id!(
    /// A process with a disk. Chosen by the operator, from 1; printed `n1`.
    NodeId(u64), "n"
);
id!(
    /// A Raft group. Group 0 is the shard controller's; the rest hold data; printed `g1`.
    GroupId(u64), "g"
);
id!(
    /// A slot of the hash space, `0..S`, where S is fixed when the cluster is born; printed `s17`.
    ShardId(u32), "s"
);
id!(
    /// A key's own counter of changes, from 1 at creation; 0 means that the key is absent.
    Version(u64), ""
);
id!(
    /// A shard's own counter of changes; it travels with the shard and never goes back.
    Revision(u64), ""
);
id!(
    /// The version of the cluster's map, from 1 at its birth; it never goes back. Printed `e7`.
    Epoch(u64), "e"
);
id!(
    /// A client's counter of the writes it sent to one shard, from 1.
    Sequence(u64), ""
);

/// A client's session: 128 random bits, drawn by the client itself; or the session of one request that a
/// caller named, see [`named`](Self::named).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct ClientId(pub u128);

/// What the ids of named sessions begin with, in their upper 48 bits: one in 2^48 random ids does, too.
const NAMED: u128 = 0x666c_6f74_6e6d << ClientId::NAME_BITS;

impl ClientId {
    const NAME_BITS: u32 = 80;

    /// The session of one request, known by the digest of its caller's name for it; its lowest 80 bits count.
    pub fn named(digest: u128) -> Self {
        Self(NAMED | digest & ((1 << Self::NAME_BITS) - 1))
    }

    /// Whether it is the session of a request that was named.
    pub fn is_named(self) -> bool {
        self.0 >> Self::NAME_BITS == NAMED >> Self::NAME_BITS
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}
