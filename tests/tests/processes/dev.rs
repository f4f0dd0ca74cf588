//! The first thing that anybody runs: a cluster in one process.

use serde_json::Value;
use std::fs::File;
use std::path::Path;
use std::process::Stdio;
use tests::{PATIENCE, Ports, binary, http, run};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// Where a cluster's log goes, in its directory.
const LOG: &str = "log";

/// Starts `flotilla dev` with its temporary files and its log in `scratch` and waits for its line.
async fn start(base: u16, scratch: &Path, more: &[&str]) -> (Child, String) {
    let mut child = Command::new(binary())
        .args(["dev", "--port", &base.to_string()])
        .args(more)
        .env("TMPDIR", scratch)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(File::create(scratch.join(LOG)).expect("the test's directory can be written"))
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
/// SIGINT, like SIGTERM, ends it with 0 and leaves no file behind. Nothing in its log sounds as if something were wrong.
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
        assert!(
            (1..=3).all(|node| text.contains(&ports.address(node))) && !text.contains("NO LEADER"),
            "{text}"
        );
        signal(&child, name).await;
        assert_eq!(exit_code(child).await, Some(0));
        let log = std::fs::read_to_string(scratch.path().join(LOG)).expect("readable");
        assert!(log.contains("node is ready") && log.contains("nodes stop"), "{log}");
        // That its disk has become slow, a node says of the machine.
        let alarming = |line: &&str| {
            !line.contains("disk is slow")
                && ["WARN", "ERROR", "error"].iter().any(|word| line.contains(word))
        };
        assert_eq!(log.lines().find(alarming), None);
        let left = std::fs::read_dir(scratch.path()).expect("readable").map(|left| left.expect("readable"));
        let left: Vec<_> = left.map(|left| left.file_name()).filter(|name| name != LOG).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

/// A node that is a quorum by itself has nobody to hand its leaderships to, and stops without a word on that.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_alone_stops_in_silence() {
    let ports = Ports::take(110);
    let scratch = tempfile::tempdir().expect("a directory");
    let (child, _) = start(ports.port(0), scratch.path(), &["--nodes", "1"]).await;
    signal(&child, "-TERM").await;
    assert_eq!(exit_code(child).await, Some(0));
    let log = std::fs::read_to_string(scratch.path().join(LOG)).expect("readable");
    assert!(log.contains("nodes stop") && !log.contains("not handed over"), "{log}");
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

/// The examples of the HTTP API's page work word for word, in their order, on a fresh cluster, and are answered what
/// the page prints.
#[tokio::test(flavor = "multi_thread")]
async fn the_http_page_is_true() {
    const PAGE: &str = include_str!("../../../docs/reference/http-api.md");
    let ports = Ports::take(110);
    let scratch = tempfile::tempdir().expect("a directory");
    let (child, _) = start(ports.port(0), scratch.path(), &[]).await;
    let mut script =
        "set -e\ncurl() { command curl --silent --show-error --fail --noproxy '*' \"$@\"; }\n".to_owned();
    let mut printed = Vec::new();
    for section in PAGE.split("```sh\n").skip(1) {
        let (commands, rest) = section.split_once("```\n").expect("a block that ends");
        script.push_str(&commands.replace("127.0.0.1:7101", &ports.address(1)));
        script.push_str("printf '\\036'\n");
        let answer = rest.strip_prefix("```json\n").and_then(|rest| rest.split_once("```\n"));
        printed.push(answer.map(|(json, _)| json));
    }
    let bash =
        Command::new("bash").args(["-c", &script]).current_dir(scratch.path()).kill_on_drop(true).output();
    let ran =
        tokio::time::timeout(PATIENCE, bash).await.expect("it ends in time").expect("bash can be started");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let answered = String::from_utf8(ran.stdout).expect("the examples print text");
    let json =
        |text: &str| serde_json::from_str::<Value>(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    for (printed, answered) in printed.iter().zip(answered.split('\u{1e}')) {
        if let Some(printed) = printed {
            assert_eq!(json(printed), json(answered));
        }
    }
    assert!(printed.iter().flatten().count() >= 2, "the page has answers");
    signal(&child, "-TERM").await;
    assert_eq!(exit_code(child).await, Some(0));
}
