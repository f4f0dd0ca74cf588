//! One node's processes, one life after another: started, signalled, waited for. Dropping it kills the one
//! that runs and waits until it is gone; no other process is ever touched.

use crate::command;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How often it is looked whether a process has ended.
const PACE: Duration = Duration::from_millis(10);

/// How much of a log is shown beside a finding.
const LOG_LINES_SHOWN: usize = 12;

/// Which process is which node, for whoever sees processes only.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pids(Arc<Mutex<BTreeMap<u64, u32>>>);

impl Pids {
    fn set(&self, node: u64, pid: Option<u32>) {
        let mut pids = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match pid {
            Some(pid) => pids.insert(node, pid),
            None => pids.remove(&node),
        };
    }

    /// The nodes that have a process, with it.
    pub(crate) fn all(&self) -> Vec<(u64, u32)> {
        let pids = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pids.iter().map(|(node, pid)| (*node, *pid)).collect()
    }
}

/// What is started.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    /// The words in front of the program: they become the program, under the same process id.
    pub(crate) wrapper: Vec<String>,
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
    /// Of the program alone, not of its wrapper: a library that is preloaded would count itself there twice.
    pub(crate) environment: Vec<(String, String)>,
}

/// A node's processes.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) node: u64,
    pub(crate) launch: Launch,
    log: PathBuf,
    child: Option<Child>,
    pids: Pids,
}

impl Process {
    /// None runs yet; all write to `log`.
    pub(crate) fn new(node: u64, launch: Launch, log: PathBuf, pids: Pids) -> Self {
        Self { node, launch, log, child: None, pids }
    }

    /// Whether one was started whose end we have not seen.
    pub(crate) fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Starts one; does not wait until it answers.
    pub(crate) fn start(&mut self) -> Result<()> {
        if self.is_running() {
            bail!("n{} runs already", self.node);
        }
        let Launch { wrapper, program, arguments, environment } = &self.launch;
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let assignments = environment.iter().map(|(name, value)| format!("{name}={value}"));
        let mut words: Vec<String> = wrapper.iter().cloned().chain(["env".to_owned()]).collect();
        words.extend(assignments);
        words.push(program.display().to_string());
        words.extend(arguments.iter().cloned());
        let mut command = Command::new(&words[0]);
        for (name, _) in
            std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("FLOTILLA_"))
        {
            command.env_remove(name);
        }
        let child = command
            .args(&words[1..])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("{} cannot be started", words[0]))?;
        self.pids.set(self.node, Some(child.id()));
        self.child = Some(child);
        Ok(())
    }

    /// Sends a signal by its name.
    pub(crate) fn signal(&self, name: &str) -> Result<()> {
        let child = self.child.as_ref().with_context(|| format!("n{} does not run", self.node))?;
        // It has not been waited for, so that its number cannot be another's.
        command::run(&["kill", &format!("-{name}"), &child.id().to_string()]).map(drop)
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        let Some(child) = self.child.as_mut() else { return Ok(None) };
        let ended = child.try_wait().context("a child of ours can be waited for")?;
        if ended.is_some() {
            self.pids.set(self.node, None);
            self.child = None;
        }
        Ok(ended)
    }

    /// Waits until it has ended; `None` where it takes longer.
    pub(crate) async fn wait(&mut self, patience: Duration) -> Result<Option<ExitStatus>> {
        let until = Instant::now() + patience;
        while self.is_running() {
            if let Some(status) = self.ended()? {
                return Ok(Some(status));
            }
            if Instant::now() >= until {
                break;
            }
            tokio::time::sleep(PACE).await;
        }
        Ok(None)
    }

    /// SIGKILL, without waiting.
    pub(crate) fn begin_kill(&mut self) -> Result<()> {
        match self.child.as_mut() {
            Some(child) => child.kill().with_context(|| format!("n{} cannot be killed", self.node)),
            None => Ok(()),
        }
    }

    /// The log's last lines.
    pub(crate) fn log_end(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Gone before its disk and its network are.
            child.kill().and_then(|()| child.wait()).expect("a child of ours can be killed and waited for");
        }
    }
}
