//! Many groups in one process: one log, one transport, one set of peers.
//!
//! Owns the order of starting (disk, transport, groups) and of stopping (leaderships away, groups, transport,
//! disk). Whatever fails in any of them fails the host, for good: a node stops rather than guesses.

use crate::compaction::Compactor;
use crate::config::RaftConfig;
use crate::disk::{Disk, lock};
use crate::error::Fatal;
use crate::formation::{Acquaintance, Formation};
use crate::group::{Group, Inner, READ_INDEX_SERVICE};
use crate::machine::Machine;
use crate::network::Network;
use crate::peer;
use crate::proposer::Proposer;
use crate::read_index::ReadIndexer;
use crate::replica::{Shared, StateMachine};
use crate::replicated_time::ReplicatedTime;
use crate::runtime::{Clock, Supervisor};
use crate::staleness::Staleness;
use crate::storage::{Identity, Storage, StorageConfig, StorageStats};
use crate::transport::{
    CallError, Inbound, LogFloor, Refusal, Replica, Server, Transport, TransportConfig, TransportStats,
};
use crate::types::Address;
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt, join_all};
use proto::{GroupId, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{OnceCell, watch};

/// A node's place and manners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostConfig {
    /// The cluster's name: nodes of other clusters are turned away, and so are their disks.
    pub cluster: String,
    /// This node.
    pub node: NodeId,
    /// Where to listen for other nodes, `host:port`.
    pub listen: String,
    /// How groups behave.
    pub raft: RaftConfig,
    /// How the log and the snapshots are kept.
    pub storage: StorageConfig,
    /// How nodes talk.
    pub transport: TransportConfig,
}

/// Answers what other nodes ask of this one on the request lane, beside the groups.
pub trait Services: Send + Sync + 'static {
    /// Carries out a request; `service` numbers from 16 are free. The future is dropped once `deadline` has
    /// passed.
    ///
    /// # Errors
    /// [`Refusal`] where nothing was done and nothing will be.
    fn call(
        &self,
        from: NodeId,
        service: u8,
        body: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, Refusal>>;
}

/// A group of any machine, as far as the host drives it.
trait Hosted: Send + Sync {
    fn replica(&self) -> Arc<dyn Replica>;
    fn read_index(&self) -> BoxFuture<'static, Bytes>;
    fn hand_over(&self, deadline: Duration) -> BoxFuture<'_, ()>;
    fn shutdown(&self) -> BoxFuture<'_, ()>;
}

impl<M: Machine> Hosted for Group<M> {
    fn replica(&self) -> Arc<dyn Replica> {
        peer::replica(&self.inner)
    }

    fn read_index(&self) -> BoxFuture<'static, Bytes> {
        let group = self.clone();
        async move { group.serve_read_index().await }.boxed()
    }

    fn hand_over(&self, deadline: Duration) -> BoxFuture<'_, ()> {
        async move {
            if let Err(error) = Group::hand_over(self, None, deadline).await {
                tracing::info!(group = %self.id(), %error, "leadership stays until it times out");
            }
        }
        .boxed()
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Group::shutdown(self).boxed()
    }
}

/// The service number, on the transport's request lane, by which first members ask for each other's
/// incarnation.
const FORMATION_SERVICE: u8 = 1;

/// How long to wait for one answer of a first member, and between two rounds of asking.
const FORMATION_PACE: Duration = Duration::from_millis(200);

/// What the transport asks; shared with it, so that the host itself is not.
struct Directory {
    groups: RwLock<BTreeMap<GroupId, Arc<dyn Hosted>>>,
    /// Groups that are being opened or dropped; those that run are not here.
    claimed: Mutex<BTreeSet<GroupId>>,
    services: OnceCell<Arc<dyn Services>>,
    formation: RwLock<Formation>,
}

/// The right to open or to drop a group, which one task has at a time.
struct Claim {
    directory: Arc<Directory>,
    group: GroupId,
}

impl Drop for Claim {
    fn drop(&mut self) {
        lock(&self.directory.claimed).remove(&self.group);
    }
}

impl Directory {
    /// Claims a group until the claim is dropped.
    fn claim(self: &Arc<Self>, group: GroupId) -> Result<Claim, Fatal> {
        if lock(&self.claimed).insert(group) {
            return Ok(Claim { directory: self.clone(), group });
        }
        Err(Fatal::Group { group, why: "it is being opened or dropped already".into() })
    }

    fn formation(&self) -> Formation {
        self.formation.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn is_formed(&self) -> bool {
        self.formation.read().unwrap_or_else(PoisonError::into_inner).members.is_some()
    }

    fn acquaint(&self, question: Bytes) -> BoxFuture<'static, Result<Bytes, Refusal>> {
        let answer = self.formation().answer(question);
        std::future::ready(answer.map_err(|error| Refusal::Unsupported(error.to_string()))).boxed()
    }

