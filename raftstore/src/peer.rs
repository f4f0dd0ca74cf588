//! A replica as its peers reach it: what the transport receives goes to openraft from here.
//!
//! Also where a follower overhears how far its leader has committed, for [`Staleness`].

use crate::group::Inner;
use crate::machine::Machine;
use crate::replica::Shared;
use crate::snapshot::{ReceiveRoom, Snapshot, SnapshotWriter};
use crate::staleness::Staleness;
use crate::transport::{Replica, SnapshotSink, Stopped};
use crate::types::{
    AppendEntriesRequest, SnapshotMeta, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, TypeConfig, Vote, VoteRequest, VoteResponse,
};
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt, lazy, ready};
use futures_util::stream::{BoxStream, StreamExt};
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{Fatal, RaftError};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Why a snapshot is not received any more.
const OUTVOTED: &str = "its sender leads no more, or the replica has stopped";

/// What no leader says that was elected: openraft relies on it.
const CONTRADICTS: &str = "the leader's log contradicts what was committed and applied here";

type Raft<M> = openraft::Raft<TypeConfig, crate::replica::StateMachine<M>>;

fn stopped<E: std::fmt::Display>(error: E) -> Stopped {
    Stopped(error.to_string())
}

/// Notes what a leader's message says of its progress.
fn overhear<M: Machine>(staleness: &Staleness, shared: &Shared<M>, request: &AppendEntriesRequest) {
    if let Some(committed) = request.leader_commit {
        staleness.heard(request.vote.leader_id().term, committed.index(), *shared.applied().borrow());
    }
}

fn is_contradicted<M: Machine>(shared: &Shared<M>, request: &AppendEntriesRequest) -> bool {
    let entries = request.entries.iter().map(|entry| entry.log_id);
    shared.is_contradicted(request.vote.leader_id().term, request.prev_log_id.into_iter().chain(entries))
}

impl<M: Machine> Replica for Inner<M> {
    fn append(
        &self,
        request: AppendEntriesRequest,
    ) -> BoxFuture<'static, Result<StreamAppendResult, Stopped>> {
        overhear(&self.staleness, &self.shared, &request);
        if is_contradicted(&self.shared, &request) {
            return ready(Err(stopped(CONTRADICTS))).boxed();
        }
        let (prev, raft) = (request.prev_log_id, self.raft.clone());
        let last = request.entries.last().map(|entry| entry.log_id).or(prev);
        async move {
            let response = raft.append_entries(request).await.map_err(stopped)?;
            Ok(response.into_stream_result(prev, last))
        }
        .boxed()
    }

    fn stream_append(
        &self,
        requests: BoxStream<'static, AppendEntriesRequest>,
    ) -> BoxStream<'static, Result<StreamAppendResult, Stopped>> {
        let (staleness, shared) = (self.staleness.clone(), self.shared.clone());
        let contradicted = Arc::new(AtomicBool::new(false));
        let end = contradicted.clone();
        let heard = requests.take_while(move |request| {
            overhear(&staleness, &shared, request);
            let follows = !is_contradicted(&shared, request);
            contradicted.store(!follows, Ordering::Relaxed);
            ready(follows)
        });
        // What waits here keeps its room in the leader's window, so no more comes than that.
        let flow = self.flow.clone();
        let admitted = heard.then(move |request| {
            let flow = flow.clone();
            async move {
                if !request.entries.is_empty() {
                    flow.admit().await;
                }
                request
            }
        });
        self.raft
            .stream_append(admitted.boxed())
            .map(|result| result.map_err(stopped::<Fatal<TypeConfig>>))
            .chain(
                lazy(move |_| end.load(Ordering::Relaxed))
                    .into_stream()
                    .filter_map(|contradicted| ready(contradicted.then(|| Err(stopped(CONTRADICTS))))),
            )
            .boxed()
    }

    fn vote(&self, request: VoteRequest) -> BoxFuture<'static, Result<VoteResponse, Stopped>> {
        let raft = self.raft.clone();
        async move { raft.vote(request).await.map_err(stopped::<RaftError<TypeConfig>>) }.boxed()
    }

    fn pre_vote(&self, request: VoteRequest) -> BoxFuture<'static, Result<VoteResponse, Stopped>> {
        let raft = self.raft.clone();
        async move { raft.pre_vote(request).await.map_err(stopped::<RaftError<TypeConfig>>) }.boxed()
    }

    fn transfer_leader(
        &self,
        request: TransferLeaderRequest,
    ) -> BoxFuture<'static, Result<TransferLeaderResponse, Stopped>> {
        let raft = self.raft.clone();
        async move { raft.handle_transfer_leader(request).await.map_err(stopped) }.boxed()
    }

    fn receive_snapshot(&self, vote: Vote) -> BoxFuture<'static, io::Result<Box<dyn SnapshotSink>>> {
        let (raft, snapshots) = (self.raft.clone(), self.snapshots.clone());
        let shared = self.shared.clone();
        async move {
            // Whoever leads no more must not have a copy give way, or the leader's snapshot.
            if raft.server_metrics().borrow_watched().vote > vote {
                return Err(io::Error::other(OUTVOTED));
            }
            let room = snapshots.room().receive().await;
            let writer = snapshots.create().await?;
            Ok(Box::new(Sink { raft, shared, vote, writer, room }) as Box<dyn SnapshotSink>)
        }
        .boxed()
    }
}

/// A snapshot on its way into this replica. Its pieces are made durable beside the current snapshot; openraft
/// then decides whether the sender still leads, and only then does it become the current one.
struct Sink<M: Machine> {
    raft: Raft<M>,
    shared: Arc<Shared<M>>,
    vote: Vote,
    writer: SnapshotWriter,
    room: ReceiveRoom,
}

impl<M: Machine> Sink<M> {
    /// Resolves once a vote is known that is later than the sender's, or the replica has stopped.
    async fn outvoted(&self) {
        let mut metrics = self.raft.server_metrics();
        while metrics.borrow_and_update().vote <= self.vote && metrics.changed().await.is_ok() {}
    }
}

impl<M: Machine> SnapshotSink for Sink<M> {
    fn append(&mut self, piece: Bytes) -> BoxFuture<'_, io::Result<()>> {
        async move { Ok(self.writer.append(piece).await?) }.boxed()
    }

    fn given_up(&self) -> BoxFuture<'_, &'static str> {
        async {
            tokio::select! {
                biased;
                () = self.room.wanted() => "another snapshot is received instead",
                () = self.outvoted() => OUTVOTED,
            }
        }
        .boxed()
    }

    fn install(
        self: Box<Self>,
        vote: Vote,
        meta: SnapshotMeta,
    ) -> BoxFuture<'static, io::Result<SnapshotResponse>> {
        async move {
            let Self { raft, shared, writer, room: _room, .. } = *self;
            if shared.is_contradicted(vote.leader_id().term, meta.last_log_id) {
                return Err(io::Error::other(CONTRADICTS));
            }
            let snapshot: Snapshot = writer.finish(meta.clone()).await?;
            let received = openraft::Snapshot { meta, snapshot };
            raft.install_full_snapshot(vote, received).await.map_err(io::Error::other)
        }
        .boxed()
    }
}

/// The peers' side of a group's replica.
pub(crate) fn replica<M: Machine>(inner: &Arc<Inner<M>>) -> Arc<dyn Replica> {
    inner.clone()
}
