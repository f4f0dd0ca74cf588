//! Shards come and go: what a step of a move does to a shard's state.
//!
//! Owns the rules by which at most one group serves a shard, see [`proto::ShardState`]:
//!
//! - A shard begins to be served by its birth in the one group that the cluster was born with for it, or with
//!   the last piece of a copy that was made where it was frozen for that same move.
//! - It thaws only where the destination has aborted that move, and whoever has aborted a move never
//!   activates it.
//! - A step of a move that is not the latest known here changes nothing.
//!
//! Relies on the driver for what one group cannot know: that a piece is the last one only where the source
//! was frozen, that a source drops only what the destination serves and thaws only what it aborted, and that
//! a move has ended before another of the same shard starts. Must never block: what is dropped is moved aside
//! as [`Garbage`], whatever its size.

use super::bounds::SHARDS_MAX;
use super::copy::{Dirty, Part};
use super::shard::Shard;
use super::{KvMachine, ShardView};
use proto::{
    Code, CopyToken, Epoch, Error, LifecycleAnswer, LifecycleError, MoveCommand, MoveStep, PieceEnd, ShardId,
    ShardSet, ShardState,
};
use raftstore::mutation::{Mutation, is_on};
use std::sync::PoisonError;

/// What was dropped and is still to be freed; that takes a second or so for a gigabyte, so nobody should wait
/// for it. Nor should it happen at once: an allocator that is given millions of pieces sorts them while the next
/// who want memory wait, for as long again.
#[derive(Debug, Default)]
#[must_use = "dropping it frees the memory: not under a lock for which others wait"]
pub struct Garbage {
    shards: Vec<Shard>,
    /// What copies under way kept about these shards.
    places: Vec<Dirty>,
}

impl Garbage {
    /// Whether there is nothing to free.
    pub fn is_empty(&self) -> bool {
        self.shards.is_empty() && self.places.is_empty()
    }

    /// Frees up to so many records.
    pub fn free(&mut self, records: usize) {
        for _ in 0..records {
            if let Some(shard) = self.shards.last_mut() {
                if shard.data.pop_first().is_none() && shard.sessions.pop_first().is_none() {
                    self.shards.pop();
                }
            } else if let Some(places) = self.places.last_mut() {
                if places.pop_first().is_none() {
                    self.places.pop();
                }
            } else {
                return;
            }
        }
    }
}

/// What a step makes of a shard.
#[derive(Debug, PartialEq, Eq)]
enum Effect {
    /// Nothing: the step was taken before.
    Done,
    Enter(ShardState),
    /// Nothing that replicas agree on: they note what changes from here on.
    Export,
    /// As `Enter`, and all that is held of the shard is forgotten.
    Empty(ShardState),
    /// As `Enter`, once the step's piece is taken in.
    TakeIn(ShardState),
}

impl KvMachine {
    /// Where a shard stands in its life here.
    pub fn lifecycle(&self, shard: ShardId) -> ShardState {
        self.shards.get(&shard).map(|shard| shard.state).unwrap_or_default()
    }

