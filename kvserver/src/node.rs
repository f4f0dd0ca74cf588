//! A node: disk, groups, router and front end, started and stopped in order.

use crate::birth;
use crate::config::NodeConfig;
use crate::formation;
use crate::frontend::Frontend;
use crate::http;
use crate::machine::KvMachine;
use crate::replica::{Bounds, Replica};
use crate::router::{BATCH_SERVICE, Router};
use crate::shard_map::ShardMap;
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use proto::NodeId;
use raftstore::{
    Clock, Disk, Fatal, Host, HostConfig, Network, Refusal, Services, SledDisk, SystemClock, TcpNetwork,
};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// How long the disk may take to close, whatever the deadline: what waits to be written is at most a few dozen
/// megabytes, and a disk that does not take them is not worth waiting for.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(10);

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
    formation: JoinHandle<()>,
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
        let map = ShardMap { shards: config.shards, groups: config.groups };
        birth::remember(disk, map).await?;
        let bounds = Bounds {
            shards: config.shards,
            value_bytes_max: config.limits.value_bytes_max,
            answer_bytes_max: config.payload_bytes_max(),
        };
        let mut replicas = BTreeMap::new();
        for id in map.group_ids() {
            let group = host.open_group(id, KvMachine::new).await?;
            replicas.insert(id, Replica::new(group, map.shards_of(id), bounds));
        }
        let router = Arc::new(Router {
            host: host.clone(),
            replicas,
            map,
            limits: config.limits,
            payload_bytes_max: config.payload_bytes_max(),
            stopping: AtomicBool::new(false),
        });
        host.set_services(Arc::new(Peers { router: router.clone() }));
        let frontend = Frontend::new(config, router.clone());
        let server = http::Server::bind(&config.http_listen, config.http.clone(), Arc::new(frontend)).await?;
        let formation = tokio::spawn(formation::form(router.clone(), config.members.clone()));
        Ok(Self { router, server, formation })
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
        for replica in self.router.replicas.values() {
            replica.ready(until.saturating_duration_since(Instant::now())).await?;
        }
        Ok(())
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
        let Self { router, server, formation } = self;
        router.stopping.store(true, Ordering::Relaxed);
        formation.abort();
        router.host.hand_over(deadline / 2).await;
        let drained = server.shutdown(deadline / 2).await;
        tracing::debug!(?drained, "front end stopped");
        let closed = tokio::time::timeout(CLOSE_TIME_MAX, router.host.shutdown()).await;
        let late = format!("groups and log did not close within {} ms", CLOSE_TIME_MAX.as_millis());
        closed.unwrap_or(Err(Fatal::Storage(late)))
    }
}

/// Answers other nodes.
struct Peers {
    router: Arc<Router>,
}

impl Services for Peers {
    fn call(
        &self,
        _from: NodeId,
        service: u8,
        body: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, Refusal>> {
        let router = self.router.clone();
        async move {
            match service {
                BATCH_SERVICE => router.serve(body, deadline).await,
                _ => Err(Refusal::Unsupported(format!("service {service} is unknown"))),
            }
        }
        .boxed()
    }
}
