//! How long a write takes: whole nodes in virtual time, whose clients reach them over the simulated network
//! as well.
//!
//! A message takes up to two milliseconds and a sync takes two; what the machine takes to compute is nothing.
//! So this is the time that the service has requests wait: for each other, for a heartbeat, for a timer. The
//! same by the machine's own clock is a test to run on a machine that does nothing else: `cargo test -p
//! kvserver --test replicated -- --ignored`.

use crate::birth;
use crate::cluster::{Shape, examine};
use crate::connection::Connection;
use crate::fleet::host;
use crate::history::History;
use crate::request::{Seen, What};
use kvserver::{Node, NodeConfig};
use raftstore::{Link, SimulatedClock, SimulatedNetwork};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How many puts are timed, one after the other, and how long one may take on average.
const PUTS: u32 = 1_000;
const PUT_TIME_MAX: Duration = Duration::from_micros(33_300);

/// How long a message takes at most, and a sync.
const DELAY_MAX: Duration = Duration::from_millis(2);
const SYNC_TIME: Duration = Duration::from_millis(2);

/// What must happen, happens within this time.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where a node serves clients.
fn front(node: u64) -> String {
    format!("10.0.0.{node}")
}

/// Puts a value under the request's own name; the key's version then.
async fn put(connection: &mut Connection, key: &str, name: u32, value: &str) -> u64 {
    let request = hyper::Request::put(format!("/v1/kv/{key}")).header("idempotency-key", name.to_string());
    let answer = connection.done(request, value.to_owned()).await;
    answer.headers()["etag"].to_str().unwrap().trim_matches('"').parse().unwrap()
}

/// Times puts of one client, which asks one node after the other.
async fn time_puts(shape: Shape) {
    raftstore::seed(shape.seed);
    let network = SimulatedNetwork::new();
    network.set_default_link(Link { delay_max: DELAY_MAX, ..Link::default() });
    let mut nodes = Vec::new();
    for (node, disk) in birth::disks(5).await {
        disk.set_sync_delay(SYNC_TIME);
        let (peers, clients) = (network.host(&host(node)), network.host(&front(node)));
        let config = NodeConfig { http_listen: format!("{}:80", front(node)), ..shape.config(node) };
        let clock = Arc::new(SimulatedClock::starting_at(1_000_000));
        nodes.push(Node::start_within(config, Arc::new(disk), peers, clients, clock).await.unwrap());
    }
    let mut connections = Vec::new();
    for (node, number) in nodes.iter().zip(shape.nodes()) {
        node.ready(PATIENCE).await.unwrap();
        connections.push(Connection::open(&network, &format!("{}:80", front(number))).await);
    }
    let history = History::new(shape.seed);
    let timed = async {
        let (begun, ways) = (Instant::now(), connections.len());
        for number in 0..PUTS {
            let value = number.to_string();
            let asked = history.invoke(1, "k", What::Put(value.clone()));
            let version = put(&mut connections[number as usize % ways], "k", number, &value).await;
            history.complete(asked, Seen { version, value: None });
        }
        let each = begun.elapsed() / PUTS;
        println!("{each:?} for each put");
        assert!(each <= PUT_TIME_MAX, "{each:?} for each put");
        history.check();
    };
    history.kept(timed).await;
    drop(connections);
    for node in nodes {
        node.shutdown(Duration::ZERO).await.unwrap();
    }
}

/// Speed: a thousand puts, one after the other, take at most 33.3 ms each.
#[tokio::test(start_paused = true)]
async fn speed() {
    time_puts(Shape::new(5, 50)).await;
}

/// Speed with snapshots: the same while snapshots are made.
#[tokio::test(start_paused = true)]
async fn speed_with_snapshots() {
    time_puts(Shape::new(5, 51).with_snapshots()).await;
}

/// The same by the machine's own clock.
async fn time_puts_really(shape: Shape) {
    examine(shape, async |cluster| {
        let (mut clerk, begun) = (cluster.clerk(), Instant::now());
        for number in 0..PUTS {
            clerk.put("k", &number.to_string()).await;
        }
        let each = begun.elapsed() / PUTS;
        println!("{each:?} for each put");
        assert!(each <= PUT_TIME_MAX, "{each:?} for each put");
    })
    .await;
}

/// Speed, by the machine's own clock.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a machine that does nothing else"]
async fn speed_by_the_wall_clock() {
    time_puts_really(Shape::new(5, 52)).await;
}

/// Speed with snapshots, by the machine's own clock.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a machine that does nothing else"]
async fn speed_with_snapshots_by_the_wall_clock() {
    time_puts_really(Shape::new(5, 53).with_snapshots()).await;
}
