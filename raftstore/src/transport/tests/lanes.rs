//! Lanes: what one carries never delays another, and what waits leaves together.

use super::*;
use crate::network::Link;
use crate::transport::frame::{HEADER, Kind, encode};
use crate::transport::handshake::{Hello, PROTOCOL};
use crate::transport::lane::LaneKind;
use openraft::errors::ReplicationClosed;
use openraft::network::NetSnapshot;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

/// While a snapshot of 100 MB is on its way over connections of 10 MB/s, heartbeats and appends take no longer
/// than the link's round trip and their own bytes.
#[tokio::test(start_paused = true)]
async fn bulk_delays_nothing_else() {
    let pair = Pair::simulated().await;
    let link =
        Link { delay_min: 5 * MS, delay_max: 5 * MS, bytes_per_second: Some(10_000_000), ..Link::default() };
    pair.world.network().set_default_link(link);
    let meta = SnapshotMeta::default();
    let pieces = FakePieces { count: 100, bytes: 1_000_000, read: Arc::default() };
    let snapshot = openraft::type_config::alias::SnapshotOf::<TypeConfig, _> { meta, snapshot: pieces };
    let mut bulk = pair.client(GROUP);
    let never = std::future::pending::<ReplicationClosed>();
    let sending = bulk.full_snapshot(Vote::new_committed(1, 1), snapshot, never, RPCOption::new(SECOND));
    let start = Instant::now();
    let beating = async {
        let mut heartbeats = pair.heartbeat_client(GROUP).await;
        let mut client = pair.client(GROUP);
        beat(&mut heartbeats).await.unwrap().unwrap();
        until(|| pair.two.stats().bulk.frames_received > 5).await;
        let mut slowest = Duration::ZERO;
        for index in 1..=50 {
            let sent = Instant::now();
            beat(&mut heartbeats).await.unwrap().unwrap();
            slowest = slowest.max(sent.elapsed());
            let input = futures_util::stream::iter([append(index, 1_000)]);
            let answers: Vec<_> =
                client.stream_append(input, RPCOption::new(SECOND)).await.unwrap().collect().await;
            assert!(answers[0].is_ok());
            tokio::time::sleep(100 * MS).await;
        }
        slowest
    };
    let (sent, slowest) = tokio::join!(sending, beating);
    sent.unwrap();
    assert!(start.elapsed() >= 10 * SECOND, "the snapshot took its time: {:?}", start.elapsed());
    assert!(slowest <= 12 * MS, "a heartbeat took {slowest:?}");
}

/// The heartbeats of 64 groups that are due at the same time leave in a few writes.
#[tokio::test(start_paused = true)]
async fn heartbeats_leave_together() {
    let node = FakeNode { many: true, ..FakeNode::default() };
    let pair = Pair::start(World::simulated(), TransportConfig::default(), node).await;
    let mut clients = Vec::new();
    for group in 0..64 {
        clients.push(pair.heartbeat_client(GroupId(group)).await);
    }
    futures_util::future::join_all(clients.iter_mut().map(beat)).await;
    let before = (pair.one.stats().heartbeat, pair.two.stats().heartbeat);
    let answers = futures_util::future::join_all(clients.iter_mut().map(beat)).await;
    assert!(answers.iter().all(|answer| matches!(answer, Ok(Ok(_)))));
    let after = (pair.one.stats().heartbeat, pair.two.stats().heartbeat);
    assert_eq!(after.0.frames_sent - before.0.frames_sent, 64);
    assert!(after.0.writes - before.0.writes <= 2, "{} writes", after.0.writes - before.0.writes);
    assert!(after.1.writes - before.1.writes <= 4, "{} writes of answers", after.1.writes - before.1.writes);
    assert_eq!(pair.one.stats().sent.heartbeats, 128);
    assert_eq!(pair.node.replica.heartbeats.load(Ordering::SeqCst), 128);
}

