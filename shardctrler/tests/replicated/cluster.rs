//! Nodes with a replica of the controller's group and a handle on it: started, crashed, cut off and asked.

use bytes::Bytes;
use proto::{
    ClusterMap, ControllerChange, ControllerError, ControllerReply, Epoch, GroupId, MoveView, NewGroups,
    NodeId, NodeSpec, ShardMap,
};
use raftstore::{
    Address, Host, HostConfig, Link, RaftConfig, Refusal, Role, Services, SimulatedClock, SimulatedDisk,
    SimulatedNetwork, StorageConfig, TransportConfig,
};
use shardctrler::{CONTROLLER_SERVICE, ControllerHandle, ControllerMachine, ExecuteError, Settings, Shape};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep};

pub const NODES: u64 = 5;
pub const SHARDS: u32 = 64;

/// What must happen, happens within this time.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long one command may take before it is looked for on the map.
const COMMAND_TIME: Duration = Duration::from_secs(2);

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// The controller's group.
const CONTROLLER: GroupId = GroupId(0);

struct Node {
    host: Arc<Host>,
    handle: Arc<ControllerHandle>,
    tasks: JoinSet<()>,
    formation: JoinHandle<()>,
}

/// Passes on what other nodes ask.
struct Peers(Arc<ControllerHandle>);

impl Services for Peers {
    fn call(
        &self,
        _from: NodeId,
        service: u8,
        body: Bytes,
        deadline: Duration,
    ) -> Pin<Box<dyn Future<Output = Result<Bytes, Refusal>> + Send>> {
        assert_eq!(service, CONTROLLER_SERVICE);
        let handle = self.0.clone();
        Box::pin(async move { handle.serve(&body, deadline, |_| async { None }).await })
    }
}

/// See the module.
pub struct Cluster {
    seed: u64,
    groups: u32,
    /// The first so many nodes have a replica of the controller's group, the others join.
    members: u64,
    network: SimulatedNetwork,
    disks: RefCell<BTreeMap<u64, SimulatedDisk>>,
    nodes: RefCell<BTreeMap<u64, Node>>,
    isolated: RefCell<BTreeSet<u64>>,
    crashes: Cell<u64>,
}

fn host(node: u64) -> String {
    format!("h{node}")
}

fn address(node: u64) -> Address {
    Address { peer: format!("{}:1", host(node)), http: format!("{}:2", host(node)) }
}

/// Waits until `condition` gives something, and panics with `what` where it never does.
pub async fn eventually<T, F>(what: &str, mut condition: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(Instant::now() < until, "never came: {what}");
        sleep(LOOK).await;
    }
}

impl Cluster {
    /// Five nodes, and as many groups at the birth, once all nodes know the map.
    pub async fn start(groups: u32, seed: u64) -> Self {
        Self::start_with(NODES, groups, seed).await
    }

    /// As [`start`](Self::start), with replicas of the controller's group on the first `members` alone.
    pub async fn start_with(members: u64, groups: u32, seed: u64) -> Self {
        let cluster = Self::start_unborn(members, groups, seed).await;
        for node in 1..=NODES {
            eventually("a node knows the map", async || cluster.known(node)).await;
        }
        cluster
    }

    /// As [`start_with`](Self::start_with), before anybody knows a map.
    pub async fn start_unborn(members: u64, groups: u32, seed: u64) -> Self {
        let offset = std::env::var("FLOTILLA_SEED_OFFSET").map(|offset| offset.parse::<u64>());
        let seed = offset.map_or(seed, |offset| seed + 1_000 * offset.unwrap());
        println!("seed {seed}");
        raftstore::seed(seed);
        let cluster = Self {
            seed,
            groups,
            members,
            network: SimulatedNetwork::new(),
            disks: RefCell::new((1..=NODES).map(|node| (node, SimulatedDisk::new())).collect()),
            nodes: RefCell::default(),
            isolated: RefCell::default(),
            crashes: Cell::new(0),
        };
        cluster.boot_all().await;
        cluster
    }

