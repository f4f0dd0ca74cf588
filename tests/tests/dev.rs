//! The first thing that anybody runs: a cluster in one process.

use std::path::Path;
use std::process::Stdio;
use tests::{PATIENCE, Ports, binary, http, run};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// Starts `flotilla dev` with its temporary files in `scratch` and waits for its line.
async fn start(base: u16, scratch: &Path, more: &[&str]) -> (Child, String) {
    let mut child = Command::new(binary())
        .args(["dev", "--port", &base.to_string()])
        .args(more)
        .env("TMPDIR", scratch)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("the binary can be started");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout is a pipe")).lines();
    let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("the cluster is ready in time");
    (child, line.expect("stdout can be read").expect("a line before the end"))
}

async fn signal(child: &Child, name: &str) {
    let id = child.id().expect("a running child has a number").to_string();
    let sent = Command::new("kill").args([name, &id]).status().await.expect("kill can be started");
    assert!(sent.success());
}

async fn exit_code(mut child: Child) -> Option<i32> {
    tokio::time::timeout(PATIENCE, child.wait())
        .await
        .expect("it ends in time")
        .expect("it can be waited for")
        .code()
}

/// One line says that all nodes answer; a key put through one is read through another; the status shows a leader; and
/// SIGINT, like SIGTERM, ends it with 0 and leaves no file behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_in_one_process() {
    for name in ["-INT", "-TERM"] {
        let ports = Ports::take(110);
        let scratch = tempfile::tempdir().expect("a directory");
        let (child, line) = start(ports.port(0), scratch.path(), &[]).await;
        let urls: Vec<String> = (1..=3).map(|node| format!("http://{}", ports.address(node))).collect();
        assert!(urls.iter().all(|url| line.contains(url)), "{line}");
        let put =
            http().put(format!("{}/v1/kv/greeting", urls[0])).body("hello").send().await.expect("answered");
        assert_eq!(put.status(), 201);
        let got = http().get(format!("{}/v1/kv/greeting", urls[2])).send().await.expect("answered");
        assert_eq!(got.bytes().await.expect("a body"), "hello");
        let status = run(["status", "--nodes", &ports.address(2)]).await;
        assert_eq!(status.code(), Some(0), "{}", status.stderr);
        let text = String::from_utf8_lossy(&status.stdout);
        assert!((1..=3).all(|node| text.contains(&ports.address(node))) && !text.contains("NONE"), "{text}");
        signal(&child, name).await;
        assert_eq!(exit_code(child).await, Some(0));
        let left: Vec<_> = std::fs::read_dir(scratch.path()).expect("readable").collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

/// A kept directory goes on where it stopped.
#[tokio::test(flavor = "multi_thread")]
async fn kept_data_goes_on() {
    let ports = Ports::take(110);
    let scratch = tempfile::tempdir().expect("a directory");
    let data = scratch.path().join("kept");
    let data = data.to_str().expect("an ASCII path");
    let url = format!("http://{}/v1/kv/greeting", ports.address(1));
    let (child, line) = start(ports.port(0), scratch.path(), &["--data", data]).await;
    assert!(line.contains(data) && line.contains("kept"), "{line}");
    assert_eq!(http().put(&url).body("hello").send().await.expect("answered").status(), 201);
    signal(&child, "-TERM").await;
    assert_eq!(exit_code(child).await, Some(0));
    let (child, _) = start(ports.port(0), scratch.path(), &["--data", data]).await;
    assert_eq!(http().get(&url).send().await.expect("answered").bytes().await.expect("a body"), "hello");
    signal(&child, "-TERM").await;
    assert_eq!(exit_code(child).await, Some(0));
    let other = run(["dev", "--data", data, "--port", &ports.port(0).to_string(), "--nodes", "1"]).await;
    assert_eq!(other.code(), Some(2), "{}", other.stderr);
}

/// The status of a cluster of which nobody answers exits with 1 and says who was asked.
#[tokio::test]
async fn status_of_nobody() {
    let ports = Ports::take(1);
    let status = run(["status", "--nodes", &ports.address(0)]).await;
    assert_eq!(status.code(), Some(1));
    assert!(status.stderr.contains(&ports.address(0)), "{}", status.stderr);
}
