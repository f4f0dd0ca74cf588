//! The receiving side of one connection: takes frames, has them carried out, sends the answers.
//!
//! Whatever arrives takes room from the connection's budget until its answer is written (or it is known that there
//! will be none). Where the budget is spent, reading stops and TCP holds the sender back; a sender that keeps to
//! its windows never gets there. Calls of front ends are refused instead, because their senders can go elsewhere.
//!
//! Must never await what a replica does: each stream, call and transfer is a task of its own, and a replica that
//! stands still delays nobody else.

use super::batch::{self, Batch, Hold, Outgoing};
use super::call::{put_lost_reply, put_refusal};
use super::config::{STREAM_REQUESTS_MAX, TransportConfig};
use super::frame::{Frame, FrameReader, HEADER, Kind, encode};
use super::inbound::{Inbound, Refusal, Replica};
use super::lane::{LaneKind, Local};
use super::message::{
    put_outcome, put_transfer_response, put_vote_response, take_append, take_count, take_heartbeat,
    take_request, take_snapshot_begin, take_transfer, take_vote_request,
};
use super::receive_append::{self, OpenStream};
use super::receive_snapshot::{self, Part};
use super::stats::add;
use crate::codec::Malformed;
use crate::network::Stream;
use bytes::BufMut;
use proto::{GroupId, NodeId};
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Display;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};

/// Append streams that one connection may have open: one for each group that the peer leads, and a few that are
/// being replaced.
const STREAMS_MAX: usize = 8_192;

/// What a frame takes from the budget beside its bytes: the task and the tables that it needs.
const FRAME_COST: usize = 256;

/// The connection outlives its maker's idle timeout so many times.
const IDLE_FACTOR: u32 = 3;

/// Answers that wait to be written. An answer holds the room that its request took, so there are no more of
/// these than the budget admits requests. What holds none is small: one pong, one end for each stream and
/// transfer, a word at each tick of a transfer that is being stored, and refusals of calls, up to twice those
/// that may be in progress.
#[derive(Default)]
pub(crate) struct Outbox {
    state: Mutex<Outgoings>,
    wake: Notify,
    /// Frames ever handed to the writer.
    taken: AtomicU64,
}

#[derive(Default)]
struct Outgoings {
    frames: VecDeque<Outgoing>,
    pong: bool,
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, Outgoings> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn push(
        &self,
        kind: Kind,
        group: GroupId,
        id: u64,
        hold: Option<Hold>,
        put: impl FnOnce(&mut Vec<u8>),
    ) {
        let bytes = encode(kind, group, id, 64, put);
        self.lock().frames.push_back(Outgoing { kind, bytes, hold });
        self.wake.notify_one();
    }

    /// Says that something was not done, or is over.
    pub(crate) fn fail(&self, kind: Kind, group: GroupId, id: u64, hold: Option<Hold>, why: impl Display) {
        self.push(kind, group, id, hold, |into| put_refusal(into, &Refusal::Unavailable(why.to_string())));
    }

    fn pong(&self) {
        self.lock().pong = true;
        self.wake.notify_one();
    }

    fn take(&self, batch: &mut Batch) {
        let mut state = self.lock();
        let mut taken = 0;
        if std::mem::take(&mut state.pong) {
            batch.push(Outgoing {
                kind: Kind::Pong,
                bytes: encode(Kind::Pong, GroupId(0), 0, 0, |_| ()),
                hold: None,
            });
            taken += 1;
        }
        while !batch.is_full()
            && let Some(frame) = state.frames.pop_front()
        {
            batch.push(frame);
            taken += 1;
        }
        self.taken.fetch_add(taken, Ordering::Relaxed);
    }
}

/// One connection's state.
pub(crate) struct Session {
    local: Arc<Local>,
    inbound: Arc<dyn Inbound>,
    from: NodeId,
    lane: LaneKind,
    outbox: Arc<Outbox>,
    /// Bytes that may be in progress.
    budget: Arc<Semaphore>,
    budget_bytes: usize,
    /// Calls of front ends that may be in progress.
    calls: Arc<Semaphore>,
    /// Streams whose task runs, by id. Frames of a stream that is not here are dropped: it has ended, and its
    /// sender was told.
    streams: BTreeMap<u64, OpenStream>,
    /// Transfers whose task runs, by id.
    transfers: BTreeMap<u64, (mpsc::UnboundedSender<Part>, AbortHandle)>,
    /// Each returns the id of the stream or transfer that ended with it, 0 for others.
    tasks: JoinSet<u64>,
}

