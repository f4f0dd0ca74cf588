//! The nodes: started, cut apart, stopped, wiped and looked at.

use crate::door::Door;
pub(crate) use crate::wait::eventually;
use kvserver::{HttpConfig, Node, NodeConfig, StartError};
use proto::{GroupId, Limits, NodeId};
use raftstore::{Address, Disk, RaftConfig, SimulatedDisk, SimulatedNetwork, SystemClock, TransportConfig};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// What must happen, happens within this time even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) const NODES: [u64; 3] = [1, 2, 3];

/// How many shards the clusters of these tests have.
pub(crate) const SHARDS: u32 = 16;

/// What the nodes are told beside who they are.
#[derive(Clone)]
pub(crate) struct Settings {
    /// Who the nodes of a [`Fleet`] are.
    pub(crate) nodes: [u64; 3],
    pub(crate) groups: u32,
    pub(crate) limits: Limits,
    pub(crate) raft: RaftConfig,
    pub(crate) transport: TransportConfig,
    pub(crate) http: HttpConfig,
}

impl Default for Settings {
    fn default() -> Self {
        let raft = RaftConfig {
            heartbeat_interval_ms: 50,
            election_timeout_ms_min: 250,
            election_timeout_ms_max: 450,
            ..RaftConfig::default()
        };
        let transport = TransportConfig {
            connect_timeout_ms: 300,
            silence_timeout_ms: 500,
            ..TransportConfig::default()
        };
        let (limits, http) = (Limits::default(), HttpConfig::default());
        Self { nodes: NODES, groups: 1, limits, raft, transport, http }
    }
}

impl Settings {
    pub(crate) fn groups(groups: u32) -> Self {
        Self { groups, ..Self::default() }
    }

    /// What one of the `members` of a cluster is told at its birth.
    pub(crate) fn node_config(
        &self,
        node: u64,
        members: impl IntoIterator<Item = u64>,
        shards: u32,
    ) -> NodeConfig {
        let members = members.into_iter().map(|node| (NodeId(node), address(node))).collect();
        NodeConfig {
            // It need not be among the members of its cluster.
            peer_listen: address(node).peer,
            http_listen: "127.0.0.1:0".into(),
            groups: self.groups,
            shards,
            limits: self.limits,
            raft: self.raft.clone(),
            transport: self.transport.clone(),
            http: self.http.clone(),
            ..NodeConfig::founder("test", NodeId(node), members)
        }
    }
}

/// The host that a node is on, unless it has moved.
pub(crate) fn host(node: u64) -> String {
    format!("n{node}")
}

/// Where a node is, unless it has moved.
pub(crate) fn address(node: u64) -> Address {
    at(&host(node))
}

/// Where a node is that is on this host.
pub(crate) fn at(host: &str) -> Address {
    Address { peer: format!("{host}:1"), http: format!("{host}:2") }
}

/// See the module.
pub(crate) struct Fleet {
    pub(crate) settings: Settings,
    pub(crate) network: SimulatedNetwork,
    pub(crate) disks: BTreeMap<u64, SimulatedDisk>,
    nodes: BTreeMap<u64, Node>,
    doors: BTreeMap<u64, Door>,
}

impl Fleet {
    /// Three nodes that are ready.
    pub(crate) async fn start(settings: Settings) -> Self {
        let mut fleet = Self::prepare(settings);
        fleet.start_all().await;
        fleet
    }

    /// Three nodes that are not started.
    pub(crate) fn prepare(settings: Settings) -> Self {
        Self {
            disks: settings.nodes.into_iter().map(|node| (node, SimulatedDisk::new())).collect(),
            settings,
            network: SimulatedNetwork::new(),
            nodes: BTreeMap::new(),
            doors: BTreeMap::new(),
        }
    }

    pub(crate) fn config(&self, node: u64) -> NodeConfig {
        self.settings.node_config(node, self.settings.nodes, SHARDS)
    }

    pub(crate) async fn start_node(&mut self, node: u64) {
        let started = self.try_start(node, self.config(node)).await;
        started.unwrap_or_else(|error| panic!("n{node}: {error}"));
    }

    pub(crate) async fn try_start(&mut self, node: u64, config: NodeConfig) -> Result<(), StartError> {
        let disk: Arc<dyn Disk> = Arc::new(self.disks[&node].clone());
        // It is on the host on which it listens.
        let network = self.network.host(config.peer_listen.split(':').next().unwrap());
        let started = Node::start_on(config, disk, network, Arc::new(SystemClock));
        let started = tokio::time::timeout(2 * PATIENCE, started).await.expect("a start comes to an end")?;
        self.doors.insert(node, Door::new(started.http_address()));
        self.nodes.insert(node, started);
        Ok(())
    }

