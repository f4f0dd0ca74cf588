//! What the machine does where a guarantee is left out, see [`raftstore::mutation`]: otherwise nothing of its own.

use super::KvMachine;
use super::piece::StateRecord;
use super::shard::Shard;
use proto::{Error, ShardId, ShardState};
use raftstore::mutation::{Mutation, is_on};

impl KvMachine {
    /// The shard, where reads of it are answered here: where it is served.
    ///
    /// # Errors
    /// As [`served`](Self::served).
    pub(super) fn readable(&self, id: ShardId) -> Result<&Shard, Error> {
        let shard = self.shards.get(&id).filter(|_| is_on(Mutation::ServeReadsAfterFreeze));
        match shard.filter(|shard| matches!(shard.state, ShardState::Frozen { .. })) {
            Some(frozen) => Ok(frozen),
            None => self.served(id),
        }
    }

    /// Whether a record of a whole machine's copy is to be left out: never.
    pub(super) fn leaves_out(&self, record: &StateRecord<'_>) -> bool {
        is_on(Mutation::RestoreSnapshotWithoutTail) && self.is_changed(record)
    }

    /// Whether a record says what has changed since the first pass of its copy.
    fn is_changed(&self, record: &StateRecord<'_>) -> bool {
        let Some(shard) = record.shard().and_then(|shard| self.shards.get(&shard)) else { return false };
        match record {
            StateRecord::Key { key, .. } => shard.data.contains_key(*key),
            StateRecord::Session { client, .. } => shard.sessions.contains_key(client),
            StateRecord::KeyGone { .. } | StateRecord::SessionGone { .. } => true,
            _ => false,
        }
    }
}
