//! A cluster of nodes in one thread: started, cut apart, killed, restarted, written to and looked at.

use crate::journal::Journal;
use crate::power::{Death, Rack, host_name};
use crate::truth::{Told, Truth, recorded};
use bytes::Bytes;
use proto::{GroupId, NodeId};
use raftstore::{
    Address, Fatal, Group, GroupStatus, Host, HostConfig, Member, ProposeError, RaftConfig, ReadError, Role,
    SimulatedClock, SimulatedDisk, StorageConfig, TransportConfig,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

pub const MS: Duration = Duration::from_millis(1);
pub const SECOND: Duration = Duration::from_secs(1);

/// A quorum that is connected has a leader within this time.
pub const ELECTION: Duration = Duration::from_secs(5);

/// A quorum that is connected agrees within this time.
pub const AGREEMENT: Duration = Duration::from_secs(10);

/// The tasks of a node without power end within this time: longer than any simulated sync takes.
const BURIAL: Duration = Duration::from_secs(120);

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// The one group of most tests.
pub const G: GroupId = GroupId(1);

/// What a cluster is started with.
#[derive(Clone)]
pub struct Settings {
    pub nodes: u64,
    pub groups: Vec<GroupId>,
    pub seed: u64,
    pub raft: RaftConfig,
    pub storage: StorageConfig,
    pub transport: TransportConfig,
}

impl Settings {
    pub fn new(nodes: u64, seed: u64) -> Self {
        Self {
            nodes,
            groups: vec![G],
            seed: crate::seed_of(seed),
            raft: RaftConfig::default(),
            storage: StorageConfig::default(),
            transport: TransportConfig::default(),
        }
    }

    /// Snapshots after about ten small entries, nothing kept behind them, segments of a few records.
    pub fn with_snapshots(mut self) -> Self {
        self.raft.snapshot_log_bytes_min = 500;
        self.raft.log_bytes_kept = 0;
        self.storage.segment_bytes = 2_000;
        self.storage.slack_bytes = 4_000;
        self
    }
}

/// A node that runs.
pub struct Node {
    pub host: Arc<Host>,
    pub groups: BTreeMap<GroupId, Group<Journal>>,
    formation: JoinHandle<()>,
}

/// See the module.
pub struct Cluster {
    pub rack: Arc<Rack>,
    pub settings: Settings,
    pub truths: BTreeMap<GroupId, Arc<Truth>>,
    members: BTreeMap<NodeId, Address>,
    /// Nodes that form nothing, and whose groups are those of others.
    newcomers: BTreeSet<u64>,
    running: BTreeMap<u64, Node>,
    /// What is left in memory of nodes that lost their power by a fuse or by [`Cluster::kill`].
    ghosts: BTreeMap<u64, Node>,
    commands: AtomicU64,
    deaths: AtomicU64,
}

pub fn address_of(node: u64) -> Address {
    Address { peer: format!("{}:1", host_name(node)), http: format!("{}:2", host_name(node)) }
}

/// Waits until `condition` gives something, and panics with `what` after `within`.
pub async fn eventually<T>(what: &str, within: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + within;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < until, "not within {within:?}: {what}");
        tokio::time::sleep(LOOK).await;
    }
}

impl Cluster {
    /// Starts nodes `1..=settings.nodes` and lets them form; does not wait for a leader.
    pub async fn start(settings: Settings) -> Self {
        let mut cluster = Self::prepare(settings);
        for node in cluster.nodes() {
            cluster.boot(node).await.unwrap();
        }
        cluster
    }

    /// The same, with no node started yet.
    pub fn prepare(settings: Settings) -> Self {
        raftstore::seed(settings.seed);
        let members: BTreeMap<NodeId, Address> =
            (1..=settings.nodes).map(|node| (NodeId(node), address_of(node))).collect();
        Self {
            rack: Rack::new(1..=settings.nodes + 3),
            truths: settings.groups.iter().map(|&group| (group, Arc::new(Truth::default()))).collect(),
            members,
            newcomers: (settings.nodes + 1..=settings.nodes + 3).collect(),
            running: BTreeMap::new(),
            ghosts: BTreeMap::new(),
            commands: AtomicU64::new(0),
            deaths: AtomicU64::new(0),
            settings,
        }
    }

    /// The first members.
    pub fn nodes(&self) -> Vec<u64> {
        (1..=self.settings.nodes).collect()
    }

    /// Nodes that run.
    pub fn up(&self) -> Vec<u64> {
        self.running.keys().copied().collect()
    }

