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
    for command in [
        &["kv"][..],
        &["kv", "get"],
        &["kv", "import"],
        &["shard"],
        &["shard", "wait"],
        &["group", "add"],
        &["node", "dead-after"],
        &["bench"],
        &["bench", "load"],
        &["bench", "move"],
        &["bench", "peers"],
        &["bench", "growth"],
    ] {
        let help = stdout(&flotilla(&[command, &["--help"]].concat()));
        assert!(help.contains("Exit codes:"), "{help}");
    }
}

/// Where every address refuses the connection, each command ends at once with 1 and says so in one line, with the
/// addresses and the cause, however much time it was given.
#[test]
fn nobody_listens() {
    let closed = [0, 1].map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    let closed = closed.map(|listener| listener.local_addr().expect("a bound address").to_string());
    let nodes = closed.join(",");
    for command in [
        &["kv", "get", "k", "--timeout", "5m"][..],
        &["kv", "put", "k", "v", "--timeout", "5m"],
        &["status", "--timeout", "1m"],
        &["shard", "map", "--timeout", "1m"],
        &["group", "add", "--timeout", "1m"],
        &["node", "list", "--timeout", "1m"],
        &["bench", "load"],
    ] {
        let refused = flotilla(&[command, &["--nodes", &nodes]].concat());
        let stderr = String::from_utf8_lossy(&refused.stderr);
        assert_eq!((refused.status.code(), refused.stdout.len()), (Some(1), 0), "{command:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{command:?}: {stderr}");
        for part in [&closed[0], &closed[1], "Connection refused", "FLOTILLA_NODES"] {
            assert!(stderr.contains(part), "{command:?} should say \"{part}\": {stderr}");
        }
    }
}

/// Who is waited for is said while it is waited for, not only at the end.
#[test]
fn silent_nodes_are_named() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let node = silent.local_addr().expect("a bound address").to_string();
    for (command, notice) in [
        (&["kv", "get", "k", "--timeout", "4s"][..], "no node has answered yet, goes on asking for"),
        (&["node", "list", "--timeout", "1s"], "has not answered yet, is waited for up to 1 s"),
    ] {
        let ended = flotilla(&[command, &["--nodes", &node]].concat());
        let stderr = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(1), "{command:?}: {stderr}");
        let said = stderr.lines().next().is_some_and(|line| line.contains(notice) && line.contains(&node));
        assert!(said && stderr.lines().count() == 2, "{command:?}: {stderr}");
    }
}

/// A node that joins says whom it asks, and while nobody answers at once why, then now and then, until it gives
/// up.
#[test]
fn silent_seeds_are_named() {
    let closed = [0, 1, 2, 3].map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    let [one, other, peer, http] =
        closed.map(|listener| listener.local_addr().expect("a bound address").to_string());
    let data = tempfile::tempdir().expect("a temporary directory");
    let path = data.path().to_str().expect("an ASCII path");
    let listen = ["--peer-listen", &peer, "--http-listen", &http];
    let seeds = format!("{one},{other}");
    let joins = [&["server", "--node", "4", "--data", path, "--join", &seeds][..], &listen].concat();
    let ended = flotilla(&joins);
    let stderr = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{stderr}");
    let lines: Vec<&str> = stderr.lines().collect();
    let [asks, waits @ .., gives_up] = &lines[..] else { panic!("it says too little: {stderr}") };
    assert!(asks.contains("node asks for the map") && asks.contains(&format!("{one}, {other}")), "{stderr}");
    let notices: Vec<_> = waits.iter().filter(|line| line.contains("no seed has answered yet")).collect();
    assert!((1..=4).contains(&notices.len()) && waits.len() <= 6, "{stderr}");
    let causes = [&one, &other].map(|seed| format!("{seed}: Connection refused (os error 111)"));
    let names = |line: &str| causes.iter().all(|cause| line.contains(cause));
    let waits = |line: &str| line.contains("goes on asking for") && names(line);
    assert!(notices.iter().all(|line| waits(line)), "{stderr}");
    assert!(
        gives_up.starts_with("flotilla: n4 cannot join: no seed has answered: ") && names(gives_up),
        "{stderr}"
    );
}

/// What no cluster would take is the command line's fault, told without asking any node, in the words of the command.
#[test]
fn senseless_values_are_refused() {
    for (command, reason) in [
        (&["node", "dead-after", "1s"][..], "must be at least 5 s"),
        (&["kv", "put", "", "v"], "<KEY>"),
        (&["kv", "get", "k", "--timeout", "6m"], "--timeout"),
        (&["shard", "map", "--timeout", "fast"], "expected a number with ms, s or m"),
    ] {
        let refused = flotilla(command);
        let stderr = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{command:?}: {stderr}");
        assert!(stderr.contains(reason) && !stderr.contains("dead_after_ms"), "{command:?}: {stderr}");
    }
}

/// A directory that holds something else is not taken for a cluster's.
#[test]
fn dev_takes_no_strangers_directory() {
    let data = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(data.path().join("letters.txt"), "x").expect("written");
    let path = data.path().to_str().expect("an ASCII path");
    // Ports are looked at first, and others may take one at any time.
    for _ in 0..20 {
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound").port();
        let port = free.min(65_000).to_string();
        let refused = flotilla(&["dev", "--nodes", "1", "--port", &port, "--data", path]);
        let stderr = String::from_utf8_lossy(&refused.stderr);
        if stderr.contains("Address already in use") {
            continue;
        }
        assert_eq!(refused.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains("was not made by flotilla dev"), "{stderr}");
        return;
    }
    panic!("no two free ports in a row in 20 attempts");
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
