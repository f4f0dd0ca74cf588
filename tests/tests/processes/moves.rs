//! Moving a shard, for real: SIGKILL in the middle of its copy, under load.

use client::Client;
use reqwest::Method;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;
use tests::{Cluster, Shape, eventually};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What the shard that moves holds beside what clients append, and how fast it may be copied: the copy takes
/// seconds.
const VALUES: usize = 20;
const VALUE_BYTES: usize = 90 << 10;
const COPY_BYTES_PER_SECOND: usize = 600 << 10;

/// How many clients append to the shard that moves, and to others.
const CLIENTS: usize = 4;

/// A call may sit out an election and the end of a move.
const DEADLINE: Duration = Duration::from_secs(60);

async fn connect(cluster: &Cluster) -> Client {
    let connecting = Client::builder().seeds(cluster.seeds()).deadline(DEADLINE).connect();
    connecting.await.expect("a cluster that is ready")
}

/// Waits until a part of the copy is in, and more of it is to come.
async fn half_copied(cluster: &Cluster, shard: u64) {
    eventually("the shard is copied in part", async || {
        for node in cluster.nodes().iter().filter(|node| node.is_running()) {
            let status = node.get_json("/v1/status").await?;
            let is_it = |moving: &&Value| moving["shard"] == shard && moving["phase"] == "copying";
            if let Some(moving) = status["moves"].as_array()?.iter().find(is_it) {
                let of = |name: &str| moving[name].as_u64().unwrap_or(0) as usize;
                return (of("copied_bytes") > 2 * VALUE_BYTES && of("remaining_bytes") > 4 * VALUE_BYTES)
                    .then_some(());
            }
        }
        None
    })
    .await;
}

/// Appends until it is told to stop, to keys in the shard that moves and elsewhere; returns what each must
/// hold.
async fn append(client: Client, number: usize, stopped: watch::Receiver<bool>) -> BTreeMap<String, String> {
    let mut expected: BTreeMap<String, String> = BTreeMap::new();
    for count in (0..).take_while(|_| !*stopped.borrow()) {
        let key = match count % 2 {
            0 => format!("{{moving}}/client/{number}"),
            _ => format!("client/{number}/{}", count % 16),
        };
        let token = format!("{count},");
        client.append(&key, &token).await.expect("a majority lives on");
        expected.entry(key).or_default().push_str(&token);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    expected
}

/// A shard moves three times while clients append, and in the middle of each copy a node gets SIGKILL: the
/// leader of its source, of its destination, and the third. Each time it arrives, and every append has taken
/// effect once.
///
/// The controller's leader is one of the three, and its lead goes elsewhere only where it dies: over three
/// kills of three nodes it is hit at least once.
#[tokio::test(flavor = "multi_thread")]
async fn moves_survive_sigkill() {
    let shape = Shape { groups: 3, ..Shape::default() }.with_fast_elections();
    let mut cluster = Cluster::start(shape).await;
    let client = connect(&cluster).await;
    for number in 0..VALUES {
        let value = vec![b'v'; VALUE_BYTES];
        client
            .put(format!("{{moving}}/{number}"), value)
            .await
            .expect("a cluster that is ready takes writes");
    }
    let shard = cluster.shard_of("%7Bmoving%7D/0").await;
    let body = format!(r#"{{"copy_bytes_per_second":{COPY_BYTES_PER_SECOND},"moves_max":4}}"#);
    cluster.change(Method::PUT, "/v1/cluster/moves", &body).await;

    let (stop, stopped) = watch::channel(false);
    let mut appending = JoinSet::new();
    for number in 0..CLIENTS {
        appending.spawn(append(connect(&cluster).await, number, stopped.clone()));
    }
    let mut killed = Vec::new();
    for role in ["the source's leader", "the destination's leader", "the third node"] {
        let leaders = cluster.leaders().await;
        assert!((1..=3).all(|node| leaders.values().any(|leader| *leader == node)), "{leaders:?}");
        let from = cluster.owner(shard).await;
        let is_new = |node: &u64| !killed.contains(node);
        let to = leaders.iter().find(|(group, leader)| match role {
            "the source's leader" => **group != from,
            "the destination's leader" => **group != from && is_new(leader),
            _ => **group != from && !is_new(leader),
        });
        let (&to, &destination) = to.expect("a group that is led by such a node");
        let node = match role {
            "the source's leader" => leaders[&from],
            "the destination's leader" => destination,
            _ => (1..=3).find(is_new).expect("three nodes die once each"),
        };
        println!("s{shard} from g{from} to g{to}: n{node}, {role}, dies; leaders {leaders:?}");
        let path = format!("/v1/cluster/shards/{shard}/move");
        cluster.change(Method::POST, &path, &format!(r#"{{"to":{to}}}"#)).await;
        half_copied(&cluster, shard).await;
        cluster.node(node).kill().await;
        killed.push(node);
        assert_eq!(cluster.owner(shard).await, to);
        cluster.start_all().await;
    }
    stop.send_replace(true);
    let mut appends = 0;
    for (key, expected) in appending.join_all().await.into_iter().flatten() {
        let value = client.get(&key).await.expect("a cluster that is ready answers");
        assert_eq!(value.expect("appended").bytes, expected, "{key}");
        appends += expected.matches(',').count();
    }
    for number in 0..VALUES {
        let value =
            client.get(format!("{{moving}}/{number}")).await.expect("a cluster that is ready answers");
        assert_eq!(value.expect("put").bytes.len(), VALUE_BYTES);
    }
    println!("{appends} appends, each once");
}