    pub fn config(&self, node: u64) -> HostConfig {
        HostConfig {
            cluster: "test".into(),
            node: NodeId(node),
            listen: address_of(node).peer,
            raft: self.settings.raft.clone(),
            storage: self.settings.storage.clone(),
            transport: self.settings.transport.clone(),
        }
    }

    /// Starts a node on its disk as it stands. A first member forms and bootstraps by itself; a newcomer waits to be
    /// added.
    pub async fn boot(&mut self, node: u64) -> Result<(), Fatal> {
        let config = self.config(node);
        self.boot_as(node, config).await
    }

    pub async fn boot_as(&mut self, node: u64, config: HostConfig) -> Result<(), Fatal> {
        assert!(!self.running.contains_key(&node), "n{node} runs already");
        if let Some(ghost) = self.ghosts.remove(&node) {
            ghost.bury().await;
        }
        let (disk, network) = self.rack.plug_in(node);
        // Wall clocks are hours apart, and set back to the same morning by every restart.
        let clock = SimulatedClock::starting_at(node * 10_000_000);
        let host = Host::start(config, disk, network, Arc::new(clock)).await?;
        let mut groups = BTreeMap::new();
        for (&id, truth) in &self.truths {
            let truth = truth.clone();
            let machine = move || Journal::new(truth.clone());
            let opened = match self.newcomers.contains(&node) {
                false => host.open_group(id, machine).await,
                true => host.open_learner(id, machine).await,
            };
            match opened {
                Ok(group) => groups.insert(id, group),
                Err(fatal) => {
                    self.rack.pull(node, Death::Abrupt, self.settings.seed);
                    let formation = tokio::spawn(std::future::ready(()));
                    Node { host, groups, formation }.bury().await;
                    return Err(fatal);
                }
            };
        }
        let members = if self.newcomers.contains(&node) { BTreeMap::new() } else { self.members.clone() };
        let formation = tokio::spawn(form(host.clone(), groups.clone(), members));
        self.running.insert(node, Node { host, groups, formation });
        Ok(())
    }

    /// A node that does not run loses its disk, and will come back as somebody new.
    pub fn wipe(&mut self, node: u64) {
        assert!(!self.running.contains_key(&node), "n{node} runs");
        self.rack.replace_disk(node, SimulatedDisk::new());
        self.open_as_learner_from_now_on(node);
    }

    /// A first member does as newcomers do, from its next start on.
    pub fn open_as_learner_from_now_on(&mut self, node: u64) {
        self.newcomers.insert(node);
    }

    /// A node drops its replica of the only group.
    pub async fn drop_replica(&mut self, node: u64) {
        let group = self.settings.groups[0];
        let running = self.running.get_mut(&node).expect("a node that drops a replica runs");
        running.groups.remove(&group);
        running.host.drop_group(group).await.unwrap();
    }

    /// A node that dropped its replica of the only group opens another.
    pub async fn open_learner(&mut self, node: u64) {
        let (group, truth) = (self.settings.groups[0], self.truth().clone());
        let running = self.running.get_mut(&node).expect("a node that opens a replica runs");
        let opened = running.host.open_learner(group, move || Journal::new(truth.clone())).await;
        running.groups.insert(group, opened.unwrap());
    }

    /// A node as it would be added to a group now.
    pub fn member(&self, node: u64) -> Member {
        Member { address: address_of(node), incarnation: self.node(node).host.incarnation() }
    }

    pub fn node(&self, node: u64) -> &Node {
        self.running.get(&node).unwrap_or_else(|| panic!("n{node} runs"))
    }

    pub fn group(&self, node: u64) -> &Group<Journal> {
        &self.node(node).groups[&self.settings.groups[0]]
    }

    pub fn status(&self, node: u64) -> GroupStatus {
        self.group(node).status()
    }

    /// The truth of the only group.
    pub fn truth(&self) -> &Arc<Truth> {
        &self.truths[&self.settings.groups[0]]
    }

    /// How many commands a node's machine holds.
    pub fn len(&self, node: u64) -> u64 {
        self.group(node).read_stale(Journal::len)
    }

    // Power and cables.

    /// Takes a node's power; it can be booted again.
    pub fn kill(&mut self, node: u64) {
        let death = self.deaths.fetch_add(1, Ordering::Relaxed);
        let how = if death.is_multiple_of(2) { Death::Abrupt } else { Death::Silent };
        self.kill_by(node, how);
    }

    pub fn kill_by(&mut self, node: u64, death: Death) {
        let seed = self.settings.seed ^ (self.deaths.fetch_add(2, Ordering::Relaxed) << 8);
        self.rack.pull(node, death, seed);
        self.lay_out(node);
    }

