//! What a shard takes of a node that has given it away.

use client::{Client, Expect, Operation};
use reqwest::Method;
use serde_json::Value;
use std::collections::BTreeMap;
use tests::{Cluster, Shape, eventually};

/// What the shard holds: 64 MiB. A batch of it fits a client's window.
const VALUES: usize = 1 << 14;
const VALUE_BYTES: usize = 4 << 10;
const BATCH: usize = 256;
/// How often a little is written before it is looked at what nodes take.
const LOOKS: usize = 300;

const SHARD_BYTES: u64 = (VALUES * VALUE_BYTES) as u64;

/// Puts a value to each key.
async fn fill(client: &Client, keys: impl Iterator<Item = String>) {
    let keys: Vec<String> = keys.collect();
    for keys in keys.chunks(BATCH) {
        let puts = keys.iter().map(|key| Operation::put(key, vec![b'v'; VALUE_BYTES], Expect::Any));
        for answer in client.batch(puts).await {
            answer.expect("a cluster that is ready takes writes");
        }
    }
}

/// The nodes that hold a group's replicas.
async fn replicas(cluster: &Cluster, group: u64) -> Vec<u64> {
    eventually("a node tells the map", async || {
        let map = cluster.map().await?;
        let view = map["groups"].as_array()?.iter().find(|view| view["id"] == group)?;
        view["replicas"].as_array()?.iter().map(Value::as_u64).collect()
    })
    .await
}

/// What each of `nodes` takes of memory and disk, in bytes.
async fn taken(cluster: &Cluster, nodes: &[u64]) -> BTreeMap<u64, (u64, u64)> {
    eventually("nodes tell what they take", async || {
        let mut taken = BTreeMap::new();
        for node in cluster.nodes().iter().filter(|node| nodes.contains(&node.id())) {
            let status = node.get_json("/v1/status").await?;
            taken.insert(node.id(), (status["memory_rss_bytes"].as_u64()?, status["disk_bytes"].as_u64()?));
        }
        Some(taken)
    })
    .await
}

/// Uses another shard of the group a little, for as long as freed memory may take to come back: it does when the thread
/// that took it asks for some of that size again.
async fn use_a_little(client: &Client, stays: &str) {
    for _ in 0..LOOKS {
        fill(client, (0..4).map(|number| format!("{{{stays}}}/{number}"))).await;
    }
}

/// Once a shard of 64 MiB has left three nodes for three others, each of the three takes less memory and disk than
/// before by at least half as much: the system has it, not only the allocator.
#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_left_takes_no_memory_nor_disk() {
    let settings = vec!["raft.snapshot_log_bytes_min=1048576".to_owned(), "raft.log_bytes_kept=0".to_owned()];
    let cluster = Cluster::start(Shape { nodes: 6, groups: 2, settings, ..Shape::default() }).await;
    let client = Client::builder().seeds(cluster.seeds()).connect().await.expect("a cluster that is ready");
    cluster.change(Method::PUT, "/v1/cluster/moves", r#"{"copy_bytes_per_second":null,"moves_max":4}"#).await;
    fill(&client, ["{moving}/0".to_owned()].into_iter()).await;
    let shard = cluster.shard_of("%7Bmoving%7D/0").await;
    let from = cluster.owner(shard).await;
    let to = 3 - from;
    let (sources, destinations) = (replicas(&cluster, from).await, replicas(&cluster, to).await);
    assert!(sources.iter().all(|node| !destinations.contains(node)), "{sources:?}, {destinations:?}");
    let mut stays = String::new();
    for number in 0.. {
        stays = format!("stays-{number}");
        fill(&client, [stays.clone()].into_iter()).await;
        let shard = cluster.shard_of(&stays).await;
        if cluster.owner(shard).await == from {
            break;
        }
    }

    let empty = taken(&cluster, &sources).await;
    fill(&client, (0..VALUES).map(|number| format!("{{moving}}/{number}"))).await;
    use_a_little(&client, &stays).await;
    let filled = taken(&cluster, &sources).await;
    println!("empty {empty:?}, filled {filled:?}");
    for (node, (memory, disk)) in &filled {
        let holds_it = *memory >= empty[node].0 + SHARD_BYTES && *disk >= empty[node].1 + SHARD_BYTES;
        assert!(holds_it, "n{node} holds the shard: {empty:?}, {filled:?}");
    }
    let path = format!("/v1/cluster/shards/{shard}/move");
    cluster.change(Method::POST, &path, &format!(r#"{{"to":{to}}}"#)).await;
    assert_eq!(cluster.owner(shard).await, to);
    eventually("its memory and disk are given back", async || {
        use_a_little(&client, &stays).await;
        let left = taken(&cluster, &sources).await;
        println!("left {left:?}");
        let given_back = |(node, (memory, disk)): (&u64, &(u64, u64))| {
            let most = |filled: u64| filled - SHARD_BYTES / 2;
            *memory <= most(filled[node].0) && *disk <= most(filled[node].1)
        };
        left.iter().all(given_back).then_some(())
    })
    .await;
}
