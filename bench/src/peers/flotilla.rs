//! Three nodes of flotilla, each a process of its own with its settings as they are by default.

use super::NODES;
use super::http::{Dialect, Gateway};
use super::store::{Doors, Native};
use crate::ports;
use crate::servers::{Program, Servers};
use anyhow::{Context, Result};
use client::{Client, GroupId};
use std::path::Path;

/// The group that holds the keys: a cluster is born with one beside the controller's.
const GROUP: GroupId = GroupId(1);

/// What to do where the executable is gone, which is this very program.
const ADVICE: &str = "it is the program that measures: was it replaced meanwhile?";

/// The nodes, as they were started.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) pids: Vec<u32>,
    /// Where they answer HTTP, `host:port`.
    http: Vec<String>,
}

impl Cluster {
    /// Starts the nodes, and waits until each is ready.
    pub(super) async fn start(servers: &mut Servers, executable: &Path, dir: &Path) -> Result<Self> {
        let ports: [u16; 2 * NODES] = ports::free()?;
        let address = |port: &u16| format!("127.0.0.1:{port}");
        let (peers, http) = ports.split_at(NODES);
        let peers: Vec<String> = peers.iter().map(address).collect();
        let http: Vec<String> = http.iter().map(address).collect();
        let nodes = peers.iter().zip(&http).zip(1..);
        let members: Vec<String> =
            nodes.clone().map(|((peer, http), node)| format!("{node}={peer}/{http}")).collect();
        let members = members.join(",");
        let mut pids = Vec::new();
        for ((peer, http), node) in nodes {
            let (node, data) = (node.to_string(), dir.join(format!("flotilla-{node}")));
            let text = ["server", "--node", &node, "--members", &members, "--peer-listen", peer];
            let mut arguments: Vec<_> = text.map(Into::into).into();
            arguments.extend(["--http-listen".into(), http.into(), "--data".into(), data.into()]);
            let name = format!("flotilla node {node}");
            pids.push(servers.start(Program { name, path: executable, arguments, advice: ADVICE })?);
        }
        let pages = crate::http()?;
        let ready = async || {
            for node in &http {
                let answer = pages.get(format!("http://{node}/readyz")).send().await?;
                answer.error_for_status()?;
            }
            Ok(())
        };
        servers.until("flotilla's nodes are ready", ready).await?;
        Ok(Self { pids, http })
    }

    /// One client for all workers, as an application has: what many of them ask at the same time travels together.
    pub(super) async fn connect(&self) -> Result<Doors> {
        let client = Client::connect(self.http.iter().map(String::as_str)).await?;
        let cluster = client.cluster().await?;
        let leader = cluster.group(GROUP).and_then(|group| group.leader).context("nobody leads the keys")?;
        let leader = cluster.nodes.iter().find(|node| node.id == leader).context("the leader is unknown")?;
        Ok(Doors {
            http: Some(Gateway { dialect: Dialect::Flotilla, address: leader.http.clone() }),
            natives: vec![Native::Flotilla(client)],
            about: format!(
                "{}, {NODES} nodes, default settings; its Rust client, one for all; HTTP: the leader",
                env!("CARGO_PKG_VERSION")
            ),
        })
    }
}
