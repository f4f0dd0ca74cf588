//! flotilla beside etcd and Redis: starts three nodes of the first two and one of the third, all on this machine and this
//! disk, and drives each from this process through its own best client.
//!
//! What a machine can do changes while one measures: its disk, its clock speed, its neighbours. So the servers take turns
//! within each round, rounds are repeated, and ratios are taken within a round. All servers stay up throughout: an idle
//! one costs the others a few heartbeats, where one that is stopped and continued would begin with elections.

mod comparison;
mod etcd;
mod flotilla;
mod http;
mod redis;
mod store;

use crate::cluster::Cluster;
use crate::disk::Disk;
use crate::html::Page;
use crate::keys::{Distribution, Keys};
use crate::load::{FILLERS, fill_keys};
use crate::measure::{Plan, measure};
use crate::probe::Probe;
use crate::process::Usage;
use crate::report::{Fact, Output, PageFile, fact, say_facts};
use crate::servers::{Ended, Servers};
use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use comparison::{Comparison, Sample, Spent};
use serde_json::json;
use std::path::{Path, PathBuf};
use store::{Doors, StoreWorker};

/// How many connections a client of a single server spreads its operations over.
const CONNECTIONS: usize = 16;

/// How many connections speak plain HTTP, each with one request on its way at a time.
const HTTP_CONNECTIONS: u32 = 64;

/// What to measure flotilla beside, and how.
#[derive(Debug, Args)]
pub struct PeersArgs {
    /// What to measure flotilla beside.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "etcd,redis")]
    vs: Vec<Rival>,
    /// What to do.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "put,get,http-put,http-get")]
    workloads: Vec<Workload>,
    /// How many operations to keep in flight; HTTP always has 64 connections.
    #[arg(long, value_delimiter = ',', value_name = "N,N", default_value = "1,64,256,1024", value_parser = clap::value_parser!(u32).range(1..=4_096))]
    in_flight: Vec<u32>,
    /// How often each is measured.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// How long to measure each, in seconds, after a fifth of it unmeasured.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: u64,
    /// The values' size in bytes.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    value_bytes: u64,
    /// How many keys there are; all are drawn equally often.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    keys: u64,
    /// The etcd to start, 3.4 or newer.
    #[arg(long, value_name = "PATH", default_value = "etcd")]
    etcd: PathBuf,
    /// The Redis to start.
    #[arg(long, value_name = "PATH", default_value = "redis-server")]
    redis: PathBuf,
    /// Where the servers' data lies while this runs, in a directory that is removed at the end: on the disk that is to be
    /// measured.
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// What results look like.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    /// Also writes a page with plots and tables, which needs nothing but a browser.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Another system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Rival {
    /// Three nodes of etcd.
    Etcd,
    /// One Redis that syncs every write before it answers.
    Redis,
}

/// What is done again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Workload {
    /// Replaces values.
    Put,
    /// Reads values, linearizably.
    Get,
    /// Replaces values over plain HTTP, one request after the other on each of 64 connections.
    HttpPut,
    /// Reads values over plain HTTP, likewise.
    HttpGet,
}

impl Workload {
    /// As it is said on the command line.
    fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::HttpPut => "http-put",
            Self::HttpGet => "http-get",
        }
    }

    fn is_http(self) -> bool {
        matches!(self, Self::HttpPut | Self::HttpGet)
    }

    fn writes(self) -> bool {
        matches!(self, Self::Put | Self::HttpPut)
    }
}

/// One of the systems, as far as it has been started.
#[derive(Debug)]
enum Peer {
    Flotilla(Cluster),
    Etcd(etcd::Cluster),
    Redis(redis::Server),
}

impl Peer {
    fn name(&self) -> &'static str {
        match self {
            Self::Flotilla(_) => "flotilla",
            Self::Etcd(_) => "etcd",
            Self::Redis(_) => "redis",
        }
    }

    fn pids(&self) -> &[u32] {
        match self {
            Self::Flotilla(cluster) => &cluster.pids,
            Self::Etcd(cluster) => &cluster.pids,
            Self::Redis(server) => &server.pids,
        }
    }

    /// Connects anew: who leads may have changed.
    async fn connect(&self) -> Result<Doors> {
        let connected = match self {
            Self::Flotilla(cluster) => flotilla::connect(cluster).await,
            Self::Etcd(cluster) => cluster.connect().await,
            Self::Redis(server) => server.connect().await,
        };
        connected.with_context(|| format!("cannot connect to {}", self.name()))
    }
}

