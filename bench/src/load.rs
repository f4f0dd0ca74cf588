//! Closed-loop load: so many operations in flight, each followed by the next, for so long. Prints a row for each
//! workload and concurrency with throughput, latencies, and what the servers spent: CPU per operation (from
//! `/proc` of the given processes) and syncs of the log per operation (from their metrics).

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use client::Client;
use hdrhistogram::Histogram;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use std::fmt::Write as _;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// What to load a cluster with.
#[derive(Debug, Args)]
pub struct LoadArgs {
    /// The servers' processes, for their CPU time.
    #[arg(long, value_delimiter = ',')]
    pids: Vec<u32>,
    /// What to do.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "put,get")]
    workloads: Vec<Workload>,
    /// How many operations to keep in flight.
    #[arg(long, value_delimiter = ',', default_value = "1,64,256", value_parser = clap::value_parser!(u32).range(1..))]
    in_flight: Vec<u32>,
    /// How long to measure each, in seconds, after a fifth of it unmeasured.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// The values' size in bytes.
    #[arg(long, default_value_t = 256)]
    value_bytes: usize,
    /// How many keys there are; operations pick among them uniformly.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    keys: u64,
    /// Writes every key once, and measures nothing.
    #[arg(long)]
    fill: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Workload {
    /// Replaces values.
    Put,
    /// Reads values, linearizably.
    Get,
}

/// What the servers spent so far.
#[derive(Clone, Copy, Debug, Default)]
struct Spent {
    cpu: Duration,
    syncs: u64,
    log_bytes: u64,
}

impl Spent {
    /// What was spent since `before`; an error where a counter went back, as it does with a new process.
    fn since(self, before: Self) -> Result<Self> {
        let spent = || {
            Some(Self {
                cpu: self.cpu.checked_sub(before.cpu)?,
                syncs: self.syncs.checked_sub(before.syncs)?,
                log_bytes: self.log_bytes.checked_sub(before.log_bytes)?,
            })
        };
        spent().context("a server was restarted while it was measured: its counters went back")
    }
}

/// Loads the cluster of `nodes`, each as `http://host:port`, and prints a row for each workload and concurrency.
///
/// # Errors
/// The first operation that failed; nothing is measured over a failure.
pub async fn run(nodes: &[String], args: &LoadArgs) -> Result<()> {
    let client = Client::connect(nodes.iter().map(String::as_str)).await?;
    let http = crate::http()?;
    if args.fill {
        return fill(&client, args).await;
    }
    crate::say(
        "workload  in flight      ops/s   p50 ms   p99 ms   max ms  server µs/op  syncs/op  log bytes/op",
    )?;
    for &workload in &args.workloads {
        for &in_flight in &args.in_flight {
            measure(&client, &http, nodes, args, workload, in_flight).await?;
        }
    }
    Ok(())
}

fn key(number: u64) -> String {
    format!("bench/{number:016}")
}

async fn fill(client: &Client, args: &LoadArgs) -> Result<()> {
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    let writers = 256;
    for writer in 0..writers {
        let (client, keys, bytes) = (client.clone(), args.keys, args.value_bytes);
        tasks.spawn(async move {
            let mut random = StdRng::seed_from_u64(writer);
            for number in (writer..keys).step_by(usize::try_from(writers)?) {
                client.put(key(number), value(&mut random, bytes)).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    crate::say(&format!(
        "{} keys of {} bytes in {:.1} s",
        args.keys,
        args.value_bytes,
        began.elapsed().as_secs_f64()
    ))
}

fn value(random: &mut StdRng, bytes: usize) -> Vec<u8> {
    let mut value = vec![0; bytes];
    random.fill_bytes(&mut value);
    value
}

async fn measure(
    client: &Client,
    http: &reqwest::Client,
    nodes: &[String],
    args: &LoadArgs,
    workload: Workload,
    in_flight: u32,
) -> Result<()> {
    let warm_until = Instant::now() + Duration::from_secs(args.seconds) / 5;
    let until = warm_until + Duration::from_secs(args.seconds);
    let mut tasks = JoinSet::new();
    for worker in 0..in_flight {
        let (client, keys, bytes) = (client.clone(), args.keys, args.value_bytes);
        tasks.spawn(async move {
            let mut random = StdRng::seed_from_u64(worker.into());
            let mut latencies = Histogram::<u64>::new(3)?;
            while Instant::now() < until {
                let key = key(random.random_range(0..keys));
                let began = Instant::now();
                match workload {
                    Workload::Put => {
                        client.put(key, value(&mut random, bytes)).await?;
                    }
                    Workload::Get => {
                        let value = client.get(&key).await?;
                        value
                            .with_context(|| format!("no key {key}: write all of them with --fill first"))?;
                    }
                }
                if began >= warm_until {
                    latencies.record(u64::try_from(began.elapsed().as_micros())?)?;
                }
            }
            anyhow::Ok(latencies)
        });
    }
    tokio::time::sleep_until(warm_until).await;
    let before = spent(http, nodes, args).await?;
    tokio::time::sleep_until(until).await;
    let after = spent(http, nodes, args).await?;
    let mut all = Histogram::<u64>::new(3)?;
    while let Some(done) = tasks.join_next().await {
        all.add(done??)?;
    }
    let operations = all.len().max(1) as f64;
    let millis = |micros: u64| micros as f64 / 1e3;
    let mut row = format!("{workload:<8?}  {in_flight:>9}  {:>9.0}", operations / args.seconds as f64);
    for quantile in [0.5, 0.99, 1.0] {
        write!(row, "  {:>7.2}", millis(all.value_at_quantile(quantile)))?;
    }
    let spent = after.since(before)?;
    let cpu = per_operation(spent.cpu, operations, &args.pids);
    let syncs = spent.syncs as f64 / operations;
    let bytes = spent.log_bytes as f64 / operations;
    write!(row, "  {cpu:>12}  {syncs:>8.3}  {bytes:>12.0}")?;
    crate::say(&row)
}

/// Microseconds for each operation, where the processes are known that spent them.
fn per_operation(cpu: Duration, operations: f64, pids: &[u32]) -> String {
    if pids.is_empty() { "-".into() } else { format!("{:.1}", cpu.as_micros() as f64 / operations) }
}

async fn spent(http: &reqwest::Client, nodes: &[String], args: &LoadArgs) -> Result<Spent> {
    let mut spent = Spent::default();
    for &pid in &args.pids {
        spent.cpu += cpu_time(pid)?;
    }
    for node in nodes {
        let page = http.get(format!("{node}/metrics")).send().await?.text().await?;
        spent.syncs += metric(&page, "flotilla_log_syncs_total")?;
        spent.log_bytes += metric(&page, "flotilla_log_bytes_total")?;
    }
    Ok(spent)
}

fn metric(page: &str, name: &str) -> Result<u64> {
    let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value
        .with_context(|| format!("metrics have no {name}"))?
        .parse()
        .with_context(|| format!("metric {name}"))
}

/// User and system time of a process, by the kernel's clock ticks of 10 ms.
fn cpu_time(pid: u32) -> Result<Duration> {
    let stat =
        std::fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid}"))?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let (Some(user), Some(system)) = (fields.get(11), fields.get(12)) else {
        bail!("process {pid} has no times")
    };
    Ok(Duration::from_millis(10 * (user.parse::<u64>()? + system.parse::<u64>()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        load: LoadArgs,
    }

    /// What would measure nothing is refused.
    #[test]
    fn arguments() {
        let load = Command::try_parse_from(["bench", "--in-flight", "1,2"]).expect("good arguments").load;
        assert_eq!(load.in_flight, [1, 2]);
        for bad in ["--keys=0", "--seconds=0", "--in-flight=0"] {
            assert!(Command::try_parse_from(["bench", bad]).is_err(), "{bad}");
        }
    }

    /// Where no process was named, nothing is said of what they spent, not that it was nothing.
    #[test]
    fn unknown_costs_are_not_zero() {
        let spent = Duration::from_micros(250);
        assert_eq!(per_operation(spent, 100.0, &[7]), "2.5");
        assert_eq!(per_operation(Duration::ZERO, 100.0, &[]), "-");
    }

    /// Counters that went back are an error that says why, no panic.
    #[test]
    fn restarts_are_told() {
        let before = Spent { cpu: Duration::from_millis(20), syncs: 7, log_bytes: 70 };
        assert_eq!(before.since(Spent::default()).expect("counters grew").syncs, 7);
        assert!(Spent { syncs: 6, ..before }.since(before).is_err());
    }
}
