//! Many groups in one process: one log, one transport, one set of peers.
//!
//! Owns the order of starting (disk, transport, groups) and of stopping (leaderships away, groups, transport,
//! disk). Whatever fails in any of them fails the host, for good: a node stops rather than guesses.

use crate::compaction::Compactor;
use crate::config::RaftConfig;
use crate::directory::{Directory, FORMATION_SERVICE};
use crate::disk::Disk;
use crate::error::Fatal;
use crate::flow_control::FlowControl;
use crate::formation::Formation;
use crate::group::{Group, Inner, Standing};
use crate::lives::{Life, Lives};
use crate::machine::Machine;
use crate::membership;
use crate::network::Network;
use crate::proposer::Proposer;
use crate::read_index::ReadIndexer;
use crate::replica::{Shared, StateMachine};
use crate::replicated_time::ReplicatedTime;
use crate::runtime::{Clock, Runtime, Supervisor, Ticker};
use crate::staleness::Staleness;
use crate::storage::{Identity, Storage, StorageConfig, StorageStats};
use crate::transport::{
    CallError, GreetError, LogFloor, Refusal, Server, Transport, TransportConfig, TransportStats,
};
use crate::types::{Address, ReplicaId};
use bytes::Bytes;
use futures_util::future::{BoxFuture, join_all};
use openraft::async_runtime::AsyncRuntime;
use proto::{GroupId, Incarnation, NodeId};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::sync::watch;

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

/// How long to wait for one answer of a first member, and between two rounds of asking.
const FORMATION_PACE: Duration = Duration::from_millis(200);

/// A node's groups and what they share.
pub struct Host {
    config: HostConfig,
    clock: Arc<dyn Clock>,
    disk: Arc<dyn Disk>,
    storage: Storage,
    transport: Arc<Transport>,
    server: Server,
    directory: Arc<Directory>,
    lives: tokio::sync::Mutex<Lives>,
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
        let directory = Directory::new(Formation::load(&disk).await?);
        let lives = tokio::sync::Mutex::new(Lives::load(&disk).await?);
        let server = transport
            .serve(&config.listen, directory.clone())
            .await
            .map_err(|error| Fatal::Listen { address: config.listen.clone(), why: error.to_string() })?;
        let failure = watch::Sender::new(None);
        let host = Self { config, clock, disk, storage, transport, server, directory, lives, failure };
        let host = Arc::new(host);
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

    /// What this node's disk is: drawn when it was new, so that a node whose disk was lost is told from the node that
    /// it was.
    pub fn incarnation(&self) -> Incarnation {
        self.directory.formation().incarnation
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
        assert!(self.directory.set_services(services), "a host's services are set once");
    }

    /// Starts this node's replica of `id` from what the disk holds of it; `fresh` makes an empty machine. Where the
    /// disk holds nothing, the replica is silent until it is given its group's first members.
    ///
    /// # Errors
    /// [`Fatal`] where the disk's state cannot be loaded, or the replica runs already or is being opened or
    /// dropped.
    pub async fn open_group<M: Machine>(
        &self,
        id: GroupId,
        fresh: impl Fn() -> M + Send + Sync + 'static,
    ) -> Result<Group<M>, Fatal> {
        self.open(id, Standing::FirstMember, fresh).await
    }

    /// As [`open_group`](Self::open_group), for a group that others have: where the disk holds nothing of it, the
    /// replica waits for [`Group::add_learner`] on the group's leader.
    ///
    /// # Errors
    /// As [`open_group`](Self::open_group).
    pub async fn open_learner<M: Machine>(
        &self,
        id: GroupId,
        fresh: impl Fn() -> M + Send + Sync + 'static,
    ) -> Result<Group<M>, Fatal> {
        self.open(id, Standing::Learner, fresh).await
    }