/// Measures flotilla, whose executable is `flotilla`, beside others, until all is measured or `stop` names a signal.
/// Either way, and after any error, no server is left behind.
///
/// # Errors
/// A server that cannot be started, or the first operation that failed.
pub async fn run(
    args: &PeersArgs,
    flotilla: &Path,
    stop: impl Future<Output = &'static str>,
) -> Result<Ended> {
    let page = args.html.as_deref().map(PageFile::create).transpose()?;
    let work = async |dir: &Path, servers: &mut Servers| {
        let report = compare(args, flotilla, dir, servers).await?;
        page.map_or(Ok(()), |file| file.write(&report.html()))
    };
    Servers::within(&args.dir, "flotilla-peers-", work, stop).await
}

/// Measures everything, prints it, and returns it as a page.
async fn compare(args: &PeersArgs, flotilla: &Path, dir: &Path, servers: &mut Servers) -> Result<Page> {
    let (disk, probe) = (Disk::of(dir)?, Probe::take(dir).await?);
    let peers = start(args, flotilla, dir, servers).await?;
    let mut facts = probe.facts();
    for peer in &peers {
        facts.push(fact(peer.name(), fill(peer, args).await?));
    }
    facts.push(fact(
        "measured",
        format!(
            "{} × {} s, in turns, {} keys, values of {} bytes",
            args.rounds, args.seconds, args.keys, args.value_bytes
        ),
    ));
    say_facts(args.output, &facts, &probe)?;
    let mut comparison = Comparison::new(peers.iter().map(Peer::name).collect());
    if args.output == Output::Table {
        crate::say(&comparison.head())?;
    }
    for &workload in &args.workloads {
        let in_flight: &[u32] = if workload.is_http() { &[HTTP_CONNECTIONS] } else { &args.in_flight };
        for &in_flight in in_flight {
            let samples = take_turns(&peers, &disk, servers, args, workload, in_flight).await?;
            for row in comparison.add(workload.name(), in_flight, samples)? {
                crate::say(match args.output {
                    Output::Table => &row.text,
                    Output::Json => &row.json,
                })?;
            }
        }
    }
    finish(args, &peers, comparison, facts)
}

/// Prints the ratios and what memory was used, and makes a page of everything.
fn finish(args: &PeersArgs, peers: &[Peer], comparison: Comparison, mut facts: Vec<Fact>) -> Result<Page> {
    let (ratios, rows) = comparison.ratios()?;
    if args.output == Output::Table {
        crate::say("")?;
        crate::say(&ratios.head())?;
    }
    for row in &rows {
        crate::say(match args.output {
            Output::Table => &row.text,
            Output::Json => &row.json,
        })?;
    }
    let mut memory = Vec::new();
    for peer in peers {
        let peak = Usage::of(peer.pids())?.memory_peak_bytes;
        memory.push((peer.name(), peak));
    }
    let said: Vec<String> = memory.iter().map(|(name, peak)| format!("{name} {} MiB", peak >> 20)).collect();
    let said = said.join(", ");
    match args.output {
        Output::Table => crate::say(&format!("\npeak memory of all processes: {said}"))?,
        Output::Json => {
            for (name, peak) in memory {
                crate::say(&json!({"kind": "memory", "server": name, "peak_bytes": peak}).to_string())?;
            }
        }
    }
    facts.push(fact("peak memory of all processes", said));
    let plots = comparison.plots();
    let tables = vec![("Ratios of the rounds".to_owned(), ratios), ("Measured".to_owned(), comparison.table)];
    Ok(Page { title: "flotilla beside its peers".to_owned(), facts, plots, tables })
}

/// Starts all systems and waits until each has a leader, flotilla first.
async fn start(args: &PeersArgs, flotilla: &Path, dir: &Path, servers: &mut Servers) -> Result<Vec<Peer>> {
    let mut peers = vec![Peer::Flotilla(Cluster::start(servers, flotilla, dir, &[]).await?)];
    if args.vs.contains(&Rival::Etcd) {
        peers.push(Peer::Etcd(etcd::Cluster::start(servers, &args.etcd, dir).await?));
    }
    if args.vs.contains(&Rival::Redis) {
        peers.push(Peer::Redis(redis::Server::start(servers, &args.redis, dir).await?));
    }
    Ok(peers)
}

