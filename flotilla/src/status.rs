//! `flotilla status`: the cluster at a glance. Owns the asking, all nodes at once and each with a deadline, so that
//! a dead node costs no more than that; what the answers add up to is `summary`'s.

mod summary;

use crate::arguments::{NODES_DEFAULT, nodes_help, parse_time};
use crate::error::Error;
use crate::output::OutputFormat;
use crate::terminal::say;
use kvserver::service::{ClusterView, NodeStatus};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::error::Error as _;
use std::process::ExitCode;
use std::time::Duration;
use summary::Summary;
use tokio::task::JoinSet;

/// The longest time that `--timeout` gives each node.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// The most nodes that are asked.
const NODES_MAX: usize = 1 << 10;

/// No node's answer is longer.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Shows nodes, groups, leaders, terms, lags, disk and memory.
///
/// Asks the given nodes who belongs to the cluster, then every one of them for its own state. A node that does not
/// answer in time is shown as unreachable.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flotilla status
  flotilla status --nodes 10.0.0.1:7101,10.0.0.2:7101 --output json

Exit codes: 0 every group has a leader, 1 a group has none or nobody answered, 2 wrong command line.")]
pub(crate) struct StatusArgs {
    #[arg(long, value_name = "URL,URL", help = nodes_help())]
    pub(crate) nodes: Option<String>,
    /// What the answer looks like.
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
    /// How long to wait for each node: 500ms, 2s; at most 1m
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_timeout)]
    timeout: Duration,
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    let timeout = parse_time(text)?;
    let fits = !timeout.is_zero() && timeout <= TIMEOUT_MAX;
    if fits { Ok(timeout) } else { Err(format!("must be above 0 and at most 1m: {text}")) }
}

/// One node's answer, or why there is none.
#[derive(Debug, PartialEq, Serialize)]
struct Report {
    address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<NodeStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Runs the command.
pub(crate) async fn run(args: StatusArgs) -> Result<ExitCode, Error> {
    let seeds = addresses(args.nodes.as_deref().unwrap_or(NODES_DEFAULT))?;
    let http = reqwest::Client::builder()
        .timeout(args.timeout)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()
        .map_err(|error| Error::Failed(format!("cannot make HTTP requests: {error}")))?;
    let members = members(&http, &seeds).await;
    // The seeds are only where to ask: some may be nobody's, or another name of a member.
    let reports = reports(&http, if members.is_empty() { seeds } else { members }).await;
    if let Some(unreachable) = all_unreachable(&reports) {
        return Err(Error::Failed(format!("no node answered: {unreachable}")));
    }
    let summary = Summary::of(reports);
    say(&match args.output {
        OutputFormat::Text => summary.to_text(),
        OutputFormat::Json => {
            let json = serde_json::to_string(&summary).expect("plain data with text keys is JSON");
            json + "\n"
        }
    })?;
    Ok(if summary.all_led() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// The nodes in `list`, each as `host:port`.
fn addresses(list: &str) -> Result<BTreeSet<String>, Error> {
    let mut addresses = BTreeSet::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let bare = part.strip_prefix("http://").unwrap_or(part).trim_end_matches('/');
        let is_address =
            bare.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        if !is_address || bare.contains(['/', '?', '#', '@', ' ']) {
            return Err(Error::Usage(format!(
                "--nodes takes host:port, separated by commas, not \"{part}\""
            )));
        }
        addresses.insert(bare.to_owned());
    }
    match addresses.len() {
        0 => Err(Error::Usage("--nodes names no node".into())),
        1..=NODES_MAX => Ok(addresses),
        more => Err(Error::Usage(format!("--nodes names more than {NODES_MAX} nodes: {more}"))),
    }
}

/// Where the members of the cluster are reached, as the first seed to answer says; none where nobody does.
async fn members(http: &reqwest::Client, seeds: &BTreeSet<String>) -> BTreeSet<String> {
    let mut asking = JoinSet::new();
    for seed in seeds {
        let (http, seed) = (http.clone(), seed.clone());
        asking.spawn(async move { get::<ClusterView>(&http, &seed, "/v1/cluster").await });
    }
    while let Some(answer) = asking.join_next().await {
        if let Ok(Ok(cluster)) = answer {
            return cluster.nodes.into_iter().map(|node| node.http).take(NODES_MAX).collect();
        }
    }
    BTreeSet::new()
}

/// Every node's report, reachable ones by id, then the others by address.
async fn reports(http: &reqwest::Client, addresses: BTreeSet<String>) -> Vec<Report> {
    let mut asking = JoinSet::new();
    for address in addresses {
        let http = http.clone();
        asking.spawn(async move {
            match get::<NodeStatus>(&http, &address, "/v1/status").await {
                Ok(status) => Report { address, status: Some(status), error: None },
                Err(error) => Report { address, status: None, error: Some(error) },
            }
        });
    }
    let mut reports = asking.join_all().await;
    reports.sort_by_key(|report| {
        (report.status.as_ref().map_or(u64::MAX, |status| status.id), report.address.clone())
    });
    // A seed may be another name of a member.
    reports.dedup_by_key(|report| match &report.status {
        Some(status) => format!("{} {}", status.cluster, status.id),
        None => report.address.clone(),
    });
    reports
}

async fn get<T: DeserializeOwned>(http: &reqwest::Client, address: &str, path: &str) -> Result<T, String> {
    let mut response = http.get(format!("http://{address}{path}")).send().await.map_err(innermost)?;
    if !response.status().is_success() {
        return Err(format!("answered {}", response.status()));
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(innermost)? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(format!("answered more than {ANSWER_BYTES_MAX} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    serde_json::from_slice(&body).map_err(|error| format!("answered what is no status of a node: {error}"))
}

/// The cause at the end of the chain: "connection refused" rather than "error sending request".
fn innermost(error: reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".into();
    }
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        message = cause.to_string();
        source = cause.source();
    }
    message
}

fn all_unreachable(reports: &[Report]) -> Option<String> {
    let errors =
        reports.iter().filter_map(|report| Some(format!("{}: {}", report.address, report.error.as_ref()?)));
    let errors: Vec<String> = errors.collect();
    (errors.len() == reports.len()).then(|| errors.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A time without a unit means seconds, so that milliseconds of old are refused rather than awaited.
    #[test]
    fn timeouts_are_bounded() {
        assert_eq!(parse_timeout("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_timeout("1m"), Ok(TIMEOUT_MAX));
        for bad in ["0", "0ms", "61s", "2000"] {
            parse_timeout(bad).expect_err(bad);
        }
    }

    /// Nodes are given as addresses or plain URLs; anything else is refused by name.
    #[test]
    fn node_lists() {
        let good = addresses("http://a:1/, b:2,,a:1").expect("good addresses");
        assert_eq!(good.into_iter().collect::<Vec<_>>(), ["a:1", "b:2"]);
        for bad in ["", ",", "a", "a:b", ":1", "https://a:1", "a:1/path"] {
            addresses(bad).expect_err(bad);
        }
    }
}
