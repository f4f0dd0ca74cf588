//! How far the moves have come that this node drives, and how the last ones ended.
//!
//! Owns what is shown of moves and nothing by which they go on: a driver writes here and never reads. A move
//! is listed from the moment its driver starts until it stops, whatever the reason; the controller bounds how
//! many run at once.

use proto::{Epoch, GroupId, MoveView, ShardId};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How many of the moves that have ended are remembered.
pub const ENDED_MOVES_MAX: usize = 64;

/// What the driver of a move is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MovePhase {
    /// It waits before it tries: after setbacks, or for a source that does not answer.
    Waiting,
    /// The shard is copied while its source serves it.
    Copying,
    /// Moves rest by an operator's word; the source serves the shard.
    Paused,
    /// The source is asked to freeze the shard.
    Freezing,
    /// The shard is frozen: what was left of the copy comes in, and the shard is served here with its last
    /// piece.
    Activating,
    /// The move is called off.
    GivingUp,
    /// The move has ended here and the controller is told.
    Reporting,
}

impl MovePhase {
    /// Its name, as it is shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Copying => "copying",
            Self::Paused => "paused",
            Self::Freezing => "freezing",
            Self::Activating => "activating",
            Self::GivingUp => "giving up",
            Self::Reporting => "reporting",
        }
    }
}

/// A move that this node drives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MoveProgress {
    /// The shard.
    pub shard: ShardId,
    /// Where it is.
    pub from: GroupId,
    /// Where it goes.
    pub to: GroupId,
    /// The move.
    pub id: Epoch,
    /// What is under way.
    pub phase: MovePhase,
    /// The bytes of the present copy that this driver took in.
    pub copied_bytes: u64,
    /// About how many bytes of it are left; 0 before it is known.
    pub remaining_bytes: u64,
    /// How many copies this driver has begun. One that its predecessor left is gone on with and not counted.
    pub copies: u32,
    /// How many pieces of the present copy the destination holds.
    pub pieces: u64,
    /// Since when this driver drives it.
    pub since: Instant,
}

/// A move that was driven here to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedMove {
    /// The shard.
    pub shard: ShardId,
    /// Where it was.
    pub from: GroupId,
    /// Where it was to go.
    pub to: GroupId,
    /// The move.
    pub id: Epoch,
    /// Why it was given up; `None` where the shard arrived.
    pub aborted: Option<String>,
    /// The bytes that this driver took in with the last copy.
    pub copied_bytes: u64,
    /// How many copies this driver has begun.
    pub copies: u32,
    /// How long this driver drove it.
    pub took: Duration,
    /// When nobody served the shard; `None` where this driver did not see it from its beginning to its end.
    pub freeze: Option<Freeze>,
}

/// The time in which nobody served a shard: it lies within these two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freeze {
    /// The source was asked to freeze the shard.
    pub asked: Instant,
    /// The destination served it.
    pub served: Instant,
}

impl Freeze {
    /// How long it took.
    pub fn pause(&self) -> Duration {
        self.served - self.asked
    }
}

#[derive(Debug, Default)]
struct Listed {
    under_way: BTreeMap<(ShardId, Epoch), MoveProgress>,
    /// The latest last.
    ended: VecDeque<EndedMove>,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub struct Progress(Mutex<Listed>);

impl Progress {
    /// The moves that this node drives, by shard.
    pub fn under_way(&self) -> Vec<MoveProgress> {
        self.lock().under_way.values().cloned().collect()
    }

    /// The last moves that ended here, the latest last.
    pub fn ended(&self) -> Vec<EndedMove> {
        self.lock().ended.iter().cloned().collect()
    }

    /// Lists a move for as long as what is given back lives.
    pub(super) fn begin(self: &Arc<Self>, moving: &MoveView) -> Tracked {
        let MoveView { shard, from, to, id, .. } = *moving;
        let progress = MoveProgress {
            shard,
            from,
            to,
            id,
            phase: MovePhase::Waiting,
            copied_bytes: 0,
            remaining_bytes: 0,
            copies: 0,
            pieces: 0,
            since: Instant::now(),
        };
        self.lock().under_way.insert((shard, id), progress);
        Tracked { progress: self.clone(), key: (shard, id) }
    }

    fn lock(&self) -> MutexGuard<'_, Listed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The entry of one move, gone with its driver.
#[derive(Debug)]
pub(super) struct Tracked {
    progress: Arc<Progress>,
    key: (ShardId, Epoch),
}

impl Tracked {
    /// Changes what is shown.
    pub(super) fn update(&self, change: impl FnOnce(&mut MoveProgress)) {
        if let Some(moving) = self.progress.lock().under_way.get_mut(&self.key) {
            change(moving);
        }
    }

    pub(super) fn enter(&self, phase: MovePhase) {
        self.update(|moving| moving.phase = phase);
    }

    /// Remembers how the move ended, and forgets the oldest that did where there are too many.
    pub(super) fn end(&self, aborted: Option<String>, freeze: Option<Freeze>) {
        let mut listed = self.progress.lock();
        let Some(moving) = listed.under_way.get(&self.key) else { return };
        let MoveProgress { shard, from, to, id, copied_bytes, copies, since, .. } = *moving;
        let took = since.elapsed();
        let ended = EndedMove { shard, from, to, id, aborted, copied_bytes, copies, took, freeze };
        if listed.ended.len() >= ENDED_MOVES_MAX {
            listed.ended.pop_front();
        }
        listed.ended.push_back(ended);
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.progress.lock().under_way.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::MoveState;

    fn moving(shard: u32) -> MoveView {
        let (from, to, id) = (GroupId(1), GroupId(2), Epoch(u64::from(shard) + 5));
        MoveView { shard: ShardId(shard), from, to, id, state: MoveState::Running }
    }

    /// A move is listed while its driver lives, and what is remembered of those that ended is bounded.
    #[test]
    fn moves_are_listed_while_they_are_driven() {
        let progress = Arc::new(Progress::default());
        for shard in 0..2 * ENDED_MOVES_MAX as u32 {
            let tracked = progress.begin(&moving(shard));
            tracked.enter(MovePhase::Copying);
            tracked.update(|moving| moving.copied_bytes += 10);
            let [shown] = &progress.under_way()[..] else { panic!("one move is driven") };
            assert_eq!(
                (shown.shard, shown.phase, shown.copied_bytes),
                (ShardId(shard), MovePhase::Copying, 10)
            );
            tracked.end((shard % 2 == 1).then(|| "it was cancelled".to_owned()), None);
        }
        assert_eq!(progress.under_way(), []);
        let ended = progress.ended();
        assert_eq!(ended.len(), ENDED_MOVES_MAX);
        assert_eq!(ended.last().map(|ended| ended.shard), Some(ShardId(2 * ENDED_MOVES_MAX as u32 - 1)));
        assert!(ended.iter().all(|ended| ended.aborted.is_some() == (ended.shard.0 % 2 == 1)));
    }
}
