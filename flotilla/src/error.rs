//! How a command can end badly, split by what the operator does next. `main` turns each into one line on stderr
//! and an exit code; nothing here prints or exits.

use std::process::ExitCode;

/// Why a command did not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Mend the command line, the environment or the configuration file: nothing was started.
    #[error("{0}")]
    Usage(String),
    /// The command was understood and failed; the message says what to do.
    #[error("{0}")]
    Failed(String),
}

impl Error {
    /// 2 for what was said wrongly, as for the command line itself; 1 for what went wrong.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::from(2),
            Self::Failed(_) => ExitCode::from(1),
        }
    }
}
