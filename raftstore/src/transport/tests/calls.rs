//! Calls between front ends: what is certain about a call that failed.

use super::*;
use crate::transport::CallError;

async fn call(pair: &Pair, service: u8, body: &'static [u8], deadline: Duration) -> Result<Bytes, CallError> {
    pair.one.call(NodeId(2), &pair.address.peer, service, Bytes::from_static(body), deadline).await
}

async fn carried_out_at_the_same_time(world: World) {
    let pair = Pair::start(world, TransportConfig::default(), FakeNode::default()).await;
    let slow = call(&pair, 2, b"slow", 10 * SECOND);
    let fast = async {
        pair.node.calls.subscribe().wait_for(|calls| *calls == 1).await.unwrap();
        assert_eq!(call(&pair, 1, b"fast", 10 * SECOND).await.unwrap(), "fast");
        open_gate(&pair.node.call_gate);
    };
    let (slow, ()) = tokio::join!(slow, fast);
    assert_eq!(slow.unwrap(), "slow");
}

/// A slow call does not delay a fast one behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_do_not_wait_for_each_other_over_tcp() {
    carried_out_at_the_same_time(World::tcp()).await;
}

/// The same in the simulation.
#[tokio::test(start_paused = true)]
async fn calls_do_not_wait_for_each_other_when_simulated() {
    carried_out_at_the_same_time(World::simulated()).await;
}

/// Where nobody listens, a call fails at once and certainly had no effect.
#[tokio::test]
async fn without_a_listener_nothing_happened() {
    let pair = Pair::start(World::tcp(), TransportConfig::default(), FakeNode::default()).await;
    pair.server.shutdown().await;
    let error = call(&pair, 1, b"x", 60 * SECOND).await.unwrap_err();
    assert!(matches!(error, CallError::NotDelivered(_)), "{error:?}");
    assert!(!error.may_have_happened());
}

/// A call that was sent and not answered in time may have happened; one that never left did not.
#[tokio::test(start_paused = true)]
async fn out_of_time_depends_on_whether_it_was_sent() {
    let pair = Pair::simulated().await;
    pair.world.network().partition(&["a"], &["b"]);
    let error = call(&pair, 1, b"x", SECOND / 2).await.unwrap_err();
    assert!(matches!(error, CallError::NotDelivered(_)), "{error:?}");
    // What is asked during an attempt to connect shares its end, so the one that hangs must be over.
    until(|| pair.one.stats().request.connect_failures == 1).await;
    pair.world.network().heal();
    assert_eq!(call(&pair, 1, b"x", SECOND).await.unwrap(), "x");
    pair.world.network().partition(&["a"], &["b"]);
    let error = call(&pair, 1, b"x", SECOND / 2).await.unwrap_err();
    assert!(matches!(error, CallError::MaybeDelivered(_)), "{error:?}");
    assert!(error.may_have_happened());
    assert_eq!(pair.one.stats().request.timeouts, 2);
    assert_eq!(pair.one.stats().request.in_flight, 0);
}

/// A connection that breaks under a call that was sent leaves its outcome open.
#[tokio::test(start_paused = true)]
async fn a_break_leaves_the_outcome_open() {
    let pair = Pair::simulated().await;
    let broken = call(&pair, 2, b"x", 60 * SECOND);
    let breaks = async {
        pair.node.calls.subscribe().wait_for(|calls| *calls == 1).await.unwrap();
        pair.world.network().reset("a", "b");
    };
    let (result, ()) = tokio::join!(broken, breaks);
    assert!(matches!(result, Err(CallError::MaybeDelivered(_))), "{result:?}");
    assert_eq!(call(&pair, 1, b"next", SECOND).await.unwrap(), "next");
}

/// A refusal arrives with its reason and means that nothing happened.
#[tokio::test(start_paused = true)]
async fn refusals_arrive() {
    let pair = Pair::simulated().await;
    let error = call(&pair, 3, b"x", SECOND).await.unwrap_err();
    assert_eq!(error, CallError::Refused(Refusal::Unsupported("service 3".into())));
    assert!(!error.may_have_happened());
}

/// More calls than may be in progress are refused as overloaded, and the rest are carried out.
#[tokio::test(start_paused = true)]
async fn excess_is_refused_by_the_receiver() {
    let config = TransportConfig { calls_in_progress_max: 3, ..TransportConfig::default() };
    let pair = Pair::start(World::simulated(), config, FakeNode::default()).await;
    let calls = futures_util::future::join_all((0..5).map(|_| call(&pair, 2, b"x", 60 * SECOND)));
    let opened = async {
        until(|| pair.two.stats().request.frames_received == 5).await;
        open_gate(&pair.node.call_gate);
    };
    let (results, ()) = tokio::join!(calls, opened);
    let refused =
        results.iter().filter(|r| matches!(r, Err(CallError::Refused(Refusal::Overloaded(_))))).count();
    assert_eq!((refused, results.iter().filter(|r| r.is_ok()).count()), (2, 3));
}

/// More calls than the sender may have under way, and bodies larger than a frame, are refused unsent.
#[tokio::test(start_paused = true)]
async fn excess_is_refused_by_the_sender() {
    let config =
        TransportConfig { calls_max: 2, request_frame_bytes_max: 4_096, ..TransportConfig::default() };
    let pair = Pair::start(World::simulated(), config, FakeNode::default()).await;
    let calls = futures_util::future::join_all((0..3).map(|_| call(&pair, 2, b"x", SECOND)));
    let results = calls.await;
    assert!(matches!(&results[2], Err(CallError::NotDelivered(why)) if why.contains("too many calls")));
    let large = pair.one.call(NodeId(2), &pair.address.peer, 1, Bytes::from(vec![0; 5_000]), SECOND).await;
    assert!(matches!(&large, Err(CallError::NotDelivered(why)) if why.contains("too large")), "{large:?}");
    assert_eq!(*pair.node.calls.borrow(), 2);
}

/// Calls that are dropped leave nothing behind.
#[tokio::test(start_paused = true)]
async fn dropped_calls_are_forgotten() {
    let pair = Pair::simulated().await;
    {
        let dropped = call(&pair, 2, b"x", 60 * SECOND);
        let seen = pair.node.calls.subscribe();
        tokio::pin!(dropped, seen);
        tokio::select! {
            result = dropped => panic!("nothing may be answered: {result:?}"),
            _ = seen.wait_for(|calls| *calls == 1) => {}
        }
    }
    assert_eq!(pair.one.stats().request.in_flight, 0);
    open_gate(&pair.node.call_gate);
    assert_eq!(call(&pair, 1, b"next", SECOND).await.unwrap(), "next");
}
