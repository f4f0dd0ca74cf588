//! Everything that faults are inflicted on, shared by the nemesis's tasks. A node belongs to one fault at a
//! time: who holds its lock may do with its process and its disk as it likes, and leaves both in order.

use crate::admin::Admin;
use crate::capabilities::Capabilities;
use crate::clock::Clock;
use crate::disk::Disk;
use crate::network::{Namespaces, Network, Proxies};
use crate::node::Node;
use crate::process::{Launch, Pids, Process};
use crate::run::{NetworkChoice, Options};
use crate::schedule::Victim;
use anyhow::{Result, bail};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::Instant;

/// Segments, snapshots and logs so small that each of a run's minutes has several of each.
const SETTINGS: [&str; 5] = [
    "insecure=true",
    "storage.segment_bytes=1048576",
    "storage.slack_bytes=1048576",
    "raft.snapshot_log_bytes_min=262144",
    "raft.log_bytes_kept=65536",
];

/// How often ended processes are looked for.
const WATCH: Duration = Duration::from_millis(300);

/// The field. Nodes are dropped before the network: processes end before their namespaces do.
#[derive(Debug)]
pub(crate) struct Field {
    /// By id from 1; the last is the spare, which is no member at first.
    nodes: Vec<Arc<Mutex<Node>>>,
    /// Held by whoever changes it.
    pub(crate) network: Arc<Mutex<Network>>,
    /// Held by whoever changes members, or groups.
    pub(crate) members: Arc<Mutex<()>>,
    pub(crate) groups: Arc<Mutex<()>>,
    pub(crate) admin: Admin,
    pub(crate) capabilities: Capabilities,
    network_description: String,
    addresses: Vec<String>,
    log: Log,
}

/// What was done and found, for people: on stdout, and in a file.
#[derive(Debug)]
struct Log {
    started: Instant,
    file: StdMutex<File>,
    findings: StdMutex<Vec<String>>,
    counts: StdMutex<BTreeMap<&'static str, u64>>,
}

impl Field {
    /// Makes network, disks and nodes; nothing runs yet.
    pub(crate) async fn prepare(options: &Options, binary: &Path, folder: &Path) -> Result<Self> {
        let capabilities = Capabilities::find(folder);
        let pids = Pids::default();
        let spare = options.nodes + 1;
        let network = match (options.network, capabilities.namespaces) {
            (NetworkChoice::Namespaces, false) => bail!("{}", capabilities.missing.join("; ")),
            (NetworkChoice::Namespaces | NetworkChoice::Auto, true) => {
                Network::Namespaces(Namespaces::make(spare)?)
            }
            (NetworkChoice::Proxies | NetworkChoice::Auto, _) => {
                Network::Proxies(Proxies::make(spare, &pids, options.seed).await?)
            }
        };
        let addresses: Vec<String> = (1..=spare).map(|node| network.http(node)).collect();
        let mut nodes = Vec::new();
        for id in 1..=spare {
            let node = make_node(id, options, binary, folder, &network, &capabilities, &pids)?;
            nodes.push(Arc::new(Mutex::new(node)));
        }
        let file = File::create(folder.join("nemesis.log"))?;
        let log = Log {
            started: Instant::now(),
            file: StdMutex::new(file),
            findings: StdMutex::default(),
            counts: StdMutex::default(),
        };
        Ok(Self {
            nodes,
            network_description: network.describe(),
            network: Arc::new(Mutex::new(network)),
            members: Arc::default(),
            groups: Arc::default(),
            admin: Admin::new(addresses.clone())?,
            capabilities,
            addresses,
            log,
        })
    }

    /// How the links are made.
    pub(crate) fn network_description(&self) -> &str {
        &self.network_description
    }

    /// The ids of the first members.
    pub(crate) fn first(&self) -> std::ops::RangeInclusive<u64> {
        1..=self.nodes.len() as u64 - 1
    }

    /// The id of the node that joins and leaves.
    pub(crate) fn spare(&self) -> u64 {
        self.nodes.len() as u64
    }

    /// The first members' HTTP addresses.
    pub(crate) fn seeds(&self) -> Vec<String> {
        self.addresses[..self.addresses.len() - 1].to_vec()
    }

    fn node(&self, id: u64) -> &Arc<Mutex<Node>> {
        &self.nodes[usize::try_from(id).expect("a handful of nodes") - 1]
    }

    /// A node, as soon as no other fault has it.
    pub(crate) async fn hold(&self, id: u64) -> OwnedMutexGuard<Node> {
        self.node(id).clone().lock_owned().await
    }

    /// A node, if no other fault has it.
    pub(crate) fn try_hold(&self, id: u64) -> Option<OwnedMutexGuard<Node>> {
        self.node(id).clone().try_lock_owned().ok()
    }

    /// Whom a victim names now.
    pub(crate) async fn resolve(&self, victim: Victim) -> u64 {
        match victim {
            Victim::Node(id) => id,
            Victim::Leader(group) => self.admin.leader(group).await.unwrap_or(1),
        }
    }

