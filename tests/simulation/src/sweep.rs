//! Many seeds, each in a process of its own: what one leaves behind reaches no other, and a crash is a
//! verdict.

use crate::lock;
use crate::report::{Check, Report, Violation};
use raftstore::mutation::Mutation;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// Holds the seed of what the operating system would draw at random; see `entropy.c`.
pub const ENTROPY: &str = "SIMULATION_ENTROPY";

/// What the columns of a [`row`] are.
pub const HEAD: &str = "    SEED     OPS ANSWERED    EVENTS   SIM S  VERDICT AND FAULTS";

/// A process in which `seed` can be run.
pub fn child(program: &Path, seed: u64) -> Command {
    let mut command = Command::new(program);
    command.env(ENTROPY, seed.to_string());
    command
}

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Sweep {
    /// The first seed.
    pub first: u64,
    /// How many follow each other.
    pub seeds: u64,
    /// For how long clients call and faults happen, in simulated seconds.
    pub seconds: u64,
    /// How many processes run at the same time.
    pub processes: usize,
}

impl Sweep {
    /// Runs all seeds and prints a row for each as it ends; those that failed.
    ///
    /// # Errors
    /// Where this program cannot be started, or nothing can be printed.
    pub fn run(self) -> io::Result<Vec<u64>> {
        let program = std::env::current_exe()?;
        let (next, failed) = (AtomicU64::new(0), Mutex::new(Vec::new()));
        let began = Instant::now();
        writeln!(io::stdout(), "{HEAD}")?;
        let worker = || -> io::Result<()> {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= self.seeds {
                    return Ok(());
                }
                let seed = self.first + number;
                let report = one(&program, seed, self.seconds, None)?;
                writeln!(io::stdout(), "{}", row(&report))?;
                if !report.violations.is_empty() {
                    lock(&failed).push(seed);
                }
            }
        };
        let ended = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..self.processes.max(1)).map(|_| scope.spawn(worker)).collect();
            workers
                .into_iter()
                .map(|worker| worker.join().map_err(|_| io::Error::other("a worker panicked")))
                .collect::<Vec<_>>()
        });
        for worker in ended {
            worker??;
        }
        let mut failed = failed.into_inner().unwrap_or_default();
        failed.sort_unstable();
        let minutes = began.elapsed().max(Duration::from_millis(1)).as_secs_f64() / 60.0;
        let rate = self.seeds as f64 / minutes;
        writeln!(
            io::stdout(),
            "{} seeds, {} failed {failed:?}, {rate:.1} seeds a minute",
            self.seeds,
            failed.len()
        )?;
        Ok(failed)
    }
}

/// Runs one seed in a process of its own.
///
/// # Errors
/// Where this program cannot be started.
pub fn one(program: &Path, seed: u64, seconds: u64, mutation: Option<Mutation>) -> io::Result<Report> {
    let mut command = child(program, seed);
    command.args(["--seed", &seed.to_string(), "--seconds", &seconds.to_string(), "--json"]);
    if let Some(mutation) = mutation {
        command.args(["--mutation", mutation.name()]);
    }
    let output = command.stdin(Stdio::null()).output()?;
    Ok(serde_json::from_slice(&output.stdout).unwrap_or_else(|_| {
        let said = String::from_utf8_lossy(&output.stderr);
        let what = format!("the run ended without a verdict, {}: {said}", output.status);
        Report { seed, violations: vec![Violation::new(Check::Verdict, what)], ..Report::default() }
    }))
}

/// A run in one line, and a line for each violation.
pub fn row(report: &Report) -> String {
    let Report { seed, operations, answered, events, simulated_ms, .. } = report;
    let faults: Vec<String> = report.faults.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    let verdict = if report.violations.is_empty() { "ok" } else { "FAILED" };
    let seconds = simulated_ms / 1_000;
    let faults = faults.join(", ");
    let mut row =
        format!("{seed:>8} {operations:>7} {answered:>8} {events:>9} {seconds:>7}  {verdict}  {faults}");
    for violation in &report.violations {
        row.push_str("\n         ");
        row.push_str(&violation.to_string());
    }
    row
}
