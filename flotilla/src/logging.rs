//! The log of a running node: one line an event, on stderr, so that stdout stays with the answers. This owns the
//! filter's default and nothing else; what is logged, and where, the other crates decide.

use crate::error::Error;
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// For a node: what we say ourselves, and what libraries say when something is wrong. Where openraft answers a call
/// with an error, the caller says what matters of it; openraft itself says it also of every call that a clean stop
/// cuts off, and of every heartbeat that is answered when its group has just ended.
pub(crate) const NODE_FILTER: &str = "warn,flotilla=info,kvserver=info,raftstore=info,\
    openraft=error,openraft::raft=off,openraft::core::heartbeat=off,sled=warn,hyper=warn";

/// For all nodes in one process, which start one after the other and stop together: as [`NODE_FILTER`], without their
/// word on peers that are not there yet or not any more.
pub(crate) const DEV_FILTER: &str = "warn,flotilla=info,kvserver=info,raftstore=info,raftstore::host=warn,\
    raftstore::transport::lane=error,openraft=error,openraft::raft=off,openraft::core::heartbeat=off,\
    sled=warn,hyper=warn";

/// For commands that ask a cluster: only what is wrong, since their answer stands on stdout.
pub(crate) const COMMAND_FILTER: &str = "warn";

/// Starts logging with `filter` (in the notation of `tracing_subscriber::EnvFilter`), or with `default`.
pub(crate) fn start(filter: Option<&str>, default: &str) -> Result<(), Error> {
    let filter = filter.unwrap_or(default);
    let parsed = EnvFilter::try_new(filter)
        .map_err(|error| Error::Usage(format!("log filter \"{filter}\" makes no sense: {error}")))?;
    tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(std::io::stderr)
        // Those go to stderr with eprintln!, which panics once nobody reads there.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init()
        .map_err(|error| Error::Failed(format!("cannot start the log: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The built-in filters are well formed.
    #[test]
    fn filters_parse() {
        for filter in [NODE_FILTER, DEV_FILTER, COMMAND_FILTER] {
            EnvFilter::try_new(filter).expect(filter);
        }
    }
}
