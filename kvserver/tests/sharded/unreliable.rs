//! Groups that come and go while messages are late and lost, between nodes as well as on the way to clerks.

use crate::churn::{Churn, Clerks};
use crate::cluster::{Cluster, Shape};
use crate::rounds;
use crate::serving::{append_all, keys, write_all};

/// Unreliable1: one clerk goes on while groups come and go.
#[tokio::test(flavor = "multi_thread")]
async fn unreliable_1() {
    let cluster = Cluster::start(Shape::new(1, 30).on_few_nodes()).await;
    cluster.make_unreliable();
    let (keys, mut clerk, mut churn) = (keys(), cluster.clerk(), Churn::new(&cluster));
    write_all(&mut clerk, &keys).await;
    for _ in 0..rounds(5, 2) {
        churn.change().await;
        append_all(&mut clerk, &keys).await;
    }
    cluster.end().await;
}

/// Unreliable2: each of several clerks appends to keys of its own, through a hundred changes; each append took effect
/// once, and in its clerk's order.
#[tokio::test(flavor = "multi_thread")]
async fn unreliable_2() {
    let cluster = Cluster::start(Shape::new(1, 31).on_few_nodes()).await;
    cluster.make_unreliable();
    let mut churn = Churn::new(&cluster);
    let appends = (0..5).map(|number| {
        let (mut clerk, key) = (cluster.clerk(), keys().swap_remove(2 * number));
        async move {
            let mut written = String::new();
            for count in 0..rounds(200, 30) {
                let piece = format!("<{count}>");
                clerk.append(&key, &piece).await;
                written += &piece;
            }
            assert_eq!(clerk.get(&key).await, Some(written));
        }
    });
    let changes = async {
        for _ in 0..rounds(100, 8) {
            churn.change().await;
        }
    };
    futures_util::future::join(futures_util::future::join_all(appends), changes).await;
    cluster.end().await;
}

/// Unreliable3: clerks read, write and append to the same keys while groups come and go; the history is linearizable.
#[tokio::test(flavor = "multi_thread")]
async fn unreliable_3() {
    let cluster = Cluster::start(Shape::new(1, 32).on_few_nodes()).await;
    cluster.make_unreliable();
    let (clerks, mut churn) = (Clerks::begin(&cluster, 5), Churn::new(&cluster));
    for _ in 0..rounds(30, 5) {
        churn.change().await;
    }
    clerks.end().await;
    cluster.end().await;
}
