//! Who the members of a group are, how they change, and why a replica that was lost is nobody's voice again.
//!
//! A member is a *replica*, not a node: a disk (its [incarnation](crate::Host::incarnation)) and how many replicas of
//! the group that disk has dropped before. The membership, which travels in the log, says which replica each member
//! is, and three rules follow:
//!
//! - **What is sent to a member is addressed to that replica.** A node whose disk was lost, or that dropped its
//!   replica, has no replica of that name: whoever still counts the lost one as a voter gets no answer, as if it had
//!   crashed for good. So an answer is only ever given by whoever remembers all answers given in that name before.
//! - **A replica stands for election only once a membership has named it.** Until then the memberships in the log that
//!   it is catching up with may name a predecessor with the same node id, and that one's vote is not its own.
//! - **A node is added only where no replica of it is a member.** Between a lost voter and its successor on the same
//!   node there is an agreed membership without either, so no quorum ever counts the one for the other.
//!
//! Changes are made by the leader, one at a time: a learner is added, catches up, and is given a vote through a joint
//! configuration. A joint configuration that a leader left behind is ended by the next one, here, by itself.

use crate::codec::{Malformed, put_replica_id, take_replica_id, take_u64};
use crate::error::{MemberError, ReadError};
use crate::group::Group;
use crate::machine::Machine;
use crate::status::Role;
use crate::types::{Address, LogId, Member, Membership, Node, ReplicaDescriptor, ReplicaId, TypeConfig};
use bytes::{Bytes, BytesMut};
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::raft::Precondition;
use openraft::{ChangeMembers, Instant as _, ServerState};
use proto::{GroupId, NodeId};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedMutexGuard;
use tokio::time::{Instant, timeout_at};

/// The service number, on the transport's request lane, by which a leader asks which replica of a group a node has.
pub(crate) const REPLICA_SERVICE: u8 = 2;

/// How far a learner may be behind the leader's log, in entries, to be given a vote.
const ENTRIES_BEHIND_MAX: u64 = 64;

/// The pause before a leader tries again to end a joint configuration.
const JOINT_PACE: Duration = Duration::from_millis(100);

type Change = ChangeMembers<u64, Node>;
type ChangeError = RaftError<TypeConfig, ClientWriteError<TypeConfig>>;

/// The members as the leader has them, agreed on by a quorum.
struct View {
    membership: Membership,
    at: Option<LogId>,
}

impl View {
    fn voters(&self) -> BTreeSet<NodeId> {
        self.membership.voter_ids().map(NodeId).collect()
    }

    fn member(&self, node: NodeId) -> Option<&Node> {
        self.membership.get_node(&node.0)
    }
}

impl<M: Machine> Group<M> {
    /// Adds a node as a member without a vote; it begins to catch up at once. The node must have opened its replica
    /// ([`crate::Host::open_learner`]) on the disk that `member` names. No error where it is a member already, with
    /// or without a vote.
    ///
    /// # Errors
    /// [`MemberError`]; [`MemberError::Former`] where the node is a member by a replica that it has lost.
    pub async fn add_learner(
        &self,
        node: NodeId,
        member: &Member,
        deadline: Duration,
    ) -> Result<(), MemberError> {
        let until = Instant::now() + deadline;
        let change = self.begin(until).await?;
        let replica = self.ask_replica(node, member, until).await?;
        let descriptor = Arc::new(ReplicaDescriptor { address: member.address.clone(), replica });
        match change.view.member(node) {
            Some(known) if *known == descriptor => Ok(()),
            Some(known) if known.replica == replica => Err(self.refuse("it is a member at another address")),
            Some(_) => Err(MemberError::Former { group: self.id(), node }),
            None => self.make(change, Change::AddNodes([(node.0, descriptor)].into()), until).await,
        }
    }

    /// Gives a learner a vote, once it has caught up; waits for that as long as `deadline` allows. No error where it
    /// has one.
    ///
    /// # Errors
    /// [`MemberError`].
    pub async fn promote(&self, node: NodeId, deadline: Duration) -> Result<(), MemberError> {
        self.alter_voters(deadline, |voters| voters.extend([node])).await
    }

    /// Removes a member, with or without a vote. No error where it is none. A leader that is to remove itself hands
    /// leadership over instead, and answers that it does not lead: say it again to its successor.
    ///
    /// # Errors
    /// [`MemberError`].
    pub async fn remove(&self, node: NodeId, deadline: Duration) -> Result<(), MemberError> {
        let until = Instant::now() + deadline;
        let change = self.begin(until).await?;
        let mut voters = change.view.voters();
        if voters.remove(&node) {
            return self.make_voters(change, &voters, until).await;
        }
        match change.view.member(node) {
            Some(_) => self.make(change, Change::RemoveNodes([node.0].into()), until).await,
            None => Ok(()),
        }
    }

