//! Three nodes with a few idle groups on a simulated network, watched as they wake.

use super::{Ticker, grid};
use crate::disk::SimulatedDisk;
use crate::network::SimulatedNetwork;
use crate::{
    Address, CopyId, CopyStep, Group, Host, HostConfig, LoadError, Machine, Moment, RaftConfig, Role,
    SimulatedClock, StorageConfig, TransportConfig,
};
use bytes::Bytes;
use openraft::async_runtime::WatchReceiver;
use proto::{GroupId, NodeId};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);
const GROUPS: u64 = 12;
/// More than a heartbeat and its answers take on this network.
const BEAT: Duration = Duration::from_millis(5);

/// A machine that holds nothing.
struct Nothing;

impl Machine for Nothing {
    fn apply(&mut self, _at: Moment, _command: &[u8]) -> Bytes {
        Bytes::new()
    }

    fn time_ms(&self) -> u64 {
        0
    }

    fn copy_bytes(&self) -> u64 {
        0
    }

    fn copy_begin(&mut self) -> CopyId {
        CopyId(0)
    }

    fn copy_next(&mut self, _copy: CopyId, _bytes_max: usize) -> CopyStep {
        CopyStep::default()
    }

    fn copy_end(&mut self, _copy: CopyId) {}

    fn load(&mut self, _piece: &[u8]) -> Result<(), LoadError> {
        Ok(())
    }
}

struct Nodes {
    network: SimulatedNetwork,
    hosts: Vec<Arc<Host>>,
    /// By group, by node.
    groups: Vec<Vec<Group<Nothing>>>,
}

fn name(node: u64) -> String {
    format!("n{node}")
}

impl Nodes {
    /// Three nodes whose groups have elected, some time ago.
    async fn start() -> Self {
        crate::seed(7);
        let network = SimulatedNetwork::new();
        let address = |node| Address { peer: format!("n{node}:1"), http: String::new() };
        let members: BTreeMap<NodeId, Address> = (1..=3).map(|node| (NodeId(node), address(node))).collect();
        let mut hosts = Vec::new();
        for node in 1..=3 {
            let config = HostConfig {
                cluster: "test".into(),
                node: NodeId(node),
                listen: address(node).peer,
                raft: RaftConfig::default(),
                storage: StorageConfig::default(),
                transport: TransportConfig::default(),
            };
            let clock = Arc::new(SimulatedClock::starting_at(0));
            let disk = Arc::new(SimulatedDisk::new());
            hosts.push(Host::start(config, disk, network.host(&name(node)), clock).await.unwrap());
        }
        let mut groups = Vec::new();
        for id in (1..=GROUPS).map(GroupId) {
            let mut replicas = Vec::new();
            for host in &hosts {
                replicas.push(host.open_group(id, || Nothing).await.unwrap());
            }
            groups.push(replicas);
        }
        for formed in futures_util::future::join_all(hosts.iter().map(|host| host.form(&members))).await {
            formed.unwrap();
        }
        for replica in groups.iter().flatten() {
            replica.bootstrap(&members).await.unwrap();
        }
        for replica in groups.iter().flatten() {
            replica.wait_for_leader(30 * SECOND).await.unwrap();
        }
        sleep(5 * SECOND).await;
        Self { network, hosts, groups }
    }

    fn writes(&self) -> u64 {
        let pairs = [(1, 2), (1, 3), (2, 1), (2, 3), (3, 1), (3, 2)];
        pairs.into_iter().map(|(from, to)| self.network.counters(&name(from), &name(to)).writes).sum()
    }

    fn heartbeats(&self) -> u64 {
        self.hosts.iter().map(|host| host.transport_stats().sent.heartbeats).sum()
    }
}

