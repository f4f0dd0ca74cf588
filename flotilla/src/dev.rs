//! `flotilla dev`: a whole cluster in one process on loopback, to try things out. Owns where its data lives and
//! that nothing of it is left behind; each node runs exactly as under `flotilla server`.

mod place;

pub(crate) use place::Place;

use crate::config::{Config, Members};
use crate::error::Error;
use crate::running;
use crate::server::at_once;
use crate::signals::Signals;
use crate::terminal::say;
use kvserver::Node;
use proto::NodeId;
use raftstore::Address;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Peers listen this far above the HTTP ports.
const PEER_PORTS_ABOVE: u16 = 100;

/// What to do about a port that is taken.
const TAKEN_PORT_ADVICE: &str = "stop what listens there, or choose other ports with --port";

/// How long the nodes may take to elect their leaders.
const READY_DEADLINE: Duration = Duration::from_secs(30);

/// How long the nodes may take to stop. Short: all stop together, so that nobody is left to take leaderships over.
const STOP_DEADLINE: Duration = Duration::from_secs(1);

/// Runs a whole cluster in this process, on loopback, to try things out.
///
/// Node 1 answers HTTP on --port + 1, node 2 on --port + 2, and so on; the nodes talk to each other on --port + 101
/// and so on. Without --data, everything lives in a fresh temporary directory that is removed at the end.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flotilla dev                            three nodes on 127.0.0.1:7101 to 7103
  curl -T README.md http://127.0.0.1:7101/v1/kv/readme
  curl http://127.0.0.1:7102/v1/kv/readme
  flotilla dev --nodes 5 --groups 4 --data ./dev-data

Ctrl-C stops all nodes and exits with 0; a second Ctrl-C exits at once. A directory given with --data is kept, and
goes on where it stopped when it is given again.
Exit codes: 0 stopped as told, 1 a node could not start or had to stop, 2 wrong command line.")]
pub(crate) struct DevArgs {
    /// How many nodes.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    nodes: u16,
    /// How many data groups the shards are spread over.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    groups: u32,
    /// The port below node 1's.
    #[arg(long, value_name = "PORT", default_value_t = 7100, value_parser = clap::value_parser!(u16).range(1..=65400))]
    port: u16,
    /// Keeps the data in this directory, created where absent.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

impl DevArgs {
    fn http(&self, node: u16) -> String {
        format!("127.0.0.1:{}", self.port + node)
    }

    fn peer(&self, node: u16) -> String {
        format!("127.0.0.1:{}", self.port + PEER_PORTS_ABOVE + node)
    }

    /// Refuses a port that is taken before anything is made.
    pub(crate) fn check_ports(&self) -> Result<(), Error> {
        let of_node = |node| [(node, self.http(node)), (node, self.peer(node))];
        let addresses: Vec<(u16, String)> = (1..=self.nodes).flat_map(of_node).collect();
        let addresses: Vec<(NodeId, &str)> =
            addresses.iter().map(|(node, address)| (NodeId((*node).into()), address.as_str())).collect();
        running::check_addresses(&addresses, TAKEN_PORT_ADVICE)
    }

    /// Node `node`'s configuration, with its data below `data`.
    fn config(&self, node: u16, data: &Path) -> Config {
        let address = |node| Address { peer: self.peer(node), http: self.http(node) };
        Config {
            cluster: "dev".into(),
            node: node.into(),
            data: data.join(format!("n{node}")),
            peer_listen: self.peer(node),
            http_listen: self.http(node),
            groups: self.groups,
            members: Members((1..=self.nodes).map(|node| (NodeId(node.into()), address(node))).collect()),
            ..Config::default()
        }
    }
}

/// Runs the cluster until a signal or until a node must stop. The caller drops `place` after the runtime.
pub(crate) async fn run(args: DevArgs, place: &Place) -> Result<ExitCode, Error> {
    let mut signals = Signals::catch()?;
    let nodes = tokio::select! {
        nodes = start(&args, place.path()) => nodes?,
        _ = signals.recv() => return Ok(ExitCode::SUCCESS),
    };
    let (stop, stopped) = watch::channel(false);
    let mut running = JoinSet::new();
    for node in nodes {
        running.spawn(running::until_stopped(node, stopped.clone(), STOP_DEADLINE));
    }
    tokio::select! {
        // Whichever ends unasked has failed; its neighbours are stopped in good order below.
        Some(ended) = running.join_next() => {
            stop.send_replace(true);
            let reason = ended_alone(ended);
            tokio::select! {
                _ = running.join_all() => {}
                _ = signals.recv() => {}
            }
            Err(reason)
        }
        signal = signals.recv() => {
            tracing::info!(signal, "nodes stop, again to stop at once");
            stop.send_replace(true);
            tokio::select! {
                results = running.join_all() => results.into_iter().collect::<Result<(), _>>().map(|()| ExitCode::SUCCESS),
                _ = signals.recv() => Ok(at_once()),
            }
        }
    }
}

fn ended_alone(ended: Result<Result<(), Error>, tokio::task::JoinError>) -> Error {
    match ended {
        Ok(Err(error)) => error,
        Ok(Ok(())) => Error::Failed("a node stopped although nobody asked it to".into()),
        Err(error) => Error::Failed(format!("a node's task ended: {error}")),
    }
}

/// Starts every node and waits until each answers and every group has a leader. On an error those that run are
/// stopped again.
async fn start(args: &DevArgs, data: &Path) -> Result<Vec<Node>, Error> {
    let mut nodes = Vec::new();
    let outcome = start_each(args, data, &mut nodes).await;
    if let Err(error) = outcome {
        let stops = nodes.into_iter().map(|node| node.shutdown(Duration::ZERO));
        let mut stopping: JoinSet<_> = stops.collect();
        while let Some(stopped) = stopping.join_next().await {
            tracing::debug!(?stopped, "node stopped, since another could not start");
        }
        return Err(error);
    }
    Ok(nodes)
}

async fn start_each(args: &DevArgs, data: &Path, nodes: &mut Vec<Node>) -> Result<(), Error> {
    for node in 1..=args.nodes {
        let config = args.config(node, data);
        config.validate()?;
        nodes.push(running::start((&config).into(), TAKEN_PORT_ADVICE).await?);
    }
    for node in &*nodes {
        let id = node.node();
        tokio::select! {
            ready = node.ready(READY_DEADLINE) => ready
                .map_err(|missing| Error::Failed(format!("{id} is not ready after {READY_DEADLINE:?}: {missing}")))?,
            reason = node.failed() => return Err(Error::Failed(format!("{id} had to stop: {reason}"))),
        }
    }
    say(&greeting(args, data))
}

fn greeting(args: &DevArgs, data: &Path) -> String {
    let urls: Vec<String> = (1..=args.nodes).map(|node| format!("http://{}", args.http(node))).collect();
    let kept = if args.data.is_some() { "kept" } else { "removed at the end" };
    format!("ready: {}  (data in {}, {kept}; Ctrl-C stops)\n", urls.join(" "), data.display())
}