    /// Starts whoever does not run and waits until all are ready.
    pub(crate) async fn start_all(&mut self) {
        for node in self.settings.nodes {
            if !self.nodes.contains_key(&node) {
                self.start_node(node).await;
            }
        }
        self.all_ready().await;
    }

    pub(crate) async fn all_ready(&self) {
        for node in self.nodes.values() {
            node.ready(PATIENCE).await.unwrap();
        }
        for (node, door) in &self.doors {
            eventually(&format!("n{node} is ready"), async || {
                (door.get("/readyz").await.status == 200).then_some(())
            })
            .await;
        }
    }

    pub(crate) fn node(&self, node: u64) -> &Node {
        &self.nodes[&node]
    }

    pub(crate) fn door(&self, node: u64) -> &Door {
        &self.doors[&node]
    }

    /// Takes a node out, so that it can be stopped while others are asked.
    pub(crate) fn take(&mut self, node: u64) -> Node {
        self.doors.remove(&node);
        self.nodes.remove(&node).unwrap()
    }

    pub(crate) async fn stop(&mut self, node: u64) {
        self.take(node).shutdown(Duration::from_secs(5)).await.unwrap();
    }

    /// Stops all at once.
    pub(crate) async fn stop_all(&mut self) {
        self.doors.clear();
        let nodes = std::mem::take(&mut self.nodes).into_values();
        let stops = nodes.map(|node| node.shutdown(Duration::from_millis(200)));
        for stopped in futures_util::future::join_all(stops).await {
            stopped.unwrap();
        }
    }

    /// The fleet's nodes but this one.
    fn peers(&self, node: u64) -> impl Iterator<Item = u64> {
        self.settings.nodes.into_iter().filter(move |other| *other != node)
    }

    /// Cuts a node off from its peers; callers still reach it.
    pub(crate) fn isolate(&self, node: u64) {
        let others: Vec<String> = self.peers(node).map(host).collect();
        let others: Vec<&str> = others.iter().map(String::as_str).collect();
        self.network.partition(&[&host(node)], &others);
    }

    /// Loses all that its peers send to a node: it goes on telling them, and hears nothing back.
    pub(crate) fn deafen(&self, node: u64) {
        self.peers(node).for_each(|other| self.network.cut(&host(other), &host(node)));
    }

    pub(crate) fn heal(&self) {
        self.network.heal();
    }

    /// One replica's status, as the node tells it.
    pub(crate) async fn replica(&self, node: u64, group: u64) -> Value {
        let status = self.door(node).get("/v1/status").await.json();
        let groups = status["groups"].as_array().unwrap();
        groups.iter().find(|of| of["id"] == group).unwrap().clone()
    }

    /// Who leads `group`, once all of `among` agree.
    pub(crate) async fn leader_among(&self, group: u64, among: &[u64]) -> u64 {
        eventually("a leader that all agree on", async || {
            let mut seen = BTreeSet::new();
            let mut leads = false;
            for &node in among {
                let replica = self.replica(node, group).await;
                leads |= replica["role"] == "leader" && replica["leader"] == node;
                seen.insert((replica["leader"].as_u64(), replica["term"].as_u64()));
            }
            let (leader, _) = *seen.first()?;
            (seen.len() == 1 && leads).then_some(leader?)
        })
        .await
    }

    pub(crate) async fn leader(&self, group: u64) -> u64 {
        self.leader_among(group, &self.nodes.keys().copied().collect::<Vec<_>>()).await
    }
}

/// All of [`NODES`] but these.
pub(crate) fn others(than: &[u64]) -> Vec<u64> {
    NODES.into_iter().filter(|node| !than.contains(node)).collect()
}

/// `count` keys for each of `groups` groups, under `prefix`.
pub(crate) fn keys_of_groups(prefix: &str, groups: u32, count: usize) -> BTreeMap<GroupId, Vec<String>> {
    // A cluster is born with as many shards next to each other in each group.
    let group_of =
        |key: &str| GroupId(u64::from(1 + proto::shard_of(key.as_bytes(), SHARDS).0 * groups / SHARDS));
    let mut keys: BTreeMap<GroupId, Vec<String>> =
        (1..=u64::from(groups)).map(|group| (GroupId(group), Vec::new())).collect();
    for number in 0.. {
        let key = format!("{prefix}{number:04}");
        let of = keys.get_mut(&group_of(&key)).unwrap();
        if of.len() < count {
            of.push(key);
        } else if keys.values().all(|keys| keys.len() == count) {
            break;
        }
    }
    keys
}
