//! Groups that come and go, one at a time, while one clerk writes and reads.

use crate::cluster::{Cluster, Shape};
use crate::map::{Map, Operator};
use crate::serving::{append_all, keys, keys_of, readable, write_all};
use crate::wait::eventually;
use std::time::Duration;

/// JoinBasic: a group that joins takes its share of the shards over, and every key keeps its value.
#[tokio::test(flavor = "multi_thread")]
async fn join_basic() {
    let cluster = Cluster::start(Shape::new(1, 10)).await;
    let (keys, mut clerk, mut operator) = (keys(), cluster.clerk(), Operator::new(&cluster));
    write_all(&mut clerk, &keys).await;
    let joined = operator.join(1).await[0];
    append_all(&mut clerk, &keys).await;
    let map = Map::settled(&cluster).await;
    map.check_balance();
    assert_eq!(keys_of(&map, joined, &keys).len(), keys.len() / 2);
    append_all(&mut clerk, &keys).await;
    cluster.end().await;
}

/// JoinLeave: a group joins and leaves again; its nodes may be stopped a second after all that it gave away is read
/// elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn join_leave() {
    let cluster = Cluster::start(Shape::new(1, 11)).await;
    let (keys, mut clerk, mut operator) = (keys(), cluster.clerk(), Operator::new(&cluster));
    write_all(&mut clerk, &keys).await;
    let joined = operator.join(1).await[0];
    let servers = cluster.servers(joined).await;
    append_all(&mut clerk, &keys).await;
    Map::settled(&cluster).await;
    operator.leave(joined).await;
    append_all(&mut clerk, &keys).await;
    eventually("all is given away", async || {
        Map::since(&cluster, 0).await.owners().iter().all(|owner| *owner != joined).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    cluster.crash_all(&servers);
    assert_eq!(readable(&cluster, &keys).await.len(), keys.len());
    append_all(&mut clerk, &keys).await;
    cluster.end().await;
}

/// JoinLeaveBasic: a group leaves, its nodes are killed, another group joins in its place once they are back: at each
/// step every key is read and written.
#[tokio::test(flavor = "multi_thread")]
async fn join_leave_basic() {
    let cluster = Cluster::start(Shape::new(2, 12)).await;
    let (keys, mut clerk, mut operator) = (keys(), cluster.clerk(), Operator::new(&cluster));
    write_all(&mut clerk, &keys).await;
    for _ in 0..crate::rounds(3, 1) {
        let last = *Map::newest(&cluster).await.groups("serving").last().unwrap();
        let servers = cluster.servers(last).await;
        operator.leave(last).await;
        Map::settled(&cluster).await;
        cluster.crash_all(&servers);
        append_all(&mut clerk, &keys).await;
        cluster.boot_all().await;
        let rejoined = operator.join(1).await[0];
        append_all(&mut clerk, &keys).await;
        let map = Map::settled(&cluster).await;
        assert_eq!(keys_of(&map, rejoined, &keys).len(), keys.len() / 2);
    }
    cluster.end().await;
}

/// MissChange: one replica of each group is down while groups come and go, another one in the next round; those that
/// missed changes catch up and serve.
#[tokio::test(flavor = "multi_thread")]
async fn miss_change() {
    let cluster = Cluster::start(Shape::new(1, 13)).await;
    let (keys, mut clerk, mut operator) = (keys(), cluster.clerk(), Operator::new(&cluster));
    write_all(&mut clerk, &keys).await;
    let mut joined = operator.join(2).await;
    for turn in 0..3 {
        let missing = Map::at_home(&cluster).await.one_of_each_group(turn);
        cluster.crash_all(&missing);
        append_all(&mut clerk, &keys).await;
        operator.leave(joined.remove(0)).await;
        append_all(&mut clerk, &keys).await;
        joined.extend(operator.join(1).await);
        append_all(&mut clerk, &keys).await;
        cluster.boot_all().await;
        append_all(&mut clerk, &keys).await;
    }
    cluster.end().await;
}

/// Many groups join and leave, all at once and one by one, while one clerk writes and reads.
async fn many_join_leave(cluster: std::sync::Arc<Cluster>) {
    let (keys, mut clerk, mut operator) = (keys(), cluster.clerk(), Operator::new(&cluster));
    write_all(&mut clerk, &keys).await;
    for _ in 0..crate::rounds(3, 1) {
        let joined = operator.join(7).await;
        append_all(&mut clerk, &keys).await;
        Map::settled(&cluster).await.check_balance();
        append_all(&mut clerk, &keys).await;
        for group in joined {
            operator.leave(group).await;
            clerk.append_own(&keys[group as usize % keys.len()]).await;
        }
        append_all(&mut clerk, &keys).await;
        Map::settled(&cluster).await.check_balance();
    }
    cluster.end().await;
}

/// ManyJoinLeave, reliable: eight groups.
#[tokio::test(flavor = "multi_thread")]
async fn many_join_leave_reliable() {
    many_join_leave(Cluster::start(Shape::new(1, 14).on_few_nodes()).await).await;
}

/// ManyJoinLeave, unreliable: eight groups.
#[tokio::test(flavor = "multi_thread")]
async fn many_join_leave_unreliable() {
    let cluster = Cluster::start(Shape::new(1, 15).on_few_nodes()).await;
    cluster.make_unreliable();
    many_join_leave(cluster).await;
}
