//! Whether the simulator notices a guarantee that is left out: seed by seed until one run fails, which must be well
//! with the guarantee.

use crate::report::Check;
use crate::sweep::{HEAD, one, row};
use raftstore::mutation::Mutation;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::Path;

/// Where to look.
#[derive(Clone, Copy, Debug)]
pub struct Hunt {
    /// The first seed.
    pub first: u64,
    /// How many are tried for each mutation.
    pub seeds: u64,
    /// For how long clients call and faults happen, in simulated seconds.
    pub seconds: u64,
}

/// What became of one mutation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Which.
    pub mutation: Mutation,
    /// The check that caught it and the seed; `None` where none of the seeds did.
    pub caught: Option<(Check, u64)>,
    /// How many seeds were run.
    pub seeds: u64,
}

impl Hunt {
    /// Runs seeds until each of `mutations` is caught, and prints a row for each run as it ends.
    ///
    /// # Errors
    /// Where this program cannot be started, or nothing can be printed.
    pub fn run(self, mutations: &[Mutation]) -> io::Result<Vec<Found>> {
        let program = std::env::current_exe()?;
        mutations.iter().map(|mutation| self.one(&program, *mutation)).collect()
    }

    fn one(self, program: &Path, mutation: Mutation) -> io::Result<Found> {
        writeln!(io::stdout(), "{mutation}\n{HEAD}")?;
        for number in 0..self.seeds {
            let seed = self.first + number;
            let report = one(program, seed, self.seconds, Some(mutation))?;
            writeln!(io::stdout(), "{}", row(&report))?;
            let Some(violation) = report.violations.first() else { continue };
            let well = one(program, seed, self.seconds, None)?;
            if well.violations.is_empty() {
                let caught = Some((violation.check, seed));
                return Ok(Found { mutation, caught, seeds: number + 1 });
            }
            writeln!(io::stdout(), "it fails without the mutation as well:\n{}", row(&well))?;
        }
        Ok(Found { mutation, caught: None, seeds: self.seeds })
    }
}

/// What the reference says of mutations, with what was found.
pub fn page(found: &[Found]) -> String {
    include_str!("mutations.md").replace("{table}\n", &table(found))
}

/// What was found, as a table in Markdown.
pub fn table(found: &[Found]) -> String {
    let mut table = "| Mutation | Caught by | Seeds needed | Seed |\n|---|---|---|---|\n".to_owned();
    for Found { mutation, caught, seeds } in found {
        let row = match caught {
            Some((check, seed)) => format!("| `{mutation}` | {} | {seeds} | {seed} |", check.name()),
            None => format!("| `{mutation}` | **not caught** | {seeds} | |"),
        };
        writeln!(table, "{row}").expect("text can be written to a string");
    }
    table
}
