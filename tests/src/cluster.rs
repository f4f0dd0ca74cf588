//! A cluster of processes, with its directory, its ports and its members' configuration.

use crate::{Node, Ports, Program, eventually};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use tempfile::TempDir;

/// What a cluster looks like before it is started.
#[derive(Clone, Debug)]
pub struct Shape {
    /// How many nodes.
    pub nodes: u16,
    /// How many data groups.
    pub groups: u32,
    /// Any settings, as `field=value`, the same on every node.
    pub settings: Vec<String>,
    /// What every node is.
    pub program: Program,
}

impl Default for Shape {
    fn default() -> Self {
        Self { nodes: 3, groups: 1, settings: Vec::new(), program: Program::default() }
    }
}

impl Shape {
    /// With elections that take a quarter of the usual time: for tests that have many.
    #[must_use]
    pub fn with_fast_elections(mut self) -> Self {
        let settings =
            ["heartbeat_interval_ms=40", "election_timeout_ms_min=200", "election_timeout_ms_max=400"];
        self.settings.extend(settings.map(|setting| format!("raft.{setting}")));
        self
    }
}

/// Several nodes that know each other. Dropping it kills them and removes their data.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
    directory: TempDir,
    /// Where each node takes other nodes' connections.
    peers: BTreeMap<u64, String>,
    /// What every node is told.
    settings: Vec<String>,
    program: Program,
}

impl Cluster {
    /// Starts the nodes and waits until all are ready.
    ///
    /// # Panics
    /// If they are not ready in time.
    pub async fn start(shape: Shape) -> Self {
        let mut cluster = Self::prepare(&shape);
        cluster.start_all().await;
        cluster
    }

    /// The nodes, not started yet.
    fn prepare(shape: &Shape) -> Self {
        let directory =
            tempfile::Builder::new().prefix("flotilla-test-").tempdir().expect("a temporary directory");
        let ports = Ports::take(2 * shape.nodes);
        let (peer, http) = (|node: u16| ports.address(2 * node), |node: u16| ports.address(2 * node + 1));
        let member = |node| format!("{}={}/{}", node + 1, peer(node), http(node));
        let members: Vec<String> = (0..shape.nodes).map(member).collect();
        let nodes = (0..shape.nodes).map(|node| {
            let name = format!("n{}", node + 1);
            let data = directory.path().join(&name);
            let mut settings = vec![
                format!("node={}", node + 1),
                format!("data={}", data.display()),
                format!("peer_listen={}", peer(node)),
                format!("http_listen={}", http(node)),
                format!("groups={}", shape.groups),
                format!("members={}", members.join(",")),
            ];
            settings.extend(shape.settings.iter().cloned());
            let args = settings.into_iter().flat_map(|setting| ["--set".into(), setting]).collect();
            let log = directory.path().join(format!("{name}.log"));
            Node::new(u64::from(node) + 1, args, http(node), log).run_by(shape.program.clone())
        });
        let peers = (0..shape.nodes).map(|node| (u64::from(node) + 1, peer(node))).collect();
        let (settings, program) = (shape.settings.clone(), shape.program.clone());
        Self { nodes: nodes.collect(), directory, peers, settings, program }
    }

    /// Adds node `id`, which joins the others by asking `seeds`, in their order, and is not started yet.
    ///
    /// # Panics
    /// If there is such a node, or a seed is none.
    pub fn add(&mut self, id: u64, seeds: &[u64]) -> &mut Node {
        assert!(self.nodes.iter().all(|node| node.id() != id), "n{id} is here already");
        let ports = Ports::take(2);
        let (peer, http) = (ports.address(0), ports.address(1));
        let name = format!("n{id}");
        let data = self.directory.path().join(&name);
        let seeds: Vec<&str> = seeds.iter().map(|seed| self.peers[seed].as_str()).collect();
        let flags = ["--join", &seeds.join(","), "--node", &id.to_string(), "--peer-listen", &peer];
        let mut args: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        args.extend(["--http-listen".to_owned(), http.clone()]);
        args.extend(["--data".to_owned(), data.display().to_string()]);
        args.extend(self.settings.iter().flat_map(|setting| ["--set".to_owned(), setting.clone()]));
        self.peers.insert(id, peer);
        let log = self.directory.path().join(format!("{name}.log"));
        self.nodes.push(Node::new(id, args, http, log).run_by(self.program.clone()));
        self.node(id)
    }