    /// All shards that are known here, and what is held of each: for one that comes in, what has come so far.
    pub fn shards(&self) -> impl Iterator<Item = ShardView> + '_ {
        self.shards.iter().map(|(&id, shard)| ShardView {
            shard: id,
            state: shard.state,
            revision: shard.events.revision(),
            usage: shard.usage,
        })
    }

    /// Whether nothing that was dropped is still to be freed.
    pub fn is_swept(&self) -> bool {
        self.garbage.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Takes what was dropped and is still to be freed. Every replica has its own, which nobody but its
    /// driver frees.
    pub fn take_garbage(&self) -> Garbage {
        std::mem::take(&mut *self.garbage.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The shard, where it is served here.
    ///
    /// # Errors
    /// [`Code::WrongGroup`].
    pub(super) fn served(&self, id: ShardId) -> Result<&Shard, Error> {
        match self.shards.get(&id) {
            Some(shard) if matches!(shard.state, ShardState::Serving { .. }) => Ok(shard),
            _ => {
                let state = self.lifecycle(id);
                let code = Code::WrongGroup { shard: id, to: state.moved_to(), epoch: state.epoch() };
                Err(Error::new(code, format!("{id} is not served by this group, it is {state}")))
            }
        }
    }

    /// The shards that were never here are served from now on.
    pub(super) fn own(&mut self, shards: &ShardSet, epoch: Epoch) -> LifecycleAnswer {
        if let Some(shard) = shards.iter().find(|shard| shard.0 >= SHARDS_MAX) {
            return Err(LifecycleError::Invalid { shard });
        }
        for shard in shards.iter() {
            if !self.shards.contains_key(&shard) {
                self.enter(shard, ShardState::Serving { epoch, fence: epoch });
            }
        }
        Ok(())
    }

    /// Takes a step of a move.
    pub(super) fn step(&mut self, index: u64, command: &MoveCommand<'_>) -> LifecycleAnswer {
        let id = command.shard;
        if id.0 >= SHARDS_MAX {
            return Err(LifecycleError::Invalid { shard: id });
        }
        match judge(self.lifecycle(id), command)? {
            Effect::Done => {}
            Effect::Enter(state) => {
                if command.step == MoveStep::Thaw {
                    let places = self.copies.export_end(id, command.epoch);
                    self.leave_places(places);
                }
                self.enter(id, state);
            }
            Effect::Export => {
                let places = self.copies.export(id, command.epoch, export_token(index, command));
                self.leave_places(places);
            }
            Effect::Empty(state) => {
                self.empty(id);
                self.enter(id, state);
            }
            Effect::TakeIn(state) => {
                let MoveStep::ImportPiece { copy, bytes, .. } = command.step else {
                    unreachable!("only a piece is taken in")
                };
                let lacks = is_on(Mutation::ActivateBeforeLastTail) && state.arrived_with(command.epoch);
                let bytes = if lacks { &[] } else { bytes };
                if let Err(why) = self.import_piece(id, bytes) {
                    self.start_over(id, copy);
                    return Err(LifecycleError::Piece { why });
                }
                self.enter(id, state);
            }
        }
        Ok(())
    }

    /// Changes a shard's state, or makes a shard that holds nothing.
    pub(super) fn enter(&mut self, id: ShardId, state: ShardState) {
        let is_new = !self.shards.contains_key(&id);
        if is_new {
            self.shards.insert(id, Shard::new(state));
            self.copies.mark(id, &Part::Tail, false, true);
        }
        self.change(id, |shard, copies| {
            shard.state = state;
            copies.mark(id, &Part::State, !is_new, true);
        });
    }

    /// Leaves what a copy kept about a shard to be freed.
    fn leave_places(&mut self, places: Option<Dirty>) {
        let garbage = self.garbage.get_mut().unwrap_or_else(PoisonError::into_inner);
        garbage.places.extend(places);
    }

    /// Forgets all that is held of a shard, and leaves it to be freed.
    fn empty(&mut self, id: ShardId) {
        if !self.shards.contains_key(&id) {
            return;
        }
        let (shard, places) = self.change(id, |shard, copies| (shard.take(), copies.clear(id)));
        let garbage = self.garbage.get_mut().unwrap_or_else(PoisonError::into_inner);
        garbage.shards.push(shard);
        garbage.places.extend(places);
    }

    /// Forgets what has come in of a copy, a part of a damaged piece perhaps, and waits for its first piece.
    fn start_over(&mut self, id: ShardId, copy: CopyToken) {
        self.empty(id);
        if let ShardState::Importing { from, epoch, .. } = self.lifecycle(id) {
            self.enter(id, ShardState::Importing { from, epoch, copy, next: 0, complete: false });
        }
    }
}

/// The copy that an [`MoveStep::Export`] at a place of the log begins: the same on every replica, and never
/// that of another step, be it the same command once more. Mixed as splitmix64 does.
fn export_token(index: u64, command: &MoveCommand<'_>) -> CopyToken {
    let mix = |seed: u64, word: u64| {
        let mixed = (seed ^ word).wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    };
    CopyToken(mix(mix(mix(0, index), command.epoch.0), u64::from(command.shard.0)))
}

/// What a step makes of a shard in `state`.
fn judge(state: ShardState, command: &MoveCommand<'_>) -> Result<Effect, LifecycleError> {
    use ShardState::{Aborted, Absent, Dropped, Frozen, Importing, Serving};
    let MoveCommand { epoch: e, ref step, .. } = *command;
    // What remains where nothing else is said of a state: a move that is past, or one that is not there yet.
    let refused = || match e <= state.epoch() {
        true => Err(LifecycleError::Stale { epoch: state.epoch() }),
        false => Err(LifecycleError::State { state }),
    };
    let served = ShardState::Serving { epoch: e, fence: e };
    match (step, state) {
        (MoveStep::ImportBegin { copy, .. }, Importing { epoch, copy: same, .. })
            if epoch == e && *copy == same =>
        {
            Ok(Effect::Done)
        }
        (&MoveStep::ImportBegin { from, copy }, Importing { epoch, .. }) if epoch == e => {
            Ok(Effect::Empty(Importing { from, epoch, copy, next: 0, complete: false }))
        }
        (&MoveStep::ImportBegin { from, copy }, Absent | Dropped { .. } | Aborted { .. })
            if e > state.epoch() =>
        {
            Ok(Effect::Empty(Importing { from, epoch: e, copy, next: 0, complete: false }))
        }
        (&MoveStep::ImportPiece { copy, number, end, .. }, Importing { epoch, .. }) if epoch == e => {
            judge_piece(state, copy, number, end)
        }
        (MoveStep::Activate { copy }, Importing { epoch, copy: same, next, complete, .. }) if epoch == e => {
            match complete && *copy == same {
                true => Ok(Effect::Enter(served)),
                false => Err(LifecycleError::Copy { copy: same, next }),
            }
        }
        (MoveStep::ImportPiece { .. } | MoveStep::Activate { .. }, _) if state.arrived_with(e) => {
            Ok(Effect::Done)
        }
        (MoveStep::ImportBegin { .. } | MoveStep::Abort, _) if state.arrived_with(e) => {
            Err(LifecycleError::Active)
        }
        (&MoveStep::Freeze { to }, Serving { epoch: since, fence }) if e > fence => {
            Ok(Effect::Enter(Frozen { to, epoch: e, since }))
        }
        (MoveStep::Freeze { to }, Frozen { to: same, epoch, .. } | Dropped { to: same, epoch })
            if epoch == e && *to == same =>
        {
            Ok(Effect::Done)
        }
        (MoveStep::Export, Serving { fence, .. }) if e > fence => Ok(Effect::Export),
        (MoveStep::Export, Frozen { epoch, .. }) if epoch == e => Ok(Effect::Export),
        (MoveStep::Drop, Frozen { to, epoch, .. }) if epoch == e => Ok(Effect::Empty(Dropped { to, epoch })),
        (MoveStep::Drop, Dropped { epoch, .. }) if epoch == e => Ok(Effect::Done),
        (MoveStep::Abort, Importing { epoch, .. }) if epoch == e => Ok(Effect::Empty(Aborted { epoch })),
        (MoveStep::Abort, Aborted { epoch }) if epoch == e => Ok(Effect::Done),
        (MoveStep::Abort, Absent | Dropped { .. } | Aborted { .. }) if e > state.epoch() => {
            Ok(Effect::Enter(Aborted { epoch: e }))
        }
        (MoveStep::Thaw, Frozen { epoch, since, .. }) if epoch == e => {
            Ok(Effect::Enter(Serving { epoch: since, fence: e }))
        }
        // Not frozen for this move, or thawed before: a step that froze it may still be on its way.
        (MoveStep::Thaw, Serving { epoch, fence }) if e > epoch => {
            Ok(Effect::Enter(Serving { epoch, fence: fence.max(e) }))
        }
        _ => refused(),
    }
}

/// What a piece makes of a shard that comes in with the same move.
fn judge_piece(
    state: ShardState,
    copy: CopyToken,
    number: u64,
    end: PieceEnd,
) -> Result<Effect, LifecycleError> {
    let ShardState::Importing { from, epoch, copy: same, next, complete } = state else {
        unreachable!("pieces are judged only where a shard comes in: {state}")
    };
    let served = ShardState::Serving { epoch, fence: epoch };
    if copy != same || number > next || (number == next && complete) {
        return Err(LifecycleError::Copy { copy: same, next });
    }
    if number < next {
        let activates = complete && end == PieceEnd::Activate;
        return Ok(if activates { Effect::Enter(served) } else { Effect::Done });
    }
    let next = next + 1;
    Ok(Effect::TakeIn(match end {
        PieceEnd::More | PieceEnd::Last => {
            ShardState::Importing { from, epoch, copy, next, complete: end == PieceEnd::Last }
        }
        PieceEnd::Activate => served,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proto::{Command, Expect, GroupId, Operation, Write};
    use raftstore::{Machine, Moment};

    /// What was dropped is freed as little at a time as is asked for, to its end.
    #[test]
    fn garbage_is_freed_bit_by_bit() {
        const KEYS: usize = 100;
        let mut machine = KvMachine::new();
        let shard = ShardId(3);
        let mut take = |command: &Command<'_>| -> Bytes {
            machine.apply(Moment { index: 1, time_ms: 1 }, &proto::encode(command))
        };
        take(&Command::Own { shards: [shard].into_iter().collect(), epoch: Epoch(1) });
        for number in 0..KEYS {
            let key = number.to_string();
            let operation = Operation::Put { key: key.as_bytes(), value: b"v", expect: Expect::Any };
            take(&Command::Write(Write { shard, stamp: None, operation }));
        }
        for step in [MoveStep::Export, MoveStep::Freeze { to: GroupId(2) }, MoveStep::Drop] {
            take(&Command::Move(MoveCommand { shard, epoch: Epoch(2), step }));
        }
        assert!(!machine.is_swept());
        let mut garbage = machine.take_garbage();
        assert!(machine.is_swept() && !garbage.is_empty());
        let mut rounds = 0;
        while !garbage.is_empty() {
            let before = garbage.shards.first().map_or(0, |shard| shard.data.len());
            garbage.free(10);
            assert!(garbage.shards.first().map_or(0, |shard| shard.data.len()) + 10 >= before);
            rounds += 1;
        }
        assert!((KEYS / 10..=KEYS / 10 + 2).contains(&rounds), "{rounds}");
    }
}
