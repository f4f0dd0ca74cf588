//! The types that openraft is instantiated with, and the only names of it that the rest of the crate uses.

use crate::runtime::Runtime;
use bytes::Bytes;
use openraft::raft::responder::Responder;
use openraft::vote::RaftLeaderId;
use openraft::{OptionalSend, RaftTypeConfig};
use std::fmt;

/// Where a member is reached; part of the membership, so that it travels in the log.
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
    type Node = Address;
    type Term = u64;
    // Standard Raft: one leader a term, so that a log id is a term and an index and nothing else.
    type LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = openraft::EntryPayload<Data, u64, Address>;
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
pub(crate) type Payload = openraft::EntryPayload<Data, u64, Address>;
pub(crate) type Membership = openraft::Membership<u64, Address>;
pub(crate) type StoredMembership = openraft::type_config::alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<TypeConfig>;
pub(crate) type AppendEntriesRequest = openraft::raft::AppendEntriesRequest<TypeConfig>;
pub(crate) type StreamAppendResult = openraft::raft::StreamAppendResult<TypeConfig>;
pub(crate) type VoteRequest = openraft::raft::VoteRequest<TypeConfig>;
pub(crate) type VoteResponse = openraft::raft::VoteResponse<TypeConfig>;
pub(crate) type SnapshotResponse = openraft::raft::SnapshotResponse<TypeConfig>;
pub(crate) type TransferLeaderRequest = openraft::raft::TransferLeaderRequest<TypeConfig>;
pub(crate) type TransferLeaderResponse = openraft::raft::TransferLeaderResponse<TypeConfig>;
