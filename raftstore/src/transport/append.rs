//! The sending side of a replication stream: requests leave as they come, answers are matched in order.
//!
//! openraft keeps no bound on what it has in flight, so the bounds are here: a request leaves only when it fits
//! the window that all groups share towards the peer, the stream's own share of it, and the stream's count. What
//! does not fit waits unread in the log: one request at most is held back beside the window.
//!
//! Answers are awaited inside the returned stream and never before it is returned, because only there does
//! openraft notice that the replication was cancelled.
//!
//! openraft purges nothing that a stream may still have to read, and a stream has no end: a follower that is slow
//! but answers would hold its leader's log for ever. So the stream of a follower that is left below the group's
//! [`LogFloor`] ends with an error; then openraft purges, and goes on with the snapshot.
//!
//! A request without entries, a **notice**, only says how far the leader has committed. It waits a little for the next
//! request, which says it as well.
//!
//! openraft takes an answer that names an index for one to every request up to it, so an answer to entries for one to
//! a notice that it made since, and the time at which it made that for one at which the follower followed this leader:
//! by which it confirms reads. So whatever it makes while answers are due is dated back to the oldest request that
//! waits for one.

use super::batch::Hold;
use super::config::TransportConfig;
use super::frame::{Frame, Kind, encode};
use super::message::{APPEND_OVERHEAD, AppendHead, put_append, take_appended};
use super::queue::{Answer, Failure, Queue, StreamCall};
use super::raft_client::{rpc_error, rpc_refusal};
use crate::codec::ENTRY_OVERHEAD;
use crate::mutation::{Mutation, is_on};
use crate::runtime::as_of;
use crate::types::{AppendEntriesRequest, Entry, Payload, StreamAppendResult, TypeConfig};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, Stream, StreamExt};
use openraft::errors::{NetworkError, RPCError};
use proto::GroupId;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::iter::Peekable;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, Sleep};

/// How long a notice waits for a request that holds entries: followers, and who reads there, learn of a lone commit that
/// much later.
const NOTICE_WAIT: Duration = Duration::from_millis(2);

pub(crate) type AppendItem = Result<StreamAppendResult, RPCError<TypeConfig>>;

/// What a stream needs beside its requests.
#[derive(Clone)]
pub(crate) struct Appender {
    pub(crate) queue: Arc<Queue>,
    pub(crate) group: GroupId,
    pub(crate) config: Arc<TransportConfig>,
    /// Room for bytes under way to the peer, shared by all groups.
    pub(crate) window: Arc<Semaphore>,
    pub(crate) floor: LogFloor,
}

/// The index below which followers of one group are no longer served from this node's log.
#[derive(Clone, Debug, Default)]
pub(crate) struct LogFloor(Arc<watch::Sender<u64>>);

impl LogFloor {
    /// Ends the streams that are open to followers below `index`. Those that open later are not refused: openraft
    /// knows by then what was purged.
    pub(crate) fn raise(&self, index: u64) {
        self.0.send_replace(index);
    }
}

/// A request on its way out, cut into frames of bounded size.
struct Parts {
    head: AppendHead,
    entries: Peekable<std::vec::IntoIter<Entry>>,
    /// Whether the first part is still to be sent: it goes even where there are no entries.
    first: bool,
}

impl Parts {
    fn new(request: AppendEntriesRequest) -> Self {
        Self { head: AppendHead::of(&request), entries: request.entries.into_iter().peekable(), first: true }
    }

    /// The next part's head and entries: as many as stay within `bytes_max`, at least one.
    fn next(&mut self, bytes_max: usize) -> Option<(AppendHead, Vec<Entry>, usize)> {
        if !std::mem::take(&mut self.first) && self.entries.peek().is_none() {
            return None;
        }
        let head = self.head.clone();
        let mut taken = Vec::new();
        let mut bytes = APPEND_OVERHEAD;
        while let Some(entry) =
            self.entries.next_if(|entry| taken.is_empty() || bytes + size(entry) <= bytes_max)
        {
            bytes += size(&entry);
            self.head.prev_log_id = Some(entry.log_id);
            taken.push(entry);
        }
        Some((head, taken, bytes))
    }
}

/// About the bytes of an entry; exact for data, which is all that is ever large.
fn size(entry: &Entry) -> usize {
    ENTRY_OVERHEAD
        + match &entry.payload {
            Payload::Blank => 0,
            Payload::Normal(data) => data.0.len(),
            Payload::Membership(membership) => membership
                .nodes()
                .map(|(_, node)| 56 + node.address.peer.len() + node.address.http.len())
                .sum(),
        }
}

/// A frame that waits for room in the window.
struct Ready {
    bytes: Bytes,
    room: BoxFuture<'static, Hold>,
}

/// A request under way.
struct InFlight {
    bytes: usize,
    /// When openraft made it.
    made: Instant,
    /// Given back when the answer is there, or when the stream ends.
    _hold: Hold,
}

