//! `flotilla bench …`: measures a running cluster.

use crate::admin;
use crate::arguments::{NODES_DEFAULT, nodes_help};
use crate::kv::Failure;
use clap::{Args, Subcommand};

/// Measure a running cluster, on keys of its own: "bench/…" and "{bench-move…}/…"
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[arg(long, global = true, value_name = "URL,URL", help = nodes_help())]
    pub(crate) nodes: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Keep so many operations in flight: throughput, latencies, and what the servers spent
    Load(bench::LoadArgs),
    /// Move a shard to and fro while clients use it: how long they wait, and whether others notice
    Move(bench::MoveArgs),
}

/// Measures.
pub(crate) async fn run(args: BenchArgs) -> Result<(), Failure> {
    let nodes = admin::nodes(args.nodes.as_deref().unwrap_or(NODES_DEFAULT))?;
    let measured = match &args.command {
        Command::Load(load) => bench::load(&nodes, load).await,
        Command::Move(moves) => bench::moves(&nodes, moves).await,
    };
    measured.map_err(|error| Failure::Failed(format!("{error:#}")))
}