/// Writes every key once, and returns what was written to.
async fn fill(peer: &Peer, args: &PeersArgs) -> Result<String> {
    let doors = peer.connect().await?;
    let door = doors.natives[0].clone();
    let put = move |key: String, value: Vec<u8>| {
        let mut door = door.clone();
        async move { door.put(&key, &value).await }
    };
    let filled = fill_keys(args.keys, usize::try_from(args.value_bytes)?, FILLERS, put).await;
    filled.with_context(|| format!("cannot fill {}", peer.name()))?;
    Ok(doors.about)
}

/// Each system in turn, round by round.
async fn take_turns(
    peers: &[Peer],
    disk: &Disk,
    servers: &mut Servers,
    args: &PeersArgs,
    workload: Workload,
    in_flight: u32,
) -> Result<Vec<Vec<Option<Sample>>>> {
    let mut samples = vec![Vec::new(); peers.len()];
    for round in 1..=args.rounds {
        for (peer, samples) in peers.iter().zip(&mut samples) {
            let sample = measure_one(peer, disk, args, workload, in_flight).await;
            // That a server is gone explains why its operations failed.
            servers.check()?;
            let sample = sample.with_context(|| {
                format!("{} with {in_flight} in flight at {}", workload.name(), peer.name())
            })?;
            if let Some(Sample { ops_per_s, .. }) = &sample {
                crate::tell(&format!(
                    "{} with {in_flight} in flight, round {round} of {}: {} {ops_per_s:.0} ops/s",
                    workload.name(),
                    args.rounds,
                    peer.name()
                ))?;
            }
            samples.push(sample);
        }
    }
    Ok(samples)
}

/// `None` where the system has no such door.
async fn measure_one(
    peer: &Peer,
    disk: &Disk,
    args: &PeersArgs,
    workload: Workload,
    in_flight: u32,
) -> Result<Option<Sample>> {
    let doors = peer.connect().await?;
    let keys = Keys::new(args.keys, Distribution::Uniform)?;
    let mut workers = Vec::new();
    for index in 0..in_flight {
        let Some(store) = doors.store(workload.is_http(), index).await? else { return Ok(None) };
        let value_bytes = usize::try_from(args.value_bytes)?;
        workers.push(StoreWorker::new(store, workload.writes(), keys, value_bytes, index));
    }
    let spent = async || Ok(Spent { usage: Usage::of(peer.pids())?, disk_bytes: disk.written_bytes()? });
    let measured = measure(workers, Plan::new(args.seconds, None), spent).await?;
    Sample::of(&measured).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        peers: PeersArgs,
    }

    fn parse(arguments: &[&str]) -> Result<PeersArgs, clap::Error> {
        let arguments = std::iter::once("bench").chain(arguments.iter().copied());
        Command::try_parse_from(arguments).map(|command| command.peers)
    }

    /// What would measure nothing, or beside nothing that is known, is refused.
    #[test]
    fn arguments() {
        let args = parse(&["--vs", "etcd", "--in-flight", "1,64", "--workloads", "put,http-get"]);
        let args = args.expect("good arguments");
        assert_eq!((args.vs, args.in_flight), (vec![Rival::Etcd], vec![1, 64]));
        assert_eq!(args.workloads, [Workload::Put, Workload::HttpGet]);
        for bad in
            ["--vs=consul", "--rounds=0", "--seconds=0", "--in-flight=0", "--keys=0", "--value-bytes=0"]
        {
            assert!(parse(&[bad]).is_err(), "{bad}");
        }
    }

    /// A workload is called in results as on the command line.
    #[test]
    fn workloads_have_one_name() {
        for workload in Workload::value_variants() {
            let value = workload.to_possible_value().expect("it can be said");
            assert_eq!(value.get_name(), workload.name());
        }
    }

    /// A run whose first server cannot be started fails, says what to do, and leaves no directory behind.
    #[tokio::test]
    async fn failures_leave_nothing_behind() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().to_str().expect("UTF-8");
        let args = parse(&["--dir", path, "--keys", "1"]).expect("good arguments");
        let ended = run(&args, Path::new("/nowhere/flotilla"), std::future::pending()).await;
        let why = format!("{:#}", ended.expect_err("there is no such program"));
        assert!(why.contains("cannot start /nowhere/flotilla"), "{why}");
        assert_eq!(std::fs::read_dir(dir.path()).expect("a directory").count(), 0);
    }
}
