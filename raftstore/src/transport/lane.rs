//! A lane: the one connection to a peer for one kind of traffic, made on demand and made again when it fails.
//!
//! Owns the connection and the pace of attempts to make it. Every attempt that failed, and every connection that
//! ended before it carried an answer, is followed by a pause that doubles up to a bound, with jitter; so a peer
//! that is gone costs a few attempts a second, and one that is back is found within
//! [`TransportConfig::reconnect_ms_max`].
//!
//! A peer can vanish without a word (power, partition). While an answer is due, half a silence timeout without a
//! byte makes the lane ask with a ping, and a whole one makes it give the connection up: TCP alone would wait for
//! minutes, and after a partition heals it may pause as long again as it was cut.

use super::addresses::Addresses;
use super::batch;
use super::config::TransportConfig;
use super::frame::{Frame, FrameError, FrameReader, HEADER, Kind};
use super::handshake::{self, GreetError, HELLO_BYTES_MAX, Hello};
use super::queue::Queue;
use super::stats::{Counters, add};
use crate::network::{Network, Stream};
use proto::{GroupId, NodeId};
use rand::RngExt;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{ReadHalf, WriteHalf};
use tokio::task::JoinHandle;

/// Failures that a lane remembers in order to log each once.
const TOLD_MAX: usize = 16;

/// What a connection is for; what queues on one lane never delays another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LaneKind {
    /// Appends and votes, in order.
    Entries = 1,
    /// Heartbeats and the confirmations that reads wait for.
    Heartbeat = 2,
    /// Snapshots.
    Bulk = 3,
    /// Calls between front ends.
    Request = 4,
}

impl LaneKind {
    pub(crate) const ALL: [Self; 4] = [Self::Entries, Self::Heartbeat, Self::Bulk, Self::Request];

    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|lane| *lane as u8 == byte)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Entries => "entries",
            Self::Heartbeat => "heartbeat",
            Self::Bulk => "bulk",
            Self::Request => "request",
        }
    }

    /// The largest frame of the lane, in either direction.
    pub(crate) fn frame_bytes_max(self, config: &TransportConfig) -> usize {
        match self {
            Self::Entries | Self::Bulk => config.frame_bytes_max,
            Self::Heartbeat => config.heartbeat_frame_bytes_max,
            Self::Request => config.request_frame_bytes_max,
        }
    }
}

/// What all lanes of a node share.
#[derive(Clone, Debug)]
pub(crate) struct Local {
    pub(crate) node: NodeId,
    pub(crate) cluster: String,
    pub(crate) network: Arc<dyn Network>,
    pub(crate) config: Arc<TransportConfig>,
    pub(crate) addresses: Arc<Addresses>,
    pub(crate) counters: Arc<Counters>,
    /// The next id of a call or stream; from 1.
    pub(crate) ids: Arc<AtomicU64>,
}

/// Keeps a lane's task; the task ends with it.
pub(crate) struct Lane {
    pub(crate) queue: Arc<Queue>,
    task: JoinHandle<()>,
}

impl Lane {
    pub(crate) fn start(local: Arc<Local>, kind: LaneKind, peer: NodeId) -> Self {
        let name = format!("{peer} {}", kind.name());
        let queue = Queue::new(kind, name, &local.config, local.counters.clone(), local.ids.clone());
        let queue = Arc::new(queue);
        let driver = Driver { local, peer, queue: queue.clone(), reached: false, told: BTreeMap::new() };
        Self { queue, task: tokio::spawn(driver.run()) }
    }

    /// Fails whatever waits and ends the task.
    pub(crate) async fn shut_down(mut self) {
        self.queue.close();
        self.task.abort();
        if let Err(error) = (&mut self.task).await
            && error.is_panic()
        {
            tracing::error!(lane = %self.queue.name, "lane's task panicked: {error}");
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.queue.close();
        self.task.abort();
    }
}

/// The pauses between attempts.
struct Pause {
    min_ms: u64,
    max_ms: u64,
    next_ms: u64,
}

impl Pause {
    fn new(config: &TransportConfig) -> Self {
        Self {
            min_ms: config.reconnect_ms_min,
            max_ms: config.reconnect_ms_max,
            next_ms: config.reconnect_ms_min,
        }
    }

    /// Between half of the present pause and all of it; the next is twice as long.
    fn draw(&mut self) -> Duration {
        let ms = self.next_ms;
        self.next_ms = (ms * 2).min(self.max_ms);
        Duration::from_micros(crate::random().random_range(ms * 500..=ms * 1_000))
    }

    fn reset(&mut self) {
        self.next_ms = self.min_ms;
    }
}

struct Driver {
    local: Arc<Local>,
    peer: NodeId,
    queue: Arc<Queue>,
    /// Whether the peer was ever reached.
    reached: bool,
    /// The failures that were logged since it was reached last, by address, so that the same one is logged once.
    told: BTreeMap<String, String>,
}

impl Driver {
    async fn run(mut self) {
        let mut pause = Pause::new(&self.local.config);
        loop {
            while !self.queue.has_frames() {
                self.queue.wake.notified().await;
            }
            let address = self.local.addresses.likeliest(self.peer);
            match self.connect(&address).await {
                Ok(connection) => {
                    self.connected(&address);
                    let (reason, answered) = self.serve(connection).await;
                    self.queue.disconnected(&reason);
                    if answered {
                        pause.reset();
                        continue;
                    }
                }
                Err(error) => self.failed(address, &error),
            }
            tokio::time::sleep(pause.draw()).await;
        }
    }