fn budget_bytes(lane: LaneKind, config: &TransportConfig) -> usize {
    let costs = STREAM_REQUESTS_MAX * FRAME_COST;
    costs
        + match lane {
            LaneKind::Entries => 2 * config.window_bytes + config.frame_bytes_max,
            LaneKind::Heartbeat => 64 * config.heartbeat_frame_bytes_max,
            LaneKind::Bulk => config.snapshots_max * (config.snapshot_window_bytes + config.frame_bytes_max),
            LaneKind::Request => config.queue_bytes_max + config.request_frame_bytes_max,
        }
}

impl Session {
    pub(crate) fn new(local: Arc<Local>, inbound: Arc<dyn Inbound>, from: NodeId, lane: LaneKind) -> Self {
        let budget_bytes = budget_bytes(lane, &local.config);
        let calls = Arc::new(Semaphore::new(local.config.calls_in_progress_max));
        Self {
            local,
            inbound,
            from,
            lane,
            outbox: Arc::default(),
            budget: Arc::new(Semaphore::new(budget_bytes)),
            budget_bytes,
            calls,
            streams: BTreeMap::new(),
            transfers: BTreeMap::new(),
            tasks: JoinSet::new(),
        }
    }

    /// Serves until the connection ends, and says why it did. What was in progress is dropped then.
    pub(crate) async fn run(
        mut self,
        mut reader: FrameReader<ReadHalf<Box<dyn Stream>>>,
        mut writer: WriteHalf<Box<dyn Stream>>,
    ) -> String {
        let (outbox, local) = (self.outbox.clone(), self.local.clone());
        let (received, counters) = (reader.received(), local.counters.lane(self.lane));
        let write = batch::write_all(&mut writer, &outbox.wake, counters, local.config.write_bytes, |b| {
            outbox.take(b)
        });
        // Biased, here and below, for the simulation's sake: no order hangs on the runtime's own dice.
        tokio::select! {
            biased;
            error = write => format!("connection lost: {error}"),
            reason = self.read(&mut reader) => reason,
            reason = keep(&local.config, &outbox, &received) => reason,
        }
    }

    async fn read(&mut self, reader: &mut FrameReader<ReadHalf<Box<dyn Stream>>>) -> String {
        loop {
            let frame = tokio::select! {
                biased;
                Some(done) = self.tasks.join_next() => {
                    self.ended(done);
                    continue;
                }
                frame = reader.next() => frame,
            };
            let frame = match frame {
                Ok(Some(frame)) => frame,
                Ok(None) => return "closed by the peer".to_owned(),
                Err(error) => return error.to_string(),
            };
            let counters = self.local.counters.lane(self.lane);
            add(&counters.frames_received, 1);
            add(&counters.bytes_received, (HEADER + frame.payload.len()) as u64);
            if let Err(error) = self.take(frame).await {
                tracing::warn!(node = %self.local.node, peer = %self.from, "peer sent a bad message: {error}");
                return error.to_string();
            }
        }
    }

    fn ended(&mut self, done: Result<u64, tokio::task::JoinError>) {
        match done {
            Ok(id) => {
                self.streams.remove(&id);
                self.transfers.remove(&id);
            }
            Err(error) if error.is_panic() => {
                tracing::error!(peer = %self.from, "a message's task panicked: {error}")
            }
            Err(_) => {}
        }
    }

    /// Has a frame carried out. Waits only for room in the budget.
    async fn take(&mut self, frame: Frame) -> Result<(), Malformed> {
        match frame.kind {
            Kind::Ping => self.outbox.pong(),
            Kind::End => self.end(frame.id),
            Kind::Request => self.request(frame)?,
            _ => {
                let cost = (frame.payload.len() + FRAME_COST).min(self.budget_bytes);
                let cost = u32::try_from(cost).expect("frames are bounded far below 4 GiB");
                let hold =
                    self.budget.clone().acquire_many_owned(cost).await.expect("the budget is never closed");
                self.take_held(frame, Arc::new(hold))?;
            }
        }
        Ok(())
    }

