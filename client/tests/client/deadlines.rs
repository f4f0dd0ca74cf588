//! Every call ends by its deadline and says truthfully whether it may have happened.

use crate::network::Network;
use flotilla_client::{Client, Config, Error, Outcome};
use futures_util::FutureExt;
use std::time::Duration;
use tokio::time::Instant;

async fn with_deadline(network: &Network, deadline: Duration) -> Client {
    network.builder(Config { deadline, ..Config::default() }).connect().await.expect("a calm network answers")
}

/// A write that was sent to nodes that never answer ends at its deadline with an unknown outcome; a read never
/// has one.
#[tokio::test(start_paused = true)]
async fn silence_ends_at_the_deadline() {
    let network = Network::calm();
    let client = with_deadline(&network, Duration::from_secs(7)).await;
    network.state().hung.extend([1, 2, 3]);
    let begun = Instant::now();
    let write = client.put("k", "v").await.unwrap_err();
    assert_eq!(begun.elapsed(), Duration::from_secs(7));
    assert_eq!(write.outcome(), Outcome::Unknown, "{write}");
    let read = client.get("k").await.unwrap_err();
    assert_eq!(begun.elapsed(), Duration::from_secs(14));
    assert_eq!((read.outcome(), read.retryable()), (Outcome::None, true), "{read}");
}

/// Where no node even takes a connection, the write certainly did not happen.
#[tokio::test(start_paused = true)]
async fn refused_connections_have_no_effect() {
    let network = Network::calm();
    let client = with_deadline(&network, Duration::from_secs(2)).await;
    network.state().down.extend([1, 2, 3]);
    let begun = Instant::now();
    let error = client.put("k", "v").await.unwrap_err();
    assert_eq!(begun.elapsed(), Duration::from_secs(2));
    assert!(matches!(error, Error::Unavailable { attempts, .. } if attempts > 3), "{error}");
    network.state().down.clear();
    client.put("k", "v").await.unwrap();
}

/// A call that ran out of time behind others, before it was sent, certainly did not happen.
#[tokio::test(start_paused = true)]
async fn what_was_never_sent_has_no_effect() {
    let network = Network::calm();
    let config = Config { batches_per_node: 1, ..Config::default() };
    let client = network.builder(config).connect().await.unwrap();
    network.state().hung.insert(1);
    let ahead = tokio::spawn({
        let client = client.clone();
        async move { client.put("a", "v").await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let hasty = client.with_deadline(Duration::from_millis(100)).unwrap();
    let error = hasty.put("b", "v").await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::None, "{error}");
    network.state().hung.clear();
    ahead.await.unwrap().unwrap();
    assert_eq!((network.value("a"), network.value("b")), ("v".into(), String::new()));
}

/// What waits beyond its deadline is not sent any more, even where its caller has not looked at it since.
#[tokio::test(start_paused = true)]
async fn nothing_is_sent_after_its_deadline() {
    let network = Network::calm();
    let config = Config { batches_per_node: 1, ..Config::default() };
    let client = network.builder(config).connect().await.unwrap();
    network.state().faults.delay_max = Duration::from_secs(1);
    let ahead = tokio::spawn({
        let client = client.clone();
        async move { client.put("a", "v").await }
    });
    while network.state().under_way.is_empty() {
        tokio::task::yield_now().await;
    }
    let hasty = client.with_deadline(Duration::from_millis(1)).unwrap();
    let mut late = std::pin::pin!(hasty.put("b", "v"));
    assert!(late.as_mut().now_or_never().is_none());
    ahead.await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(network.state().batches.len(), 1);
    assert_eq!(late.await.unwrap_err().outcome(), Outcome::None);
}

/// Connecting ends at the deadline too, and a deadline beyond the bound is refused.
#[tokio::test(start_paused = true)]
async fn connecting_has_a_deadline() {
    let network = Network::calm();
    network.state().hung.insert(1);
    let begun = Instant::now();
    let config = Config { deadline: Duration::from_secs(3), ..Config::default() };
    let error = network.builder(config).connect().await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    assert_eq!(begun.elapsed(), Duration::from_secs(3));
    network.state().hung.clear();
    let client = network.client().await;
    let error = client.with_deadline(Duration::from_secs(301)).unwrap_err();
    assert!(matches!(error, Error::Config { field: "deadline", .. }), "{error}");
}

/// Seeds that swallow everything are not waited for one after another: the last of three that answers is found in a
/// fraction of the time that one attempt may take.
#[tokio::test(start_paused = true)]
async fn silent_seeds_are_not_waited_for() {
    let network = Network::calm();
    network.state().hung.extend([1, 2]);
    let begun = Instant::now();
    let builder = network.builder(Config::default()).seeds(["n1:1", "n2:1", "n3:1"]);
    builder.connect().await.unwrap();
    assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
    assert_eq!(network.state().view_requests, 3);
}

/// A value that takes longer over a slow link than an attempt without one may is sent once, not cut short and sent
/// again until the deadline.
#[tokio::test(start_paused = true)]
async fn a_slow_upload_is_not_cut_short() {
    let network = Network::calm();
    let client = network.client().await;
    network.state().faults.bytes_per_second = Some(300 << 10);
    let begun = Instant::now();
    client.put("k", "v".repeat(1 << 20)).await.unwrap();
    assert!(begun.elapsed() > Config::default().attempt_timeout, "{:?}", begun.elapsed());
    assert_eq!(network.state().batches.len(), 1);
}

/// A node that asks for time is given it.
#[tokio::test(start_paused = true)]
async fn overload_is_met_with_patience() {
    let network = Network::calm();
    let client = network.client().await;
    let body = r#"{"code":"overloaded","detail":"full","retryable":true,"outcome":"none"}"#;
    network.state().refusals.push((429, Some(Duration::from_secs(3)), body));
    let begun = Instant::now();
    client.put("k", "v").await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(3), "{:?}", begun.elapsed());
    assert_eq!(network.state().batches.len(), 2);
}
