//! What `kv import` and `kv export` do when their surroundings fail them: closed pipes, input that never ends, signals.
//! Against one real node, started for the file's tests together.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_flotilla");

/// How many nodes this process has started.
static NODES: AtomicU8 = AtomicU8::new(0);

/// A cluster of one; killed when dropped.
struct Node {
    address: String,
    process: Child,
    folder: TempDir,
}

impl Node {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        // A loopback address of its own: a free port of a shared one may be gone before the node listens on it.
        let (process, node) = (std::process::id(), NODES.fetch_add(1, Ordering::Relaxed));
        let host = format!("127.{}.{}.{}", 1 + process % 250, 1 + process / 250 % 250, 1 + node);
        let (address, peer) = (format!("{host}:7101"), format!("{host}:7201"));
        let mut process = Command::new(BINARY)
            .args(["server", "--http-listen", &address, "--peer-listen", &peer, "--data"])
            .arg(folder.path().join("data"))
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary can be started");
        let mut log = BufReader::new(process.stderr.take().expect("stderr is piped")).lines();
        let ready = log.find(|line| line.as_ref().is_ok_and(|line| line.contains("node is ready")));
        ready.expect("the node becomes ready").expect("the log is text");
        Self { address, process, folder }
    }

    /// `flotilla kv`, for this node, ended after a while that only a hang can take.
    fn kv(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.args(["30", BINARY, "kv", "--nodes", &self.address]).args(arguments);
        command.current_dir(self.folder.path());
        command
    }

    /// The body of `/v1/cluster`.
    fn cluster(&self) -> String {
        let mut stream = TcpStream::connect(&self.address).expect("the node listens");
        let request = "GET /v1/cluster HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).expect("the node reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("the node answers text");
        answer.split_once("\r\n\r\n").expect("the answer has a body").1.to_owned()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.process.kill().expect("the node can be killed");
        self.process.wait().expect("the node ends");
    }
}

/// The pipe's end for a process whose reader has gone away.
fn closed_pipe() -> Stdio {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    writer.into()
}

fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let output = command.output().expect("the command can be started");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// A closed stdout hides the summary of an import, never its failure; a clean import stays a success.
#[test]
fn closed_stdout_hides_no_failure() {
    let node = Node::start();
    fs::write(node.folder.path().join("bad"), "a\t1\nno tab\n").expect("written");
    fs::write(node.folder.path().join("good"), "a\t1\n").expect("written");
    for (file, expected) in [("bad", 1), ("good", 0)] {
        let mut import = node.kv(&["import", "--format", "tsv", file]);
        let status = import.stdout(closed_pipe()).stderr(Stdio::null()).status().expect("started");
        assert_eq!(status.code(), Some(expected), "{file}");
    }
}

/// An import that gave up does not wait for the rest of its input.
#[test]
fn given_up_import_awaits_no_input() {
    let node = Node::start();
    let mut import = node.kv(&["import", "--format", "tsv", "-"]);
    import.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut import = import.spawn().expect("started");
    let mut input = import.stdin.take().expect("stdin is piped");
    input.write_all("no tab\n".repeat(100).as_bytes()).expect("the import reads");
    // Waiting for the output would close the input; it stays open here.
    let mut stderr = String::new();
    import.stderr.take().expect("stderr is piped").read_to_string(&mut stderr).expect("text");
    assert_eq!(import.wait().expect("it ends").code(), Some(1), "{stderr}");
    assert!(stderr.contains("100 failed, the rest was not tried"), "{stderr}");
    drop(input);
}

/// Lines come back through stdout, without the empty ones, of equal ones the last, and each with a line break.
#[test]
fn lines_go_in_and_out() {
    let node = Node::start();
    fs::write(node.folder.path().join("lines"), "b\n\na\nb\nc").expect("written");
    let (code, stdout, stderr) = run(&mut node.kv(&["import", "--format", "lines", "lines"]));
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(stdout, "4 lines confirmed: 3 keys created, 1 replaced, 1 empty lines skipped\n");
    let (code, stdout, stderr) = run(&mut node.kv(&["export", "--format", "lines", "-"]));
    assert_eq!((code, &*stdout, &*stderr), (Some(0), "a\nb\nc\n", ""));
    let (code, _, stderr) = run(&mut node.kv(&["export", "--format", "lines", "/dev/stderr"]));
    assert_eq!(code, Some(2), "a pipe is no target: {stderr}");
}

/// A file whose format nobody gave is taken for what its ending says; where its lines are something else, the failure
/// says what they were taken for, why, and what else there is.
#[test]
fn formats_are_told_by_endings() {
    let node = Node::start();
    fs::write(node.folder.path().join("keys.tsv"), "a\t1\n").expect("written");
    fs::write(node.folder.path().join("words.txt"), "hello\n").expect("written");
    let (code, _, stderr) = run(&mut node.kv(&["import", "keys.tsv"]));
    assert_eq!((code, &*stderr), (Some(0), ""));
    let (code, _, stderr) = run(&mut node.kv(&["import", "words.txt"]));
    assert_eq!(code, Some(1), "{stderr}");
    for part in ["line 1: ", "no --format was given", "taken for jsonl", "formats are lines, tsv and jsonl"] {
        assert!(stderr.contains(part), "should say \"{part}\": {stderr}");
    }
    let (code, _, stderr) = run(&mut node.kv(&["import", "--format", "jsonl", "words.txt"]));
    assert!(code == Some(1) && !stderr.contains("no --format was given"), "{stderr}");
}

/// Ctrl-C during an export leaves the earlier file and nothing beside it, and says so.
#[test]
fn interrupted_export_leaves_nothing() {
    let node = Node::start();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("a bound address").to_string();
    let cluster = node.cluster().replace(&node.address, &address);
    let folder = tempfile::tempdir().expect("a temporary directory");
    let place = folder.path().join("exported");
    fs::write(&place, "earlier").expect("written");
    let export = Command::new(BINARY)
        .args(["kv", "--nodes", &address, "--timeout", "10s", "export"])
        .arg(&place)
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary can be started");
    let unanswered = answer_only_cluster(&listener, &cluster);
    assert_eq!(files(folder.path()), 2, "the export has begun");
    let kill = Command::new("kill").args(["-INT", &export.id().to_string()]).status();
    assert!(kill.expect("kill can be started").success());
    let output = export.wait_with_output().expect("the export ends");
    drop(unanswered);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("nothing was written"), "{stderr}");
    assert_eq!(files(folder.path()), 1);
    assert_eq!(fs::read(&place).expect("still there"), b"earlier");
}

/// A node that describes the cluster and then answers nothing: ends with the first request for anything else.
fn answer_only_cluster(listener: &TcpListener, cluster: &str) -> TcpStream {
    loop {
        let (mut stream, _) = listener.accept().expect("the export connects");
        let mut line = String::new();
        let mut head = BufReader::new(stream.try_clone().expect("a second handle"));
        head.read_line(&mut line).expect("the export asks");
        if !line.starts_with("GET /v1/cluster ") {
            return stream;
        }
        for line in head.lines() {
            if line.expect("the head goes on").is_empty() {
                break;
            }
        }
        let length = cluster.len();
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all((head + cluster).as_bytes()).expect("the export reads");
    }
}

fn files(folder: &Path) -> usize {
    fs::read_dir(folder).expect("the folder can be listed").count()
}
