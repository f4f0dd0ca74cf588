//! A node: disk, groups, router and front end, started and stopped in order.

use crate::formation;
use crate::frontend::Frontend;
use crate::http;
use crate::machine::KvMachine;
use crate::router::{BATCH_SERVICE, Router};
use crate::shard_map::ShardMap;
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use proto::{GroupId, Limits, NodeId};
use raftstore::{
    Address, Clock, Disk, Fatal, Group, Host, HostConfig, Network, RaftConfig, Refusal, Services, SledDisk,
    StorageConfig, SystemClock, TcpNetwork, TransportConfig,
};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Everything that a node is told at its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// The cluster's name; nodes of other clusters are turned away, and so are their disks.
    pub cluster: String,
    /// This node's id; a key of `members`.
    pub node: NodeId,
    /// The directory of this node's disk; made where it is missing.
    pub data: PathBuf,
    /// Where to listen for other nodes, `host:port`.
    pub peer_listen: String,
    /// Where to listen for clients, `host:port`.
    pub http_listen: String,
    /// The nodes that the cluster is born with, this one among them, and where others reach them.
    pub members: BTreeMap<NodeId, Address>,
    /// How many groups share the shards; the same on every node, fixed when the cluster is born.
    pub groups: u32,
    /// How many shards there are; the same on every node, fixed when the cluster is born.
    pub shards: u32,
    /// How large keys, values and batches may be.
    pub limits: Limits,
    /// How groups behave.
    pub raft: RaftConfig,
    /// How the log and the snapshots are kept.
    pub storage: StorageConfig,
    /// How nodes talk.
    pub transport: TransportConfig,
    /// How the front end behaves.
    pub http: http::Config,
}

impl NodeConfig {
    /// Checks the fields alone and against each other.
    ///
    /// # Errors
    /// A sentence that names the field.
    pub fn validate(&self) -> Result<(), String> {
        if self.cluster.is_empty() || self.cluster.len() > 64 {
            return Err(format!("cluster must be a name of 1 to 64 bytes, not {:?}", self.cluster));
        }
        if self.node.0 == 0 {
            return Err("node must be at least 1".into());
        }
        if !self.members.contains_key(&self.node) {
            return Err(format!("members must name this node: {} is missing", self.node));
        }
        let too_long = |address: &&Address| address.peer.len() > 255 || address.http.len() > 255;
        if let Some(address) = self.members.values().find(too_long) {
            return Err(format!("members must have addresses of at most 255 bytes: {address}"));
        }
        if self.shards == 0 || self.shards > 1 << 16 {
            return Err(format!("shards must lie between 1 and 65536, not {}", self.shards));
        }
        if self.groups == 0 || self.groups > self.shards {
            return Err(format!("groups must lie between 1 and shards of {}, not {}", self.shards, self.groups));
        }
        let command_bytes = self.limits.key_bytes_max + self.limits.value_bytes_max + 64;
        if command_bytes > self.raft.command_bytes_max {
            return Err(format!(
                "key_bytes_max and value_bytes_max must fit command_bytes_max of {}, not {command_bytes}",
                self.raft.command_bytes_max
            ));
        }
        self.raft.validate().map_err(|error| error.to_string())?;
        self.transport.validate()?;
        self.http.validate(&self.limits).map_err(|error| error.to_string())
    }
}

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
    host: Arc<Host>,
    groups: BTreeMap<GroupId, Group<KvMachine>>,
    server: http::Server,
    node: NodeId,
    formation: tokio::task::JoinHandle<()>,
}

impl Node {
    /// Starts a node on this machine's disk, network and clock.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running.
    pub async fn start(config: NodeConfig) -> Result<Self, StartError> {
        let disk = SledDisk::open(&config.data).map_err(|error| Fatal::Storage(error.to_string()))?;
        Self::start_on(config, Arc::new(disk), Arc::new(TcpNetwork::default()), Arc::new(SystemClock)).await
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
        let host = Host::start(host_config, disk, network, clock).await?;
        match Self::assemble(&config, &host).await {
            Ok(node) => Ok(node),
            Err(error) => {
                if let Err(also) = host.shutdown().await {
                    tracing::warn!(%also, "node did not stop cleanly after it could not start");
                }
                Err(error)
            }
        }
    }

    async fn assemble(config: &NodeConfig, host: &Arc<Host>) -> Result<Self, StartError> {
        let map = ShardMap { shards: config.shards, groups: config.groups };
        let mut groups = BTreeMap::new();
        for id in map.group_ids() {
            groups.insert(id, host.open_group(id, KvMachine::new).await?);
        }
        let router = Arc::new(Router { host: host.clone(), groups: groups.clone(), map, limits: config.limits });
        host.set_services(Arc::new(Peers { router: router.clone() }));
        let frontend = Frontend::new(config, router);
        let server = http::Server::bind(&config.http_listen, config.http.clone(), Arc::new(frontend)).await?;
        let formation = tokio::spawn(formation::form(host.clone(), groups.clone(), config.members.clone()));
        Ok(Self { host: host.clone(), groups, server, node: config.node, formation })
    }

    /// Where clients reach this node, with the port that was taken for port 0.
    pub fn http_address(&self) -> SocketAddr {
        self.server.local_addr()
    }

    /// This node's id.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Waits until every group has a leader and this node's replicas have recovered.
    ///
    /// # Errors
    /// What is missing after `deadline`, for people.
    pub async fn ready(&self, deadline: Duration) -> Result<(), String> {
        let until = Instant::now() + deadline;
        for group in self.groups.values() {
            let left = || until.saturating_duration_since(Instant::now());
            group.wait_for_leader(left()).await.map_err(|error| error.to_string())?;
            group.wait_for_recovery(left()).await.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Resolves with the reason once the node must stop.
    pub async fn failed(&self) -> String {
        self.host.failed().await.to_string()
    }

    /// Stops: takes no new requests, hands leaderships over, finishes requests under way, closes the disk; all
    /// of it within about `deadline`.
    ///
    /// # Errors
    /// Where the log could not be closed cleanly; what was acknowledged is safe all the same.
    pub async fn shutdown(self, deadline: Duration) -> Result<(), Fatal> {
        self.formation.abort();
        self.host.hand_over(deadline / 2).await;
        let drained = self.server.shutdown(deadline / 2).await;
        tracing::debug!(?drained, "front end stopped");
        self.host.shutdown().await
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
                BATCH_SERVICE => Ok(router.serve(body, deadline).await),
                _ => Err(Refusal::Unsupported(format!("service {service} is unknown"))),
            }
        }
        .boxed()
    }
}
