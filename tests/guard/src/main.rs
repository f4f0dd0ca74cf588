//! Notices when a put or a get takes more instructions than it did.
//!
//! A time says more about the machine and its neighbours than about a change of a few percent; a count of
//! instructions is the same on a machine that does other things. So this program runs itself under valgrind: three
//! nodes and a client in one thread, on a simulated network, disk and clock, once for some operations and once for
//! twice as many. The difference is what the operations took, without the start.
//!
//! ```text
//!   guard ──▶ valgrind guard --workload put-64 --operations N  ──▶ total ┐
//!     │  └──▶ valgrind guard --workload put-64 --operations 2N ──▶ total ┴─▶ instructions for an operation
//!     ▼                                                                             │
//!   counts.txt ─────────────────────── old, new, ratio ◀────────────────────────────┘
//! ```
//!
//! What it does not see: what an instruction costs, waiting, the kernel, other threads, and what the simulated world
//! stands in for (sled, the journal, sockets). Ends with 0 if nothing grew, 1 if something did, 2 if that could not be
//! told.

mod counts;
mod fleet;
mod valgrind;
mod workload;

use anyhow::{Context, Result, bail};
use clap::Parser;
use counts::{Counts, Row};
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use valgrind::Counter;
use workload::Workload;

/// By how much an operation may take more than it did: several times what chance makes of it with other seeds, and
/// hundreds of times what runs of one seed differ by.
const TOLERANCE_PERCENT: f64 = 3.0;

/// Counts the instructions of puts and gets under valgrind, and holds them against the counts in the repository.
#[derive(Debug, Parser)]
#[command(name = "guard", version)]
struct Cli {
    /// Writes the counts in the repository anew
    #[arg(long)]
    write: bool,
    /// By how much an operation may have grown, in percent
    #[arg(long, default_value_t = TOLERANCE_PERCENT, conflicts_with = "write")]
    tolerance_percent: f64,
    /// Runs one workload and counts nothing: for valgrind to look at
    #[arg(long, value_name = "NAME", value_parser = Workload::named, conflicts_with = "write")]
    workload: Option<Workload>,
    /// How many operations that does
    #[arg(long, default_value_t = 1_000, requires = "workload")]
    operations: u64,
    /// Decides what is left to chance: who is elected, and when
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> ExitCode {
    match start(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => match writeln!(io::stderr(), "guard: {error:#}") {
            // Where even stderr is closed, the status alone has to say it.
            Ok(()) | Err(_) => ExitCode::from(2),
        },
    }
}

/// Whether nothing grew.
fn start(cli: &Cli) -> Result<bool> {
    if let Some(workload) = cli.workload {
        writeln!(io::stdout(), "{}", workload.run(cli.operations, cli.seed)?)?;
        return Ok(true);
    }
    if cfg!(debug_assertions) || raftstore::mutation::COMPILED {
        bail!("counts are those of the release profile without what tests add: cargo run --release -p guard");
    }
    let counter = Counter::find(cli.seed)?;
    if cli.write { write(&counter) } else { compare(&counter, cli.tolerance_percent / 100.0) }
}

fn write(counter: &Counter) -> Result<bool> {
    let mut counts = Counts { with: counter.with().to_owned(), ..Counts::default() };
    for workload in Workload::ALL {
        counts.per_operation.insert(workload.name.to_owned(), counter.per_operation(workload)?);
    }
    std::fs::write(counts::PATH, counts.to_string()).context(counts::PATH)?;
    write!(io::stdout(), "{counts}")?;
    Ok(true)
}

fn compare(counter: &Counter, tolerance: f64) -> Result<bool> {
    let old = Counts::read(Path::new(counts::PATH))?;
    if old.with != counter.with() {
        let (old, new) = (&old.with, counter.with());
        writeln!(io::stderr(), "guard: counted with {new}, held against {old}: not all growth need be ours")?;
    }
    let mut out = io::stdout();
    writeln!(out, "{}", counts::HEAD)?;
    let mut grew = false;
    for workload in Workload::ALL {
        let row =
            Row { name: workload.name, old: old.of(workload.name)?, new: counter.per_operation(workload)? };
        writeln!(out, "{}", row.shown(tolerance))?;
        grew |= row.grew(tolerance);
    }
    Ok(!grew)
}
