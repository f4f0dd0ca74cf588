//! Copies of one shard, handed out to whoever moves it.
//!
//! They are no part of the state that replicas agree on: each is kept by the machine in which it was begun,
//! tracks what changes behind it there, and is gone with that machine or with the shard. Another replica goes
//! on with it where the shard was exported ([`proto::MoveStep::Export`]) before the copy was begun, and the
//! replica has been there since: it is told what the loader holds, and has noted what changed meanwhile. One
//! that was loaded from a snapshot has not, and whoever follows the copy begins another, from the start.
//!
//! Steps are made through a shared reference, so that readers are not in the way and nothing but the log's
//! commands changes a machine. They hold up commands, though: one should take tens of microseconds.

use super::KvMachine;
use super::copy::Copy;
use bincode::{Decode, Encode};
use proto::{ClientId, CopyToken, Epoch, Revision, ShardId, ShardState};
use raftstore::CopyStep;

/// The most copies of single shards at a time: each tracks what its shard's writers change.
pub const SHARD_COPIES_MAX: usize = 32;

/// The most bytes that the places take, about, that changed in a shard since it was exported: they are copied
/// at once where a copy is taken over, in milliseconds. Beyond, nobody takes it over.
pub const EXPORT_BYTES_MAX: usize = 8 << 20;

/// What a place that changed takes beside its key, in bytes.
pub(super) const EXPORT_PLACE_BYTES: usize = 64;

/// What the loader of a copy holds: all that was handed out to it, up to its last key or, where it holds any,
/// its last session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Held {
    /// The last key.
    pub key: Option<Vec<u8>>,
    /// The last session: sessions follow all keys.
    pub session: Option<ClientId>,
    /// The revision of the last event.
    pub revision: Revision,
    /// About how many bytes it is.
    pub bytes: u64,
}

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
    /// The shard was not exported for this copy, or not all that changed since was noted: begin another.
    #[error("copy cannot be gone on with here: {copy}")]
    NotExported {
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

    /// The copies of shards that were exported and can be taken over, with their moves.
    pub fn exports(&self) -> Vec<(ShardId, Epoch, CopyToken)> {
        self.copies.exports()
    }

    /// Forgets what has changed in a shard since it was exported for a move up to `epoch`. Other replicas
    /// keep theirs.
    pub fn export_end(&self, shard: ShardId, epoch: Epoch) {
        let ended = self.copies.export_end(shard, epoch);
        drop(ended);
    }

    /// What has come in of a copy of `shard`.
    pub fn held(&self, shard: ShardId) -> Held {
        let Some(shard) = self.shards.get(&shard) else { return Held::default() };
        Held {
            key: shard.data.last_key_value().map(|(key, _)| key.to_vec()),
            session: shard.sessions.last_key_value().map(|(client, _)| *client),
            revision: shard.events.revision(),
            bytes: shard.usage.copy_bytes(),
        }
    }

    /// Goes on with a copy that another replica has begun. This one must have applied all that the other had
    /// when it handed out what is `held`, and no piece of the other may be taken in any more.
    ///
    /// # Errors
    /// [`ShardCopyRefused`]; nothing was begun.
    pub fn shard_copy_resume(
        &self,
        shard: ShardId,
        copy: CopyToken,
        held: &Held,
    ) -> Result<(), ShardCopyRefused> {
        let mut copies = self.copies.of_shards();
        if copies.len() >= SHARD_COPIES_MAX && !copies.contains_key(&copy) {
            return Err(ShardCopyRefused::TooMany);
        }
        let resumed = self.copies.resumed(shard, copy, held).ok_or(ShardCopyRefused::NotExported { copy })?;
        let replaced = copies.insert(copy, resumed);
        drop(copies);
        drop(replaced);
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
