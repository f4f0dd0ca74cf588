//! How results are written: as a table for people, line by line as they come, or as one JSON object a line.

use crate::probe::Probe;
use anyhow::{Context, Result};
use clap::ValueEnum;
use serde_json::json;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// What results look like on stdout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Columns for people.
    #[default]
    Table,
    /// One object a line.
    Json,
}

/// What was measured, and on what: a name, and what is to be said of it.
pub(crate) type Fact = (String, String);

pub(crate) fn fact(name: &str, fact: String) -> Fact {
    (name.to_owned(), fact)
}

/// What is known before anything is measured.
pub(crate) fn say_facts(output: Output, facts: &[Fact], probe: &Probe) -> Result<()> {
    if output == Output::Table {
        for (name, fact) in facts {
            crate::say(&format!("{name}: {fact}"))?;
        }
        return crate::say("");
    }
    let Probe { sync_us, round_trip_us } = probe;
    crate::say(&json!({"kind": "machine", "sync_us": sync_us, "round_trip_us": round_trip_us}).to_string())?;
    for (name, fact) in facts {
        crate::say(&json!({"kind": "fact", "name": name, "fact": fact}).to_string())?;
    }
    Ok(())
}

/// What stands in a cell of which nothing is known.
pub(crate) const UNKNOWN: &str = "-";

/// Rows under a head.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    columns: Vec<(&'static str, usize)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With these columns, each so many characters wide; the first keeps to the left, the others to the right.
    pub(crate) fn new(columns: Vec<(&'static str, usize)>) -> Self {
        Self { columns, rows: Vec::new() }
    }

    /// The head as a line of text.
    pub(crate) fn head(&self) -> String {
        self.line(self.columns.iter().map(|(name, _)| *name))
    }

    /// Adds a row, and returns it as a line of text.
    pub(crate) fn add(&mut self, row: Vec<String>) -> String {
        assert_eq!(row.len(), self.columns.len(), "a row has a cell for each column");
        let line = self.line(row.iter().map(String::as_str));
        self.rows.push(row);
        line
    }

    pub(crate) fn columns(&self) -> impl Iterator<Item = &'static str> {
        self.columns.iter().map(|(name, _)| *name)
    }

    pub(crate) fn rows(&self) -> &[Vec<String>] {
        &self.rows
    }

    fn line<'a>(&self, cells: impl Iterator<Item = &'a str>) -> String {
        let mut line = String::new();
        for (index, (cell, (_, width))) in cells.zip(&self.columns).enumerate() {
            let cell = match index {
                0 => format!("{cell:<width$}"),
                _ => format!("  {cell:>width$}"),
            };
            line.push_str(&cell);
        }
        line.trim_end().to_owned()
    }
}

/// A figure that may be unknown, with so many decimals.
pub(crate) fn figure(figure: Option<f64>, decimals: usize) -> String {
    figure.map_or_else(|| UNKNOWN.to_owned(), |figure| format!("{figure:.decimals$}"))
}

/// A file that will be written at the end of a long run: whether it can be is known at the beginning.
#[derive(Debug)]
pub(crate) struct PageFile {
    path: PathBuf,
    file: File,
}

impl PageFile {
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { path: path.to_owned(), file })
    }

    pub(crate) fn write(mut self, page: &str) -> Result<()> {
        self.file.write_all(page.as_bytes()).with_context(|| format!("cannot write {}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cells stand under their column's name, whatever their length.
    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(vec![("WORKLOAD", 10), ("OPS/S", 7)]);
        assert_eq!(table.head(), "WORKLOAD      OPS/S");
        assert_eq!(table.add(vec!["put".into(), figure(Some(12.34), 1)]), "put            12.3");
        assert_eq!(table.add(vec!["put".into(), figure(None, 1)]), "put               -");
        assert_eq!(table.rows().len(), 2);
    }

    /// A page that cannot be written is refused before anything is measured.
    #[test]
    fn page_files() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("report.html");
        PageFile::create(&path).and_then(|file| file.write("<p>")).expect("it can be written");
        assert_eq!(std::fs::read_to_string(&path).expect("it is there"), "<p>");
        assert!(PageFile::create(&dir.path().join("missing/report.html")).is_err());
    }
}