    /// Starts a node on its disk as it stands. Snapshots are made after a few commands.
    pub async fn boot(&self, node: u64) {
        let raft = RaftConfig { snapshot_log_bytes_min: 2_000, log_bytes_kept: 0, ..RaftConfig::default() };
        let config = HostConfig {
            cluster: "test".into(),
            node: NodeId(node),
            listen: address(node).peer,
            raft,
            storage: StorageConfig::default(),
            transport: TransportConfig::default(),
        };
        let disk = Arc::new(self.disks.borrow()[&node].clone());
        let clock = Arc::new(SimulatedClock::starting_at(node * 1_000_000));
        let host = Host::start(config, disk, self.network.host(&host(node)), clock).await.unwrap();
        let addresses = |nodes: u64| -> BTreeMap<NodeId, Address> {
            (1..=nodes).map(|node| (NodeId(node), address(node))).collect()
        };
        let members = addresses(self.members);
        let group = match members.contains_key(&NodeId(node)) {
            true => Some(host.open_group(CONTROLLER, ControllerMachine::new).await.unwrap()),
            false => None,
        };
        let Address { peer, http } = address(node);
        let spec = NodeSpec { peer, http, zone: String::new(), weight: 1, incarnation: host.incarnation() };
        let mut seeds = addresses(NODES);
        seeds.remove(&NodeId(node));
        let shape = Shape { shards: SHARDS, groups: self.groups, replicas: 3 };
        let birth = group.is_some().then_some(shape);
        let settings = Settings { seeds, named: Epoch(0), spec, birth };
        let (handle, mut tasks) = ControllerHandle::start(host.clone(), group.clone(), settings);
        let named = handle.clone();
        tasks.spawn(async move {
            let mut map = named.map();
            if map.wait_for(|_| named.named() > Epoch(0)).await.is_ok() {
                named.remembered();
            }
        });
        host.set_services(Arc::new(Peers(handle.clone())));
        let forming = host.clone();
        let formation = tokio::spawn(async move {
            let Some(group) = group else { return };
            let formed = async {
                forming.form(&members).await?;
                group.bootstrap(&members).await
            };
            if let Err(fatal) = formed.await {
                forming.fail(fatal);
            }
        });
        let before = self.nodes.borrow_mut().insert(node, Node { host, handle, tasks, formation });
        assert!(before.is_none(), "n{node} runs already");
    }

    pub async fn boot_all(&self) {
        for node in (1..=NODES).filter(|node| !self.nodes.borrow().contains_key(node)).collect::<Vec<_>>() {
            self.boot(node).await;
        }
    }

    /// Takes a node's power: what was not synced is lost.
    pub async fn crash(&self, node: u64) {
        let seed = self.seed ^ (self.crashes.get() << 8);
        self.crashes.set(self.crashes.get() + 1);
        let crashed = self.nodes.borrow_mut().remove(&node).unwrap();
        let survived = self.disks.borrow()[&node].crash(seed);
        self.disks.borrow_mut().insert(node, survived);
        (1..=NODES).for_each(|other| self.network.reset(&host(node), &host(other)));
        crashed.formation.abort();
        drop(crashed.tasks);
        let _without_power = crashed.host.shutdown().await.err();
    }

    pub async fn crash_all(&self) {
        for node in self.up() {
            self.crash(node).await;
        }
    }

    pub fn up(&self) -> Vec<u64> {
        self.nodes.borrow().keys().copied().collect()
    }

    /// Cuts a node off from all others.
    pub fn isolate(&self, node: u64) {
        self.isolated.borrow_mut().insert(node);
        let others: Vec<String> = (1..=NODES).filter(|other| *other != node).map(host).collect();
        let others: Vec<&str> = others.iter().map(String::as_str).collect();
        self.network.partition(&[&host(node)], &others);
    }

    /// Cuts the nodes on one side off from those on the other, and from nobody else.
    pub fn cut(&self, one: &[u64], other: &[u64]) {
        for (one, other) in
            one.iter().flat_map(|one| other.iter().map(move |other| (host(*one), host(*other))))
        {
            self.network.partition(&[&one], &[&other]);
        }
    }

    /// Makes the way between two nodes so long, in each direction.
    pub fn delay(&self, one: u64, other: u64, delay: Duration) {
        let link = Link { delay_min: delay, delay_max: delay, ..Link::default() };
        self.network.set_link(&host(one), &host(other), link);
        self.network.set_link(&host(other), &host(one), link);
    }

    pub fn heal(&self) {
        self.isolated.borrow_mut().clear();
        self.network.heal();
    }

    fn connected(&self) -> Vec<u64> {
        let isolated = self.isolated.borrow();
        self.up().into_iter().filter(|node| !isolated.contains(node)).collect()
    }