/// How often a replica's core has something to do within `time`.
async fn wakes(replica: &Group<Nothing>, time: Duration) -> u32 {
    let mut metrics = replica.inner.raft.metrics();
    drop(metrics.borrow_and_update());
    let until = Instant::now() + time;
    let mut count = 0;
    while tokio::time::timeout_at(until, metrics.changed()).await.is_ok() {
        count += 1;
    }
    count
}

/// An idle replica is woken by its leader's heartbeats and their answers, and hardly by anything else.
#[tokio::test(start_paused = true)]
async fn idle_replicas_sleep() {
    let nodes = Nodes::start().await;
    let beats = 5 * 10;
    for replica in &nodes.groups[0] {
        let (role, wakes) = (replica.status().role, wakes(replica, 10 * SECOND).await);
        // A leader wakes to send and for two answers; a follower to answer, and half as often because it is
        // asked when it last heard.
        assert!(wakes >= beats, "{role:?} woke {wakes} times during {beats} heartbeats");
        assert!(wakes <= beats * 3, "{role:?} woke {wakes} times during {beats} heartbeats");
    }
}

/// The heartbeats of all groups that a node leads leave in one write to each peer, and come at their interval.
#[tokio::test(start_paused = true)]
async fn heartbeats_of_all_groups_leave_together() {
    let nodes = Nodes::start().await;
    let (writes, heartbeats) = (nodes.writes(), nodes.heartbeats());
    sleep(10 * SECOND).await;
    let (writes, heartbeats) = (nodes.writes() - writes, nodes.heartbeats() - heartbeats);
    let lines = 5 * 10;
    assert_eq!(heartbeats, lines * GROUPS * 2, "every leader shows itself to both followers");
    // Six pairs of nodes; to each a write of heartbeats, from each one of answers, and little that came apart.
    assert!(writes <= lines * 6 * 3, "{writes} writes for {heartbeats} heartbeats");
}

/// A follower that does not hear of its leader any more ticks in time: the group is led again once the lease
/// and the longest election timeout have passed.
#[tokio::test(start_paused = true)]
async fn a_silent_leader_is_replaced() {
    let nodes = Nodes::start().await;
    let config = RaftConfig::default();
    for replicas in &nodes.groups {
        let leader = replicas.iter().position(|replica| replica.status().role == Role::Leader).unwrap();
        let others: Vec<_> = (0..3).filter(|&node| node != leader).collect();
        let host = |node: usize| name(node as u64 + 1);
        nodes.network.partition(&[&host(leader)], &[&host(others[0]), &host(others[1])]);
        let led = async {
            loop {
                if others.iter().any(|&node| replicas[node].status().role == Role::Leader) {
                    return;
                }
                sleep(Duration::from_millis(5)).await;
            }
        };
        let cut_at = Instant::now();
        timeout(30 * SECOND, led).await.unwrap();
        let took = cut_at.elapsed().as_millis() as u64;
        let late = 2 * config.election_timeout_ms_max;
        assert!(took <= late + 100, "a leader was found after {took} ms, where at most {late} are due");
        nodes.network.heal();
        sleep(5 * SECOND).await;
    }
}

/// A ticker that ends leaves its replica to openraft's own ticks, so that no group is ever left without any.
#[tokio::test(start_paused = true)]
async fn an_end_of_the_ticker_leaves_ticks() {
    let nodes = Nodes::start().await;
    let leader = nodes.groups[0].iter().find(|replica| replica.status().role == Role::Leader).unwrap();
    // Between two heartbeats, once the first is answered, a leader has nothing to do.
    let between = Duration::from_millis(RaftConfig::default().heartbeat_interval_ms) - 2 * BEAT;
    sleep(grid::until_line(between + 2 * BEAT) + BEAT).await;
    assert_eq!(wakes(leader, between).await, 0);
    sleep(2 * BEAT).await;
    drop(Ticker::new(leader.inner.raft.clone(), &RaftConfig::default()));
    assert!(wakes(leader, between).await >= 3, "openraft ticks about five times a heartbeat");
}
