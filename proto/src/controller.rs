//! The shard controller's words: what is asked of group 0, what it answers, and the map that everybody
//! follows.
//!
//! Operators, nodes and the leaders of groups send [`ControllerCommand`]s, which enter the controller's log;
//! each is answered with a [`ControllerAnswer`]. Routers, replicas and operators read a [`ClusterMap`], or
//! the [`ShardMap`] of an epoch. Kinds of changes, replies and errors are only ever added at the end: their
//! order is on disks.

use crate::{Epoch, GroupId, NodeId, ShardId};
use bincode::{Decode, Encode};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What a node's disk is: drawn at random when the disk was new, so that a node whose disk was lost is told
/// from the node that it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Incarnation(pub u128);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// What a node says of itself when it joins.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct NodeSpec {
    /// `host:port` of the node-to-node transport; empty for a node that has come back at an address where the
    /// map still has another.
    pub peer: String,
    /// `host:port` of the HTTP front end.
    pub http: String,
    /// What fails together with it: a rack, a building; empty where nobody said.
    pub zone: String,
    /// How much it can carry, beside the others; from 1.
    pub weight: u32,
    /// What its disk is.
    pub incarnation: Incarnation,
}

/// What a cluster is born with.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Birth {
    /// How many shards there are, for ever; from 1.
    pub shards: u32,
    /// How many groups hold data, numbered from 1; at most one for each shard.
    pub groups: u32,
    /// How many replicas a group is to have; from 1.
    pub replicas: u32,
    /// The first nodes.
    pub nodes: BTreeMap<NodeId, NodeSpec>,
}

/// Which groups to add.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum NewGroups {
    /// So many, with the next free ids.
    Count(u32),
    /// These: each above every id that was ever used, for a node that was away may still hold replicas of an
    /// old group; or a group that is leaving and shall stay after all.
    Ids(BTreeSet<GroupId>),
}

/// Who is a member of a group, and on which disk, as its leader saw it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct MembersReport {
    /// The group.
    pub group: GroupId,
    /// The leader's term. An older `(term, index)` never replaces a newer one.
    pub term: u64,
    /// The last log index that the leader had applied.
    pub index: u64,
    /// Members with a vote; in a joint configuration those of either half.
    pub voters: BTreeMap<NodeId, Incarnation>,
    /// Members without a vote.
    pub learners: BTreeMap<NodeId, Incarnation>,
    /// Who leads.
    pub leader: Option<NodeId>,
}

/// A change asked of the controller, as it stands in its log.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ControllerCommand {
    /// Refused with [`ControllerError::EpochMismatch`] where the map is at another epoch: two operators at
    /// once, or a retry of what took effect. `None` for whoever takes the map as it comes.
    pub expect: Option<Epoch>,
    /// What is to change.
    pub change: ControllerChange,
}

