//! Clusters whose groups have a replica on every node.
//!
//! Nodes that meet for the first time have their cluster born with three replicas of each group. A cluster
//! that was born before its nodes start is what it was born as: so replicas of the controller alone, on the
//! disks of nodes to come, have it born with as many replicas as there are nodes.

use crate::fleet::{address, host};
use crate::rack::SHARDS;
use crate::wait::eventually;
use proto::{Epoch, GroupId, NodeId, NodeSpec};
use raftstore::{
    Address, Host, HostConfig, RaftConfig, SimulatedDisk, SimulatedNetwork, StorageConfig, SystemClock,
    TransportConfig,
};
use shardctrler::{ControllerHandle, ControllerMachine, Settings, Shape};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

/// The controller's group.
const CONTROLLER: GroupId = GroupId(0);

/// The disks of clusters that were born, by their number of nodes: tests begin with copies of them.
static BORN: Mutex<BTreeMap<u64, BTreeMap<u64, SimulatedDisk>>> = Mutex::const_new(BTreeMap::new());

/// The disks of so many nodes whose cluster was born with one group, and with replicas of it on all of them.
pub(crate) async fn disks(nodes: u64) -> BTreeMap<u64, SimulatedDisk> {
    let mut born = BORN.lock().await;
    let born = match born.entry(nodes) {
        Entry::Occupied(born) => born.into_mut(),
        Entry::Vacant(place) => {
            let disks = (1..=nodes).map(|node| (node, SimulatedDisk::new())).collect();
            give_birth(&disks).await;
            place.insert(disks)
        }
    };
    born.iter().map(|(&node, disk)| (node, disk.duplicate())).collect()
}

async fn give_birth(disks: &BTreeMap<u64, SimulatedDisk>) {
    let network = SimulatedNetwork::new();
    let members: BTreeMap<NodeId, Address> =
        disks.keys().map(|&node| (NodeId(node), address(node))).collect();
    let mut midwives = Vec::new();
    for (&node, disk) in disks {
        midwives.push(Midwife::start(node, disk, &network, &members).await);
    }
    for midwife in &midwives {
        eventually("a cluster is born", async || midwife.handle.map().borrow().clone()).await;
    }
    for mut midwife in midwives {
        midwife.tasks.shutdown().await;
        midwife.host.shutdown().await.unwrap();
    }
}

/// A replica of the controller on the disk of a node to come.
struct Midwife {
    host: Arc<Host>,
    handle: Arc<ControllerHandle>,
    tasks: JoinSet<()>,
}

impl Midwife {
    async fn start(
        node: u64,
        disk: &SimulatedDisk,
        network: &SimulatedNetwork,
        members: &BTreeMap<NodeId, Address>,
    ) -> Self {
        let config = HostConfig {
            cluster: "test".into(),
            node: NodeId(node),
            listen: address(node).peer,
            raft: RaftConfig::default(),
            storage: StorageConfig::default(),
            transport: TransportConfig::default(),
        };
        let network = network.host(&host(node));
        let host = Host::start(config, Arc::new(disk.clone()), network, Arc::new(SystemClock)).await.unwrap();
        let group = host.open_group(CONTROLLER, ControllerMachine::new).await.unwrap();
        let Address { peer, http } = address(node);
        let spec = NodeSpec { peer, http, zone: String::new(), weight: 1, incarnation: host.incarnation() };
        let birth = Shape { shards: SHARDS, groups: 1, replicas: members.len() as u32 };
        let mut seeds = members.clone();
        seeds.remove(&NodeId(node));
        let settings = Settings { seeds, named: Epoch(0), spec, birth: Some(birth) };
        let (handle, mut tasks) = ControllerHandle::start(host.clone(), Some(group.clone()), settings);
        let (forming, members) = (host.clone(), members.clone());
        tasks.spawn(async move {
            let formed = async {
                forming.form(&members).await?;
                group.bootstrap(&members).await
            };
            if let Err(fatal) = formed.await {
                forming.fail(fatal);
            }
        });
        Self { host, handle, tasks }
    }
}
