//! The counts in the repository, and what is new held against them.

use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// Where the counts are kept.
pub const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/counts.txt");

/// What the columns of a [`Row`] are.
pub const HEAD: &str = "WORKLOAD   OLD INSTR/OP   NEW INSTR/OP   RATIO";

/// What begins the line that says what counts were made with.
const WITH: &str = "with";

/// The counts of a build.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// The compiler and the counter.
    pub with: String,
    /// Instructions for one operation, by workload.
    pub per_operation: BTreeMap<String, u64>,
}

impl Counts {
    /// Those of a file.
    ///
    /// # Errors
    /// Where it cannot be read, or is no such file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        text.parse().with_context(|| path.display().to_string())
    }

    /// A workload's.
    ///
    /// # Errors
    /// Where it was not counted.
    pub fn of(&self, workload: &str) -> Result<u64> {
        let count = self.per_operation.get(workload).copied();
        count.with_context(|| format!("{PATH} lacks {workload}: write it anew with --write"))
    }
}

impl FromStr for Counts {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut counts = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((name, rest)) = line.split_once(' ') else { bail!("no name and count: {line:?}") };
            if name == WITH {
                rest.clone_into(&mut counts.with);
                continue;
            }
            let count: u64 = rest.parse().with_context(|| format!("no count: {line:?}"))?;
            if count == 0 || counts.per_operation.insert(name.to_owned(), count).is_some() {
                bail!("a count that is zero or there twice: {line:?}");
            }
        }
        Ok(counts)
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# Instructions for one operation: docs/reference/benchmarks.md, \"The guard\".")?;
        writeln!(f, "# Written by: cargo run --release -p guard -- --write")?;
        writeln!(f, "{WITH} {}", self.with)?;
        self.per_operation.iter().try_for_each(|(name, count)| writeln!(f, "{name} {count}"))
    }
}

/// A workload's old count and its new one.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The workload.
    pub name: &'static str,
    /// Instructions for one operation, by the file; never 0.
    pub old: u64,
    /// Instructions for one operation, now.
    pub new: u64,
}

impl Row {
    fn ratio(&self) -> f64 {
        self.new as f64 / self.old as f64
    }

    /// Whether it grew by more than this share.
    pub fn grew(&self, tolerance: f64) -> bool {
        self.ratio() > 1.0 + tolerance
    }

    /// The row in one line, with a word where the count is to be looked at.
    pub fn shown(&self, tolerance: f64) -> String {
        let (ratio, percent) = (self.ratio(), tolerance * 100.0);
        let word = if self.grew(tolerance) {
            format!("  GREW by more than {percent:.1} %")
        } else if ratio < 1.0 - tolerance {
            "  shrank: write the counts anew, so that it stays".to_owned()
        } else {
            String::new()
        };
        format!("{:<8} {:>14} {:>14} {ratio:>7.3}{word}", self.name, self.old, self.new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was written is read again as it was, and what is not a file of counts is refused by its line.
    #[test]
    fn counts_are_read_as_written() {
        let per_operation = BTreeMap::from([("get-1".to_owned(), 100), ("put-64".to_owned(), 42)]);
        let counts = Counts { with: "rustc 1.0, valgrind-3".into(), per_operation };
        assert_eq!(counts.to_string().parse::<Counts>().unwrap(), counts);
        assert_eq!(counts.of("get-1").unwrap(), 100);
        assert!(counts.of("put-1").unwrap_err().to_string().contains("lacks put-1"));
        for bad in ["put-1", "put-1 many", "put-1 0", "put-1 5\nput-1 5"] {
            let error = format!("{:#}", bad.parse::<Counts>().unwrap_err());
            assert!(error.contains("put-1"), "{bad:?}: {error}");
        }
    }

    /// A count within the tolerance passes, one above it does not, and one far below asks to be written down.
    #[test]
    fn growth_beyond_the_tolerance_is_told() {
        let row = |new| Row { name: "put-1", old: 1_000, new };
        for (new, grew, word) in [
            (1_000, false, "1.000"),
            (1_050, false, "1.050"),
            (1_051, true, "GREW by more than 5.0 %"),
            (950, false, "0.950"),
            (949, false, "shrank"),
        ] {
            assert_eq!(row(new).grew(0.05), grew, "{new}");
            assert!(row(new).shown(0.05).contains(word), "{new}: {}", row(new).shown(0.05));
        }
    }

    /// The file in the repository has a count of each workload, and no other.
    #[test]
    fn the_repository_has_all_counts() {
        let counts = Counts::read(Path::new(PATH)).unwrap();
        let mut names = crate::workload::Workload::ALL.map(|workload| workload.name);
        names.sort_unstable();
        assert_eq!(counts.per_operation.keys().map(String::as_str).collect::<Vec<_>>(), names);
        assert!(!counts.with.is_empty());
    }
}