/// The state of one stream. Sequences count its frames from 0.
struct AppendStream<S> {
    appender: Appender,
    call: StreamCall,
    /// `None` once it has ended.
    input: Option<S>,
    parts: Option<Parts>,
    /// When openraft made the request that these are of.
    made: Instant,
    /// A notice that waits for another request to take its place; then there are no parts.
    waiting: Option<AppendEntriesRequest>,
    /// When it has waited long enough.
    waited: Pin<Box<Sleep>>,
    ready: Option<Ready>,
    in_flight: VecDeque<InFlight>,
    in_flight_bytes: usize,
    next_sequence: u64,
    next_answer: u64,
    floor: watch::Receiver<u64>,
    /// The last index that the follower is known to have; `None` before the first request.
    matched: Option<u64>,
    /// How long the stream may go without an answer while one is due.
    patience: Duration,
    /// When an answer last came, or began to be due.
    progress: Instant,
    /// Fires at or before `progress + patience`; moved on only when it does.
    alarm: Pin<Box<Sleep>>,
}

/// The answers to `input`'s requests. Ends after an answer that is not a success, an error, or the input's end.
pub(crate) fn stream<'s, S>(
    appender: Appender,
    input: S,
    patience: Duration,
) -> Result<Pin<Box<dyn Stream<Item = AppendItem> + Send + 's>>, RPCError<TypeConfig>>
where
    S: Stream<Item = AppendEntriesRequest> + Send + Unpin + 'static,
{
    let call = appender.queue.stream(appender.group).map_err(|failure| rpc_error(&failure))?;
    let patience = patience.max(appender.config.progress_timeout());
    let state = AppendStream {
        floor: appender.floor.0.subscribe(),
        matched: None,
        appender,
        call,
        input: Some(input),
        parts: None,
        made: Instant::now(),
        waiting: None,
        waited: Box::pin(tokio::time::sleep(Duration::ZERO)),
        ready: None,
        in_flight: VecDeque::new(),
        in_flight_bytes: 0,
        next_sequence: 0,
        next_answer: 0,
        patience,
        progress: Instant::now(),
        alarm: Box::pin(tokio::time::sleep(patience)),
    };
    let answers = futures_util::stream::unfold(Some(state), |state| async move {
        let mut state = state?;
        let item = state.next().await?;
        let goes_on = matches!(item, Ok(Ok(_)));
        Some((item, goes_on.then_some(state)))
    });
    Ok(Box::pin(answers))
}

impl<S: Stream<Item = AppendEntriesRequest> + Send + Unpin> AppendStream<S> {
    /// Sends what may be sent until there is an answer; `None` when all is sent and answered.
    async fn next(&mut self) -> Option<AppendItem> {
        loop {
            if self.input.is_none() {
                self.wait_no_longer();
            }
            if let Err(error) = self.prepare() {
                return Some(Err(error));
            }
            let reads = self.input.is_some() && self.ready.is_none() && self.may_send();
            let due = !self.in_flight.is_empty();
            let oldest = self.in_flight.front().map(|oldest| oldest.made);
            let oldest = oldest.filter(|_| !is_on(Mutation::BelieveOldAnswers));
            if self.input.is_none() && self.ready.is_none() && !due {
                return None;
            }
            tokio::select! {
                biased;
                answer = self.call.answer(), if due => return Some(self.answered(answer)),
                hold = room(&mut self.ready), if self.ready.is_some() => {
                    if let Err(error) = self.send(hold) {
                        return Some(Err(error));
                    }
                }
                request = next_request(&mut self.input, oldest), if reads => {
                    request.into_iter().for_each(|request| self.begin(request));
                }
                () = &mut self.waited, if self.waiting.is_some() => self.wait_no_longer(),
                Ok(()) = self.floor.changed() => {
                    if let Some(end) = self.below_floor() {
                        return Some(end);
                    }
                }
                () = &mut self.alarm, if due => {
                    if let Some(failure) = self.alarmed() {
                        return Some(Err(rpc_error(&failure)));
                    }
                }
            }
        }
    }

    fn begin(&mut self, request: AppendEntriesRequest) {
        self.matched.get_or_insert(request.prev_log_id.map_or(0, |prev| prev.index()));
        self.made = Instant::now();
        if !request.entries.is_empty() {
            self.waiting = None;
            self.parts = Some(Parts::new(request));
        } else if self.waiting.replace(request).is_none() {
            self.waited.as_mut().reset(self.made + NOTICE_WAIT);
        }
    }

    fn wait_no_longer(&mut self) {
        if let Some(notice) = self.waiting.take() {
            self.parts = Some(Parts::new(notice));
        }
    }

