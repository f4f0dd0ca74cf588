//! Copies of one shard, handed out to whoever moves it.
//!
//! They are no part of the state that replicas agree on: each is kept by the machine in which it was begun,
//! tracks what changes behind it there, and is gone with that machine or with the shard. Whoever follows the
//! copy then begins another, from the start; to go on from a place in the order of a copy, its beginning
//! would have to be told how far the loader has come and by which revision, and the loader to forget keys
//! that went meanwhile.
//!
//! Steps are made through a shared reference, so that readers are not in the way and nothing but the log's
//! commands changes a machine. They hold up commands, though: one should take tens of microseconds.

use super::KvMachine;
use super::copy::Copy;
use proto::{CopyToken, Epoch, ShardId, ShardState};
use raftstore::CopyStep;

/// The most copies of single shards at a time: each tracks what its shard's writers change.
pub const SHARD_COPIES_MAX: usize = 32;

/// One step of a copy of a shard.
#[derive(Debug, PartialEq, Eq)]
pub struct ShardCopyStep {
    /// The next piece; empty where there was nothing left.
    pub bytes: Vec<u8>,
    /// About how many bytes are still to be handed out; 0 says that everything handed out so far, taken in in
    /// order, is exactly the shard as it is now.
    pub remaining: u64,
    /// The move for which the shard is frozen. Once nothing remains of it, this piece is the last: nothing
    /// follows unless the shard thaws.
    pub frozen: Option<Epoch>,
}

/// Why a copy of a shard is not begun.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShardCopyRefused {
    /// There is nothing to copy.
    #[error("shard is not here: it is {state}")]
    NotHere {
        /// Where the shard stands.
        state: ShardState,
    },
    /// The copy runs already.
    #[error("copy was begun before: {copy}")]
    Running {
        /// The copy.
        copy: CopyToken,
    },
    /// Too many copies run.
    #[error("too many copies of shards: {SHARD_COPIES_MAX}")]
    TooMany,
}

/// The copy was not begun here, or has ended: begin another.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("copy does not run here: {0}")]
pub struct ShardCopyEnded(pub CopyToken);

impl KvMachine {
    /// Begins a copy of `shard`, which is served or frozen here.
    ///
    /// # Errors
    /// [`ShardCopyRefused`]; nothing was begun.
    pub fn shard_copy_begin(&self, shard: ShardId, copy: CopyToken) -> Result<(), ShardCopyRefused> {
        let state = self.lifecycle(shard);
        if !matches!(state, ShardState::Serving { .. } | ShardState::Frozen { .. }) {
            return Err(ShardCopyRefused::NotHere { state });
        }
        let mut copies = self.copies.of_shards();
        if copies.contains_key(&copy) {
            return Err(ShardCopyRefused::Running { copy });
        }
        if copies.len() >= SHARD_COPIES_MAX {
            return Err(ShardCopyRefused::TooMany);
        }
        copies.insert(copy, Copy::of(shard));
        Ok(())
    }

    /// The next piece of a copy: about `bytes_max` bytes (more only for a single larger record).
    ///
    /// # Errors
    /// [`ShardCopyEnded`] where the shard was dropped since, or another machine took this one's place.
    pub fn shard_copy_next(
        &self,
        copy: CopyToken,
        bytes_max: usize,
    ) -> Result<ShardCopyStep, ShardCopyEnded> {
        let mut copies = self.copies.of_shards();
        let running = copies.get_mut(&copy).ok_or(ShardCopyEnded(copy))?;
        let frozen = match running.shard().map(|shard| self.lifecycle(shard)) {
            Some(ShardState::Frozen { epoch, .. }) => Some(epoch),
            _ => None,
        };
        let CopyStep { bytes, remaining } = running.step(self.time_ms, &self.shards, bytes_max);
        Ok(ShardCopyStep { bytes, remaining, frozen })
    }

    /// Ends a copy, finished or not, and frees what was kept for it. One that does not run has ended.
    pub fn shard_copy_end(&self, copy: CopyToken) {
        let ended = self.copies.of_shards().remove(&copy);
        // Not under the lock: others copy meanwhile.
        drop(ended);
    }
}
