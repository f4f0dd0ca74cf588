//! openraft's view of a peer: one client for one group and one target, over the lanes to that node.
//!
//! How errors are named decides how openraft retries (`replication/backoff_state.rs` there). `Network` and
//! `Timeout` are retried at once, and only the eleventh in a row backs off; `Unreachable` backs off at once. A
//! connection that was lost is therefore `Network`: the retry waits inside the lane for the next connection and
//! goes out with it. A peer that could not be reached before the deadline, that does not know the group, or
//! whose replica has stopped, is `Unreachable`; its backoff here is short, because the lane already paces the
//! attempts to connect.

use super::Transport;
use super::append::{self, AppendItem, Appender, LogFloor};
use super::frame::{Frame, Kind};
use super::lane::{LaneKind, Local};
use super::message::{self, AppendHead, take_outcome, take_transfer_response, take_vote_response};
use super::peer::Peer;
use super::queue::{Failure, Queue};
use super::snapshot::{self, Pieces};
use crate::codec::{Malformed, take_u8};
use crate::types::{
    AppendEntriesRequest, Node, ReplicaDescriptor, SnapshotResponse, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, TypeConfig, Vote, VoteRequest, VoteResponse,
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use openraft::OptionalSend;
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{
    Backoff, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption, RPCTypes,
    RaftNetworkFactory,
};
use proto::{GroupId, NodeId};
use rand::RngExt;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

type OpenraftSnapshot<D> = openraft::type_config::alias::SnapshotOf<TypeConfig, D>;

/// The pause of openraft's replication after `Unreachable`, in milliseconds.
const BACKOFF_MS: std::ops::RangeInclusive<u64> = 25..=75;

/// An error that openraft retries as its kind deserves.
pub(crate) fn rpc_error(failure: &Failure) -> RPCError<TypeConfig> {
    if failure.sent {
        RPCError::Network(NetworkError::from_string(failure))
    } else {
        RPCError::Unreachable(Unreachable::from_string(failure))
    }
}

/// An error after which openraft backs off: the peer is there and will not have it.
pub(crate) fn rpc_refusal(why: String) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::from_string(why))
}

fn rpc_malformed(error: &Malformed) -> RPCError<TypeConfig> {
    RPCError::Network(NetworkError::from_string(error))
}

/// The text of a frame that says why something was not done.
pub(crate) fn reason(mut payload: Bytes) -> String {
    let text = take_u8(&mut payload, "failure").and_then(|_code| message::take_text(&mut payload, "failure"));
    text.unwrap_or_else(|error| error.to_string())
}

/// Makes the clients of one group. `D` is what a snapshot's pieces are read from.
pub(crate) struct Factory<D> {
    pub(crate) transport: Arc<Transport>,
    pub(crate) group: GroupId,
    pub(crate) floor: LogFloor,
    pub(crate) snapshots: PhantomData<fn() -> D>,
}

impl<D: Pieces> Factory<D> {
    /// What is sent to a member is for the very replica that the membership means, and reaches no other.
    fn client(&self, target: u64, node: &Node) -> Client<D> {
        let ReplicaDescriptor { address, replica } = &**node;
        self.transport.client(replica.mailbox(self.group), NodeId(target), address)
    }
}

impl<D: Pieces> RaftNetworkFactory<TypeConfig> for Factory<D> {
    type Network = Client<D>;

    async fn new_client(&mut self, target: u64, node: &Node) -> Client<D> {
        let floor = self.floor.clone();
        Client { floor, ..self.client(target, node) }
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Node) -> Client<D> {
        Client { heartbeats: true, ..self.client(target, node) }
    }
}

/// One group's client for one peer.
pub(crate) struct Client<D> {
    pub(crate) local: Arc<Local>,
    pub(crate) peer: Arc<Peer>,
    pub(crate) group: GroupId,
    /// Whether appends are heartbeats and travel on their lane.
    pub(crate) heartbeats: bool,
    pub(crate) floor: LogFloor,
    pub(crate) snapshots: PhantomData<fn() -> D>,
}

impl<D: Pieces> Client<D> {
    fn queue(&self, lane: LaneKind) -> Arc<Queue> {
        self.peer.queue(&self.local, lane)
    }

    fn timeout(&self, action: RPCTypes, timeout: Duration) -> RPCError<TypeConfig> {
        let (id, target) = (self.local.node.0, self.peer.id.0);
        RPCError::Timeout(Timeout { action, id, target, timeout })
    }

