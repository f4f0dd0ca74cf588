//! The network is cut in two: the majority goes on, the minority tells nothing, and nothing is lost.

use crate::cluster::{Shape, examine};
use crate::faults::{Faults, survive};
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// For how long a minority's clients are watched while they are told nothing.
const BLOCKED: Duration = Duration::from_secs(1);

/// Within how long after healing they are answered.
const ANSWERED: Duration = Duration::from_secs(3);

const CUTS: Faults = Faults { unreliable: false, partitions: true, restarts: false, snapshots: false };

/// OnePartition: with its leader in a minority of two, the group goes on in the majority of three; a Put and
/// a Get of clients that reach the minority alone are not answered for a second, and both are within three
/// after healing.
#[tokio::test(flavor = "multi_thread")]
async fn one_partition() {
    examine(Shape::new(5, 20), async |cluster| {
        cluster.clerk().put("1", "12").await;
        let leader = cluster.leader().await;
        let minority = [leader, leader % 5 + 1];
        let majority: Vec<u64> = cluster.nodes().filter(|node| !minority.contains(node)).collect();
        cluster.split(&minority);
        let mut outside = cluster.seen_from(&majority).clerk();
        outside.put("1", "13").await;
        assert_eq!(outside.get("1").await.as_deref(), Some("13"), "the majority goes on");

        let inside = cluster.seen_from(&minority);
        let (mut writer, mut reader) = (inside.clerk(), inside.clerk());
        let mut put = tokio::spawn(async move { writer.put("1", "14").await });
        let mut get = tokio::spawn(async move { reader.get("1").await });
        sleep(BLOCKED).await;
        assert!(!put.is_finished() && !get.is_finished(), "a minority answers nobody");
        assert_eq!(outside.get("1").await.as_deref(), Some("13"), "what a minority was sent is not there");
        outside.put("1", "15").await;
        assert!(!put.is_finished() && !get.is_finished(), "a minority answers nobody");

        cluster.heal();
        let both = async { tokio::join!(&mut put, &mut get) };
        let (put, get) = timeout(ANSWERED, both).await.expect("both are answered once the network is healed");
        put.unwrap();
        let got = get.unwrap();
        assert!(["14", "15"].contains(&got.as_deref().unwrap_or_default()), "{got:?}");
    })
    .await;
}

/// ManyPartitionsOneClient: the network is cut at random all the while that one client is at work.
#[tokio::test(flavor = "multi_thread")]
async fn many_partitions_one_client() {
    survive(1, 5, CUTS, 21).await;
}

/// ManyPartitionsManyClients: the network is cut at random all the while that five clients are at work.
#[tokio::test(flavor = "multi_thread")]
async fn many_partitions_many_clients() {
    survive(5, 5, CUTS, 22).await;
}
