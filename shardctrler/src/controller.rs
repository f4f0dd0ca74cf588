//! The controller's state and the one way to change it.
//!
//! Owns nodes, groups, the shard map, moves, settings and their history. A command is tried on a copy of the
//! state, which replaces it only if nothing was refused and something changed; so a refusal changes nothing,
//! and the epoch rises with each change and only then. Relies on [`placement`](crate::placement) for what
//! belongs where. Must never see a clock, a socket or a random number: all replicas must come to the same
//! state.
//!
//! Copying is cheap enough: a cluster of 256 shards takes some 20 KiB, and commands come by
//! hand, or with a move's end, or where a group's members change.

mod birth;
mod check;
mod groups;
mod history;
mod members;
mod moves;
mod nodes;
mod state;
#[cfg(test)]
pub(crate) mod tests;
mod view;

use bincode::{Decode, Encode};
use history::History;
use proto::{
    ControllerAnswer, ControllerChange, ControllerCommand, ControllerError, ControllerReply, Epoch, GroupId,
    GroupState, NodeId, NodeSpec, PlannedMove, ShardId,
};
use state::{Hint, State};
use std::collections::BTreeMap;

/// All that the controller knows. Equal on every replica that executed the same commands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Controller {
    state: State,
    /// For each group that was reported, who led it and how new the report was. Beside the state, because
    /// leaders change without a new epoch.
    hints: BTreeMap<GroupId, Hint>,
    history: History,
}

impl Controller {
    /// A controller whose cluster is not born yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The version of the map; 0 before the cluster is born.
    pub fn epoch(&self) -> Epoch {
        self.state.epoch
    }

    /// Carries out one command.
    ///
    /// # Errors
    /// [`ControllerError`]; then nothing has changed.
    pub fn execute(&mut self, command: &ControllerCommand) -> ControllerAnswer {
        let current = self.state.epoch;
        if command.expect.is_some_and(|expect| expect != current) {
            return Err(ControllerError::EpochMismatch { current });
        }
        let (mut next, mut hints) = (self.state.clone(), self.hints.clone());
        next.epoch.0 += 1;
        next.change(&command.change, &mut hints)?;
        next.settle();
        let added = self.state.added_in(&next);
        self.hints = hints;
        self.adopt(next);
        let epoch = self.state.epoch;
        match command.change {
            ControllerChange::GroupAdd { .. } => Ok(ControllerReply::GroupsAdded { epoch, groups: added }),
            _ => Ok(ControllerReply::Done { epoch }),
        }
    }

    /// Takes `next` for the state, unless it differs by nothing but its epoch.
    fn adopt(&mut self, mut next: State) {
        let epoch = std::mem::replace(&mut next.epoch, self.state.epoch);
        if next != self.state {
            next.epoch = epoch;
            self.history.record(epoch, &self.state.shards, &next.shards);
            self.state = next;
        }
    }

    /// Whether a node may join at the HTTP address that it says it has. [`execute`](Self::execute) does not
    /// ask: what a command does never changes, and logs are older than this rule. Whoever proposes the command
    /// asks, and has it carried out at this very epoch alone.
    ///
    /// # Errors
    /// [`ControllerError::Invalid`] where the address is another's.
    pub(crate) fn check_http(&self, node: NodeId, spec: &NodeSpec) -> Result<(), ControllerError> {
        self.state.check_http(node, spec)
    }

    /// The moves that a command would bring about, without carrying it out: shards that it sends elsewhere
    /// than they are, and were not sent there before.
    ///
    /// # Errors
    /// [`ControllerError`], as the command itself would be refused.
    pub fn plan(&self, command: &ControllerCommand) -> Result<Vec<PlannedMove>, ControllerError> {
        let mut planned = self.clone();
        planned.execute(command)?;
        let shards = self.state.shards.iter().zip(&planned.state.shards).enumerate();
        let moves = shards.filter(|(_, (before, after))| after.is_due() && before.target != after.target);
        let planned = moves.map(|(shard, (_, after))| PlannedMove {
            shard: ShardId(shard as u32),
            from: after.owner,
            to: after.target,
        });
        Ok(planned.collect())
    }
}

impl State {
    fn change(
        &mut self,
        change: &ControllerChange,
        hints: &mut BTreeMap<GroupId, Hint>,
    ) -> Result<(), ControllerError> {
        use ControllerChange as Change;
        match *change {
            Change::Birth(ref birth) => self.be_born(birth),
            _ if self.birth.is_none() => Err(ControllerError::Unborn),
            Change::NodeJoin { node, ref spec } => self.node_join(node, spec),
            Change::NodeDrain { node } => self.node_drain(node),
            Change::NodeUndrain { node } => self.node_undrain(node),
            Change::NodeRemove { node } => self.node_remove(node),
            Change::NodeDead { node, incarnation, judged } => {
                self.node_judged(node, incarnation, judged, true)
            }
            Change::NodeAlive { node, incarnation, judged } => {
                self.node_judged(node, incarnation, judged, false)
            }
            Change::GroupAdd { ref groups, weight } => self.group_add(groups, weight),
            Change::GroupRemove { group } => self.group_remove(group),
            Change::GroupGone { group } => self.group_gone(group, hints),
            Change::GroupWeight { group, weight } => self.group_weight(group, weight),
            Change::ShardMove { shard, to } => self.shard_move(shard, to),
            Change::ShardRebalance => {
                self.place_replicas();
                self.balance_shards();
                Ok(())
            }
            Change::MoveCancel { shard } => self.move_cancel(shard),
            Change::MoveDone { shard, from, to, id } => {
                self.move_done(shard, state::Arrival { from, to, id })
            }
            Change::MoveAborted { shard, id, ref why } => self.move_aborted(shard, id, why),
            Change::MovesPause => {
                self.settings.moves_paused = true;
                Ok(())
            }
            Change::MovesResume => {
                self.settings.moves_paused = false;
                Ok(())
            }
            Change::MovesThrottle { copy_bytes_per_second, moves_max } => {
                self.moves_throttle(copy_bytes_per_second, moves_max)
            }
            Change::DeadAfter { ms } => self.dead_after(ms),
            Change::MembersReport(ref report) => self.members_report(report, hints),
        }
    }

    /// The groups that serve in `next` and did not here.
    fn added_in(&self, next: &Self) -> Vec<GroupId> {
        let serves = |state: &Self, group: &GroupId| {
            state.groups.get(group).is_some_and(|group| group.state == GroupState::Serving)
        };
        next.groups.keys().filter(|group| serves(next, group) && !serves(self, group)).copied().collect()
    }
}
