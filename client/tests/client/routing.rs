//! Calls find their node: the leader where it is known, another where it fails.

use crate::network::Network;
use flotilla_client::{Cluster, Config, Error, Expect, NodeId, Operation};
use std::time::Duration;

/// A hint in an answer is followed, and remembered for the calls after it.
#[tokio::test(start_paused = true)]
async fn hints_are_followed_and_remembered() {
    let network = Network::calm();
    let client = network.client().await;
    client.put("k", "1").await.unwrap();
    network.state().leader = 3;
    client.put("k", "2").await.unwrap();
    let before = network.state().batches.len();
    client.put("k", "3").await.unwrap();
    client.put("k", "4").await.unwrap();
    assert_eq!(network.state().batches[before..], [(3, 1), (3, 1)]);
}

/// When the leader goes away, calls reach its successor through any node, without its being named.
#[tokio::test(start_paused = true)]
async fn calls_fail_over() {
    let network = Network::calm();
    network.state().forwarding = true;
    let client = network.client().await;
    client.put("k", "1").await.unwrap();
    {
        let mut state = network.state();
        (state.leader, state.term) = (2, 2);
        state.down.insert(1);
    }
    client.put("k", "2").await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    client.put("k", "3").await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = network.state().batches.len();
    for _ in 0..10 {
        client.put("k", "4").await.unwrap();
    }
    assert!(
        network.state().batches[before..].iter().all(|(node, _)| *node == 2),
        "the new leader is learned"
    );
}

/// What waits behind a batch that gets no answer does not wait for its own turn to fail.
#[tokio::test(start_paused = true)]
async fn waiting_calls_leave_a_hung_node() {
    let network = Network::calm();
    network.state().forwarding = true;
    let client = network.client().await;
    network.state().hung.insert(1);
    let begun = tokio::time::Instant::now();
    let calls = (0..300).map(|number| {
        let client = client.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(number % 10)).await;
            client.put(format!("k{number}"), "v").await
        }
    });
    assert!(futures_util::future::join_all(calls).await.iter().all(Result::is_ok));
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "one attempt's timeout, not several: {:?}",
        begun.elapsed()
    );
}

/// A batch whose operations all time out is one failure of its node, however many they are: the leader is asked
/// first again within a second.
#[tokio::test(start_paused = true)]
async fn a_batch_that_times_out_is_one_failure() {
    let network = Network::calm();
    network.state().forwarding = true;
    let client = network.client().await;
    // By then the view may be fetched again, which names the leader anew.
    tokio::time::sleep(Duration::from_secs(1)).await;
    network.state().faults.item_forgotten = 1.0;
    let puts = (0..20).map(|number| Operation::put(format!("k{number}"), "v", Expect::Any));
    let puts = tokio::spawn({
        let (client, puts) = (client.clone(), puts.collect::<Vec<_>>());
        async move { client.batch(puts).await }
    });
    while network.state().batches.is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    network.state().faults.item_forgotten = 0.0;
    assert!(puts.await.unwrap().iter().all(Result::is_ok));
    assert_eq!(network.state().batches[0], (1, 20));
    assert_ne!(network.state().batches[1].0, 1, "what failed is tried elsewhere");
    tokio::time::sleep(Duration::from_secs(1)).await;
    client.put("k", "v").await.unwrap();
    assert_eq!(network.state().batches.last(), Some(&(1, 1)));
}

/// The view is fetched when it is old, not with every call.
#[tokio::test(start_paused = true)]
async fn the_view_is_fetched_now_and_then() {
    let network = Network::calm();
    let client = network.client().await;
    for _ in 0..100 {
        client.get("k").await.unwrap();
    }
    assert_eq!(network.state().views, 1);
    tokio::time::sleep(Config::default().map_age_max).await;
    for _ in 0..100 {
        client.get("k").await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(network.state().views, 2);
    let cluster: Cluster = client.cluster().await.unwrap();
    assert_eq!((cluster.nodes.len(), cluster.groups[0].leader), (3, Some(NodeId(1))));
    assert_eq!(network.state().views, 3);
}

/// Seeds that are no addresses are refused with the field's name.
#[tokio::test(start_paused = true)]
async fn bad_seeds_are_refused() {
    let network = Network::calm();
    let error = network.builder(Config::default()).seeds(["https://n1:1"]).connect().await.unwrap_err();
    assert!(matches!(error, Error::Config { field: "seeds", .. }), "{error}");
}