    /// Adds node `id` and waits until it has joined.
    ///
    /// # Panics
    /// As [`add`](Self::add), or if it is not ready in time.
    pub async fn join(&mut self, id: u64, seeds: &[u64]) {
        let node = self.add(id, seeds);
        node.start();
        node.ready().await;
    }

    /// Takes node `id` out, so that it is started no more; it is killed where it runs.
    ///
    /// # Panics
    /// If there is none.
    pub fn take(&mut self, id: u64) -> Node {
        let at = self.nodes.iter().position(|node| node.id() == id).expect("a node of this cluster");
        self.nodes.remove(at)
    }

    /// Removes all data of node `id`, as if its disk had been replaced.
    ///
    /// # Panics
    /// If it runs, or its data cannot be removed.
    pub fn wipe(&mut self, id: u64) {
        assert!(!self.node(id).is_running(), "a disk is replaced while its node is down");
        let data = self.directory.path().join(format!("n{id}"));
        std::fs::remove_dir_all(data).expect("a directory of the test's own");
    }

    /// Where node `id` takes other nodes' connections.
    ///
    /// # Panics
    /// If there is none.
    pub fn peer(&self, id: u64) -> &str {
        &self.peers[&id]
    }

    /// The directory that holds the nodes' data and logs, for whatever else a test needs there.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// All nodes' HTTP addresses, running or not.
    pub fn seeds(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.http().to_owned()).collect()
    }

    /// The nodes, in the order of their ids.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node called `id`.
    ///
    /// # Panics
    /// If there is none.
    pub fn node(&mut self, id: u64) -> &mut Node {
        self.nodes.iter_mut().find(|node| node.id() == id).expect("a node of this cluster")
    }

    /// Starts whoever does not run, and waits until all are ready.
    ///
    /// # Panics
    /// If they are not ready in time.
    pub async fn start_all(&mut self) {
        for node in self.nodes.iter_mut().filter(|node| !node.is_running()) {
            node.start();
        }
        for node in &mut self.nodes {
            node.ready().await;
        }
    }

    /// SIGKILL to all of them, and waits until they are gone. All get the signal before any is waited for.
    pub async fn kill_all(&mut self) {
        for node in self.nodes.iter_mut().filter(|node| node.is_running()) {
            node.begin_kill();
        }
        for node in self.nodes.iter_mut().filter(|node| node.is_running()) {
            node.ended().await;
        }
    }

    /// Waits until the running nodes agree on who leads group `group`, and returns its id.
    ///
    /// # Panics
    /// If they do not agree in time.
    pub async fn leader(&self, group: u64) -> u64 {
        eventually(&format!("the nodes agree on a leader of g{group}"), || self.agreed_leader(group)).await
    }

    /// Kills the node that leads group `group` at this moment, and returns its id; the others elect another.
    ///
    /// # Panics
    /// If they do not agree on one in time.
    pub async fn kill_leader(&mut self, group: u64) -> u64 {
        let leader = self.leader(group).await;
        self.node(leader).kill().await;
        leader
    }

    async fn agreed_leader(&self, group: u64) -> Option<u64> {
        let mut views = Vec::new();
        for node in self.nodes.iter().filter(|node| node.is_running()) {
            let status = node.get_json("/v1/status").await?;
            let replica = status["groups"].as_array()?.iter().find(|replica| replica["id"] == group)?.clone();
            views.push((node.id(), replica));
        }
        let (_, first) = views.first()?;
        let (leader, term) = (first["leader"].as_u64()?, &first["term"]);
        let agree = views.iter().all(|(_, view)| view["leader"] == leader && view["term"] == *term);
        let leads = views.iter().any(|(node, view)| *node == leader && view["role"] == "leader");
        (agree && leads).then_some(leader)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut err = std::io::stderr().lock();
            for node in &self.nodes {
                // A second panic would hide the first; a log that cannot be shown is the smaller loss.
                if writeln!(err, "--- the end of n{}'s log:\n{}", node.id(), node.log_end()).is_err() {
                    break;
                }
            }
        }
    }
}
