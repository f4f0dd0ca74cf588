//! One run from its options to its report.

use crate::admin::is_settled;
use crate::calls::{Caller, Http, Reads};
use crate::field::Field;
use crate::journal::Journal;
use crate::nemesis;
use crate::report::Report;
use crate::schedule::{Kind, Schedule};
use crate::verdict;
use crate::workload::{Keys, Worker};
use anyhow::{Context, Result, bail};
use checker::Operation;
use client::Client;
use rand::SeedableRng;
use rand::rngs::StdRng;
use reqwest::Method;
use serde_json::json;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How long a cluster may take to be ready at first, and to be healthy once all faults are over.
const READY: Duration = Duration::from_secs(60);

/// How long the map may take to come to rest after that: shards and replicas may still be on their way.
const SETTLED: Duration = Duration::from_secs(180);

/// A node that is silent for so long is taken for dead, in milliseconds: longer than all faults but an
/// absence.
const DEAD_AFTER_MS: u64 = 12_000;

/// How often it is looked whether the cluster is healthy.
const PACE: Duration = Duration::from_millis(500);

/// The time for a call when nothing fails any more.
const FINAL_DEADLINE: Duration = Duration::from_secs(30);

/// How many processes read everything at the end.
const READERS: u64 = 8;

/// How often the history goes to the system.
const FLUSH: Duration = Duration::from_secs(1);

/// How the links between nodes are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NetworkChoice {
    /// Namespaces where they can be made, else proxies.
    #[default]
    Auto,
    /// Namespaces, or no run.
    Namespaces,
    /// Proxies.
    Proxies,
}

/// What a run is to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// The seed of the schedule and of each client's choices.
    pub seed: u64,
    /// How long faults are inflicted.
    pub length: Duration,
    /// How many clients.
    pub clients: u64,
    /// How many first members, from 3.
    pub nodes: u64,
    /// How many data groups at first.
    pub groups: u32,
    /// Which faults.
    pub kinds: Vec<Kind>,
    /// The time between two faults, about.
    pub pace: Duration,
    /// How fresh reads are to be.
    pub reads: Reads,
    /// How the links are made.
    pub network: NetworkChoice,
    /// The binary under test; it is copied, so that it may be built anew meanwhile.
    pub binary: PathBuf,
    /// Where the history, the logs and what is wrong go.
    pub folder: PathBuf,
}

/// Runs it. All that was started is ended when this returns or is dropped.
///
/// # Errors
/// Where the harness itself fails; what is wrong with the store stands in the report.
pub async fn run(options: &Options) -> Result<Report> {
    if options.nodes < 3 || options.nodes > 9 {
        bail!("a run has 3 to 9 nodes: {}", options.nodes);
    }
    let folder = &options.folder;
    std::fs::create_dir_all(folder).with_context(|| format!("{}", folder.display()))?;
    let binary = folder.join("flotilla");
    std::fs::copy(&options.binary, &binary).with_context(|| format!("{}", options.binary.display()))?;
    let field = Arc::new(Field::prepare(options, &binary, folder).await?);
    let kinds = nemesis::possible(&field, &options.kinds);
    let Options { seed, length, nodes, groups, pace, .. } = *options;
    let schedule = Schedule::draw(seed, length, &kinds, nodes, groups, pace);
    describe(&field, options, &kinds, &schedule);
    field.start().await?;
    await_ready(&field).await?;
    let dead_after = json!({ "dead_after_ms": DEAD_AFTER_MS }).to_string();
    field.admin.change(Method::PUT, "/v1/cluster/nodes", &dead_after).await?;

    let history = folder.join("history.jsonl");
    let journal = Journal::begin(&history, field.started())?;
    let (stop, stopped) = watch::channel(false);
    let mut working = start_workers(options, &field, &journal, &stopped).await?;
    let faults = async {
        nemesis::run(&field, &schedule).await?;
        nemesis::heal(&field).await?;
        field.say("all faults are over");
        let healthy_after = await_healthy(&field, &binary).await;
        if healthy_after.is_none() {
            field.find(&format!("not healthy {READY:?} after the last fault"));
        }
        let settled_after = await_settled(&field).await;
        if settled_after.is_none() {
            let map = field.admin.map().await;
            field.find(&format!("the map does not come to rest within {SETTLED:?}: {map:?}"));
        }
        anyhow::Ok((healthy_after, settled_after))
    };
    let (healthy_after, settled_after) = tokio::select! {
        ended = faults => ended?,
        Err(error) = field.watch() => return Err(error),
        error = flush(&journal) => return Err(error),
        error = first_failure(&mut working) => return Err(error),
    };
    stop.send_replace(true);
    while let Some(ended) = working.join_next().await {
        ended??;
    }
    field.say(&format!("{} operations were answered; everything is read once more", journal.answered()));
    read_all(options, &field, &journal, &history).await?;
    journal.flush()?;
    field.say("the history is judged");
    let (path, pages) = (history.clone(), folder.clone());
    let judgement = tokio::task::spawn_blocking(move || verdict::judge(&path, &pages)).await??;
    let report = Report {
        seed,
        network: field.network_description().to_owned(),
        missing: field.capabilities.missing.clone(),
        faults: field.counts(),
        findings: field.findings(),
        judgement,
        healthy_after,
        settled_after,
        folder: folder.clone(),
    };
    if !report.passed() {
        field.keep(folder).await?;
    }
    Ok(report)
}

