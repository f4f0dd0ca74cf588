//! Runs of the program itself.

use simulation::report::Report;
use simulation::sweep::child;
use std::path::Path;

/// Runs a seed for so many simulated seconds in a process of its own.
pub fn run(seed: u64, seconds: u64, more: &[&str]) -> Report {
    let seconds = seconds.to_string();
    let output = child(Path::new(env!("CARGO_BIN_EXE_simulation")), seed)
        .args(["--seed", &seed.to_string(), "--seconds", &seconds, "--json"])
        .args(more)
        .output()
        .expect("the program can be started");
    let said = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("seed {seed}: {error}: {said}"))
}
