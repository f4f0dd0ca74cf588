//! What is shown of the state.

use super::Controller;
use proto::{ClusterMap, ControllerError, Epoch, GroupView, MoveView, NodeView, SetbackView, ShardMap};

impl Controller {
    /// Which group served, and was to serve, which shard at `epoch`; now, where that is `None`.
    ///
    /// # Errors
    /// [`ControllerError::Unborn`], [`ControllerError::EpochAhead`] or [`ControllerError::EpochForgotten`].
    pub fn shard_map(&self, epoch: Option<Epoch>) -> Result<ShardMap, ControllerError> {
        let state = &self.state;
        if state.birth.is_none() {
            return Err(ControllerError::Unborn);
        }
        let epoch = epoch.unwrap_or(state.epoch);
        let shards = state.shards.len() as u32;
        Ok(ShardMap { epoch, shards, runs: self.history.at(epoch, &state.shards)? })
    }

    /// Everything that routers, replicas and operators follow, as it is now.
    ///
    /// # Errors
    /// [`ControllerError::Unborn`].
    pub fn cluster_map(&self) -> Result<ClusterMap, ControllerError> {
        let state = &self.state;
        let nodes = state.nodes.iter().map(|(&node, known)| NodeView {
            node,
            spec: known.spec.clone(),
            state: known.state(),
        });
        let groups = state.groups.iter().map(|(&group, known)| {
            let (voters, learners) = known.members();
            GroupView {
                group,
                state: known.state,
                weight: known.weight,
                first: known.first.clone(),
                replicas: known.replicas.clone(),
                voters,
                learners,
                leader: self.hints.get(&group).and_then(|hint| hint.leader),
                preferred: known.preferred,
            }
        });
        let moves = state.moves.iter().map(|(&shard, moved)| MoveView {
            shard,
            from: moved.from,
            to: moved.to,
            id: moved.id,
            state: moved.state,
        });
        let setbacks = state.setbacks.iter().map(|(&shard, setback)| SetbackView {
            shard,
            count: setback.count,
            why: setback.why.clone(),
        });
        Ok(ClusterMap {
            shard_map: self.shard_map(None)?,
            settings: state.settings,
            nodes: nodes.collect(),
            groups: groups.collect(),
            moves: moves.collect(),
            setbacks: setbacks.collect(),
            groups_at_birth: state.birth.as_ref().map_or(0, |birth| birth.groups),
        })
    }
}
