//! Load on a cluster that runs: so many operations in flight, each followed by the next, or so many a second whatever
//! the cluster makes of it. A row for each workload and concurrency tells throughput, latencies, and what the servers
//! spent.

mod row;

use crate::html::Page;
use crate::keys::{self, Distribution, Keys, key};
use crate::measure::{Plan, measure};
use crate::metrics::Logs;
use crate::open_loop::WAITING_MAX;
use crate::process::Usage;
use crate::report::{Output, PageFile, Table, fact};
use crate::workload::{Load, Mix, Workload};
use anyhow::{Result, ensure};
use clap::Args;
use client::Client;
use rand::SeedableRng;
use rand::rngs::StdRng;
use row::Row;
use std::path::PathBuf;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How many operations are in flight unless told otherwise: in a closed loop, and at a fixed rate.
const IN_FLIGHT: [u32; 3] = [1, 64, 256];
const IN_FLIGHT_AT_RATE: [u32; 1] = [256];

/// How many put at once where all keys are written.
pub(crate) const FILLERS: u32 = 256;

/// What to load a cluster with.
#[derive(Debug, Args)]
pub struct LoadArgs {
    /// The servers' processes, for their CPU time, disk writes and memory.
    #[arg(long, value_delimiter = ',', value_name = "PID,PID")]
    pids: Vec<u32>,
    /// What to do.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "put,get")]
    workloads: Vec<Workload>,
    /// How many operations to keep in flight, or with --rate how many to have in flight at most [default: 1,64,256, or
    /// 256 with --rate].
    #[arg(long, value_delimiter = ',', value_name = "N,N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    in_flight: Vec<u32>,
    /// Begins so many operations a second, however long they take, and counts each one's time from when it was due. Up to
    /// 10000 that are due wait where all of --in-flight are at work; what exceeds them is counted as refused.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,
    /// How long to measure each, in seconds, after a fifth of it unmeasured.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// The values' size in bytes.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    value_bytes: u64,
    /// How many keys there are.
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    keys: u64,
    /// How often each key is drawn.
    #[arg(long, value_enum, default_value = "uniform")]
    distribution: Distribution,
    /// Writes every key once, and measures nothing.
    #[arg(long)]
    fill: bool,
    /// What results look like.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    /// Also writes a page with plots and the table, which needs nothing but a browser.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

impl LoadArgs {
    fn in_flight(&self) -> &[u32] {
        match (self.in_flight.is_empty(), self.rate) {
            (false, _) => &self.in_flight,
            (true, None) => &IN_FLIGHT,
            (true, Some(_)) => &IN_FLIGHT_AT_RATE,
        }
    }
}

/// What the servers have spent so far.
#[derive(Clone, Copy, Debug)]
struct Spent {
    usage: Usage,
    logs: Logs,
}

/// Loads the cluster of `nodes`, each as `http://host:port`, and prints a row for each workload and concurrency.
///
/// # Errors
/// The first operation that failed; nothing is measured over a failure.
pub async fn run(nodes: &[String], args: &LoadArgs) -> Result<()> {
    let client = connect(nodes, args.in_flight().iter().copied().max().unwrap_or(1)).await?;
    if args.fill {
        return fill(&client, args).await;
    }
    let page = args.html.as_deref().map(PageFile::create).transpose()?;
    let (rows, table) = measure_all(&client, nodes, args).await?;
    if let Some(file) = page {
        file.write(&page_of(args, &rows, table).html())?;
    }
    Ok(())
}

/// A client for so many operations at once: every one that is in flight here is to be in flight at the cluster.
pub(crate) async fn connect(nodes: &[String], in_flight: u32) -> Result<Client> {
    let in_flight_max = client::Config::default().in_flight_max.max(usize::try_from(in_flight)?);
    let config = client::Config { in_flight_max, ..client::Config::default() };
    Ok(Client::builder().config(config).seeds(nodes.iter().map(String::as_str)).connect().await?)
}

/// Measures and prints row by row.
async fn measure_all(client: &Client, nodes: &[String], args: &LoadArgs) -> Result<(Vec<Row>, Table)> {
    let mut table = Row::table();
    let mut rows = Vec::new();
    if args.output == Output::Table {
        crate::say(&table.head())?;
    }
    for &workload in &args.workloads {
        for &in_flight in args.in_flight() {
            let row = measure_one(client, nodes, args, workload, in_flight).await?;
            let line = table.add(row.cells());
            match args.output {
                Output::Table => crate::say(&line)?,
                Output::Json => crate::say(&serde_json::to_string(&row)?)?,
            }
            rows.push(row);
        }
    }
    Ok((rows, table))
}

async fn measure_one(
    client: &Client,
    nodes: &[String],
    args: &LoadArgs,
    workload: Workload,
    in_flight: u32,
) -> Result<Row> {
    let keys = Keys::new(args.keys, args.distribution)?;
    let mix = Mix { workload, keys, value_bytes: usize::try_from(args.value_bytes)? };
    let load = Load::new(client, mix).await?;
    let http = crate::http()?;
    let spent = async || {
        let logs = Logs::of(&http, nodes).await?;
        Ok(Spent { usage: Usage::of(&args.pids)?, logs })
    };
    let plan = Plan::new(args.seconds, args.rate);
    let measured = measure(load.workers(in_flight), plan, spent).await?;
    Row::new(workload, in_flight, args, &measured)
}

/// The rows as a page.
fn page_of(args: &LoadArgs, rows: &[Row], table: Table) -> Page {
    let pace = match args.rate {
        None => "each operation is followed by the next".to_owned(),
        Some(rate) => format!("{rate} operations a second, of which {WAITING_MAX} may wait"),
    };
    Page {
        title: "flotilla under load".to_owned(),
        facts: vec![
            fact("keys", format!("{}, {:?}", args.keys, args.distribution).to_lowercase()),
            fact("values", format!("{} bytes", args.value_bytes)),
            fact("measured", format!("{} s each, after a fifth of it", args.seconds)),
            fact("pace", pace),
        ],
        plots: row::plots(rows),
        tables: vec![("Measured".to_owned(), table)],
    }
}

async fn fill(client: &Client, args: &LoadArgs) -> Result<()> {
    let began = Instant::now();
    fill_cluster(client, args.keys, usize::try_from(args.value_bytes)?, FILLERS).await?;
    let seconds = began.elapsed().as_secs_f64();
    crate::say(&format!("{} keys of {} bytes in {seconds:.1} s", args.keys, args.value_bytes))
}

/// Writes every key of a cluster once, so many at a time.
pub(crate) async fn fill_cluster(client: &Client, keys: u64, value_bytes: usize, fillers: u32) -> Result<()> {
    let client = client.clone();
    let put = move |key, value| {
        let client = client.clone();
        async move { Ok(client.put(key, value).await.map(drop)?) }
    };
    fill_keys(keys, value_bytes, fillers, put).await
}

/// Writes every key once, so many at a time.
pub(crate) async fn fill_keys<P>(
    keys: u64,
    value_bytes: usize,
    fillers: u32,
    put: impl Fn(String, Vec<u8>) -> P + Clone + Send + 'static,
) -> Result<()>
where
    P: Future<Output = Result<()>> + Send,
{
    let mut tasks = JoinSet::new();
    for filler in 0..fillers {
        let put = put.clone();
        tasks.spawn(async move {
            let mut random = StdRng::seed_from_u64(filler.into());
            for number in (filler.into()..keys).step_by(usize::try_from(fillers)?) {
                put(key(number), keys::value(&mut random, value_bytes)).await?;
            }
            anyhow::Ok(())
        });
    }
    let mut finished = 0;
    while let Some(done) = tasks.join_next().await {
        done??;
        finished += 1;
    }
    ensure!(finished == fillers, "not all keys were written");
    Ok(())
}

#[cfg(test)]
#[derive(Debug, clap::Parser)]
struct Command {
    #[command(flatten)]
    load: LoadArgs,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn parse(arguments: &[&str]) -> Result<LoadArgs, clap::Error> {
        let arguments = std::iter::once("bench").chain(arguments.iter().copied());
        Command::try_parse_from(arguments).map(|command| command.load)
    }

