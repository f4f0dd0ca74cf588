//! A node's handle on the controller: it follows the map, sends commands to whoever leads group 0, answers
//! other nodes, gives signs of life, and, while its own replica leads, judges those of the others.
//!
//! Owns the latest map that the node knows, which never goes back, and whether the node is on it. Relies on
//! the controller's machine to refuse what is stale. Must never send a command again of which it does not
//! know the outcome: that is its caller's to decide.

use crate::api::{CONTROLLER_SERVICE, Plan, Question, Sign, Word};
use crate::liveness::Liveness;
use crate::machine::ControllerMachine;
use bytes::Bytes;
use proto::{
    Birth, ClusterMap, ControllerAnswer, ControllerChange, ControllerCommand, ControllerError,
    ControllerReply, Epoch, GroupId, NodeId, NodeSpec, NodeView, ShardMap,
};
use raftstore::{Address, CallError, Group, Host, ProposeError, Refusal, Role};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

/// How long one attempt may take before another node is asked.
const ATTEMPT_TIME_MAX: Duration = Duration::from_secs(2);

/// The pause before another node is asked.
const ATTEMPT_PACE: Duration = Duration::from_millis(50);

/// How often a node gives a sign of life, and the leader judges.
const LIFE_PACE: Duration = Duration::from_secs(1);

/// For how long a replica may be out of touch with its leader before others are asked for the map.
const TOUCH_TIME: Duration = Duration::from_secs(3);

/// How long a node lets another wait with the map.
const FOLLOW_TIME: Duration = Duration::from_secs(5);

/// Why a command was not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExecuteError {
    /// The controller refused it; nothing has changed.
    #[error(transparent)]
    Refused(#[from] ControllerError),
    /// Nobody who leads the controller was reached; nothing has changed and nothing will.
    #[error("the controller was not reached: {0}")]
    Unreached(String),
    /// It was sent, and no answer came: look at the map before saying it again.
    #[error("outcome of the command is unknown: {0}")]
    Unknown(String),
}

/// What a handle is started with.
pub struct Settings {
    /// The cluster's other nodes as far as this one was told, where the controller is looked for.
    pub seeds: BTreeMap<NodeId, Address>,
    /// The epoch of a map that named this node, as its disk remembers; 0 for a node that never joined.
    pub named: Epoch,
    /// What this node says of itself.
    pub spec: NodeSpec,
    /// With what the cluster is born, where this node is among its first.
    pub birth: Option<Shape>,
}

/// The shape of a cluster at its birth; its nodes are the first members of group 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// How many shards, for ever.
    pub shards: u32,
    /// How many groups of data.
    pub groups: u32,
    /// How many replicas of a group.
    pub replicas: u32,
}

/// A node's handle on the controller: the map as it follows it, and the way for commands to whoever leads
/// group 0.
pub struct ControllerHandle {
    host: Arc<Host>,
    /// This node's replica of group 0, while it has one.
    group: watch::Sender<Option<Group<ControllerMachine>>>,
    settings: Settings,
    standing: Mutex<Standing>,
    map: watch::Sender<Option<Arc<ClusterMap>>>,
    /// Who was last said to lead group 0.
    leader: Mutex<Option<NodeId>>,
    /// While this node's replica leads.
    liveness: Mutex<Option<Liveness>>,
}

/// What the cluster knows of this node.
#[derive(Debug)]
struct Standing {
    /// The epoch of the latest map that named it.
    named: Epoch,
    /// Why the controller last refused to let it join.
    refused: Option<String>,
}

