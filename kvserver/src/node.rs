//! A node: disk, groups, router and front end, started and stopped in order.

use crate::acquaintance::Acquaintance;
use crate::birth::{self, BornWith};
use crate::config::NodeConfig;
use crate::formation;
use crate::frontend::Frontend;
use crate::http;
use crate::joining;
use crate::moves::{MOVE_SERVICE, Moves, Progress, Source};
use crate::replica::Bounds;
use crate::residence::{Residence, Residents, expected};
use crate::restoration::Restoration;
use crate::router::{BATCH_SERVICE, Router};
use crate::routes::Routes;
use crate::stewardship::Stewardship;
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use proto::{Epoch, GroupId, NodeId, NodeSpec};
use raftstore::{
    Address, Clock, Disk, Fatal, Group, Host, HostConfig, Machine, Network, Refusal, Role, Services,
    SledDisk, SystemClock, TcpNetwork,
};
use shardctrler::{CONTROLLER_SERVICE, ControllerHandle, ControllerMachine, Settings, Shape};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How long the disk may take to close, whatever the deadline: what waits to be written is at most a few dozen
/// megabytes, and a disk that does not take them is not worth waiting for.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(10);

/// The controller's group.
pub(crate) const CONTROLLER: GroupId = GroupId(0);

/// How many replicas a group is to have; fewer where there are fewer nodes.
const REPLICAS: u32 = 3;

