//! The shard map at earlier epochs.
//!
//! Owns, for each epoch that is remembered, what it replaced: runs of shards with their owner and target at
//! the epoch before. Going back is undoing one epoch after another, and forgetting is dropping the oldest.
//! Bounded in epochs and in runs, see [`bounds`](crate::bounds): a move takes two runs, so thousands of them
//! are remembered, and at most 1.5 MiB of memory are taken.

use super::state::Shard;
use crate::bounds::{HISTORY_EPOCHS_MAX, HISTORY_RUN_BYTES_MAX, HISTORY_RUNS_MAX};
use bincode::{Decode, Encode};
use proto::{ControllerError, Epoch, GroupId, ShardId, ShardRun};
use std::collections::VecDeque;

const _: () = assert!(size_of::<ShardRun>() <= HISTORY_RUN_BYTES_MAX, "the stated bound of bytes holds");

/// Where a shard is served, and where it is to be.
type Place = (GroupId, GroupId);

/// What the shard map was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(super) struct History {
    /// The oldest epoch that can be gone back to; 0 before the cluster is born.
    oldest: Epoch,
    /// For each epoch after the oldest, in order: what was replaced at it.
    replaced: VecDeque<Vec<ShardRun>>,
}

impl History {
    /// Remembers that `after` replaces `before` at `epoch`, the next after the last one recorded.
    pub(super) fn record(&mut self, epoch: Epoch, before: &[Shard], after: &[Shard]) {
        if before.is_empty() {
            self.oldest = epoch;
            return;
        }
        assert_eq!(epoch.0, self.latest().0 + 1, "every epoch is recorded, in order");
        let shards = (0..).map(ShardId).zip(before.iter().zip(after));
        let changed = shards.filter(|(_, (before, after))| place(before) != place(after));
        self.replaced.push_back(join(changed.map(|(id, (before, _))| (id, place(before)))));
        let mut runs = self.runs();
        while self.replaced.len() > HISTORY_EPOCHS_MAX || runs > HISTORY_RUNS_MAX {
            runs -= self.replaced.pop_front().map_or(0, |replaced| replaced.len());
            self.oldest.0 += 1;
        }
    }

    /// The map at `epoch`, given what it is now.
    pub(super) fn at(&self, epoch: Epoch, now: &[Shard]) -> Result<Vec<ShardRun>, ControllerError> {
        if epoch > self.latest() {
            return Err(ControllerError::EpochAhead { current: self.latest() });
        }
        if epoch < self.oldest {
            return Err(ControllerError::EpochForgotten { oldest: self.oldest });
        }
        let mut places: Vec<Place> = now.iter().map(place).collect();
        let kept = (epoch.0 - self.oldest.0) as usize;
        for run in self.replaced.iter().skip(kept).rev().flatten() {
            places[range(run)].fill((run.owner, run.target));
        }
        Ok(join((0..).map(ShardId).zip(places)))
    }

    /// The oldest epoch that can be gone back to.
    pub(super) fn oldest(&self) -> Epoch {
        self.oldest
    }

    /// The epoch that was recorded last.
    pub(super) fn latest(&self) -> Epoch {
        Epoch(self.oldest.0 + self.replaced.len() as u64)
    }

    /// Whether it keeps to its bounds, and every run lies within so many shards.
    pub(super) fn is_within(&self, shards: usize) -> bool {
        let fits =
            |run: &ShardRun| run.first.0.checked_add(run.count).is_some_and(|end| end as usize <= shards);
        self.replaced.len() <= HISTORY_EPOCHS_MAX
            && self.runs() <= HISTORY_RUNS_MAX
            && self.replaced.iter().flatten().all(fits)
    }

    fn runs(&self) -> usize {
        self.replaced.iter().map(Vec::len).sum()
    }
}

fn place(shard: &Shard) -> Place {
    (shard.owner, shard.target)
}

fn range(run: &ShardRun) -> std::ops::Range<usize> {
    run.first.0 as usize..(run.first.0 + run.count) as usize
}

/// Runs of neighbours with the same place; the shards come in order.
fn join(shards: impl Iterator<Item = (ShardId, Place)>) -> Vec<ShardRun> {
    let mut runs: Vec<ShardRun> = Vec::new();
    for (id, (owner, target)) in shards {
        match runs.last_mut() {
            Some(run) if (run.owner, run.target) == (owner, target) && run.first.0 + run.count == id.0 => {
                run.count += 1;
            }
            _ => runs.push(ShardRun { first: id, count: 1, owner, target }),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shards(targets: &[u64]) -> Vec<Shard> {
        targets.iter().map(|&target| Shard { target: GroupId(target), ..Shard::born(GroupId(1)) }).collect()
    }

    /// Beyond the bound of epochs the oldest are forgotten and say so; those that are left answer as they
    /// were.
    #[test]
    fn epochs_are_forgotten() {
        let map = |epoch: u64| shards(&[1, 1 + epoch % 3, 1, 1 + epoch % 2]);
        let mut history = History::default();
        history.record(Epoch(1), &[], &map(1));
        let last = HISTORY_EPOCHS_MAX as u64 + 10;
        for epoch in 2..=last {
            history.record(Epoch(epoch), &map(epoch - 1), &map(epoch));
        }
        let oldest = Epoch(last - HISTORY_EPOCHS_MAX as u64);
        for epoch in 0..oldest.0 {
            assert_eq!(history.at(Epoch(epoch), &map(last)), Err(ControllerError::EpochForgotten { oldest }));
        }
        for epoch in [oldest.0, oldest.0 + 1, last - 1, last] {
            let want = join((0..).map(ShardId).zip(map(epoch).iter().map(place)));
            assert_eq!(history.at(Epoch(epoch), &map(last)), Ok(want));
        }
        let ahead = Err(ControllerError::EpochAhead { current: Epoch(last) });
        assert_eq!(history.at(Epoch(last + 1), &map(last)), ahead);
    }

    /// The history keeps to its bound of runs, whatever changes at once.
    #[test]
    fn runs_are_bounded() {
        let count = HISTORY_RUNS_MAX / 2 + 1;
        let map = |first: u64| {
            let targets: Vec<u64> = (0..count as u64).map(|shard| 1 + (shard + first) % 2).collect();
            shards(&targets)
        };
        let mut history = History::default();
        history.record(Epoch(1), &[], &map(0));
        history.record(Epoch(2), &map(0), &map(1));
        assert_eq!(history.oldest, Epoch(1));
        history.record(Epoch(3), &map(1), &map(0));
        assert_eq!((history.oldest, history.runs()), (Epoch(2), count));
        assert!(history.is_within(count) && !history.is_within(count - 1));
    }
}
