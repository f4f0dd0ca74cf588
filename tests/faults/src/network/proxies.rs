//! A proxy before each node, for machines on which no packet can be dropped: bytes are held instead. Whose a
//! connection is the proxy finds out as the kernel knows it: the socket at its other end belongs to a
//! process, and the process to a node. So nothing of the nodes' own protocol is known here.
//!
//! What TCP would do with packets that are lost is imitated: bytes that a cut link holds arrive when it is
//! healed, unless the connection was given up meanwhile; a lost packet is bytes that come late, with all
//! behind them.

use crate::network::PEER_PORT;
use crate::process::Pids;
use anyhow::{Context, Result};
use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// What one direction of a connection holds at most: pieces, and bytes in each.
const PIECES_HELD: usize = 64;
const PIECE_BYTES: usize = 16 << 10;

/// How often the kernel's table of sockets is read for a caller: it is not read in one piece, so that a row
/// can be missed where others come and go.
const TABLE_READS: usize = 3;

/// How late a lost packet comes: TCP's shortest retransmission timeout, and twice that.
const RETRANSMITTED_MS: std::ops::Range<u64> = 200..400;

/// The state of all links.
#[derive(Clone, Debug, Default)]
pub(crate) struct Links {
    cut: BTreeSet<(u64, u64)>,
    lost_percent: BTreeMap<u64, u32>,
    delay_ms: BTreeMap<u64, u32>,
}

impl Links {
    pub(super) fn cut(&mut self, from: u64, to: u64) {
        self.cut.insert((from, to));
    }

    pub(super) fn lose(&mut self, nodes: &[u64], percent: u32) {
        self.lost_percent.extend(nodes.iter().map(|node| (*node, percent)));
    }

    pub(super) fn delay(&mut self, nodes: &[u64], milliseconds: u32) {
        self.delay_ms.extend(nodes.iter().map(|node| (*node, milliseconds)));
    }

    pub(super) fn heal(&mut self) {
        *self = Self::default();
    }

    fn is_cut(&self, link: (u64, u64)) -> bool {
        self.cut.contains(&link)
    }

    /// How much later a piece arrives that is sent now.
    fn lateness(&self, (from, to): (u64, u64), chance: &mut StdRng) -> Duration {
        let of = |what: &BTreeMap<u64, u32>, node: u64| what.get(&node).copied().unwrap_or(0);
        let delay = of(&self.delay_ms, from).max(of(&self.delay_ms, to));
        let lost = chance.random_range(0..100) < of(&self.lost_percent, to);
        let late = if lost { chance.random_range(RETRANSMITTED_MS) } else { 0 };
        Duration::from_millis(u64::from(delay) + late)
    }
}

/// The proxies; they end when this is dropped.
#[derive(Debug)]
pub(crate) struct Proxies {
    run: u32,
    links: Arc<watch::Sender<Links>>,
    _serving: JoinSet<()>,
}

impl Proxies {
    /// Proxies before nodes 1 to `nodes`, whose processes are in `pids`.
    pub(crate) async fn make(nodes: u64, pids: &Pids, seed: u64) -> Result<Self> {
        let links = Arc::new(watch::Sender::new(Links::default()));
        let mut proxies = Self { run: std::process::id(), links, _serving: JoinSet::new() };
        for node in 1..=nodes {
            let before = proxies.before(node);
            let listener = TcpListener::bind(before).await.with_context(|| format!("{before}"))?;
            let proxy = Proxy {
                node,
                behind: proxies.behind(node),
                links: proxies.links.clone(),
                pids: pids.clone(),
                seed: seed.wrapping_add(node),
            };
            proxies._serving.spawn(proxy.serve(listener));
        }
        Ok(proxies)
    }

    /// All of 127.0.0.0/8 is loopback: each run takes addresses of its own, by its process id.
    fn address(&self, last: u64) -> SocketAddr {
        let [_, _, high, low] = self.run.to_be_bytes();
        let last = u8::try_from(last).expect("a handful of nodes");
        SocketAddrV4::new(Ipv4Addr::new(127, high, low, last), PEER_PORT).into()
    }

