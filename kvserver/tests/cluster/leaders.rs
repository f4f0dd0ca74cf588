//! Readiness: whether a node may be given requests.

use crate::fleet::{Fleet, NODES, Settings, eventually, others};
use kvserver::{Node, NodeConfig};
use raftstore::{Network, SimulatedDisk, SystemClock};
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

/// A leader that has lost its quorum stops being ready, and says which group it is about; so does everybody where
/// no quorum is left.
#[tokio::test(flavor = "multi_thread")]
async fn readiness_needs_a_quorum() {
    let mut fleet = Fleet::start(Settings::groups(2)).await;
    let leader = fleet.leader(1).await;
    fleet.isolate(leader);
    eventually("the old leader is not ready, for want of a quorum of g1", async || {
        let answer = fleet.door(leader).get("/readyz").await;
        (answer.status == 503 && answer.text().contains("g1 has a leader")).then_some(())
    })
    .await;
    for node in others(&[leader]) {
        eventually("the others are ready", async || {
            (fleet.door(node).get("/readyz").await.status == 200).then_some(())
        })
        .await;
    }
    fleet.heal();
    fleet.all_ready().await;
    let stays = others(&[leader])[0];
    for node in others(&[stays]) {
        fleet.stop(node).await;
    }
    eventually("the last one is not ready", async || {
        (fleet.door(stays).get("/readyz").await.status == 503).then_some(())
    })
    .await;
}

/// Nodes in simulated time: however little of the machine they are given, nothing takes longer for them.
struct Timeless {
    clients: Arc<dyn Network>,
    disks: Vec<SimulatedDisk>,
    nodes: Vec<Node>,
}

fn door(node: u64) -> String {
    format!("10.0.0.{node}:80")
}

impl Timeless {
    async fn start(settings: Settings) -> Self {
        let fleet = Fleet::prepare(settings);
        let mut all = Self {
            clients: fleet.network.host("10.0.0.9"),
            disks: fleet.disks.values().cloned().collect(),
            nodes: Vec::new(),
        };
        for node in NODES {
            let config = NodeConfig { http_listen: door(node), ..fleet.config(node) };
            let (peers, clients) =
                (fleet.network.host(&format!("n{node}")), fleet.network.host(&format!("10.0.0.{node}")));
            let (disk, clock) = (Arc::new(fleet.disks[&node].clone()), Arc::new(SystemClock));
            all.nodes.push(Node::start_within(config, disk, peers, clients, clock).await.unwrap());
        }
        for node in &all.nodes {
            node.ready(Duration::from_secs(60)).await.unwrap();
        }
        all
    }

    /// What a node says of its replica of g1.
    async fn replica(&self, node: u64) -> Value {
        let (_, status) = get(&*self.clients, node, "/v1/status").await;
        let status: Value = serde_json::from_str(&status).unwrap();
        status["groups"].as_array().unwrap().iter().find(|group| group["id"] == 1).unwrap().clone()
    }
}

/// Asks a node; its status and the body.
async fn ask(network: &dyn Network, node: u64, request: &str) -> (u16, String) {
    let mut stream = network.connect(&door(node)).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

async fn get(network: &dyn Network, node: u64, path: &str) -> (u16, String) {
    ask(network, node, &format!("GET {path} HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n")).await
}

/// A node that is ready stays ready under load, although its log always runs ahead of what is committed.
#[tokio::test(start_paused = true)]
async fn load_does_not_make_a_node_unready() {
    raftstore::seed(7);
    let raft = raftstore::RaftConfig::default();
    let all = Timeless::start(Settings { raft, ..Settings::default() }).await;
    // Once leadership is where it belongs, nobody hands it over any more.
    let leader = eventually("g1 is led by whom it belongs to", async || {
        let (_, map) = get(&*all.clients, 1, "/v1/cluster/map").await;
        let map: Value = serde_json::from_str(&map).unwrap();
        let preferred = map["groups"][0]["preferred"].as_u64()?;
        (all.replica(preferred).await["role"] == "leader").then_some(preferred)
    })
    .await;
    for disk in &all.disks {
        disk.set_sync_delay(Duration::from_millis(5));
    }
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let (stop, clients) = (stop.clone(), all.clients.clone());
            let put = format!(
                "PUT /v1/kv/w{writer} HTTP/1.1\r\nHost: n\r\nConnection: close\r\nContent-Length: 1\r\n\r\nv"
            );
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let (status, answer) = ask(&*clients, leader, &put).await;
                    assert!([200, 201].contains(&status), "{answer}");
                }
            })
        })
        .collect();
    let (mut ahead, begin) = (0, Instant::now());
    // More than twice as long as a leader may go without being confirmed.
    while begin.elapsed() < Duration::from_secs(4) {
        let (status, answer) = get(&*all.clients, leader, "/readyz").await;
        assert_eq!(status, 200, "{answer} after {:?}", begin.elapsed());
        let replica = all.replica(leader).await;
        ahead += u64::from(replica["last_index"].as_u64() > replica["committed_index"].as_u64());
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    assert!(ahead > 100, "the load was none: the log was ahead {ahead} times");
    for node in all.nodes {
        node.shutdown(Duration::from_secs(5)).await.unwrap();
    }
}
