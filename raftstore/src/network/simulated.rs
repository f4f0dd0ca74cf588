//! A network in memory: named hosts, and links between them that delay, cut and break.
//!
//! Under tokio's paused clock and [`crate::seed`] it is deterministic on one thread. A link has a direction. A cut
//! link loses bytes without a word, as a partition does: connections that lost any hang until the link is healed,
//! and are reset then, for their bytes have a gap. New connections over a cut link hang too.

use super::pipe::{Fate, Pipe};
use super::{Listener, Network, Stream};
use futures_util::future::BoxFuture;
use rand::RngExt;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::Sleep;

/// Connections that wait to be accepted; more are refused.
const BACKLOG: usize = 128;

/// How a link treats what is sent over it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Link {
    /// The shortest time on the way.
    pub delay_min: Duration,
    /// The longest; each write draws its own, and none overtakes another.
    pub delay_max: Duration,
    /// How likely each write is to break its connection instead, from 0 to 1.
    pub reset_probability: f64,
    /// How fast each connection carries bytes; `None` for at once.
    pub bytes_per_second: Option<u64>,
}

/// What went over a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCounters {
    /// Connections made from the first host to the second.
    pub connections: u64,
    /// Writes.
    pub writes: u64,
    /// Bytes written, lost ones included.
    pub bytes: u64,
    /// Bytes that vanished.
    pub bytes_lost: u64,
}

/// Sees every write: from, to, bytes.
pub type Observer = Arc<dyn Fn(&str, &str, &[u8]) + Send + Sync>;

type Direction = (String, String);

struct Accepted {
    stream: SimulatedStream,
    name: String,
}

/// Both directions of a connection, kept for cuts and resets as long as an end lives.
struct Connection {
    ends: Direction,
    there: Arc<Pipe>,
    back: Arc<Pipe>,
}

#[derive(Default)]
struct State {
    listeners: BTreeMap<String, mpsc::Sender<Accepted>>,
    next_port: u16,
    default_link: Link,
    links: BTreeMap<Direction, Link>,
    cut: BTreeSet<Direction>,
    counters: BTreeMap<Direction, LinkCounters>,
    connections: Vec<Weak<Connection>>,
    observer: Option<Observer>,
}

impl State {
    fn link(&self, direction: &Direction) -> Link {
        self.links.get(direction).copied().unwrap_or(self.default_link)
    }

    fn counters(&mut self, direction: &Direction) -> &mut LinkCounters {
        self.counters.entry(direction.clone()).or_default()
    }

    fn fate(&self, direction: &Direction) -> Fate {
        if self.cut.contains(direction) {
            return Fate::Vanishes;
        }
        let link = self.link(direction);
        let (min, max) = (link.delay_min, link.delay_max.max(link.delay_min));
        let delay = if min == max { min } else { crate::random().random_range(min..=max) };
        Fate::Arrives { delay, bytes_per_second: link.bytes_per_second }
    }

    fn connections(&mut self) -> Vec<Arc<Connection>> {
        self.connections.retain(|connection| connection.strong_count() > 0);
        self.connections.iter().filter_map(Weak::upgrade).collect()
    }
}

/// The network; clones are the same one.
#[derive(Clone, Default)]
pub struct SimulatedNetwork {
    state: Arc<Mutex<State>>,
}

impl fmt::Debug for SimulatedNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("SimulatedNetwork")
            .field("counters", &state.counters)
            .field("cut", &state.cut)
            .finish()
    }
}

fn direction(from: &str, to: &str) -> Direction {
    (from.to_owned(), to.to_owned())
}

impl SimulatedNetwork {
    /// A network whose links carry everything at once.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The network as the host `name` has it. It can listen on its own name only.
    pub fn host(&self, name: &str) -> Arc<dyn Network> {
        Arc::new(Host { name: name.to_owned(), network: self.clone() })
    }

    /// Sets how links behave that are not set by themselves.
    pub fn set_default_link(&self, link: Link) {
        self.lock().default_link = link;
    }

    /// Sets how one link behaves from now on.
    pub fn set_link(&self, from: &str, to: &str, link: Link) {
        self.lock().links.insert(direction(from, to), link);
    }

    /// Makes bytes from one host to another vanish, not those that come back.
    pub fn cut(&self, from: &str, to: &str) {
        self.lock().cut.insert(direction(from, to));
    }

    /// Cuts all links between the hosts of two sides, both ways.
    pub fn partition(&self, side: &[&str], other: &[&str]) {
        for (one, two) in side.iter().flat_map(|one| other.iter().map(move |two| (one, two))) {
            self.cut(one, two);
            self.cut(two, one);
        }
    }

    /// Ends all cuts. Connections that lost bytes are reset.
    pub fn heal(&self) {
        let connections = {
            let mut state = self.lock();
            state.cut.clear();
            state.connections()
        };
        for connection in
            connections.iter().filter(|connection| connection.there.lost() || connection.back.lost())
        {
            connection.reset();
        }
    }

    /// Breaks all connections between two hosts; new ones can be made.
    pub fn reset(&self, one: &str, other: &str) {
        let ends = [direction(one, other), direction(other, one)];
        let connections = self.lock().connections();
        connections
            .iter()
            .filter(|connection| ends.contains(&connection.ends))
            .for_each(|connection| connection.reset());
    }

    /// What went over a link so far.
    pub fn counters(&self, from: &str, to: &str) -> LinkCounters {
        self.lock().counters.get(&direction(from, to)).copied().unwrap_or_default()
    }

