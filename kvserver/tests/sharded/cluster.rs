//! A sharded cluster whose nodes are cut off and looked at, crash and start again, while clerks go on.

use crate::clerk::Clerk;
use crate::door::Door;
use crate::fleet::{address, host};
use crate::history::History;
use crate::map::Map;
use crate::rack::Rack;
pub(crate) use crate::rack::{SHARDS, Shape};
use crate::wait::eventually;
use bytes::Bytes;
use proto::NodeId;
use raftstore::{
    Host, HostConfig, RaftConfig, SimulatedDisk, SimulatedNetwork, StorageConfig, SystemClock,
    TransportConfig,
};
use std::collections::BTreeSet;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

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

impl Shape {
    /// With one node for each replica of three groups.
    pub(crate) fn new(groups: u32, seed: u64) -> Self {
        Self::of(NODES, groups, seed)
    }

    /// On fewer nodes, which groups share.
    pub(crate) fn on_few_nodes(mut self) -> Self {
        self.nodes = NODES_FEW;
        self
    }
}

/// See the module.
pub(crate) struct Cluster {
    rack: Rack,
    isolated: Mutex<BTreeSet<u64>>,
    clerks: AtomicU64,
    stranger: Arc<Host>,
    pub(crate) history: Arc<History>,
}

/// Its nodes, and their power.
impl Deref for Cluster {
    type Target = Rack;

    fn deref(&self) -> &Rack {
        &self.rack
    }
}

/// A host of no cluster's node, which asks nodes past their front ends.
async fn stranger(network: &SimulatedNetwork) -> Arc<Host> {
    let config = HostConfig {
        cluster: "test".into(),
        node: NodeId(99),
        listen: address(99).peer,
        raft: RaftConfig::default(),
        storage: StorageConfig::default(),
        transport: TransportConfig::default(),
    };
    let (disk, network) = (Arc::new(SimulatedDisk::new()), network.host(&host(99)));
    Host::start(config, disk, network, Arc::new(SystemClock)).await.unwrap()
}

impl Cluster {
    /// Nodes that are ready.
    pub(crate) async fn start(shape: Shape) -> Arc<Self> {
        let disks = shape.nodes().map(|node| (node, SimulatedDisk::new())).collect();
        let rack = Rack::new(shape, disks);
        let stranger = stranger(&rack.network).await;
        rack.boot_all().await;
        rack.ready().await;
        Arc::new(Self {
            rack,
            isolated: Mutex::default(),
            clerks: AtomicU64::new(1),
            stranger,
            history: Arc::new(History::new()),
        })
    }

    fn isolated(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.isolated.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The front ends of all nodes that run.
    pub(crate) fn doors(&self) -> Vec<Door> {
        self.doors_of(|_| true)
    }

    /// The front ends of all nodes that run and are not cut off.
    pub(crate) fn connected(&self) -> Vec<Door> {
        let isolated = self.isolated();
        self.doors_of(|node| !isolated.contains(node))
    }

    /// Cuts a node off from its peers; callers still reach it.
    pub(crate) fn isolate(&self, node: u64) {
        self.isolated().insert(node);
        self.rewire();
    }

    /// Takes a node back.
    pub(crate) fn connect(&self, node: u64) {
        self.isolated().remove(&node);
        self.rewire();
    }

    /// Heals the network and cuts it again where it must be: it has no finer knife.
    fn rewire(&self) {
        let isolated = self.isolated().clone();
        self.network.heal();
        for &node in &isolated {
            for other in self.nodes().filter(|other| *other != node) {
                self.network.partition(&[&host(node)], &[&host(other)]);
            }
        }
    }

    /// Asks a node as another node would.
    pub(crate) async fn ask_as_peer(&self, node: u64, service: u8, question: Vec<u8>) -> Option<Bytes> {
        let (to, address) = (NodeId(node), address(node).peer);
        self.stranger.call(to, &address, service, Bytes::from(question), ASK_TIME).await.ok()
    }

    /// One more clerk, with its own name and choices.
    pub(crate) fn clerk(self: &Arc<Self>) -> Clerk {
        Clerk::new(self.clone(), self.clerks.fetch_add(1, Ordering::Relaxed), self.seed())
    }

    fn connected_nodes(&self) -> Vec<u64> {
        let isolated = self.isolated().clone();
        self.up().into_iter().filter(|node| !isolated.contains(node)).collect()
    }

    /// Who leads `group`, as a running and connected node that holds a replica says of itself.
    pub(crate) async fn leader(&self, group: u64) -> u64 {
        eventually(&format!("somebody leads g{group}"), async || self.leader_if_any(group).await).await
    }

    /// The same, of this moment.
    pub(crate) async fn leader_if_any(&self, group: u64) -> Option<u64> {
        let mut leader = None;
        for node in self.connected_nodes() {
            let status = self.door(node)?.get("/v1/status").await.json();
            let replicas = status["groups"].as_array()?;
            let replica = replicas.iter().find(|of| of["id"] == group && of["role"] == "leader");
            let term = replica.filter(|of| of["serving"] == true).and_then(|of| of["term"].as_u64());
            leader = leader.max(term.map(|term| (term, node)));
        }
        leader.map(|(_, node)| node)
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
        self.isolated().clear();
        self.rewire();
        self.boot_all().await;
        Map::settled(self).await;
        let mut reader = self.clerk();
        for key in self.history.keys() {
            reader.get(&key).await;
        }
        self.history.check();
        self.stop().await;
        self.stranger.shutdown().await.unwrap();
    }
}
