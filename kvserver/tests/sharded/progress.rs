//! What goes on while something else cannot: shards that do not move, shards that have arrived, groups that are there.

use crate::clerk::Clerk;
use crate::cluster::{Cluster, Shape};
use crate::map::{Map, Operator};
use crate::serving::{READ_TIME, append_all, keys, keys_of, readable, write_all};
use crate::wait::eventually;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How many reads go on while others wait.
const READS: u64 = 100;

/// The pause between two reads of one reader.
const PACE: Duration = Duration::from_millis(20);

/// UnaffectedShards: a group is told to leave while its nodes are dead, so its shards cannot move; the other's are
/// read and written all the while. Once the nodes are back, its shards arrive with all that they held.
#[tokio::test(flavor = "multi_thread")]
async fn unaffected_shards() {
    let cluster = Cluster::start(Shape::new(2, 40)).await;
    let (keys, mut clerk, mut operator) = (keys(), cluster.clerk(), Operator::new(&cluster));
    write_all(&mut clerk, &keys).await;
    let map = Map::at_home(&cluster).await;
    let unaffected: Vec<String> = keys_of(&map, 1, &keys).into_iter().collect();
    map.check_controller_outlives(&map.replicas(2));
    cluster.crash_all(&map.replicas(2));
    operator.leave(2).await;
    for _ in 0..3 {
        append_all(&mut clerk, &unaffected).await;
    }
    assert_eq!(readable(&cluster, &keys).await, unaffected.into_iter().collect::<BTreeSet<_>>());
    cluster.boot_all().await;
    append_all(&mut clerk, &keys).await;
    cluster.end().await;
}

/// PartialMigration: of two groups that leave at once one is dead; the shards of the other arrive and are served
/// before the rest do.
#[tokio::test(flavor = "multi_thread")]
async fn partial_migration() {
    let cluster = Cluster::start(Shape::new(3, 41)).await;
    let (keys, mut clerk, mut operator) = (keys(), cluster.clerk(), Operator::new(&cluster));
    write_all(&mut clerk, &keys).await;
    let map = Map::at_home(&cluster).await;
    let (stuck, moving) = (keys_of(&map, 3, &keys), keys_of(&map, 2, &keys));
    map.check_controller_outlives(&map.replicas(3));
    cluster.crash_all(&map.replicas(3));
    operator.leave(3).await;
    operator.leave(2).await;
    eventually("what is not stuck arrives", async || {
        let map = Map::since(&cluster, 0).await;
        moving.iter().all(|key| map.owner_of(key) == 1).then_some(())
    })
    .await;
    let served: Vec<String> = keys.iter().filter(|key| !stuck.contains(*key)).cloned().collect();
    append_all(&mut clerk, &served).await;
    assert_eq!(readable(&cluster, &keys).await, served.into_iter().collect::<BTreeSet<_>>());
    cluster.boot_all().await;
    append_all(&mut clerk, &keys).await;
    cluster.end().await;
}

/// ProgressShutdown: while one group after another is down, every read of a live group's keys is answered within two
/// seconds.
#[tokio::test(flavor = "multi_thread")]
async fn progress_shutdown() {
    let cluster = Cluster::start(Shape::new(3, 42)).await;
    let (keys, mut clerk) = (keys(), cluster.clerk());
    write_all(&mut clerk, &keys).await;
    let map = Map::newest(&cluster).await;
    for group in [2, 3] {
        cluster.crash_all(&map.replicas(group));
        let down = keys_of(&map, group, &keys);
        let live: BTreeSet<String> = keys.iter().filter(|key| !down.contains(*key)).cloned().collect();
        assert_eq!(readable(&cluster, &keys).await, live);
        cluster.boot_all().await;
        append_all(&mut clerk, &keys).await;
    }
    cluster.end().await;
}

