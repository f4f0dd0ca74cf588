//! `flotilla bench …`: measures a running cluster.

use crate::admin;
use crate::arguments::{NODES_DEFAULT, nodes_help};
use crate::kv::{self, Failure};
use clap::{Args, Subcommand};
use std::time::Duration;

const EXIT_CODES: &str = "Exit codes:
  0  measured
  1  nobody answered, or an operation failed: what was printed before it holds, and no more
  2  the command line is wrong";

/// How long the cluster may take to answer before anything is measured.
const CONNECT_TIME: Duration = Duration::from_secs(10);

/// Measure a running cluster, on keys of its own: "bench/…" and "{bench-move…}/…"
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct BenchArgs {
    #[arg(long, global = true, value_name = "URL,URL", help = nodes_help())]
    pub(crate) nodes: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Keep so many operations in flight: throughput, latencies, and what the servers spent
    #[command(after_help = load_help())]
    Load(bench::LoadArgs),
    /// Move a shard to and fro while clients use it: how long they wait, and whether others notice
    #[command(after_help = EXIT_CODES)]
    Move(bench::MoveArgs),
}

/// Gets read what is there: without a first run that fills it, a fresh cluster has nothing to be read.
fn load_help() -> String {
    format!(
        "Examples:
  flotilla bench load --fill                      write all keys once, before the first measurement
  flotilla bench load --workloads put,get --in-flight 64

{EXIT_CODES}"
    )
}

/// Measures.
pub(crate) async fn run(args: BenchArgs) -> Result<(), Failure> {
    let nodes = admin::nodes(args.nodes.as_deref().unwrap_or(NODES_DEFAULT))?;
    // Said as by every command, and before anything is measured.
    drop(kv::connect(args.nodes.as_deref(), CONNECT_TIME).await?);
    let measured = match &args.command {
        Command::Load(load) => bench::load(&nodes, load).await,
        Command::Move(moves) => bench::moves(&nodes, moves).await,
    };
    measured.map_err(|error| Failure::Failed(format!("{error:#}")))
}
