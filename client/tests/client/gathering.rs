//! Calls gather behind those that are on their way, within bounds, and a lone call waits for nobody.

use crate::network::{Faults, Network};
use flotilla_client::{Config, Consistency, Error, Expect, Limits, Operation, Range, Reply, Version};
use futures_util::future::join_all;
use std::time::Duration;
use tokio::time::Instant;

/// Nobody waits for company: a lone call leaves alone, at once, each time.
#[tokio::test(start_paused = true)]
async fn a_lone_call_leaves_at_once() {
    let network = Network::new(1, Faults::default());
    let client = network.client().await;
    let begun = Instant::now();
    for _ in 0..10 {
        client.put("k", "v").await.unwrap();
    }
    assert_eq!(network.state().batches, [(1, 1); 10]);
    assert_eq!(begun.elapsed(), Duration::ZERO, "on a network without delays no simulated time passes");
}

/// A thousand callers at once need a handful of batches.
#[tokio::test(start_paused = true)]
async fn many_calls_share_few_batches() {
    let network = Network::calm();
    let client = network.client().await;
    let calls = (0..1000).map(|number| {
        let client = client.clone();
        tokio::spawn(async move { client.put(format!("k{number}"), "v").await })
    });
    for call in join_all(calls).await {
        call.unwrap().unwrap();
    }
    let state = network.state();
    assert_eq!(state.batches.iter().map(|(_, items)| items).sum::<usize>(), 1000);
    assert!(state.batches.len() <= 8, "{:?}", state.batches);
    assert_eq!(state.machine.applied.len(), 1000);
}

/// What is handed in together travels together, and every operation has its own answer in its place.
#[tokio::test(start_paused = true)]
async fn a_batch_leaves_as_one() {
    let network = Network::calm();
    let client = network.client().await;
    client.put("old", "1").await.unwrap();
    client.put("gone", "1").await.unwrap();
    let operations = [
        Operation::get("old"),
        Operation::put("new", "2", Expect::Any),
        Operation::get("absent"),
        Operation::put("old", "3", Expect::Version(Version(9))),
        Operation::delete("gone", Expect::Any),
    ];
    let replies = client.batch(operations).await;
    assert_eq!(network.state().batches.last(), Some(&(1, 5)));
    assert!(matches!(&replies[0], Ok(Reply::Value(Some(value))) if value.bytes == "1"), "{replies:?}");
    assert!(
        matches!(&replies[1], Ok(Reply::Written(written)) if written.version == Version(1)),
        "{replies:?}"
    );
    assert!(matches!(&replies[2], Ok(Reply::Value(None))), "{replies:?}");
    assert_eq!(replies[3], Err(Error::VersionMismatch { current: Version(1) }));
    assert!(matches!(&replies[4], Ok(Reply::Deleted(_))), "{replies:?}");
}

/// What comes while a batch is on its way waits for it, until it is as much itself or that one has taken long.
#[tokio::test(start_paused = true)]
async fn a_batch_holds_up_what_is_less() {
    let network = Network::calm();
    let config = Config { batches_per_node: 3, ..Config::default() };
    let client = network.builder(config).connect().await.unwrap();
    network.state().hung.insert(1);
    let mut calls = Vec::new();
    let mut batches_after = async |gets: usize, time: Duration| {
        let client = client.clone();
        let gets = (0..gets).map(|number| Operation::get(format!("k{number}")));
        calls.push(tokio::spawn(async move { client.batch(gets).await }));
        tokio::time::sleep(time).await;
        network.state().under_way[&1].0
    };
    let moment = Duration::from_millis(4);
    assert_eq!(batches_after(10, moment).await, 1);
    assert_eq!(batches_after(9, moment).await, 1, "less than what is on its way");
    assert_eq!(batches_after(1, moment).await, 2, "as much, with what waited");
    assert_eq!(batches_after(1, moment).await, 2);
    assert_eq!(batches_after(0, Duration::from_millis(20)).await, 3, "the others have taken long");
    network.state().hung.clear();
    for call in join_all(calls).await {
        assert!(call.unwrap().iter().all(Result::is_ok));
    }
}

/// Batches on their way to a node, items in a batch and calls on their way stay within their bounds.
#[tokio::test(start_paused = true)]
async fn bounds_hold() {
    let network = Network::calm();
    // Less than what three batches could hold.
    let config = Config { in_flight_max: 20, batch_items_max: 8, batches_per_node: 3, ..Config::default() };
    let client = network.builder(config).connect().await.unwrap();
    network.state().hung.insert(1);
    let calls = (0..400).map(|number| {
        let client = client.clone();
        tokio::spawn(async move { client.put(format!("k{number}"), "v").await })
    });
    let calls: Vec<_> = calls.collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(network.state().under_way[&1], (3, 3), "the leader hangs with all its batches");
    assert_eq!(network.state().items_under_way, (20, 20), "and with all calls that may be on their way");
    network.state().hung.clear();
    for call in join_all(calls).await {
        call.unwrap().unwrap();
    }
    let state = network.state();
    assert!(state.batches.iter().all(|(_, items)| *items <= 8), "{:?}", state.batches);
    assert!(state.under_way.values().all(|(_, most)| *most <= 3), "{:?}", state.under_way);
    assert_eq!(state.items_under_way, (0, 20), "now and at most");
}

