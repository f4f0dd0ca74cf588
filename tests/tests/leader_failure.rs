//! Losing leaders, for real: SIGKILL under load, over and over.

use client::Client;
use std::time::Duration;
use tests::{Cluster, Shape, eventually};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How often the leader is killed while one client measures.
const KILLS_MEASURED: usize = 20;

/// The median time from the kill to the next acknowledged write: a lease of 0.75 s must run out, an election takes as
/// long at most, and a slow machine may take half a second for the rest.
const MEDIAN_MAX: Duration = Duration::from_secs(2);

/// How often the leader is killed while clients append, how many append, and how much each does in all.
const KILLS_UNDER_APPENDS: usize = 10;
const CLIENTS: usize = 5;
const APPENDS_EACH: usize = 20;

/// A call may sit out a whole election and then some.
const DEADLINE: Duration = Duration::from_secs(60);

async fn connect(cluster: &Cluster) -> Client {
    Client::builder()
        .seeds(cluster.seeds())
        .deadline(DEADLINE)
        .connect()
        .await
        .expect("a cluster that is ready")
}

/// Kills the leader; the others elect a new one by themselves.
async fn kill_leader(cluster: &mut Cluster) -> u64 {
    let leader = cluster.leader(1).await;
    cluster.node(leader).kill().await;
    leader
}

/// When the leader dies, writes go on within two seconds in the median of twenty deaths, and nothing is lost.
#[tokio::test(flavor = "multi_thread")]
async fn writes_go_on_after_a_leader_dies() {
    let mut cluster = Cluster::start(Shape::default()).await;
    let client = connect(&cluster).await;
    let mut pauses = Vec::new();
    for round in 0..KILLS_MEASURED {
        client.put("warm", round.to_string()).await.expect("a cluster that is ready takes writes");
        let killed = kill_leader(&mut cluster).await;
        let began = Instant::now();
        client.put(format!("after/{round}"), "kept").await.expect("two of three nodes go on");
        pauses.push(began.elapsed());
        println!("kill {round:2} of n{killed}: writes went on after {:?}", pauses[round]);
        cluster.start_all().await;
    }
    pauses.sort();
    let median = pauses[pauses.len() / 2];
    println!("median {median:?}, longest {:?}", pauses[pauses.len() - 1]);
    for round in 0..KILLS_MEASURED {
        let value = client.get(format!("after/{round}")).await.expect("a cluster that is ready answers");
        assert_eq!(value.expect("an acknowledged write is kept").bytes, "kept");
    }
    assert!(median <= MEDIAN_MAX, "median {median:?} exceeds {MEDIAN_MAX:?}: {pauses:?}");
}

/// Appends that are under way while the leader is killed ten times take effect exactly once each, in each client's
/// order.
#[tokio::test(flavor = "multi_thread")]
async fn appends_take_effect_once_across_leaders() {
    let mut cluster = Cluster::start(Shape::default().with_fast_elections()).await;
    let clients: Vec<Client> = {
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            clients.push(connect(&cluster).await);
        }
        clients
    };
    let per_kill = APPENDS_EACH / KILLS_UNDER_APPENDS;
    for kill in 0..KILLS_UNDER_APPENDS {
        let mut appending = JoinSet::new();
        for (number, client) in clients.iter().cloned().enumerate() {
            appending.spawn(async move {
                for append in kill * per_kill..(kill + 1) * per_kill {
                    let token = format!("{append},");
                    client.append(format!("client/{number}"), token).await.expect("a majority lives on");
                }
            });
        }
        let killed = kill_leader(&mut cluster).await;
        appending.join_all().await;
        cluster.node(killed).start();
        cluster.node(killed).ready().await;
    }
    let expected: String = (0..APPENDS_EACH).map(|append| format!("{append},")).collect();
    for number in 0..CLIENTS {
        let value =
            clients[0].get(format!("client/{number}")).await.expect("a cluster that is ready answers");
        assert_eq!(value.expect("appended").bytes, expected, "client {number}");
    }
}

/// A node that was away while thousands of writes were made catches up, and serves them when it alone is asked.
#[tokio::test(flavor = "multi_thread")]
async fn a_returning_node_catches_up() {
    let mut cluster = Cluster::start(Shape::default()).await;
    let client = connect(&cluster).await;
    let leader = cluster.leader(1).await;
    let away = (1..=3).find(|node| *node != leader).expect("two followers");
    cluster.node(away).kill().await;
    let puts = (0..2_000).map(|key| client::Operation::put(format!("k{key}"), "v", client::Expect::Any));
    for answer in client.batch(puts).await {
        answer.expect("two of three nodes take writes");
    }
    cluster.node(away).start();
    cluster.node(away).ready().await;
    let node = &cluster.nodes()[away as usize - 1];
    let http = node.http().to_owned();
    eventually("the returned node shows the last write from its own memory", || {
        let url = format!("http://{http}/v1/kv/k1999?consistency=stale");
        async move { reqwest::get(url).await.ok().filter(|answer| answer.status() == 200).map(drop) }
    })
    .await;
}
