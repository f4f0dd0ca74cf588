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
        let owner = tokio::task::spawn_blocking(move || owner(from, &pids)).await;
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

/// The node whose process holds the socket at the other end of a connection from `from`.
fn owner(from: SocketAddr, pids: &[(u64, u32)]) -> Option<u64> {
    let inode = inode(from)?;
    let wanted = format!("socket:[{inode}]");
    let holds = |pid: u32| {
        let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
        let mut targets = descriptors.filter_map(|descriptor| fs::read_link(descriptor.ok()?.path()).ok());
        targets.any(|target| target.to_string_lossy() == wanted)
    };
    pids.iter().find(|(_, pid)| holds(*pid)).map(|(node, _)| *node)
}

/// The number of the socket that is bound to `local` and connected, as the kernel lists it.
fn inode(local: SocketAddr) -> Option<u64> {
    let SocketAddr::V4(local) = local else { return None };
    let address = u32::from_ne_bytes(local.ip().octets());
    let wanted = format!("{address:08X}:{:04X}", local.port());
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    // The second column is the socket's own address, the third the other end's; a listening one has none
    // there.
    let mut found = rows.filter(|row| row.get(1) == Some(&wanted.as_str()) && row.get(3) != Some(&"0A"));
    found.next()?.get(9)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection's caller is told by its process: this one.
    #[tokio::test]
    async fn callers_are_told_by_their_process() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let called = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (_accepted, from) = listener.accept().await.unwrap();
        assert_eq!(owner(from, &[(3, std::process::id())]), Some(3));
        drop(called);
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