    async fn open<M: Machine>(
        &self,
        id: GroupId,
        standing: Standing,
        fresh: impl Fn() -> M + Send + Sync + 'static,
    ) -> Result<Group<M>, Fatal> {
        let failed = |why: String| Fatal::Group { group: id, why };
        // Two replicas on one log would destroy it, so nothing is made before it is certain to be the only
        // one.
        let _claim = self.directory.claim(id)?;
        if self.directory.hosted(id).is_some() {
            return Err(failed("it runs on this node already".into()));
        }
        let life = self.present_life(id).await?;
        let replica = ReplicaId { incarnation: self.incarnation(), life };
        let known = self.storage.groups().contains(&id);
        let raft_config = &self.config.raft;
        let time = Arc::new(ReplicatedTime::new(self.clock.clone()));
        let shared = Shared::new(id, Arc::new(fresh), time.clone());
        let snapshots = self.storage.snapshots(id);
        let log = self.storage.log(id);
        let log_bytes = {
            let log = log.clone();
            move || log.bytes()
        };
        let flow = Arc::new(FlowControl::new(raft_config, Box::new(log_bytes)));
        let compacted = log.clone();
        let machine = StateMachine {
            shared: shared.clone(),
            snapshots: snapshots.clone(),
            flow: flow.clone(),
            copy_bytes_per_second_max: raft_config.snapshot_bytes_per_second_max,
        };
        let floor = LogFloor::default();
        let network = self.transport.factory(id, floor.clone());
        // It stands for election once a membership names it, and not where one names a predecessor of it.
        let openraft = openraft::Config { enable_elect: false, ..(*raft_config.openraft()?).clone() };
        let raft = openraft::Raft::new(self.config.node.0, Arc::new(openraft), network, log, machine);
        let supervisor = Supervisor::default();
        let raft = supervisor.watch_over(raft).await.map_err(|error| failed(error.to_string()))?;
        let compactor = Compactor {
            raft: raft.clone(),
            shared: shared.clone(),
            snapshots: snapshots.clone(),
            config: raft_config.clone(),
            floor,
            flow: flow.clone(),
            log: compacted,
        };
        // It copies of the machine, too: where that panics, the group has to stop.
        supervisor.watch_over(async { drop(Runtime::spawn(compactor.run())) }).await;
        tokio::spawn(Ticker::new(raft.clone(), raft_config).run());
        let group = Group {
            inner: Arc::new(Inner {
                id,
                node: self.config.node,
                proposer: Proposer::start(id, raft.clone(), raft_config, time, flow.clone()),
                reads: ReadIndexer::start(id, raft.clone(), raft_config),
                raft,
                shared,
                snapshots,
                flow,
                staleness: Arc::new(Staleness::new()),
                transport: self.transport.clone(),
                recovered: AtomicBool::new(false),
                replica,
                standing,
                established: AtomicBool::new(known || standing == Standing::Learner),
                formation: self.directory.shared_formation(),
                changes: Arc::default(),
            }),
        };
        tokio::spawn(membership::watch_over(group.clone()));
        self.watch_group(&group, supervisor);
        Self::recover_group(&group);
        self.directory.list(&group);
        Ok(group)
    }

    /// The life that a replica begins or goes on with, once nothing is left of those before it.
    async fn present_life(&self, id: GroupId) -> Result<u64, Fatal> {
        let life = self.lives.lock().await.of(id);
        if !life.forgotten {
            self.forget(id, life).await?;
        }
        Ok(life.number)
    }

    /// Stops this node's replica of `id`, where it runs, and forgets its log, vote and snapshot, durably. Where it
    /// was still a member, the group has lost it, as by a crash for ever: nobody votes or acknowledges in its name
    /// again. After that it may be opened again, as another replica.
    ///
    /// # Errors
    /// [`Fatal::Storage`] where the disk fails, [`Fatal::Group`] where it is being opened or dropped already.
    pub async fn drop_group(&self, id: GroupId) -> Result<(), Fatal> {
        let _claim = self.directory.claim(id)?;
        let hosted = self.directory.hosted(id);
        let mut life = self.lives.lock().await.of(id);
        if hosted.is_none() && life.forgotten && !self.storage.groups().contains(&id) {
            return Ok(());
        }
        if life.forgotten {
            life = Life { number: life.number + 1, forgotten: false };
            self.lives.lock().await.set(&self.disk, id, life).await?;
        }
        // It stays listed until it is forgotten: whoever gives up half-way can only drop it again, not open
        // it.
        if let Some(hosted) = hosted {
            hosted.shutdown().await;
        }
        self.forget(id, life).await?;
        self.directory.strike(id);
        Ok(())
    }

