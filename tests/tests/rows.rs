//! The scorecard is what it says: every row names tests that exist, and the table shows every row.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a package below the root").to_owned()
}

fn text(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Each section's name with its rows: name and tests.
fn sections() -> Vec<(String, Vec<(String, String)>)> {
    let mut sections: Vec<(String, Vec<(String, String)>)> = Vec::new();
    for line in text("tests/scorecard.rows").lines().filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        if let Some(name) = line.strip_prefix("== ") {
            sections.push((name.to_owned(), Vec::new()));
            continue;
        }
        let parts: Vec<&str> = line.split(" | ").map(str::trim).collect();
        let [name, _, tests] = parts[..] else { panic!("a row has three parts: {line}") };
        sections.last_mut().expect("a section before its rows").1.push((name.to_owned(), tests.to_owned()));
    }
    sections
}

/// Whether `source` holds a test of that name: a function with a test's attribute above it, or one of a block of
/// properties.
fn holds_test(source: &str, function: &str) -> bool {
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let is_it = |line: &&str| {
        let name = line.trim_start_matches("async ").strip_prefix("fn ");
        name.is_some_and(|name| name.strip_prefix(function).is_some_and(|rest| rest.starts_with('(')))
    };
    let attributes = |at: usize| lines[..at].iter().rev().take_while(|line| line.starts_with("#["));
    let mut tests = (0..lines.len()).filter(|at| is_it(&lines[*at]));
    tests
        .any(|at| attributes(at).any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test")))
}

/// Every test that a row names exists, and a section that tells how many rows it has has so many.
#[test]
fn every_named_test_exists() {
    for (section, rows) in sections() {
        let count = section.rsplit_once('(').map(|(_, count)| count.trim_end_matches(')').parse::<usize>());
        if let Some(count) = count {
            assert_eq!(count, Ok(rows.len()), "{section}");
        }
        let names: BTreeSet<&String> = rows.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), rows.len(), "{section}: no row stands twice");
        for (name, tests) in rows.iter().filter(|(_, tests)| !tests.starts_with("not yet")) {
            for test in tests.split(',').map(str::trim) {
                let (path, function) =
                    test.split_once("::").unwrap_or_else(|| panic!("{section}, {name}: {test}"));
                assert!(holds_test(&text(path), function), "{section}, {name}: {test} is no test");
            }
        }
    }
}

/// The table shows each row with the tests that the list names.
#[test]
fn the_table_shows_every_row() {
    let table = text("tests/scorecard.md");
    for (section, rows) in sections() {
        let section = section.split(" (").next().unwrap();
        for (name, tests) in rows {
            let begin = format!("| {section}: {name} | ");
            let row = table.lines().find(|line| line.starts_with(&begin));
            let row = row.unwrap_or_else(|| panic!("{section}, {name}: run tests/scorecard.py"));
            if tests.starts_with("not yet") {
                assert!(row.ends_with("| not yet |"), "{row}");
            } else {
                let shown = tests.split(',').all(|test| row.contains(&format!("`{}`", test.trim())));
                assert!(shown, "{section}, {name}: run tests/scorecard.py");
            }
        }
    }
}
