//! Processes that a measurement starts and that end with it: at its end, after an error, and after a signal.
//!
//! Each is in a process group of its own, so that a Ctrl-C in the terminal reaches this process alone, which ends them
//! in its own time. Only SIGKILL to this process leaves them behind.

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// How long servers may take to stop when told to, and then to be gone when killed.
const STOP_TIME: Duration = Duration::from_secs(10);
const KILL_TIME: Duration = Duration::from_secs(10);

/// How long servers that hold nothing yet may take until they answer.
pub(crate) const START_TIME: Duration = Duration::from_secs(60);

/// How long one look at whether they answer may take, and the time between two.
const LOOK_TIME: Duration = Duration::from_secs(5);
const LOOK_PACE: Duration = Duration::from_millis(50);

/// How much of a server's log is shown when it ended.
const LOG_LINES: usize = 5;

/// What is to be started.
#[derive(Debug)]
pub(crate) struct Program<'a> {
    /// The server's name in messages, and its log's.
    pub(crate) name: String,
    pub(crate) path: &'a Path,
    pub(crate) arguments: Vec<OsString>,
    /// What to do where there is no such program.
    pub(crate) advice: &'a str,
}

#[derive(Debug)]
struct Server {
    name: String,
    child: Child,
    log: PathBuf,
}

/// How work with servers came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// All was measured.
    Measured,
    /// This signal came first.
    Stopped(&'static str),
}

/// The processes that were started so far. [`within`](Self::within) ends them; dropping kills them.
#[derive(Debug)]
pub(crate) struct Servers {
    running: Vec<Server>,
    /// Where their logs are written.
    logs: PathBuf,
}

impl Servers {
    fn new(logs: PathBuf) -> Self {
        Self { running: Vec::new(), logs }
    }

    /// Does work that starts servers in a directory of its own below `within`, until it is done, fails, or `stop` names a
    /// signal. Whichever it is, servers and directory are gone when this returns.
    ///
    /// # Errors
    /// The work's, or else that of ending the servers or of removing what they wrote.
    pub(crate) async fn within(
        within: &Path,
        prefix: &str,
        work: impl AsyncFnOnce(&Path, &mut Self) -> Result<()>,
        stop: impl Future<Output = &'static str>,
    ) -> Result<Ended> {
        let within = std::path::absolute(within).context("--dir")?;
        let dir = tempfile::Builder::new().prefix(prefix).tempdir_in(&within);
        let dir = dir.with_context(|| format!("cannot make a directory in {}", within.display()))?;
        let work = async |servers: &mut Self| work(dir.path(), servers).await;
        let ended = Self::new(dir.path().to_owned()).during(work, stop).await?;
        dir.close().with_context(|| format!("cannot remove the servers' data in {}", within.display()))?;
        Ok(ended)
    }

