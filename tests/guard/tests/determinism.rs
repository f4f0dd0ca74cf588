//! The program itself: only where a run is the same each time does a count of its instructions say something.

use std::process::Command;

/// Runs a workload; what it says.
fn run(workload: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_guard"));
    let output = command
        .args(["--workload", workload, "--operations", "200"])
        .output()
        .expect("the program can be started");
    assert!(output.status.success(), "{workload}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Two runs of each workload take the same simulated time and send the same bytes in the same pieces.
#[test]
fn a_workload_repeats_its_run() {
    for workload in ["put-1", "put-64", "get-1", "get-64"] {
        let first = run(workload);
        assert!(first.starts_with("200 operations, "), "{workload}: {first}");
        assert_eq!(first, run(workload), "{workload}");
    }
}
