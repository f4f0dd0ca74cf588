//! Groups that stay where they are: each serves its own shards, alone and whatever becomes of the others.

use crate::clerk::Clerk;
use crate::cluster::{Cluster, SHARDS, Shape};
use crate::map::{Map, Operator};
use crate::wait::eventually;
use proto::{BatchReply, BatchRequest, Code, Consistency, Expect, Item, Operation};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// A read of a shard whose group is there is answered within this time.
pub(crate) const READ_TIME: Duration = Duration::from_secs(2);

/// The service of batches among nodes.
const BATCH_SERVICE: u8 = 16;

/// One key of each shard.
pub(crate) fn keys() -> Vec<String> {
    let shard_of = |key: &String| proto::shard_of(key.as_bytes(), SHARDS).0;
    let of_shard =
        |shard| (0..).map(|number| format!("k{number}")).find(|key| shard_of(key) == shard).unwrap();
    (0..SHARDS).map(of_shard).collect()
}

/// Writes each key once.
pub(crate) async fn write_all(clerk: &mut Clerk, keys: &[String]) {
    for key in keys {
        clerk.put(key, &format!("value of {key}")).await;
    }
}

/// Appends to each key and reads it.
pub(crate) async fn append_all(clerk: &mut Clerk, keys: &[String]) {
    for key in keys {
        clerk.append_own(key).await;
        clerk.get(key).await;
    }
}

/// Which of the keys are read within [`READ_TIME`], asked for all at once.
pub(crate) async fn readable(cluster: &Arc<Cluster>, keys: &[String]) -> BTreeSet<String> {
    let reads = keys.iter().map(async |key| {
        let read = cluster.clerk().get_within(key, READ_TIME).await;
        read.map(|_| key.clone())
    });
    futures_util::future::join_all(reads).await.into_iter().flatten().collect()
}

/// The keys that `group` serves.
pub(crate) fn keys_of(map: &Map, group: u64, keys: &[String]) -> BTreeSet<String> {
    keys.iter().filter(|key| map.owner_of(key) == group).cloned().collect()
}

/// StaticShards: while one of two groups is down, reads of exactly the other's shards are answered; afterwards all.
#[tokio::test(flavor = "multi_thread")]
async fn static_shards() {
    let cluster = Cluster::start(Shape::new(2, 1)).await;
    let keys = keys();
    write_all(&mut cluster.clerk(), &keys).await;
    let map = Map::newest(&cluster).await;
    cluster.crash_all(&map.replicas(2));
    assert_eq!(readable(&cluster, &keys).await, keys_of(&map, 1, &keys));
    cluster.boot_all().await;
    append_all(&mut cluster.clerk(), &keys).await;
    cluster.end().await;
}