    /// Starts a process, and returns its number.
    ///
    /// # Errors
    /// There is no such program, or it cannot be started.
    pub(crate) fn start(&mut self, program: Program<'_>) -> Result<u32> {
        let Program { name, path, arguments, advice } = program;
        let log = self.logs.join(format!("{name}.log"));
        let output = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let child = Command::new(path)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}: {advice}", path.display()))?;
        let pid = child.id().context("a process that was just started has a number")?;
        self.running.push(Server { name, child, log });
        Ok(pid)
    }

    /// Asks again and again until `answer` has one.
    ///
    /// # Errors
    /// A server ended meanwhile, or there is no answer in time: why not, as `answer` said last.
    pub(crate) async fn until<T>(
        &mut self,
        what: &str,
        time: Duration,
        answer: impl AsyncFn() -> Result<T>,
    ) -> Result<T> {
        let began = Instant::now();
        loop {
            self.check()?;
            let missing = match timeout(LOOK_TIME, answer()).await {
                Ok(Ok(found)) => return Ok(found),
                Ok(Err(error)) => error,
                Err(_) => anyhow::anyhow!("no answer"),
            };
            if began.elapsed() >= time {
                return Err(missing.context(format!("{what}: not within {} s", time.as_secs())));
            }
            sleep(LOOK_PACE).await;
        }
    }

    /// An error where a server has ended by itself, with the end of its log.
    pub(crate) fn check(&mut self) -> Result<()> {
        for server in &mut self.running {
            if let Some(status) = server.child.try_wait().context("cannot look after a server")? {
                let log = std::fs::read_to_string(&server.log).unwrap_or_else(|error| error.to_string());
                let lines: Vec<&str> = log.lines().collect();
                let end = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n  ");
                bail!("{} ended by itself, {status}; the end of its log:\n  {end}", server.name);
            }
        }
        Ok(())
    }

    /// Does work that starts servers and needs them, until it is done, fails, or `stop` names a signal. Whichever it is,
    /// the servers are gone when this returns.
    ///
    /// # Errors
    /// The work's, or else that of ending the servers.
    async fn during(
        mut self,
        work: impl AsyncFnOnce(&mut Self) -> Result<()>,
        stop: impl Future<Output = &'static str>,
    ) -> Result<Ended> {
        let ended = tokio::select! {
            // Work that is done counts, even if a signal comes at the same moment.
            biased;
            done = work(&mut self) => done.map(|()| Ended::Measured),
            signal = stop => Ok(Ended::Stopped(signal)),
        };
        let stopped = self.end(STOP_TIME).await;
        ended.and_then(|ended| stopped.map(|()| ended))
    }

    /// SIGKILL to all, as when the power goes. Returns once all are gone; others can be started then.
    ///
    /// # Errors
    /// One could not be ended.
    pub(crate) async fn kill_all(&mut self) -> Result<()> {
        for Server { name, child, .. } in &mut self.running {
            child.start_kill().with_context(|| format!("cannot kill {name}"))?;
        }
        // Whoever is not known to be gone stays on the list: a signal may come between any two.
        for Server { name, child, .. } in &mut self.running {
            kill(child).await.with_context(|| format!("cannot end {name}"))?;
        }
        self.running.clear();
        Ok(())
    }

    /// SIGTERM to all; SIGKILL to those that have not ended in time. Returns once all are gone.
    ///
    /// # Errors
    /// One could not be ended; the others are all the same.
    async fn end(mut self, time: Duration) -> Result<()> {
        let mut result = Ok(());
        for server in &self.running {
            let told = terminate(&server.child);
            result = result.and(told.with_context(|| format!("cannot stop {}", server.name)));
        }
        let until = Instant::now() + time;
        for Server { name, child, .. } in &mut self.running {
            let ended = match timeout_at(until, child.wait()).await {
                Ok(ended) => ended.map(drop).context("its end is not known"),
                Err(_) => kill(child).await,
            };
            result = result.and(ended.with_context(|| format!("cannot end {name}")));
        }
        result
    }
}

/// SIGKILL, and waits until it is gone.
async fn kill(child: &mut Child) -> Result<()> {
    let killed = timeout(KILL_TIME, child.kill()).await.ok();
    Ok(killed.with_context(|| format!("it is still there {} s after SIGKILL", KILL_TIME.as_secs()))??)
}

