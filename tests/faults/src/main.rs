//! Runs real processes under real faults and says what came of it. Ends with 0 if nothing is wrong, 1 if
//! something is, 2 if that could not be told.

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use faults::{Kind, NetworkChoice, Options, Reads, Report, run};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Runs flotilla's processes under faults while clients work, and judges what the clients saw. What is
/// printed and kept is described in docs/reference/faults.md.
#[derive(Parser)]
struct Args {
    /// How long faults are inflicted, in minutes.
    #[arg(long, default_value_t = 2.0)]
    minutes: f64,
    /// How many clients.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=200))]
    clients: u64,
    /// The seed of the schedule and of the clients' choices.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many nodes, beside the one that joins and leaves.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(3..=9))]
    nodes: u64,
    /// How many data groups.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=16))]
    groups: u32,
    /// Only these faults: their names, with commas.
    #[arg(long, value_delimiter = ',')]
    kinds: Vec<Kind>,
    /// The time between two faults, about, in seconds.
    #[arg(long, default_value_t = 4.0)]
    pace: f64,
    /// Has clients read whatever any replica has: such a run must be found wrong.
    #[arg(long)]
    stale_reads: bool,
    /// How the links between nodes are made.
    #[arg(long, value_enum, default_value_t = Network::Auto)]
    network: Network,
    /// The binary under test; by default it is built beside this program.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Where history and logs go; by default a folder of the run's own among the system's temporary files.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Keeps the folder also where nothing is wrong.
    #[arg(long)]
    keep: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Network {
    Auto,
    Namespaces,
    Proxies,
}

fn main() -> ExitCode {
    match start(Args::parse()) {
        Ok(code) => code,
        Err(error) => match writeln!(io::stderr(), "faults: {error:#}") {
            // Where even stderr is closed, the status alone has to say it.
            Ok(()) | Err(_) => ExitCode::from(2),
        },
    }
}

fn start(args: Args) -> Result<ExitCode> {
    let binary = args.binary.clone().map_or_else(built, Ok)?;
    let name = format!("flotilla-faults-{}-{}", args.seed, std::process::id());
    let folder = args.folder.clone().unwrap_or_else(|| std::env::temp_dir().join(name));
    let options = Options {
        seed: args.seed,
        length: Duration::try_from_secs_f64(args.minutes * 60.0).context("--minutes")?,
        clients: args.clients,
        nodes: args.nodes,
        groups: args.groups,
        kinds: if args.kinds.is_empty() { Kind::ALL.to_vec() } else { args.kinds },
        pace: Duration::try_from_secs_f64(args.pace.max(0.1)).context("--pace")?,
        reads: if args.stale_reads { Reads::Stale } else { Reads::Linearizable },
        network: match args.network {
            Network::Auto => NetworkChoice::Auto,
            Network::Namespaces => NetworkChoice::Namespaces,
            Network::Proxies => NetworkChoice::Proxies,
        },
        binary,
        folder,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    // Where a signal comes, the run is dropped, and with it all that it started; the runtime waits for that.
    let report = runtime.block_on(async {
        tokio::select! {
            report = run(&options) => report.map(Some),
            signalled = interrupted() => signalled.map(|()| None),
        }
    });
    drop(runtime);
    let Some(report) = report.inspect_err(|_| kept(&options.folder))? else {
        kept(&options.folder);
        return Ok(ExitCode::from(130));
    };
    conclude(&report, args.keep)
}

async fn interrupted() -> Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    }
}

fn kept(folder: &Path) {
    // Where stderr is closed, nobody reads it.
    match writeln!(io::stderr(), "history and logs are in {}", folder.display()) {
        Ok(()) | Err(_) => {}
    }
}

fn conclude(report: &Report, keep: bool) -> Result<ExitCode> {
    write!(io::stdout(), "\n{report}")?;
    if report.passed() && !keep {
        std::fs::remove_dir_all(report.folder())?;
    } else {
        kept(report.folder());
    }
    Ok(match (report.failed(), report.passed()) {
        (true, _) => ExitCode::from(1),
        (_, true) => ExitCode::SUCCESS,
        _ => ExitCode::from(2),
    })
}

/// The binary of this program's own profile, built where it is not fresh.
fn built() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let profile = own.parent().context("a program lies in a folder")?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "-p", "flotilla"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    if profile.file_name().is_some_and(|name| name == "release") {
        cargo.arg("--release");
    }
    let status = cargo.status().context("cargo cannot be started")?;
    anyhow::ensure!(status.success(), "flotilla does not build");
    Ok(profile.join("flotilla"))
}
