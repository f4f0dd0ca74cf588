//! What the binary says about itself, without any cluster. That this package has an integration test also makes
//! `cargo test` build the binary that the package `tests` starts.

use std::net::TcpListener;
use std::process::{Command, Output};

fn flotilla(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_flotilla")).args(args).output().expect("the binary can be started")
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).expect("text")
}

/// The version is the package's.
#[test]
fn version() {
    assert_eq!(stdout(&flotilla(&["--version"])), format!("flotilla {}\n", env!("CARGO_PKG_VERSION")));
}

/// The help leads from nothing to a first key, and each command's help has examples and its exit codes.
#[test]
fn help_teaches() {
    let help = stdout(&flotilla(&["--help"]));
    for step in ["flotilla dev", "flotilla kv put", "curl http", "flotilla status", "FLOTILLA_LOG"] {
        assert!(help.contains(step), "{help}");
    }
    for command in ["dev", "server", "status"] {
        let help = stdout(&flotilla(&[command, "--help"]));
        assert!(help.contains("Examples:") && help.contains("Exit codes:"), "{help}");
    }
}

/// The printed sample is a configuration that the same binary takes, as far as it goes without starting.
#[test]
fn sample_is_taken_back() {
    let sample = stdout(&flotilla(&["server", "--sample-config"]));
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    // The one wrong thing in it, found last, shows that everything before was taken.
    std::fs::write(file.path(), sample.replace("node = 1", "node = 0")).expect("written");
    let refused = flotilla(&["server", "--config", file.path().to_str().expect("an ASCII path")]);
    let stderr = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("node must be at least 1"), "{stderr}");
}

/// A log that nobody reads any more changes nothing: the exit code still tells.
#[test]
fn closed_stderr_is_survived() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("a bound address").to_string();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let status = Command::new(env!("CARGO_BIN_EXE_flotilla"))
        .args(["server", "--peer-listen", &address, "--http-listen", &address, "--data"])
        .arg(data.path())
        // The log says that this is no setting, before the node finds its port taken.
        .env("FLOTILLA_COLOUR", "red")
        .stderr(writer)
        .status()
        .expect("the binary can be started");
    assert_eq!(status.code(), Some(1));
}