/// What a group's leader says to these operations when they are sent to it, without anybody's help in finding the
/// right group.
async fn said_by(cluster: &Cluster, group: u64, operations: &[Operation<'_>]) -> Vec<Option<Code>> {
    let items = operations.iter().map(|operation| Item { stamp: None, operation: operation.clone() });
    let batch = BatchRequest {
        deadline_ms: 2_000,
        consistency: Consistency::Linearizable,
        request_id: 1,
        items: items.collect(),
    };
    let body = [&group.to_le_bytes()[..], &proto::encode(&batch)].concat();
    // Whoever was seen to lead may have handed that over before it was asked.
    eventually("the group's leader answers", async || {
        let reply =
            cluster.ask_as_peer(cluster.leader(group).await, BATCH_SERVICE, body.clone()).await.unwrap();
        let reply: BatchReply<'_> = proto::decode(&reply).unwrap();
        let codes = reply.answers.into_iter().map(|answer| answer.err().map(|error| error.code));
        let codes: Vec<Option<Code>> = codes.collect();
        let led = !codes.iter().any(|code| matches!(code, Some(Code::NotLeader { .. } | Code::NoLeader)));
        led.then_some(codes)
    })
    .await
}

/// Whether a group refuses to read and to write a key, for the reason that it is another's.
async fn refuses(cluster: &Cluster, group: u64, key: &str) -> bool {
    let bytes = key.as_bytes();
    let put = Operation::Put { key: bytes, value: b"never", expect: Expect::Any };
    let said = said_by(cluster, group, &[Operation::Get { key: bytes }, put]).await;
    let refused = said.iter().all(|code| matches!(code, Some(Code::WrongGroup { .. })));
    if !refused {
        println!("g{group} says of {key:?}: {said:?}");
    }
    refused
}

/// Whether a group reads a key.
async fn reads(cluster: &Cluster, group: u64, key: &str) -> bool {
    said_by(cluster, group, &[Operation::Get { key: key.as_bytes() }]).await == [None]
}

/// Rejection: a group refuses reads and writes of a shard that it does not serve, also of one that it served before
/// and has given away. A stranger on the peers' network asks the group's leader itself, past every front end's map.
#[tokio::test(flavor = "multi_thread")]
async fn rejection() {
    let cluster = Cluster::start(Shape::new(2, 2)).await;
    let (keys, mut clerk) = (keys(), cluster.clerk());
    write_all(&mut clerk, &keys).await;
    let map = Map::newest(&cluster).await;
    let (kept, given) = (&keys[0], keys.iter().find(|key| map.owner_of(key) == 2).unwrap());
    assert_eq!(map.owner_of(kept), 1);
    assert!(reads(&cluster, 1, kept).await && reads(&cluster, 2, given).await);
    assert!(refuses(&cluster, 1, given).await && refuses(&cluster, 2, kept).await);

    Operator::new(&cluster).send(proto::shard_of(given.as_bytes(), SHARDS).0, 1).await;
    Map::settled(&cluster).await;
    assert!(refuses(&cluster, 2, given).await, "what was given away is refused");
    assert!(reads(&cluster, 1, given).await);
    append_all(&mut clerk, &keys).await;
    cluster.end().await;
}

/// InitQuery: every node knows the map of a cluster that was just born, the same one: each shard has its group, and
/// the epoch is the first that there is to ask for.
#[tokio::test(flavor = "multi_thread")]
async fn init_query() {
    let cluster = Cluster::start(Shape::new(1, 3).on_few_nodes()).await;
    let mut seen = BTreeSet::new();
    for door in cluster.doors() {
        let first = eventually("the first epoch is told", async || {
            let answer = door.get("/v1/cluster/map?epoch=1").await;
            (answer.status == 200).then(|| Map(answer.json()))
        })
        .await;
        assert_eq!((first.epoch(), first.owners()), (1, vec![1; SHARDS as usize]));
        seen.insert(first.0.to_string());
        for (epoch, refusal) in [(0, "epoch_forgotten"), (1_000, "epoch_ahead")] {
            eventually(&format!("{refusal} is said of epoch {epoch}"), async || {
                let answer = door.get(&format!("/v1/cluster/map?epoch={epoch}")).await;
                assert_ne!(answer.status, 200);
                (answer.said().1 == refusal).then_some(())
            })
            .await;
        }
    }
    assert_eq!(seen.len(), 1, "{seen:?}");
    cluster.end().await;
}

/// StaticOneShardGroup: one group serves all shards, and goes on after its leader was killed, time and again.
#[tokio::test(flavor = "multi_thread")]
async fn static_one_shard_group() {
    let cluster = Cluster::start(Shape::new(1, 4).on_few_nodes()).await;
    let (keys, mut clerk) = (keys(), cluster.clerk());
    write_all(&mut clerk, &keys).await;
    for _ in 0..crate::rounds(5, 2) {
        let leader = cluster.leader(1).await;
        cluster.crash(leader);
        append_all(&mut clerk, &keys).await;
        cluster.boot(leader).await;
    }
    cluster.end().await;
}

/// Snapshot: after groups came and went while logs were cut short by snapshots, all nodes restart at once; nothing
/// is missing, and the groups go on.
#[tokio::test(flavor = "multi_thread")]
async fn snapshot() {
    let cluster = Cluster::start(Shape::new(1, 5).on_few_nodes().with_snapshots()).await;
    let (keys, mut clerk, mut operator) = (keys(), cluster.clerk(), Operator::new(&cluster));
    write_all(&mut clerk, &keys).await;
    operator.join(2).await;
    append_all(&mut clerk, &keys).await;
    operator.leave(1).await;
    for _ in 0..3 {
        append_all(&mut clerk, &keys).await;
    }
    Map::settled(&cluster).await;
    eventually("every group has made a snapshot", async || {
        for door in cluster.doors() {
            let status = door.get("/v1/status").await.json();
            let mut replicas = status["groups"].as_array()?.iter().filter(|replica| replica["keys"] != 0);
            if !replicas.all(|replica| replica["snapshot"].is_object()) {
                return None;
            }
        }
        Some(())
    })
    .await;
    cluster.crash_all(&cluster.up());
    cluster.boot_all().await;
    append_all(&mut clerk, &keys).await;
    cluster.end().await;
}

/// Shutdown: all nodes stop and start, several times; every group serves again what it served.
#[tokio::test(flavor = "multi_thread")]
async fn shutdown() {
    let cluster = Cluster::start(Shape::new(3, 6).on_few_nodes()).await;
    let (keys, mut clerk) = (keys(), cluster.clerk());
    write_all(&mut clerk, &keys).await;
    for _ in 0..crate::rounds(5, 2) {
        cluster.crash_all(&cluster.up());
        cluster.boot_all().await;
        append_all(&mut clerk, &keys).await;
    }
    cluster.end().await;
}