    /// Makes exactly `voters` the members with a vote, through one joint configuration; those who had one and are
    /// not among them are members no more. All of them must be members, and have caught up.
    ///
    /// # Errors
    /// [`MemberError`]; as for [`remove`](Self::remove) where the leader is not among them.
    pub async fn change_voters(
        &self,
        voters: &BTreeSet<NodeId>,
        deadline: Duration,
    ) -> Result<(), MemberError> {
        self.alter_voters(deadline, |present| present.clone_from(voters)).await
    }

    /// Says that a member is reached at another address: here at once, for the change may need that very member,
    /// and wherever the membership is read once it is agreed on. No error where it is known to be.
    ///
    /// # Errors
    /// [`MemberError`].
    pub async fn set_address(
        &self,
        node: NodeId,
        address: &Address,
        deadline: Duration,
    ) -> Result<(), MemberError> {
        let until = Instant::now() + deadline;
        self.inner.transport.locate(node, &address.peer);
        let change = self.begin(until).await?;
        let known = change.view.member(node).ok_or_else(|| self.refuse("it is not a member"))?;
        if known.address == *address {
            return Ok(());
        }
        let moved = Arc::new(ReplicaDescriptor { address: address.clone(), replica: known.replica });
        self.make(change, Change::SetNodes([(node.0, moved)].into()), until).await
    }

    async fn alter_voters(
        &self,
        deadline: Duration,
        alter: impl Fn(&mut BTreeSet<NodeId>),
    ) -> Result<(), MemberError> {
        let until = Instant::now() + deadline;
        loop {
            let change = self.begin(until).await?;
            let present = change.view.voters();
            let mut voters = present.clone();
            alter(&mut voters);
            if voters == present {
                return Ok(());
            }
            let added = voters.difference(&present);
            if let Some(stranger) = added.clone().find(|&&node| change.view.member(node).is_none()) {
                return Err(self.refuse(&format!("{stranger} is not a member")));
            }
            let named_at = change.view.at;
            let Some(&behind) = added.clone().find(|&&node| !self.has_caught_up(node, named_at)) else {
                return self.make_voters(change, &voters, until).await;
            };
            // Others may change the members meanwhile: this one looks again.
            drop(change);
            self.wait_until_caught_up(behind, named_at, until).await?;
        }
    }

    async fn make_voters(
        &self,
        change: Begun,
        voters: &BTreeSet<NodeId>,
        until: Instant,
    ) -> Result<(), MemberError> {
        let group = self.id();
        if voters.is_empty() {
            return Err(MemberError::NoVoter(group));
        }
        let present = change.view.voters();
        let heard = voters.iter().filter(|&&voter| self.hears(voter)).count();
        if heard * 2 <= voters.len() {
            return Err(MemberError::NoQuorum(group));
        }
        // Where nobody stays who could lead at once, openraft steps down by itself once the change is agreed on.
        let mut successors = voters.intersection(&present).filter(|&&voter| self.hears(voter));
        if !voters.contains(&self.inner.node)
            && let Some(&to) = successors.next()
        {
            drop(change);
            self.hand_over(Some(to), until.saturating_duration_since(Instant::now())).await?;
            let leader = self.wait_for_leader(until.saturating_duration_since(Instant::now())).await.ok();
            return Err(MemberError::NotLeader { group, leader });
        }
        let voters = voters.iter().map(|voter| voter.0).collect();
        self.make(change, Change::ReplaceAllVoters(voters), until).await
    }

    /// Whether a member answered within the time that is given to a leader.
    fn hears(&self, node: NodeId) -> bool {
        let patience = Duration::from_millis(self.inner.raft.config().election_timeout_max);
        let data = self.inner.raft.data_metrics();
        let data = data.borrow_watched();
        let heard = data.heartbeat.as_ref().and_then(|heard| heard.get(&node.0).cloned().flatten());
        node == self.inner.node || heard.is_some_and(|at| at.elapsed() < patience)
    }

    /// Whether a member is heard from, and holds nearly all of the log, the entry that made it a member included.
    fn has_caught_up(&self, node: NodeId, named_at: Option<LogId>) -> bool {
        let near = {
            let data = self.inner.raft.data_metrics();
            let data = data.borrow_watched();
            let matched =
                data.replication.as_ref().and_then(|matched| matched.get(&node.0).copied().flatten());
            let last = data.last_log.map_or(0, |id| id.index());
            matched >= named_at && matched.is_some_and(|id| id.index() + ENTRIES_BEHIND_MAX >= last)
        };
        near && self.hears(node)
    }

