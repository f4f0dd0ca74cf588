//! What holds of every state: asserted after a copy was loaded, and after every command of the tests.

use super::Controller;
use super::state::{Group, Move, Node, OWN, State};
use crate::bounds::{
    EPOCH_MAX, FORMER_MAX, GROUP_ID_MAX, GROUPS_MAX, MEMBERS_MAX, MOVES_MAX, NODES_MAX, REPLICAS_MAX,
    SHARDS_MAX, WHY_BYTES_MAX,
};
use proto::{GroupId, GroupState, MoveState, NodeId, ShardId};

impl Controller {
    /// Whether this can be the state of a controller.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub(crate) fn check(&self) -> Result<(), String> {
        let epochs = self.state.epoch.0 <= EPOCH_MAX && self.history.oldest().0 <= EPOCH_MAX;
        require(epochs, || "epochs are out of range".into())?;
        self.state.check()?;
        for group in self.hints.keys() {
            require(self.state.groups.contains_key(group), || format!("{group} led, but is unknown"))?;
        }
        require(self.history.latest() == self.state.epoch, || {
            format!("history ends at {}, the map is at {}", self.history.latest(), self.state.epoch)
        })?;
        require(self.history.is_within(self.state.shards.len()), || "history exceeds its bounds".into())
    }
}

impl State {
    fn check(&self) -> Result<(), String> {
        let Some(birth) = &self.birth else {
            return require(*self == Self::default(), || "an unborn cluster has a state".into());
        };
        require(birth.shards <= SHARDS_MAX && birth.shards as usize == self.shards.len(), || {
            format!("{} shards, born with {}", self.shards.len(), birth.shards)
        })?;
        let settings = self.settings;
        require((1..=MOVES_MAX).contains(&settings.moves_max), || "moves_max is out of range".into())?;
        require((1..=REPLICAS_MAX).contains(&settings.replicas), || "replicas are out of range".into())?;
        require(self.nodes.len() <= NODES_MAX && self.data_groups().count() <= GROUPS_MAX, || {
            format!("{} nodes, {} groups", self.nodes.len(), self.groups.len())
        })?;
        require(self.group_last.0 <= GROUP_ID_MAX, || format!("{} is out of range", self.group_last))?;
        self.nodes.iter().try_for_each(|(&id, node)| self.check_node(id, node))?;
        self.groups.iter().try_for_each(|(&id, group)| self.check_group(id, group))?;
        require(self.targets_serve(), || "a shard's target does not serve".into())?;
        for (shard, id) in self.shards.iter().zip(0..) {
            let arrived = shard.arrived.is_none_or(|arrival| arrival.id <= self.epoch);
            let owned = shard.owner != OWN && self.groups.contains_key(&shard.owner);
            require(owned && shard.target != OWN && arrived, || {
                format!("{} has no owner, or arrives in time to come", ShardId(id))
            })?;
        }
        self.moves.iter().try_for_each(|(&id, moved)| self.check_move(id, moved))?;
        require(self.sides_keep_to_their_bounds(), || "a group takes part in too many moves".into())?;
        for (id, setback) in &self.setbacks {
            let due = self.shards.get(id.0 as usize).is_some_and(|shard| shard.is_due());
            require(due && setback.why.len() <= WHY_BYTES_MAX, || format!("{id} has a setback, not a move"))?;
        }
        Ok(())
    }

    fn check_node(&self, id: NodeId, node: &Node) -> Result<(), String> {
        let former = node.former.len() <= FORMER_MAX && !node.former.contains(&node.spec.incarnation);
        require(former && node.since <= self.epoch, || format!("{id} is older than itself"))?;
        self.check_spec(id, &node.spec)
            .or_else(|refusal| if node.dead { Ok(()) } else { Err(refusal.to_string()) })
    }

    fn check_group(&self, id: GroupId, group: &Group) -> Result<(), String> {
        let known = id <= self.group_last && group.weight > 0;
        require(known, || format!("{id} was never added"))?;
        let stays = id != OWN || group.state == GroupState::Serving;
        require(stays, || format!("{id} leaves, though it is the controller's own"))?;
        let incarnations = group.replicas.iter().all(|(node, incarnation)| {
            self.nodes.get(node).is_some_and(|node| node.spec.incarnation == *incarnation)
        });
        require(incarnations && !group.replicas.is_empty(), || format!("{id} has replicas on lost disks"))?;
        let (voters, learners) = group.members();
        let members = !voters.is_empty() && voters.keys().all(|node| !learners.contains_key(node));
        require(members && voters.len() + learners.len() <= MEMBERS_MAX, || format!("{id} has odd members"))?;
        let preferred = group.preferred.is_none_or(|node| group.replicas.contains_key(&node));
        require(preferred, || format!("{id} is to be led by a stranger"))
    }

    fn check_move(&self, id: ShardId, moved: &Move) -> Result<(), String> {
        let shard = self.shards.get(id.0 as usize).ok_or_else(|| format!("{id} moves, but is unknown"))?;
        let on_its_way = moved.state == MoveState::Cancelling || moved.to == shard.target;
        let known =
            moved.from == shard.owner && moved.from != moved.to && self.groups.contains_key(&moved.to);
        require(on_its_way && known && moved.id <= self.epoch, || format!("{id} moves astray: {moved:?}"))
    }
}

fn require(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}
