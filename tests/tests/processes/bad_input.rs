//! What the operator can say wrongly: each ends at once with the right exit code and a message that says what to do,
//! and leaves nothing behind.

use std::net::TcpListener;
use std::path::Path;
use tests::{Cluster, Node, Ports, Run, Shape, run};

/// Runs a server that cannot start. What it says goes to stderr.
async fn server(args: &[&str]) -> Run {
    run(std::iter::once("server").chain(args.iter().copied())).await
}

fn config(directory: &Path, text: &str) -> String {
    let path = directory.join("node.toml");
    std::fs::write(&path, text).expect("the test's directory can be written");
    path.to_str().expect("an ASCII path").to_owned()
}

#[track_caller]
fn assert_refused(run: &Run, code: i32, reasons: &[&str]) {
    assert_eq!(run.code(), Some(code), "{}", run.stderr);
    for reason in reasons {
        assert!(run.stderr.contains(reason), "should say \"{reason}\": {}", run.stderr);
    }
    assert!(!run.stderr.contains("panicked"), "{}", run.stderr);
    assert!(run.stdout.is_empty(), "complaints belong on stderr");
}

/// A wrong command line exits with 2 and names what is wrong.
#[tokio::test]
async fn wrong_command_lines() {
    for (args, reason) in [
        (&["sever"][..], "sever"),
        (&["server", "--confg", "x"], "--confg"),
        (&["dev", "--nodes", "0"], "1..=9"),
        (&["dev", "--nodes", "many"], "--nodes"),
        (&["dev", "--port", "65500"], "--port"),
        (&["status", "--nodes", "nowhere"], "host:port"),
        (&["--log", "raftstore=loud", "status"], "log filter"),
        (&["kv", "get"], "<KEY>"),
    ] {
        assert_refused(&run(args).await, 2, &[reason]);
    }
}

/// A wrong configuration exits with 2, names the place, and touches no disk.
#[tokio::test]
async fn wrong_configurations() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    let data_flag = data.to_str().expect("an ASCII path");
    assert_refused(
        &server(&["--config", "/nonexistent/node.toml"]).await,
        2,
        &["/nonexistent/node.toml", "No such file"],
    );
    for (text, reasons) in [
        ("[raft]\nheartbeat_interval = 1", &["node.toml:2", "did you mean raft.heartbeat_interval_ms?"][..]),
        ("node = 'one'", &["node.toml:1"]),
        ("node = ", &["node.toml:1"]),
        ("node = 0", &["node must be at least 1"]),
        ("http_listen = '0.0.0.0:7101'", &["http_listen", "insecure = true"]),
        ("[members]\n7 = { peer = 'a:1', http = 'a:2' }", &["members must name this node too"]),
        ("[limits]\nvalue_bytes_max = 1_000_000_000", &["limits.batch_bytes_max"]),
    ] {
        let file = config(directory.path(), text);
        assert_refused(&server(&["--config", &file, "--data", data_flag]).await, 2, reasons);
    }
    let refused = server(&["--set", "raft.heartbeat_interval_ms=fast", "--data", data_flag]).await;
    assert_refused(&refused, 2, &["raft.heartbeat_interval_ms must be a whole number"]);
    assert!(!data.exists(), "a refused configuration leaves the disk alone");
}

/// A port that is taken is named once, with what to do, exits with 1, and leaves nothing on the disk.
#[tokio::test]
async fn taken_ports() {
    let ports = Ports::take(2);
    for taken in 0..2 {
        let directory = tempfile::tempdir().expect("a directory");
        let _listener = TcpListener::bind(ports.address(taken)).expect("a free port");
        let data = directory.path().join("data");
        let (peer, http) = (ports.address(0), ports.address(1));
        let args = ["--peer-listen", &peer, "--http-listen", &http, "--data", data.to_str().expect("ASCII")];
        let refused = server(&args).await;
        assert_refused(&refused, 1, &["choose another address"]);
        assert_eq!(refused.stderr.matches(&ports.address(taken)).count(), 1, "{}", refused.stderr);
        assert!(!data.exists(), "nothing was made");
    }
}

/// A dev cluster that finds one of its ports taken names it and leaves neither a listener nor a file behind; a kept
/// directory can then be used with other ports.
#[tokio::test]
async fn dev_with_a_taken_port() {
    let ports = Ports::take(5);
    let base = ports.port(0);
    let _listener = TcpListener::bind(ports.address(3)).expect("a free port");
    let scratch = tempfile::tempdir().expect("a directory");
    let data = scratch.path().join("data");
    let refused = run(["dev", "--port", &base.to_string(), "--data", data.to_str().expect("ASCII")]).await;
    assert_refused(&refused, 1, &[&ports.address(3), "--port", "n3"]);
    for free in [1, 2] {
        TcpListener::bind(ports.address(free)).expect("nobody listens on the other ports");
    }
    assert!(!data.exists(), "nothing was made");
}

/// A data directory is refused to another node and to another cluster, by name, and still serves its own.
#[tokio::test(flavor = "multi_thread")]
async fn somebody_elses_data() {
    let mut cluster = Cluster::start(Shape { nodes: 1, ..Shape::default() }).await;
    let data = cluster.directory().join("n1");
    assert!(cluster.node(1).stop().await.success(), "{}", cluster.node(1).log_end());
    let ports = Ports::take(2);
    let (peer, http) = (ports.address(0), ports.address(1));
    let listen = ["--peer-listen", &peer, "--http-listen", &http, "--data", data.to_str().expect("ASCII")];
    let other_node = [&listen[..], &["--node", "2"]].concat();
    assert_refused(
        &server(&other_node).await,
        1,
        &[r#"data directory belongs to n1 of cluster "flotilla", not to n2 of cluster "flotilla""#],
    );
    let other_cluster = [&listen[..], &["--set", "cluster=elsewhere"]].concat();
    assert_refused(
        &server(&other_cluster).await,
        1,
        &[r#"data directory belongs to n1 of cluster "flotilla", not to n1 of cluster "elsewhere""#],
    );
    cluster.start_all().await;
}

/// A data directory in use is refused to a second process, and the first goes on.
#[tokio::test(flavor = "multi_thread")]
async fn data_in_use() {
    let mut cluster = Cluster::start(Shape { nodes: 1, ..Shape::default() }).await;
    let data = cluster.directory().join("n1");
    let ports = Ports::take(2);
    let (peer, http) = (ports.address(0), ports.address(1));
    let args = ["--peer-listen", &peer, "--http-listen", &http, "--data", data.to_str().expect("ASCII")];
    assert_refused(&server(&args).await, 1, &[data.to_str().expect("ASCII")]);
    cluster.node(1).ready().await;
}

/// SIGTERM ends a node with 0 and leaves its log closed: the next start is ready again.
#[tokio::test(flavor = "multi_thread")]
async fn graceful_stop() {
    let mut cluster = Cluster::start(Shape { nodes: 1, ..Shape::default() }).await;
    for _ in 0..2 {
        let status = cluster.node(1).stop().await;
        assert_eq!(status.code(), Some(0), "{}", cluster.node(1).log_end());
        cluster.start_all().await;
    }
    let nodes: &[Node] = cluster.nodes();
    assert!(nodes[0].log().contains("node is ready"), "{}", nodes[0].log());
}
