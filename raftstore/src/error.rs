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

/// Why a change of members or of the leader was not made.
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
    /// The change makes no sense, or another is under way.
    #[error("members of {group} cannot change so: {why}")]
    Refused {
        /// The group.
        group: GroupId,
        /// The reason.
        why: String,
    },
    /// The group stopped, or leadership was lost half-way: look again before trying again.
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
    #[error("cannot listen on {address}: {why}")]
    Listen {
        /// The address.
        address: String,
        /// The reason.
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
