//! flotilla: one binary to run a cluster and to use it. `main` owns the command line's first level, the process's
//! environment, the runtime and the exit code; each command lives in its own module and gets what it needs handed
//! in.

mod admin;
mod arguments;
mod bench;
mod cause;
mod config;
mod dev;
mod error;
mod group;
#[cfg(test)]
mod hostile;
mod kv;
mod logging;
mod node_command;
mod output;
mod running;
mod server;
mod shard;
mod signals;
mod status;
mod terminal;

use crate::admin::AdminCommand;
use crate::error::Error;
use anyhow::Context;
use clap::{Parser, Subcommand};
use std::fmt::Display;
use std::future::Future;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

/// A binary that people run keeps every guarantee: build it with `-p flotilla`, apart from the simulator.
const _: () = assert!(!raftstore::mutation::COMPILED || cfg!(debug_assertions), "built with mutations");

/// What a shard that left or a log that was applied took goes back to the system: glibc's allocator keeps it. Tests
/// count allocations with one of their own.
#[cfg(not(test))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long tasks that outlive their command may take to notice; data is safe on disk by then.
const RUNTIME_STOP: Duration = Duration::from_secs(1);

/// A fault-tolerant, sharded key/value store that runs as one binary.
///
/// flotilla replicates keys over the nodes of a cluster with Raft: a write that was acknowledged is on the disks of
/// a majority, a read sees every write acknowledged before it, and the cluster goes on while a majority of its
/// nodes does.
#[derive(Debug, Parser)]
#[command(
    name = "flotilla",
    version,
    after_help = "Start here:
  flotilla dev                                    a cluster of three on this machine, until Ctrl-C
  flotilla kv put greeting hello                  in another terminal
  curl http://127.0.0.1:7101/v1/kv/greeting       the same key, without a client
  flotilla status                                 who leads, who lags, how much disk and memory

Environment: FLOTILLA_LOG is --log, FLOTILLA_NODES is --nodes; `flotilla server --help` names the rest."
)]
struct Cli {
    /// What to log, on stderr: a level (error, warn, info, debug, trace), or levels by module as in
    /// warn,raftstore=debug [env: FLOTILLA_LOG] [default: info for nodes, warn for other commands]
    #[arg(long, global = true, value_name = "FILTER")]
    log: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Dev(dev::DevArgs),
    Server(server::ServerArgs),
    Status(status::StatusArgs),
    Kv(kv::KvArgs),
    /// Look at shards and move them.
    Shard(AdminCommand<shard::Command>),
    /// Add groups and remove them.
    Group(AdminCommand<group::Command>),
    /// Look at nodes, empty them and forget them.
    Node(AdminCommand<node_command::Command>),
    Bench(bench::BenchArgs),
}

/// Variables whose names or values are not UTF-8 cannot be ours, except to be refused.
fn environment() -> Result<Vec<(String, String)>, Error> {
    let mut ours = Vec::new();
    for (name, value) in std::env::vars_os() {
        let Ok(name) = name.into_string() else { continue };
        if name.starts_with("FLOTILLA_") {
            let value = value
                .into_string()
                .map_err(|value| Error::Usage(format!("{name} is not UTF-8: {}", value.to_string_lossy())))?;
            ours.push((name, value));
        }
    }
    Ok(ours)
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match environment().and_then(|environment| dispatch(cli, environment)) {
        Ok(code) => code,
        Err(error) => complain(&error, error.exit_code()),
    }
}

fn dispatch(cli: Cli, environment: Vec<(String, String)>) -> Result<ExitCode, Error> {
    let variable =
        |name: &str| environment.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
    let default = match cli.command {
        Command::Server(_) => logging::NODE_FILTER,
        Command::Dev(_) => logging::DEV_FILTER,
        Command::Status(_)
        | Command::Kv(_)
        | Command::Shard(_)
        | Command::Group(_)
        | Command::Node(_)
        | Command::Bench(_) => logging::COMMAND_FILTER,
    };
    logging::start(cli.log.or_else(|| variable("FLOTILLA_LOG")).as_deref(), default)?;
    match cli.command {
        Command::Dev(args) => {
            args.check_ports()?;
            // Dropped last: nothing writes there any more once the runtime is gone.
            let place = dev::Place::prepare(&args)?;
            on_runtime(dev::run(args, &place))?
        }
        Command::Server(args) => on_runtime(server::run(args, environment))?,
        Command::Status(mut args) => {
            args.nodes = args.nodes.or_else(|| variable("FLOTILLA_NODES"));
            on_runtime(status::run(args))?
        }
        Command::Kv(mut args) => {
            args.nodes = args.nodes.or_else(|| variable("FLOTILLA_NODES"));
            Ok(ended(on_runtime(kv::run(args))?))
        }
        Command::Shard(asked) => {
            Ok(ended(on_runtime(shard::run(asked.or_nodes(variable("FLOTILLA_NODES"))))?))
        }
        Command::Group(asked) => {
            Ok(ended(on_runtime(group::run(asked.or_nodes(variable("FLOTILLA_NODES"))))?))
        }
        Command::Node(asked) => {
            Ok(ended(on_runtime(node_command::run(asked.or_nodes(variable("FLOTILLA_NODES"))))?))
        }
        Command::Bench(mut args) => {
            args.nodes = args.nodes.or_else(|| variable("FLOTILLA_NODES"));
            Ok(ended(on_runtime(bench::run(args))?))
        }
    }
}

/// The exit code of a command that ended, and a word where it ended badly.
fn ended(result: Result<(), kv::Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => complain(&failure, failure.exit_code()),
    }
}

/// Runs `command` to its end; what it left running is dropped after [`RUNTIME_STOP`].
fn on_runtime<T>(command: impl Future<Output = T>) -> Result<T, Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
        .map_err(|error| Error::Failed(format!("{error:#}")))?;
    let result = runtime.block_on(command);
    runtime.shutdown_timeout(RUNTIME_STOP);
    Ok(result)
}

/// One line on stderr. Where even that is closed, the exit code alone has to say it.
fn complain(error: &dyn Display, code: ExitCode) -> ExitCode {
    match writeln!(std::io::stderr().lock(), "flotilla: {error}") {
        Ok(()) | Err(_) => code,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    /// The command line's definition contradicts itself nowhere.
    #[test]
    fn command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
