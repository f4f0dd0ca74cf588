//! What is given away is freed: logs and snapshots of all replicas together stay bounded by what is stored.

use crate::clerk::Clerk;
use crate::cluster::{Cluster, Shape};
use crate::map::{Map, Operator};
use crate::wait::eventually;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The examination's load: so many keys, with values of so many bytes.
const KEYS: usize = 30;
const VALUE_BYTES: usize = 1_000;

/// What the examination allows for it, in bytes: three replicas, each with the keys once, some of them twice, and
/// some room.
const STORED_BYTES_MAX: u64 = 117_000;

/// What this service takes beside it, in bytes: a log may grow to half of the last snapshot before the next one, the
/// names of writes are remembered for an hour, and each of the replicas of up to three groups has a log of its own.
const OVERHEAD_BYTES: u64 = 100_000;

/// How much more may be stored after a move than before, in bytes.
const MOVE_BYTES_MAX: u64 = 10_000;

/// What each replica of a data group stores, log and snapshot, as its node measures it; by node and group, in bytes.
async fn stored_by_replica(cluster: &Cluster) -> BTreeMap<(usize, u64), u64> {
    let mut stored = BTreeMap::new();
    for (node, door) in cluster.doors().into_iter().enumerate() {
        let status = door.get("/v1/status").await.json();
        for replica in status["groups"].as_array().unwrap().iter().filter(|replica| replica["id"] != 0) {
            let snapshot = replica["snapshot"]["bytes"].as_u64().unwrap_or(0);
            let bytes = replica["log_bytes"].as_u64().unwrap() + snapshot;
            stored.insert((node, replica["id"].as_u64().unwrap()), bytes);
        }
    }
    stored
}

/// Logs and snapshots of all replicas of data groups, in bytes.
async fn stored(cluster: &Cluster) -> u64 {
    stored_by_replica(cluster).await.into_values().sum()
}

/// What all replicas store right after they have compacted their logs, in bytes: the least of each while all keys are
/// written a few times more, one by one. What they store in between depends on how far each of them happens to be from
/// its next snapshot. These writes have no names: names are remembered, so the later measure would be larger by them.
async fn stored_when_compacted(cluster: &Arc<Cluster>) -> u64 {
    let mut least: BTreeMap<_, u64> = BTreeMap::new();
    let mut clerk = cluster.clerk().without_names();
    for key in (0..3).flat_map(|_| names()) {
        clerk.put(&key, &"2".repeat(VALUE_BYTES)).await;
        for (replica, bytes) in stored_by_replica(cluster).await {
            least.entry(replica).and_modify(|least| *least = bytes.min(*least)).or_insert(bytes);
        }
    }
    least.into_values().sum()
}

/// Waits until no more than `most` is stored.
async fn comes_down_to(cluster: &Cluster, most: u64) {
    let least = Cell::new(u64::MAX);
    eventually(&format!("at most {most} bytes are stored"), async || {
        let bytes = stored(cluster).await;
        if bytes < least.replace(bytes.min(least.get())) {
            println!("{bytes} bytes are stored, {most} may be");
        }
        (bytes <= most).then_some(())
    })
    .await;
}

fn names() -> Vec<String> {
    (0..KEYS).map(|number| format!("large{number}")).collect()
}

async fn put_all(clerk: &mut Clerk, rounds: usize) {
    for round in 0..rounds {
        for key in names() {
            clerk.put(&key, &format!("{round}").repeat(VALUE_BYTES)).await;
        }
    }
}

async fn loaded(groups: u32, seed: u64) -> (Arc<Cluster>, Clerk) {
    let cluster = Cluster::start(Shape::new(groups, seed).on_few_nodes().with_snapshots()).await;
    let mut clerk = cluster.clerk();
    put_all(&mut clerk, 2).await;
    (cluster, clerk)
}

/// Delete: groups take shards over from each other and leave, several times; what is stored in the end, logs and
/// snapshots of all replicas together, is the data once for each replica and a stated overhead.
#[tokio::test(flavor = "multi_thread")]
async fn delete() {
    let (cluster, mut clerk) = loaded(1, 50).await;
    let mut operator = Operator::new(&cluster);
    let mut last = 1;
    for _ in 0..crate::rounds(3, 1) {
        let joined = operator.join(2).await;
        Map::settled(&cluster).await;
        put_all(&mut clerk, 1).await;
        operator.leave(last).await;
        operator.leave(joined[0]).await;
        Map::settled(&cluster).await;
        put_all(&mut clerk, 1).await;
        last = joined[1];
    }
    comes_down_to(&cluster, STORED_BYTES_MAX + OVERHEAD_BYTES).await;
    cluster.end().await;
}

/// DeleteBasic: after half of the shards have moved to another group, no more is stored than before, but for 10 kB.
#[tokio::test(flavor = "multi_thread")]
async fn delete_basic() {
    let (cluster, _) = loaded(1, 51).await;
    let before = stored_when_compacted(&cluster).await;
    let mut operator = Operator::new(&cluster);
    let joined = operator.join(1).await[0];
    let map = Map::settled(&cluster).await;
    assert!(names().iter().any(|key| map.owner_of(key) == joined));
    let after = stored_when_compacted(&cluster).await;
    println!("{before} bytes before, {after} after");
    assert!(after <= before + MOVE_BYTES_MAX);
    cluster.end().await;
}
