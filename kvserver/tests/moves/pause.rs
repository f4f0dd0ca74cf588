//! For how long a move has writers of its shard wait: whole nodes in virtual time, whose clients reach them
//! over the simulated network as well.
//!
//! A message takes up to two milliseconds and a sync takes two; what the machine takes to compute is nothing.
//! So this is the time for which a move has them wait for messages, commits and timers. With a gigabyte, and by
//! the machine's own clock, `flotilla bench move` measures it.

use crate::connection::Connection;
use crate::fleet::{SHARDS, Settings, host};
use crate::wait::eventually;
use crate::world::{PATIENCE, at_rest, keys};
use hyper::Request;
use kvserver::{Node, NodeConfig};
use raftstore::{Link, SimulatedClock, SimulatedDisk, SimulatedNetwork};
use serde_json::Value;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

const MOVES: usize = 20;
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// How long a message takes at most, and a sync.
const DELAY_MAX: Duration = Duration::from_millis(2);
const SYNC_TIME: Duration = Duration::from_millis(2);

/// What the shard holds: a copy of it takes several pieces.
const KEYS: usize = 64;
const VALUE_BYTES: usize = 4 << 10;

const WRITERS: usize = 4;
const SHARD: u32 = 7;
const NODES: [u64; 3] = [1, 2, 3];

/// Where a node serves clients.
fn front(node: u64) -> String {
    format!("10.0.0.{node}:80")
}

async fn nodes(network: &SimulatedNetwork) -> Vec<Node> {
    let mut nodes = Vec::new();
    for node in NODES {
        let disk = SimulatedDisk::new();
        disk.set_sync_delay(SYNC_TIME);
        let config = Settings::groups(2).node_config(node, NODES, SHARDS);
        let config = NodeConfig { http_listen: front(node), ..config };
        let (peers, clients) = (network.host(&host(node)), network.host(&format!("10.0.0.{node}")));
        let clock = Arc::new(SimulatedClock::starting_at(1_000_000));
        nodes.push(Node::start_within(config, Arc::new(disk), peers, clients, clock).await.unwrap());
    }
    for node in &nodes {
        node.ready(PATIENCE).await.unwrap();
    }
    nodes
}

async fn map(connection: &mut Connection) -> Value {
    let answer = connection.done(Request::get("/v1/cluster/map"), "").await;
    serde_json::from_slice(answer.body()).unwrap()
}

async fn arrival(connection: &mut Connection, to: u64) {
    while at_rest(&map(connection).await, SHARD) != Some((to, to)) {
        sleep(Duration::from_millis(10)).await;
    }
}

/// A shard moves to and fro while it is written: between two acknowledged writes there never lie more than
/// 50 ms.
#[tokio::test(start_paused = true)]
async fn moves_have_writers_wait_for_50_ms_at_most() {
    raftstore::seed(7);
    let network = SimulatedNetwork::new();
    network.set_default_link(Link { delay_max: DELAY_MAX, ..Link::default() });
    let nodes = nodes(&network).await;
    let keys: Arc<Vec<String>> = Arc::new(
        keys(KEYS).into_iter().filter(|key| proto::shard_of(key.as_bytes(), SHARDS).0 == SHARD).collect(),
    );
    assert_eq!(keys.len(), KEYS);
    let mut operator = Connection::open(&network, &front(1)).await;
    let value = vec![b'x'; VALUE_BYTES];
    for key in &*keys {
        operator.done(Request::put(format!("/v1/kv/{key}")), value.clone()).await;
    }

    let written = Arc::new(Mutex::new(VecDeque::new()));
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let mut connection = Connection::open(&network, &front(NODES[writer % NODES.len()])).await;
        let (keys, written, value) = (keys.clone(), written.clone(), value.clone());
        writers.spawn(async move {
            for key in keys.iter().cycle().skip(writer * KEYS / WRITERS) {
                connection.done(Request::put(format!("/v1/kv/{key}")), value.clone()).await;
                written.lock().unwrap().push_back(Instant::now());
            }
        });
    }
    let mut pauses = Vec::new();
    for _ in 0..MOVES {
        let (from, _) = at_rest(&map(&mut operator).await, SHARD).unwrap();
        let to = 3 - from;
        written.lock().unwrap().clear();
        let request = Request::post(format!("/v1/cluster/shards/{SHARD}/move"));
        let request = request.header("content-type", "application/json");
        operator.done(request, format!(r#"{{"to":{to}}}"#)).await;
        timeout(PATIENCE, arrival(&mut operator, to)).await.expect("the shard arrives");
        let arrived = Instant::now();
        eventually("the shard is written again", async || {
            (written.lock().unwrap().back() > Some(&arrived)).then_some(())
        })
        .await;
        let written = written.lock().unwrap();
        let gaps = written.iter().zip(written.iter().skip(1)).map(|(before, after)| *after - *before);
        pauses.push(gaps.max().unwrap());
        assert!(writers.try_join_next().is_none(), "a writer has ended");
    }
    println!("longest time without an acknowledged write, in each move: {pauses:?}");
    assert!(pauses.iter().max() <= Some(&PAUSE_MAX), "{pauses:?}");
    writers.shutdown().await;
    drop(operator);
    for node in nodes {
        node.shutdown(Duration::ZERO).await.unwrap();
    }
}