    /// Notes that a node's power went by a fuse.
    pub fn lay_out(&mut self, node: u64) {
        if let Some(ghost) = self.running.remove(&node) {
            self.ghosts.insert(node, ghost);
        }
    }

    /// Takes the power of all nodes in one instant.
    pub fn kill_all(&mut self) {
        self.up().into_iter().for_each(|node| self.kill_by(node, Death::Abrupt));
    }

    pub async fn boot_all(&mut self) {
        for node in self.nodes() {
            if !self.running.contains_key(&node) {
                self.boot(node).await.unwrap();
            }
        }
    }

    /// Kills and boots a node.
    pub async fn restart(&mut self, node: u64) {
        self.kill(node);
        self.boot(node).await.unwrap();
    }

    /// Stops a node as an operator would.
    pub async fn stop(&mut self, node: u64) {
        let node_stopped = self.running.remove(&node).expect("a node that is stopped runs");
        node_stopped.formation.abort();
        node_stopped.host.hand_over(2 * SECOND).await;
        node_stopped.host.shutdown().await.unwrap();
    }

    /// Ends everything, so that nothing of this cluster runs beside the next.
    pub async fn end(mut self) {
        self.kill_all();
        while let Some((_, ghost)) = self.ghosts.pop_first() {
            ghost.bury().await;
        }
    }

    /// Cuts a node off from all others.
    pub fn isolate(&self, node: u64) {
        self.rack.isolate(node);
    }

    /// Lets a node reach all others again that are not isolated themselves.
    pub fn connect(&self, node: u64) {
        self.rack.connect(node);
    }

    /// Cuts the first members into two sides.
    pub fn split(&self, side: &[u64]) {
        for one in self.nodes() {
            for other in self.nodes().into_iter().filter(|&other| other > one) {
                if side.contains(&one) != side.contains(&other) {
                    self.rack.cut(one, other);
                }
            }
        }
    }

    pub fn heal(&self) {
        self.rack.mend();
    }

    /// The largest set of running nodes that reach each other, by who reaches whom directly.
    pub fn majority(&self) -> Vec<u64> {
        let reach = |&one: &u64| {
            let reached = |&&other: &&u64| !self.rack.is_cut(one, other) && !self.rack.is_cut(other, one);
            self.up().iter().filter(reached).copied().collect::<Vec<_>>()
        };
        self.up().iter().map(reach).max_by_key(Vec::len).unwrap_or_default()
    }

    // Leaders.

    /// The one leader of the nodes that reach each other, once they agree on it.
    pub async fn leader(&self) -> u64 {
        self.leader_of(self.settings.groups[0]).await
    }

    pub async fn leader_of(&self, group: GroupId) -> u64 {
        let members = self.majority();
        let agreed = || {
            let statuses: Vec<GroupStatus> =
                members.iter().map(|&node| self.node(node).groups[&group].status()).collect();
            let leaders: BTreeSet<(u64, Option<NodeId>)> =
                statuses.iter().map(|status| (status.term, status.leader)).collect();
            let (_, leader) = *leaders.first()?;
            let leads = |status: &GroupStatus| status.role == Role::Leader && Some(status.node) == leader;
            (leaders.len() == 1 && statuses.iter().any(leads)).then_some(leader?.0)
        };
        let leader = eventually("a leader that all agree on", ELECTION, agreed).await;
        self.check_leaders();
        leader
    }

    /// As [`leader`](Self::leader), as far as these nodes are concerned.
    pub async fn leader_of_members(&self, members: &[u64]) -> u64 {
        let agreed = || {
            let known: BTreeSet<Option<NodeId>> =
                members.iter().map(|&node| self.status(node).leader).collect();
            let leader = known.first().copied().flatten().filter(|_| known.len() == 1)?;
            (self.status(leader.0).role == Role::Leader).then_some(leader.0)
        };
        eventually("a leader that these agree on", ELECTION, agreed).await
    }

    /// The members, with and without a vote, as a leader has them; all nodes where there is none.
    pub fn member_nodes(&self) -> Vec<u64> {
        let leader = self.leaders().first().map(|&leader| self.status(leader));
        leader.map_or(self.nodes(), |leader| leader.members.keys().map(|node| node.0).collect())
    }

    /// Nodes that lead, as far as they know.
    pub fn leaders(&self) -> Vec<u64> {
        self.up().into_iter().filter(|&node| self.status(node).role == Role::Leader).collect()
    }

