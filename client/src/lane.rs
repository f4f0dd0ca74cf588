//! The way to one node, and the gathering on it.
//!
//! What is handed in while a batch is on its way waits, and leaves as the next when that one comes back: what a
//! batch costs is divided by all that it carries. It leaves earlier, beside that one, once as much waits as is on
//! its way, or once that one has been gone for [`HOLDS_UP_MAX`]; with `batches_per_node` on their way it waits in
//! any case. A lone attempt leaves at once. Every attempt handed in is answered, or its receiver sees the sender
//! dropped. When a batch gets no answer, what waits behind it is handed back unsent, so that it can go to another
//! node.
//!
//! The queue is bounded by `in_flight_max`: a call has at most one live attempt and holds a permit for it;
//! withdrawn ones are swept out before the queue would grow beyond that.

use crate::fault::Fault;
use crate::operation::{Answered, Kind, Operation};
use crate::random::Random;
use crate::sync::lock;
use crate::transport::{Request, Response, Transport, TransportError};
use crate::{Config, Error};
use bytes::Bytes;
use proto::{Answer, BatchReply, BatchRequest, Code, Consistency, Item, Limits, Stamp};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::Instant;

const BATCH_PATH: &str = "/v1/batch";

/// A node is told a deadline and given this much longer to say that it passed: its own word is worth more than
/// silence.
const ANSWER_GRACE: Duration = Duration::from_millis(250);

/// No link that a client is used over is slower for long, in bytes a second: what a batch carries has as much more time
/// to arrive. Cut short and sent again, a large value would never get there.
const LINK_BYTES_PER_SECOND_MIN: u64 = 256 << 10;

/// The most that this comes to: more than the largest batch takes.
pub(crate) const ON_THE_WAY_MAX: Duration = Duration::from_secs(30);

/// Room for what an operation takes in a batch beside its key and value.
const ITEM_ROOM: usize = 48;

/// A batch holds up what is less than itself for so long: some exchanges with a node in the same place. After that,
/// others need not wait for whichever operation in it takes so long.
const HOLDS_UP_MAX: Duration = Duration::from_millis(20);

/// How often others go first at most, before a batch leaves: while callers keep coming, more may come each time.
const TURNS_MAX: usize = 8;

/// A node that failed once is asked last for this long; twice as long for each failure in a row.
const SUSPECT_MIN: Duration = Duration::from_millis(250);
const SUSPECT_MAX: Duration = Duration::from_secs(5);

/// What all lanes share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    /// What the cluster was last heard to accept.
    pub(crate) limits: Mutex<Limits>,
    /// The latest version of the map that a node was heard to know.
    pub(crate) epoch: AtomicU64,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) random: Random,
}

/// One copy of a call on its way to one node.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) operation: Operation,
    /// For writes.
    pub(crate) stamp: Option<Stamp>,
    /// For reads.
    pub(crate) consistency: Option<Consistency>,
    pub(crate) deadline: Instant,
    state: AtomicU8,
}

const WAITING: u8 = 0;
const TAKEN: u8 = 1;
const WITHDRAWN: u8 = 2;

impl Attempt {
    pub(crate) fn new(
        operation: Operation,
        stamp: Option<Stamp>,
        consistency: Option<Consistency>,
        deadline: Instant,
    ) -> Self {
        Self { operation, stamp, consistency, deadline, state: AtomicU8::new(WAITING) }
    }