fn describe(field: &Field, options: &Options, kinds: &[Kind], schedule: &Schedule) {
    let Options { seed, nodes, groups, clients, .. } = options;
    field.say(&format!("seed {seed}, {nodes} nodes and a spare, {groups} groups, {clients} clients"));
    field.say(&format!("links: {}", field.network_description()));
    let capabilities = &field.capabilities;
    let disks = if capabilities.mounts { "a tmpfs each" } else { "plain folders" };
    let shim = capabilities.shim.is_some();
    field.say(&format!("disks: {disks}; their errors and wrong clocks by a shim: {shim}"));
    for missing in &capabilities.missing {
        field.say(&format!("not here: {missing}"));
    }
    let names: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
    field.say(&format!("kinds: {}", names.join(" ")));
    field.say(&format!("schedule of {} faults:\n{schedule}", schedule.faults.len()));
}

async fn await_ready(field: &Field) -> Result<()> {
    for id in field.first() {
        if !field.ready(id, READY).await {
            bail!(
                "n{id} is not ready {READY:?} after its start:\n{}",
                field.hold(id).await.process.log_end()
            );
        }
    }
    Ok(())
}

/// Three clients in four are the Rust client's, the others speak plain HTTP.
async fn start_workers(
    options: &Options,
    field: &Field,
    journal: &Journal,
    stopped: &watch::Receiver<bool>,
) -> Result<JoinSet<Result<()>>> {
    let keys = Keys::new();
    let mut working = JoinSet::new();
    for process in 1..=options.clients {
        let caller = match process % 4 {
            0 => Caller::Http(Http::new(field.seeds(), format!("client-{process}"))?),
            _ => Caller::Client(Client::connect(field.seeds()).await?),
        };
        let (keys, journal) = (keys.clone(), journal.clone());
        let seed = options.seed.wrapping_mul(1_000).wrapping_add(process);
        let worker = Worker { process, caller, reads: options.reads, keys, journal, seed };
        working.spawn(worker.work(stopped.clone()));
    }
    Ok(working)
}

/// Why a worker ended though it was not told to; none ever does unless the harness fails.
async fn first_failure(working: &mut JoinSet<Result<()>>) -> anyhow::Error {
    match working.join_next().await {
        Some(Ok(Err(error))) => error.context("a client"),
        Some(Err(error)) => anyhow::Error::from(error).context("a client"),
        Some(Ok(Ok(()))) => anyhow::anyhow!("a client ended too early"),
        None => std::future::pending().await,
    }
}

async fn flush(journal: &Journal) -> anyhow::Error {
    loop {
        tokio::time::sleep(FLUSH).await;
        if let Err(error) = journal.flush() {
            return error;
        }
    }
}

/// Waits until `flotilla status` says that every group is served.
async fn await_healthy(field: &Field, binary: &Path) -> Option<Duration> {
    let began = Instant::now();
    while began.elapsed() < READY {
        let mut status = tokio::process::Command::new(binary);
        status.args(["status", "--nodes", &field.seeds().join(",")]).kill_on_drop(true);
        if let Ok(output) = status.output().await
            && output.status.success()
        {
            let after = began.elapsed();
            field.say(&format!("healthy after {after:.1?}:\n{}", String::from_utf8_lossy(&output.stdout)));
            return Some(after);
        }
        tokio::time::sleep(PACE).await;
    }
    None
}

async fn await_settled(field: &Field) -> Option<Duration> {
    let began = Instant::now();
    while began.elapsed() < SETTLED {
        if field.admin.map().await.as_ref().is_some_and(is_settled) {
            return Some(began.elapsed());
        }
        tokio::time::sleep(PACE).await;
    }
    None
}

/// Reads every key that was ever worked on, as processes of their own, into the history.
async fn read_all(options: &Options, field: &Field, journal: &Journal, history: &Path) -> Result<()> {
    journal.flush()?;
    let keys = keys_of(history)?;
    let client = Client::connect(field.seeds()).await?;
    let mut reading = JoinSet::new();
    for reader in 0..READERS {
        let process = options.clients + 1 + reader;
        let share = keys.iter().skip(usize::try_from(reader)?).step_by(usize::try_from(READERS)?);
        let share: Vec<Operation> = share.map(Operation::get).collect();
        let (mut caller, journal) = (Caller::Client(client.clone()), journal.clone());
        let mut chance = StdRng::seed_from_u64(process);
        reading.spawn(async move {
            for operation in share {
                journal.invoke(process, operation.clone())?;
                let event = caller.call(&operation, Reads::Linearizable, FINAL_DEADLINE, &mut chance).await?;
                journal.complete(process, event)?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = reading.join_next().await {
        ended??;
    }
    Ok(())
}

fn keys_of(history: &Path) -> Result<BTreeSet<Vec<u8>>> {
    let file = std::fs::File::open(history)?;
    let history = checker::jsonl::read(std::io::BufReader::new(file))?;
    let calls = history.calls();
    Ok(calls.iter().filter_map(|call| call.operation.key()).map(<[u8]>::to_vec).collect())
}