    /// The error to end with, where the floor was raised above the follower.
    fn below_floor(&mut self) -> Option<AppendItem> {
        let floor = *self.floor.borrow_and_update();
        let matched = self.matched.filter(|&matched| matched < floor)?;
        let group = self.appender.group;
        tracing::info!(%group, matched, floor, "a follower is too slow for the log: it is to be sent a snapshot");
        Some(Err(rpc_refusal(format!(
            "the log is purged up to {floor}, the follower has it up to {matched}"
        ))))
    }

    fn may_send(&self) -> bool {
        self.in_flight.len() < self.appender.config.stream_requests_max
            && self.in_flight_bytes < self.appender.config.stream_window_bytes
    }

    /// Encodes the next part, where there is one and the stream has room for it.
    fn prepare(&mut self) -> Result<(), RPCError<TypeConfig>> {
        if self.ready.is_some() || !self.may_send() {
            return Ok(());
        }
        let config = &self.appender.config;
        let Some((head, entries, capacity)) =
            self.parts.as_mut().and_then(|parts| parts.next(config.append_bytes))
        else {
            self.parts = None;
            return Ok(());
        };
        let put = |into: &mut Vec<u8>| put_append(into, self.next_sequence, &head, &entries);
        let bytes = encode(Kind::Append, self.appender.group, self.call.id(), capacity, put);
        if bytes.len() > config.frame_bytes_max {
            let (group, size, max) = (self.appender.group, bytes.len(), config.frame_bytes_max);
            tracing::error!(%group, "an entry is too large for a frame: {size} bytes, at most {max}");
            return Err(rpc_refusal(format!("entry is too large for a frame: {size} bytes, at most {max}")));
        }
        let permits = u32::try_from(bytes.len().min(config.window_bytes)).unwrap_or(u32::MAX);
        let room = acquire(self.appender.window.clone(), permits).boxed();
        self.ready = Some(Ready { bytes, room });
        Ok(())
    }

    fn send(&mut self, hold: Hold) -> Result<(), RPCError<TypeConfig>> {
        let Some(Ready { bytes, .. }) = self.ready.take() else { return Ok(()) };
        if self.in_flight.is_empty() {
            self.progress = Instant::now();
        }
        let length = bytes.len();
        self.call.send(Kind::Append, bytes, Some(hold.clone())).map_err(|failure| rpc_error(&failure))?;
        self.in_flight.push_back(InFlight { bytes: length, made: self.made, _hold: hold });
        self.in_flight_bytes += length;
        self.next_sequence += 1;
        Ok(())
    }

    fn answered(&mut self, answer: Answer) -> AppendItem {
        let frame = answer.map_err(|failure| rpc_error(&failure))?;
        let outcome = self.outcome(frame)?;
        if let Ok(Some(matched)) = &outcome {
            self.matched = self.matched.max(Some(matched.index()));
        }
        if let Some(sent) = self.in_flight.pop_front() {
            self.in_flight_bytes -= sent.bytes;
        }
        self.next_answer += 1;
        self.progress = Instant::now();
        Ok(outcome)
    }

    fn outcome(&self, Frame { kind, payload, .. }: Frame) -> AppendItem {
        if kind != Kind::Appended {
            return Err(rpc_refusal(super::raft_client::reason(payload)));
        }
        let wrong = |why: String| RPCError::Network(NetworkError::from_string(why));
        let (sequence, outcome) = take_appended(payload).map_err(|error| wrong(error.to_string()))?;
        if sequence != self.next_answer {
            return Err(wrong(format!("answer {sequence} came where {} was due", self.next_answer)));
        }
        Ok(outcome)
    }

    /// The failure to end with, unless there was progress since the alarm was set.
    fn alarmed(&mut self) -> Option<Failure> {
        let deadline = self.progress + self.patience;
        if Instant::now() >= deadline {
            return Some(self.call.give_up(self.patience));
        }
        self.alarm.as_mut().reset(deadline);
        None
    }
}

async fn acquire(window: Arc<Semaphore>, permits: u32) -> Hold {
    let permit: OwnedSemaphorePermit =
        window.acquire_many_owned(permits).await.expect("the window is never closed");
    Arc::new(permit)
}

async fn room(ready: &mut Option<Ready>) -> Hold {
    match ready {
        Some(ready) => (&mut ready.room).await,
        None => std::future::pending().await,
    }
}

/// The next request, which openraft takes for made at `date` where there is one; closes the input at its end.
async fn next_request<S>(input: &mut Option<S>, date: Option<Instant>) -> Option<AppendEntriesRequest>
where
    S: Stream<Item = AppendEntriesRequest> + Unpin,
{
    let request = match input {
        Some(stream) => {
            poll_fn(|cx| match date {
                Some(date) => as_of(date, || stream.poll_next_unpin(cx)),
                None => stream.poll_next_unpin(cx),
            })
            .await
        }
        None => std::future::pending().await,
    };
    if request.is_none() {
        *input = None;
    }
    request
}
