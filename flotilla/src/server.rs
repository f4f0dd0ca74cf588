//! `flotilla server`: one node in the foreground, from a configuration to a signal.

use crate::config::{self, Config, Layers};
use crate::error::Error;
use crate::running;
use crate::signals::Signals;
use crate::terminal::say;
use proto::NodeId;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tokio::sync::watch;

/// How long a node may take to hand its leaderships over and finish what it was asked.
const STOP_DEADLINE: Duration = Duration::from_secs(6);

/// What to do about an address that is taken.
const TAKEN_ADDRESS_ADVICE: &str =
    "stop what listens there, or choose another address with --peer-listen or --http-listen";

/// Runs one node of a cluster until SIGINT or SIGTERM.
///
/// Settings are read from the file, then from environment variables (FLOTILLA_HTTP_LISTEN sets http_listen,
/// FLOTILLA_RAFT_HEARTBEAT_INTERVAL_MS sets raft.heartbeat_interval_ms), then from flags; the last one said holds.
/// Every setting can be given in each of the three ways.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flotilla server --sample-config > node.toml     a configuration with every field explained
  flotilla server --config node.toml
  flotilla server --node 4 --join 10.0.0.1:7201 --peer-listen 10.0.0.4:7201 --http-listen 10.0.0.4:7101 --insecure
  flotilla server --config node.toml --set raft.heartbeat_interval_ms=200

The first SIGINT or SIGTERM hands leadership over, finishes requests and exits with 0; a second one exits at once.
Exit codes: 0 stopped as told, 1 could not start or had to stop, 2 wrong command line or configuration.")]
pub(crate) struct ServerArgs {
    /// The configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Prints a configuration with every field at its default and explained, and exits.
    #[arg(long)]
    sample_config: bool,
    /// This node's id.
    #[arg(long, value_name = "ID")]
    node: Option<String>,
    /// The directory of this node's data.
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
    /// Where to listen for other nodes.
    #[arg(long, value_name = "HOST:PORT")]
    peer_listen: Option<String>,
    /// Where to listen for clients.
    #[arg(long, value_name = "HOST:PORT")]
    http_listen: Option<String>,
    /// All members of the cluster: 1=PEER_HOST:PORT/HTTP_HOST:PORT,2=…
    #[arg(long, value_name = "ID=PEER/HTTP,…")]
    members: Option<String>,
    /// A cluster that runs, to be joined: peer addresses of any of its nodes.
    #[arg(long, value_name = "HOST:PORT,…")]
    join: Option<String>,
    /// Listens beyond loopback although nothing is encrypted and nobody is asked who they are.
    #[arg(long)]
    insecure: bool,
    /// Any setting, by the path it has in the file; may be repeated.
    #[arg(long, value_name = "FIELD=VALUE")]
    set: Vec<String>,
}

impl ServerArgs {
    /// What the flags set, as `field=value`; the named ones last, so that they hold.
    fn settings(&self) -> Vec<String> {
        let named = [
            ("node", &self.node),
            ("data", &self.data),
            ("peer_listen", &self.peer_listen),
            ("http_listen", &self.http_listen),
            ("members", &self.members),
            ("join", &self.join),
        ];
        let named =
            named.into_iter().filter_map(|(field, value)| Some(format!("{field}={}", value.as_ref()?)));
        let insecure = self.insecure.then(|| "insecure=true".to_owned());
        self.set.iter().cloned().chain(named).chain(insecure).collect()
    }
}

/// Runs the command; `environment` is the process's.
pub(crate) async fn run(args: ServerArgs, environment: Vec<(String, String)>) -> Result<ExitCode, Error> {
    if args.sample_config {
        say(config::SAMPLE)?;
        return Ok(ExitCode::SUCCESS);
    }
    let settings = args.settings();
    let (config, warnings) = config::load(args.config.as_deref(), &Layers { environment, flags: &settings })?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    serve(config).await
}

async fn serve(config: Config) -> Result<ExitCode, Error> {
    let mut signals = Signals::catch()?;
    let id = NodeId(config.node);
    running::check_addresses(&[(id, &config.peer_listen), (id, &config.http_listen)], TAKEN_ADDRESS_ADVICE)?;
    let node = tokio::select! {
        node = running::start((&config).into(), TAKEN_ADDRESS_ADVICE) => node?,
        signal = signals.recv() => {
            tracing::info!(signal, "told to stop before the start was over");
            return Ok(ExitCode::SUCCESS);
        }
    };
    let http = node.http_address();
    tracing::info!(node = %node.node(), cluster = config.cluster, %http, peer = config.peer_listen, "node is up");
    let (stop, stopped) = watch::channel(false);
    let mut running = tokio::spawn(running::until_stopped(node, stopped, STOP_DEADLINE));
    let signal = tokio::select! {
        ended = &mut running => return ended_alone(ended),
        signal = signals.recv() => signal,
    };
    tracing::info!(signal, "node stops, again to stop at once");
    stop.send_replace(true);
    tokio::select! {
        ended = running => ended_alone(ended),
        _ = signals.recv() => Ok(at_once()),
    }
}

/// The exit code that shells give to what Ctrl-C ended.
pub(crate) fn at_once() -> ExitCode {
    ExitCode::from(130)
}

fn ended_alone(ended: Result<Result<(), Error>, tokio::task::JoinError>) -> Result<ExitCode, Error> {
    match ended {
        Ok(result) => result.map(|()| ExitCode::SUCCESS),
        Err(error) => Err(Error::Failed(format!("the node's task ended: {error}"))),
    }
}
