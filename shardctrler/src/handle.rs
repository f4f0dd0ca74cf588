//! A node's handle on the controller: it [follows](follow) the map, sends commands to whoever [leads](ask) group 0,
//! answers other nodes, [gives signs of life](life), and, while its own replica leads, judges those of the others.
//!
//! Owns what the rest of the node sees of that. Relies on the controller's machine to refuse what is stale. Must never
//! send a command again of which it does not know the outcome: that is its caller's to decide.

mod ask;
mod follow;
mod life;
#[cfg(test)]
mod tests;

use crate::api::{Plan, Question, Word};
use crate::liveness::Liveness;
use crate::machine::ControllerMachine;
use bytes::Bytes;
use follow::FOLLOW_TIME;
use proto::{
    ClusterMap, ControllerChange, ControllerCommand, ControllerError, ControllerReply, Epoch, GroupId,
    NodeId, NodeSpec, NodeView, ShardMap,
};
use raftstore::{Address, Group, Host, Refusal};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How long one attempt may take before another node is asked.
const ATTEMPT_TIME_MAX: Duration = Duration::from_secs(2);

/// The pause before another node is asked.
const ATTEMPT_PACE: Duration = Duration::from_millis(50);

/// How often a node that joins is looked for on the map, where other changes come first each time.
const ADMISSIONS_MAX: usize = 16;

/// How often a node gives a sign of life, and the leader judges: several times in the shortest silence that
/// may count as death.
const LIFE_PACE: Duration = Duration::from_secs(1);

/// For how long a replica may be out of touch with its leader before others are asked for the map.
const TOUCH_TIME: Duration = Duration::from_secs(3);

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
    /// Who was last said to lead group 0, or answered as its leader.
    leader: Mutex<Option<NodeId>>,
    /// With whom the next question begins where nobody is known to lead: each begins with another, so that
    /// whoever is out of reach takes the time of a few of them alone.
    turn: AtomicUsize,
    /// While this node's replica leads.
    liveness: Mutex<Option<Liveness>>,
}

/// What the cluster knows of this node.
#[derive(Debug)]
struct Standing {
    /// The epoch of the latest map that named it.
    named: Epoch,
    /// Whether its disk remembers that one did.
    is_remembered: bool,
    /// Why the controller last refused to let it join, or to be born as this node says.
    refused: Option<String>,
    /// When whoever leads the controller last heard a sign of life.
    heard: Option<Instant>,
}

impl ControllerHandle {
    /// A handle, and the tasks that keep it up to date; they end when they are dropped.
    pub fn start(
        host: Arc<Host>,
        group: Option<Group<ControllerMachine>>,
        settings: Settings,
    ) -> (Arc<Self>, JoinSet<()>) {
        let standing = Mutex::new(Standing {
            named: settings.named,
            is_remembered: settings.named > Epoch(0),
            refused: None,
            heard: None,
        });
        let handle = Arc::new(Self {
            host,
            group: watch::Sender::new(group),
            settings,
            standing,
            map: watch::Sender::new(None),
            leader: Mutex::default(),
            turn: AtomicUsize::new(0),
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

    /// From now on this node's disk remembers that a map has named it.
    pub fn remembered(&self) {
        self.lock_standing().is_remembered = true;
    }

    /// Whether this node was a member and was removed since: a map that is later than one that named it does
    /// not.
    pub fn was_removed(&self) -> bool {
        let named = self.named();
        let map = self.map.borrow();
        named > Epoch(0)
            && map.as_ref().is_some_and(|map| map.shard_map.epoch > named && self.view_in(map).is_none())
    }

    /// Why the controller last refused to let this node join, or to be born as this node says, while it does.
    pub fn refused(&self) -> Option<String> {
        self.lock_standing().refused.clone()
    }

    /// Whether whoever leads the controller has heard of this node lately.
    pub fn is_in_touch(&self) -> bool {
        self.lock_standing().heard.is_some_and(|heard| heard.elapsed() < TOUCH_TIME)
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

    fn lock_standing(&self) -> std::sync::MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn view_in<'a>(&self, map: &'a ClusterMap) -> Option<&'a NodeView> {
        map.nodes.iter().find(|view| view.node == self.host.node())
    }
}

/// Whether a replica was lately known to be as fresh as a leader that a quorum confirmed.
fn is_in_touch(group: &Group<ControllerMachine>) -> bool {
    group.lag().is_some_and(|lag| lag < TOUCH_TIME)
}
