//! One process of the binary: started, asked, killed, stopped, started again.

use crate::{binary, eventually, http};
use serde_json::Value;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

/// How much of a log is shown when a test fails.
const LOG_LINES_SHOWN: usize = 40;

/// A command that has ended.
#[derive(Debug)]
pub struct Run {
    /// How it ended.
    pub status: ExitStatus,
    /// What it said.
    pub stdout: Vec<u8>,
    /// What it complained of.
    pub stderr: String,
}

impl Run {
    /// The exit code; `None` where a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }
}

/// Runs `flotilla` with `args` to its end.
///
/// # Panics
/// If it cannot be started, or does not end within [`PATIENCE`](crate::PATIENCE); it is killed then.
pub async fn run<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Run {
    let mut command = tokio::process::Command::from(command(binary()));
    let command = command.args(args).stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(crate::PATIENCE, command).await;
    let output = output.expect("the command ends in time").expect("the binary can be started");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    Run { status: output.status, stdout: output.stdout, stderr }
}

/// The binary, or another program, with nothing of the surrounding environment that could change what it
/// does.
fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("FLOTILLA_") {
            command.env_remove(name);
        }
    }
    command
}

/// A `flotilla server`, running or not. Dropping it kills the process and waits until it is gone.
#[derive(Debug)]
pub struct Node {
    id: u64,
    args: Vec<String>,
    http: String,
    log: PathBuf,
    program: Program,
    child: Option<Child>,
}

/// What is run as a node.
#[derive(Clone, Debug, Default)]
pub struct Program {
    /// Where it is; `None` for [`binary`].
    pub path: Option<PathBuf>,
    /// Variables of its environment.
    pub environment: Vec<(String, String)>,
}

impl Node {
    /// A node that is not started yet. `args` follow `flotilla server`; the log is added to `log`.
    pub fn new(id: u64, args: Vec<String>, http: String, log: PathBuf) -> Self {
        Self { id, args, http, log, program: Program::default(), child: None }
    }

    /// The same node, as another program.
    #[must_use]
    pub fn run_by(mut self, program: Program) -> Self {
        self.program = program;
        self
    }

    /// Its id.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Where it answers HTTP, `host:port`.
    pub fn http(&self) -> &str {
        &self.http
    }

    /// Whether it was started and not ended since by us.
    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Starts the process; does not wait for it to answer.
    ///
    /// # Panics
    /// If it runs already or cannot be started.
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "n{} runs already", self.id);
        let log = open_log(&self.log);
        let started = command(self.program.path.as_deref().unwrap_or_else(|| binary()))
            .arg("server")
            .args(&self.args)
            .envs(self.program.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.child = Some(started.expect("the binary can be started"));
    }

    /// SIGKILL, and waits until the process is gone: as a power failure, except that the system's cache survives.
    ///
    /// # Panics
    /// If it does not run.
    pub async fn kill(&mut self) {
        self.begin_kill();
        self.ended().await;
    }

    /// Sends SIGKILL; [`ended`](Self::ended) waits for the end.
    ///
    /// # Panics
    /// If it does not run.
    pub fn begin_kill(&mut self) {
        let child = self.child.as_mut().expect("only a running node can be killed");
        child.kill().expect("a child of ours can be killed");
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Panics
    /// If it does not run, or takes longer than [`PATIENCE`](crate::PATIENCE).
    pub async fn stop(&mut self) -> ExitStatus {
        let child = self.child.as_ref().expect("only a running node can be stopped");
        // It has not been waited for, so its number cannot be another's.
        let sent = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
        assert!(sent.expect("kill can be started").success(), "SIGTERM could not be sent to n{}", self.id);
        self.ended().await
    }

    /// Waits until the process ends by itself.
    ///
    /// # Panics
    /// If it does not run, or takes longer than [`PATIENCE`](crate::PATIENCE).
    pub async fn ended(&mut self) -> ExitStatus {
        let child = self.child.as_mut().expect("only a running node can end");
        let status = eventually(&format!("n{} has ended", self.id), || {
            std::future::ready(child.try_wait().expect("a child of ours can be waited for"))
        })
        .await;
        self.child = None;
        status
    }

    /// What `GET path` answers as JSON with status 200; `None` for anything else.
    pub async fn get_json(&self, path: &str) -> Option<Value> {
        let response = http().get(format!("http://{}{path}", self.http)).send().await.ok()?;
        match response.status().as_u16() {
            200 => serde_json::from_slice(&response.bytes().await.ok()?).ok(),
            _ => None,
        }
    }

    /// Waits until it answers that it is ready.
    ///
    /// # Panics
    /// If it is not ready in time, or its process ended meanwhile.
    pub async fn ready(&mut self) {
        let url = format!("http://{}/readyz", self.http);
        let (id, child, log) = (self.id, &mut self.child, &self.log);
        eventually(&format!("n{id} is ready"), || {
            let ended = child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            assert!(ended.is_none(), "n{id} ended with {ended:?} while it was waited for:\n{}", log_end(log));
            let look = http().get(&url).send();
            async { look.await.ok().filter(|response| response.status().is_success()).map(drop) }
        })
        .await;
    }

    /// The whole log since the node was made.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The log's last lines.
    pub fn log_end(&self) -> String {
        log_end(&self.log)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Gone before its directory is removed.
            child.kill().and_then(|()| child.wait()).expect("a child of ours can be killed and waited for");
        }
    }
}

fn open_log(path: &Path) -> File {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .expect("the log lies in a directory of the test's own")
}

fn log_end(path: &Path) -> String {
    let log = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
}