    fn take_held(&mut self, frame: Frame, hold: Hold) -> Result<(), Malformed> {
        match frame.kind {
            Kind::Append => return self.append(frame, hold),
            Kind::SnapshotBegin => return self.begin(frame, hold),
            Kind::SnapshotPiece => self.part(frame.id, Part::Piece(frame.payload, hold)),
            Kind::SnapshotEnd => self.part(frame.id, Part::End(take_count(frame.payload)?, hold)),
            _ => return self.ask(frame, hold),
        }
        Ok(())
    }

    /// This node's replica of a group; where it has none, the sender is told so.
    fn replica(&self, frame: &Frame, kind: Kind, hold: &Hold) -> Option<Arc<dyn Replica>> {
        let replica = self.inbound.replica(frame.group);
        if replica.is_none() {
            let why = format!("{} has no replica of {}", self.local.node, frame.group);
            self.outbox.fail(kind, frame.group, frame.id, Some(hold.clone()), why);
        }
        replica
    }

    fn append(&mut self, frame: Frame, hold: Hold) -> Result<(), Malformed> {
        let (sequence, request) = take_append(frame.payload.clone())?;
        if sequence == 0 {
            if self.streams.contains_key(&frame.id) {
                return Err(Malformed { what: "append", why: "the stream is open already" });
            }
            if self.streams.len() >= STREAMS_MAX {
                self.outbox.fail(Kind::End, frame.group, frame.id, Some(hold), "too many streams are open");
                return Ok(());
            }
            let Some(replica) = self.replica(&frame, Kind::End, &hold) else { return Ok(()) };
            let stream =
                receive_append::open(&mut self.tasks, replica, frame.group, frame.id, self.outbox.clone());
            self.streams.insert(frame.id, stream);
        }
        let Some(stream) = self.streams.get_mut(&frame.id) else { return Ok(()) };
        if let Some(why) = stream.push(sequence, request, hold.clone())? {
            self.streams.remove(&frame.id);
            self.outbox.fail(Kind::End, frame.group, frame.id, Some(hold), why);
        }
        Ok(())
    }

    fn end(&mut self, id: u64) {
        if let Some(stream) = self.streams.remove(&id) {
            stream.abort();
        }
        if let Some((_, task)) = self.transfers.remove(&id) {
            task.abort();
        }
    }

    fn begin(&mut self, frame: Frame, hold: Hold) -> Result<(), Malformed> {
        let (vote, meta) = take_snapshot_begin(frame.payload.clone())?;
        if self.transfers.len() >= self.local.config.snapshots_max {
            self.outbox.fail(
                Kind::Failed,
                frame.group,
                frame.id,
                Some(hold),
                "too many snapshots are on their way",
            );
            return Ok(());
        }
        if self.transfers.contains_key(&frame.id) {
            return Err(Malformed { what: "snapshot", why: "the transfer has begun already" });
        }
        let Some(replica) = self.replica(&frame, Kind::Failed, &hold) else { return Ok(()) };
        let (parts, receiver) = mpsc::unbounded_channel();
        let (group, id) = (frame.group, frame.id);
        let (outbox, config) = (self.outbox.clone(), self.local.config.clone());
        let task =
            self.tasks.spawn(receive_snapshot::run(replica, group, id, vote, meta, receiver, outbox, config));
        self.transfers.insert(id, (parts, task));
        Ok(())
    }

    /// Parts of a transfer that has ended are dropped: its sender was told.
    fn part(&mut self, id: u64, part: Part) {
        if let Some((parts, _)) = self.transfers.get(&id)
            && parts.send(part).is_err()
        {
            tracing::trace!(peer = %self.from, "a part came after its transfer's end");
        }
    }

    /// Spawns what answers with one frame.
    fn answer<E, F>(&mut self, frame: &Frame, hold: Hold, future: F)
    where
        E: Display,
        F: Future<Output = Result<Vec<u8>, E>> + Send + 'static,
    {
        let (group, id, outbox) = (frame.group, frame.id, self.outbox.clone());
        self.tasks.spawn(async move {
            match future.await {
                Ok(payload) => {
                    outbox.push(Kind::Reply, group, id, Some(hold), |into| into.put_slice(&payload))
                }
                Err(why) => outbox.fail(Kind::Failed, group, id, Some(hold), why),
            }
            0
        });
    }

