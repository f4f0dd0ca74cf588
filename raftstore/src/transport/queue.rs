//! What waits on a lane: frames to be written, and calls and streams to be answered.
//!
//! Owns the matching of answers to what asked. Ids are never used twice by a process, and whatever was written
//! to a connection is failed when that connection ends: an answer can therefore only reach the call, or the very
//! stream, that it was given to. Must never hold its lock over an await.

use super::batch::{Batch, Hold, Outgoing};
use super::config::{STREAM_REQUESTS_MAX, TransportConfig};
use super::frame::{Frame, Kind, encode};
use super::lane::LaneKind;
use super::stats::{Counters, LaneCounters, add};
use bytes::Bytes;
use proto::GroupId;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot};

/// Answers of one stream that may wait to be taken: one for each request under way, and its end.
const ANSWERS_MAX: usize = STREAM_REQUESTS_MAX + 16;

/// Frames that belong to no call (ends of streams, pings) and wait to be written.
const CONTROLS_MAX: usize = 8_192;

/// Why something went unanswered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub(crate) struct Failure {
    /// Whether any of it was handed to a connection: it may then have been carried out.
    pub(crate) sent: bool,
    /// Whether it was time that ran out.
    pub(crate) timed_out: bool,
    /// For people.
    pub(crate) reason: String,
}

/// An answer, or why there will be none.
pub(crate) type Answer = Result<Frame, Failure>;

enum Waiting {
    Call(oneshot::Sender<Answer>),
    Stream(mpsc::Sender<Answer>),
}

struct Pending {
    /// Whether a frame of it was handed to the present connection.
    sent: bool,
    waiting: Waiting,
}

struct Queued {
    /// The call or stream whose frame it is, which is then in `pending`; 0 where it belongs to none.
    owner: u64,
    frame: Outgoing,
}

#[derive(Default)]
struct State {
    frames: VecDeque<Queued>,
    /// The sum of the frames' bytes.
    bytes: usize,
    /// Frames without an owner.
    controls: usize,
    pending: BTreeMap<u64, Pending>,
    /// Why the peer was not reached when that was last tried; cleared by a connection.
    unreachable: Option<String>,
    /// Nothing is taken any more.
    closed: bool,
}

/// The windows of appends and snapshots bound what they queue; their lanes have room for all of it.
fn bytes_max(kind: LaneKind, config: &TransportConfig) -> usize {
    match kind {
        LaneKind::Entries => config.queue_bytes_max + config.window_bytes,
        LaneKind::Bulk => {
            config.queue_bytes_max
                + config.snapshots_max * (config.snapshot_window_bytes + config.frame_bytes_max)
        }
        LaneKind::Heartbeat | LaneKind::Request => config.queue_bytes_max,
    }
}

/// One lane's queue; shared by those who ask and the task that keeps the connection.
pub(crate) struct Queue {
    pub(crate) kind: LaneKind,
    /// For logs and errors: `n2 entries`.
    pub(crate) name: String,
    pub(crate) counters: Arc<Counters>,
    /// The source of ids, shared by all lanes of the process.
    ids: Arc<AtomicU64>,
    pending_max: usize,
    bytes_max: usize,
    state: Mutex<State>,
    /// Rings when there is something to write.
    pub(crate) wake: Notify,
}

impl Queue {
    pub(crate) fn new(
        kind: LaneKind,
        name: String,
        config: &TransportConfig,
        counters: Arc<Counters>,
        ids: Arc<AtomicU64>,
    ) -> Self {
        Self {
            kind,
            name,
            counters,
            ids,
            pending_max: config.calls_max,
            bytes_max: bytes_max(kind, config),
            state: Mutex::default(),
            wake: Notify::new(),
        }
    }

