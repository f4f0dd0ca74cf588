//! Errors as they cross the wire: what went wrong, whether to try again, whether it may have happened.

use crate::{Epoch, GroupId, NodeId, ShardId, Version};
use bincode::{Decode, Encode};

/// What went wrong, by what the caller does next.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, thiserror::Error)]
pub enum Code {
    /// The request itself is wrong; sending it again changes nothing.
    #[error("bad_request")]
    BadRequest,
    /// The key does not exist.
    #[error("not_found")]
    NotFound,
    /// The condition did not hold; `current` is the key's version (0: absent).
    #[error("version_mismatch")]
    VersionMismatch {
        /// The version that the key is at.
        current: Version,
    },
    /// The key is longer than the limit.
    #[error("key_too_large")]
    KeyTooLarge,
    /// The value is, or would become, longer than the limit.
    #[error("value_too_large")]
    ValueTooLarge,
    /// The batch or body is larger than the limit.
    #[error("batch_too_large")]
    BatchTooLarge,
    /// The session is unknown, though the stamp says it has written before: it expired. Open a new one.
    #[error("session_expired")]
    SessionExpired,
    /// The sequence lies below what the client said it no longer waits for, or too far ahead.
    #[error("sequence_out_of_window")]
    SequenceOutOfWindow,
    /// This node does not lead the group.
    #[error("not_leader")]
    NotLeader {
        /// The group that was asked.
        group: GroupId,
        /// Who leads it, as far as this node knows.
        leader: Option<NodeId>,
    },
    /// The group has no leader that a quorum confirms.
    #[error("no_leader")]
    NoLeader,
    /// Not answered within the deadline.
    #[error("timeout")]
    Timeout,
    /// A bounded queue is full; try later.
    #[error("overloaded")]
    Overloaded,
    /// This replica lags more than the caller allows.
    #[error("too_stale")]
    TooStale,
    /// The node is starting or stopping.
    #[error("unavailable")]
    Unavailable,
    /// A disk or an invariant failed on this node; the node stops.
    #[error("internal")]
    Internal,
    /// The name was given to another request before: what it came to is remembered, this one was not carried
    /// out.
    #[error("idempotency_key_reused")]
    IdempotencyKeyReused,
    /// The group does not serve the shard: it never did, or not yet, or not any more.
    #[error("wrong_group")]
    WrongGroup {
        /// The shard.
        shard: ShardId,
        /// Where it goes or went, as far as the group knows.
        to: Option<GroupId>,
        /// The latest move of the shard that the group knows of: one that knows of a later one knows better.
        epoch: Epoch,
    },
}

/// Whether a request that failed may have taken effect all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Outcome {
    /// It had no effect and will have none.
    None,
    /// It may have taken effect, or may still.
    Unknown,
}

/// An error that a caller can act on.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Error {
    /// What went wrong.
    pub code: Code,
    /// Whether it may have taken effect.
    pub outcome: Outcome,
    /// For people: lowercase, values at the end.
    pub message: String,
}

impl Error {
    /// An error whose request had no effect.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, outcome: Outcome::None, message: message.into() }
    }

    /// An error whose request may have taken effect.
    pub fn unknown(code: Code, message: impl Into<String>) -> Self {
        Self { code, outcome: Outcome::Unknown, message: message.into() }
    }

    /// Whether the same request, sent again (under the same stamp, if it is a write), may succeed.
    pub fn retryable(&self) -> bool {
        match self.code {
            Code::NotLeader { .. }
            | Code::NoLeader
            | Code::Timeout
            | Code::Overloaded
            | Code::TooStale
            | Code::Unavailable
            | Code::Internal
            | Code::WrongGroup { .. } => true,
            Code::BadRequest
            | Code::NotFound
            | Code::VersionMismatch { .. }
            | Code::KeyTooLarge
            | Code::ValueTooLarge
            | Code::BatchTooLarge
            | Code::SessionExpired
            | Code::SequenceOutOfWindow
            | Code::IdempotencyKeyReused => false,
        }
    }
}