    fn ask(&mut self, frame: Frame, hold: Hold) -> Result<(), Malformed> {
        let Some(replica) = self.replica(&frame, Kind::Failed, &hold) else { return Ok(()) };
        let payload = frame.payload.clone();
        match frame.kind {
            Kind::Heartbeat => {
                let outcome = replica.append(take_heartbeat(payload)?);
                self.answer(&frame, hold, async move {
                    outcome.await.map(|o| written(|into| put_outcome(into, &o)))
                });
            }
            Kind::Vote | Kind::PreVote => {
                let request = take_vote_request(payload)?;
                let vote =
                    if frame.kind == Kind::Vote { replica.vote(request) } else { replica.pre_vote(request) };
                self.answer(&frame, hold, async move {
                    vote.await.map(|v| written(|into| put_vote_response(into, &v)))
                });
            }
            Kind::TransferLeader => {
                let done = replica.transfer_leader(take_transfer(payload)?);
                let done = async move { done.await.map(|r| written(|into| put_transfer_response(into, &r))) };
                self.answer(&frame, hold, done);
            }
            _ => return Err(Malformed { what: "message", why: "a kind that asks nothing" }),
        }
        Ok(())
    }

    fn request(&mut self, frame: Frame) -> Result<(), Malformed> {
        let Frame { group, id, .. } = frame;
        let cost =
            u32::try_from(frame.payload.len() + FRAME_COST).expect("frames are bounded far below 4 GiB");
        let (service, deadline_ms, body) = take_request(frame.payload)?;
        let room = self
            .budget
            .clone()
            .try_acquire_many_owned(cost)
            .ok()
            .zip(self.calls.clone().try_acquire_owned().ok());
        let Some((hold, slot)) = room else {
            // What is said here takes no room of the budget, so there must be room left to say it.
            self.overloaded(id);
            return Ok(());
        };
        let deadline = Duration::from_millis(deadline_ms.into());
        let done = self.inbound.call(self.from, service, body, deadline);
        let (outbox, bytes_max) = (self.outbox.clone(), self.local.config.request_frame_bytes_max);
        let hold = Some(Arc::new(hold));
        self.tasks.spawn(async move {
            // Out of time, nobody waits for an answer.
            if let Ok(result) = tokio::time::timeout(deadline, done).await {
                match result {
                    Ok(reply) if reply.len() + HEADER <= bytes_max => {
                        outbox.push(Kind::Reply, group, id, hold, |into| into.put_slice(&reply));
                    }
                    Ok(reply) => {
                        outbox.push(Kind::Failed, group, id, hold, |into| put_lost_reply(into, reply.len()))
                    }
                    Err(refusal) => {
                        outbox.push(Kind::Failed, group, id, hold, |into| put_refusal(into, &refusal))
                    }
                }
            }
            drop(slot);
            0
        });
        Ok(())
    }

    fn overloaded(&self, id: u64) {
        let refusal =
            Refusal::Overloaded(format!("{} has too many calls of yours in progress", self.local.node));
        if self.outbox.lock().frames.len() < 2 * self.local.config.calls_in_progress_max {
            self.outbox.push(Kind::Failed, GroupId(0), id, None, |into| put_refusal(into, &refusal));
        }
    }
}

fn written(put: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut payload = Vec::with_capacity(64);
    put(&mut payload);
    payload
}

/// Shows signs of life while much arrives and nothing is answered, and ends a connection that nobody uses.
async fn keep(config: &TransportConfig, outbox: &Outbox, received: &AtomicU64) -> String {
    let tick = config.silence_timeout() / 4;
    let (mut heard, mut said, mut idle) = (0, 0, Duration::ZERO);
    loop {
        tokio::time::sleep(tick).await;
        let heard_before = std::mem::replace(&mut heard, received.load(Ordering::Relaxed));
        let said_before = std::mem::replace(&mut said, outbox.taken.load(Ordering::Relaxed));
        idle = if heard == heard_before { idle + tick } else { Duration::ZERO };
        if heard != heard_before && said == said_before {
            outbox.pong();
        }
        if idle >= config.idle_timeout() * IDLE_FACTOR {
            return "connection was idle".to_owned();
        }
    }
}
