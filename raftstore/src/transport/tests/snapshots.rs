//! Snapshots: whole, cancelled, slow to install.

use super::*;
use crate::transport::frame::{Kind, encode};
use crate::transport::handshake::{Hello, PROTOCOL};
use crate::transport::lane::LaneKind;
use crate::transport::message::put_snapshot_begin;
use openraft::errors::{ReplicationClosed, StreamingError};
use openraft::network::NetSnapshot;
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

type OpenraftSnapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, FakePieces>;
type Sent = Result<SnapshotResponse, StreamingError<TypeConfig>>;

fn snapshot(count: usize, bytes: usize) -> OpenraftSnapshot {
    let meta = SnapshotMeta { last_log_id: Some(id(9)), ..SnapshotMeta::default() };
    OpenraftSnapshot { meta, snapshot: FakePieces { count, bytes, read: Arc::default() } }
}

async fn send(pair: &Pair, snapshot: OpenraftSnapshot) -> Sent {
    let never = std::future::pending::<ReplicationClosed>();
    let vote = Vote::new_committed(4, 1);
    pair.client(GROUP).full_snapshot(vote, snapshot, never, RPCOption::new(SECOND)).await
}

async fn whole(world: World) {
    let pair = Pair::start(world, TransportConfig::default(), FakeNode::default()).await;
    assert_eq!(
        send(&pair, snapshot(20, 1_000_000)).await.unwrap(),
        SnapshotResponse::new(Vote::new_committed(4, 1))
    );
    let installed = pair.node.replica.installed.borrow();
    assert_eq!(installed.len(), 1);
    let pieces = &installed[0];
    assert_eq!(pieces.len(), 20);
    assert!(pieces.iter().enumerate().all(|(number, piece)| **piece == vec![number as u8; 1_000_000]));
}

/// Pieces arrive whole and in order, and are installed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_arrives_over_tcp() {
    whole(World::tcp()).await;
}

/// The same in the simulation.
#[tokio::test(start_paused = true)]
async fn a_snapshot_arrives_when_simulated() {
    whole(World::simulated()).await;
}

/// An empty snapshot is installed too.
#[tokio::test(start_paused = true)]
async fn an_empty_snapshot_arrives() {
    let pair = Pair::simulated().await;
    send(&pair, snapshot(0, 0)).await.unwrap();
    assert_eq!(pair.node.replica.installed.borrow()[0].len(), 0);
}

/// A receiver that takes nothing stops the sender at the window; that it lives on keeps the transfer, too.
#[tokio::test(start_paused = true)]
async fn the_window_holds_the_sender() {
    let pair = Pair::simulated().await;
    close_gate(&pair.node.replica.pieces);
    let slow = snapshot(100, 500_000);
    let read = slow.snapshot.read.clone();
    let sending = send(&pair, slow);
    let opening = async {
        tokio::time::sleep(60 * SECOND).await;
        let read = read.load(Ordering::SeqCst);
        assert!((8..=9).contains(&read), "4 MiB are under way and one piece is held back: {read}");
        open_gate(&pair.node.replica.pieces);
    };
    let (sent, ()) = tokio::join!(sending, opening);
    sent.unwrap();
    assert_eq!(pair.node.replica.installed.borrow()[0].len(), 100);
}

/// Installing may take far longer than any silence is borne.
#[tokio::test(start_paused = true)]
async fn installing_takes_its_time() {
    let pair = Pair::simulated().await;
    *pair.node.replica.install_time.lock().unwrap() = 90 * SECOND;
    send(&pair, snapshot(3, 10)).await.unwrap();
    assert_eq!(pair.one.stats().bulk.connects, 1);
}

/// A transfer that openraft cancels ends at once, and the receiver discards what it has.
#[tokio::test(start_paused = true)]
async fn a_cancelled_transfer_leaves_nothing() {
    let pair = Pair::simulated().await;
    close_gate(&pair.node.replica.pieces);
    let (cancel, cancelled) = tokio::sync::oneshot::channel::<()>();
    let cancelled = async move {
        cancelled.await.unwrap();
        ReplicationClosed::new("cancelled")
    };
    let mut client = pair.client(GROUP);
    let sending = client.full_snapshot(
        Vote::new_committed(4, 1),
        snapshot(10, 1_000),
        cancelled,
        RPCOption::new(SECOND),
    );
    let cancelling = async {
        until(|| pair.two.stats().bulk.frames_received >= 11).await;
        cancel.send(()).unwrap();
    };
    let (sent, ()) = tokio::join!(sending, cancelling);
    assert!(matches!(sent, Err(StreamingError::Closed(_))), "{sent:?}");
    pair.node.replica.discarded.subscribe().wait_for(|count| *count == 1).await.unwrap();
    assert!(pair.node.replica.installed.borrow().is_empty());
}

/// A sender that has vanished without a word does not keep the room of its snapshot: the receiver discards what it has
/// long before it would give up the connection.
#[tokio::test(start_paused = true)]
async fn a_silent_sender_is_not_waited_for() {
    let pair = Pair::simulated().await;
    let (began, silence) = (Instant::now(), TransportConfig::default().progress_timeout());
    let hello = {
        let (from, to) = (NodeId(1), NodeId(2));
        let (cluster, at) = ("test".into(), String::new());
        Hello { protocol: PROTOCOL, lane: LaneKind::Bulk, from, to, cluster, at }.encode()
    };
    let begins = encode(Kind::SnapshotBegin, GROUP, 1, 128, |into| {
        put_snapshot_begin(into, &Vote::new_committed(4, 1), &SnapshotMeta::default());
    });
    let mut stream = pair.world.networks[0].connect(&pair.address.peer).await.unwrap();
    stream.write_all(&[hello, begins].concat()).await.unwrap();
    pair.node.replica.discarded.subscribe().wait_for(|count| *count == 1).await.unwrap();
    let waited = began.elapsed();
    assert!((silence..3 * silence).contains(&waited), "{waited:?} on the simulated clock");
}

/// A connection that breaks ends the transfer for a retry from the start, and the receiver discards what it has.
#[tokio::test(start_paused = true)]
async fn a_break_is_tried_again() {
    let pair = Pair::simulated().await;
    close_gate(&pair.node.replica.pieces);
    let sending = send(&pair, snapshot(10, 1_000));
    let breaking = async {
        until(|| pair.two.stats().bulk.frames_received >= 11).await;
        pair.world.network().reset("a", "b");
    };
    let (sent, ()) = tokio::join!(sending, breaking);
    assert!(matches!(sent, Err(StreamingError::Network(_))), "{sent:?}");
    pair.node.replica.discarded.subscribe().wait_for(|count| *count == 1).await.unwrap();
    open_gate(&pair.node.replica.pieces);
    send(&pair, snapshot(10, 1_000)).await.unwrap();
    assert_eq!(pair.node.replica.installed.borrow().len(), 1);
}
