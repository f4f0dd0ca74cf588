//! A node: disk, groups, router and front end, started and stopped in order.

use crate::birth;
use crate::config::NodeConfig;
use crate::formation;
use crate::frontend::Frontend;
use crate::http;
use crate::moves::{MOVE_SERVICE, Moves, Source};
use crate::replica::Bounds;
use crate::residence::{Residence, Residents, expected};
use crate::router::{BATCH_SERVICE, Router};
use crate::routes::Routes;
use crate::shard_map::ShardMap;
use crate::stewardship::Stewardship;
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use proto::{GroupId, NodeId, NodeSpec};
use raftstore::{
    Clock, Disk, Fatal, Host, HostConfig, Network, Refusal, Role, Services, SledDisk, SystemClock, TcpNetwork,
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
const CONTROLLER: GroupId = GroupId(0);

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
    server: http::Server,
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

    /// Starts a node on the given disk, network and clock. It answers at once, and serves keys as soon as its
    /// groups have leaders.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running.
    pub async fn start_on(
        config: NodeConfig,
        disk: Arc<dyn Disk>,
        network: Arc<dyn Network>,
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
        let host = Host::start(host_config, disk.clone(), network, clock).await?;
        match Self::assemble(&config, &host, &disk).await {
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
        host: &Arc<Host>,
        disk: &Arc<dyn Disk>,
    ) -> Result<Self, StartError> {
        let born = ShardMap { shards: config.shards, groups: config.groups };
        birth::remember(disk, born).await?;
        let bounds = Bounds {
            shards: config.shards,
            value_bytes_max: config.limits.value_bytes_max,
            answer_bytes_max: config.payload_bytes_max(),
        };
        let group = host.open_group(CONTROLLER, ControllerMachine::new).await?;
        let (controller, mut tasks) =
            ControllerHandle::start(host.clone(), Some(group.clone()), settings(config, host));
        let residents = Arc::new(Residents::default());
        let source = Arc::new(Source::new(residents.clone()));
        let router = Arc::new(Router {
            host: host.clone(),
            residents: residents.clone(),
            routes: Routes::new(controller.map()),
            shards: config.shards,
            limits: config.limits,
            payload_bytes_max: config.payload_bytes_max(),
            stopping: AtomicBool::new(false),
        });
        let peers = Peers { router: router.clone(), controller: controller.clone(), source: source.clone() };
        host.set_services(Arc::new(peers));
        let frontend = Frontend::new(config, router.clone(), controller.clone());
        let server = http::Server::bind(&config.http_listen, config.http.clone(), Arc::new(frontend)).await?;
        tasks.spawn(formation::form(host.clone(), group, config.members.clone()));
        let (host, controller) = (host.clone(), controller.clone());
        let moves = Moves {
            host: host.clone(),
            controller: controller.clone(),
            residents: residents.clone(),
            source,
        };
        tasks.spawn(moves.run());
        let stewardship = Stewardship { controller: controller.clone(), residents: residents.clone() };
        tasks.spawn(stewardship.run());
        tasks.spawn(Residence { host, controller, residents, bounds, born }.run());
        Ok(Self { router, server, tasks })
    }

    /// Where clients reach this node, with the port that was taken for port 0.
    pub fn http_address(&self) -> SocketAddr {
        self.server.local_addr()
    }

    /// This node's id.
    pub fn node(&self) -> NodeId {
        self.router.host.node()
    }

    /// Waits until every group has a leader and this node's replicas have recovered.
    ///
    /// # Errors
    /// What is missing after `deadline`, for people.
    pub async fn ready(&self, deadline: Duration) -> Result<(), String> {
        let until = Instant::now() + deadline;
        let mut missing = "the node has not heard of the cluster's map yet".to_owned();
        loop {
            if let Ok(map) = self.router.routes.map() {
                let open: Vec<_> = expected(&map, &self.router.host)
                    .map(|group| (group, self.router.residents.get(group)))
                    .collect();
                match open.iter().find(|(_, replica)| replica.is_none()) {
                    Some((group, _)) => missing = format!("replica of {group} is not open yet"),
                    None => {
                        for replica in open.into_iter().filter_map(|(_, replica)| replica) {
                            replica.ready(until.saturating_duration_since(Instant::now())).await?;
                        }
                        return Ok(());
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
        let Self { router, server, mut tasks } = self;
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

/// What this node says of itself to the controller, and with what it has the cluster born.
fn settings(config: &NodeConfig, host: &Host) -> Settings {
    let own = config.members.get(&config.node).cloned().unwrap_or_default();
    let mut seeds = config.members.clone();
    seeds.remove(&config.node);
    let spec = NodeSpec {
        peer: own.peer,
        http: own.http,
        zone: String::new(),
        weight: 1,
        incarnation: host.incarnation(),
    };
    let birth = Shape { shards: config.shards, groups: config.groups, replicas: REPLICAS };
    Settings { seeds, spec, birth: Some(birth) }
}

/// Answers other nodes.
struct Peers {
    router: Arc<Router>,
    controller: Arc<ControllerHandle>,
    source: Arc<Source>,
}

/// Who the members of a group are that this node leads, as a quorum has just confirmed.
async fn members_of(residents: &Residents, group: GroupId) -> Option<BTreeSet<NodeId>> {
    let replica = residents.get(group)?;
    replica.group.read(|_| ()).await.ok()?;
    let status = replica.group.status();
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
                    controller.serve(&body, deadline, |group| members_of(&router.residents, group)).await
                }
                MOVE_SERVICE => source.serve(&body).await,
                _ => Err(Refusal::Unsupported(format!("service {service} is unknown"))),
            }
        }
        .boxed()
    }
}
