//! This crate's errors, split by what the caller does next.

use proto::{GroupId, NodeId};

/// Why a proposal was not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Not this node's to do: ask the leader. The proposal had no effect and will have none.
    #[error("not the leader of {group}, leader is {leader:?}")]
    NotLeader {
        /// The group.
        group: GroupId,
        /// Who leads it, where known.
        leader: Option<NodeId>,
    },
    /// The proposer's queue is full. The proposal had no effect and will have none.
    #[error("proposals of {0} queue up to their limit")]
    Overloaded(GroupId),
    /// The command is larger than an entry may be. It had no effect and will have none.
    #[error("command of {bytes} bytes exceeds the limit of {bytes_max}")]
    TooLarge {
        /// The command's length.
        bytes: usize,
        /// The longest that is taken.
        bytes_max: usize,
    },
    /// Leadership changed, or the node stopped, while the proposal was in the log: it may have taken effect, or
    /// may still.
    #[error("outcome of the proposal to {group} is unknown: {why}")]
    Unknown {
        /// The group.
        group: GroupId,
        /// What happened.
        why: &'static str,
    },
}

/// Why a read could not be confirmed; reads have no effect, so all may be sent again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Ask the leader.
    #[error("not the leader of {group}, leader is {leader:?}")]
    NotLeader {
        /// The group.
        group: GroupId,
        /// Who leads it, where known.
        leader: Option<NodeId>,
    },
    /// A quorum did not confirm the leader in time.
    #[error("leadership of {0} was not confirmed by a quorum in time")]
    NoQuorum(GroupId),
    /// Too many reads wait already.
    #[error("reads of {0} queue up to their limit")]
    Overloaded(GroupId),
    /// The group stopped.
    #[error("{0} has stopped")]
    Stopped(GroupId),
}

/// Why a change of members or of the leader was not made. All but [`Unknown`](Self::Unknown) promise that it had no
/// effect and will have none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemberError {
    /// Ask the leader.
    #[error("not the leader of {group}, leader is {leader:?}")]
    NotLeader {
        /// The group.
        group: GroupId,
        /// Who leads it, where known.
        leader: Option<NodeId>,
    },
    /// Another change of members is under way: ask again once it has ended.
    #[error("members of {0} are changing already")]
    UnderWay(GroupId),
    /// A majority of the voters, of now or of after the change, was not heard from: the change could not end, and
    /// nothing could be written meanwhile.
    #[error("no majority of the voters of {0} was heard from")]
    NoQuorum(GroupId),
    /// The node does not answer, or has no replica of the group: ask again once it has.
    #[error("{node} is not ready for {group}: {why}")]
    NotReady {
        /// The group.
        group: GroupId,
        /// The node that was to be a member.
        node: NodeId,
        /// The reason.
        why: String,
    },
    /// The learner is too far behind to be given a vote: ask again later.
    #[error("{node} has not caught up with {group}")]
    NotCaughtUp {
        /// The group.
        group: GroupId,
        /// The learner.
        node: NodeId,
    },
    /// The node is a member with a replica that is gone for good: it must be removed before it can be added.
    #[error("{node} is a member of {group} with a replica that is gone: remove it first")]
    Former {
        /// The group.
        group: GroupId,
        /// The node.
        node: NodeId,
    },
    /// The group would be left without a voter.
    #[error("{0} would be left without a voter")]
    NoVoter(GroupId),
    /// The change makes no sense.
    #[error("members of {group} cannot change so: {why}")]
    Refused {
        /// The group.
        group: GroupId,
        /// The reason.
        why: String,
    },
    /// The time ran out, the group stopped, or leadership was lost half-way: the change may have been made, or may
    /// still be; it is never left half. Saying it again, to whoever leads, is no error.
    #[error("outcome of the change to {group} is unknown: {why}")]
    Unknown {
        /// The group.
        group: GroupId,
        /// What happened.
        why: String,
    },
}

/// Why a node or one of its groups cannot start or go on. The node stops.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Fatal {
    /// The configuration contradicts itself.
    #[error("configuration: {0}")]
    Config(String),
    /// The disk, or what stands on it.
    #[error("storage: {0}")]
    Storage(String),
    /// This node's disk is new, yet the cluster has met this node before: the votes that it gave and the
    /// entries that it acknowledged are lost with the old disk, and voting anew could lose what the cluster
    /// has acknowledged.
    #[error(
        "data directory of {node} is new, but {by} has known {node} by an older one: bring that one back"
    )]
    Amnesia {
        /// This node.
        node: NodeId,
        /// The member that remembers.
        by: NodeId,
    },
    /// The network address cannot be listened on.
    #[error("{why}")]
    Listen {
        /// The address.
        address: String,
        /// The network's reason, which names the address.
        why: String,
    },
    /// The group's own machinery stopped.
    #[error("{group} stopped: {why}")]
    Group {
        /// The group.
        group: GroupId,
        /// The reason.
        why: String,
    },
}
