//! Why the storage cannot start, or has stopped.

use crate::disk::DiskError;
use std::io;

/// Why the storage cannot start, or has stopped. Once it has, every waiting and every later call gets the first
/// such error; nothing is retried on the same files.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StorageError {
    /// The disk failed, is in use, or is damaged below the log.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The data directory belongs to another node or cluster.
    #[error("data directory belongs to {found}, not to {wanted}")]
    Foreign {
        /// Whose it is.
        found: String,
        /// Whose it should be.
        wanted: String,
    },
    /// The data directory was written by a newer build.
    #[error("data directory has format version {found}, this build reads up to {known}")]
    Version {
        /// The version found.
        found: u8,
        /// The newest version known.
        known: u8,
    },
    /// The log is not what was written, at a place that was durable.
    #[error("log is damaged in {place}: {why}")]
    Damaged {
        /// The segment and the record, or the group.
        place: String,
        /// What is wrong there.
        why: String,
    },
    /// The log ends before its mark: records that were acknowledged are lost.
    #[error("log ends at record {last}, but record {mark} was durable; acknowledged records are lost: {why}")]
    Lost {
        /// The last record found.
        last: u64,
        /// The last record known to have been durable.
        mark: u64,
        /// What is known about the loss.
        why: String,
    },
    /// A snapshot is not what was written.
    #[error("snapshot {snapshot} is damaged: {why}")]
    Snapshot {
        /// Its name.
        snapshot: String,
        /// What is wrong with it.
        why: String,
    },
    /// The caller broke the contract; nothing was written.
    #[error("refused: {0}")]
    Refused(String),
    /// The storage was closed.
    #[error("storage is closed")]
    Closed,
}

impl From<StorageError> for io::Error {
    fn from(error: StorageError) -> Self {
        Self::other(error)
    }
}
