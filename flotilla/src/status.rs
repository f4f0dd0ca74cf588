//! `flotilla status`: the cluster at a glance. Owns the asking, all nodes at once and each with a deadline, so that
//! a dead node costs no more than that; what the answers add up to is `summary`'s.

mod summary;

use crate::arguments::{NOBODY_ADVICE, NODES_DEFAULT, nodes_help, parse_nodes, parse_timeout};
use crate::cause::innermost;
use crate::error::Error;
use crate::output::OutputFormat;
use crate::terminal::say;
use kvserver::service::{ClusterView, NodeStatus};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::time::Duration;
use summary::Summary;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

/// The most nodes that are asked.
const NODES_MAX: usize = 1 << 10;

/// How much longer than the first seed to answer the others are waited for: one may know a later map, and one that is
/// dead is to cost no more.
const OTHERS_TIME: Duration = Duration::from_millis(250);

/// No node's answer is longer.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Shows nodes, groups, leaders, terms, lags, disk and memory.
///
/// Asks the given nodes who belongs to the cluster, then every one of them for its own state. A node that does not
/// answer in time is shown as unreachable, and so are its replicas. A group is serving while its leader answers, was
/// confirmed by a quorum of late and has caught up with what it held before its start. It has NO LEADER where no node
/// that answers leads it, and is NOT SERVING where one does that has lost its quorum or is not ready yet.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flotilla status
  flotilla status --nodes 10.0.0.1:7101,10.0.0.2:7101 --output json

Exit codes: 0 every group is serving, 1 a group is not or nobody answered, 2 wrong command line.")]
pub(crate) struct StatusArgs {
    #[arg(long, value_name = "URL,URL", help = nodes_help())]
    pub(crate) nodes: Option<String>,
    /// What the answer looks like.
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
    /// How long to wait for each node: 500ms, 2s (or 2), 1m; at most 1m
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_timeout)]
    timeout: Duration,
}

/// One node's answer, or why there is none.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Report {
    /// The node's id, by its own word or else by the cluster's.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u64>,
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
    let cluster = cluster(&http, &seeds).await;
    let reports = reports(&http, whom_to_ask(&cluster, seeds)).await;
    if let Some(unreachable) = all_unreachable(&reports) {
        return Err(Error::Failed(format!("no node answered: {unreachable}; {NOBODY_ADVICE}")));
    }
    let summary = Summary::of(reports, &cluster.groups);
    say(&match args.output {
        OutputFormat::Text => summary.to_text(),
        OutputFormat::Json => {
            let json = serde_json::to_string(&summary).expect("plain data with text keys is JSON");
            json + "\n"
        }
    })?;
    Ok(if summary.all_serve() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// The nodes in `list`, each as `host:port`.
fn addresses(list: &str) -> Result<BTreeSet<String>, Error> {
    let addresses: BTreeSet<String> = parse_nodes(list)?.into_iter().collect();
    match addresses.len() {
        ..=NODES_MAX => Ok(addresses),
        more => Err(Error::Usage(format!("--nodes names more than {NODES_MAX} nodes: {more}"))),
    }
}

/// The cluster as the seed with the latest map describes it, of those that answer not long after the first; an empty one
/// where nobody does. One that was cut off, or has not caught up, would name nodes that are gone and leave out those
/// that came.
async fn cluster(http: &reqwest::Client, seeds: &BTreeSet<String>) -> ClusterView {
    let mut asking = JoinSet::new();
    for seed in seeds {
        let (http, seed) = (http.clone(), seed.clone());
        asking.spawn(async move { get::<ClusterView>(&http, &seed, "/v1/cluster").await });
    }
    let mut latest: Option<ClusterView> = None;
    let mut until = None;
    loop {
        let answer = match until {
            None => asking.join_next().await,
            Some(until) => timeout_at(until, asking.join_next()).await.unwrap_or(None),
        };
        match answer {
            None => return latest.unwrap_or_default(),
            Some(Ok(Ok(cluster))) => {
                until = until.or_else(|| Some(Instant::now() + OTHERS_TIME));
                latest = latest.into_iter().chain([cluster]).max_by_key(|cluster| cluster.epoch);
            }
            Some(Ok(Err(_)) | Err(_)) => {}
        }
    }
}

/// The members of the cluster by address, with their ids; where none are known, the seeds. Those are only where to
/// ask first: some may be nobody's, or another name of a member.
fn whom_to_ask(cluster: &ClusterView, seeds: BTreeSet<String>) -> BTreeMap<String, Option<u64>> {
    if cluster.nodes.is_empty() {
        return seeds.into_iter().map(|seed| (seed, None)).collect();
    }
    let nodes = cluster.nodes.iter().take(NODES_MAX);
    nodes.map(|node| (node.http.clone(), Some(node.id))).collect()
}

/// Every node's report, by id; those whose id is not known last, by address.
async fn reports(http: &reqwest::Client, nodes: BTreeMap<String, Option<u64>>) -> Vec<Report> {
    let mut asking = JoinSet::new();
    for (address, id) in nodes {
        let http = http.clone();
        asking.spawn(async move {
            match get::<NodeStatus>(&http, &address, "/v1/status").await {
                Ok(status) => Report { id: Some(status.id), address, status: Some(status), error: None },
                Err(error) => Report { id, address, status: None, error: Some(error) },
            }
        });
    }
    let mut reports = asking.join_all().await;
    reports.sort_by_key(|report| (report.id.unwrap_or(u64::MAX), report.address.clone()));
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

fn all_unreachable(reports: &[Report]) -> Option<String> {
    let errors =
        reports.iter().filter_map(|report| Some(format!("{}: {}", report.address, report.error.as_ref()?)));
    let errors: Vec<String> = errors.collect();
    (errors.len() == reports.len()).then(|| errors.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// A node that answers once, however it is asked, that the map is at `epoch`; its address.
    async fn node_at(tasks: &mut JoinSet<()>, epoch: u64) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound address").to_string();
        tasks.spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("it is asked");
            let mut head = [0; 1 << 12];
            let read = stream.read(&mut head).await.expect("a request");
            assert!(head[..read].starts_with(b"GET /v1/cluster "));
            let view = ClusterView { epoch, ..ClusterView::default() };
            let body = serde_json::to_string(&view).expect("plain data");
            let length = body.len();
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).await.expect("it listens");
        });
        address
    }

    /// Of several descriptions of the cluster the one by the latest map counts, whoever answers first.
    #[tokio::test]
    async fn the_latest_map_counts() {
        let (mut tasks, mut seeds) = (JoinSet::new(), BTreeSet::new());
        for epoch in [3, 9, 7] {
            seeds.insert(node_at(&mut tasks, epoch).await);
        }
        assert_eq!(cluster(&reqwest::Client::new(), &seeds).await.epoch, 9);
    }
}
