//! Counts the instructions of this very program under valgrind. It shows programs one and the same processor, so that
//! libraries that look for its abilities do the same on most machines.

use crate::workload::Workload;
use anyhow::{Context, Result, bail};
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

const VALGRIND: &str = "valgrind";

/// Its cheapest tool that counts; no caches are simulated, and no profile is written.
const OPTIONS: [&str; 3] = ["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"];

/// What stands before the total in what it says.
const TOTAL: &str = "refs:";

/// Counts with one compiler's build, by one valgrind.
#[derive(Debug)]
pub struct Counter {
    program: PathBuf,
    seed: u64,
    with: String,
}

impl Counter {
    /// This program under this machine's valgrind.
    ///
    /// # Errors
    /// Where there is none.
    pub fn find(seed: u64) -> Result<Self> {
        let said = Command::new(VALGRIND).arg("--version").output().map_err(|error| match error.kind() {
            ErrorKind::NotFound => {
                anyhow::anyhow!("valgrind is not installed (Debian: apt-get install valgrind)")
            }
            _ => anyhow::Error::from(error).context("valgrind cannot be started"),
        })?;
        let version = String::from_utf8_lossy(&said.stdout).trim().to_owned();
        let with = format!("{}, {version}, {}", env!("GUARD_RUSTC"), std::env::consts::ARCH);
        Ok(Self { program: std::env::current_exe()?, seed, with })
    }

    /// The compiler and the counter: other ones count otherwise.
    pub fn with(&self) -> &str {
        &self.with
    }

    /// The instructions for one operation, by two runs side by side of which one does twice as many.
    ///
    /// # Errors
    /// Where one fails.
    pub fn per_operation(&self, workload: Workload) -> Result<u64> {
        let operations = workload.operations;
        let (few, many) = (self.begin(workload, operations)?, self.begin(workload, 2 * operations)?);
        // Both are waited for, whatever becomes of the first.
        let (few, many) = (end(few), end(many));
        let (few, many) = (few.context(workload.name)?, many.context(workload.name)?);
        let taken = many.checked_sub(few).with_context(|| {
            format!("{}: twice as many operations took fewer instructions, {many} after {few}", workload.name)
        })?;
        Ok(taken / operations)
    }

    fn begin(&self, workload: Workload, operations: u64) -> Result<Child> {
        let mut command = Command::new(VALGRIND);
        command.args(OPTIONS).arg(&self.program).args(["--workload", workload.name]);
        command.args(["--operations", &operations.to_string(), "--seed", &self.seed.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.spawn().context("valgrind cannot be started")
    }
}

/// How many instructions a run took in all.
fn end(run: Child) -> Result<u64> {
    let output = run.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    match total(&said) {
        Some(total) if output.status.success() => Ok(total),
        _ => bail!("no count, {}: {said}", output.status),
    }
}

/// The number in a line such as `==42== I   refs:      1,234,567`.
fn total(said: &str) -> Option<u64> {
    let mut numbers = said.lines().filter_map(|line| line.split_once(TOTAL));
    let (_, number) = numbers.find(|(what, _)| what.trim_end().ends_with('I'))?;
    number.trim().replace(',', "").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The total is found in what older and newer valgrinds say, and nowhere else.
    #[test]
    fn totals_are_read() {
        let older = "==7== Command: guard\n==7== \n==7== I   refs:      1,234,567\n";
        assert_eq!(total(older), Some(1_234_567));
        assert_eq!(total("==7== I refs:        12\n"), Some(12));
        assert_eq!(total("==7== D   refs:      1,234\n"), None);
        assert_eq!(total("valgrind: guard: command not found\n"), None);
    }
}