    /// Asks once on the entries lane and reads the answer.
    async fn ask<T>(
        &self,
        kind: Kind,
        action: RPCTypes,
        timeout: Duration,
        put: impl FnOnce(&mut Vec<u8>),
        take: impl FnOnce(Bytes) -> Result<T, Malformed>,
    ) -> Result<T, RPCError<TypeConfig>> {
        let lane = if kind == Kind::Heartbeat { LaneKind::Heartbeat } else { LaneKind::Entries };
        let call = self.queue(lane).call(kind, self.group, 64, put).map_err(|failure| rpc_error(&failure))?;
        match call.answer(timeout).await {
            Ok(Frame { kind: Kind::Reply, payload, .. }) => {
                take(payload).map_err(|error| rpc_malformed(&error))
            }
            Ok(frame) => Err(rpc_refusal(reason(frame.payload))),
            Err(failure) if failure.timed_out && failure.sent => Err(self.timeout(action, timeout)),
            Err(failure) => Err(rpc_error(&failure)),
        }
    }

    async fn heartbeat(&self, request: &AppendEntriesRequest, timeout: Duration) -> AppendItem {
        assert!(request.entries.is_empty(), "openraft's heartbeat carries no entries");
        let head = AppendHead::of(request);
        let put = |into: &mut Vec<u8>| message::put_heartbeat(into, &head);
        self.ask(Kind::Heartbeat, RPCTypes::AppendEntries, timeout, put, take_outcome).await
    }
}

impl<D: Pieces> NetStreamAppend<TypeConfig> for Client<D> {
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<BoxStream<'s, Result<StreamAppendResult, RPCError<TypeConfig>>>, RPCError<TypeConfig>>,
    >
    where
        S: Stream<Item = AppendEntriesRequest> + OptionalSend + Unpin + 'static,
    {
        // openraft drops a heartbeat at the hard limit itself and has nothing to do meanwhile.
        let timeout = option.hard_ttl();
        if self.heartbeats {
            let client = &*self;
            let beats = input.then(move |request| async move { client.heartbeat(&request, timeout).await });
            return Box::pin(async move { Ok(Box::pin(beats) as BoxStream<'s, AppendItem>) });
        }
        let appender = Appender {
            queue: self.queue(LaneKind::Entries),
            group: self.group,
            config: self.local.config.clone(),
            window: self.peer.window.clone(),
            floor: self.floor.clone(),
        };
        #[cfg(feature = "mutations")]
        if crate::mutation::grants(self.local.node, self.peer.id) {
            return Box::pin(async move { crate::mutation::granted(appender, input, timeout) });
        }
        Box::pin(async move { append::stream(appender, input, timeout) })
    }
}

impl<D: Pieces> NetVote<TypeConfig> for Client<D> {
    async fn vote(
        &mut self,
        request: VoteRequest,
        option: RPCOption,
    ) -> Result<VoteResponse, RPCError<TypeConfig>> {
        let put = |into: &mut Vec<u8>| message::put_vote_request(into, &request);
        self.ask(Kind::Vote, RPCTypes::Vote, option.soft_ttl(), put, take_vote_response).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest,
        option: RPCOption,
    ) -> Result<VoteResponse, RPCError<TypeConfig>> {
        let put = |into: &mut Vec<u8>| message::put_vote_request(into, &request);
        self.ask(Kind::PreVote, RPCTypes::Vote, option.soft_ttl(), put, take_vote_response).await
    }
}

impl<D: Pieces> NetTransferLeader<TypeConfig> for Client<D> {
    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse, RPCError<TypeConfig>> {
        let put = |into: &mut Vec<u8>| message::put_transfer(into, &request);
        let timeout = option.soft_ttl();
        self.ask(Kind::TransferLeader, RPCTypes::TransferLeader, timeout, put, take_transfer_response).await
    }
}

impl<D: Pieces> NetSnapshot<TypeConfig> for Client<D> {
    type SnapshotData = D;

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: OpenraftSnapshot<D>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse, StreamingError<TypeConfig>> {
        let transfer = snapshot::Transfer {
            queue: self.queue(LaneKind::Bulk),
            group: self.group,
            config: self.local.config.clone(),
            slots: self.peer.snapshots.clone(),
        };
        let OpenraftSnapshot { meta, snapshot } = snapshot;
        let pieces = snapshot.pieces();
        // From here on it is held by its reader alone.
        drop(snapshot);
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            result = transfer.send(&vote, &meta, pieces) => result,
        }
    }
}

impl<D: Pieces> NetBackoff<TypeConfig> for Client<D> {
    fn backoff(&self) -> Option<Backoff> {
        let pauses =
            std::iter::repeat_with(|| crate::random().random_range(BACKOFF_MS)).map(Duration::from_millis);
        Some(Backoff::new(pauses))
    }
}
