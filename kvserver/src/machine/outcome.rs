//! What a write came to, in the few bytes that a session keeps.
//!
//! Owns the translation from [`Outcome`] to [`Answer`]. An answer is a pure function of its outcome, so a
//! write that is sent again gets the first answer byte for byte. An outcome never contains keys or values, and
//! its encoding is part of the format of copies: variants are only ever added at the end.

use super::bounds::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use bincode::{Decode, Encode};
use proto::{Answer, Code, Error, Reply, Revision, Version};

/// What one write came to, refusals included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) enum Outcome {
    /// A put or an append took effect.
    Written { version: Version, revision: Revision, length: u64 },
    /// A delete took effect.
    Deleted { revision: Revision },
    /// A delete met an absent key.
    NotFound,
    /// The condition did not hold.
    VersionMismatch { current: Version },
    /// The key is longer than the format allows.
    KeyTooLarge { length: u64 },
    /// The value is, or would have become, longer than the format allows.
    ValueTooLarge { length: u64 },
    /// The command was a read, which has no place in a log.
    NotAWrite,
}

impl Outcome {
    /// The answer that the client gets, the first time and every time after it.
    pub(super) fn answer(self) -> Answer<'static> {
        match self {
            Self::Written { version, revision, length } => Ok(Reply::Written { version, revision, length }),
            Self::Deleted { revision } => Ok(Reply::Deleted { revision }),
            Self::NotFound => Err(Error::new(Code::NotFound, "key does not exist")),
            Self::VersionMismatch { current } => {
                let message = format!("condition does not hold, the key is at version {current}");
                Err(Error::new(Code::VersionMismatch { current }, message))
            }
            Self::KeyTooLarge { length } => {
                let message = format!("key is too long: {length} bytes of {KEY_BYTES_MAX}");
                Err(Error::new(Code::KeyTooLarge, message))
            }
            Self::ValueTooLarge { length } => {
                let message =
                    format!("value is or would become too long: {length} bytes of {VALUE_BYTES_MAX}");
                Err(Error::new(Code::ValueTooLarge, message))
            }
            Self::NotAWrite => Err(Error::new(Code::BadRequest, "a read does not belong in the log")),
        }
    }

    /// Whether the key was there before, and whether it is there now; `None` where nothing changed.
    pub(super) fn presence(self) -> Option<(bool, bool)> {
        match self {
            Self::Written { version, .. } => Some((version > Version(1), true)),
            Self::Deleted { .. } => Some((true, false)),
            _ => None,
        }
    }
}