/// Bytes bound a batch as items do, and the cluster says how many.
#[tokio::test(start_paused = true)]
async fn batches_stay_within_their_bytes() {
    let network = Network::calm();
    let limits = Limits { key_bytes_max: 100, value_bytes_max: 1000, batch_bytes_max: 3000 };
    network.state().limits = limits;
    let config = Config { in_flight_bytes_max: 9000, ..Config::default() };
    let client = network.builder(config).connect().await.unwrap();
    let value = vec![0; 900];
    let operations = (0..50).map(|number| Operation::put(format!("k{number}"), &value, Expect::Any));
    assert!(client.batch(operations).await.iter().all(Result::is_ok));
    assert!(network.state().batches.iter().all(|(_, items)| *items <= 3));
    let error = client.put("k", vec![0; 1001]).await.unwrap_err();
    assert_eq!(error.to_string(), "value_too_large: value is longer than 1000 bytes: 1001");
}

/// A limit that is raised while the client runs holds for its next call, and one call alone asks for it.
#[tokio::test(start_paused = true)]
async fn raised_limits_are_noticed() {
    let network = Network::calm();
    network.state().limits = Limits { key_bytes_max: 100, value_bytes_max: 1000, batch_bytes_max: 3000 };
    let client = network.client().await;
    client.put("k", vec![0; 2000]).await.expect_err("larger than the limit");
    network.state().limits.value_bytes_max = 2000;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let views = network.state().views;
    let values = (0..50).map(|number| Operation::put(format!("k{number}"), [0; 2000], Expect::Any));
    assert!(client.batch(values).await.iter().all(Result::is_ok));
    assert_eq!(network.state().views, views + 1);
}

/// However many values seem too large while no node answers, each node is asked once whether limits were raised,
/// also where the first to ask gives up, and nobody waits for a second round of failures. Later it is asked anew.
#[tokio::test(start_paused = true)]
async fn limits_are_asked_for_once_at_a_time() {
    let network = Network::calm();
    network.state().limits = Limits { key_bytes_max: 100, value_bytes_max: 1000, batch_bytes_max: 3000 };
    let client = network.client().await.with_deadline(Duration::from_secs(60)).unwrap();
    let hasty = client.with_deadline(Duration::from_secs(1)).unwrap();
    network.state().hung.extend([1, 2, 3]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = network.state().view_requests;
    let puts = std::iter::once(&hasty).chain([&client; 5]).map(|client| client.put("k", vec![0; 2000]));
    for refused in join_all(puts).await {
        let error = refused.unwrap_err();
        assert_eq!(error.to_string(), "value_too_large: value is longer than 1000 bytes: 2000");
    }
    assert_eq!(network.state().view_requests, before + 3);
    network.state().hung.clear();
    network.state().limits.value_bytes_max = 2000;
    tokio::time::sleep(Duration::from_secs(1)).await;
    client.put("k", vec![0; 2000]).await.unwrap();
}

/// What was written when keys could be longer is read, listed past and deleted; what is refused is to add to it.
#[tokio::test(start_paused = true)]
async fn lowered_limits_bind_what_adds() {
    let network = Network::calm();
    network.state().limits = Limits { key_bytes_max: 3, value_bytes_max: 2, batch_bytes_max: 5 };
    let long = "longer than the limit";
    network.state().machine.data.insert(long.into(), (b"value".to_vec(), 1));
    let client = network.client().await;
    for refused in [client.put(long, "v").await, client.append(long, "v").await] {
        let error = refused.unwrap_err();
        assert_eq!(error.to_string(), "key_too_large: key is longer than 3 bytes: 21");
    }
    assert_eq!(client.get(long).await.unwrap().map(|value| value.bytes), Some("value".into()));
    let range = Range { start: long.into(), ..Range::prefix(long) };
    assert_eq!(client.scan(range.clone()).collect(9).await.unwrap().len(), 1);
    let past = Range { after: Some(long.into()), ..range };
    assert_eq!(client.scan(past).collect(9).await.unwrap().len(), 0);
    client.delete(long).await.unwrap();
    assert!(network.state().machine.data.is_empty());
}

/// A node that finds batches too large gets smaller ones, and nothing is lost.
#[tokio::test(start_paused = true)]
async fn batches_that_are_too_large_are_divided() {
    let network = Network::calm();
    network.state().items_max = 10;
    let client = network.client().await;
    let operations = (0..200).map(|number| Operation::put(format!("k{number}"), "v", Expect::Any));
    assert!(client.batch(operations).await.iter().all(Result::is_ok));
    assert_eq!(network.state().machine.applied.len(), 200);
}

/// Reads of different freshness never share a batch: a batch has one freshness for all its reads.
#[tokio::test(start_paused = true)]
async fn reads_of_different_freshness_travel_apart() {
    let network = Network::calm();
    network.state().forwarding = true;
    let client = network.client().await;
    let stale = Consistency::Stale { lag_ms_max: None };
    let clients = [("fresh", client.clone()), ("stale", client.with_consistency(stale))];
    let both = (0..60).map(|number| {
        let (key, client) = &clients[number / 5 % 2];
        client.get(key)
    });
    assert!(join_all(both).await.iter().all(Result::is_ok));
    let state = network.state();
    for (consistency, keys) in &state.reads {
        let wanted = if *consistency == stale { "stale" } else { "fresh" };
        assert!(keys.iter().all(|key| key == wanted), "{consistency:?}: {keys:?}");
    }
    assert_eq!(state.reads.iter().map(|(_, keys)| keys.len()).sum::<usize>(), 60);
    assert!(state.reads.iter().any(|(_, keys)| keys.len() > 1), "reads of one freshness do share batches");
    let nodes: std::collections::BTreeSet<u64> = state.batches.iter().map(|(node, _)| *node).collect();
    assert_eq!(nodes.len(), 3, "stale reads use all replicas");
}