    /// What would measure nothing is refused.
    #[test]
    fn arguments() {
        let load = parse(&["--in-flight", "1,2", "--workloads", "mixed-50,mixed-95,compare-and-set,scan"]);
        assert_eq!(load.expect("good arguments").in_flight(), [1, 2]);
        for bad in [
            "--keys=0",
            "--seconds=0",
            "--in-flight=0",
            "--rate=0",
            "--value-bytes=0",
            "--distribution=normal",
            "--workloads=delete",
        ] {
            assert!(parse(&[bad]).is_err(), "{bad}");
        }
    }

    /// A closed loop shows several concurrencies, a fixed rate one that does not stand in its way.
    #[test]
    fn concurrencies() {
        assert_eq!(parse(&[]).expect("good arguments").in_flight(), IN_FLIGHT);
        assert_eq!(parse(&["--rate", "500"]).expect("good arguments").in_flight(), IN_FLIGHT_AT_RATE);
    }

    /// The help tells the bound that holds.
    #[test]
    fn the_help_tells_the_bound() {
        use clap::CommandFactory;
        assert!(Command::command().render_long_help().to_string().contains(&WAITING_MAX.to_string()));
    }

    /// Every key is written once.
    #[tokio::test]
    async fn all_keys_are_written() {
        let written = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let log = written.clone();
        let put = move |key: String, value: Vec<u8>| {
            assert_eq!(value.len(), 9);
            log.lock().expect("no panic").push(key);
            std::future::ready(Ok(()))
        };
        fill_keys(1_000, 9, 64, put).await.expect("all succeed");
        let mut written = written.lock().expect("no panic").clone();
        written.sort_unstable();
        assert_eq!(written, (0..1_000).map(key).collect::<Vec<_>>());
        let failing = |_, _| std::future::ready(Err(anyhow::anyhow!("full")));
        assert_eq!(fill_keys(1, 9, FILLERS, failing).await.expect_err("it failed").to_string(), "full");
    }
}
