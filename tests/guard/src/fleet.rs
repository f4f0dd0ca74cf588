//! Three nodes as they are built for use, with the settings that they have by default, on a network and disks in
//! memory. Nothing goes wrong there: no link is lossy, no disk refuses.

use anyhow::{Context, Result, anyhow};
use client::{Client, Config};
use kvserver::{Node, NodeConfig};
use proto::NodeId;
use raftstore::{Address, Link, SimulatedClock, SimulatedDisk, SimulatedNetwork};
use simulated_http::Http;
use std::sync::Arc;
use std::time::Duration;

/// How long bytes are on their way from host to host, and how long a sync takes: tokio's timers know nothing shorter.
const DELAY: Duration = Duration::from_millis(1);

/// What the nodes' clocks show at first.
const BEGIN_MS: u64 = 1_700_000_000_000;

/// Within which the cluster is formed, by the simulated clock.
const FORMING_TIME_MAX: Duration = Duration::from_secs(60);

const NODES: std::ops::RangeInclusive<u64> = 1..=3;

/// The client's host.
const CLIENT: &str = "10.0.1.1";

fn host(node: u64) -> String {
    format!("10.0.0.{node}")
}

fn address(node: u64) -> Address {
    Address { peer: format!("{}:7201", host(node)), http: format!("{}:7101", host(node)) }
}

fn config(node: u64) -> NodeConfig {
    let members = NODES.map(|node| (NodeId(node), address(node))).collect();
    NodeConfig::founder("guard", NodeId(node), members)
}

/// See the module; the nodes run for as long as it lives.
pub struct Fleet {
    network: SimulatedNetwork,
    nodes: Vec<Node>,
}

impl Fleet {
    /// Starts the nodes and waits until they are ready.
    ///
    /// # Errors
    /// What a node says that is not.
    pub async fn start() -> Result<Self> {
        let network = SimulatedNetwork::new();
        network.set_default_link(Link { delay_min: DELAY, delay_max: DELAY, ..Link::default() });
        let mut nodes = Vec::new();
        for node in NODES {
            let disk = SimulatedDisk::new();
            disk.set_sync_delay(DELAY);
            let (host, clock) = (network.host(&host(node)), SimulatedClock::starting_at(BEGIN_MS));
            let started =
                Node::start_within(config(node), Arc::new(disk), host.clone(), host, Arc::new(clock)).await;
            nodes.push(started.with_context(|| format!("n{node} does not start"))?);
        }
        for node in &nodes {
            let missing = node.ready(FORMING_TIME_MAX).await;
            missing.map_err(|missing| anyhow!("{} is not ready: {missing}", node.node()))?;
        }
        Ok(Self { network, nodes })
    }

    /// A client of theirs.
    ///
    /// # Errors
    /// The client's.
    pub async fn connect(&self, seed: u64) -> Result<Client> {
        let seeds = self.nodes.iter().map(|node| address(node.node().0).http).collect();
        let config = Config { seeds, seed: Some(seed), ..Config::default() };
        let http = Http::new(self.network.host(CLIENT));
        let builder = Client::builder().config(config).transport(Arc::new(http));
        builder.connect().await.context("the client is not connected")
    }

    /// How often something was written to the network, and how many bytes that were.
    pub fn sent(&self) -> (u64, u64) {
        let hosts: Vec<String> = NODES.map(host).chain([CLIENT.to_owned()]).collect();
        let links = hosts.iter().flat_map(|from| hosts.iter().map(move |to| self.network.counters(from, to)));
        links.fold((0, 0), |(writes, bytes), link| (writes + link.writes, bytes + link.bytes))
    }
}
