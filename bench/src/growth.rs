//! How throughput and memory grow: with the values' size, the keys, the groups, and the operations in flight; and with
//! the keys also how long a cluster takes to be back after all its nodes were killed.
//!
//! Each point has a cluster of three new nodes to itself, which is filled, written, read, looked at, and ended with its
//! data before the next begins: nothing that one leaves behind is measured with another.

mod point;
mod row;

use crate::cluster::Cluster;
use crate::html::Page;
use crate::keys::{Distribution, Keys, key};
use crate::load::{FILLERS, connect, fill_cluster};
use crate::measure::{Plan, measure};
use crate::plot::Plot;
use crate::probe::Probe;
use crate::process::{Usage, memory_available_bytes};
use crate::report::{Fact, Output, PageFile, Table, fact, say_facts};
use crate::servers::{Ended, Servers};
use crate::workload::{Load, Mix, Workload};
use anyhow::{Context, Result};
use clap::Args;
use client::Client;
use point::{Point, Series};
use row::{Recovery, Row, Work, plots};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;

/// How long a cluster may take to be back, and how often it is asked at least.
const RECOVERY_TIME: Duration = client::DEADLINE_MAX;
const ASK_PACE: Duration = Duration::from_millis(50);

/// What is to grow, and how far.
#[derive(Debug, Args)]
pub struct GrowthArgs {
    /// What grows.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "value-size,data-set,groups,clients")]
    series: Vec<Series>,
    /// The values' sizes in bytes, for value-size.
    #[arg(long, value_delimiter = ',', value_name = "N,N", default_value = "16,256,4096,65536,1048576",
        value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    value_bytes: Vec<u64>,
    /// How many keys there are, for data-set; those for which memory does not suffice are left out.
    #[arg(long, value_delimiter = ',', value_name = "N,N", default_value = "10000,100000,1000000,3000000,10000000",
        value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    keys: Vec<u64>,
    /// How many groups the clusters are born with, for groups.
    #[arg(long, value_delimiter = ',', value_name = "N,N", default_value = "1,4,16,64",
        value_parser = clap::value_parser!(u64).range(1..=256))]
    groups: Vec<u64>,
    /// How many operations are in flight, for clients.
    #[arg(long, value_delimiter = ',', value_name = "N,N", default_value = "1,16,64,256,1024,4096",
        value_parser = clap::value_parser!(u64).range(1..=65_536))]
    clients: Vec<u64>,
    /// How long to measure puts and gets of each point, in seconds, after a fifth of it unmeasured.
    #[arg(long, value_name = "N", default_value_t = 5,
        value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: u64,
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

/// Measures clusters of flotilla, whose executable is `flotilla`, one after the other, until all are measured or `stop`
/// names a signal. Either way, and after any error, no server is left behind.
///
/// # Errors
/// A server that cannot be started, or the first operation that failed.
pub async fn run(
    args: &GrowthArgs,
    flotilla: &Path,
    stop: impl Future<Output = &'static str>,
) -> Result<Ended> {
    let page = args.html.as_deref().map(PageFile::create).transpose()?;
    let work = async |dir: &Path, servers: &mut Servers| {
        let report = measure_all(args, flotilla, dir, servers).await?;
        page.map_or(Ok(()), |file| file.write(&report.html()))
    };
    Servers::within(&args.dir, "flotilla-growth-", work, stop).await
}

/// Measures everything, prints it, and returns it as a page.
async fn measure_all(args: &GrowthArgs, flotilla: &Path, dir: &Path, servers: &mut Servers) -> Result<Page> {
    let probe = Probe::take(dir).await?;
    let mut facts = probe.facts();
    facts.push(fact(
        "measured",
        format!("puts and gets of each cluster for {} s each, after a fifth of it", args.seconds),
    ));
    facts.extend(args.series.iter().map(|series| fact(series.name(), series.constants())));
    say_facts(args.output, &facts, &probe)?;
    let mut page = Page { title: "flotilla as it grows".to_owned(), facts, plots: vec![], tables: vec![] };
    for &series in &args.series {
        let mut table = Row::table(series);
        say(args.output, &table.head(), None)?;
        let mut rows = Vec::new();
        for point in series.points(args) {
            if let Some(why) = point.lacks(memory_available_bytes()?) {
                page.facts.push(leave_out(args.output, &point, why)?);
                continue;
            }
            crate::tell(&format!("{}: a new cluster", point.name()))?;
            let measured = measure_one(&point, args, flotilla, dir, servers).await;
            // That a server is gone explains why its operations failed.
            servers.check()?;
            let row = measured.with_context(|| point.name())?;
            end(&point, dir, servers).await?;
            say_row(args.output, &mut table, &row)?;
            rows.push(row);
        }
        let plots = plots(series, &rows);
        say_shapes(args.output, &plots)?;
        page.plots.extend(plots);
        page.tables.push((series.name().to_owned(), table));
    }
    Ok(page)
}

/// A line for people, or an object of this kind where there is one.
fn say(output: Output, text: &str, object: Option<Value>) -> Result<()> {
    match (output, object) {
        (Output::Table, _) => crate::say(text),
        (Output::Json, Some(object)) => crate::say(&object.to_string()),
        (Output::Json, None) => Ok(()),
    }
}

fn say_row(output: Output, table: &mut Table, row: &Row) -> Result<()> {
    let mut object = serde_json::to_value(row)?;
    object["kind"] = json!("row");
    say(output, &table.add(row.cells()), Some(object))
}

/// Says why a point is not measured, and returns that for the page.
fn leave_out(output: Output, point: &Point, why: String) -> Result<Fact> {
    let object = json!({"kind": "left-out", "series": point.series, "at": point.at, "why": why});
    say(output, &format!("{}: {why}", point.name()), Some(object))?;
    Ok(fact(&point.name(), why))
}