    // A panic while the lock was held is a defect that stops that task; the tables it left are whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn lane_counters(&self) -> &LaneCounters {
        self.counters.lane(self.kind)
    }

    /// Asks once. The answer is awaited with [`Call::answer`]; dropping the call forgets it.
    ///
    /// # Errors
    /// [`Failure`] where a bound is reached or the lane is closed; nothing was sent.
    pub(crate) fn call(
        self: &Arc<Self>,
        kind: Kind,
        group: GroupId,
        capacity: usize,
        put: impl FnOnce(&mut Vec<u8>),
    ) -> Result<Call, Failure> {
        let (reply, answer) = oneshot::channel();
        let id = self.register(Waiting::Call(reply))?;
        let call = Call { id, queue: self.clone(), answer };
        let bytes = encode(kind, group, id, capacity, put);
        self.send(id, Outgoing { kind, bytes, hold: None })?;
        Ok(call)
    }

    /// Opens a stream; nothing is sent yet. Dropping it ends it at the receiver too.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub(crate) fn stream(self: &Arc<Self>, group: GroupId) -> Result<StreamCall, Failure> {
        let (reply, answers) = mpsc::channel(ANSWERS_MAX);
        let id = self.register(Waiting::Stream(reply))?;
        Ok(StreamCall { id, group, queue: self.clone(), answers })
    }

    fn refused(&self, why: &str) -> Failure {
        add(&self.lane_counters().refused, 1);
        Failure { sent: false, timed_out: false, reason: format!("{why}: {}", self.name) }
    }

    fn register(&self, waiting: Waiting) -> Result<u64, Failure> {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let mut state = self.lock();
        if state.closed {
            return Err(self.refused("transport is shut down"));
        }
        if state.pending.len() >= self.pending_max {
            return Err(self.refused("too many calls are under way"));
        }
        state.pending.insert(id, Pending { sent: false, waiting });
        add(&self.lane_counters().in_flight, 1);
        Ok(id)
    }

    fn send(&self, owner: u64, frame: Outgoing) -> Result<(), Failure> {
        {
            let mut state = self.lock();
            if !state.pending.contains_key(&owner) {
                let reason = format!("stream is over: {}", self.name);
                return Err(Failure { sent: true, timed_out: false, reason });
            }
            if state.bytes + frame.bytes.len() > self.bytes_max {
                return Err(self.refused("too many bytes wait to be written"));
            }
            state.bytes += frame.bytes.len();
            state.frames.push_back(Queued { owner, frame });
        }
        self.wake.notify_one();
        Ok(())
    }

    /// Queues a frame that nobody waits for. Where too many wait already, it is dropped: pings and ends of
    /// streams only save time and memory.
    pub(crate) fn control(&self, kind: Kind, group: GroupId, id: u64) {
        {
            let mut state = self.lock();
            if state.controls >= CONTROLS_MAX || state.closed {
                return;
            }
            state.push_control(kind, group, id);
        }
        self.wake.notify_one();
    }

    /// Moves waiting frames into `batch`; from now on their owners count as sent.
    pub(crate) fn take(&self, batch: &mut Batch) {
        let state = &mut *self.lock();
        while !batch.is_full() {
            let Some(Queued { owner, frame }) = state.frames.pop_front() else { return };
            state.bytes -= frame.bytes.len();
            match state.pending.get_mut(&owner) {
                Some(pending) => pending.sent = true,
                None => state.controls -= 1,
            }
            self.counters.count_sent(frame.kind);
            batch.push(frame);
        }
    }

    /// Hands an answer to what asked; an answer that nobody waits for any more is dropped.
    ///
    /// # Errors
    /// A sentence where the peer does not keep to the protocol; the connection must end.
    pub(crate) fn deliver(&self, frame: Frame) -> Result<(), &'static str> {
        let last = match frame.kind {
            Kind::Reply | Kind::Failed | Kind::End => true,
            Kind::Appended | Kind::SnapshotProgress => false,
            _ => return Err("peer sent a frame that answers nothing"),
        };
        let mut state = self.lock();
        if last {
            let pending = state.pending.remove(&frame.id);
            // A peer may end a stream of which something still waits to be written.
            state.drop_unowned_by(frame.id);
            drop(state);
            if let Some(pending) = pending {
                self.end(pending, Ok(frame));
            }
            return Ok(());
        }
        match state.pending.get(&frame.id).map(|pending| &pending.waiting) {
            None => Ok(()),
            Some(Waiting::Call(_)) => Err("peer answered a call as a stream"),
            Some(Waiting::Stream(answers)) => match answers.try_send(Ok(frame)) {
                Err(mpsc::error::TrySendError::Full(_)) => Err("peer answered more than it was asked"),
                Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
            },
        }
    }

    fn end(&self, pending: Pending, answer: Answer) {
        self.lane_counters().in_flight.fetch_sub(1, Ordering::Relaxed);
        // Where the receiver is gone or full, it learns from the closed channel instead.
        let gone = match pending.waiting {
            Waiting::Call(reply) => reply.send(answer).is_err(),
            Waiting::Stream(answers) => answers.try_send(answer).is_err(),
        };
        if gone {
            tracing::trace!(lane = %self.name, "an answer came too late");
        }
    }

    /// A connection is there.
    pub(crate) fn connected(&self) {
        self.lock().unreachable = None;
    }

    /// The connection ended: what was sent on it will not be answered. What was not waits for the next.
    pub(crate) fn disconnected(&self, reason: &str) {
        self.fail(reason, |pending| pending.sent);
    }

    /// The peer could not be reached. Calls of front ends fail at once, for another node may serve them; Raft's
    /// own wait for the next attempt until their deadline.
    pub(crate) fn unreachable(&self, reason: &str) {
        self.lock().unreachable = Some(reason.to_owned());
        if self.kind == LaneKind::Request {
            self.fail(reason, |_| true);
        }
    }

    /// Fails everything, now and from now on.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.fail("transport is shut down", |_| true);
    }

    fn fail(&self, reason: &str, which: impl Fn(&Pending) -> bool) {
        let failed: Vec<Pending> = {
            let state = &mut *self.lock();
            let failed: Vec<_> = state.pending.extract_if(.., |_, pending| which(pending)).collect();
            state.drop_unowned();
            failed.into_iter().map(|(_, pending)| pending).collect()
        };
        for pending in failed {
            let failure = Failure { sent: pending.sent, timed_out: false, reason: reason.to_owned() };
            self.end(pending, Err(failure));
        }
    }

    /// Takes a call or stream out, with whatever of it still waits. `None` where it was answered or failed
    /// meanwhile; otherwise whether any of it was sent.
    fn forget(&self, id: u64, end_of: Option<GroupId>) -> Option<bool> {
        let sent = {
            let state = &mut *self.lock();
            let pending = state.pending.remove(&id)?;
            state.drop_unowned_by(id);
            if let Some(group) = end_of.filter(|_| pending.sent && state.controls < CONTROLS_MAX) {
                state.push_control(Kind::End, group, id);
            }
            pending.sent
        };
        self.lane_counters().in_flight.fetch_sub(1, Ordering::Relaxed);
        self.wake.notify_one();
        Some(sent)
    }

    /// Whether anything waits to be written.
    pub(crate) fn has_frames(&self) -> bool {
        !self.lock().frames.is_empty()
    }

    /// Whether anything that was sent waits for an answer.
    pub(crate) fn awaits_answer(&self) -> bool {
        self.lock().pending.values().any(|pending| pending.sent)
    }

    fn timed_out(&self, sent: bool, after: Duration) -> Failure {
        add(&self.lane_counters().timeouts, 1);
        let cause = match (&self.lock().unreachable, sent) {
            (Some(why), _) => why.clone(),
            (None, true) => "no answer".to_owned(),
            (None, false) => "no connection".to_owned(),
        };
        Failure {
            sent,
            timed_out: true,
            reason: format!("{cause} within {} ms: {}", after.as_millis(), self.name),
        }
    }
}

