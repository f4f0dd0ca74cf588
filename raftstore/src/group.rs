//! One Raft group as the rest of flotilla sees it: propose, read, look, hand over. Its members change in
//! [`crate::membership`].

use crate::error::{Fatal, MemberError, ProposeError, ReadError};
use crate::flow_control::FlowControl;
use crate::formation::Formation;
use crate::machine::Machine;
use crate::proposer::Proposer;
use crate::read_index::ReadIndexer;
use crate::replica::{Shared, StateMachine};
use crate::snapshot::SnapshotStore;
use crate::staleness::Staleness;
use crate::status::{GroupStatus, Role};
use crate::transport::Transport;
use crate::types::{Address, Member, Node, ReplicaDescriptor, ReplicaId, TypeConfig};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::Stream;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{InitializeError, RaftError};
use openraft::storage::RaftStateMachine;
use openraft::{Instant, ServerState};
use proto::{GroupId, Incarnation, NodeId};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// The service number, on the transport's request lane, by which followers ask for a read index; the others
/// are free for the host's user.
pub(crate) const READ_INDEX_SERVICE: u8 = 0;

/// How long a leader may take to confirm a read index to a replica that recovers, and the pause before it is asked
/// again.
const RECOVERY_PATIENCE: Duration = Duration::from_secs(1);
const RECOVERY_PACE: Duration = Duration::from_millis(100);

/// How a replica comes into its group, where the disk holds nothing of it yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// By being given the group's first members, itself among them.
    FirstMember,
    /// By being added to a group that others have.
    Learner,
}

/// The whole of a group's replica on this node, shared by its handles.
pub(crate) struct Inner<M: Machine> {
    pub(crate) id: GroupId,
    pub(crate) node: NodeId,
    pub(crate) raft: openraft::Raft<TypeConfig, StateMachine<M>>,
    pub(crate) shared: Arc<Shared<M>>,
    pub(crate) snapshots: SnapshotStore,
    pub(crate) flow: Arc<FlowControl>,
    pub(crate) staleness: Arc<Staleness>,
    pub(crate) proposer: Proposer,
    pub(crate) reads: ReadIndexer,
    pub(crate) transport: Arc<Transport>,
    /// Whether the machine holds all that it may have shown before this start; once it does, for good.
    pub(crate) recovered: AtomicBool,
    pub(crate) replica: ReplicaId,
    pub(crate) standing: Standing,
    /// Whether its peers find it: a first member is silent until it has written down the first members, for what
    /// it answered before nobody would remember.
    pub(crate) established: AtomicBool,
    pub(crate) formation: Arc<RwLock<Formation>>,
    /// Held by whoever changes the members from here.
    pub(crate) changes: Arc<tokio::sync::Mutex<()>>,
}

/// A handle to a group's replica on this node; cheap to clone.
pub struct Group<M: Machine> {
    pub(crate) inner: Arc<Inner<M>>,
}

impl<M: Machine> Clone for Group<M> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<M: Machine> Group<M> {
    /// The group's id.
    pub fn id(&self) -> GroupId {
        self.inner.id
    }

    /// Whether the machine holds all that it may have shown before this start; once it does, for good.
    pub fn has_recovered(&self) -> bool {
        self.inner.recovered.load(Ordering::Acquire)
    }

    /// Who leads, as far as this replica knows.
    pub fn leader(&self) -> Option<NodeId> {
        let metrics = self.inner.raft.server_metrics();
        metrics.borrow_watched().current_leader.map(NodeId)
    }

    /// Whether this replica leads, as far as it knows. Cheaper than [`status`](Self::status).
    pub fn leads(&self) -> bool {
        self.leader() == Some(self.inner.node)
    }

    /// Where a member is reached.
    pub fn address_of(&self, node: NodeId) -> Option<Address> {
        let metrics = self.inner.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.membership().get_node(&node.0).map(|member| member.address.clone())
    }

    /// Which replica this is, once it takes part in its group.
    pub(crate) fn replica_id(&self) -> Option<ReplicaId> {
        self.inner.established.load(Ordering::Acquire).then_some(self.inner.replica)
    }