    /// Where the proxy of a node listens.
    pub(crate) fn before(&self, node: u64) -> SocketAddr {
        self.address(100 + node)
    }

    /// Where the node itself listens.
    pub(crate) fn behind(&self, node: u64) -> SocketAddr {
        self.address(node)
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Links)) {
        self.links.send_modify(change);
    }
}

/// One node's proxy.
#[derive(Clone, Debug)]
struct Proxy {
    node: u64,
    behind: SocketAddr,
    links: Arc<watch::Sender<Links>>,
    pids: Pids,
    seed: u64,
}

impl Proxy {
    async fn serve(mut self, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    if let Ok((caller, from)) = accepted {
                        self.seed = self.seed.wrapping_add(0x1_0000);
                        connections.spawn(self.clone().carry(caller, from));
                    }
                }
                Some(_) = connections.join_next() => {}
            }
        }
    }

    /// Carries one connection to its end.
    async fn carry(self, caller: TcpStream, from: SocketAddr) {
        let pids = self.pids.all();
        let Ok(to) = caller.local_addr() else { return };
        let owner = tokio::task::spawn_blocking(move || owner(from, to, &pids)).await;
        // Node 0 is nobody: a caller that was gone before it was looked for.
        let caller_node = owner.ok().flatten().unwrap_or(0);
        let mut links = self.links.subscribe();
        if links.wait_for(|links| !links.is_cut((caller_node, self.node))).await.is_err() {
            return;
        }
        let Ok(called) = TcpStream::connect(self.behind).await else { return };
        // Small messages leave at once here; where they do not, a caller waits for them as it would without
        // us.
        if caller.set_nodelay(true).and_then(|()| called.set_nodelay(true)).is_err() {
            return;
        }
        let (caller_in, caller_out) = caller.into_split();
        let (called_in, called_out) = called.into_split();
        let there = (caller_node, self.node);
        let mut pumps = JoinSet::new();
        pumps.spawn(read(caller_in, called_out, there, self.links.clone(), self.seed));
        pumps.spawn(read(called_in, caller_out, (there.1, there.0), self.links.clone(), self.seed + 1));
        // Where one direction has ended, the nodes do not use the other.
        pumps.join_next().await;
    }
}

/// A piece and when it is due.
type Piece = (Instant, Vec<u8>);

/// Carries one direction of a connection.
async fn read(
    mut input: OwnedReadHalf,
    output: OwnedWriteHalf,
    link: (u64, u64),
    links: Arc<watch::Sender<Links>>,
    seed: u64,
) {
    let (pieces, held) = mpsc::channel(PIECES_HELD);
    let mut writing = JoinSet::new();
    writing.spawn(write(output, held, link, links.subscribe()));
    let mut chance = StdRng::seed_from_u64(seed);
    let mut due = Instant::now();
    loop {
        let mut piece = vec![0; PIECE_BYTES];
        match input.read(&mut piece).await {
            Ok(0) | Err(_) => break,
            Ok(count) => piece.truncate(count),
        }
        // Nothing overtakes what was sent before it.
        due = due.max(Instant::now() + links.borrow().lateness(link, &mut chance));
        if pieces.send((due, piece)).await.is_err() {
            break;
        }
    }
    drop(pieces);
    writing.join_next().await;
}

/// Writes each piece when it is due and the link is not cut. The end of the connection is such a piece, too.
async fn write(
    mut output: OwnedWriteHalf,
    mut held: mpsc::Receiver<Piece>,
    link: (u64, u64),
    mut links: watch::Receiver<Links>,
) {
    while let Some((due, piece)) = held.recv().await {
        tokio::time::sleep_until(due).await;
        if links.wait_for(|links| !links.is_cut(link)).await.is_err()
            || output.write_all(&piece).await.is_err()
        {
            return;
        }
    }
    // Whether it was cut for ever or is healed: the connection ends here.
    drop(links.wait_for(|links| !links.is_cut(link)).await);
}

