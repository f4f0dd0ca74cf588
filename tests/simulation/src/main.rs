//! The simulator's command line: one seed, or many.

use anyhow::Context;
use clap::Parser;
use simulation::plan::Plan;
use simulation::sweep::{ENTROPY, Sweep, child, row};
use std::io::Write;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Runs whole clusters in one thread, by seed: nodes, clients, operators and faults.
#[derive(Debug, Parser)]
#[command(name = "simulation", version)]
struct Cli {
    /// How many seeds to run, each in a process of its own
    #[arg(long, default_value_t = 10, conflicts_with = "seed")]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 1, conflicts_with = "seed")]
    first: u64,
    /// How many processes run at the same time
    #[arg(long, default_value_t = 2)]
    processes: usize,
    /// For how many simulated seconds clients call and faults happen
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Runs this seed alone
    #[arg(long)]
    seed: Option<u64>,
    /// Prints every event of it
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Prints what nodes and clients log, on stderr: a level, or levels by module as in
    /// warn,shardctrler=debug
    #[arg(long, requires = "seed", value_name = "FILTER")]
    log: Option<String>,
    /// Lets its disks report syncs that they have not made: a run that must fail
    #[arg(long, requires = "seed")]
    lying_disks: bool,
    /// Prints its report as JSON
    #[arg(long, requires = "seed", conflicts_with = "trace")]
    json: bool,
}

/// What tasks panicked with: their waiters may not care, the verdict does.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn run(cli: &Cli, seed: u64) -> anyhow::Result<bool> {
    std::panic::set_hook(Box::new(|panic| {
        PANICS.lock().unwrap_or_else(PoisonError::into_inner).push(panic.to_string());
    }));
    if let Some(filter) = &cli.log {
        let filter = tracing_subscriber::EnvFilter::try_new(filter).context("log")?;
        tracing_subscriber::fmt().with_env_filter(filter).without_time().with_writer(std::io::stderr).init();
    }
    let plan = Plan { lying_disks: cli.lying_disks, ..Plan::new(seed, Duration::from_secs(cli.seconds)) };
    let mut report = simulation::run::run(plan, cli.trace)?;
    let panics = std::mem::take(&mut *PANICS.lock().unwrap_or_else(PoisonError::into_inner));
    report.violations.extend(panics.into_iter().map(|panic| format!("a task panicked: {panic}")));
    let mut out = std::io::stdout();
    if cli.json {
        serde_json::to_writer(&out, &report)?;
        writeln!(out)?;
    } else {
        writeln!(out, "{}\ntrace {} over {} events", row(&report), report.trace_hash, report.events)?;
    }
    Ok(report.violations.is_empty())
}

fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    let well = match cli.seed {
        Some(seed) if std::env::var_os(ENTROPY).is_some() => run(&cli, seed)?,
        Some(seed) => {
            let program = std::env::current_exe()?;
            let status = child(&program, seed).args(std::env::args_os().skip(1)).status()?;
            return Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        None => {
            let Cli { first, seeds, seconds, processes, .. } = cli;
            Sweep { first, seeds, seconds, processes }.run().context("the sweep was cut short")?.is_empty()
        }
    };
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