    async fn wait_until_caught_up(
        &self,
        node: NodeId,
        named_at: Option<LogId>,
        until: Instant,
    ) -> Result<(), MemberError> {
        let group = self.id();
        let mut data = self.inner.raft.data_metrics();
        while !self.has_caught_up(node, named_at) {
            match timeout_at(until, data.changed()).await {
                Err(_) => return Err(MemberError::NotCaughtUp { group, node }),
                Ok(Err(_)) => return Err(self.refuse("it has stopped")),
                Ok(Ok(())) if self.status().role == Role::Leader => {}
                Ok(Ok(())) => return Err(MemberError::NotLeader { group, leader: self.leader() }),
            }
        }
        Ok(())
    }

    /// Asks a node which replica of the group it has, on the disk that is meant.
    async fn ask_replica(
        &self,
        node: NodeId,
        member: &Member,
        until: Instant,
    ) -> Result<ReplicaId, MemberError> {
        let (group, incarnation) = (self.id(), member.incarnation);
        let not_ready = |why: String| MemberError::NotReady { group, node, why };
        let replica = if node == self.inner.node {
            self.inner.replica
        } else {
            let left = until.saturating_duration_since(Instant::now());
            let peer = &member.address.peer;
            let call = self.inner.transport.call(node, peer, REPLICA_SERVICE, ask_group(group), left);
            let answer = call.await.map_err(|error| not_ready(error.to_string()))?;
            heard_replica(answer).map_err(|error| not_ready(error.to_string()))?
        };
        if replica.incarnation != incarnation {
            return Err(not_ready(format!("its disk is {}, not {incarnation}", replica.incarnation)));
        }
        Ok(replica)
    }

    fn refuse(&self, why: &str) -> MemberError {
        MemberError::Refused { group: self.id(), why: why.to_owned() }
    }

    /// Begins a change: nobody else changes the members from here, this replica leads, and all it knows of the
    /// members is agreed on.
    async fn begin(&self, until: Instant) -> Result<Begun, MemberError> {
        let group = self.id();
        let guard = self.inner.changes.clone().try_lock_owned();
        let guard = guard.map_err(|_| MemberError::UnderWay(group))?;
        match timeout_at(until, self.inner.reads.read_index()).await {
            Ok(Ok(_)) => {}
            Ok(Err(ReadError::NotLeader { leader, .. })) => {
                return Err(MemberError::NotLeader { group, leader });
            }
            Ok(Err(ReadError::Stopped(_))) => return Err(self.refuse("it has stopped")),
            Ok(Err(ReadError::NoQuorum(_) | ReadError::Overloaded(_))) | Err(_) => {
                return Err(MemberError::NoQuorum(group));
            }
        }
        let (view, settled) = self.view().await?;
        if !settled {
            return Err(MemberError::UnderWay(group));
        }
        // A leader that is out leads for a moment longer, to tell the others, and changes nothing any more.
        if !view.voters().contains(&self.inner.node) {
            return Err(MemberError::NotLeader { group, leader: None });
        }
        Ok(Begun { guard, view })
    }

    /// The members, and whether they are agreed on and no change is half-way.
    async fn view(&self) -> Result<(View, bool), MemberError> {
        let view = self.inner.raft.with_raft_state(|state| {
            let (effective, committed) =
                (state.membership_state.effective(), state.membership_state.committed());
            let membership = effective.membership().clone();
            let settled = effective == committed && membership.get_joint_config().len() == 1;
            (View { membership, at: *effective.log_id() }, settled)
        });
        view.await.map_err(|fatal| self.refuse(&fatal.to_string()))
    }

    /// Makes a change and waits for it until the time is out; it goes on after that.
    async fn make(&self, change: Begun, members: Change, until: Instant) -> Result<(), MemberError> {
        let group = self.clone();
        let made = tokio::spawn(async move { group.carry_out(change, members).await });
        let unknown = |why: String| MemberError::Unknown { group: self.id(), why };
        match timeout_at(until, made).await {
            Ok(Ok(made)) => made,
            Ok(Err(lost)) => Err(unknown(lost.to_string())),
            Err(_) => Err(unknown("no answer in time".to_owned())),
        }
    }

    async fn carry_out(&self, Begun { guard, view }: Begun, members: Change) -> Result<(), MemberError> {
        let unchanged = Precondition::LastMembershipLogId { last_membership_log_id: view.at };
        let Err(error) = self.inner.raft.change_membership_if(members, false, [unchanged]).await else {
            return Ok(());
        };
        // The first of two steps may have been taken before the second was refused.
        let begun = self.view().await.map_or(true, |(now, _)| now.at != view.at);
        drop(guard);
        let group = self.id();
        Err(match error {
            error if begun => MemberError::Unknown { group, why: error.to_string() },
            RaftError::APIError(error) => self.refusal(error),
            RaftError::Fatal(fatal) => MemberError::Unknown { group, why: fatal.to_string() },
        })
    }