/// What is to be seen on the plots.
fn say_shapes(output: Output, plots: &[Plot]) -> Result<()> {
    say(output, "", None)?;
    for plot in plots {
        let Plot { title, sentence: Some(sentence), .. } = plot else { continue };
        let object = json!({"kind": "shape", "plot": title, "sentence": sentence});
        say(output, &format!("{title}: {sentence}"), Some(object))?;
    }
    say(output, "", None)
}

/// Where the nodes of a point keep their data.
fn data_of(point: &Point, dir: &Path) -> PathBuf {
    dir.join(format!("{}-{}", point.series.name(), point.at))
}

/// Starts a cluster and leaves it running.
async fn measure_one(
    point: &Point,
    args: &GrowthArgs,
    flotilla: &Path,
    dir: &Path,
    servers: &mut Servers,
) -> Result<Row> {
    let data = data_of(point, dir);
    std::fs::create_dir(&data).with_context(|| format!("cannot make {}", data.display()))?;
    let settings = [format!("groups={}", point.groups)];
    let mut cluster = Cluster::start(servers, flotilla, &data, &settings).await?;
    let (value_bytes, in_flight) = (usize::try_from(point.value_bytes)?, u32::try_from(point.in_flight)?);
    let client = connect(&cluster.http, in_flight).await?;
    fill_cluster(&client, point.keys, value_bytes, in_flight.min(FILLERS)).await?;
    let keys = Keys::new(point.keys, Distribution::Uniform)?;
    let work = async |workload: Workload| {
        let load = Load::new(&client, Mix { workload, keys, value_bytes }).await?;
        let spent = async || Usage::of(&cluster.pids);
        Work::of(&measure(load.workers(in_flight), Plan::new(args.seconds, None), spent).await?)
    };
    let (puts, gets) = (work(Workload::Put).await?, work(Workload::Get).await?);
    crate::tell(&format!("{}: {:.0} puts/s, {:.0} gets/s", point.name(), puts.ops_per_s, gets.ops_per_s))?;
    let Usage { memory_bytes, memory_peak_bytes, .. } = Usage::of(&cluster.pids)?;
    let recovery = match point.series {
        Series::DataSet => Some(recover(&mut cluster, point.keys, servers).await?),
        Series::ValueSize | Series::Groups | Series::Clients => None,
    };
    Ok(Row { point: *point, puts, gets, memory_bytes, memory_peak_bytes, recovery })
}

/// Kills all nodes, starts them again, and waits until the cluster is back with its data.
async fn recover(cluster: &mut Cluster, keys: u64, servers: &mut Servers) -> Result<Recovery> {
    servers.kill_all().await?;
    let began = Instant::now();
    cluster.spawn(servers)?;
    let cluster = &*cluster;
    let answers = async {
        // A client of its own, that knows nothing yet and tries often.
        let config = client::Config {
            deadline: RECOVERY_TIME,
            backoff_min: ASK_PACE,
            backoff_max: ASK_PACE,
            ..client::Config::default()
        };
        let client =
            Client::builder().config(config).seeds(cluster.http.iter().map(String::as_str)).connect();
        let last = key(keys - 1);
        let found = client.await?.get(&last).await?;
        found.with_context(|| format!("key {last} is gone"))?;
        anyhow::Ok(began.elapsed().as_secs_f64())
    };
    let ready = async {
        cluster.until_ready(servers, RECOVERY_TIME).await?;
        anyhow::Ok(began.elapsed().as_secs_f64())
    };
    let both = async { tokio::try_join!(answers, ready) };
    let (answers_s, ready_s) = both.await.context("after all nodes were killed and started again")?;
    Ok(Recovery { answers_s, ready_s })
}

/// Ends a point's cluster. Nobody asks for its data any more.
async fn end(point: &Point, dir: &Path, servers: &mut Servers) -> Result<()> {
    servers.kill_all().await?;
    let data = data_of(point, dir);
    std::fs::remove_dir_all(&data).with_context(|| format!("cannot remove {}", data.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        growth: GrowthArgs,
    }

    pub(super) fn parse(arguments: &[&str]) -> Result<GrowthArgs, clap::Error> {
        let arguments = std::iter::once("bench").chain(arguments.iter().copied());
        Command::try_parse_from(arguments).map(|command| command.growth)
    }

    /// All series are measured unless some are named, and what would measure nothing is refused.
    #[test]
    fn arguments() {
        let all = [Series::ValueSize, Series::DataSet, Series::Groups, Series::Clients];
        assert_eq!(parse(&[]).expect("good arguments").series, all);
        let some = parse(&["--series", "clients,groups", "--clients", "1,64"]).expect("good arguments");
        assert_eq!((some.series, some.clients), (vec![Series::Clients, Series::Groups], vec![1, 64]));
        for bad in [
            "--series=nodes",
            "--seconds=0",
            "--keys=0",
            "--value-bytes=0",
            "--value-bytes=1048577",
            "--groups=0",
            "--groups=257",
            "--clients=0",
        ] {
            assert!(parse(&[bad]).is_err(), "{bad}");
        }
    }

    /// A run whose first server cannot be started fails, says what to do, and leaves no directory behind.
    #[tokio::test]
    async fn failures_leave_nothing_behind() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().to_str().expect("UTF-8");
        let args = parse(&["--dir", path, "--series", "clients"]).expect("good arguments");
        let ended = run(&args, Path::new("/nowhere/flotilla"), std::future::pending()).await;
        let why = format!("{:#}", ended.expect_err("there is no such program"));
        assert!(why.contains("1 operations in flight: cannot start /nowhere/flotilla"), "{why}");
        assert_eq!(std::fs::read_dir(dir.path()).expect("a directory").count(), 0);
    }
}
