//! The simulator's command line: one seed, or many.

use anyhow::{Context, bail};
use clap::Parser;
use raftstore::mutation::Mutation;
use simulation::mutants::{self, Hunt, table};
use simulation::plan::Plan;
use simulation::report::{Check, Violation};
use simulation::sweep::{ENTROPY, Sweep, child, row};
use std::io::Write;
use std::path::PathBuf;
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
    /// Has nodes lack a guarantee, and runs seeds until one fails; "all" takes one guarantee after the other
    #[arg(long, value_name = "NAME", value_parser = mutations)]
    mutation: Option<Mutations>,
    /// Writes what was found of mutations as a page in Markdown
    #[arg(long, requires = "mutation", conflicts_with = "seed", value_name = "PATH")]
    page: Option<PathBuf>,
    /// Prints its report as JSON
    #[arg(long, requires = "seed", conflicts_with = "trace")]
    json: bool,
}

/// What `--mutation` names.
#[derive(Clone, Debug)]
struct Mutations(Vec<Mutation>);

fn mutations(name: &str) -> Result<Mutations, String> {
    let named: Vec<Mutation> =
        Mutation::ALL.into_iter().filter(|mutation| name == "all" || name == mutation.name()).collect();
    let names = || Mutation::ALL.map(Mutation::name).join(", ");
    if named.is_empty() { Err(format!("must be all or one of {}", names())) } else { Ok(Mutations(named)) }
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
    let mutation = match cli.mutation.as_ref().map(|Mutations(named)| &named[..]) {
        None => None,
        Some([one]) => Some(*one),
        Some(_) => bail!("--seed takes one mutation, not all"),
    };
    let plan =
        Plan { lying_disks: cli.lying_disks, mutation, ..Plan::new(seed, Duration::from_secs(cli.seconds)) };
    let mut report = simulation::run::run(plan, cli.trace)?;
    let panics = std::mem::take(&mut *PANICS.lock().unwrap_or_else(PoisonError::into_inner));
    report.violations.extend(panics.into_iter().map(|panic| Violation::new(Check::Panic, panic)));
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
            let Cli { first, seeds, seconds, processes, mutation, page, .. } = cli;
            if let Some(Mutations(named)) = mutation {
                let found = Hunt { first, seeds, seconds }.run(&named).context("the hunt was cut short")?;
                write!(std::io::stdout(), "\n{}", table(&found))?;
                if let Some(path) = page {
                    std::fs::write(&path, mutants::page(&found))
                        .with_context(|| path.display().to_string())?;
                }
                found.iter().all(|found| found.caught.is_some())
            } else {
                let sweep = Sweep { first, seeds, seconds, processes };
                sweep.run().context("the sweep was cut short")?.is_empty()
            }
        }
    };
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
