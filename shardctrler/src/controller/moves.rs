//! Shards move: which are due, which have started, how they end.
//!
//! ```text
//!   target ≠ owner: due ──▶ Running ──▶ done: owner = to
//!                             │  └────▶ aborted by the destination: due again
//!                             ▼ the target has changed
//!                          Cancelling ─▶ aborted: wherever the target is now
//!                                └─────▶ done, too late: owner = to; due again unless the target is there
//! ```
//!
//! A move that is being cancelled is never taken up again: the destination may have begun to forget it. It
//! ends by the destination's word, and another may start under another id.

use super::nodes::stale;
use super::state::{Arrival, Move, Setback, State};
use crate::bounds::{MOVES_PER_SIDE_MAX, WHY_BYTES_MAX};
use proto::{ControllerError, Epoch, GroupId, GroupState, MoveState, ShardId};
use std::collections::BTreeMap;

impl State {
    pub(super) fn shard_move(&mut self, id: ShardId, to: GroupId) -> Result<(), ControllerError> {
        let owner = self.shard(id)?.owner;
        self.serving_group(to)?;
        if self.moves.contains_key(&id) {
            return Err(ControllerError::ShardMoving { shard: id });
        }
        if owner == to {
            return Err(ControllerError::ShardThere { shard: id });
        }
        self.retarget(id, to);
        Ok(())
    }

    pub(super) fn move_cancel(&mut self, id: ShardId) -> Result<(), ControllerError> {
        let shard = self.shard(id)?;
        let (owner, due) = (shard.owner, shard.is_due());
        if !due && !self.moves.contains_key(&id) {
            return Err(ControllerError::ShardNotMoving { shard: id });
        }
        self.serving_group(owner)?;
        self.retarget(id, owner);
        Ok(())
    }

    pub(super) fn move_done(&mut self, id: ShardId, arrival: Arrival) -> Result<(), ControllerError> {
        let moved = self.moves.get(&id).copied();
        let shard = self.shard(id)?;
        if shard.arrived == Some(arrival) {
            return Ok(());
        }
        let Arrival { from, to, id: number } = arrival;
        let is_it = |moved: &Move| (moved.from, moved.to, moved.id) == (from, to, number);
        if !moved.as_ref().is_some_and(is_it) {
            return stale(format!("{id} is not moving from {from} to {to} since {number}"));
        }
        shard.owner = to;
        shard.arrived = Some(arrival);
        self.moves.remove(&id);
        self.setbacks.remove(&id);
        Ok(())
    }

    pub(super) fn move_aborted(
        &mut self,
        id: ShardId,
        number: Epoch,
        why: &str,
    ) -> Result<(), ControllerError> {
        self.shard(id)?;
        let Some(moved) = self.moves.get(&id).filter(|moved| moved.id == number).copied() else {
            return stale(format!("{id} is not moving since {number}"));
        };
        self.moves.remove(&id);
        if moved.state == MoveState::Running {
            let setback = self.setbacks.entry(id).or_insert(Setback { count: 0, why: String::new() });
            setback.count = setback.count.saturating_add(1);
            setback.why = why[..why.floor_char_boundary(WHY_BYTES_MAX)].to_owned();
        }
        Ok(())
    }

    /// What follows from any change: moves whose target has changed are called off, due ones start, and
    /// leaders are spread.
    pub(super) fn settle(&mut self) {
        let shards = &self.shards;
        for (id, moved) in &mut self.moves {
            if shards.get(id.0 as usize).is_none_or(|shard| shard.target != moved.to) {
                moved.state = MoveState::Cancelling;
            }
        }
        self.setbacks.retain(|id, _| shards.get(id.0 as usize).is_some_and(|shard| shard.is_due()));
        for (id, moved) in self.startable() {
            self.moves.insert(id, moved);
        }
        self.prefer_leaders();
    }

    /// The due moves to start now: those with the fewest setbacks first, then by shard, as far as there is
    /// room over all and on both sides.
    pub(super) fn startable(&self) -> Vec<(ShardId, Move)> {
        if self.settings.moves_paused {
            return Vec::new();
        }
        let mut sides = Sides::default();
        self.moves.values().for_each(|moved| sides.add(moved));
        let ids = (0..self.shards.len() as u32).map(ShardId);
        let due = ids.zip(&self.shards).filter(|(id, shard)| shard.is_due() && !self.moves.contains_key(id));
        let mut due: Vec<_> = due.collect();
        due.sort_by_key(|(id, _)| (self.setbacks.get(id).map_or(0, |setback| setback.count), *id));
        let mut start = Vec::new();
        for (id, shard) in due {
            let moved =
                Move { from: shard.owner, to: shard.target, id: self.epoch, state: MoveState::Running };
            if self.moves.len() + start.len() >= self.settings.moves_max as usize {
                break;
            }
            if sides.have_room(&moved) {
                sides.add(&moved);
                start.push((id, moved));
            }
        }
        start
    }

    /// Whether nobody is asked to hold more moves than allowed.
    pub(super) fn sides_keep_to_their_bounds(&self) -> bool {
        let mut sides = Sides::default();
        self.moves.values().for_each(|moved| sides.add(moved));
        sides.giving.values().chain(sides.taking.values()).all(|&moves| moves <= MOVES_PER_SIDE_MAX)
    }

    /// Whether every target is a group that serves.
    pub(super) fn targets_serve(&self) -> bool {
        let serves =
            |id: &GroupId| self.groups.get(id).is_some_and(|group| group.state == GroupState::Serving);
        self.shards.iter().all(|shard| serves(&shard.target))
    }
}

/// How many moves each group gives and takes.
#[derive(Debug, Default)]
struct Sides {
    giving: BTreeMap<GroupId, u32>,
    taking: BTreeMap<GroupId, u32>,
}

impl Sides {
    fn add(&mut self, moved: &Move) {
        *self.giving.entry(moved.from).or_default() += 1;
        *self.taking.entry(moved.to).or_default() += 1;
    }

    fn have_room(&self, moved: &Move) -> bool {
        let room = |side: &BTreeMap<GroupId, u32>, group| {
            side.get(group).is_none_or(|&moves| moves < MOVES_PER_SIDE_MAX)
        };
        room(&self.giving, &moved.from) && room(&self.taking, &moved.to)
    }
}