impl State {
    fn push_control(&mut self, kind: Kind, group: GroupId, id: u64) {
        let bytes = encode(kind, group, id, 0, |_| ());
        self.bytes += bytes.len();
        self.controls += 1;
        self.frames.push_back(Queued { owner: 0, frame: Outgoing { kind, bytes, hold: None } });
    }

    /// Drops frames of `id`, which is no longer pending.
    fn drop_unowned_by(&mut self, id: u64) {
        let bytes = &mut self.bytes;
        self.frames.retain(|queued| {
            let keep = queued.owner != id;
            *bytes -= if keep { 0 } else { queued.frame.bytes.len() };
            keep
        });
    }

    /// Drops all frames whose owner is no longer pending, and those that never had one: they spoke of a
    /// connection that is gone.
    fn drop_unowned(&mut self) {
        let pending = &self.pending;
        self.frames.retain(|queued| pending.contains_key(&queued.owner));
        self.bytes = self.frames.iter().map(|queued| queued.frame.bytes.len()).sum();
        self.controls = 0;
    }
}

/// A call under way.
pub(crate) struct Call {
    id: u64,
    queue: Arc<Queue>,
    answer: oneshot::Receiver<Answer>,
}

impl Call {
    /// Waits for the answer, at most so long.
    ///
    /// # Errors
    /// [`Failure`], which says whether the call was sent.
    pub(crate) async fn answer(mut self, timeout: Duration) -> Answer {
        if let Ok(answer) = tokio::time::timeout(timeout, &mut self.answer).await {
            // Nobody drops a call unanswered; should it happen, nobody knows how far it came.
            return answer.unwrap_or_else(|_| Err(self.queue.timed_out(true, timeout)));
        }
        match self.queue.forget(self.id, None) {
            Some(sent) => Err(self.queue.timed_out(sent, timeout)),
            // It was answered in the last moment.
            None => self.answer.try_recv().unwrap_or_else(|_| Err(self.queue.timed_out(true, timeout))),
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.queue.forget(self.id, None);
    }
}

/// A stream under way.
pub(crate) struct StreamCall {
    id: u64,
    group: GroupId,
    queue: Arc<Queue>,
    answers: mpsc::Receiver<Answer>,
}

impl StreamCall {
    /// Sends the next frame of the stream.
    ///
    /// # Errors
    /// [`Failure`] where the stream is over or a bound is reached.
    pub(crate) fn send(&self, kind: Kind, bytes: Bytes, hold: Option<Hold>) -> Result<(), Failure> {
        self.queue.send(self.id, Outgoing { kind, bytes, hold })
    }

    /// The id that the stream's frames carry.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// The next answer. Dropping the future loses none.
    pub(crate) async fn answer(&mut self) -> Answer {
        let closed = || Failure {
            sent: true,
            timed_out: false,
            reason: format!("stream is over: {}", self.queue.name),
        };
        self.answers.recv().await.unwrap_or_else(|| Err(closed()))
    }

    /// Ends the stream for want of progress, and says what that means.
    pub(crate) fn give_up(&self, after: Duration) -> Failure {
        let sent = self.queue.forget(self.id, Some(self.group)).unwrap_or(true);
        self.queue.timed_out(sent, after)
    }
}

impl Drop for StreamCall {
    fn drop(&mut self) {
        self.queue.forget(self.id, Some(self.group));
    }
}
