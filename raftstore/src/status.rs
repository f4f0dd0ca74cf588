//! What a group looks like from one of its replicas, at a glance.

use crate::types::Address;
use proto::{GroupId, Incarnation, NodeId};
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
    /// Members with a vote; while [`joint`](Self::joint), those of before the change and those of after it.
    pub voters: Vec<NodeId>,
    /// Members without a vote.
    pub learners: Vec<NodeId>,
    /// Whether a change of voters is half-way: it takes a majority of the old ones and one of the new.
    pub joint: bool,
    /// Whether the members are what a quorum agreed on, as far as this replica knows.
    pub settled: bool,
    /// The entry of the log that made the members what they are: of two reports, the later one is newer.
    pub membership_index: Option<u64>,
    /// All members, voters and learners, with their addresses.
    pub members: BTreeMap<NodeId, Address>,
    /// What the disk of each member was when it became one.
    pub incarnations: BTreeMap<NodeId, Incarnation>,
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