    /// Shows every write to `observer` from now on.
    pub fn observe(&self, observer: Observer) {
        self.lock().observer = Some(observer);
    }

    async fn connect(&self, from: &str, address: &str) -> io::Result<SimulatedStream> {
        let to = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let (there, back) = (direction(from, to), direction(to, from));
        for way in [&there, &back] {
            let fate = self.lock().fate(way);
            match fate {
                Fate::Vanishes => std::future::pending().await,
                Fate::Arrives { delay, .. } => tokio::time::sleep(delay).await,
            }
        }
        let mut state = self.lock();
        let refused =
            || io::Error::new(io::ErrorKind::ConnectionRefused, format!("connection refused: {address}"));
        let listener = state.listeners.get(address).cloned().ok_or_else(refused)?;
        let connection =
            Arc::new(Connection { ends: there.clone(), there: Arc::default(), back: Arc::default() });
        state.connections.retain(|connection| connection.strong_count() > 0);
        state.connections.push(Arc::downgrade(&connection));
        state.counters(&there).connections += 1;
        drop(state);
        let near = self.stream(&connection, there, &connection.back, &connection.there);
        let far = self.stream(&connection, back, &connection.there, &connection.back);
        listener.try_send(Accepted { stream: far, name: from.to_owned() }).map_err(|_| refused())?;
        Ok(near)
    }

    fn stream(
        &self,
        of: &Arc<Connection>,
        out: Direction,
        read: &Arc<Pipe>,
        write: &Arc<Pipe>,
    ) -> SimulatedStream {
        let (read, write) = (read.clone(), write.clone());
        SimulatedStream { network: self.clone(), connection: of.clone(), out, read, write, alarm: None }
    }
}

impl Connection {
    fn reset(&self) {
        self.there.reset();
        self.back.reset();
    }
}

struct Host {
    name: String,
    network: SimulatedNetwork,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "host {}", self.name)
    }
}

impl Network for Host {
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Stream>>> {
        Box::pin(async move {
            let stream = self.network.connect(&self.name, address).await?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }

    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let port = match address.rsplit_once(':') {
                Some((host, port)) if host == self.name => port,
                _ => {
                    let why = format!("{} cannot listen on another's address: {address}", self.name);
                    return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, why));
                }
            };
            let mut state = self.network.lock();
            let address = if port == "0" {
                state.next_port += 1;
                format!("{}:{}", self.name, 49_151 + state.next_port)
            } else {
                address.to_owned()
            };
            if state.listeners.get(&address).is_some_and(|listener| !listener.is_closed()) {
                let why = format!("cannot listen on {address}: address in use");
                return Err(io::Error::new(io::ErrorKind::AddrInUse, why));
            }
            let (sender, accepted) = mpsc::channel(BACKLOG);
            state.listeners.insert(address.clone(), sender);
            Ok(Box::new(Listening { address, accepted, network: self.network.clone() }) as Box<dyn Listener>)
        })
    }
}

struct Listening {
    address: String,
    accepted: mpsc::Receiver<Accepted>,
    network: SimulatedNetwork,
}

impl Listener for Listening {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Box<dyn Stream>, String)>> {
        Box::pin(async move {
            let accepted = self.accepted.recv().await;
            let Accepted { stream, name } =
                accepted.ok_or_else(|| io::Error::other("listener is replaced"))?;
            Ok((Box::new(stream) as Box<dyn Stream>, name))
        })
    }

    fn local_address(&self) -> &str {
        &self.address
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.accepted.close();
        let mut state = self.network.lock();
        if state.listeners.get(&self.address).is_some_and(mpsc::Sender::is_closed) {
            state.listeners.remove(&self.address);
        }
    }
}

/// One end of a connection.
struct SimulatedStream {
    network: SimulatedNetwork,
    connection: Arc<Connection>,
    /// The link that this end writes to.
    out: Direction,
    read: Arc<Pipe>,
    write: Arc<Pipe>,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl AsyncRead for SimulatedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.read.poll_read(context, into, &mut this.alarm)
    }
}

impl AsyncWrite for SimulatedStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        let count = std::task::ready!(self.write.poll_room(context, from.len()))?;
        let bytes = &from[..count];
        let (fate, breaks, observer) = {
            let mut state = self.network.lock();
            let fate = state.fate(&self.out);
            let probability = state.link(&self.out).reset_probability;
            let breaks = probability > 0.0 && crate::random().random_bool(probability);
            let counters = state.counters(&self.out);
            counters.writes += 1;
            counters.bytes += count as u64;
            counters.bytes_lost += if fate == Fate::Vanishes || breaks { count as u64 } else { 0 };
            (fate, breaks, state.observer.clone())
        };
        if let Some(observer) = observer {
            observer(&self.out.0, &self.out.1, bytes);
        }
        if breaks {
            // The writer believes its bytes sent, as with TCP; both ends see the break when they go on.
            self.connection.reset();
        } else {
            self.write.write(bytes, fate);
        }
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let fate = self.network.lock().fate(&self.out);
        self.write.end(fate);
        Poll::Ready(Ok(()))
    }
}

impl Drop for SimulatedStream {
    fn drop(&mut self) {
        let fate = self.network.lock().fate(&self.out);
        self.write.end(fate);
        if fate != Fate::Vanishes && !self.write.lost() {
            self.read.abandon();
        }
    }
}

#[cfg(test)]
mod tests;
