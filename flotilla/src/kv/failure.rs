//! How a `kv` command ends when it does not succeed: what to say and which code to exit with.

use crate::error::Error;
use crate::output::is_closed_pipe;
use std::io;
use std::process::ExitCode;

/// Why a command did not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Mend the command line.
    #[error("{0}")]
    Usage(String),
    /// Without effect, or incomplete; the message says what to do.
    #[error("{0}")]
    Failed(String),
    /// The key does not exist.
    #[error("key does not exist")]
    NotFound,
    /// The key is at another version, 0 for absent.
    #[error("key is at another version: {0}")]
    VersionMismatch(client::Version),
    /// A write may have happened.
    #[error("{0}")]
    Unknown(String),
    /// A signal ended it; the message says what is left behind.
    #[error("{0}")]
    Interrupted(String),
    /// Nobody reads the output any more.
    #[error("output was closed")]
    ClosedPipe,
}

impl Failure {
    /// The codes that `--help` lists.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::ClosedPipe => 0,
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::NotFound => 3,
            Self::VersionMismatch(_) => 4,
            Self::Unknown(_) => 5,
            Self::Interrupted(_) => 130,
        })
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Usage(message) => Self::Usage(message),
            Error::Failed(message) => Self::Failed(message),
        }
    }
}

impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Self {
        match error {
            client::Error::NotFound => Self::NotFound,
            client::Error::VersionMismatch { current } => Self::VersionMismatch(current),
            client::Error::Indeterminate { .. } => Self::Unknown(error.to_string()),
            client::Error::Config { field: "seeds", reason } => {
                Self::Usage(format!("--nodes is wrong: {reason}"))
            }
            client::Error::Config { field: "deadline", reason } => {
                Self::Usage(format!("--timeout is wrong: {reason}"))
            }
            _ => Self::Failed(error.to_string()),
        }
    }
}

/// Of writing to stdout; files name themselves in a message of their own.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if is_closed_pipe(&error) {
            Self::ClosedPipe
        } else {
            Self::Failed(format!("output failed: {error}"))
        }
    }
}