impl ControllerHandle {
    /// A handle, and the tasks that keep it up to date; they end when they are dropped.
    pub fn start(
        host: Arc<Host>,
        group: Option<Group<ControllerMachine>>,
        settings: Settings,
    ) -> (Arc<Self>, JoinSet<()>) {
        let standing = Mutex::new(Standing { named: settings.named, refused: None });
        let handle = Arc::new(Self {
            host,
            group: watch::Sender::new(group),
            settings,
            standing,
            map: watch::Sender::new(None),
            leader: Mutex::default(),
            liveness: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(handle.clone().follow_replica());
        tasks.spawn(handle.clone().follow_others());
        tasks.spawn(handle.clone().live());
        tasks.spawn(handle.clone().lead());
        (handle, tasks)
    }

    /// Follows the map; `None` until the first one is known.
    pub fn map(&self) -> watch::Receiver<Option<Arc<ClusterMap>>> {
        self.map.subscribe()
    }

    /// This node's replica of group 0, while it has one.
    pub fn group(&self) -> Option<Group<ControllerMachine>> {
        self.group.borrow().clone()
    }

    /// This node has a replica of group 0 from now on, or has none any more.
    pub fn set_group(&self, group: Option<Group<ControllerMachine>>) {
        self.group.send_replace(group);
    }

    /// Whether the latest map names this node, on its present disk.
    pub fn is_member_of_cluster(&self) -> bool {
        let map = self.map.borrow();
        let own = map.as_ref().and_then(|map| self.view_in(map).map(|view| view.spec.incarnation));
        own == Some(self.host.incarnation())
    }

    /// The epoch of the latest map that named this node; 0 where none did.
    pub fn named(&self) -> Epoch {
        self.lock_standing().named
    }

    /// Whether this node was a member and was removed since: a map that is later than one that named it does
    /// not.
    pub fn was_removed(&self) -> bool {
        let named = self.named();
        let map = self.map.borrow();
        named > Epoch(0)
            && map.as_ref().is_some_and(|map| map.shard_map.epoch > named && self.view_in(map).is_none())
    }

    /// Why the controller last refused to let this node join, while it does.
    pub fn refused(&self) -> Option<String> {
        self.lock_standing().refused.clone()
    }

    /// Has the controller carry out a change.
    ///
    /// # Errors
    /// [`ExecuteError`] says whether it may have been carried out.
    pub async fn execute(
        &self,
        expect: Option<Epoch>,
        change: ControllerChange,
        deadline: Duration,
    ) -> Result<ControllerReply, ExecuteError> {
        let question = Question::Execute(ControllerCommand { expect, change });
        match self.ask_leader(&question, deadline).await? {
            Word::Executed(answer) => Ok(answer?),
            other => Err(ExecuteError::Unknown(format!("the answer makes no sense: {other:?}"))),
        }
    }

    /// Which group served which shard at an epoch, or does now.
    ///
    /// # Errors
    /// [`ExecuteError`].
    pub async fn history(&self, epoch: Option<Epoch>, deadline: Duration) -> Result<ShardMap, ExecuteError> {
        match self.ask_leader(&Question::History(epoch), deadline).await? {
            Word::History(map) => Ok(map?),
            other => Err(ExecuteError::Unknown(format!("the answer makes no sense: {other:?}"))),
        }
    }

    /// What a change would bring about; it is not carried out.
    ///
    /// # Errors
    /// [`ExecuteError`], as the change itself would be refused.
    pub async fn plan(
        &self,
        expect: Option<Epoch>,
        change: ControllerChange,
        deadline: Duration,
    ) -> Result<Plan, ExecuteError> {
        let question = Question::Plan(ControllerCommand { expect, change });
        match self.ask_leader(&question, deadline).await? {
            Word::Planned(plan) => Ok(plan?),
            other => Err(ExecuteError::Unknown(format!("the answer makes no sense: {other:?}"))),
        }
    }

    /// Whether a map of `epoch` is what the controller says now, as far as that could be found out.
    pub async fn is_current(&self, epoch: Epoch, deadline: Duration) -> bool {
        matches!(self.history(None, deadline).await, Ok(map) if map.epoch == epoch)
    }

    /// Whether a node is a member of a group, as the group's leader says; `None` where none of `members`
    /// leads it, or none could be reached.
    pub async fn is_member(
        &self,
        group: GroupId,
        node: NodeId,
        members: impl Iterator<Item = &NodeId>,
        deadline: Duration,
    ) -> Option<bool> {
        let until = Instant::now() + deadline;
        let others = self.others();
        for (asked, address) in members.filter_map(|member| others.get_key_value(member)) {
            if let Ok(Word::Member(is)) =
                self.ask(*asked, address, &Question::Member { group, node }, until).await
            {
                return Some(is);
            }
        }
        None
    }

    /// Answers a question of another node; `members` says who the members of a group are that this node
    /// leads, once a quorum has confirmed that it does.
    ///
    /// # Errors
    /// [`Refusal::Unsupported`] where it is not understood.
    pub async fn serve<F>(
        &self,
        body: &[u8],
        deadline: Duration,
        members: impl FnOnce(GroupId) -> F,
    ) -> Result<Bytes, Refusal>
    where
        F: Future<Output = Option<BTreeSet<NodeId>>>,
    {
        let question = proto::decode(body).map_err(|error| Refusal::Unsupported(error.to_string()))?;
        let word = match question {
            Question::Follow { above, wait_ms } => {
                let wait = deadline.min(Duration::from_millis(u64::from(wait_ms))).min(FOLLOW_TIME);
                self.later_map(above, Instant::now() + wait).await
            }
            Question::Member { group, node } => match members(group).await {
                Some(members) => Word::Member(members.contains(&node)),
                None => Word::NotLeader(None),
            },
            Question::Silence { node, incarnation, relay: true } => {
                let question = Question::Silence { node, incarnation, relay: false };
                match self.ask_leader(&question, deadline).await {
                    Ok(word) => word,
                    Err(error) => Word::Busy(error.to_string()),
                }
            }
            question => self.answer(&question).await,
        };
        Ok(Bytes::from(proto::encode(&word)))
    }

    /// Answers what only the leader may.
    async fn answer(&self, question: &Question) -> Word {
        let Some(group) = self.group() else { return Word::NotLeader(self.leader()) };
        let leader = || Word::NotLeader(group.leader().filter(|leader| *leader != self.host.node()));
        match question {
            Question::Execute(command) => match group.propose(Bytes::from(proto::encode(command))).await {
                Ok(answer) => match proto::decode::<ControllerAnswer>(&answer) {
                    Ok(answer) => Word::Executed(answer),
                    Err(error) => Word::Unknown(error.to_string()),
                },
                Err(ProposeError::NotLeader { leader, .. }) => Word::NotLeader(leader),
                Err(ProposeError::Unknown { why, .. }) => Word::Unknown(why.to_owned()),
                Err(refused) => Word::Busy(refused.to_string()),
            },
            Question::History(epoch) => {
                match group.read(|machine| machine.controller().shard_map(*epoch)).await {
                    Ok(map) => Word::History(map),
                    Err(raftstore::ReadError::NotLeader { leader, .. }) => Word::NotLeader(leader),
                    Err(error) => Word::Busy(error.to_string()),
                }
            }
            Question::Plan(command) => {
                let plan = |machine: &ControllerMachine| {
                    let controller = machine.controller();
                    controller.plan(command).map(|moves| Plan { epoch: controller.epoch(), moves })
                };
                match group.read(plan).await {
                    Ok(plan) => Word::Planned(plan),
                    Err(raftstore::ReadError::NotLeader { leader, .. }) => Word::NotLeader(leader),
                    Err(error) => Word::Busy(error.to_string()),
                }
            }
            Question::Alive(sign) => match self.lock_liveness().as_mut() {
                Some(liveness) => {
                    liveness.hear(Instant::now(), sign.clone());
                    Word::Heard
                }
                None => leader(),
            },
            Question::Silence { node, incarnation, .. } => match self.lock_liveness().as_ref() {
                Some(liveness) => {
                    let silence = liveness.silence(Instant::now(), *node, *incarnation);
                    Word::Silent(
                        silence.map(|silence| u64::try_from(silence.as_millis()).unwrap_or(u64::MAX)),
                    )
                }
                None => leader(),
            },
            Question::Follow { .. } | Question::Member { .. } => {
                unreachable!("not for the controller's leader alone")
            }
        }
    }

    async fn later_map(&self, above: Epoch, until: Instant) -> Word {
        let mut map = self.map.subscribe();
        let later = map.wait_for(|map| map.as_ref().is_some_and(|map| map.shard_map.epoch > above));
        match timeout_at(until, later).await {
            Ok(Ok(map)) => {
                map.as_ref().map_or(Word::Nothing, |map| Word::Map(Box::new(ClusterMap::clone(map))))
            }
            Ok(Err(_)) | Err(_) => Word::Nothing,
        }
    }

    fn lock_liveness(&self) -> std::sync::MutexGuard<'_, Option<Liveness>> {
        self.liveness.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_standing(&self) -> std::sync::MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn view_in<'a>(&self, map: &'a ClusterMap) -> Option<&'a NodeView> {
        map.nodes.iter().find(|view| view.node == self.host.node())
    }

