//! Accepts connections, greets, and keeps at most one for each peer and lane.
//!
//! A peer that connects again has given up the connection before, whatever this side still believes of it: the
//! newer one takes its place, so that what was in flight on the older is not carried out beside it for longer than
//! it takes to notice.

use super::frame::FrameReader;
use super::handshake::{self, ANYBODY, HELLO_BYTES_MAX, Hello, Unwelcome};
use super::inbound::Inbound;
use super::lane::{LaneKind, Local};
use super::receive::Session;
use super::stats::add;
use crate::network::{Listener, Stream};
use bytes::Bytes;
use proto::NodeId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncWriteExt, WriteHalf};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};

/// The pause after an accept that failed, which is mostly for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Refusals that are remembered in order to log each once.
const TOLD_MAX: usize = 64;

/// A listening transport. Dropping it ends all it accepted.
pub(crate) struct Server {
    address: String,
    stop: Mutex<Option<oneshot::Sender<()>>>,
    task: tokio::sync::Mutex<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(local: Arc<Local>, listener: Box<dyn Listener>, inbound: Arc<dyn Inbound>) -> Self {
        let (stop, stopped) = oneshot::channel();
        let address = listener.local_address().to_owned();
        let shared = Arc::new(Shared { local, inbound, registry: Mutex::default() });
        let task = tokio::spawn(accept(shared, listener, stopped));
        Self { address, stop: Mutex::new(Some(stop)), task: tokio::sync::Mutex::new(task) }
    }

    /// Where this listens, with the port that was taken for port 0.
    pub(crate) fn local_address(&self) -> &str {
        &self.address
    }

    /// Ends the listening and every connection, and waits until their tasks are gone. What was being carried out
    /// is dropped.
    pub(crate) async fn shutdown(&self) {
        let mut task = self.task.lock().await;
        // Dropping the sender stops the task.
        drop(self.stop.lock().unwrap_or_else(PoisonError::into_inner).take());
        if !task.is_finished()
            && let Err(error) = (&mut *task).await
            && error.is_panic()
        {
            tracing::error!("accepting task panicked: {error}");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.get_mut().abort();
    }
}

#[derive(Default)]
struct Registry {
    /// Ends the connection when it is dropped; the serial tells a connection from its successor.
    connections: BTreeMap<(NodeId, LaneKind), (u64, oneshot::Sender<()>)>,
    serial: u64,
    /// Refusals that were logged.
    told: BTreeSet<Unwelcome>,
}

struct Shared {
    local: Arc<Local>,
    inbound: Arc<dyn Inbound>,
    registry: Mutex<Registry>,
}

async fn accept(shared: Arc<Shared>, mut listener: Box<dyn Listener>, mut stopped: oneshot::Receiver<()>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            _ = &mut stopped => break,
            Some(done) = connections.join_next() => report(done),
            accepted = listener.accept() => match accepted {
                Ok((stream, name)) if connections.len() < shared.local.config.connections_max => {
                    connections.spawn(shared.clone().greet(stream, name));
                }
                Ok((_, name)) => shared.tell(&name, Unwelcome::Busy("too many connections".into())),
                Err(error) => {
                    tracing::warn!(node = %shared.local.node, "cannot accept: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
    drop(listener);
    connections.shutdown().await;
}

fn report(done: Result<(), tokio::task::JoinError>) {
    if let Err(error) = done {
        tracing::error!("connection's task panicked: {error}");
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logs a refusal, the same one once.
    fn tell(&self, name: &str, why: Unwelcome) {
        let mut registry = self.lock();
        if registry.told.contains(&why) {
            return;
        }
        if registry.told.len() >= TOLD_MAX {
            registry.told.clear();
        }
        tracing::warn!(node = %self.local.node, peer = name, "connection refused: {why}");
        registry.told.insert(why);
    }

    async fn greet(self: Arc<Self>, stream: Box<dyn Stream>, name: String) {
        let (from, mut into) = tokio::io::split(stream);
        let mut reader = FrameReader::new(from, HELLO_BYTES_MAX);
        let (local, timeout) = (&self.local, self.local.config.connect_timeout());
        let hello = handshake::receive(&mut reader, local.node, &local.cluster);
        let greeted = tokio::time::timeout(timeout, hello).await;
        let greeted = greeted.unwrap_or_else(|_| Err(Unwelcome::Malformed("no hello in time".into())));
        match greeted {
            Ok(hello) => {
                let welcome = say(&mut into, handshake::welcome(local.node), timeout).await;
                local.addresses.heard(hello.from, &hello.at);
                // Whoever only asks who is here is told, and takes no place of a lane's connection.
                if welcome && hello.to != ANYBODY {
                    reader.set_bytes_max(hello.lane.frame_bytes_max(&local.config));
                    self.serve(&hello, reader, into).await;
                }
            }
            Err(why) => {
                // The peer may be gone; whether it hears the reason changes nothing here.
                if !say(&mut into, handshake::refuse(&why), timeout).await {
                    tracing::debug!(node = %local.node, peer = %name, "refusal was not heard");
                }
                self.tell(&name, why);
            }
        }
    }

    async fn serve(
        &self,
        hello: &Hello,
        reader: FrameReader<tokio::io::ReadHalf<Box<dyn Stream>>>,
        writer: WriteHalf<Box<dyn Stream>>,
    ) {
        let (from, lane) = (hello.from, hello.lane);
        add(&self.local.counters.lane(lane).accepted, 1);
        let (serial, superseded) = self.register(from, lane);
        let session = Session::new(self.local.clone(), self.inbound.clone(), from, lane);
        let reason = tokio::select! {
            biased;
            _ = superseded => "peer connected again".to_owned(),
            reason = session.run(reader, writer) => reason,
        };
        tracing::debug!(node = %self.local.node, peer = %from, lane = lane.name(), "connection ended: {reason}");
        let mut registry = self.lock();
        if registry.connections.get(&(from, lane)).is_some_and(|(present, _)| *present == serial) {
            registry.connections.remove(&(from, lane));
        }
    }

    fn register(&self, from: NodeId, lane: LaneKind) -> (u64, oneshot::Receiver<()>) {
        let (alive, superseded) = oneshot::channel();
        let mut registry = self.lock();
        registry.serial += 1;
        let serial = registry.serial;
        registry.connections.insert((from, lane), (serial, alive));
        (serial, superseded)
    }
}

/// Writes a lone frame; whether that succeeded.
async fn say(into: &mut WriteHalf<Box<dyn Stream>>, bytes: Bytes, timeout: Duration) -> bool {
    let write = async {
        into.write_all(&bytes).await?;
        into.flush().await
    };
    matches!(tokio::time::timeout(timeout, write).await, Ok(Ok(())))
}
