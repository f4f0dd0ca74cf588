//! The nodes: started, crashed, cut off and looked at, while clerks go on.

use crate::birth;
use crate::clerk::Clerk;
use crate::door::Door;
use crate::fleet::Settings;
use crate::history::History;
use crate::plug::{Plug, Plugged};
use crate::wait::eventually;
use kvserver::moves::watch::Watch;
use kvserver::{Node, NodeConfig};
use proto::{GroupId, NodeId};
use raftstore::{
    Address, Disk, Fatal, GroupStatus, Link, Role, SimulatedDisk, SimulatedNetwork, StorageConfig,
    SystemClock,
};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;

/// How many shards there are, all in one group.
pub(crate) const SHARDS: u32 = 10;

/// The group of data.
const GROUP: GroupId = GroupId(1);

/// After so many bytes of log a snapshot is made, in tests that have any: some ten small entries.
const SNAPSHOT_LOG_BYTES: u64 = 2_000;

/// A log may be so many times as long as what makes a snapshot due.
const LOG_SHARE_MAX: u64 = 8;

/// What a cluster is started with.
pub(crate) struct Shape {
    nodes: u64,
    settings: Settings,
    has_snapshots: bool,
    seed: u64,
}

impl Shape {
    /// No snapshots are made.
    pub(crate) fn new(nodes: u64, seed: u64) -> Self {
        let seed = crate::seed_of(seed);
        println!("seed {seed}");
        Self { nodes, settings: Settings::default(), has_snapshots: false, seed }
    }

    /// Snapshots after some ten small entries, and nothing kept behind them.
    pub(crate) fn with_snapshots(mut self) -> Self {
        self.settings.raft.snapshot_log_bytes_min = SNAPSHOT_LOG_BYTES;
        self.settings.raft.log_bytes_kept = 0;
        self.has_snapshots = true;
        self
    }

    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    /// All nodes.
    pub(crate) fn nodes(&self) -> RangeInclusive<u64> {
        1..=self.nodes
    }

    /// What a node is told.
    pub(crate) fn config(&self, node: u64, http_listen: String) -> NodeConfig {
        let Settings { limits, raft, transport, http, .. } = self.settings.clone();
        NodeConfig {
            cluster: "test".into(),
            node: NodeId(node),
            peer_listen: address(node).peer,
            http_listen,
            members: self.nodes().map(|node| (NodeId(node), address(node))).collect(),
            join: None,
            zone: String::new(),
            weight: 1,
            groups: 1,
            shards: SHARDS,
            data: PathBuf::new(),
            limits,
            raft,
            storage: StorageConfig::default(),
            transport,
            http,
        }
    }
}

struct Running {
    node: Node,
    door: Door,
    plug: Plug,
}

#[derive(Default)]
struct State {
    disks: BTreeMap<u64, SimulatedDisk>,
    running: BTreeMap<u64, Running>,
    /// What is left of nodes that crashed: as good as dead, but not gone.
    ghosts: BTreeMap<u64, JoinHandle<Result<(), Fatal>>>,
    is_unreliable: bool,
}

struct Shared {
    shape: Shape,
    network: SimulatedNetwork,
    state: Mutex<State>,
    crashes: AtomicU64,
    clerks: AtomicU64,
}

/// The cluster, as far as it is reached from some place.
pub(crate) struct Cluster {
    shared: Arc<Shared>,
    pub(crate) history: Arc<History>,
    /// The nodes that clerks reach from here.
    reached: BTreeSet<u64>,
}

pub(crate) fn host(node: u64) -> String {
    format!("n{node}")
}

pub(crate) fn address(node: u64) -> Address {
    Address { peer: format!("{}:1", host(node)), http: format!("{}:2", host(node)) }
}

/// Each message takes up to 26 ms, and some writes break their connection with what is under way on it: one
/// in fifty, since an exchange between nodes takes several writes, and a lost connection loses more than one
/// message.
fn unreliable() -> Link {
    Link { delay_max: Duration::from_millis(26), reset_probability: 0.02, ..Link::default() }
}