    pub fn handle(&self, node: u64) -> Arc<ControllerHandle> {
        self.nodes.borrow()[&node].handle.clone()
    }

    /// The map that a node knows.
    pub fn known(&self, node: u64) -> Option<Arc<ClusterMap>> {
        self.handle(node).map().borrow().clone()
    }

    /// Who leads the controller's group, of those that are connected.
    pub async fn leader(&self) -> u64 {
        eventually("the controller has a leader", async || {
            let leads = |node: &u64| {
                let status = self.handle(*node).group().map(|group| group.status());
                status.filter(|status| status.role == Role::Leader).map(|status| (status.term, *node))
            };
            self.connected().iter().filter_map(leads).max().map(|(_, node)| node)
        })
        .await
    }

    /// Which group serves which shard at an epoch, or now, as a connected node finds out.
    pub async fn shard_map(&self, node: u64, epoch: Option<Epoch>) -> Result<ShardMap, ControllerError> {
        eventually("the controller tells its map", async || {
            match self.handle(node).history(epoch, COMMAND_TIME).await {
                Ok(map) => Some(Ok(map)),
                Err(ExecuteError::Refused(error)) => Some(Err(error)),
                Err(ExecuteError::Unreached(_) | ExecuteError::Unknown(_)) => None,
            }
        })
        .await
    }

    /// The map that all connected nodes know once each knows the controller's present one.
    pub async fn map(&self) -> Arc<ClusterMap> {
        let nodes = self.connected();
        eventually("all nodes know the present map", async || {
            let present = self.shard_map(nodes[0], None).await.ok()?;
            let known: Vec<Arc<ClusterMap>> = nodes.iter().filter_map(|node| self.known(*node)).collect();
            let agree = known.iter().all(|map| map.shard_map == present);
            (agree && known.len() == nodes.len()).then(|| known[0].clone())
        })
        .await
    }

    /// Has a node see a change through that nobody else makes at the same time: where its outcome is not known, it is
    /// said again for the epoch that it was meant for, so it is made once.
    pub async fn change(
        &self,
        node: u64,
        change: ControllerChange,
    ) -> Result<ControllerReply, ControllerError> {
        eventually("a change is answered", async || {
            match self.handle(node).execute(None, change.clone(), COMMAND_TIME).await {
                Ok(reply) => Some(Ok(reply)),
                Err(ExecuteError::Refused(error)) => Some(Err(error)),
                Err(ExecuteError::Unreached(_)) => None,
                Err(ExecuteError::Unknown(why)) => panic!("nothing fails while changes are made: {why}"),
            }
        })
        .await
    }

    pub async fn join(&self, node: u64, count: u32) -> Vec<u64> {
        let change = ControllerChange::GroupAdd { groups: NewGroups::Count(count), weight: 1 };
        match self.change(node, change).await {
            Ok(ControllerReply::GroupsAdded { groups, .. }) => groups.iter().map(|group| group.0).collect(),
            other => panic!("groups join: {other:?}"),
        }
    }

    pub async fn leave(&self, node: u64, group: u64) {
        self.change(node, ControllerChange::GroupRemove { group: GroupId(group) }).await.unwrap();
    }

    /// Says that moves have ended until none is left, and that groups are gone that own nothing any more; the map then.
    /// The leader says so as well, of groups that no node holds, and may be first.
    pub async fn settle(&self, node: u64) -> Arc<ClusterMap> {
        loop {
            let map = self.map().await;
            let spent: Vec<GroupId> = shardctrler::spent(&map).collect();
            if map.moves.is_empty() && spent.is_empty() {
                assert!(map.shard_map.runs.iter().all(|run| run.owner == run.target));
                return map;
            }
            for MoveView { shard, from, to, id, .. } in map.moves.iter().cloned() {
                self.change(node, ControllerChange::MoveDone { shard, from, to, id }).await.unwrap();
            }
            for group in spent {
                let gone = self.change(node, ControllerChange::GroupGone { group }).await;
                assert!(matches!(gone, Ok(_) | Err(ControllerError::UnknownGroup { .. })), "{gone:?}");
            }
        }
    }

    /// Ends everything, so that nothing of this cluster runs beside the next.
    pub async fn end(self) {
        self.crash_all().await;
    }
}