    /// Who leads as this node's replica knows, or as others said: one that is out of touch may know a leader
    /// of old.
    fn leader(&self) -> Option<NodeId> {
        let own = self.group().filter(|group| group.leads() || is_in_touch(group));
        let own = own.and_then(|group| group.leader());
        own.or_else(|| *self.leader.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes what another said. That this node leads, it is told by its own replica alone: whoever says so
    /// speaks of old, and a node without a replica would ask itself from then on.
    fn note_leader(&self, leader: Option<NodeId>) {
        let leader = leader.filter(|leader| *leader != self.host.node());
        *self.leader.lock().unwrap_or_else(PoisonError::into_inner) = leader;
    }

    /// Every other node that may know the controller, and where it is reached.
    fn others(&self) -> BTreeMap<NodeId, String> {
        let mut others: BTreeMap<NodeId, String> =
            self.settings.seeds.iter().map(|(&node, address)| (node, address.peer.clone())).collect();
        if let Some(map) = self.map.borrow().as_ref() {
            others.extend(map.nodes.iter().map(|view| (view.node, view.spec.peer.clone())));
        }
        others.remove(&self.host.node());
        others
    }

    /// Asks whoever leads, as long as nothing can have happened.
    async fn ask_leader(&self, question: &Question, deadline: Duration) -> Result<Word, ExecuteError> {
        let until = Instant::now() + deadline;
        let mut turn = 0;
        let mut why = "there was no time".to_owned();
        while Instant::now() < until {
            let word = match self.whom(turn) {
                None => match timeout_at(until, self.answer(question)).await {
                    Ok(word) => Ok(word),
                    Err(_) => Ok(Word::Unknown("the time ran out".to_owned())),
                },
                Some((node, address)) => self.ask(node, &address, question, until).await,
            };
            turn += 1;
            why = match word {
                Ok(Word::NotLeader(leader)) => {
                    self.note_leader(leader);
                    "nobody leads it".to_owned()
                }
                Ok(Word::Busy(why)) => why,
                Ok(Word::Unknown(why)) => return Err(ExecuteError::Unknown(why)),
                Ok(word) => return Ok(word),
                Err(error) if error.may_have_happened() => {
                    return Err(ExecuteError::Unknown(error.to_string()));
                }
                Err(error) => {
                    self.note_leader(None);
                    error.to_string()
                }
            };
            sleep(ATTEMPT_PACE.min(until.saturating_duration_since(Instant::now()))).await;
        }
        Err(ExecuteError::Unreached(why))
    }

    /// Whom to ask: who leads, as far as is known, or everybody in turn; `None` for this node itself.
    fn whom(&self, turn: usize) -> Option<(NodeId, String)> {
        let others = self.others();
        let leader = self.leader();
        if leader == Some(self.host.node()) || (others.is_empty() && self.group.borrow().is_some()) {
            return None;
        }
        if let Some((node, address)) = leader.and_then(|leader| others.get_key_value(&leader)) {
            return Some((*node, address.clone()));
        }
        let at = turn % others.len().max(1);
        others.into_iter().nth(at)
    }

    async fn ask(
        &self,
        node: NodeId,
        address: &str,
        question: &Question,
        until: Instant,
    ) -> Result<Word, CallError> {
        let left =
            until.saturating_duration_since(Instant::now()).min(ATTEMPT_TIME_MAX.max(follow_time(question)));
        let body = Bytes::from(proto::encode(question));
        let answer = self.host.call(node, address, CONTROLLER_SERVICE, body, left).await?;
        proto::decode(&answer).map_err(|error| CallError::MaybeDelivered(error.to_string()))
    }

    /// Takes a map, unless a later one is known.
    pub fn learn(&self, map: ClusterMap) {
        let epoch = map.shard_map.epoch;
        if self.view_in(&map).is_some_and(|view| view.spec.incarnation == self.host.incarnation()) {
            let mut standing = self.lock_standing();
            standing.named = standing.named.max(epoch);
        }
        self.map.send_if_modified(|known| {
            let later = known.as_ref().is_none_or(|known| known.shard_map.epoch < epoch);
            if later {
                *known = Some(Arc::new(map));
            }
            later
        });
    }

    fn epoch(&self) -> Epoch {
        self.map.borrow().as_ref().map_or(Epoch(0), |map| map.shard_map.epoch)
    }

    /// Keeps the map up to date from this node's replica, while it has one.
    async fn follow_replica(self: Arc<Self>) {
        let mut present = self.group.subscribe();
        loop {
            let group = present.borrow_and_update().clone();
            let changed = match group {
                None => present.changed().await,
                Some(group) => tokio::select! {
                    changed = present.changed() => changed,
                    // It has ended; another may be opened.
                    () = self.follow_group(&group) => present.changed().await,
                },
            };
            if changed.is_err() {
                return;
            }
        }
    }

    async fn follow_group(&self, group: &Group<ControllerMachine>) {
        let mut applied = group.applied();
        loop {
            let known = self.epoch();
            let later = group.read_stale(|machine| {
                let controller = machine.controller();
                (controller.epoch() > known).then(|| controller.cluster_map().ok()).flatten()
            });
            if let Some(map) = later {
                self.learn(map);
            }
            if applied.changed().await.is_err() {
                return;
            }
        }
    }

    /// Keeps the map up to date from other nodes, while this one has no replica or a replica that is out of
    /// touch: one that was removed from its group is not told so by its log.
    async fn follow_others(self: Arc<Self>) {
        let mut turn = 0;
        loop {
            if self.group().is_some_and(|group| is_in_touch(&group)) {
                sleep(LIFE_PACE).await;
                continue;
            }
            let others: Vec<(NodeId, String)> = self.others().into_iter().collect();
            let wait_ms = u32::try_from(FOLLOW_TIME.as_millis()).unwrap_or(u32::MAX);
            let question = Question::Follow { above: self.epoch(), wait_ms };
            let until = Instant::now() + follow_time(&question);
            let heard = match others.get(turn % others.len().max(1)) {
                Some((node, address)) => self.ask(*node, address, &question, until).await,
                None => Err(CallError::NotDelivered("no other node is known".to_owned())),
            };
            match heard {
                Ok(Word::Map(map)) => self.learn(*map),
                // Who knows nothing later may follow this node in turn: then neither ever would.
                Ok(Word::Nothing) => turn += 1,
                Ok(_) | Err(_) => {
                    turn += 1;
                    sleep(LIFE_PACE).await;
                }
            }
        }
    }

    /// Joins the cluster and gives signs of life.
    async fn live(self: Arc<Self>) {
        loop {
            if self.is_to_join() {
                self.join().await;
            }
            let sign = Sign {
                node: self.host.node(),
                incarnation: self.host.incarnation(),
                groups: self.host.stored_groups().into_iter().filter(|group| *group != GroupId(0)).collect(),
            };
            if let Err(error) = self.ask_leader(&Question::Alive(sign), LIFE_PACE).await {
                tracing::debug!(%error, "no sign of life was given");
            }
            sleep(LIFE_PACE).await;
        }
    }

    async fn join(&self) {
        let node = self.host.node();
        let change = ControllerChange::NodeJoin { node, spec: self.settings.spec.clone() };
        let why = self.execute(None, change, ATTEMPT_TIME_MAX).await.err().map(|error| error.to_string());
        let before = std::mem::replace(&mut self.lock_standing().refused, why.clone());
        match why {
            Some(why) if before.as_ref() != Some(&why) => {
                tracing::warn!(%node, %why, "node has not joined the cluster yet");
            }
            Some(_) => {}
            None => tracing::info!(%node, "node has joined the cluster"),
        }
    }

    /// Whether the cluster is born and knows this node not, or otherwise than it is. Whoever was removed does
    /// not come back by itself, and a map from before this node joined says nothing.
    fn is_to_join(&self) -> bool {
        let map = self.map.borrow();
        let Some(map) = map.as_ref() else { return false };
        match self.view_in(map) {
            Some(view) => view.spec != self.settings.spec,
            None => self.named() == Epoch(0),
        }
    }

    /// While this node's replica leads: has the cluster born, and judges who lives.
    async fn lead(self: Arc<Self>) {
        loop {
            let status = self.group().map(|group| group.status());
            let Some(status) = status.filter(|status| status.role == Role::Leader) else {
                *self.lock_liveness() = None;
                sleep(self.lead_pace()).await;
                continue;
            };
            self.lock_liveness().get_or_insert_with(|| Liveness::new(Instant::now()));
            for change in self.due(&status) {
                if let Err(error) = self.execute(None, change.clone(), ATTEMPT_TIME_MAX).await {
                    tracing::debug!(?change, %error, "the controller was not told");
                }
            }
            sleep(self.lead_pace()).await;
        }
    }

    fn lead_pace(&self) -> Duration {
        let is_born = self.map.borrow().is_some();
        if is_born { LIFE_PACE } else { ATTEMPT_PACE }
    }

    fn due(&self, status: &raftstore::GroupStatus) -> Vec<ControllerChange> {
        match self.map.borrow().clone() {
            Some(map) => {
                let mut liveness = self.lock_liveness();
                liveness.as_mut().map_or_else(Vec::new, |liveness| liveness.judge(Instant::now(), &map))
            }
            None => self.settings.birth.map(|shape| birth(shape, status)).into_iter().collect(),
        }
    }
}

/// Whether a replica was lately known to be as fresh as a leader that a quorum confirmed.
fn is_in_touch(group: &Group<ControllerMachine>) -> bool {
    group.lag().is_some_and(|lag| lag < TOUCH_TIME)
}

/// How long an answer to a question may take by itself.
fn follow_time(question: &Question) -> Duration {
    match question {
        Question::Follow { wait_ms, .. } => Duration::from_millis(u64::from(*wait_ms)) + ATTEMPT_TIME_MAX,
        _ => Duration::ZERO,
    }
}

/// The birth of a cluster of the members of group 0.
fn birth(shape: Shape, status: &raftstore::GroupStatus) -> ControllerChange {
    let spec = |(node, address): (&NodeId, &Address)| {
        let incarnation = status.incarnations.get(node).copied().unwrap_or_default();
        let (peer, http) = (address.peer.clone(), address.http.clone());
        (*node, NodeSpec { peer, http, zone: String::new(), weight: 1, incarnation })
    };
    let nodes = status.members.iter().map(spec).collect();
    ControllerChange::Birth(Birth {
        shards: shape.shards,
        groups: shape.groups,
        replicas: shape.replicas,
        nodes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Controller;
    use proto::{Birth, Incarnation, NodeSpec};
    use raftstore::{
        HostConfig, RaftConfig, Services, SimulatedClock, SimulatedDisk, SimulatedNetwork, StorageConfig,
        TransportConfig,
    };
    use std::pin::Pin;

    const NODES: u64 = 3;

    fn address(node: u64) -> Address {
        Address { peer: format!("h{node}:1"), http: format!("h{node}:2") }
    }

    fn spec(node: u64) -> NodeSpec {
        let Address { peer, http } = address(node);
        NodeSpec { peer, http, zone: String::new(), weight: 1, incarnation: Incarnation(node.into()) }
    }

    struct Peers(Arc<ControllerHandle>);

    impl Services for Peers {
        fn call(
            &self,
            _from: NodeId,
            _service: u8,
            body: Bytes,
            deadline: Duration,
        ) -> Pin<Box<dyn Future<Output = Result<Bytes, Refusal>> + Send>> {
            let handle = self.0.clone();
            Box::pin(async move { handle.serve(&body, deadline, |_| async { None }).await })
        }
    }

    /// A node without a replica of group 0, which knows all others.
    async fn node(network: &SimulatedNetwork, node: u64) -> (Arc<ControllerHandle>, JoinSet<()>) {
        let config = HostConfig {
            cluster: "test".into(),
            node: NodeId(node),
            listen: address(node).peer,
            raft: RaftConfig::default(),
            storage: StorageConfig::default(),
            transport: TransportConfig::default(),
        };
        let (disk, clock) = (Arc::new(SimulatedDisk::new()), Arc::new(SimulatedClock::starting_at(0)));
        let network = network.host(&format!("h{node}"));
        let host = Host::start(config, disk, network, clock).await.unwrap();
        let seeds = (1..=NODES).filter(|other| *other != node);
        let seeds = seeds.map(|other| (NodeId(other), address(other))).collect();
        let settings = Settings { seeds, named: Epoch(0), spec: spec(node), birth: None };
        let (handle, tasks) = ControllerHandle::start(host.clone(), None, settings);
        host.set_services(Arc::new(Peers(handle.clone())));
        (handle, tasks)
    }

    /// A node without a replica that is told that it leads goes on asking others.
    #[tokio::test(start_paused = true)]
    async fn a_node_is_not_talked_into_leading() {
        let (handle, _tasks) = node(&SimulatedNetwork::new(), 1).await;
        handle.note_leader(Some(NodeId(1)));
        assert_eq!(handle.whom(0), Some((NodeId(2), address(2).peer)));
        handle.note_leader(Some(NodeId(3)));
        assert_eq!(handle.whom(0), Some((NodeId(3), address(3).peer)));
    }

    /// Two nodes that came to follow each other, because the one that knows was out of reach, hear of a later
    /// map all the same once it is back.
    #[tokio::test(start_paused = true)]
    async fn who_follows_in_a_circle_leaves_it() {
        let network = SimulatedNetwork::new();
        let mut nodes = Vec::new();
        for id in 1..=NODES {
            nodes.push(node(&network, id).await);
        }
        network.partition(&["h1"], &["h2", "h3"]);
        sleep(FOLLOW_TIME * 3).await;
        network.heal();
        let mut controller = Controller::new();
        let born = Birth {
            shards: 8,
            groups: 1,
            replicas: 3,
            nodes: (1..=NODES).map(|node| (NodeId(node), spec(node))).collect(),
        };
        controller
            .execute(&ControllerCommand { expect: None, change: ControllerChange::Birth(born) })
            .unwrap();
        nodes[0].0.learn(controller.cluster_map().unwrap());
        for (handle, _) in &nodes {
            let mut map = handle.map();
            let heard = timeout_at(Instant::now() + FOLLOW_TIME * 4, map.wait_for(Option::is_some)).await;
            assert!(heard.is_ok(), "{} follows in a circle", handle.host.node());
        }
    }
}
