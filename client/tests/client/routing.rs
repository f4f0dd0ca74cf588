//! Calls find their node: the leader where it is known, another where it fails.

use crate::network::{Faults, Network, SHARDS};
use flotilla_client::{Client, Cluster, Config, Error, Expect, NodeId, Operation};
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

/// A key of `shard`.
fn key_of(shard: u32) -> String {
    let keys = (0..).map(|number: u32| format!("k{number}"));
    keys.into_iter().find(|key| proto::shard_of(key.as_bytes(), SHARDS).0 == shard).expect("shards have keys")
}

/// Two groups led by different nodes, on a network whose nodes send on what belongs elsewhere.
async fn two_groups() -> (Network, Client) {
    let network = Network::calm();
    {
        let mut state = network.state();
        state.forwarding = true;
        state.owners = [1, 1, 2, 2];
        state.leaders.insert(2, 2);
    }
    let client = network.client().await;
    (network, client)
}

/// Each key's requests go straight to the node that leads its group. After a move the first of them takes a
/// hop more and none fails, and once the map was fetched again they go straight to the shard's new group.
#[tokio::test(start_paused = true)]
async fn moves_cost_a_hop_and_no_error() {
    let (network, client) = two_groups().await;
    let keys: Vec<String> = (0..SHARDS).map(key_of).collect();
    for key in &keys {
        client.put(key, "v").await.unwrap();
    }
    assert_eq!(network.state().batches, [(1, 1), (1, 1), (2, 1), (2, 1)]);
    assert_eq!(network.state().forwarded, 0);
    {
        let mut state = network.state();
        (state.owners[1], state.epoch) = (2, 2);
    }
    // The view that the client has is not old enough to be fetched for another reason.
    tokio::time::sleep(Duration::from_millis(300)).await;
    client.put(&keys[1], "v").await.unwrap();
    assert_eq!(network.state().batches.last(), Some(&(1, 1)));
    assert_eq!(network.state().forwarded, 1);
    client.put(&keys[1], "v").await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let before = network.state().batches.len();
    let forwarded = network.state().forwarded;
    for _ in 0..5 {
        client.put(&keys[1], "v").await.unwrap();
        client.put(&keys[0], "v").await.unwrap();
    }
    let state = network.state();
    let expected: Vec<(u64, usize)> = [(2, 1), (1, 1)].into_iter().cycle().take(10).collect();
    assert_eq!(state.batches[before..], expected);
    assert_eq!((state.forwarded, state.views), (forwarded, 2), "one fetch, and no detour after it");
}

/// A detour that no view does away with, because no node knows better yet, makes the client ask ever less
/// often.
#[tokio::test(start_paused = true)]
async fn a_detour_that_stays_is_asked_about_ever_less_often() {
    let (network, client) = two_groups().await;
    let old = network.state().view();
    {
        let mut state = network.state();
        state.behind = (1..=3).map(|node| (node, old.clone())).collect();
        state.owners[1] = 2;
    }
    let key = key_of(1);
    for _ in 0..4_000 {
        client.put(&key, "v").await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let views = network.state().views;
    // 20 s and more: at the most once in 5 s after 0.2, 0.4, 0.8, 1.6 and 3.2 s.
    assert!((6..=12).contains(&views), "{views}");
}

/// Clients that find out about a move at one instant do not all ask at one instant, and each asks once.
#[tokio::test(start_paused = true)]
async fn clients_do_not_ask_all_at_once() {
    let network = Network::new(1, Faults::default());
    {
        let mut state = network.state();
        state.forwarding = true;
        state.leaders.insert(2, 2);
    }
    let mut clients = Vec::new();
    for seed in 0..50 {
        let config = Config { seed: Some(seed), ..Config::default() };
        clients.push(network.builder(config).connect().await.unwrap());
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    {
        let mut state = network.state();
        (state.owners[1], state.epoch) = (2, 2);
    }
    let (key, before) = (key_of(1), network.state().views);
    // The first finds the detour out, the second has the view fetched.
    for _ in 0..2 {
        for done in futures_util::future::join_all(clients.iter().map(|client| client.put(&key, "v"))).await {
            done.unwrap();
        }
    }
    let mut fetched = Vec::new();
    for _ in 0..12 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        fetched.push(network.state().views - before);
    }
    assert!(fetched[0] < 25 && fetched[4] < 45, "{fetched:?}");
    assert_eq!(fetched.last(), Some(&50), "{fetched:?}");
}

/// A node that still knows an older map does not take the client back to it; where all know only an older
/// one, the cluster was set back, and the client goes along.
#[tokio::test(start_paused = true)]
async fn older_maps_are_not_believed() {
    let network = Network::calm();
    network.state().epoch = 7;
    let client = network.client().await;
    let old = {
        let mut state = network.state();
        let old = state.view();
        (state.epoch, state.owners) = (8, [2; SHARDS as usize]);
        state.leaders.insert(2, 2);
        old
    };
    assert_eq!(client.cluster().await.unwrap().epoch, 8);
    network.state().behind = [(2, old.clone()), (3, old.clone())].into();
    for _ in 0..10 {
        assert_eq!(client.cluster().await.unwrap().epoch, 8);
    }
    network.state().behind.insert(1, old);
    assert_eq!(client.cluster().await.unwrap().epoch, 7);
}

/// A node that joined is called once the map names it, and one that was removed is not called any more: calls
/// in between fail over.
#[tokio::test(start_paused = true)]
async fn nodes_come_and_go() {
    let network = Network::calm();
    network.state().forwarding = true;
    let client = network.client().await;
    client.put("k", "1").await.unwrap();
    {
        let mut state = network.state();
        state.nodes.insert(4);
        (state.leader, state.term, state.epoch) = (4, 2, 2);
    }
    client.put("k", "2").await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    client.put("k", "3").await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    client.put("k", "4").await.unwrap();
    assert_eq!(network.state().batches.last(), Some(&(4, 1)), "the new node leads, and is called");
    {
        let mut state = network.state();
        state.nodes = [1, 2, 3].into();
        state.down.insert(4);
        (state.leader, state.term, state.epoch) = (2, 3, 3);
    }
    client.put("k", "5").await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    client.put("k", "6").await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    // Would a call still try it, it would never come back.
    network.state().down.remove(&4);
    network.state().hung.insert(4);
    for _ in 0..20 {
        client.get("k").await.unwrap();
    }
    let nodes: Vec<u64> = client.cluster().await.unwrap().nodes.iter().map(|node| node.id.0).collect();
    assert_eq!(nodes, [1, 2, 3]);
    assert_eq!(network.value("k"), "6");
}

/// A call that meets a shard between two groups is made again, at the same node, until the shard has arrived.
#[tokio::test(start_paused = true)]
async fn calls_wait_for_shards_on_their_way() {
    let (network, client) = two_groups().await;
    network.state().moving.insert(1);
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.put(key_of(1), "v").await }
    });
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!call.is_finished());
    network.state().moving.clear();
    call.await.unwrap().unwrap();
    assert!(network.state().batches.iter().all(|(node, _)| *node == 1), "{:?}", network.state().batches);
    assert_eq!(network.state().machine.applied.len(), 1);
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
