//! The types that openraft is instantiated with, and the only names of it that the rest of the crate uses.

use crate::runtime::Runtime;
use bytes::Bytes;
use openraft::raft::responder::Responder;
use openraft::vote::RaftLeaderId;
use openraft::{OptionalSend, RaftTypeConfig};
use proto::{GroupId, Incarnation};
use std::fmt;
use std::sync::Arc;

/// Where a member is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// `host:port` of the node-to-node transport.
    pub peer: String,
    /// `host:port` of the HTTP front end.
    pub http: String,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.peer, self.http)
    }
}

/// A node as a member of a group: where it is reached, and which of its disks holds the replica.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// Where it is reached.
    pub address: Address,
    /// What its disk is; see [`crate::Host::incarnation`].
    pub incarnation: Incarnation,
}

/// Which replica of a group on a node: none is ever the same as one whose votes and entries are forgotten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ReplicaId {
    /// The disk that holds it.
    pub(crate) incarnation: Incarnation,
    /// How many replicas of the group that disk has dropped before.
    pub(crate) life: u64,
}

impl ReplicaId {
    /// What frames of `group` for this replica, and for no other, are addressed to. Two replicas of one group on
    /// one disk never share one; any other two do so by a chance of one in 2^64.
    pub(crate) fn mailbox(self, group: GroupId) -> GroupId {
        let Incarnation(disk) = self.incarnation;
        let words = [(disk >> 64) as u64, disk as u64, group.0, self.life];
        GroupId(words.into_iter().fold(0, |hash, word| scramble(hash ^ word)))
    }
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.incarnation, self.life)
    }
}

/// SplitMix64's finalizer: different words stay different.
fn scramble(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// What a membership says of a member, so that it travels in the log.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ReplicaDescriptor {
    pub(crate) address: Address,
    pub(crate) replica: ReplicaId,
}

impl fmt::Display for ReplicaDescriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.replica, self.address)
    }
}

/// A node as openraft has it, which makes copies of it time and again.
pub(crate) type Node = Arc<ReplicaDescriptor>;

/// An entry's data: replicated time and the commands that were gathered into it, encoded once by the proposer
/// (see [`crate::commands`]) and never again on the way to disk, wire and machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Data(pub(crate) Bytes);

impl fmt::Display for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}B", self.0.len())
    }
}

/// The answers to one entry's commands, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answers(pub(crate) Vec<Bytes>);

/// The one instantiation of openraft in this crate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TypeConfig;

impl RaftTypeConfig for TypeConfig {
    type D = Data;
    type R = Answers;
    type NodeId = u64;
    type Node = Node;
    type Term = u64;
    // Standard Raft: one leader a term, so that a log id is a term and an index and nothing else.
    type LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = Payload;
    type Entry = openraft::impls::Entry<<Self::LeaderId as RaftLeaderId>::Committed, Self::Payload>;
    type AsyncRuntime = Runtime;
    type Responder<T>
        = Callback<T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

/// What openraft calls with the outcome of a proposal, on the task that applied it: no channel and no task
/// stands between a machine's answers and those who wait for them. Dropped uncalled when the group stops.
pub(crate) struct Callback<T>(Box<dyn FnOnce(T) + Send>);

impl<T> Callback<T> {
    pub(crate) fn new(call: impl FnOnce(T) + Send + 'static) -> Self {
        Self(Box::new(call))
    }
}

impl<T: OptionalSend + 'static> Responder<TypeConfig, T> for Callback<T> {
    fn on_complete(self, result: T) {
        (self.0)(result);
    }
}

pub(crate) type LogId = openraft::type_config::alias::LogIdOf<TypeConfig>;
pub(crate) type Vote = openraft::type_config::alias::VoteOf<TypeConfig>;
pub(crate) type CommittedLeaderId = openraft::type_config::alias::CommittedLeaderIdOf<TypeConfig>;
pub(crate) type Entry = openraft::type_config::alias::EntryOf<TypeConfig>;
pub(crate) type Payload = openraft::EntryPayload<Data, u64, Node>;
pub(crate) type Membership = openraft::Membership<u64, Node>;
pub(crate) type StoredMembership = openraft::type_config::alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<TypeConfig>;
pub(crate) type AppendEntriesRequest = openraft::raft::AppendEntriesRequest<TypeConfig>;
pub(crate) type StreamAppendResult = openraft::raft::StreamAppendResult<TypeConfig>;
pub(crate) type VoteRequest = openraft::raft::VoteRequest<TypeConfig>;
pub(crate) type VoteResponse = openraft::raft::VoteResponse<TypeConfig>;
pub(crate) type SnapshotResponse = openraft::raft::SnapshotResponse<TypeConfig>;
pub(crate) type TransferLeaderRequest = openraft::raft::TransferLeaderRequest<TypeConfig>;
pub(crate) type TransferLeaderResponse = openraft::raft::TransferLeaderResponse<TypeConfig>;

#[cfg(test)]
mod tests {
    use super::*;

    /// A replica's mailbox is its own, and the same on every node of whatever build.
    #[test]
    fn mailboxes_do_not_drift() {
        let of =
            |disk, group, life| ReplicaId { incarnation: Incarnation(disk), life }.mailbox(GroupId(group)).0;
        assert_eq!(of(1 << 64 | 2, 3, 4), 0xd55c_cd4a_eb3c_cafb);
        let boxes = [of(1, 1, 0), of(1 << 64, 1, 0), of(1, 2, 0), of(1, 1, 1), of(2, 1, 0), of(1, 1, 2)];
        let distinct: std::collections::BTreeSet<u64> = boxes.into_iter().collect();
        assert_eq!(distinct.len(), boxes.len());
    }
}