/// Lets `test` run on a new cluster, then has every node run and reach every other, and looks whether all
/// that clerks were told holds together, whether all replicas hold the same, and whether logs are as short as
/// they must be.
pub(crate) async fn examine(shape: Shape, test: impl AsyncFnOnce(&Arc<Cluster>)) {
    let cluster = Cluster::prepare(shape).await;
    let history = cluster.history.clone();
    let examined = async {
        cluster.boot_all().await;
        cluster.ready().await;
        test(&cluster).await;
        cluster.end().await;
    };
    history.kept(examined).await;
}

impl Cluster {
    async fn prepare(shape: Shape) -> Arc<Self> {
        let state = State { disks: birth::disks(shape.nodes).await, ..State::default() };
        let (history, reached) = (Arc::new(History::new(shape.seed)), (1..=shape.nodes).collect());
        let shared = Shared {
            shape,
            network: SimulatedNetwork::new(),
            state: Mutex::new(state),
            crashes: AtomicU64::new(0),
            clerks: AtomicU64::new(1),
        };
        Arc::new(Self { shared: Arc::new(shared), history, reached })
    }

    /// The same cluster, from where only these nodes are reached.
    pub(crate) fn seen_from(&self, nodes: &[u64]) -> Arc<Self> {
        let (shared, history) = (self.shared.clone(), self.history.clone());
        Arc::new(Self { shared, history, reached: nodes.iter().copied().collect() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn nodes(&self) -> RangeInclusive<u64> {
        self.shared.shape.nodes()
    }

    pub(crate) fn seed(&self) -> u64 {
        self.shared.shape.seed
    }

    // Power.

    /// Starts a node on its disk as it stands.
    pub(crate) async fn boot(&self, node: u64) {
        let ghost = self.lock().ghosts.remove(&node);
        if let Some(ghost) = ghost {
            let _without_power = ghost.await.unwrap().err();
        }
        let disk: Arc<dyn Disk> = Arc::new(self.lock().disks[&node].clone());
        let plug = Plug::default();
        let network = Plugged { network: self.shared.network.host(&host(node)), plug: plug.clone() };
        let config = self.shared.shape.config(node, "127.0.0.1:0".into());
        let started = Node::start_on(config, disk, Arc::new(network), Arc::new(SystemClock)).await;
        let started = started.unwrap_or_else(|error| panic!("n{node}: {error}"));
        let door = Door::new(started.http_address());
        let before = self.lock().running.insert(node, Running { node: started, door, plug });
        assert!(before.is_none(), "n{node} runs already");
    }

    /// Takes a node's power: what was not synced is lost, and its peers see their connections break.
    pub(crate) fn crash(&self, node: u64) {
        let seed = self.seed() ^ (self.shared.crashes.fetch_add(1, Ordering::Relaxed) << 8);
        let mut state = self.lock();
        let running = state.running.remove(&node).unwrap_or_else(|| panic!("n{node} runs"));
        running.plug.pull();
        let survived = state.disks[&node].crash(seed.wrapping_add(node));
        state.disks.insert(node, survived);
        for other in self.nodes().filter(|other| *other != node) {
            self.shared.network.reset(&host(node), &host(other));
        }
        let ghost = tokio::spawn(running.node.shutdown(Duration::ZERO));
        state.ghosts.insert(node, ghost);
    }

    pub(crate) async fn restart(&self, node: u64) {
        self.crash(node);
        self.boot(node).await;
    }

    /// Takes the power of all nodes at once.
    pub(crate) fn crash_all(&self) {
        self.up().into_iter().for_each(|node| self.crash(node));
    }

    /// Starts all nodes that do not run, at once.
    pub(crate) async fn boot_all(&self) {
        let up = self.up();
        let down = self.nodes().filter(|node| !up.contains(node));
        futures_util::future::join_all(down.map(|node| self.boot(node))).await;
    }

    fn up(&self) -> Vec<u64> {
        self.lock().running.keys().copied().collect()
    }

    // Cables.

    /// Cuts the network into one side and the other; callers reach both.
    pub(crate) fn split(&self, side: &[u64]) {
        let (one, other): (Vec<u64>, Vec<u64>) = self.nodes().partition(|node| side.contains(node));
        let [one, other] = [one, other].map(|side| side.into_iter().map(host).collect::<Vec<_>>());
        let [one, other] = [&one, &other].map(|side| side.iter().map(String::as_str).collect::<Vec<_>>());
        self.shared.network.heal();
        self.shared.network.partition(&one, &other);
    }

    pub(crate) fn heal(&self) {
        self.shared.network.heal();
    }

    /// Makes every message late, and loses some, between nodes and on the way from and to clerks.
    pub(crate) fn make_unreliable(&self) {
        self.lock().is_unreliable = true;
        self.shared.network.set_default_link(unreliable());
    }

    fn make_reliable(&self) {
        self.lock().is_unreliable = false;
        self.shared.network.set_default_link(Link::default());
    }

    pub(crate) fn is_unreliable(&self) -> bool {
        self.lock().is_unreliable
    }

    // Ways in.

    /// The front ends of all nodes that run and are reached from here.
    pub(crate) fn doors(&self) -> Vec<Door> {
        let state = self.lock();
        let reached = state.running.iter().filter(|(node, _)| self.reached.contains(node));
        reached.map(|(_, running)| running.door.clone()).collect()
    }

    /// One more clerk, with its own name and choices.
    pub(crate) fn clerk(self: &Arc<Self>) -> Clerk {
        Clerk::new(self.clone(), self.shared.clerks.fetch_add(1, Ordering::Relaxed), self.seed())
    }

    fn watches(&self) -> Vec<(u64, Watch)> {
        let state = self.lock();
        state.running.iter().map(|(node, running)| (*node, running.node.watch().clone())).collect()
    }

    /// The replicas of the nodes that run, as far as they are open.
    pub(crate) fn replicas(&self) -> Vec<GroupStatus> {
        self.watches().into_iter().filter_map(|(_, watch)| watch.status(GROUP)).collect()
    }

    /// Who leads, as a quorum has just confirmed.
    pub(crate) async fn leader(&self) -> u64 {
        eventually("somebody leads", async || {
            for (node, watch) in self.watches() {
                if watch.confirmed(GROUP).await.is_some() {
                    return Some(node);
                }
            }
            None
        })
        .await
    }

    /// Waits until every node says that it is ready, and has a replica with a vote.
    async fn ready(&self) {
        for door in self.doors() {
            eventually("a node is ready", async || (door.get("/readyz").await.status == 200).then_some(()))
                .await;
        }
        let nodes = self.shared.shape.nodes as usize;
        let votes = |status: &GroupStatus| {
            status.voters.len() == nodes && [Role::Leader, Role::Follower].contains(&status.role)
        };
        eventually("every node has a vote", async || {
            (self.replicas().iter().filter(|status| votes(status)).count() == nodes).then_some(())
        })
        .await;
    }

    // The end.

    async fn end(self: &Arc<Self>) {
        self.make_reliable();
        self.heal();
        self.boot_all().await;
        let mut reader = self.clerk();
        for key in self.history.keys() {
            reader.get(&key).await;
        }
        self.history.check();
        self.replicas_agree().await;
        match self.shared.shape.has_snapshots {
            true => self.logs_are_short().await,
            false => self.no_snapshot_was_made(),
        }
        let running = std::mem::take(&mut self.lock().running).into_values();
        let stops = running.map(|running| running.node.shutdown(Duration::from_millis(200)));
        for stopped in futures_util::future::join_all(stops).await {
            stopped.unwrap();
        }
    }

    /// Every replica comes to have applied the same, and to hold the same.
    async fn replicas_agree(&self) {
        eventually("all replicas hold the same", async || {
            let held: Vec<_> =
                self.watches().into_iter().map(|(_, watch)| Some(watch.digest(GROUP)?.1)).collect();
            let nodes = self.shared.shape.nodes as usize;
            (held.len() == nodes && held[0].is_some() && held.iter().all(|digest| *digest == held[0]))
                .then_some(())
        })
        .await;
    }

    /// Every replica has made a snapshot, or been sent one, and its log comes to be as short as it must: a
    /// snapshot is due after [`SNAPSHOT_LOG_BYTES`], or half of the last one where that is more.
    async fn logs_are_short(&self) {
        eventually("all logs are cut short", async || {
            let is_short = |status: &GroupStatus| {
                let due = SNAPSHOT_LOG_BYTES.max(status.snapshot_bytes / 2);
                status.snapshot_index.is_some() && status.log_bytes <= LOG_SHARE_MAX * due
            };
            self.replicas().iter().all(is_short).then_some(())
        })
        .await;
    }

    fn no_snapshot_was_made(&self) {
        for status in self.replicas() {
            assert_eq!(status.snapshot_index, None, "{status:?}");
        }
    }
}