/// How often a node that starts looks whether its replicas are open.
const READY_PACE: Duration = Duration::from_millis(20);

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration contradicts itself.
    #[error("configuration: {0}")]
    Config(String),
    /// The cluster that was to be joined cannot be, or not so; the disk remembers nothing of it.
    #[error("cannot join: {0}")]
    Join(String),
    /// The disk, a group or the peers' address.
    #[error(transparent)]
    Host(#[from] Fatal),
    /// The clients' address.
    #[error(transparent)]
    Http(#[from] http::BindError),
}

/// A node that runs.
pub struct Node {
    router: Arc<Router>,
    controller: Arc<ControllerHandle>,
    server: http::Server,
    moves: Arc<Progress>,
    restoration: Arc<Restoration>,
    /// Everything that goes on beside requests.
    tasks: JoinSet<()>,
}

impl Node {
    /// Starts a node on this machine's disk, network and clock.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running.
    pub async fn start(config: NodeConfig) -> Result<Self, StartError> {
        let disk = SledDisk::open(&config.data).map_err(|error| Fatal::Storage(error.to_string()))?;
        Self::start_on(config, Arc::new(disk), Arc::new(TcpNetwork), Arc::new(SystemClock)).await
    }

    /// Starts a node on the given disk, network of nodes and clock; clients reach it on this machine's network.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running.
    pub async fn start_on(
        config: NodeConfig,
        disk: Arc<dyn Disk>,
        network: Arc<dyn Network>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StartError> {
        Self::start_within(config, disk, network, Arc::new(TcpNetwork), clock).await
    }

    /// Starts a node on the given disk, network of nodes, network of clients and clock. It answers at once, and serves
    /// keys as soon as its groups have leaders.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running.
    pub async fn start_within(
        config: NodeConfig,
        disk: Arc<dyn Disk>,
        network: Arc<dyn Network>,
        clients: Arc<dyn Network>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StartError> {
        config.validate().map_err(StartError::Config)?;
        let host_config = HostConfig {
            cluster: config.cluster.clone(),
            node: config.node,
            listen: config.peer_listen.clone(),
            raft: config.raft.clone(),
            storage: config.storage.clone(),
            transport: config.transport.clone(),
        };
        let place = Place::find(&config, &host_config, &disk, &network, &clock).await?;
        let host = Host::start(host_config, disk.clone(), network, clock).await?;
        match Self::assemble(&config, place, &host, &disk, &*clients).await {
            Ok(node) => Ok(node),
            Err(error) => {
                if let Err(also) = host.shutdown().await {
                    tracing::warn!(%also, "node did not stop cleanly after it could not start");
                }
                Err(error)
            }
        }
    }

    async fn assemble(
        config: &NodeConfig,
        place: Place,
        host: &Arc<Host>,
        disk: &Arc<dyn Disk>,
        clients: &dyn Network,
    ) -> Result<Self, StartError> {
        let Place { born, known } = place;
        birth::remember(disk, born).await?;
        if let Some(known) = &known {
            known.save(disk).await?;
        }
        tell_addresses(config, host, known.as_ref());
        let is_first = known.is_none();
        let bounds = Bounds {
            shards: born.shards,
            value_bytes_max: config.limits.value_bytes_max,
            answer_bytes_max: config.payload_bytes_max(),
        };
        let group = match is_first {
            true => Some(host.open_group(CONTROLLER, ControllerMachine::new).await?),
            false if host.stored_groups().contains(&CONTROLLER) => {
                Some(host.open_learner(CONTROLLER, ControllerMachine::new).await?)
            }
            false => None,
        };
        let settings = settings(config, host, known.as_ref());
        let (controller, mut tasks) = ControllerHandle::start(host.clone(), group.clone(), settings);
        let residents = Arc::new(Residents::default());
        let source = Arc::new(Source::new(residents.clone()));
        let progress = Arc::new(Progress::default());
        let router = Arc::new(Router {
            host: host.clone(),
            residents: residents.clone(),
            routes: Routes::new(controller.map()),
            shards: born.shards,
            limits: config.limits,
            payload_bytes_max: config.payload_bytes_max(),
            stopping: AtomicBool::new(false),
        });
        let peers = Peers { router: router.clone(), controller: controller.clone(), source: source.clone() };
        host.set_services(Arc::new(peers));
        let is_new = known.as_ref().is_none_or(|known| known.named == Epoch(0));
        let restoration = Restoration::load(disk, host.node(), host.incarnation(), is_new).await?;
        let restoration = Arc::new(restoration);
        let frontend =
            Frontend::new(config, router.clone(), controller.clone(), progress.clone(), restoration.clone());
        let (address, http) = (&config.http_listen, config.http.clone());
        let server = http::Server::bind_on(clients, address, http, Arc::new(frontend)).await?;
        if let Some(group) = group.filter(|_| is_first) {
            let members = config.members.clone();
            tasks.spawn(formation::form(host.clone(), controller.clone(), group, members));
        }
        if let Some(join) = &config.join {
            tasks.spawn(joining::seek(host.clone(), controller.clone(), join.clone()));
        }
        let followed = controller.clone();
        let (host, controller) = (host.clone(), controller.clone());
        let moves = Moves {
            host: host.clone(),
            controller: controller.clone(),
            residents: residents.clone(),
            source,
            progress: progress.clone(),
        };
        tasks.spawn(moves.run());
        let stewardship = Stewardship { controller: controller.clone(), residents: residents.clone() };
        tasks.spawn(stewardship.run());
        let residence = Residence {
            host,
            controller,
            residents,
            restoration: restoration.clone(),
            bounds,
            born,
            known,
            disk: disk.clone(),
        };
        tasks.spawn(residence.run());
        Ok(Self { router, controller: followed, server, moves: progress, restoration, tasks })
    }

    /// Where clients reach this node, with the port that was taken for port 0.
    pub fn http_address(&self) -> SocketAddr {
        self.server.local_addr()
    }

    /// This node's id.
    pub fn node(&self) -> NodeId {
        self.router.host.node()
    }

    /// This node's replicas, for tests.
    #[cfg(feature = "watch")]
    pub fn watch(&self) -> crate::moves::watch::Watch {
        crate::moves::watch::Watch::new(self.router.residents.clone(), self.controller.clone())
    }

    /// The moves that this node drives.
    pub fn moves(&self) -> &Progress {
        &self.moves
    }

    /// Waits until all replicas of data that the map wants on this node are open, know a leader and have recovered; for
    /// those that wait to be added, too, which [readiness](crate::Service::readiness) does not ask for; and until no
    /// group lacks a vote for this node's sake, which it does.
    ///
    /// # Errors
    /// What is missing after `deadline`, for people.
    pub async fn ready(&self, deadline: Duration) -> Result<(), String> {
        let until = Instant::now() + deadline;
        let mut missing = "the node has not heard of the cluster's map yet".to_owned();
        loop {
            if !self.controller.is_member_of_cluster() {
                if let Some(why) = self.controller.refused() {
                    missing = format!("the node has not joined the cluster yet: {why}");
                }
            } else if let Ok(map) = self.router.routes.map() {
                let open: Vec<_> = expected(&map, &self.router.host)
                    .map(|group| (group, self.router.residents.get(group)))
                    .collect();
                match open.iter().find(|(_, replica)| replica.is_none()) {
                    Some((group, _)) => missing = format!("replica of {group} is not open yet"),
                    None => {
                        for replica in open.into_iter().filter_map(|(_, replica)| replica) {
                            replica.ready(until.saturating_duration_since(Instant::now())).await?;
                        }
                        let lacking = self.restoration.missing(&map);
                        if lacking.is_empty() {
                            return Ok(());
                        }
                        missing = lacking.join(", ");
                    }
                }
            }
            if Instant::now() >= until {
                return Err(missing);
            }
            tokio::time::sleep(READY_PACE).await;
        }
    }

    /// Resolves with the reason once the node must stop.
    pub async fn failed(&self) -> String {
        self.router.host.failed().await.to_string()
    }

    /// Stops: hands leaderships over while it goes on serving, takes no new requests, finishes those under way,
    /// closes the disk. The first three take about `deadline` at most, the last one ten seconds.
    ///
    /// # Errors
    /// Where the log could not be closed cleanly; what was acknowledged is safe all the same.
    pub async fn shutdown(self, deadline: Duration) -> Result<(), Fatal> {
        let Self { router, server, mut tasks, .. } = self;
        router.stopping.store(true, Ordering::Relaxed);
        tasks.shutdown().await;
        router.host.hand_over(deadline / 2).await;
        let drained = server.shutdown(deadline / 2).await;
        tracing::debug!(?drained, "front end stopped");
        let closed = tokio::time::timeout(CLOSE_TIME_MAX, router.host.shutdown()).await;
        let late = format!("groups and log did not close within {} ms", CLOSE_TIME_MAX.as_millis());
        closed.unwrap_or(Err(Fatal::Storage(late)))
    }
}

/// Where a node stands before it starts.
struct Place {
    /// What the cluster was born with.
    born: BornWith,
    /// Whom it knows of a cluster that was born; `None` for a first member that has not heard of the birth yet.
    known: Option<Acquaintance>,
}

impl Place {
    /// What the disk remembers, what the configuration says, or what the seeds tell. Nothing is written.
    async fn find(
        config: &NodeConfig,
        host_config: &HostConfig,
        disk: &Arc<dyn Disk>,
        network: &Arc<dyn Network>,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, StartError> {
        let told = BornWith { shards: config.shards, groups: config.groups };
        let (born, known) = (birth::recall(disk).await?, Acquaintance::load(disk).await?);
        match (born, known, &config.join) {
            // It has joined before, or was a first member: the rest of its configuration says nothing new.
            (Some(born), Some(known), join) if born.groups == 0 || join.is_some() => {
                Ok(Self { born, known: Some(known) })
            }
            (Some(born), None, Some(_)) if born.groups > 0 => {
                let why = "join must be left out: the data directory is that of a first member, which needs members";
                Err(StartError::Config(why.to_owned()))
            }
            (_, _, Some(join)) => {
                let (network, clock) = (network.clone(), clock.clone());
                let told = joining::introduce(config, join, host_config.clone(), network, clock).await?;
                Ok(Self { born: told.born, known: Some(told.known) })
            }
            (Some(born), None, None) if born.groups == 0 => {
                let why = "join must name a node to ask: this one had not met its cluster when it stopped";
                Err(StartError::Config(why.to_owned()))
            }
            (_, known, None) => Ok(Self { born: told, known }),
        }
    }
}

/// Says where the nodes are, before anything asks for one: this node itself; the others where the configuration has
/// them, which may have been written for nodes that all came back elsewhere; and first, where they were last.
fn tell_addresses(config: &NodeConfig, host: &Host, known: Option<&Acquaintance>) {
    host.advertise(&config.address().peer);
    let configured = config.members.iter().map(|(node, address)| (node, &address.peer));
    let known = known.iter().flat_map(|known| &known.peers);
    for (node, peer) in configured.chain(known).filter(|(node, _)| **node != config.node) {
        host.locate(*node, peer);
    }
}

/// What this node says of itself to the controller, and with what it has the cluster born.
fn settings(config: &NodeConfig, host: &Host, known: Option<&Acquaintance>) -> Settings {
    let own = config.address();
    let mut seeds = config.members.clone();
    for (node, peer) in known.iter().flat_map(|known| &known.peers) {
        seeds.entry(*node).or_insert_with(|| Address { peer: peer.clone(), http: String::new() });
    }
    seeds.remove(&config.node);
    let spec = NodeSpec {
        peer: own.peer,
        http: own.http,
        zone: config.zone.clone(),
        weight: config.weight,
        incarnation: host.incarnation(),
    };
    let birth = Shape { shards: config.shards, groups: config.groups, replicas: REPLICAS };
    let birth = known.is_none().then_some(birth);
    Settings { seeds, named: known.map_or(Epoch(0), |known| known.named), spec, birth }
}

/// Answers other nodes.
struct Peers {
    router: Arc<Router>,
    controller: Arc<ControllerHandle>,
    source: Arc<Source>,
}

/// Who the members of a group are that this node leads, as a quorum has just confirmed.
async fn members_of(
    residents: &Residents,
    controller: &ControllerHandle,
    group: GroupId,
) -> Option<BTreeSet<NodeId>> {
    match group {
        CONTROLLER => confirmed_members(&controller.group()?).await,
        group => confirmed_members(&residents.get(group)?.group).await,
    }
}

async fn confirmed_members<M: Machine>(group: &Group<M>) -> Option<BTreeSet<NodeId>> {
    group.read(|_| ()).await.ok()?;
    let status = group.status();
    (status.role == Role::Leader && status.settled).then(|| status.members.into_keys().collect())
}

impl Services for Peers {
    fn call(
        &self,
        _from: NodeId,
        service: u8,
        body: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, Refusal>> {
        let (router, controller, source) =
            (self.router.clone(), self.controller.clone(), self.source.clone());
        async move {
            match service {
                BATCH_SERVICE => router.serve(body, deadline).await,
                CONTROLLER_SERVICE => {
                    let members = |group| members_of(&router.residents, &controller, group);
                    controller.serve(&body, deadline, members).await
                }
                MOVE_SERVICE => source.serve(&body).await,
                _ => Err(Refusal::Unsupported(format!("service {service} is unknown"))),
            }
        }
        .boxed()
    }
}
