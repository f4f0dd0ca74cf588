//! Two nodes that talk over a real or a simulated network, with fakes where their groups would be.

mod addresses;
mod calls;
mod lanes;
mod reconnect;
mod shutdown;
mod snapshots;
mod streams;

use super::inbound::{Inbound, Refusal, Replica, SnapshotSink, Stopped};

use super::raft_client::Client;
use super::server::Server;
use super::snapshot::{PieceReader, Pieces};
use super::{Transport, TransportConfig};
use crate::network::{Network, SimulatedNetwork, TcpNetwork};
use crate::types::{
    Address, AppendEntriesRequest, CommittedLeaderId, Data, Entry, LogId, Payload, SnapshotMeta,
    SnapshotResponse, StreamAppendResult, TransferLeaderRequest, TransferLeaderResponse, TypeConfig, Vote,
    VoteRequest, VoteResponse,
};
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{BoxStream, StreamExt};
use openraft::errors::RPCError;
use openraft::network::{NetStreamAppend, RPCOption};
use openraft::raft::StreamAppendError;
use proto::{GroupId, NodeId};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, watch};

pub(super) const MS: Duration = Duration::from_millis(1);
pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const GROUP: GroupId = GroupId(7);

pub(super) fn id(index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(1), index)
}

/// An append of one entry at `index` with so many bytes.
pub(super) fn append(index: u64, bytes: usize) -> AppendEntriesRequest {
    let payload = Payload::Normal(Data(Bytes::from(vec![7; bytes])));
    AppendEntriesRequest {
        vote: Vote::new_committed(1, 1),
        prev_log_id: index.checked_sub(1).map(id),
        entries: vec![Entry { log_id: id(index), payload }],
        leader_commit: None,
    }
}

pub(super) fn heartbeat() -> AppendEntriesRequest {
    AppendEntriesRequest { entries: Vec::new(), ..append(1, 0) }
}

/// A replica that notes what it is given and answers as it is told.
pub(super) struct FakeReplica {
    /// Answers to streamed appends that may be given; unlimited unless taken away.
    pub(super) gate: Arc<Semaphore>,
    /// Answers a conflict instead of success at this index.
    pub(super) conflict_at: Mutex<Option<u64>>,
    /// Says that it has stopped.
    pub(super) stopped: Mutex<bool>,
    /// The last index of each streamed append, in the order of arrival.
    pub(super) appended: watch::Sender<Vec<u64>>,
    /// Bytes of entries that arrived by streams.
    pub(super) bytes: AtomicUsize,
    pub(super) heartbeats: AtomicUsize,
    /// Pieces of the snapshots that were installed.
    pub(super) installed: watch::Sender<Vec<Vec<Bytes>>>,
    /// Sinks that were begun and dropped without being installed.
    pub(super) discarded: Arc<watch::Sender<usize>>,
    /// Pieces that sinks may take; unlimited unless taken away.
    pub(super) pieces: Arc<Semaphore>,
    /// How long installing takes.
    pub(super) install_time: Mutex<Duration>,
}

impl Default for FakeReplica {
    fn default() -> Self {
        Self {
            gate: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
            conflict_at: Mutex::default(),
            stopped: Mutex::default(),
            appended: watch::Sender::new(Vec::new()),
            bytes: AtomicUsize::new(0),
            heartbeats: AtomicUsize::new(0),
            installed: watch::Sender::new(Vec::new()),
            discarded: Arc::new(watch::Sender::new(0)),
            pieces: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
            install_time: Mutex::default(),
        }
    }
}

/// Lets nothing through any more.
pub(super) fn close_gate(gate: &Semaphore) {
    gate.forget_permits(Semaphore::MAX_PERMITS);
}

pub(super) fn open_gate(gate: &Semaphore) {
    gate.add_permits(Semaphore::MAX_PERMITS / 2);
}

async fn pass(gate: &Semaphore) {
    gate.acquire().await.unwrap().forget();
}

impl FakeReplica {
    pub(super) async fn wait_appended(&self, count: usize) -> Vec<u64> {
        self.appended.subscribe().wait_for(|appended| appended.len() >= count).await.unwrap().clone()
    }
}

/// The replica as the transport holds it.
struct Handle(Arc<FakeReplica>);