    fn connected(&mut self, address: &str) {
        add(&self.queue.lane_counters().connects, 1);
        self.queue.connected();
        self.reached = true;
        if !std::mem::take(&mut self.told).is_empty() {
            tracing::info!(node = %self.local.node, lane = %self.queue.name, %address, "peer is reached");
        }
    }

    fn failed(&mut self, address: String, error: &GreetError) {
        add(&self.queue.lane_counters().connect_failures, 1);
        let reason = error.to_string();
        self.queue.unreachable(&reason);
        self.local.addresses.failed(self.peer, &address);
        if self.told.get(&address) == Some(&reason) {
            return;
        }
        let (node, lane) = (self.local.node, &self.queue.name);
        match error {
            // Nodes are started one after another.
            GreetError::Unreached(_) if !self.reached => {
                tracing::info!(%node, %lane, %address, "peer is not reached yet: {reason}");
            }
            GreetError::Unreached(_) | GreetError::Refused(_) => {
                tracing::warn!(%node, %lane, %address, "peer is unreachable: {reason}");
            }
        }
        if self.told.len() >= TOLD_MAX {
            self.told.clear();
        }
        self.told.insert(address, reason);
    }

    async fn connect(&self, address: &str) -> Result<Connection, GreetError> {
        let attempt = async {
            let stream = self.local.network.connect(address).await;
            let stream = stream.map_err(|error| GreetError::Unreached(error.to_string()))?;
            let (from, mut into) = tokio::io::split(stream);
            let mut reader = FrameReader::new(from, HELLO_BYTES_MAX);
            let hello = Hello::of(&self.local, self.queue.kind, self.peer);
            handshake::greet(&hello, &mut reader, &mut into).await?;
            reader.set_bytes_max(self.queue.kind.frame_bytes_max(&self.local.config));
            Ok(Connection { reader, writer: into })
        };
        let timeout = self.local.config.connect_timeout();
        match tokio::time::timeout(timeout, attempt).await {
            Ok(result) => result,
            Err(_) => Err(GreetError::Unreached(format!("no connection within {} ms", timeout.as_millis()))),
        }
    }

    /// Uses the connection until it ends; says why it did, and whether it ever carried an answer.
    async fn serve(&self, connection: Connection) -> (String, bool) {
        let Connection { mut reader, mut writer } = connection;
        let received = reader.received();
        let answered = AtomicBool::new(false);
        let write_bytes = self.local.config.write_bytes;
        let queue = &self.queue;
        let write =
            batch::write_all(&mut writer, &queue.wake, queue.lane_counters(), write_bytes, |b| queue.take(b));
        let reason = tokio::select! {
            biased;
            error = write => format!("connection lost: {error}"),
            reason = read(&mut reader, queue, &answered) => reason,
            reason = watch(&self.local.config, queue, &received) => reason,
        };
        add(&queue.lane_counters().connections_lost, 1);
        tracing::debug!(node = %self.local.node, lane = %queue.name, "{reason}");
        (reason, answered.into_inner())
    }
}

struct Connection {
    reader: FrameReader<ReadHalf<Box<dyn Stream>>>,
    writer: WriteHalf<Box<dyn Stream>>,
}

/// Hands out answers until the connection ends.
async fn read(
    reader: &mut FrameReader<ReadHalf<Box<dyn Stream>>>,
    queue: &Queue,
    answered: &AtomicBool,
) -> String {
    loop {
        let frame = match reader.next().await {
            Ok(Some(frame)) => frame,
            Ok(None) => return "connection closed by the peer".to_owned(),
            Err(error @ FrameError::Io(_)) => return error.to_string(),
            Err(error) => {
                tracing::warn!(lane = %queue.name, "peer sent bad bytes: {error}");
                return error.to_string();
            }
        };
        let counters = queue.lane_counters();
        add(&counters.frames_received, 1);
        add(&counters.bytes_received, (HEADER + frame.payload.len()) as u64);
        if frame.kind == Kind::Pong {
            continue;
        }
        if let Err(why) = accept(queue, frame, answered) {
            tracing::warn!(lane = %queue.name, "{why}");
            return why.to_owned();
        }
    }
}

fn accept(queue: &Queue, frame: Frame, answered: &AtomicBool) -> Result<(), &'static str> {
    answered.store(true, Ordering::Relaxed);
    queue.deliver(frame)
}

/// Ends when the peer has been silent for too long although an answer is due, or when nothing has happened for
/// the idle timeout.
async fn watch(config: &TransportConfig, queue: &Queue, received: &AtomicU64) -> String {
    let tick = config.silence_timeout() / 4;
    let (mut heard, mut silent, mut idle) = (0, 0_u32, Duration::ZERO);
    loop {
        tokio::time::sleep(tick).await;
        let before = std::mem::replace(&mut heard, received.load(Ordering::Relaxed));
        let due = queue.awaits_answer();
        idle = if due || heard != before || queue.has_frames() { Duration::ZERO } else { idle + tick };
        silent = if due && heard == before { silent + 1 } else { 0 };
        if idle >= config.idle_timeout() {
            return "connection was idle".to_owned();
        }
        match silent {
            2 => queue.control(Kind::Ping, GroupId(0), 0),
            4.. => return format!("peer was silent for {} ms", config.silence_timeout_ms),
            _ => {}
        }
    }
}