    /// What openraft did not even begin.
    fn refusal(&self, error: ClientWriteError<TypeConfig>) -> MemberError {
        let group = self.id();
        match error {
            ClientWriteError::ForwardToLeader(forward) => {
                MemberError::NotLeader { group, leader: crate::proposer::leader_of(&forward) }
            }
            ClientWriteError::LogEntryDiscarded(_) => {
                MemberError::Unknown { group, why: "leadership was lost".to_owned() }
            }
            ClientWriteError::PreconditionFailed(_)
            | ClientWriteError::ChangeMembershipError(ChangeMembershipError::InProgress(_)) => {
                MemberError::UnderWay(group)
            }
            ClientWriteError::ChangeMembershipError(error) => self.refuse(&error.to_string()),
        }
    }

    /// Ends a joint configuration that is agreed on; whether that is done.
    async fn end_joint(&self) -> bool {
        // Whoever holds it ends it.
        let Ok(_guard) = self.inner.changes.clone().try_lock_owned() else { return false };
        let Ok((view, _)) = self.view().await else { return true };
        if view.membership.get_joint_config().len() == 1 {
            return true;
        }
        let unchanged = Precondition::LastMembershipLogId { last_membership_log_id: view.at };
        let nothing_more = Change::AddVoterIds(BTreeSet::new());
        let ended: Result<_, ChangeError> =
            self.inner.raft.change_membership_if(nothing_more, false, [unchanged]).await;
        if let Err(error) = &ended {
            tracing::debug!(group = %self.id(), %error, "joint configuration is not ended yet");
        }
        ended.is_ok()
    }
}

/// A change that may be made.
struct Begun {
    /// Keeps others from changing the members through this replica.
    guard: OwnedMutexGuard<()>,
    view: View,
}

/// Lets a replica stand for election once a membership names it, and ends joint configurations while it leads. Ends
/// with the group.
pub(crate) async fn watch_over<M: Machine>(group: Group<M>) {
    let mut metrics = group.inner.raft.server_metrics();
    let node = group.inner.node.0;
    let mut named = false;
    loop {
        let abandoned = {
            let metrics = metrics.borrow_and_update();
            let membership = metrics.membership_config.membership();
            let own = membership.get_node(&node).is_some_and(|own| own.replica == group.inner.replica);
            if own && !named {
                named = true;
                group.inner.raft.runtime_config().elect(true);
            }
            metrics.state == ServerState::Leader
                && membership.get_joint_config().len() > 1
                && metrics.membership_config == metrics.committed_membership_config
        };
        let changed = if abandoned && !group.end_joint().await {
            // Whether it is still this one's to end is looked at again, whatever happens.
            tokio::time::timeout(JOINT_PACE, metrics.changed()).await.unwrap_or(Ok(()))
        } else {
            metrics.changed().await
        };
        if changed.is_err() {
            return;
        }
    }
}

fn ask_group(group: GroupId) -> Bytes {
    Bytes::copy_from_slice(&group.0.to_le_bytes())
}

/// The group of which a replica is asked for.
pub(crate) fn asked_group(mut question: Bytes) -> Result<GroupId, Malformed> {
    let group = GroupId(take_u64(&mut question, "question")?);
    if question.is_empty() {
        Ok(group)
    } else {
        Err(Malformed { what: "question", why: "stray bytes follow" })
    }
}

pub(crate) fn tell_replica(replica: ReplicaId) -> Bytes {
    let mut bytes = BytesMut::with_capacity(24);
    put_replica_id(&mut bytes, replica);
    bytes.freeze()
}

fn heard_replica(mut answer: Bytes) -> Result<ReplicaId, Malformed> {
    let replica = take_replica_id(&mut answer)?;
    if answer.is_empty() {
        Ok(replica)
    } else {
        Err(Malformed { what: "replica id", why: "stray bytes follow" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::Incarnation;

    /// A node's word which replica it has crosses the wire as it is, and stray bytes never pass for one.
    #[test]
    fn replicas_are_told_and_heard() {
        let replica = ReplicaId { incarnation: Incarnation(5 << 120 | 7), life: 2 };
        let told = tell_replica(replica);
        assert_eq!(told[..], [7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 2, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(heard_replica(told.clone()), Ok(replica));
        assert!(heard_replica(told.slice(1..)).is_err());
        assert!(heard_replica([&told[..], &[0]].concat().into()).is_err());
        assert_eq!(asked_group(ask_group(GroupId(258))), Ok(GroupId(258)));
        assert!(asked_group(Bytes::from_static(b"\0\0\0\0\0\0\0\0\0")).is_err());
    }
}
