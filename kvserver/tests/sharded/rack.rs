//! Nodes in a rack: each with a disk and a front end of its own, on one network, and with a plug that can be pulled.
//!
//! Owns their power and how good the network is; whoever cuts the network apart does so by [`Rack::network`].

use crate::door::Door;
use crate::fleet::{Settings, host};
use crate::form::seed_of;
use crate::plug::{Plug, Plugged};
use crate::wait::eventually;
use kvserver::{Node, NodeConfig};
use raftstore::{Disk, Fatal, Link, SimulatedDisk, SimulatedNetwork, SystemClock};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;

/// How many shards there are: as many as the examination has.
pub(crate) const SHARDS: u32 = 10;

/// After so many bytes of log a snapshot is made, in tests that have any: some ten small entries.
pub(crate) const SNAPSHOT_LOG_BYTES: u64 = 2_000;

/// What a cluster is started with.
pub(crate) struct Shape {
    pub(crate) nodes: u64,
    settings: Settings,
    pub(crate) has_snapshots: bool,
    pub(crate) seed: u64,
}

impl Shape {
    /// No snapshots are made.
    pub(crate) fn of(nodes: u64, groups: u32, seed: u64) -> Self {
        let seed = seed_of(seed);
        println!("seed {seed}");
        Self { nodes, settings: Settings::groups(groups), has_snapshots: false, seed }
    }

    /// Snapshots after some ten small entries, and nothing kept behind them.
    pub(crate) fn with_snapshots(mut self) -> Self {
        self.settings.raft.snapshot_log_bytes_min = SNAPSHOT_LOG_BYTES;
        self.settings.raft.log_bytes_kept = 0;
        self.has_snapshots = true;
        self
    }

    /// All nodes.
    pub(crate) fn nodes(&self) -> RangeInclusive<u64> {
        1..=self.nodes
    }

    /// What a node is told.
    pub(crate) fn config(&self, node: u64) -> NodeConfig {
        self.settings.node_config(node, self.nodes(), SHARDS)
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

/// See the module.
pub(crate) struct Rack {
    pub(crate) shape: Shape,
    pub(crate) network: SimulatedNetwork,
    state: Mutex<State>,
    crashes: AtomicU64,
}

/// Each message takes up to 26 ms, and some writes break their connection with what is under way on it: one in fifty,
/// since an exchange between nodes takes several writes, and a lost connection loses more than one message.
fn unreliable() -> Link {
    Link { delay_max: Duration::from_millis(26), reset_probability: 0.02, ..Link::default() }
}

impl Rack {
    /// Nodes that do not run yet, with these disks.
    pub(crate) fn new(shape: Shape, disks: BTreeMap<u64, SimulatedDisk>) -> Self {
        let (network, state) = (SimulatedNetwork::new(), State { disks, ..State::default() });
        Self { shape, network, state: Mutex::new(state), crashes: AtomicU64::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All nodes.
    pub(crate) fn nodes(&self) -> RangeInclusive<u64> {
        self.shape.nodes()
    }

    pub(crate) fn seed(&self) -> u64 {
        self.shape.seed
    }

    /// Starts a node on its disk as it stands.
    pub(crate) async fn boot(&self, node: u64) {
        let ghost = self.lock().ghosts.remove(&node);
        if let Some(ghost) = ghost {
            let _without_power = ghost.await.unwrap().err();
        }
        let disk: Arc<dyn Disk> = Arc::new(self.lock().disks[&node].clone());
        let plug = Plug::default();
        let network = Plugged { network: self.network.host(&host(node)), plug: plug.clone() };
        let config = self.shape.config(node);
        let started = Node::start_on(config, disk, Arc::new(network), Arc::new(SystemClock)).await;
        let started = started.unwrap_or_else(|error| panic!("n{node}: {error}"));
        let door = Door::new(started.http_address());
        let before = self.lock().running.insert(node, Running { node: started, door, plug });
        assert!(before.is_none(), "n{node} runs already");
    }

    /// Starts all nodes that do not run, at once.
    pub(crate) async fn boot_all(&self) {
        futures_util::future::join_all(self.down().into_iter().map(|node| self.boot(node))).await;
    }

    /// Takes a node's power: what was not synced is lost, and its peers see their connections break.
    pub(crate) fn crash(&self, node: u64) {
        let seed = self.seed() ^ (self.crashes.fetch_add(1, Ordering::Relaxed) << 8);
        let mut state = self.lock();
        let running = state.running.remove(&node).unwrap_or_else(|| panic!("n{node} runs"));
        running.plug.pull();
        let survived = state.disks[&node].crash(seed.wrapping_add(node));
        state.disks.insert(node, survived);
        for other in self.nodes().filter(|other| *other != node) {
            self.network.reset(&host(node), &host(other));
        }
        let ghost = tokio::spawn(running.node.shutdown(Duration::ZERO));
        state.ghosts.insert(node, ghost);
    }

    pub(crate) fn crash_all(&self, nodes: &[u64]) {
        nodes.iter().for_each(|node| self.crash(*node));
    }

    pub(crate) async fn restart(&self, node: u64) {
        self.crash(node);
        self.boot(node).await;
    }

    /// Nodes that run.
    pub(crate) fn up(&self) -> Vec<u64> {
        self.lock().running.keys().copied().collect()
    }

    pub(crate) fn down(&self) -> Vec<u64> {
        let up = self.up();
        self.nodes().filter(|node| !up.contains(node)).collect()
    }

    /// A running node's front end.
    pub(crate) fn door(&self, node: u64) -> Option<Door> {
        self.lock().running.get(&node).map(|running| running.door.clone())
    }

    /// The front ends of the nodes that run, of those that are wanted.
    pub(crate) fn doors_of(&self, is_wanted: impl Fn(&u64) -> bool) -> Vec<Door> {
        let state = self.lock();
        let wanted = state.running.iter().filter(|(node, _)| is_wanted(node));
        wanted.map(|(_, running)| running.door.clone()).collect()
    }

    /// Looks at each node that runs.
    pub(crate) fn of_each<T>(&self, look: impl Fn(&Node) -> T) -> Vec<(u64, T)> {
        self.lock().running.iter().map(|(node, running)| (*node, look(&running.node))).collect()
    }

    /// Makes every message late, and loses some, between nodes and on the way from and to clerks.
    pub(crate) fn make_unreliable(&self) {
        self.lock().is_unreliable = true;
        self.network.set_default_link(unreliable());
    }

    pub(crate) fn make_reliable(&self) {
        self.lock().is_unreliable = false;
        self.network.set_default_link(Link::default());
    }

    pub(crate) fn is_unreliable(&self) -> bool {
        self.lock().is_unreliable
    }

    /// Waits until the nodes that run say that they are ready.
    pub(crate) async fn ready(&self) {
        for node in self.up() {
            let door = self.door(node).unwrap();
            eventually(&format!("n{node} is ready"), async || {
                (door.get("/readyz").await.status == 200).then_some(())
            })
            .await;
        }
    }

    /// Stops all nodes that run, at once.
    pub(crate) async fn stop(&self) {
        let running = std::mem::take(&mut self.lock().running).into_values();
        let stops = running.map(|running| running.node.shutdown(Duration::from_millis(200)));
        for stopped in futures_util::future::join_all(stops).await {
            stopped.unwrap();
        }
    }
}