    /// Claims it for a batch; false where its caller has withdrawn it.
    fn take(&self) -> bool {
        self.state.compare_exchange(WAITING, TAKEN, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Sees to it that it is not sent; false where a batch has taken it already, so that it may have been sent.
    pub(crate) fn withdraw(&self) -> bool {
        self.state.compare_exchange(WAITING, WITHDRAWN, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    fn is_withdrawn(&self) -> bool {
        self.state.load(Ordering::Acquire) == WITHDRAWN
    }
}

/// What became of an attempt.
type Verdict = Result<Carried, Fault>;

/// An answer, and by what way.
#[derive(Debug)]
pub(crate) struct Carried {
    pub(crate) answered: Answered,
    /// The node sent something of the batch on to another.
    pub(crate) forwarded: bool,
}

#[derive(Debug)]
struct Waiting {
    attempt: Arc<Attempt>,
    verdict: oneshot::Sender<Verdict>,
}

impl Waiting {
    /// A caller that has gone away needs no answer.
    fn answer(self, verdict: Verdict) {
        drop(self.verdict.send(verdict));
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Lane {
    address: String,
    shared: Arc<Shared>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    waiting: VecDeque<Waiting>,
    /// Driver tasks, at most `batches_per_node`. The last one only ends, under this lock, when nothing waits, and
    /// whoever adds to `waiting` starts one where there is none: so nothing waits without a driver.
    drivers: usize,
    /// Those of them that are about to take a batch.
    gathering: usize,
    /// Operations in those batches on their way that hold others up.
    ahead: usize,
    /// How many operations the node took at once lately, `1..=batch_items_max`: halved when it finds a batch too
    /// large, grown by one with each answer.
    items_max: usize,
    /// Failures in a row.
    failures: u32,
    suspect_until: Option<Instant>,
}

impl Lane {
    pub(crate) fn new(address: String, shared: Arc<Shared>) -> Self {
        let state = State {
            waiting: VecDeque::new(),
            drivers: 0,
            gathering: 0,
            ahead: 0,
            items_max: shared.config.batch_items_max,
            failures: 0,
            suspect_until: None,
        };
        Self { address, shared, state: Mutex::new(state) }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Whether the node failed so lately that others are better asked first.
    pub(crate) fn is_suspect(&self) -> bool {
        lock(&self.state).suspect_until.is_some_and(|until| Instant::now() < until)
    }

    /// Hands an attempt in; what becomes of it comes through the receiver.
    pub(crate) fn submit(self: &Arc<Self>, attempt: Arc<Attempt>) -> oneshot::Receiver<Verdict> {
        let (verdict, receiver) = oneshot::channel();
        let mut state = lock(&self.state);
        if state.waiting.len() >= self.shared.config.in_flight_max {
            state.waiting.retain(|waiting| !waiting.attempt.is_withdrawn());
        }
        state.waiting.push_back(Waiting { attempt, verdict });
        let next = self.next_driver(&mut state);
        drop(state);
        start(next);
        receiver
    }

    /// A driver, where another batch may leave and none is about to. It counts as one from now on.
    #[must_use = "it is to be started, once the lane's lock is let go of"]
    fn next_driver(self: &Arc<Self>, state: &mut State) -> Option<Driver> {
        if !state.may_leave() || state.gathering > 0 || state.drivers >= self.shared.config.batches_per_node {
            return None;
        }
        state.drivers += 1;
        state.gathering += 1;
        Some(Driver { lane: self.clone(), stage: Stage::Gathering })
    }

    /// Asks outside the gathering, without a body.
    pub(crate) async fn get(&self, path: &str, timeout: Duration) -> Result<Response, TransportError> {
        let response = self.exchange(path, None, self.shared.random.request_id(), timeout, || {}).await?;
        self.note(true);
        Ok(response)
    }

    /// `when_slow` is called once if the answer takes longer than [`HOLDS_UP_MAX`]. An exchange that does not take so
    /// long, as nearly all, takes one timer: each wakes the thread that waits for the next.
    async fn exchange(
        &self,
        path: &str,
        body: Option<Bytes>,
        request_id: u128,
        timeout: Duration,
        when_slow: impl FnOnce(),
    ) -> Result<Response, TransportError> {
        let began = Instant::now();
        let request = Request { address: &self.address, path, body, request_id, timeout };
        let mut answer = self.shared.transport.send(request);
        let mut result = tokio::time::timeout_at(began + timeout.min(HOLDS_UP_MAX), &mut answer).await;
        if result.is_err() && timeout > HOLDS_UP_MAX {
            when_slow();
            result = tokio::time::timeout_at(began + timeout, answer).await;
        }
        let result = match result {
            Ok(result) => result,
            Err(_) => Err(TransportError::NoAnswer(format!("timed out after {timeout:?}"))),
        };
        match &result {
            Ok(response) => {
                self.shared.epoch.fetch_max(response.epoch.unwrap_or(0), Ordering::Relaxed);
            }
            Err(error) => {
                tracing::debug!(address = %self.address, %error, "node did not answer");
                self.note(matches!(error, TransportError::TooLarge { .. }));
            }
        }
        result
    }

    /// Remembers whether the node is one to turn to; where it is not, others are asked first for a while. Once for
    /// each message, however many calls it carried: a batch is one failure.
    fn note(&self, serves: bool) {
        let mut state = lock(&self.state);
        if serves {
            (state.failures, state.suspect_until) = (0, None);
        } else {
            let wait = SUSPECT_MIN.saturating_mul(1 << state.failures.min(10)).min(SUSPECT_MAX);
            state.failures = state.failures.saturating_add(1);
            state.suspect_until = Some(Instant::now() + wait);
        }
    }

    /// What leaves next: the oldest that wait, as many as fit one batch; empty where nothing may leave.
    ///
    /// An attempt whose call is past its deadline never leaves, even where nobody has polled that call since: a
    /// server remembers a write only for a time, and deadlines are what keeps retries well within it.
    fn next_batch(&self, state: &mut State) -> Vec<Waiting> {
        let now = Instant::now();
        let mut batch = Batch::new(self.shared.limits().batch_bytes_max, state.items_max);
        if !state.may_leave() {
            return batch.items;
        }
        while let Some(waiting) = state.waiting.pop_front_if(|waiting| batch.fits(&waiting.attempt)) {
            if now < waiting.attempt.deadline && waiting.attempt.take() {
                batch.add(waiting);
            }
        }
        batch.items
    }

    /// `when_slow` as of [`exchange`](Self::exchange).
    async fn carry(&self, batch: Vec<Waiting>, when_slow: impl FnOnce()) {
        let request_id = self.shared.random.request_id();
        let timeout = self.time_for(&batch);
        let body = encode(&batch, request_id, timeout);
        match self.exchange(BATCH_PATH, Some(body), request_id, timeout + ANSWER_GRACE, when_slow).await {
            Ok(response) if response.status == 200 => self.answer(batch, &response, request_id),
            Ok(response) => {
                let fault = Fault::of_refusal(&response);
                self.note(fault.code != Code::Timeout);
                self.refuse(batch, fault, request_id);
            }
            Err(error) => self.refuse(batch, error.into(), request_id),
        }
    }

    /// As long as any of the batch has time left, but no longer than an attempt may take with so much to carry.
    fn time_for(&self, batch: &[Waiting]) -> Duration {
        let now = Instant::now();
        let left = batch.iter().map(|waiting| waiting.attempt.deadline.saturating_duration_since(now)).max();
        let bytes: usize = batch.iter().map(|waiting| waiting.attempt.operation.weight()).sum();
        let on_the_way = Duration::from_millis(bytes as u64 * 1_000 / LINK_BYTES_PER_SECOND_MIN);
        let max = self.shared.config.attempt_timeout + on_the_way.min(ON_THE_WAY_MAX);
        left.unwrap_or_default().clamp(Duration::from_millis(1), max)
    }

    fn answer(&self, batch: Vec<Waiting>, response: &Response, request_id: u128) {
        let forwarded = response.forwarded > 0;
        let answers = match proto::decode::<BatchReply<'_>>(&response.body) {
            Ok(reply) if reply.answers.len() == batch.len() => reply.answers,
            Ok(reply) => {
                let message =
                    format!("answers do not match items: {} to {}", reply.answers.len(), batch.len());
                return self.refuse(batch, Fault::no_answer(message), request_id);
            }
            Err(error) => return self.refuse(batch, Fault::no_answer(error.to_string()), request_id),
        };
        let timed_out = |answer: &Answer<'_>| matches!(answer, Err(error) if error.code == Code::Timeout);
        self.note(!answers.iter().any(timed_out));
        let mut state = lock(&self.state);
        state.items_max = (state.items_max + 1).min(self.shared.config.batch_items_max);
        drop(state);
        for (waiting, answer) in batch.into_iter().zip(answers) {
            let verdict = match answer {
                Ok(reply) => Answered::of(&waiting.attempt.operation, reply)
                    .map(|answered| Carried { answered, forwarded })
                    .ok_or_else(|| Fault::no_answer("answer is of another kind than its operation")),
                Err(error) => Err(Fault::of_answer(error)),
            };
            waiting.answer(verdict.map_err(|fault| Fault { request_id: Some(request_id), ..fault }));
        }
    }

    /// Answers a whole batch with one fault.
    fn refuse(&self, batch: Vec<Waiting>, fault: Fault, request_id: u128) {
        let message = format!("{}: {}", self.address, fault.message);
        let mut fault = Fault { request_id: Some(request_id), message, ..fault };
        if fault.oversize && batch.len() > 1 {
            lock(&self.state).items_max = (batch.len() / 2).max(1);
            fault.retryable = true;
        }
        if fault.node_failed {
            self.hand_back(&fault);
        }
        for waiting in batch {
            waiting.answer(Err(fault.clone()));
        }
    }

    /// Gives back, unsent, what waits behind a batch that the node failed to answer.
    fn hand_back(&self, fault: &Fault) {
        let waiting = std::mem::take(&mut lock(&self.state).waiting);
        for waiting in waiting {
            waiting.answer(Err(Fault::not_sent(format!("not sent behind a failure: {}", fault.message))));
        }
    }
}

impl State {
    /// Whether what waits need not wait for a batch that is on its way.
    fn may_leave(&self) -> bool {
        !self.waiting.is_empty() && self.waiting.len() >= self.ahead
    }
}

/// Sends batch after batch until nothing may leave.
struct Driver {
    lane: Arc<Lane>,
    stage: Stage,
}

/// What a driver does, and counts as.
enum Stage {
    Gathering,
    /// With so many operations that hold others up.
    Carrying {
        ahead: usize,
    },
    Ended,
}

impl Driver {
    async fn run(mut self) {
        loop {
            self.let_others_come().await;
            let Some(batch) = self.take() else { return };
            let lane = self.lane.clone();
            lane.carry(batch, || self.enter(Stage::Carrying { ahead: 0 })).await;
            self.enter(Stage::Gathering);
        }
    }

    /// Lets others go first, once and then for as long as more waits after each turn, as a group's gathering does. The
    /// scheduler has run this task before others that are ready to hand something in, because one has just woken it;
    /// and callers who are answered together come again one by one.
    async fn let_others_come(&self) {
        let waiting = || lock(&self.lane.state).waiting.len();
        let mut before = waiting();
        for _ in 0..TURNS_MAX {
            yield_now().await;
            let now = waiting();
            if now <= before {
                return;
            }
            before = now;
        }
    }

    /// The next batch; `None` ends this driver.
    fn take(&mut self) -> Option<Vec<Waiting>> {
        let lane = self.lane.clone();
        let mut state = lock(&lane.state);
        let batch = lane.next_batch(&mut state);
        let stage = if batch.is_empty() { Stage::Ended } else { Stage::Carrying { ahead: batch.len() } };
        let next = self.move_on(&mut state, stage);
        drop(state);
        start(next);
        (!batch.is_empty()).then_some(batch)
    }

    fn enter(&mut self, stage: Stage) {
        let lane = self.lane.clone();
        let next = self.move_on(&mut lock(&lane.state), stage);
        start(next);
    }

    /// Goes on to `stage`; the driver that may take what is not held up there.
    #[must_use = "it is to be started, once the lane's lock is let go of"]
    fn move_on(&mut self, state: &mut State, stage: Stage) -> Option<Driver> {
        std::mem::replace(&mut self.stage, stage).leave(state);
        match self.stage {
            Stage::Gathering => state.gathering += 1,
            Stage::Carrying { ahead } => state.ahead += ahead,
            Stage::Ended => state.drivers -= 1,
        }
        self.lane.next_driver(state)
    }
}

/// Starts a driver. Not under its lane's lock: a runtime that ends drops it at once, and then it takes that lock.
fn start(driver: Option<Driver>) {
    if let Some(driver) = driver {
        tokio::spawn(driver.run());
    }
}

impl Stage {
    fn leave(self, state: &mut State) {
        match self {
            Self::Gathering => state.gathering -= 1,
            Self::Carrying { ahead } => state.ahead -= ahead,
            Self::Ended => {}
        }
    }
}

/// A driver whose runtime goes away in the middle must not leave its place taken.
impl Drop for Driver {
    fn drop(&mut self) {
        let mut state = lock(&self.lane.state);
        match std::mem::replace(&mut self.stage, Stage::Ended) {
            Stage::Ended => {}
            stage => {
                stage.leave(&mut state);
                state.drivers -= 1;
            }
        }
    }
}

/// A batch as it fills.
struct Batch {
    items: Vec<Waiting>,
    bytes_left: usize,
    items_left: usize,
    /// That of the first read: a batch has one for all its reads.
    consistency: Option<Consistency>,
}

impl Batch {
    fn new(bytes_max: usize, items_max: usize) -> Self {
        Self { items: Vec::new(), bytes_left: bytes_max, items_left: items_max, consistency: None }
    }

    /// Whether `attempt` may join; the first one always may.
    fn fits(&self, attempt: &Attempt) -> bool {
        let mixed = matches!((self.consistency, attempt.consistency), (Some(ours), Some(its)) if ours != its);
        let full = self.items_left == 0 || attempt.operation.weight() > self.bytes_left;
        self.items.is_empty() || !mixed && !full
    }

    fn add(&mut self, waiting: Waiting) {
        self.bytes_left = self.bytes_left.saturating_sub(waiting.attempt.operation.weight());
        self.items_left -= 1;
        self.consistency = self.consistency.or(waiting.attempt.consistency);
        self.items.push(waiting);
    }
}

fn encode(batch: &[Waiting], request_id: u128, timeout: Duration) -> Bytes {
    let items = batch.iter().map(|waiting| {
        let Attempt { operation, stamp, .. } = &*waiting.attempt;
        Item { stamp: *stamp, operation: operation.wire() }
    });
    let request = BatchRequest {
        deadline_ms: u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX).max(1),
        consistency: batch.iter().find_map(|waiting| waiting.attempt.consistency).unwrap_or_default(),
        request_id,
        items: items.collect(),
    };
    let item_bytes = |waiting: &Waiting| waiting.attempt.operation.wire().payload_bytes() + ITEM_ROOM;
    let mut bytes = Vec::with_capacity(batch.iter().map(item_bytes).sum::<usize>() + ITEM_ROOM);
    proto::encode_into(&request, &mut bytes);
    Bytes::from(bytes)
}

impl Shared {
    /// The longest that one answer of a node is waited for.
    pub(crate) fn answer_timeout(&self) -> Duration {
        self.config.attempt_timeout + ANSWER_GRACE
    }

    pub(crate) fn limits(&self) -> Limits {
        *lock(&self.limits)
    }

    /// Refuses what the cluster would not take, as far as is known. Limits bind what adds: they may have been
    /// higher once, and what was written then is still read, deleted and listed past.
    pub(crate) fn check(&self, operation: &Operation) -> Result<(), Error> {
        let (Kind::Put { key, value, .. } | Kind::Append { key, value, .. }) = &operation.0 else {
            return Ok(());
        };
        let (limits, key, value) = (self.limits(), key.len(), value.len());
        if key > limits.key_bytes_max {
            let message = format!("key is longer than {} bytes: {key}", limits.key_bytes_max);
            return Err(Error::rejected(Code::KeyTooLarge, message));
        }
        if value > limits.value_bytes_max {
            let message = format!("value is longer than {} bytes: {value}", limits.value_bytes_max);
            return Err(Error::rejected(Code::ValueTooLarge, message));
        }
        if key + value > limits.batch_bytes_max {
            let message =
                format!("operation is longer than {} bytes: {}", limits.batch_bytes_max, key + value);
            return Err(Error::rejected(Code::BatchTooLarge, message));
        }
        Ok(())
    }
}