    /// Gives the group its first members, where it has none: nodes among those that the cluster was born with, which
    /// know each other's incarnations. Every member may do so, with the same members.
    ///
    /// # Errors
    /// [`Fatal`] where this node has not formed the cluster with all of them, or the group cannot go on. A group
    /// that has members already is left as it is.
    pub async fn bootstrap(&self, members: &BTreeMap<NodeId, Address>) -> Result<(), Fatal> {
        let alone = members.keys().eq([&self.inner.node]);
        let mut pinned = BTreeMap::new();
        for (&node, address) in members {
            let own = alone.then_some(self.inner.replica.incarnation);
            let incarnation = own.or_else(|| self.first_incarnation(node)).ok_or_else(|| {
                self.fatal(&format!(
                    "the cluster has not formed here, or {node} was not among its first members"
                ))
            })?;
            pinned.insert(node, Member { address: address.clone(), incarnation });
        }
        self.bootstrap_pinned(&pinned).await
    }

    fn first_incarnation(&self, node: NodeId) -> Option<Incarnation> {
        let formation = self.inner.formation.read().unwrap_or_else(PoisonError::into_inner);
        formation.members.as_ref()?.get(&node).copied()
    }

    /// As [`bootstrap`](Self::bootstrap), with members of whom somebody knows what their disks were when the group
    /// was thought of: for groups that are made while the cluster runs.
    ///
    /// # Errors
    /// [`Fatal::Group`] where this replica cannot be a first member: its node's disk is another, or had a replica of
    /// the group before, or it was opened as a learner. It has done nothing then, and can be dropped.
    pub async fn bootstrap_pinned(&self, members: &BTreeMap<NodeId, Member>) -> Result<(), Fatal> {
        if self.is_initialized().await? {
            return Ok(());
        }
        self.check_first_member(members)?;
        let alone = members.len() == 1;
        let descriptor = |member: &Member| ReplicaDescriptor {
            address: member.address.clone(),
            // A group of one knows which life it is in; of several, all must say the same of each other.
            replica: ReplicaId {
                incarnation: member.incarnation,
                life: if alone { self.inner.replica.life } else { 0 },
            },
        };
        let members: BTreeMap<u64, Node> =
            members.iter().map(|(id, member)| (id.0, Arc::new(descriptor(member)))).collect();
        match self.inner.raft.initialize(members).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {
                self.inner.established.store(true, Ordering::Release);
                Ok(())
            }
            Err(RaftError::APIError(InitializeError::NotInMembers(refused))) => {
                Err(self.fatal(&format!("this node is not among the members: {refused}")))
            }
            Err(RaftError::Fatal(fatal)) => Err(self.fatal(&fatal.to_string())),
        }
    }

    fn check_first_member(&self, members: &BTreeMap<NodeId, Member>) -> Result<(), Fatal> {
        let ReplicaId { incarnation, life } = self.inner.replica;
        let why = match members.get(&self.inner.node) {
            None => "this node is not among the members".to_owned(),
            Some(own) if own.incarnation != incarnation => {
                format!("this node's disk is {incarnation}, not {}", own.incarnation)
            }
            Some(_) if self.inner.standing == Standing::Learner => "it was opened as a learner".to_owned(),
            Some(_) if life > 0 && members.len() > 1 => "this disk had a replica of it before".to_owned(),
            Some(_) => return Ok(()),
        };
        Err(self.fatal(&format!("it cannot be a first member: {why}")))
    }

    /// Whether this replica has a log or a snapshot, and with it members.
    ///
    /// # Errors
    /// [`Fatal`] where the group has stopped.
    pub async fn is_initialized(&self) -> Result<bool, Fatal> {
        self.inner.raft.is_initialized().await.map_err(|fatal| self.fatal(&fatal.to_string()))
    }

    pub(crate) fn fatal(&self, why: &str) -> Fatal {
        Fatal::Group { group: self.inner.id, why: why.to_owned() }
    }

    /// Proposes a command and waits for the machine's answer, as long as that takes: a caller in a hurry drops
    /// the future, and the outcome is then unknown.
    ///
    /// # Errors
    /// [`ProposeError`] says whether the command may have taken effect.
    pub async fn propose(&self, command: Bytes) -> Result<Bytes, ProposeError> {
        self.inner.proposer.propose(command).await
    }

    /// Proposes several commands at once, as [`propose`](Self::propose) each: an entry carries as many of them as it
    /// can. Gives each one's answer, with its place among them, as they come.
    pub fn propose_all(
        &self,
        commands: impl IntoIterator<Item = Bytes>,
    ) -> impl Stream<Item = (usize, Result<Bytes, ProposeError>)> {
        self.inner.proposer.propose_all(commands)
    }

    /// Reads the machine so that every write acknowledged before this call is seen (ReadIndex). Only the
    /// leader can.
    ///
    /// # Errors
    /// [`ReadError`]; nothing was read.
    pub async fn read<T>(&self, read: impl FnOnce(&M) -> T) -> Result<T, ReadError> {
        let index = self.inner.reads.read_index().await?;
        self.read_at(index, read).await
    }

    /// As [`read`](Self::read), on any replica: the leader is asked for the index.
    ///
    /// # Errors
    /// [`ReadError`]; nothing was read.
    pub async fn read_following<T>(
        &self,
        deadline: Duration,
        read: impl FnOnce(&M) -> T,
    ) -> Result<T, ReadError> {
        let index = match self.inner.reads.read_index().await {
            Err(ReadError::NotLeader { leader: Some(leader), .. }) if leader != self.inner.node => {
                self.ask_read_index(leader, deadline).await?
            }
            own => own?,
        };
        self.read_at(index, read).await
    }

    /// Reads the machine as it stands, however old that is; see [`GroupStatus::lag`].
    pub fn read_stale<T>(&self, read: impl FnOnce(&M) -> T) -> T {
        self.inner.shared.read(read)
    }

    /// Follows the index of the last entry that the machine has applied.
    pub fn applied(&self) -> tokio::sync::watch::Receiver<u64> {
        self.inner.shared.applied()
    }

    /// How far the machine is behind; see [`GroupStatus::lag`].
    pub fn lag(&self) -> Option<Duration> {
        let server = self.inner.raft.server_metrics();
        let server = server.borrow_watched();
        if server.state == ServerState::Leader {
            // Nobody confirms whoever is a quorum by itself.
            if server.membership_config.membership().voter_ids().eq([server.id]) {
                return Some(Duration::ZERO);
            }
            let data = self.inner.raft.data_metrics();
            return data.borrow_watched().last_quorum_acked.as_ref().map(|at| at.elapsed());
        }
        self.inner.staleness.lag(*self.inner.shared.applied().borrow())
    }

    async fn read_at<T>(&self, index: u64, read: impl FnOnce(&M) -> T) -> Result<T, ReadError> {
        let mut applied = self.inner.shared.applied();
        let reached = applied.wait_for(|&applied| applied >= index).await;
        reached.map_err(|_| ReadError::Stopped(self.inner.id))?;
        Ok(self.inner.shared.read(read))
    }

    async fn ask_read_index(&self, leader: NodeId, deadline: Duration) -> Result<u64, ReadError> {
        let group = self.inner.id;
        let unknown = ReadError::NotLeader { group, leader: None };
        let address = self.address_of(leader).ok_or(unknown)?;
        let mut body = BytesMut::with_capacity(8);
        body.put_u64_le(group.0);
        let call =
            self.inner.transport.call(leader, &address.peer, READ_INDEX_SERVICE, body.freeze(), deadline);
        let answer = call.await.map_err(|error| {
            tracing::debug!(%group, %leader, %error, "read index was not answered");
            ReadError::NoQuorum(group)
        })?;
        decode_read_index(group, &answer)
    }

    /// The index for a reader elsewhere, encoded.
    pub(crate) async fn serve_read_index(&self) -> Bytes {
        encode_read_index(self.inner.reads.read_index().await)
    }

    /// The replica at a glance.
    pub fn status(&self) -> GroupStatus {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let role = match (&metrics.running_state, metrics.state) {
            (Err(_), _) | (_, ServerState::Shutdown) => Role::Stopped,
            (_, ServerState::Leader) => Role::Leader,
            (_, ServerState::Candidate) => Role::Candidate,
            (_, ServerState::Follower) => Role::Follower,
            (_, ServerState::Learner) => Role::Learner,
        };
        let matched = metrics.replication.iter().flatten();
        let members = || membership.nodes();
        GroupStatus {
            group: self.inner.id,
            node: self.inner.node,
            role,
            term: metrics.current_term,
            leader: metrics.current_leader.map(NodeId),
            voters: membership.voter_ids().map(NodeId).collect(),
            learners: membership.learner_ids().map(NodeId).collect(),
            joint: membership.get_joint_config().len() > 1,
            settled: metrics.membership_config == metrics.committed_membership_config,
            membership_index: metrics.membership_config.log_id().as_ref().map(|id| id.index()),
            members: members().map(|(&id, member)| (NodeId(id), member.address.clone())).collect(),
            incarnations: members().map(|(&id, member)| (NodeId(id), member.replica.incarnation)).collect(),
            last_index: metrics.last_log_index,
            committed_index: metrics.cluster_committed.map(|id| id.index()),
            applied_index: metrics.last_applied.map(|id| id.index()),
            snapshot_index: metrics.snapshot.map(|id| id.index()),
            snapshot_bytes: self.inner.snapshots.current().map_or(0, |snapshot| snapshot.bytes),
            purged_index: metrics.purged.map(|id| id.index()),
            log_bytes: self.inner.flow.log_bytes(),
            matched: matched
                .filter(|(id, _)| **id != self.inner.node.0)
                .map(|(&id, matched)| (NodeId(id), matched.map(|id| id.index())))
                .collect(),
            lag: self.lag(),
            recovered: self.has_recovered(),
        }
    }

    /// Waits until this replica's machine holds all that it may have shown before a restart: until then a stale
    /// read could go back in time.
    ///
    /// A follower applies what is committed also where its own disk has not synced it yet. So nothing that the
    /// disk holds after a crash says how far the machine had come; a read index that a leader confirms after the
    /// start does, for it covers whatever was ever committed before.
    ///
    /// # Errors
    /// [`ReadError::NoQuorum`] where that takes longer than `deadline`, [`ReadError::Stopped`] with the group.
    pub async fn wait_for_recovery(&self, deadline: Duration) -> Result<(), ReadError> {
        let recovered = tokio::time::timeout(deadline, self.recover());
        recovered.await.unwrap_or(Err(ReadError::NoQuorum(self.inner.id)))
    }

    /// As [`wait_for_recovery`](Self::wait_for_recovery), for as long as the group runs.
    pub(crate) async fn recover(&self) -> Result<(), ReadError> {
        let stopped = ReadError::Stopped(self.inner.id);
        let confirmed = async {
            while !self.has_recovered() {
                match self.read_following(RECOVERY_PATIENCE, |_| ()).await {
                    Ok(()) => self.inner.recovered.store(true, Ordering::Release),
                    Err(ReadError::Stopped(_)) => return Err(stopped.clone()),
                    Err(_) => tokio::time::sleep(RECOVERY_PACE).await,
                }
            }
            Ok(())
        };
        tokio::select! {
            biased;
            recovered = confirmed => recovered,
            _ = self.failed() => Err(stopped.clone()),
        }
    }

    /// Waits until a leader is known and returns it.
    ///
    /// # Errors
    /// [`ReadError::NoQuorum`] where there is none within `deadline`.
    pub async fn wait_for_leader(&self, deadline: Duration) -> Result<NodeId, ReadError> {
        let mut metrics = self.inner.raft.server_metrics();
        let known = async {
            loop {
                if let Some(leader) = metrics.borrow_and_update().current_leader {
                    return Ok(NodeId(leader));
                }
                if metrics.changed().await.is_err() {
                    return Err(ReadError::Stopped(self.inner.id));
                }
            }
        };
        tokio::time::timeout(deadline, known).await.unwrap_or(Err(ReadError::NoQuorum(self.inner.id)))
    }

    /// Hands leadership to the voter that holds most of the log, or to `to`; returns once another leads.
    /// Does nothing where this replica does not lead, or is itself the one to lead.
    ///
    /// # Errors
    /// [`MemberError`] where there is nobody to hand it to, or nobody took it within `deadline`.
    pub async fn hand_over(&self, to: Option<NodeId>, deadline: Duration) -> Result<(), MemberError> {
        let status = self.status();
        if status.role != Role::Leader {
            return Ok(());
        }
        let refuse = |why: &str| MemberError::Refused { group: self.inner.id, why: why.to_owned() };
        let others = status.voters.iter().filter(|&&voter| voter != self.inner.node);
        let fullest = others.max_by_key(|voter| status.matched.get(voter).copied().flatten());
        let to = to.or(fullest.copied()).ok_or_else(|| refuse("there is no other voter"))?;
        if to == self.inner.node {
            return Ok(());
        }
        if !status.voters.contains(&to) {
            return Err(refuse("leadership goes to voters only"));
        }
        let stopped = |error: String| MemberError::Unknown { group: self.inner.id, why: error };
        self.inner.raft.trigger().transfer_leader(to.0).await.map_err(|fatal| stopped(fatal.to_string()))?;
        let mut metrics = self.inner.raft.server_metrics();
        let handed = async {
            while metrics.borrow_and_update().current_leader == Some(self.inner.node.0) {
                if metrics.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::time::timeout(deadline, handed).await.map_err(|_| refuse("nobody took leadership in time"))
    }

    /// Stops the replica. Proposals under way end with an unknown outcome. It stops also where the caller gives up
    /// before it has.
    pub(crate) async fn shutdown(&self) {
        let raft = self.inner.raft.clone();
        // In a task of its own: where the first one to wait for openraft's core gives up, openraft panics in
        // whoever calls the replica next.
        let stopped = tokio::spawn(async move { raft.shutdown().await });
        if let Err(error) = stopped.await.flatten() {
            tracing::warn!(group = %self.inner.id, %error, "group did not stop cleanly");
        }
    }

    /// See [`stop_reason`].
    pub(crate) async fn failed(&self) -> Option<String> {
        stop_reason(&self.inner.raft).await
    }
}

/// Resolves once a replica has stopped: with the reason where it stopped by itself.
pub(crate) async fn stop_reason<S>(raft: &openraft::Raft<TypeConfig, S>) -> Option<String>
where
    S: RaftStateMachine<TypeConfig>,
{
    // Who waits on `metrics` wakes at every tick. The server's change with its role alone, and end with the core,
    // after the reason was noted.
    let mut role = raft.server_metrics();
    while role.changed().await.is_ok() {}
    match &raft.metrics().borrow_watched().running_state {
        Err(openraft::errors::Fatal::Stopped) => None,
        Err(fatal) => Some(fatal.to_string()),
        // It says how it ends, unless it panics.
        Ok(()) => Some("the task of its core was lost".to_owned()),
    }
}

const INDEX: u8 = 0;
const NOT_LEADER: u8 = 1;
const UNCONFIRMED: u8 = 2;

fn encode_read_index(index: Result<u64, ReadError>) -> Bytes {
    let (kind, value) = match index {
        Ok(index) => (INDEX, index),
        Err(ReadError::NotLeader { leader, .. }) => (NOT_LEADER, leader.map_or(0, |leader| leader.0)),
        Err(ReadError::NoQuorum(_) | ReadError::Overloaded(_) | ReadError::Stopped(_)) => (UNCONFIRMED, 0),
    };
    let mut bytes = BytesMut::with_capacity(9);
    bytes.put_u8(kind);
    bytes.put_u64_le(value);
    bytes.freeze()
}

fn decode_read_index(group: GroupId, mut bytes: &[u8]) -> Result<u64, ReadError> {
    use bytes::Buf;
    match (bytes.try_get_u8(), bytes.try_get_u64_le()) {
        (Ok(INDEX), Ok(index)) => Ok(index),
        (Ok(NOT_LEADER), Ok(leader)) => {
            Err(ReadError::NotLeader { group, leader: (leader > 0).then_some(NodeId(leader)) })
        }
        _ => Err(ReadError::NoQuorum(group)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A read index crosses the wire as it is, and stray bytes never pass for one.
    #[test]
    fn read_index_round_trip() {
        let group = GroupId(3);
        for answer in [
            Ok(7),
            Err(ReadError::NoQuorum(group)),
            Err(ReadError::NotLeader { group, leader: Some(NodeId(2)) }),
            Err(ReadError::NotLeader { group, leader: None }),
        ] {
            assert_eq!(decode_read_index(group, &encode_read_index(answer.clone())), answer);
        }
        assert_eq!(&encode_read_index(Ok(258))[..], [0, 2, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(decode_read_index(group, b"\0\x01"), Err(ReadError::NoQuorum(group)));
    }
}
