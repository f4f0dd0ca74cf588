//! Moving a shard, for real: SIGKILL in the middle of its copy, under load.

use client::Client;
use reqwest::Method;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;
use tests::{Cluster, Shape, eventually, http};
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

/// Has the cluster make a change.
async fn change(cluster: &Cluster, method: Method, path: &str, body: String) {
    eventually(path, async || {
        let node = cluster.nodes().iter().find(|node| node.is_running())?;
        let url = format!("http://{}{path}", node.http());
        let answer = http().request(method.clone(), url).body(body.clone()).send().await.ok()?;
        assert!(answer.status() == 200 || answer.status().as_u16() >= 409, "{path}: {answer:?}");
        (answer.status() == 200).then_some(())
    })
    .await;
}

/// The map of a node that runs.
async fn map(cluster: &Cluster) -> Option<Value> {
    cluster.nodes().iter().find(|node| node.is_running())?.get_json("/v1/cluster/map").await
}

/// Who leads each data group, once each is led by the node to which its lead belongs: three groups by three
/// nodes.
async fn leaders(cluster: &Cluster) -> BTreeMap<u64, u64> {
    let leaders = eventually("every group is led by whom it belongs to", async || {
        let map = map(cluster).await?;
        let mut leaders = BTreeMap::new();
        for group in map["groups"].as_array()?.iter().filter(|group| group["id"] != 0) {
            let (id, preferred) = (group["id"].as_u64()?, group["preferred"].as_u64()?);
            let status = cluster.nodes()[preferred as usize - 1].get_json("/v1/status").await?;
            let replica = status["groups"].as_array()?.iter().find(|replica| replica["id"] == id)?.clone();
            (replica["role"] == "leader").then_some(())?;
            leaders.insert(id, preferred);
        }
        Some(leaders)
    })
    .await;
    let nodes: Vec<u64> = leaders.values().copied().collect();
    assert!((1..=3).all(|node| nodes.contains(&node)), "leaders are spread: {leaders:?}");
    leaders
}

/// Where a shard is, once no move of it is listed and it is where it is to be.
async fn owner(cluster: &Cluster, shard: u64) -> u64 {
    eventually("the shard is where it is to be", async || {
        let map = map(cluster).await?;
        let rests = map["moves"].as_array()?.is_empty();
        let runs = map["shard_runs"].as_array()?;
        let within = |run: &&Value| run[0].as_u64() <= Some(shard) && Some(shard) <= run[1].as_u64();
        let run = runs.iter().find(within)?;
        (rests && run[2] == run[3]).then(|| run[2].as_u64())?
    })
    .await
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
    let url = format!("http://{}/v1/kv/%7Bmoving%7D/0", cluster.nodes()[0].http());
    let answer = http().get(url).send().await.expect("a node that is ready answers");
    let shard = answer.headers().get("flotilla-shard").and_then(|shard| shard.to_str().ok()?.parse().ok());
    let shard: u64 = shard.expect("a key's shard is told");
    let body = format!(r#"{{"copy_bytes_per_second":{COPY_BYTES_PER_SECOND},"moves_max":4}}"#);
    change(&cluster, Method::PUT, "/v1/cluster/moves", body).await;

    let (stop, stopped) = watch::channel(false);
    let mut appending = JoinSet::new();
    for number in 0..CLIENTS {
        appending.spawn(append(connect(&cluster).await, number, stopped.clone()));
    }
    let mut killed = Vec::new();
    for role in ["the source's leader", "the destination's leader", "the third node"] {
        let leaders = leaders(&cluster).await;
        let from = owner(&cluster, shard).await;
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
        change(&cluster, Method::POST, &path, format!(r#"{{"to":{to}}}"#)).await;
        half_copied(&cluster, shard).await;
        cluster.node(node).kill().await;
        killed.push(node);
        assert_eq!(owner(&cluster, shard).await, to);
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