    fn hosted(&self, group: GroupId) -> Option<Arc<dyn Hosted>> {
        self.groups.read().unwrap_or_else(PoisonError::into_inner).get(&group).cloned()
    }

    fn read_index(&self, body: &[u8]) -> BoxFuture<'static, Result<Bytes, Refusal>> {
        let group = <[u8; 8]>::try_from(body).map(|bytes| GroupId(u64::from_le_bytes(bytes)));
        let hosted = group.map(|group| self.hosted(group));
        async move {
            match hosted {
                Ok(Some(hosted)) => Ok(hosted.read_index().await),
                Ok(None) => Err(Refusal::Unavailable("this node has no replica of that group".into())),
                Err(_) => Err(Refusal::Unsupported("a read index is asked for by a group's id".into())),
            }
        }
        .boxed()
    }
}

impl Inbound for Directory {
    fn replica(&self, group: GroupId) -> Option<Arc<dyn Replica>> {
        // A replica that has not formed must not vote: see the formation module.
        if !self.is_formed() {
            return None;
        }
        self.hosted(group).map(|hosted| hosted.replica())
    }

    fn call(
        &self,
        from: NodeId,
        service: u8,
        body: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, Refusal>> {
        match (service, self.services.get()) {
            (READ_INDEX_SERVICE, _) => self.read_index(&body),
            (FORMATION_SERVICE, _) => self.acquaint(body),
            (_, Some(services)) => services.call(from, service, body, deadline),
            (_, None) => std::future::ready(Err(Refusal::Unavailable("the node is starting".into()))).boxed(),
        }
    }
}

/// A node's groups and what they share.
pub struct Host {
    config: HostConfig,
    clock: Arc<dyn Clock>,
    disk: Arc<dyn Disk>,
    storage: Storage,
    transport: Arc<Transport>,
    server: Server,
    directory: Arc<Directory>,
    /// Why the host must stop, once it must.
    failure: watch::Sender<Option<Fatal>>,
}

impl Host {
    /// Opens the disk, recovers what stands on it, and listens for other nodes.
    ///
    /// # Errors
    /// [`Fatal`] where the configuration, the disk or the address is unfit.
    pub async fn start(
        config: HostConfig,
        disk: Arc<dyn Disk>,
        network: Arc<dyn Network>,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, Fatal> {
        config.raft.validate()?;
        config.transport.validate().map_err(Fatal::Config)?;
        let identity = Identity { cluster: config.cluster.clone(), node: config.node };
        let storage = Storage::open(disk.clone(), identity, config.storage.clone()).await;
        let storage = storage.map_err(|error| Fatal::Storage(error.to_string()))?;
        let transport =
            Transport::new(config.node, config.cluster.clone(), network, config.transport.clone());
        let formation = RwLock::new(Formation::load(&disk).await?);
        let directory = Arc::new(Directory {
            groups: RwLock::default(),
            claimed: Mutex::default(),
            services: OnceCell::new(),
            formation,
        });
        let server = transport
            .serve(&config.listen, directory.clone())
            .await
            .map_err(|error| Fatal::Listen { address: config.listen.clone(), why: error.to_string() })?;
        let failure = watch::Sender::new(None);
        let host = Arc::new(Self { config, clock, disk, storage, transport, server, directory, failure });
        host.watch_storage();
        Ok(host)
    }

    fn watch_storage(&self) {
        let (mut storage, failure) = (self.storage.failure(), self.failure.clone());
        tokio::spawn(async move {
            // An error means that the storage was closed: nothing failed.
            if let Ok(reason) = storage.wait_for(Option::is_some).await {
                let why = reason.as_ref().map(ToString::to_string).unwrap_or_default();
                fail(&failure, Fatal::Storage(why));
            }
        });
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.config.node
    }

    /// Where this node listens for others, with the port that was taken for port 0.
    pub fn local_address(&self) -> &str {
        self.server.local_address()
    }

    /// Sets who answers other nodes' requests; once.
    ///
    /// # Panics
    /// When called again.
    pub fn set_services(&self, services: Arc<dyn Services>) {
        assert!(self.directory.services.set(services).is_ok(), "a host's services are set once");
    }

    /// Starts this node's replica of `id` from what the disk holds of it; `fresh` makes an empty machine.
    ///
    /// # Errors
    /// [`Fatal`] where the disk's state cannot be loaded, or the replica runs already or is being opened or
    /// dropped.
    pub async fn open_group<M: Machine>(
        &self,
        id: GroupId,
        fresh: impl Fn() -> M + Send + Sync + 'static,
    ) -> Result<Group<M>, Fatal> {
        let failed = |why: String| Fatal::Group { group: id, why };
        // Two replicas on one log would destroy it, so nothing is made before it is certain to be the only
        // one.
        let _claim = self.directory.claim(id)?;
        if self.directory.hosted(id).is_some() {
            return Err(failed("it runs on this node already".into()));
        }
        let raft_config = &self.config.raft;
        let time = Arc::new(ReplicatedTime::new(self.clock.clone()));
        let shared = Shared::new(id, Arc::new(fresh), time.clone());
        let snapshots = self.storage.snapshots(id);
        let machine = StateMachine {
            shared: shared.clone(),
            snapshots: snapshots.clone(),
            copy_bytes_per_second_max: raft_config.snapshot_bytes_per_second_max,
        };
        let log = self.storage.log(id);
        let floor = LogFloor::default();
        let network = self.transport.factory(id, floor.clone());
        let raft =
            openraft::Raft::new(self.config.node.0, raft_config.openraft()?, network, log.clone(), machine);
        let supervisor = Supervisor::default();
        let raft = supervisor.watch_over(raft).await.map_err(|error| failed(error.to_string()))?;
        let live_bytes = {
            let log = log.clone();
            move || log.bytes()
        };
        let compactor = Compactor {
            raft: raft.clone(),
            shared: shared.clone(),
            snapshots: snapshots.clone(),
            config: raft_config.clone(),
            floor,
            live_bytes: Box::new(live_bytes.clone()),
        };
        tokio::spawn(compactor.run());
        let group = Group {
            inner: Arc::new(Inner {
                id,
                node: self.config.node,
                proposer: Proposer::start(id, raft.clone(), raft_config, time),
                reads: ReadIndexer::start(id, raft.clone(), raft_config),
                raft,
                shared,
                snapshots,
                log_bytes: Box::new(live_bytes),
                staleness: Arc::new(Staleness::new()),
                transport: self.transport.clone(),
                recovered: AtomicBool::new(false),
            }),
        };
        self.watch_group(&group, supervisor);
        Self::recover_group(&group);
        let mut groups = self.directory.groups.write().unwrap_or_else(PoisonError::into_inner);
        groups.insert(id, Arc::new(group.clone()));
        Ok(group)
    }

    /// Stops this node's replica of `id`, where it runs, and forgets its log, vote and snapshot, durably: the
    /// replica has left the group for good. Were it still a member, its votes would be forgotten with the rest.
    /// After that it may be opened again, as a new one.
    ///
    /// # Errors
    /// [`Fatal::Storage`] where the disk fails, [`Fatal::Group`] where it is being opened or dropped already.
    pub async fn drop_group(&self, id: GroupId) -> Result<(), Fatal> {
        let _claim = self.directory.claim(id)?;
        // It stays listed until it is forgotten: whoever gives up half-way can only drop it again, not open
        // it.
        if let Some(hosted) = self.directory.hosted(id) {
            hosted.shutdown().await;
        }
        self.storage.forget(id).await.map_err(|error| Fatal::Storage(error.to_string()))?;
        self.directory.groups.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
        Ok(())
    }

    /// The groups of which this node's disk holds something, in order.
    pub fn stored_groups(&self) -> Vec<GroupId> {
        self.storage.groups()
    }

    fn watch_group<M: Machine>(&self, group: &Group<M>, supervisor: Supervisor) {
        let (group, failure) = (group.clone(), self.failure.clone());
        tokio::spawn(async move {
            let why = tokio::select! {
                biased;
                panic = supervisor.panicked() => Some(format!("a task of it panicked: {panic}")),
                why = group.failed() => why,
            };
            let Some(why) = why else { return };
            fail(&failure, Fatal::Group { group: group.id(), why });
            // Not every task is missed by the others: whoever waits for the one that is gone must be told.
            group.shutdown().await;
        });
    }

    fn recover_group<M: Machine>(group: &Group<M>) {
        let group = group.clone();
        tokio::spawn(async move {
            match group.recover().await {
                Ok(()) => tracing::debug!(group = %group.id(), "replica has recovered"),
                Err(error) => tracing::debug!(%error, "replica did not recover"),
            }
        });
    }

    /// Waits until every first member has been met, once in a cluster's life; then, and at once ever after,
    /// groups may be given their members.
    ///
    /// # Errors
    /// [`Fatal::Amnesia`] where the cluster knows this node by another disk, which is lost: its votes are lost
    /// with it. [`Fatal::Storage`] where the disk fails.
    pub async fn form(&self, members: &BTreeMap<NodeId, Address>) -> Result<(), Fatal> {
        let mut formation = self.directory.formation();
        if formation.members.is_some() {
            return Ok(());
        }
        let mut met = BTreeMap::from([(self.config.node, formation.incarnation)]);
        loop {
            // All of them each time: one that is down must not keep another's word from being heard.
            let unmet = members.iter().filter(|(node, _)| !met.contains_key(node));
            let asked = unmet.map(|(&other, address)| {
                self.meet(&formation, other, &address.peer).map(move |a| (other, a))
            });
            for (other, acquaintance) in join_all(asked).await {
                match acquaintance {
                    Some(Acquaintance { remembered: Some(old), .. }) if old != formation.incarnation => {
                        return Err(Fatal::Amnesia { node: self.config.node, by: other });
                    }
                    Some(acquaintance) => drop(met.insert(other, acquaintance.incarnation)),
                    None => {
                        tracing::info!(node = %self.config.node, waits_for = %other, "cluster is not formed yet")
                    }
                }
            }
            if members.keys().all(|node| met.contains_key(node)) {
                break;
            }
            tokio::time::sleep(FORMATION_PACE).await;
        }
        formation.members = Some(met);
        formation.save(&self.disk).await?;
        *self.directory.formation.write().unwrap_or_else(PoisonError::into_inner) = formation;
        Ok(())
    }

    async fn meet(&self, own: &Formation, other: NodeId, address: &str) -> Option<Acquaintance> {
        let question = own.question(self.config.node);
        let call = self.transport.call(other, address, FORMATION_SERVICE, question, FORMATION_PACE);
        let answer =
            call.await.inspect_err(|error| tracing::debug!(%other, %error, "first member is not met yet"));
        Acquaintance::decode(answer.ok()?).ok()
    }

    /// Sends a request to a service of another node.
    ///
    /// # Errors
    /// [`CallError`] says whether the request may have been carried out.
    pub async fn call(
        &self,
        to: NodeId,
        address: &str,
        service: u8,
        body: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, CallError> {
        self.transport.call(to, address, service, body, deadline).await
    }

    /// Says that the node must stop, and why; the first reason stays.
    pub fn fail(&self, fatal: Fatal) {
        fail(&self.failure, fatal);
    }

    /// Resolves with the reason once the node must stop.
    pub async fn failed(&self) -> Fatal {
        let mut failure = self.failure.subscribe();
        loop {
            if let Some(fatal) = failure.borrow_and_update().clone() {
                return fatal;
            }
            if failure.changed().await.is_err() {
                // The sender lives in `self`.
                std::future::pending::<()>().await;
            }
        }
    }

    /// What the log and the snapshots did and hold.
    pub fn storage_stats(&self) -> StorageStats {
        self.storage.stats()
    }

    /// The bytes that this node's log and snapshots take on disk. Lists a few dozen files: for people, not for
    /// each request.
    ///
    /// # Errors
    /// [`Fatal::Storage`] where the disk cannot say.
    pub fn disk_bytes(&self) -> Result<u64, Fatal> {
        self.disk.bytes().map_err(|error| Fatal::Storage(error.to_string()))
    }

    /// What went over the wire.
    pub fn transport_stats(&self) -> TransportStats {
        self.transport.stats()
    }

    /// Hands away this node's leaderships, so that writes go on elsewhere at once; as far as that succeeds
    /// within `deadline`.
    pub async fn hand_over(&self, deadline: Duration) {
        let groups = self.hosted();
        join_all(groups.iter().map(|group| group.hand_over(deadline))).await;
    }

    fn hosted(&self) -> Vec<Arc<dyn Hosted>> {
        let groups = self.directory.groups.read().unwrap_or_else(PoisonError::into_inner);
        groups.values().cloned().collect()
    }

    /// Stops groups, transport and disk, in that order. What was acknowledged stays; what was not ends with an
    /// unknown outcome.
    ///
    /// # Errors
    /// [`Fatal`] where the log could not be closed cleanly. It is recovered at the next start all the same.
    pub async fn shutdown(&self) -> Result<(), Fatal> {
        let groups = self.hosted();
        join_all(groups.iter().map(|group| group.shutdown())).await;
        self.directory.groups.write().unwrap_or_else(PoisonError::into_inner).clear();
        self.server.shutdown().await;
        self.transport.shutdown().await;
        self.storage.close().await.map_err(|error| Fatal::Storage(error.to_string()))
    }
}

/// Keeps the first reason.
fn fail(failure: &watch::Sender<Option<Fatal>>, fatal: Fatal) {
    let first = failure.send_if_modified(|reason| {
        let first = reason.is_none();
        if first {
            *reason = Some(fatal.clone());
        }
        first
    });
    if first {
        tracing::error!(%fatal, "node must stop");
    }
}
