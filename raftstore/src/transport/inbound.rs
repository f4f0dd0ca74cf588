//! What a node offers to its peers: the transport decodes what they send and asks this.
//!
//! Implemented by the host over its groups, and by fakes under test.

use crate::types::{
    AppendEntriesRequest, SnapshotMeta, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, Vote, VoteRequest, VoteResponse,
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use proto::{GroupId, NodeId};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Where received messages go.
pub(crate) trait Inbound: Send + Sync + 'static {
    /// This node's replica of `group`, where it has one that runs.
    fn replica(&self, group: GroupId) -> Option<Arc<dyn Replica>>;

    /// Carries out a request of `from` for one of the node's services. Calls run at the same time and in any
    /// order; the future is dropped once `deadline` has passed, for the caller no longer waits.
    ///
    /// # Errors
    /// [`Refusal`] where nothing was done and nothing will be. What went wrong after that point belongs into
    /// the reply's own bytes.
    fn call(
        &self,
        from: NodeId,
        service: u8,
        body: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, Refusal>>;
}

/// A call that was not carried out, and so had no effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A bounded queue is full; later it may not be.
    #[error("overloaded: {0}")]
    Overloaded(String),
    /// The node is starting or stopping, or does not host what was asked for.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// The service is unknown or the body malformed; asking again changes nothing.
    #[error("unsupported: {0}")]
    Unsupported(String),
}

/// The replica can answer nothing any more; its reason, for logs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("replica stopped: {0}")]
pub(crate) struct Stopped(pub(crate) String);

/// One group's replica, as its peers reach it.
pub(crate) trait Replica: Send + Sync + 'static {
    /// One append that stands alone: a heartbeat.
    fn append(
        &self,
        request: AppendEntriesRequest,
    ) -> BoxFuture<'static, Result<StreamAppendResult, Stopped>>;

    /// Appends in order, answered in order. The answers end after the first that is not a success, or once the
    /// requests have ended and are answered.
    fn stream_append(
        &self,
        requests: BoxStream<'static, AppendEntriesRequest>,
    ) -> BoxStream<'static, Result<StreamAppendResult, Stopped>>;

    /// A candidate's request for this replica's vote.
    fn vote(&self, request: VoteRequest) -> BoxFuture<'static, Result<VoteResponse, Stopped>>;

    /// The question whether a vote would be granted.
    fn pre_vote(&self, request: VoteRequest) -> BoxFuture<'static, Result<VoteResponse, Stopped>>;

    /// The leader's word that another shall lead.
    fn transfer_leader(
        &self,
        request: TransferLeaderRequest,
    ) -> BoxFuture<'static, Result<TransferLeaderResponse, Stopped>>;

    /// Prepares to take in a snapshot that the leader by `vote` sends. Whatever was being received before gives way:
    /// the future waits for that.
    fn receive_snapshot(&self, vote: Vote) -> BoxFuture<'static, io::Result<Box<dyn SnapshotSink>>>;
}

/// A snapshot that is being received; dropping it before [`install`](Self::install) discards what came.
pub(crate) trait SnapshotSink: Send + 'static {
    /// Takes the next piece, exactly as the sender's machine handed it out.
    fn append(&mut self, piece: Bytes) -> BoxFuture<'_, io::Result<()>>;

    /// Resolves, with the reason, once there is no use in sending any more: the sink is to be dropped then.
    fn given_up(&self) -> BoxFuture<'_, &'static str>;

    /// Installs the pieces received as the replica's state, as far as the sender's vote is still current. May
    /// take minutes; dropping the future must leave the replica with its old state or the new one.
    fn install(
        self: Box<Self>,
        vote: Vote,
        meta: SnapshotMeta,
    ) -> BoxFuture<'static, io::Result<SnapshotResponse>>;
}
