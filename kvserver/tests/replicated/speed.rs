//! How long a write takes: whole nodes in virtual time, whose clients reach them over the simulated network
//! as well.
//!
//! A message takes up to two milliseconds and a sync takes two; what the machine takes to compute is nothing.
//! So this is the time that the service has requests wait: for each other, for a heartbeat, for a timer. The
//! same by the machine's own clock is a test to run on a machine that does nothing else: `cargo test -p
//! kvserver --test replicated -- --ignored`.

use crate::birth;
use crate::cluster::{Shape, examine};
use crate::fleet::host;
use crate::history::History;
use crate::request::{Seen, What};
use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
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

/// A client's connection to one node.
struct Connection(SendRequest<Full<Bytes>>);

impl Connection {
    async fn open(network: &SimulatedNetwork, node: u64) -> Self {
        let stream = network.host("client").connect(&format!("{}:80", front(node))).await.unwrap();
        let (sender, driver) = handshake(TokioIo::new(stream)).await.unwrap();
        // Ends with its connection; whoever waits for an answer hears of it.
        drop(tokio::spawn(driver));
        Self(sender)
    }

    /// Puts a value under the request's own name; the key's version then.
    async fn put(&mut self, key: &str, name: u32, value: &str) -> u64 {
        self.0.ready().await.unwrap();
        let request = hyper::Request::put(format!("/v1/kv/{key}"))
            .header("host", "flotilla")
            .header("idempotency-key", name.to_string())
            .body(Full::new(Bytes::from(value.to_owned())));
        let answer = self.0.send_request(request.unwrap()).await.unwrap();
        assert!(answer.status().is_success(), "{answer:?}");
        answer.headers()["etag"].to_str().unwrap().trim_matches('"').parse().unwrap()
    }
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
        connections.push(Connection::open(&network, number).await);
    }
    let history = History::new(shape.seed);
    let timed = async {
        let (begun, ways) = (Instant::now(), connections.len());
        for number in 0..PUTS {
            let value = number.to_string();
            let asked = history.invoke(1, "k", What::Put(value.clone()));
            let version = connections[number as usize % ways].put("k", number, &value).await;
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