    /// Forgets what is left of earlier lives, and that there was something left.
    async fn forget(&self, id: GroupId, life: Life) -> Result<(), Fatal> {
        self.storage.forget(id).await.map_err(|error| Fatal::Storage(error.to_string()))?;
        self.lives.lock().await.set(&self.disk, id, Life { forgotten: true, ..life }).await
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

    /// Waits until the first members' incarnations are settled, once in a cluster's life; then, and at once ever
    /// after, groups may be given their members. Settling them takes all first members at the same time; whoever
    /// comes later needs one that knows them. A node that is not among the first members has nothing to wait for.
    ///
    /// # Errors
    /// [`Fatal::Amnesia`] where the cluster knows this node by another disk, which is lost: its votes are lost
    /// with it. It may stop, or go on as one that opens groups as a learner only. [`Fatal::Storage`] where the disk
    /// fails.
    pub async fn form(&self, members: &BTreeMap<NodeId, Address>) -> Result<(), Fatal> {
        let own = self.directory.formation();
        if own.members.is_some() || !members.contains_key(&self.config.node) {
            return Ok(());
        }
        let settles = members.keys().next() == Some(&self.config.node);
        let mut met = BTreeMap::from([(self.config.node, own.incarnation)]);
        loop {
            // All of them each time: one that is down must not keep another's word from being heard, and one may
            // have lost its disk since it was heard last.
            let others = members.iter().filter(|(node, _)| **node != self.config.node);
            let asked =
                others.map(|(&other, address)| async move { (other, self.meet(other, address).await) });
            for (other, heard) in join_all(asked).await {
                match heard {
                    Some(Formation { members: Some(settled), .. }) => {
                        return self.join_formation(settled, other).await;
                    }
                    Some(Formation { incarnation, .. }) => drop(met.insert(other, incarnation)),
                    None => {
                        tracing::info!(node = %self.config.node, waits_for = %other, "cluster is not formed yet")
                    }
                }
            }
            if settles && members.keys().all(|node| met.contains_key(node)) {
                return self.formed(met).await;
            }
            tokio::time::sleep(FORMATION_PACE).await;
        }
    }

    async fn meet(&self, other: NodeId, address: &Address) -> Option<Formation> {
        let call = self.transport.call(other, &address.peer, FORMATION_SERVICE, Bytes::new(), FORMATION_PACE);
        let answer =
            call.await.inspect_err(|error| tracing::debug!(%other, %error, "first member is not met yet"));
        Formation::heard(answer.ok()?).ok()
    }

    /// Takes over what `by` knows of the first members.
    async fn join_formation(&self, settled: BTreeMap<NodeId, Incarnation>, by: NodeId) -> Result<(), Fatal> {
        let node = self.config.node;
        match settled.get(&node) {
            Some(known) if *known == self.incarnation() => self.formed(settled).await,
            Some(_) => Err(Fatal::Amnesia { node, by }),
            None => Err(Fatal::Config(format!("members: {by} has formed the cluster without {node}"))),
        }
    }

    async fn formed(&self, members: BTreeMap<NodeId, Incarnation>) -> Result<(), Fatal> {
        let formation = Formation { members: Some(members), ..self.directory.formation() };
        formation.save(&self.disk).await?;
        self.directory.set_formation(formation);
        Ok(())
    }

    /// Says where other nodes reach this one. It tells them itself whenever it connects, so that they find it again
    /// where it came back at another address. Whoever is not this node for good says nothing.
    ///
    /// # Panics
    /// If the address is longer than 255 bytes.
    pub fn advertise(&self, own: &str) {
        self.transport.advertise(own);
    }

    /// Says that a node is at `address` now. It is tried there first and then wherever it was said to be before;
    /// whoever else answers there is not taken for it.
    pub fn locate(&self, node: NodeId, address: &str) {
        self.transport.locate(node, address);
    }

    /// Asks whoever is at `address` which node of this cluster that is.
    ///
    /// # Errors
    /// [`GreetError`]; [`crate::Unwelcome::NumberInUse`] where it goes by this node's own number.
    pub async fn who_is(&self, address: &str) -> Result<NodeId, GreetError> {
        self.transport.who_is(address).await
    }

    /// Sends a request to a service of another node; at `address`, or wherever else it was said to be.
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

    /// Runs work that may block, and waits for it: on a thread that may, or, where the disk is simulated, here and now.
    pub fn offload(&self, work: BoxFuture<'static, ()>) -> BoxFuture<'static, ()> {
        self.disk.offload(work)
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
        let groups = self.directory.all();
        join_all(groups.iter().map(|group| group.hand_over(deadline))).await;
    }

    /// Stops groups, transport and disk, in that order. What was acknowledged stays; what was not ends with an
    /// unknown outcome.
    ///
    /// # Errors
    /// [`Fatal`] where the log could not be closed cleanly. It is recovered at the next start all the same.
    pub async fn shutdown(&self) -> Result<(), Fatal> {
        let groups = self.directory.all();
        join_all(groups.iter().map(|group| group.shutdown())).await;
        self.directory.clear();
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