impl Replica for Handle {
    fn append(
        &self,
        request: AppendEntriesRequest,
    ) -> BoxFuture<'static, Result<StreamAppendResult, Stopped>> {
        self.0.heartbeats.fetch_add(1, Ordering::SeqCst);
        async move { Ok(Ok(request.prev_log_id)) }.boxed()
    }

    fn stream_append(
        &self,
        requests: BoxStream<'static, AppendEntriesRequest>,
    ) -> BoxStream<'static, Result<StreamAppendResult, Stopped>> {
        let replica = self.0.clone();
        // As openraft does, requests are taken in as they come, ahead of their answers.
        let (taken, answers) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut requests = requests;
            while let Some(request) = requests.next().await {
                let last = request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id);
                let bytes = request.entries.iter().map(|entry| match &entry.payload {
                    Payload::Normal(data) => data.0.len(),
                    _ => 0,
                });
                replica.bytes.fetch_add(bytes.sum(), Ordering::SeqCst);
                replica.appended.send_modify(|appended| appended.push(last.map_or(0, |id| id.index())));
                if taken.send((replica.clone(), last)).is_err() {
                    return;
                }
            }
        });
        let answers = futures_util::stream::unfold(Some(answers), |answers| async move {
            let mut answers = answers?;
            let (replica, last): (Arc<FakeReplica>, Option<LogId>) = answers.recv().await?;
            pass(&replica.gate).await;
            if *replica.stopped.lock().unwrap() {
                return Some((Err(Stopped("told so".into())), None));
            }
            let conflict = *replica.conflict_at.lock().unwrap();
            match last.filter(|last| conflict == Some(last.index())) {
                Some(last) => Some((Ok(Err(StreamAppendError::Conflict(last))), None)),
                None => Some((Ok(Ok(last)), Some(answers))),
            }
        });
        answers.boxed()
    }

    fn vote(&self, request: VoteRequest) -> BoxFuture<'static, Result<VoteResponse, Stopped>> {
        async move { Ok(VoteResponse::new(request.vote, request.last_log_id, true)) }.boxed()
    }

    fn pre_vote(&self, request: VoteRequest) -> BoxFuture<'static, Result<VoteResponse, Stopped>> {
        async move { Ok(VoteResponse::new(request.vote, request.last_log_id, false)) }.boxed()
    }

    fn transfer_leader(
        &self,
        _request: TransferLeaderRequest,
    ) -> BoxFuture<'static, Result<TransferLeaderResponse, Stopped>> {
        async move { Ok(Ok(())) }.boxed()
    }

    fn receive_snapshot(&self, _vote: Vote) -> BoxFuture<'static, io::Result<Box<dyn SnapshotSink>>> {
        let sink = Sink { replica: self.0.clone(), pieces: Vec::new(), done: false };
        async move { Ok(Box::new(sink) as Box<dyn SnapshotSink>) }.boxed()
    }
}

struct Sink {
    replica: Arc<FakeReplica>,
    pieces: Vec<Bytes>,
    done: bool,
}

impl SnapshotSink for Sink {
    fn append(&mut self, piece: Bytes) -> BoxFuture<'_, io::Result<()>> {
        async move {
            pass(&self.replica.pieces).await;
            self.pieces.push(piece);
            Ok(())
        }
        .boxed()
    }

    fn given_up(&self) -> BoxFuture<'_, &'static str> {
        std::future::pending().boxed()
    }

    fn install(
        mut self: Box<Self>,
        vote: Vote,
        _meta: SnapshotMeta,
    ) -> BoxFuture<'static, io::Result<SnapshotResponse>> {
        async move {
            let time = *self.replica.install_time.lock().unwrap();
            tokio::time::sleep(time).await;
            self.done = true;
            let pieces = std::mem::take(&mut self.pieces);
            self.replica.installed.send_modify(|installed| installed.push(pieces));
            Ok(SnapshotResponse::new(vote))
        }
        .boxed()
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if !self.done {
            self.replica.discarded.send_modify(|count| *count += 1);
        }
    }
}

/// A node that has group 7 (or every group below 1,000 where `many`) and answers calls: service 1 echoes, 2 waits
/// for the gate, 3 is unknown.
pub(super) struct FakeNode {
    pub(super) replica: Arc<FakeReplica>,
    pub(super) many: bool,
    /// Calls that arrived.
    pub(super) calls: watch::Sender<usize>,
    pub(super) call_gate: Arc<Semaphore>,
}

impl Default for FakeNode {
    fn default() -> Self {
        let (replica, calls) = (Arc::default(), watch::Sender::new(0));
        Self { replica, many: false, calls, call_gate: Arc::new(Semaphore::new(0)) }
    }
}

impl Inbound for FakeNode {
    fn replica(&self, group: GroupId) -> Option<Arc<dyn Replica>> {
        let hosted = group == GROUP || self.many && group.0 < 1_000;
        hosted.then(|| Arc::new(Handle(self.replica.clone())) as Arc<dyn Replica>)
    }

