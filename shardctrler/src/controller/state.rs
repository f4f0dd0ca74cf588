//! What the state is made of.

use crate::bounds::{COPY_BYTES_PER_SECOND_DEFAULT, DEAD_AFTER_DEFAULT_MS, MOVES_DEFAULT};
use crate::liveness::is_spent;
use crate::membership::Disk;
use crate::placement::Held;
use bincode::{Decode, Encode};
use proto::{
    Birth, ClusterSettings, Epoch, GroupId, GroupState, Incarnation, MoveState, NodeId, NodeSpec, NodeState,
    ShardId,
};
use std::collections::BTreeMap;

/// All but the history, and who leads.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct State {
    /// The version of all this.
    pub(super) epoch: Epoch,
    /// `None` until the cluster is born; everything else is empty until then.
    pub(super) birth: Option<Birth>,
    pub(super) settings: ClusterSettings,
    pub(super) nodes: BTreeMap<NodeId, Node>,
    pub(super) groups: BTreeMap<GroupId, Group>,
    /// The highest id that a group ever had; never goes back.
    pub(super) group_last: GroupId,
    /// One for each shard, by its id.
    pub(super) shards: Vec<Shard>,
    /// The moves that have started.
    pub(super) moves: BTreeMap<ShardId, Move>,
    /// Shards that are due to move and did not get there; none that is not due.
    pub(super) setbacks: BTreeMap<ShardId, Setback>,
}

impl Default for State {
    fn default() -> Self {
        let settings = ClusterSettings {
            moves_paused: false,
            copy_bytes_per_second: Some(COPY_BYTES_PER_SECOND_DEFAULT),
            moves_max: MOVES_DEFAULT,
            replicas: 0,
            dead_after_ms: DEAD_AFTER_DEFAULT_MS,
        };
        Self {
            epoch: Epoch(0),
            birth: None,
            settings,
            nodes: BTreeMap::new(),
            groups: BTreeMap::new(),
            group_last: GroupId(0),
            shards: Vec::new(),
            moves: BTreeMap::new(),
            setbacks: BTreeMap::new(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct Node {
    pub(super) spec: NodeSpec,
    pub(super) draining: bool,
    pub(super) dead: bool,
    /// When it was last found dead, found alive or joined: a judgement by an older map is stale.
    pub(super) since: Epoch,
    /// Its disks that were lost, newest last; never its present one.
    pub(super) former: Vec<Incarnation>,
}

impl Node {
    /// Dead before draining: a drain goes on when the node returns.
    pub(super) fn state(&self) -> NodeState {
        match self {
            Self { dead: true, .. } => NodeState::Dead,
            Self { draining: true, .. } => NodeState::Draining,
            _ => NodeState::Up,
        }
    }

    /// Whether it may be given replicas.
    pub(super) fn is_fit(&self) -> bool {
        self.state() == NodeState::Up
    }
}

/// Nodes, each with the disk that a replica is on.
pub(super) type Replicas = BTreeMap<NodeId, Incarnation>;

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct Group {
    pub(super) state: GroupState,
    /// From 1; counts only while the group serves.
    pub(super) weight: u32,
    /// With whom it begins; never changed.
    pub(super) first: Replicas,
    /// Where its replicas are to be, each under the present incarnation of its node; never empty.
    pub(super) replicas: Replicas,
    /// `None` until its leader has reported.
    pub(super) reported: Option<Reported>,
    /// Who is to lead.
    pub(super) preferred: Option<NodeId>,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct Reported {
    pub(super) voters: Replicas,
    pub(super) learners: Replicas,
}

impl Group {
    /// Voters and learners, as far as the controller knows.
    pub(super) fn members(&self) -> (Replicas, Replicas) {
        match &self.reported {
            Some(reported) => (reported.voters.clone(), reported.learners.clone()),
            None => (self.first.clone(), Replicas::new()),
        }
    }

    /// Whether `node` is a member, or is to be one.
    pub(super) fn concerns(&self, node: NodeId) -> bool {
        let (voters, learners) = self.members();
        self.replicas.contains_key(&node) || voters.contains_key(&node) || learners.contains_key(&node)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct Shard {
    /// Where it is served. Changes only when a move is done.
    pub(super) owner: GroupId,
    /// Where it is to be served: always a group that serves.
    pub(super) target: GroupId,
    /// Its target before the present one.
    pub(super) origin: GroupId,
    /// The last move that was done, so that a repeated message is known.
    pub(super) arrived: Option<Arrival>,
}

impl Shard {
    /// Whether it is to move.
    pub(super) fn is_due(&self) -> bool {
        self.owner != self.target
    }

    pub(super) fn held(&self, moving: bool) -> Held {
        Held { target: self.target, owner: self.owner, origin: self.origin, moving }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct Arrival {
    pub(super) from: GroupId,
    pub(super) to: GroupId,
    pub(super) id: Epoch,
}

/// A move that has started. `from` is the shard's owner; `to` is its target while the move is running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct Move {
    pub(super) from: GroupId,
    pub(super) to: GroupId,
    /// The epoch at which it started: a shard starts at most one move at each.
    pub(super) id: Epoch,
    pub(super) state: MoveState,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct Setback {
    pub(super) count: u32,
    pub(super) why: String,
}

/// Who led a group, by the newest report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct Hint {
    pub(super) term: u64,
    pub(super) index: u64,
    pub(super) leader: Option<NodeId>,
}

/// The controller's own group. It is placed by the same rules as the others but apart from them: it owns no
/// shards, weighs next to nothing, and never leaves. It is known from its leader's first report on.
pub(super) const OWN: GroupId = GroupId(0);

impl State {
    /// The groups that hold data, or did.
    pub(super) fn data_groups(&self) -> impl Iterator<Item = (&GroupId, &Group)> {
        self.groups.iter().filter(|(id, _)| **id != OWN)
    }

    /// The nodes as they are now.
    pub(super) fn disks(&self) -> BTreeMap<NodeId, Disk> {
        let disk = |node: &Node| Disk { incarnation: node.spec.incarnation, live: !node.dead };
        self.nodes.iter().map(|(&id, node)| (id, disk(node))).collect()
    }

    /// Whether a group is leaving and takes part in nothing any more.
    pub(super) fn is_spent(&self, id: GroupId) -> bool {
        let state = self.groups.get(&id).map(|group| group.state);
        let shards = self.shards.iter().map(|shard| (shard.owner, shard.target));
        let moves = self.moves.values().map(|moved| (moved.from, moved.to));
        is_spent(id, state, shards, moves)
    }
}
