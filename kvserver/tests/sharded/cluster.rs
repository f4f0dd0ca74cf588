//! The nodes: started, crashed, cut off and looked at, while clerks go on.

use crate::clerk::Clerk;
use crate::door::Door;
use crate::fleet::Settings;
use crate::history::History;
use crate::map::Map;
use crate::plug::{Plug, Plugged};
use crate::wait::eventually;
use bytes::Bytes;
use kvserver::{Node, NodeConfig};
use proto::NodeId;
use raftstore::{
    Address, Disk, Fatal, Host, HostConfig, Link, SimulatedDisk, SimulatedNetwork, StorageConfig,
    SystemClock, TransportConfig,
};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;

/// How many shards there are: as many as the examination has.
pub(crate) const SHARDS: u32 = 10;

/// How many nodes: three groups of three replicas share none.
const NODES: u64 = 9;

/// How many nodes where no group is taken down alone: fewer cost less, and one may be away without taking a quorum.
const NODES_FEW: u64 = 5;

/// The controller's service among nodes; what asks its leader for the map, in bytes; and of which kind the answer is.
const CONTROLLER_SERVICE: u8 = 17;
const HISTORY_QUESTION: [u8; 3] = [1, 2, 0];
const HISTORY_ANSWER: u8 = 6;

/// How long a stranger waits for a node's answer.
const ASK_TIME: Duration = Duration::from_secs(2);

/// What a cluster is started with.
pub(crate) struct Shape {
    nodes: u64,
    pub(crate) groups: u32,
    pub(crate) settings: Settings,
    pub(crate) seed: u64,
}

impl Shape {
    pub(crate) fn new(groups: u32, seed: u64) -> Self {
        let seed = crate::seed_of(seed);
        println!("seed {seed}");
        Self { nodes: NODES, groups, settings: Settings::default(), seed }
    }

    /// On fewer nodes, which groups share.
    pub(crate) fn on_few_nodes(mut self) -> Self {
        self.nodes = NODES_FEW;
        self
    }