    fn call(
        &self,
        from: NodeId,
        service: u8,
        body: Bytes,
        _deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, Refusal>> {
        assert_eq!(from, NodeId(1));
        self.calls.send_modify(|calls| *calls += 1);
        let gate = self.call_gate.clone();
        async move {
            match service {
                1 => Ok(body),
                2 => {
                    pass(&gate).await;
                    Ok(body)
                }
                _ => Err(Refusal::Unsupported(format!("service {service}"))),
            }
        }
        .boxed()
    }
}

/// Where two nodes, n1 and n2, live.
pub(super) struct World {
    pub(super) networks: [Arc<dyn Network>; 2],
    pub(super) simulated: Option<SimulatedNetwork>,
    listen: &'static str,
}

impl World {
    pub(super) fn tcp() -> Self {
        Self {
            networks: [Arc::new(TcpNetwork), Arc::new(TcpNetwork)],
            simulated: None,
            listen: "127.0.0.1:0",
        }
    }

    pub(super) fn simulated() -> Self {
        let network = SimulatedNetwork::new();
        Self { networks: [network.host("a"), network.host("b")], simulated: Some(network), listen: "b:1" }
    }

    pub(super) fn network(&self) -> &SimulatedNetwork {
        self.simulated.as_ref().unwrap()
    }
}

/// n1's transport, and n2 that serves.
pub(super) struct Pair {
    pub(super) world: World,
    pub(super) one: Arc<Transport>,
    pub(super) two: Arc<Transport>,
    pub(super) server: Server,
    pub(super) node: Arc<FakeNode>,
    pub(super) address: Address,
}

pub(super) fn transport(number: u64, network: &Arc<dyn Network>, config: &TransportConfig) -> Arc<Transport> {
    Transport::new(NodeId(number), "test".into(), network.clone(), config.clone())
}

impl Pair {
    pub(super) async fn start(world: World, config: TransportConfig, node: FakeNode) -> Self {
        let one = transport(1, &world.networks[0], &config);
        let two = transport(2, &world.networks[1], &config);
        let node = Arc::new(node);
        let server = two.serve(world.listen, node.clone()).await.unwrap();
        let address = Address { peer: server.local_address().to_owned(), http: String::new() };
        Self { world, one, two, server, node, address }
    }

    pub(super) async fn simulated() -> Self {
        Self::start(World::simulated(), TransportConfig::default(), FakeNode::default()).await
    }

    pub(super) fn client(&self, group: GroupId) -> Client<FakePieces> {
        self.one.client(group, NodeId(2), &self.address)
    }

    pub(super) async fn heartbeat_client(&self, group: GroupId) -> Client<FakePieces> {
        Client { heartbeats: true, ..self.client(group) }
    }

    /// Stops n2 and starts it again at the same address.
    pub(super) async fn restart(&mut self) {
        self.server.shutdown().await;
        self.server = self.two.serve(&self.address.peer, self.node.clone()).await.unwrap();
    }
}

/// Sends one heartbeat as openraft does.
pub(super) async fn beat(
    client: &mut Client<FakePieces>,
) -> Result<StreamAppendResult, RPCError<TypeConfig>> {
    let input = futures_util::stream::once(std::future::ready(heartbeat()));
    let mut answers = client.stream_append(input, RPCOption::new(SECOND)).await?;
    let answer = answers.next().await.unwrap();
    assert!(answers.next().await.is_none());
    answer
}

/// A stream that is fed by hand.
pub(super) struct Feed {
    pub(super) requests: mpsc::UnboundedSender<AppendEntriesRequest>,
}

pub(super) fn feed() -> (Feed, BoxStream<'static, AppendEntriesRequest>) {
    let (requests, receiver) = mpsc::unbounded_channel();
    let stream = futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|request| (request, receiver))
    });
    (Feed { requests }, stream.boxed())
}

impl Feed {
    pub(super) fn send(&self, request: AppendEntriesRequest) {
        self.requests.send(request).unwrap();
    }
}

/// A snapshot of so many pieces of so many bytes.
#[derive(Clone, Debug)]
pub(super) struct FakePieces {
    pub(super) count: usize,
    pub(super) bytes: usize,
    /// Pieces that were read.
    pub(super) read: Arc<AtomicUsize>,
}

impl Pieces for FakePieces {
    fn pieces(&self) -> Box<dyn PieceReader> {
        Box::new(self.clone())
    }
}

impl PieceReader for FakePieces {
    fn next(&mut self) -> BoxFuture<'_, io::Result<Option<Bytes>>> {
        let read = self.read.load(Ordering::SeqCst);
        if read == self.count {
            return std::future::ready(Ok(None)).boxed();
        }
        self.read.store(read + 1, Ordering::SeqCst);
        std::future::ready(Ok(Some(Bytes::from(vec![read as u8; self.bytes])))).boxed()
    }

    fn withdrawn(&self) -> BoxFuture<'static, ()> {
        std::future::pending().boxed()
    }
}

/// Waits until `holds` does.
pub(super) async fn until(mut holds: impl FnMut() -> bool) {
    while !holds() {
        tokio::time::sleep(MS).await;
    }
}