/// The kinds of changes.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum ControllerChange {
    /// Begins the cluster. The same again changes nothing, another is refused.
    Birth(Birth),
    /// A node is new, has come back, or has new addresses. Under another incarnation it has lost its disk:
    /// whatever it held is void, and it is placed anew.
    NodeJoin {
        /// The node.
        node: NodeId,
        /// What it says of itself.
        spec: NodeSpec,
    },
    /// Moves all replicas off a node.
    NodeDrain {
        /// The node.
        node: NodeId,
    },
    /// Takes a drain back.
    NodeUndrain {
        /// The node.
        node: NodeId,
    },
    /// Forgets a node that holds no replica.
    NodeRemove {
        /// The node.
        node: NodeId,
    },
    /// The driver has not heard of a node for too long.
    NodeDead {
        /// The node.
        node: NodeId,
        /// Which disk of it.
        incarnation: Incarnation,
        /// The epoch of the map by which the driver judged.
        judged: Epoch,
    },
    /// The driver hears of a node again.
    NodeAlive {
        /// The node.
        node: NodeId,
        /// Which disk of it.
        incarnation: Incarnation,
        /// The epoch of the map by which the driver judged.
        judged: Epoch,
    },
    /// Adds groups, places their replicas and balances the shards.
    GroupAdd {
        /// Which.
        groups: NewGroups,
        /// Their share of shards, beside the others'; from 1.
        weight: u32,
    },
    /// Moves all shards off a group, which then waits for [`GroupGone`](Self::GroupGone).
    GroupRemove {
        /// The group.
        group: GroupId,
    },
    /// The driver has dropped all replicas of a group that was leaving and owned nothing any more.
    GroupGone {
        /// The group.
        group: GroupId,
    },
    /// Gives a group another share of shards.
    GroupWeight {
        /// The group.
        group: GroupId,
        /// The new weight; from 1.
        weight: u32,
    },
    /// Moves one shard. It stays where it was put until shards are next balanced: by a group that is added,
    /// removed or weighed anew, or by [`ShardRebalance`](Self::ShardRebalance).
    ShardMove {
        /// The shard.
        shard: ShardId,
        /// Where it is to be.
        to: GroupId,
    },
    /// Balances shards over groups and replicas over nodes.
    ShardRebalance,
    /// Leaves a shard where it is. A move that has started is called off; if that comes too late, it is
    /// undone.
    MoveCancel {
        /// The shard.
        shard: ShardId,
    },
    /// The destination serves the shard; from the destination's leader.
    MoveDone {
        /// The shard.
        shard: ShardId,
        /// Where it was.
        from: GroupId,
        /// Where it is.
        to: GroupId,
        /// The move's id.
        id: Epoch,
    },
    /// The destination has given up and forgotten the shard; from the destination's leader.
    MoveAborted {
        /// The shard.
        shard: ShardId,
        /// The move's id.
        id: Epoch,
        /// For people.
        why: String,
    },
    /// Starts no move any more, and lets the copies of those under way rest.
    MovesPause,
    /// Goes on with moves.
    MovesResume,
    /// Sets how much moves may take.
    MovesThrottle {
        /// What all copies together may take of one node, in bytes a second; `None` for no limit.
        copy_bytes_per_second: Option<u64>,
        /// The most moves at once; from 1.
        moves_max: u32,
    },
    /// Sets how long a node may be silent before its replicas are rebuilt elsewhere.
    DeadAfter {
        /// In milliseconds; from 1.
        ms: u64,
    },
    /// A group's leader says who its members are.
    MembersReport(MembersReport),
}

/// What a change that was accepted answers.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum ControllerReply {
    /// It holds, since this change or before it.
    Done {
        /// The epoch of the map now.
        epoch: Epoch,
    },
    /// Groups were added.
    GroupsAdded {
        /// The epoch of the map now.
        epoch: Epoch,
        /// Their ids, in order.
        groups: Vec<GroupId>,
    },
}

impl ControllerReply {
    /// The epoch of the map after the change.
    pub fn epoch(&self) -> Epoch {
        match self {
            Self::Done { epoch } | Self::GroupsAdded { epoch, .. } => *epoch,
        }
    }
}