    /// The victim, or else the next node that runs and that no other fault has.
    pub(crate) async fn seize(&self, victim: Victim) -> Option<OwnedMutexGuard<Node>> {
        let first = self.resolve(victim).await;
        let count = self.spare();
        let order = (0..count).map(|step| (first - 1 + step) % count + 1);
        order.filter_map(|id| self.try_hold(id)).find(|node| node.process.is_running())
    }

    /// Starts the first members.
    pub(crate) async fn start(&self) -> Result<()> {
        for id in self.first() {
            self.hold(id).await.start()?;
        }
        Ok(())
    }

    /// Waits until a node says that it is ready.
    pub(crate) async fn ready(&self, id: u64, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        while Instant::now() < until {
            if self.admin.look(id, "/readyz").await.is_some() {
                return true;
            }
            tokio::time::sleep(WATCH / 3).await;
        }
        false
    }

    /// Looks after processes that end though no fault has them, for ever: each is a finding, and is started
    /// again.
    pub(crate) async fn watch(&self) -> Result<()> {
        loop {
            tokio::time::sleep(WATCH).await;
            for id in self.first().chain([self.spare()]) {
                let Some(mut node) = self.try_hold(id) else { continue };
                let Some(status) = node.process.ended()? else { continue };
                if !node.wanted {
                    continue;
                }
                self.find(&format!("n{id} ended by itself with {status}:\n{}", node.process.log_end()));
                node.start()?;
            }
        }
    }

    /// When the run began: all times that are told count from here.
    pub(crate) fn started(&self) -> Instant {
        self.log.started
    }

    /// Says what happens.
    pub(crate) fn say(&self, what: &str) {
        let line = format!("{:8.2}s  {what}", self.log.started.elapsed().as_secs_f64());
        let mut file = self.log.file.lock().unwrap_or_else(PoisonError::into_inner);
        // What cannot be told is not worth the run: the verdict is in the exit status.
        if writeln!(file, "{line}").is_ok() && writeln!(std::io::stdout(), "{line}").is_err() {
            drop(file);
        }
    }

    /// Notes what must not be.
    pub(crate) fn find(&self, what: &str) {
        self.say(&format!("FINDING: {what}"));
        self.log.findings.lock().unwrap_or_else(PoisonError::into_inner).push(what.to_owned());
    }

    /// Counts a fault that was inflicted.
    pub(crate) fn count(&self, kind: &'static str) {
        *self.log.counts.lock().unwrap_or_else(PoisonError::into_inner).entry(kind).or_default() += 1;
    }

    pub(crate) fn findings(&self) -> Vec<String> {
        self.log.findings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.log.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Copies what would go with the mounts.
    pub(crate) async fn keep(&self, folder: &Path) -> Result<()> {
        for id in self.first().chain([self.spare()]) {
            self.hold(id).await.disk.keep(&folder.join(format!("n{id}-data")))?;
        }
        Ok(())
    }
}

fn make_node(
    id: u64,
    options: &Options,
    binary: &Path,
    folder: &Path,
    network: &Network,
    capabilities: &Capabilities,
    pids: &Pids,
) -> Result<Node> {
    let path = |what: &str| -> PathBuf { folder.join(format!("n{id}{what}")) };
    let disk = Disk::prepare(path(""), capabilities.mounts, capabilities.shim.clone())?;
    let clock = capabilities.shim.as_ref().map(|_| Clock::new(path(".time"))).transpose()?;
    let mut settings: Vec<String> = SETTINGS.map(str::to_owned).to_vec();
    let member = |node: u64| format!("{node}={}/{}", network.peer(node), network.http(node));
    let first = 1..=options.nodes;
    if first.contains(&id) {
        settings.push(format!("members={}", first.map(member).collect::<Vec<_>>().join(",")));
        settings.push(format!("groups={}", options.groups));
    } else {
        let seeds: Vec<String> = first.map(|node| network.peer(node)).collect();
        settings.push(format!("join={}", seeds.join(",")));
        settings.push(format!("peer_advertise={}", network.peer(id)));
        settings.push(format!("http_advertise={}", network.http(id)));
    }
    settings.push(format!("node={id}"));
    settings.push(format!("data={}", disk.data().display()));
    settings.push(format!("peer_listen={}", network.peer_listen(id)));
    settings.push(format!("http_listen={}", network.http(id)));
    let set = settings.into_iter().flat_map(|setting| ["--set".to_owned(), setting]);
    let launch = Launch {
        wrapper: network.wrapper(id),
        program: binary.to_owned(),
        arguments: ["server".to_owned()].into_iter().chain(set).collect(),
        environment: Vec::new(),
    };
    let process = Process::new(id, launch, path(".log"), pids.clone());
    Ok(Node { id, process, disk, clock, wanted: false })
}