    /// No term has two leaders.
    pub fn check_leaders(&self) {
        let mut terms = BTreeMap::new();
        for node in self.leaders() {
            let term = self.status(node).term;
            assert_eq!(terms.insert(term, node), None, "two nodes lead in term {term}");
        }
    }

    // Writing.

    /// A command that was never proposed before.
    pub fn fresh(&self, writer: &str) -> Bytes {
        Bytes::from(format!("{writer}/{}", self.commands.fetch_add(1, Ordering::Relaxed)))
    }

    /// Proposes a command on one node, for as long as that takes.
    pub fn propose(&self, node: u64, command: Bytes) -> impl Future<Output = Told> + Send + use<> {
        self.propose_in(node, self.settings.groups[0], command)
    }

    pub fn propose_in(
        &self,
        node: u64,
        group: GroupId,
        command: Bytes,
    ) -> impl Future<Output = Told> + Send + use<> {
        let (of, truth) = (self.node(node).groups[&group].clone(), self.truths[&group].clone());
        let proposed = command.clone();
        async move { recorded(truth, command, async move { of.propose(proposed).await }).await }
    }

    /// Has one fresh command agreed on, whoever leads, within [`AGREEMENT`]; returns its ordinal.
    pub async fn write(&self) -> u64 {
        self.write_in(self.settings.groups[0]).await
    }

    pub async fn write_in(&self, group: GroupId) -> u64 {
        let until = Instant::now() + AGREEMENT;
        loop {
            for node in self.majority() {
                if self.node(node).groups[&group].status().role != Role::Leader {
                    continue;
                }
                let proposal = self.propose_in(node, group, self.fresh("w"));
                if let Ok(Ok(ordinal)) = timeout(2 * SECOND, proposal).await {
                    return ordinal;
                }
            }
            assert!(Instant::now() < until, "no command of {group} was agreed on within {AGREEMENT:?}");
            tokio::time::sleep(2 * LOOK).await;
        }
    }

    /// As [`write`](Self::write), and every node that runs and is reached applies it within the same bound.
    pub async fn write_all(&self) -> u64 {
        let until = Instant::now() + AGREEMENT;
        let ordinal = self.write().await;
        self.applied(&self.majority(), ordinal + 1, until.saturating_duration_since(Instant::now())).await;
        ordinal
    }

    /// Waits until these nodes hold at least so many commands.
    pub async fn applied(&self, nodes: &[u64], count: u64, within: Duration) {
        for &node in nodes {
            let what = format!("n{node} applies {count} commands");
            eventually(&what, within, || (self.len(node) >= count).then_some(())).await;
        }
    }

    /// Waits until all running nodes hold the same, and all that was acknowledged; then checks everything.
    pub async fn settle(&self) {
        let ordinal = self.write_all().await;
        assert!(self.truth().len() > ordinal);
        let same = || {
            let digests: BTreeSet<u64> =
                self.up().iter().map(|&node| self.group(node).read_stale(Journal::digest)).collect();
            (digests.len() == 1).then_some(())
        };
        eventually("all replicas hold the same", AGREEMENT, same).await;
        self.check();
    }

    /// See [`Truth::check`].
    pub fn check(&self) {
        self.truths.values().for_each(|truth| truth.check());
    }

    /// Reads how many commands there are on one node, linearizably.
    pub async fn read(&self, node: u64) -> Result<u64, ReadError> {
        self.group(node).read(Journal::len).await
    }
}

/// What a node does to join its cluster's life; see the crate's documentation of [`Host::form`].
async fn form(
    host: Arc<Host>,
    groups: BTreeMap<GroupId, Group<Journal>>,
    members: BTreeMap<NodeId, Address>,
) {
    let formed = async {
        host.form(&members).await?;
        for group in groups.values().filter(|_| !members.is_empty()) {
            group.bootstrap(&members).await?;
        }
        Ok::<(), Fatal>(())
    };
    if let Err(fatal) = formed.await {
        host.fail(fatal);
    }
}

impl Node {
    /// Ends the tasks of a node whose power is gone, or that failed.
    async fn bury(self) {
        self.formation.abort();
        let ended = timeout(BURIAL, self.host.shutdown()).await;
        assert!(ended.is_ok(), "the tasks of a node without power end");
    }

    /// The reason why the node must stop, where there is one by now.
    pub async fn failure(&self, within: Duration) -> Option<Fatal> {
        timeout(within, self.host.failed()).await.ok()
    }
}

/// Whether a refusal promises that nothing happened.
pub fn without_effect(told: &Told) -> bool {
    matches!(told, Err(error) if !matches!(error, ProposeError::Unknown { .. }))
}