/// The node whose process holds the calling end of the connection from `from` to `to`.
fn owner(from: SocketAddr, to: SocketAddr, pids: &[(u64, u32)]) -> Option<u64> {
    let inode = (0..TABLE_READS).find_map(|_| inode(from, to))?;
    let wanted = format!("socket:[{inode}]");
    let holds = |pid: u32| {
        let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
        let mut targets = descriptors.filter_map(|descriptor| fs::read_link(descriptor.ok()?.path()).ok());
        targets.any(|target| target.to_string_lossy() == wanted)
    };
    pids.iter().find(|(_, pid)| holds(*pid)).map(|(node, _)| *node)
}

/// The number of the socket that is bound to `local` and connected to `remote`, as the kernel lists it. Both
/// ends count: a port may be taken again for another destination while a former connection from it lingers
/// in TIME_WAIT, in a row without a number.
fn inode(local: SocketAddr, remote: SocketAddr) -> Option<u64> {
    let (local, remote) = (table_address(local)?, table_address(remote)?);
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    let mut rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    // The second column is the socket's own address, the third the other end's.
    rows.find(|row| row.get(1) == Some(&local.as_str()) && row.get(2) == Some(&remote.as_str()))?
        .get(9)?
        .parse()
        .ok()
}

/// An address as the kernel's table writes it.
fn table_address(address: SocketAddr) -> Option<String> {
    let SocketAddr::V4(address) = address else { return None };
    Some(format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpSocket;

    /// A connection's caller is told by its process: this one.
    #[tokio::test]
    async fn callers_are_told_by_their_process() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        let caller = TcpStream::connect(to).await.unwrap();
        let (_accepted, from) = listener.accept().await.unwrap();
        assert_eq!(owner(from, to, &[(3, std::process::id())]), Some(3));
        drop(caller);
    }

    /// Two connections from one port to two places are told apart, also when the first has ended and its row
    /// lingers.
    #[tokio::test]
    async fn connections_from_one_port_are_told_apart() {
        let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let second = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (to_first, to_second) = (first.local_addr().unwrap(), second.local_addr().unwrap());
        let caller = || {
            let socket = TcpSocket::new_v4().unwrap();
            socket.set_reuseaddr(true).unwrap();
            socket
        };
        let one = caller();
        one.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let from = one.local_addr().unwrap();
        let one = one.connect(to_first).await.unwrap();
        let accepted = first.accept().await.unwrap();
        let other = caller();
        other.bind(from).unwrap();
        let other = other.connect(to_second).await.unwrap();
        let numbers = [to_first, to_second].map(|to| inode(from, to).unwrap());
        assert_ne!(numbers[0], numbers[1]);
        // The end that closes first is the one that lingers.
        drop(one);
        drop(accepted);
        assert_eq!(inode(from, to_second), Some(numbers[1]));
        assert_eq!(owner(from, to_second, &[(3, std::process::id())]), Some(3));
        drop(other);
    }

    /// A cut link holds what is sent over it and lets the other direction pass; healed, it gives everything
    /// on.
    #[tokio::test]
    async fn cut_links_hold_one_direction() {
        let pids = Pids::default();
        let proxies = Proxies::make(1, &pids, 1).await.unwrap();
        let listener = TcpListener::bind(proxies.behind(1)).await.unwrap();
        let mut caller = TcpStream::connect(proxies.before(1)).await.unwrap();
        let mut called = listener.accept().await.unwrap().0;
        let mut byte = [0];
        caller.write_all(b"a").await.unwrap();
        called.read_exact(&mut byte).await.unwrap();
        // Callers without a process of a node are node 0.
        proxies.change(|links| links.cut(0, 1));
        caller.write_all(b"b").await.unwrap();
        called.write_all(b"c").await.unwrap();
        caller.read_exact(&mut byte).await.unwrap();
        assert_eq!(byte, *b"c");
        let held = tokio::time::timeout(Duration::from_millis(50), called.read_exact(&mut byte)).await;
        assert!(held.is_err(), "nothing passes a cut link");
        proxies.change(Links::heal);
        called.read_exact(&mut byte).await.unwrap();
        assert_eq!(byte, *b"b");
    }
}