/// Why the controller refused, by what the caller does next. A refusal changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, thiserror::Error)]
pub enum ControllerError {
    /// Look at the map again, then decide anew.
    #[error("the map has changed meanwhile, it is at epoch {}", .current.0)]
    EpochMismatch {
        /// The epoch of the map.
        current: Epoch,
    },
    /// What the caller speaks of is past: forget it.
    #[error("the command is stale: {why}")]
    Stale {
        /// What has changed.
        why: String,
    },
    /// Wait: the cluster is not born yet.
    #[error("the cluster is not born yet")]
    Unborn,
    /// The cluster was born with something else.
    #[error("the cluster was born with another shape")]
    Born,
    /// Correct the command: a number, a name or its bytes cannot be.
    #[error("the command is invalid: {why}")]
    Invalid {
        /// Which, and why.
        why: String,
    },
    /// Correct the command: there is no such node.
    #[error("node is unknown: {node}")]
    UnknownNode {
        /// The node.
        node: NodeId,
    },
    /// Correct the command: there is no such group.
    #[error("group is unknown: {group}")]
    UnknownGroup {
        /// The group.
        group: GroupId,
    },
    /// Correct the command: there is no such shard.
    #[error("shard is unknown: {shard}")]
    UnknownShard {
        /// The shard.
        shard: ShardId,
    },
    /// Choose another id: this one is, or was, a group's.
    #[error("group id is used already: {group}")]
    GroupIdUsed {
        /// The group.
        group: GroupId,
    },
    /// Choose another group: this one is leaving.
    #[error("group is leaving: {group}")]
    GroupLeaving {
        /// The group.
        group: GroupId,
    },
    /// Add a group first: somebody has to hold the shards.
    #[error("group is the last that serves: {group}")]
    LastGroup {
        /// The group.
        group: GroupId,
    },
    /// Wait: the group still serves, owns shards or takes part in moves.
    #[error("group is still in use: {group}")]
    GroupInUse {
        /// The group.
        group: GroupId,
    },
    /// Add nodes first: a group's replicas would have no place to go.
    #[error("replicas need {needed} live nodes, there would be {live}")]
    NoPlace {
        /// How many nodes that are up and not draining are needed.
        needed: u32,
        /// How many there would be.
        live: u32,
    },
    /// Bring nodes back first: a group has no quorum of live voters with which its members could be changed.
    #[error("group has no quorum of live voters: {group}")]
    NoQuorum {
        /// The group.
        group: GroupId,
    },
    /// Drain the node first, then wait.
    #[error("node still holds {replicas} replicas: {node}")]
    NodeInUse {
        /// The node.
        node: NodeId,
        /// How many replicas.
        replicas: u32,
    },
    /// Wait for the end of the move, or cancel it.
    #[error("shard is moving: {shard}")]
    ShardMoving {
        /// The shard.
        shard: ShardId,
    },
    /// Nothing is to be done: the shard is there.
    #[error("shard is there already: {shard}")]
    ShardThere {
        /// The shard.
        shard: ShardId,
    },
    /// Nothing is to be done: the shard neither moves nor is due to.
    #[error("shard is not moving: {shard}")]
    ShardNotMoving {
        /// The shard.
        shard: ShardId,
    },
    /// Ask for another epoch: this one has not come yet.
    #[error("the map has not come to that epoch, it is at epoch {}", .current.0)]
    EpochAhead {
        /// The epoch of the map.
        current: Epoch,
    },
    /// Ask for another epoch: this one is forgotten.
    #[error("that epoch is forgotten, the oldest that is known is epoch {}", .oldest.0)]
    EpochForgotten {
        /// The oldest epoch that is known.
        oldest: Epoch,
    },
}

/// What comes back for one command.
pub type ControllerAnswer = Result<ControllerReply, ControllerError>;

/// What a node is to the controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum NodeState {
    /// Holds replicas.
    Up,
    /// Gives its replicas away.
    Draining,
    /// Was not heard of for too long; its replicas are rebuilt elsewhere.
    Dead,
}

/// What a group is to the controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum GroupState {
    /// Holds its share of shards.
    Serving,
    /// Gives its shards away, then ends.
    Leaving,
}

/// How far the controller knows a move to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum MoveState {
    /// The destination works on it.
    Running,
    /// The destination is asked to give it up, and answers either that it did or that the shard had arrived.
    Cancelling,
}

/// What operators set for the whole cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ClusterSettings {
    /// Whether moves rest.
    pub moves_paused: bool,
    /// What all copies together may take of one node, in bytes a second; `None` for no limit.
    pub copy_bytes_per_second: Option<u64>,
    /// The most moves at once; those that run when it is lowered go on.
    pub moves_max: u32,
    /// How many replicas a group is to have; fewer where there are fewer nodes.
    pub replicas: u32,
    /// How long a node may be silent before it counts as dead, in milliseconds.
    pub dead_after_ms: u64,
}

/// Shards next to each other that are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ShardRun {
    /// The first of them.
    pub first: ShardId,
    /// How many they are; from 1.
    pub count: u32,
    /// The group that serves them.
    pub owner: GroupId,
    /// The group that is to serve them.
    pub target: GroupId,
}

/// Which group serves which shard, at one epoch.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ShardMap {
    /// The version of the map.
    pub epoch: Epoch,
    /// How many shards there are.
    pub shards: u32,
    /// All of them, in order and without gaps.
    pub runs: Vec<ShardRun>,
}

impl ShardMap {
    /// The run that holds `shard`; `None` for a shard that is not of this map.
    pub fn run_of(&self, shard: ShardId) -> Option<&ShardRun> {
        let after = self.runs.partition_point(|run| run.first <= shard);
        let run = self.runs.get(after.checked_sub(1)?)?;
        (shard.0 - run.first.0 < run.count).then_some(run)
    }

