//! How a call can fail, split by what the caller does next: take it as the answer, mend the request, try again
//! later, or find out what happened first.

use proto::{Code, Outcome, Version};

/// Why a call did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An answer: the key does not exist.
    #[error("key does not exist")]
    NotFound,
    /// An answer: the condition did not hold. Read again, decide anew.
    #[error("key is at another version: {current}")]
    VersionMismatch {
        /// The version that the key is at; 0 where it is absent.
        current: Version,
    },
    /// Mend the request: sent again as it is, it fails again. It had no effect.
    #[error("{code}: {message}")]
    Rejected {
        /// What is wrong with it.
        code: Code,
        /// For people.
        message: String,
    },
    /// Try again, now or later: nobody carried the request out, and nobody will, as long as nothing on the way
    /// delivers a request once more after its answer. TCP does not, and a proxy must not.
    #[error("not carried out after {attempts} attempts, last: {last}")]
    Unavailable {
        /// How often it was sent.
        attempts: u32,
        /// The last failure, for people; ends with the request id under which nodes logged it.
        last: String,
    },
    /// Find out first: the write may have taken effect, or may still. Sending it again would be another write.
    #[error("may or may not have been carried out after {attempts} attempts, last: {last}")]
    Indeterminate {
        /// How often it was sent, always under one stamp.
        attempts: u32,
        /// The last failure, for people; ends with the request id under which nodes logged it.
        last: String,
    },
    /// Mend the configuration.
    #[error("setting {field} is wrong: {reason}")]
    Config {
        /// The field of [`Config`](crate::Config).
        field: &'static str,
        /// What it must be.
        reason: String,
    },
}

impl Error {
    /// Whether the request may have taken effect all the same.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Indeterminate { .. } => Outcome::Unknown,
            Self::NotFound
            | Self::VersionMismatch { .. }
            | Self::Rejected { .. }
            | Self::Unavailable { .. }
            | Self::Config { .. } => Outcome::None,
        }
    }

    /// Whether the same call, made again, may succeed without any risk of taking effect twice.
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    pub(crate) fn rejected(code: Code, message: impl Into<String>) -> Self {
        Self::Rejected { code, message: message.into() }
    }
}