    /// Snapshots after some ten small entries, nothing kept behind them, small segments.
    pub(crate) fn with_snapshots(mut self) -> Self {
        self.settings.raft.snapshot_log_bytes_min = 2_000;
        self.settings.raft.log_bytes_kept = 0;
        self
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
    isolated: BTreeSet<u64>,
    unreliable: bool,
}

/// See the module.
pub(crate) struct Cluster {
    shape: Shape,
    network: SimulatedNetwork,
    state: Mutex<State>,
    crashes: AtomicU64,
    clerks: AtomicU64,
    stranger: Arc<Host>,
    pub(crate) history: Arc<History>,
}

fn host(node: u64) -> String {
    format!("n{node}")
}

/// A host of no cluster's node, which asks nodes past their front ends.
async fn stranger(network: &SimulatedNetwork) -> Arc<Host> {
    let config = HostConfig {
        cluster: "test".into(),
        node: NodeId(99),
        listen: format!("{}:1", host(99)),
        raft: raftstore::RaftConfig::default(),
        storage: StorageConfig::default(),
        transport: TransportConfig::default(),
    };
    let (disk, network) = (Arc::new(SimulatedDisk::new()), network.host(&host(99)));
    Host::start(config, disk, network, Arc::new(SystemClock)).await.unwrap()
}

/// Each message takes up to 26 ms, and some writes break their connection with what is under way on it: one in fifty,
/// since an exchange between nodes takes several writes, and a lost connection loses more than one message.
fn unreliable() -> Link {
    Link { delay_max: Duration::from_millis(26), reset_probability: 0.02, ..Link::default() }
}

impl Cluster {
    /// Nodes that are ready.
    pub(crate) async fn start(shape: Shape) -> Arc<Self> {
        let disks = (1..=shape.nodes).map(|node| (node, SimulatedDisk::new())).collect();
        let network = SimulatedNetwork::new();
        let cluster = Arc::new(Self {
            shape,
            stranger: stranger(&network).await,
            network,
            state: Mutex::new(State { disks, ..State::default() }),
            crashes: AtomicU64::new(0),
            clerks: AtomicU64::new(1),
            history: Arc::new(History::new()),
        });
        for node in cluster.nodes() {
            cluster.boot(node).await;
        }
        cluster.ready().await;
        cluster
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All nodes.
    pub(crate) fn nodes(&self) -> std::ops::RangeInclusive<u64> {
        1..=self.shape.nodes
    }

    fn config(&self, node: u64) -> NodeConfig {
        let address = |node| Address { peer: format!("{}:1", host(node)), http: format!("{}:2", host(node)) };
        let Settings { limits, raft, transport, http, .. } = self.shape.settings.clone();
        NodeConfig {
            cluster: "test".into(),
            node: NodeId(node),
            peer_listen: address(node).peer,
            http_listen: "127.0.0.1:0".into(),
            members: self.nodes().map(|node| (NodeId(node), address(node))).collect(),
            join: None,
            zone: String::new(),
            weight: 1,
            groups: self.shape.groups,
            shards: SHARDS,
            data: PathBuf::new(),
            limits,
            raft,
            storage: StorageConfig::default(),
            transport,
            http,
        }
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
        let started = Node::start_on(self.config(node), disk, Arc::new(network), Arc::new(SystemClock)).await;
        let started = started.unwrap_or_else(|error| panic!("n{node}: {error}"));
        let door = Door::new(started.http_address());
        let before = self.lock().running.insert(node, Running { node: started, door, plug });
        assert!(before.is_none(), "n{node} runs already");
    }

    /// Takes a node's power: what was not synced is lost, and its peers see their connections break.
    pub(crate) fn crash(&self, node: u64) {
        let seed = self.shape.seed ^ (self.crashes.fetch_add(1, Ordering::Relaxed) << 8);
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

    pub(crate) async fn restart(&self, node: u64) {
        self.crash(node);
        self.boot(node).await;
    }

    pub(crate) fn crash_all(&self, nodes: &[u64]) {
        nodes.iter().for_each(|node| self.crash(*node));
    }

    pub(crate) async fn boot_all(&self) {
        for node in self.down() {
            self.boot(node).await;
        }
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

    /// The front ends of all nodes that run.
    pub(crate) fn doors(&self) -> Vec<Door> {
        self.lock().running.values().map(|running| running.door.clone()).collect()
    }

    /// The front ends of all nodes that run and are not cut off.
    pub(crate) fn connected(&self) -> Vec<Door> {
        let state = self.lock();
        let connected = state.running.iter().filter(|(node, _)| !state.isolated.contains(*node));
        connected.map(|(_, running)| running.door.clone()).collect()
    }

    /// Cuts a node off from its peers; callers still reach it.
    pub(crate) fn isolate(&self, node: u64) {
        self.lock().isolated.insert(node);
        self.rewire();
    }

    /// Takes a node back.
    pub(crate) fn connect(&self, node: u64) {
        self.lock().isolated.remove(&node);
        self.rewire();
    }

    /// Heals the network and cuts it again where it must be: it has no finer knife.
    fn rewire(&self) {
        let isolated = self.lock().isolated.clone();
        self.network.heal();
        for &node in &isolated {
            for other in self.nodes().filter(|other| *other != node) {
                self.network.partition(&[&host(node)], &[&host(other)]);
            }
        }
    }

    /// Makes every message late, and loses some, between nodes and on the way from and to clerks.
    pub(crate) fn make_unreliable(&self) {
        self.lock().unreliable = true;
        self.network.set_default_link(unreliable());
    }

    pub(crate) fn make_reliable(&self) {
        self.lock().unreliable = false;
        self.network.set_default_link(Link::default());
    }

    pub(crate) fn is_unreliable(&self) -> bool {
        self.lock().unreliable
    }

    /// Asks a node as another node would.
    pub(crate) async fn ask_as_peer(&self, node: u64, service: u8, question: Vec<u8>) -> Option<Bytes> {
        let (to, address) = (NodeId(node), format!("{}:1", host(node)));
        self.stranger.call(to, &address, service, Bytes::from(question), ASK_TIME).await.ok()
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

    /// One more clerk, with its own name and choices.
    pub(crate) fn clerk(self: &Arc<Self>) -> Clerk {
        Clerk::new(self.clone(), self.clerks.fetch_add(1, Ordering::Relaxed), self.shape.seed)
    }

    pub(crate) fn seed(&self) -> u64 {
        self.shape.seed
    }

    fn connected_nodes(&self) -> Vec<u64> {
        let isolated = self.lock().isolated.clone();
        self.up().into_iter().filter(|node| !isolated.contains(node)).collect()
    }

    /// Who leads `group`, as a running and connected node that holds a replica says of itself.
    pub(crate) async fn leader(&self, group: u64) -> u64 {
        eventually(&format!("somebody leads g{group}"), async || {
            let mut leader = None;
            for node in self.connected_nodes() {
                let status = self.door(node)?.get("/v1/status").await.json();
                let replicas = status["groups"].as_array()?;
                let replica = replicas.iter().find(|of| of["id"] == group && of["role"] == "leader");
                let term = replica.filter(|of| of["serving"] == true).and_then(|of| of["term"].as_u64());
                leader = leader.max(term.map(|term| (term, node)));
            }
            leader.map(|(_, node)| node)
        })
        .await
    }

    /// Who leads the controller's group: the one connected node that answers what only its leader may, which a quorum
    /// has just confirmed.
    pub(crate) async fn controller(&self) -> u64 {
        eventually("somebody leads the controller", async || {
            for node in self.connected_nodes() {
                let answer = self.ask_as_peer(node, CONTROLLER_SERVICE, HISTORY_QUESTION.to_vec()).await;
                if answer.is_some_and(|answer| answer.get(1) == Some(&HISTORY_ANSWER)) {
                    return Some(node);
                }
            }
            None
        })
        .await
    }

    /// The nodes that are to hold a group's replicas.
    pub(crate) async fn servers(&self, group: u64) -> Vec<u64> {
        Map::newest(self).await.replicas(group)
    }

    /// Ends the test: every node runs and reaches every other, all shards are at rest, and what clerks were told
    /// holds together. Reads every key once more, so that what was written last is looked at too.
    pub(crate) async fn end(self: &Arc<Self>) {
        self.make_reliable();
        self.lock().isolated.clear();
        self.rewire();
        self.boot_all().await;
        Map::settled(self).await;
        let mut reader = self.clerk();
        for key in self.history.keys() {
            reader.get(&key).await;
        }
        self.history.check();
        let running = std::mem::take(&mut self.lock().running).into_values();
        let stops = running.map(|running| running.node.shutdown(Duration::from_millis(200)));
        for stopped in futures_util::future::join_all(stops).await {
            stopped.unwrap();
        }
        self.stranger.shutdown().await.unwrap();
    }
}