    /// The group that serves `shard`; `None` for a shard that is not of this map.
    pub fn owner_of(&self, shard: ShardId) -> Option<GroupId> {
        self.run_of(shard).map(|run| run.owner)
    }
}

/// A node on the map.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct NodeView {
    /// The node.
    pub node: NodeId,
    /// What it said of itself.
    pub spec: NodeSpec,
    /// What it is to the controller.
    pub state: NodeState,
}

/// A group on the map.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct GroupView {
    /// The group.
    pub group: GroupId,
    /// What it is to the controller.
    pub state: GroupState,
    /// Its share of shards, beside the others'.
    pub weight: u32,
    /// The members with which it begins; a node begins it only under this incarnation.
    pub first: BTreeMap<NodeId, Incarnation>,
    /// Where its replicas are to be, each under the incarnation that it was assigned to.
    pub replicas: BTreeMap<NodeId, Incarnation>,
    /// Members with a vote, as last reported; `first` before that.
    pub voters: BTreeMap<NodeId, Incarnation>,
    /// Members without a vote, as last reported.
    pub learners: BTreeMap<NodeId, Incarnation>,
    /// Who led it when it was last heard of. A hint: it may change without a new epoch.
    pub leader: Option<NodeId>,
    /// Who is to lead it, so that leaders are spread.
    pub preferred: Option<NodeId>,
}

/// A move on the map.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct MoveView {
    /// The shard.
    pub shard: ShardId,
    /// Where it is.
    pub from: GroupId,
    /// Where it goes.
    pub to: GroupId,
    /// The move's id: with the shard, it is never used again.
    pub id: Epoch,
    /// How far the controller knows it to be.
    pub state: MoveState,
}

/// A shard whose moves were given up by their destinations, and that is still to move.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SetbackView {
    /// The shard.
    pub shard: ShardId,
    /// How often.
    pub count: u32,
    /// What the last destination said.
    pub why: String,
}

/// All that routers, replicas and operators follow.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ClusterMap {
    /// Which group serves which shard. Its epoch is that of everything here but the groups' leaders.
    pub shard_map: ShardMap,
    /// What operators set.
    pub settings: ClusterSettings,
    /// All nodes, by id.
    pub nodes: Vec<NodeView>,
    /// All groups, by id.
    pub groups: Vec<GroupView>,
    /// The moves that have started, by shard.
    pub moves: Vec<MoveView>,
    /// The shards that failed to move, by shard.
    pub setbacks: Vec<SetbackView>,
    /// How many groups held data when the cluster was born, numbered from 1.
    pub groups_at_birth: u32,
}

/// A move that a change would bring about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct PlannedMove {
    /// The shard.
    pub shard: ShardId,
    /// Where it is.
    pub from: GroupId,
    /// Where it would go.
    pub to: GroupId,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Refusals name an epoch as callers say one, in `If-Match` and `--epoch`: by its number.
    #[test]
    fn epochs_are_told_by_number() {
        let (current, oldest) = (Epoch(141), Epoch(141));
        for refusal in [
            ControllerError::EpochMismatch { current },
            ControllerError::EpochAhead { current },
            ControllerError::EpochForgotten { oldest },
        ] {
            let told = refusal.to_string();
            assert!(told.ends_with(" epoch 141"), "{told}");
        }
    }

    /// A shard is found in the run that holds it, and one beyond the map in none.
    #[test]
    fn runs_are_found() {
        let run = |first, count, owner| {
            let owner = GroupId(owner);
            ShardRun { first: ShardId(first), count, owner, target: owner }
        };
        let map =
            ShardMap { epoch: Epoch(1), shards: 6, runs: vec![run(0, 1, 3), run(1, 3, 1), run(4, 2, 2)] };
        let owners = (0..8).map(|shard| map.owner_of(ShardId(shard)).map(|group| group.0));
        let want = [Some(3), Some(1), Some(1), Some(1), Some(2), Some(2), None, None];
        assert_eq!(owners.collect::<Vec<_>>(), want);
        let empty = ShardMap { epoch: Epoch(0), shards: 0, runs: vec![] };
        assert_eq!(empty.owner_of(ShardId(0)), None);
    }
}