/// SIGTERM, unless it has ended already. It has not been waited for then, so that its number cannot be another's.
fn terminate(child: &Child) -> Result<()> {
    let Some(pid) = child.id() else { return Ok(()) };
    let pid = Pid::from_raw(i32::try_from(pid)?).context("a process has a number above 0")?;
    Ok(kill_process(pid, Signal::TERM)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stand_in(name: &str, program: &'static str, arguments: &[&str]) -> Program<'static> {
        let arguments = arguments.iter().map(Into::into).collect();
        Program { name: name.into(), path: Path::new(program), arguments, advice: "install it" }
    }

    fn runs(pid: u32) -> bool {
        Path::new(&format!("/proc/{pid}")).exists()
    }

    /// However the work ends, the servers that it started are gone afterwards.
    #[tokio::test]
    async fn servers_end_with_the_work() {
        let logs = tempfile::tempdir().expect("a directory");
        for (fails, stopped) in [(false, false), (true, false), (false, true)] {
            let mut started = 0;
            let work = async |servers: &mut Servers| {
                started = servers.start(stand_in("server", "sleep", &["600"]))?;
                if stopped {
                    std::future::pending::<()>().await;
                }
                if fails { bail!("an operation failed") } else { Ok(()) }
            };
            let stop = async {
                match stopped {
                    true => "SIGINT",
                    false => std::future::pending().await,
                }
            };
            let ended = Servers::new(logs.path().into()).during(work, stop).await;
            assert!(started > 0 && !runs(started));
            match (fails, stopped) {
                (true, _) => assert_eq!(ended.expect_err("it failed").to_string(), "an operation failed"),
                (_, true) => assert_eq!(ended.expect("it was stopped"), Ended::Stopped("SIGINT")),
                _ => assert_eq!(ended.expect("it was done"), Ended::Measured),
            }
        }
    }

    /// All servers are gone once they were ended, also one that does not listen to SIGTERM.
    #[tokio::test]
    async fn all_are_ended() {
        let logs = tempfile::tempdir().expect("a directory");
        let mut servers = Servers::new(logs.path().into());
        let ready = logs.path().join("ready");
        let deaf = format!("trap '' TERM; touch {}; exec sleep 600", ready.display());
        let deaf = servers.start(stand_in("deaf", "sh", &["-c", &deaf])).expect("it starts");
        let meek = servers.start(stand_in("meek", "sleep", &["600"])).expect("it starts");
        let is_ready = async || ready.exists().then_some(()).context("it is not there yet");
        while is_ready().await.is_err() {
            tokio::task::yield_now().await;
        }
        assert!(runs(deaf) && runs(meek));
        servers.end(Duration::ZERO).await.expect("all can be ended");
        assert!(!runs(deaf) && !runs(meek));
    }

    /// Servers that were killed are gone, are not missed, and can be started again.
    #[tokio::test]
    async fn killed_ones_are_not_missed() {
        let logs = tempfile::tempdir().expect("a directory");
        let mut servers = Servers::new(logs.path().into());
        for _ in 0..2 {
            let started = ["one", "other"]
                .map(|name| servers.start(stand_in(name, "sleep", &["600"])).expect("it starts"));
            servers.check().expect("both run");
            servers.kill_all().await.expect("both can be killed");
            assert!(started.into_iter().all(|pid| !runs(pid)));
            servers.check().expect("nobody is missed");
        }
        servers.end(STOP_TIME).await.expect("nothing is left");
    }

    /// A server that ends by itself is noticed, with the end of its log.
    #[tokio::test]
    async fn an_end_is_noticed() {
        let logs = tempfile::tempdir().expect("a directory");
        let mut servers = Servers::new(logs.path().into());
        servers.start(stand_in("short", "sh", &["-c", "echo out of luck; exit 3"])).expect("it starts");
        let why = loop {
            match servers.check() {
                Ok(()) => tokio::task::yield_now().await,
                Err(why) => break why.to_string(),
            }
        };
        assert!(
            why.contains("short ended by itself, exit status: 3") && why.contains("out of luck"),
            "{why}"
        );
        let hangs = async || -> Result<()> { std::future::pending().await };
        let never = servers.until("an answer", START_TIME, hangs).await;
        assert!(never.is_err());
        servers.end(STOP_TIME).await.expect("nothing is left");
    }

    /// What is waited for is not waited for without end, and its last word is told.
    #[tokio::test(start_paused = true)]
    async fn waiting_is_bounded() {
        let logs = tempfile::tempdir().expect("a directory");
        let mut servers = Servers::new(logs.path().into());
        let fails = async || -> Result<()> { bail!("no quorum") };
        let never = servers.until("a leader", START_TIME, fails).await;
        assert_eq!(format!("{:#}", never.expect_err("never")), "a leader: not within 60 s: no quorum");
        let hangs = async || -> Result<()> { std::future::pending().await };
        let hung = servers.until("a leader", START_TIME, hangs).await;
        assert_eq!(format!("{:#}", hung.expect_err("never")), "a leader: not within 60 s: no answer");
    }

    /// A program that is missing is an error that says what to do.
    #[tokio::test]
    async fn missing_programs() {
        let logs = tempfile::tempdir().expect("a directory");
        let mut servers = Servers::new(logs.path().into());
        let missing = servers.start(stand_in("none", "/nowhere/etcd", &[])).expect_err("no such program");
        assert_eq!(missing.to_string(), "cannot start /nowhere/etcd: install it");
    }
}