/// A node at another's address, and a node of another cluster, are not taken for the one that was meant.
#[tokio::test(start_paused = true)]
async fn strangers_are_not_believed() {
    let pair = Pair::simulated().await;
    let mistaken: Client<FakePieces> = pair.one.client(GROUP, NodeId(3), &pair.address);
    let foreign =
        Transport::new(NodeId(1), "other".into(), pair.world.networks[0].clone(), TransportConfig::default());
    let foreign: Client<FakePieces> = foreign.client(GROUP, NodeId(2), &pair.address);
    for (mut client, why) in [(mistaken, "you look for n3, this is n2"), (foreign, "you are of \"other\"")] {
        let (feed, input) = feed();
        let mut answers = client.stream_append(input, RPCOption::new(SECOND)).await.unwrap();
        feed.send(append(1, 10));
        let error = answers.next().await.unwrap().unwrap_err();
        assert!(matches!(error, RPCError::Unreachable(_)), "{error:?}");
        assert!(error.to_string().contains(why), "{error}");
    }
    assert!(pair.node.replica.appended.borrow().is_empty());
}

async fn raw(pair: &Pair, bytes: &[u8]) -> Vec<u8> {
    let mut stream = pair.world.networks[0].connect(&pair.address.peer).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // A reset after the answer ends it as well as a proper end.
    match tokio::time::timeout(10 * SECOND, stream.read_to_end(&mut answer)).await {
        Ok(result) => drop(result),
        Err(_) => panic!("the connection should have ended"),
    }
    answer
}

/// Bytes of no protocol, an old protocol, and a frame beyond the lane's bound end the connection; the node goes on.
#[tokio::test(start_paused = true)]
async fn hostile_connections_end() {
    let pair = Pair::simulated().await;
    let hello = |protocol| {
        let (from, to) = (NodeId(1), NodeId(2));
        let (cluster, at) = ("test".into(), String::new());
        Hello { protocol, lane: LaneKind::Heartbeat, from, to, cluster, at }.encode()
    };
    let refused = raw(&pair, b"GET / HTTP/1.1\r\n\r\n").await;
    assert_eq!(refused[9], Kind::Refused as u8);
    let refused = raw(&pair, &hello(PROTOCOL + 1)).await;
    assert_eq!(refused[9], Kind::Refused as u8);
    assert!(String::from_utf8_lossy(&refused).contains("you speak 3, this node speaks 2"));
    let oversized = [&hello(PROTOCOL)[..], &(65_u32 << 10).to_le_bytes()].concat();
    let welcomed = raw(&pair, &oversized).await;
    assert_eq!((welcomed[9], welcomed.len()), (Kind::Welcome as u8, HEADER + 10));
    let nonsense = [hello(PROTOCOL), encode(Kind::Vote, GROUP, 1, 0, |into| into.push(9))].concat();
    assert_eq!(raw(&pair, &nonsense).await[9], Kind::Welcome as u8);
    beat(&mut pair.heartbeat_client(GROUP).await).await.unwrap().unwrap();
}

/// A connection that says nothing is not kept, and one that nobody uses neither.
#[tokio::test(start_paused = true)]
async fn idle_connections_end() {
    let pair = Pair::simulated().await;
    let silent = raw(&pair, b"").await;
    assert_eq!(silent[9], Kind::Refused as u8);
    let mut heartbeats = pair.heartbeat_client(GROUP).await;
    beat(&mut heartbeats).await.unwrap().unwrap();
    assert_eq!(pair.one.stats().heartbeat.connections_lost, 0);
    tokio::time::sleep(62 * SECOND).await;
    assert_eq!(pair.one.stats().heartbeat.connections_lost, 1);
    beat(&mut heartbeats).await.unwrap().unwrap();
    assert_eq!(pair.one.stats().heartbeat.connects, 2);
}

/// An address that changes is followed: the node is reached at its new place.
#[tokio::test(start_paused = true)]
async fn a_new_address_is_followed() {
    let mut pair = Pair::simulated().await;
    beat(&mut pair.heartbeat_client(GROUP).await).await.unwrap().unwrap();
    pair.server.shutdown().await;
    pair.server = pair.two.serve("b:2", pair.node.clone()).await.unwrap();
    pair.address.peer = "b:2".into();
    beat(&mut pair.heartbeat_client(GROUP).await).await.unwrap().unwrap();
}
