//! What a group looks like from one of its replicas, at a glance.

use crate::types::Address;
use proto::{GroupId, NodeId};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// What a replica is in its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Not a member, or a member without a vote.
    Learner,
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks for votes.
    Candidate,
    /// Leads, as far as it knows.
    Leader,
    /// Has stopped.
    Stopped,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Learner => "learner",
            Self::Follower => "follower",
            Self::Candidate => "candidate",
            Self::Leader => "leader",
            Self::Stopped => "stopped",
        })
    }
}

/// A group as one of its replicas sees it. Indexes count log entries from 0; `None`: there is none yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupStatus {
    /// The group.
    pub group: GroupId,
    /// The node of this replica.
    pub node: NodeId,
    /// What this replica is.
    pub role: Role,
    /// The term that it is in.
    pub term: u64,
    /// Who leads the term, where known.
    pub leader: Option<NodeId>,
    /// Members with a vote.
    pub voters: Vec<NodeId>,
    /// All members, voters and learners, with their addresses.
    pub members: BTreeMap<NodeId, Address>,
    /// The last entry in this replica's log.
    pub last_index: Option<u64>,
    /// The last entry that a quorum holds, as far as this replica knows.
    pub committed_index: Option<u64>,
    /// The last entry applied to this replica's machine.
    pub applied_index: Option<u64>,
    /// The last entry that this replica's snapshot covers.
    pub snapshot_index: Option<u64>,
    /// The size of that snapshot, in bytes.
    pub snapshot_bytes: u64,
    /// The last entry that was purged from the log.
    pub purged_index: Option<u64>,
    /// The size of the log that is not purged, in bytes.
    pub log_bytes: u64,
    /// On the leader: for each other member, the last entry that it is known to hold.
    pub matched: BTreeMap<NodeId, Option<u64>>,
    /// How far this replica's machine is behind the leader, in time; on the leader, since a quorum last
    /// confirmed it. `None` where no leader was heard of.
    pub lag: Option<Duration>,
    /// Whether the machine holds all that it may have shown before a restart.
    pub recovered: bool,
}
