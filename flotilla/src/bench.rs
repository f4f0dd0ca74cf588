//! `flotilla bench …`: measures a running cluster, or clusters that it starts itself.

use crate::admin;
use crate::arguments::{NODES_DEFAULT, nodes_help};
use crate::kv::{self, Failure};
use crate::signals::Signals;
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

const EXIT_CODES: &str = "Exit codes:
  0  measured
  1  nobody answered, or an operation failed: what was printed before it holds, and no more
  2  the command line is wrong";

/// The exit code beside them of what starts servers itself.
const INTERRUPTED: &str = "130  a signal ended it; so were the servers that it had started";

/// How long the cluster may take to answer before anything is measured.
const CONNECT_TIME: Duration = Duration::from_secs(10);

/// Measure a running cluster, on keys of its own, "bench…" and "{bench-move…}/…", or clusters that are started for it
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
    /// Keep so many operations in flight, or begin so many a second: throughput, latencies, and what the servers spent
    #[command(after_help = load_help())]
    Load(bench::LoadArgs),
    /// Move a shard to and fro while clients use it: how long they wait, and whether others notice
    #[command(after_help = EXIT_CODES)]
    Move(bench::MoveArgs),
    /// Start flotilla, etcd and Redis on this machine and measure them in turns; --nodes is not asked
    #[command(after_help = peers_help())]
    Peers(bench::PeersArgs),
    /// Start flotilla on this machine again and again, with larger values, more keys, groups or clients: how throughput,
    /// memory and recovery grow; --nodes is not asked
    #[command(after_help = growth_help())]
    Growth(bench::GrowthArgs),
}

/// Gets read what is there: without a first run that fills it, a fresh cluster has nothing to be read.
fn load_help() -> String {
    format!(
        "Examples:
  flotilla bench load --fill                      write all keys once, before the first measurement
  flotilla bench load --workloads put,get --in-flight 64
  flotilla bench load --workloads mixed-95 --rate 5000 --distribution zipfian --html load.html

{EXIT_CODES}"
    )
}

fn peers_help() -> String {
    format!(
        "Examples:
  flotilla bench peers --dir /var/tmp --html peers.html
  flotilla bench peers --vs etcd --etcd ~/etcd/etcd --workloads put --in-flight 1,64 --rounds 3

{EXIT_CODES}
  {INTERRUPTED}"
    )
}

fn growth_help() -> String {
    format!(
        "Examples:
  flotilla bench growth --dir /var/tmp --html growth.html
  flotilla bench growth --series data-set,clients --keys 1000,10000 --clients 1,64 --seconds 2

{EXIT_CODES}
  {INTERRUPTED}"
    )
}

/// Measures.
pub(crate) async fn run(args: BenchArgs) -> Result<(), Failure> {
    let measured = match &args.command {
        Command::Load(load) => bench::load(&running_cluster(&args).await?, load).await,
        Command::Move(moves) => bench::moves(&running_cluster(&args).await?, moves).await,
        Command::Peers(peers) => return ended(bench::peers(peers, &executable()?, stop()?).await),
        Command::Growth(growth) => return ended(bench::growth(growth, &executable()?, stop()?).await),
    };
    measured.map_err(failed)
}

fn failed(error: anyhow::Error) -> Failure {
    Failure::Failed(format!("{error:#}"))
}

/// The nodes of the cluster that is to be measured. That nobody answers is said as by every command, and before anything
/// is measured.
async fn running_cluster(args: &BenchArgs) -> Result<Vec<String>, Failure> {
    let nodes = admin::nodes(args.nodes.as_deref().unwrap_or(NODES_DEFAULT))?;
    drop(kv::connect(args.nodes.as_deref(), CONNECT_TIME).await?);
    Ok(nodes)
}

/// This very program, of which servers are started.
fn executable() -> Result<PathBuf, Failure> {
    std::env::current_exe()
        .map_err(|error| Failure::Failed(format!("cannot find this program's file: {error}")))
}

/// The signal that ends a run, caught from now on. A terminal that goes away must not leave servers behind either.
fn stop() -> Result<impl Future<Output = &'static str>, Failure> {
    let mut signals = Signals::catch()?;
    let mut hangup = signal(SignalKind::hangup())
        .map_err(|error| Failure::Failed(format!("cannot catch signals: {error}")))?;
    Ok(async move {
        tokio::select! {
            signal = signals.recv() => signal,
            _ = hangup.recv() => "SIGHUP",
        }
    })
}

/// How a run with servers of its own came to its end.
fn ended(run: anyhow::Result<bench::Ended>) -> Result<(), Failure> {
    match run.map_err(failed)? {
        bench::Ended::Measured => Ok(()),
        bench::Ended::Stopped(signal) => {
            Err(Failure::Interrupted(format!("{signal} ended it before all was measured; no server is left")))
        }
    }
}