/// ProgressJoin: while a group joins and leaves again and again, reads of shards that stay where they are go on: a
/// hundred of them are answered, in the full form within four seconds.
#[tokio::test(flavor = "multi_thread")]
async fn progress_join() {
    let cluster = Cluster::start(Shape::new(4, 43)).await;
    let (keys, mut clerk, mut operator) = (keys(), cluster.clerk(), Operator::new(&cluster));
    write_all(&mut clerk, &keys).await;
    let (first, began) = (Map::settled(&cluster).await, Instant::now());
    let reads: Arc<Vec<AtomicU64>> = Arc::new(keys.iter().map(|_| AtomicU64::new(0)).collect());
    let mut readers = JoinSet::new();
    for shard in 0..keys.len() {
        drop(readers.spawn(read(cluster.clerk(), shard, reads.clone())));
    }
    loop {
        let joined = operator.join(1).await[0];
        Map::settled(&cluster).await;
        operator.leave(joined).await;
        let last = Map::settled(&cluster).await.epoch();
        let stable = stable_shards(&cluster, first.epoch(), last).await;
        assert!(!stable.is_empty() && stable.len() < keys.len(), "some stay, some move: {stable:?}");
        let answered: u64 = stable.iter().map(|shard| reads[*shard].load(Ordering::Relaxed)).sum();
        println!("{answered} reads of shards that stay, {stable:?}, after {:?}", began.elapsed());
        if answered >= READS {
            break;
        }
        assert!(began.elapsed() < crate::seconds(4, 120), "only {answered} reads were answered");
    }
    readers.shutdown().await;
    cluster.end().await;
}

/// Reads a key of one shard again and again, and counts the answers: a reader of its own for each, so that none waits
/// for a shard that moves.
async fn read(mut reader: Clerk, shard: usize, reads: Arc<Vec<AtomicU64>>) {
    let key = keys().swap_remove(shard);
    loop {
        reader.get(&key).await;
        reads[shard].fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(PACE).await;
    }
}

/// The shards that were served by one group throughout these epochs, and were to be.
async fn stable_shards(cluster: &Cluster, first: u64, last: u64) -> Vec<usize> {
    let door = cluster.connected().swap_remove(0);
    let mut seen: Vec<BTreeSet<u64>> = vec![BTreeSet::new(); keys().len()];
    for epoch in first..=last {
        let path = format!("/v1/cluster/map?epoch={epoch}");
        let map = eventually("an old map is told", async || {
            let answer = door.get(&path).await;
            (answer.status == 200).then(|| Map(answer.json()))
        })
        .await;
        for (seen, groups) in seen.iter_mut().zip(map.owners().into_iter().zip(map.targets())) {
            seen.extend([groups.0, groups.1]);
        }
    }
    (0..seen.len()).filter(|shard| seen[*shard].len() == 1).collect()
}

/// JoinLeave with a group down: a group that is down cannot leave; once its nodes are back and it has a leader, it
/// leaves, in the full form within two seconds.
#[tokio::test(flavor = "multi_thread")]
async fn join_leave_with_a_group_down() {
    let cluster = Cluster::start(Shape::new(2, 44)).await;
    let (keys, mut clerk, mut operator) = (keys(), cluster.clerk(), Operator::new(&cluster));
    write_all(&mut clerk, &keys).await;
    let map = Map::at_home(&cluster).await;
    map.check_controller_outlives(&map.replicas(2));
    cluster.crash_all(&map.replicas(2));
    operator.leave(2).await;
    tokio::time::sleep(READ_TIME).await;
    let owners = Map::newest(&cluster).await.owners();
    assert_eq!(owners, map.owners(), "a group that is down gives nothing away");
    cluster.boot_all().await;
    let has_left = async || Map::since(&cluster, 0).await.owners().iter().all(|owner| *owner == 1);
    eventually("the group is led, if it has not left by then", async || {
        (cluster.leader_if_any(2).await.is_some() || has_left().await).then_some(())
    })
    .await;
    let began = Instant::now();
    eventually("the group has left", async || has_left().await.then_some(())).await;
    println!("left after {:?}", began.elapsed());
    assert!(began.elapsed() < crate::seconds(2, 120), "{:?}", began.elapsed());
    append_all(&mut clerk, &keys).await;
    cluster.end().await;
}
