//! Losing leaders, for real: SIGKILL under load, over and over.

use client::Client;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tests::{Cluster, Node, Shape, eventually};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How often the leader is killed while one client measures.
const KILLS_MEASURED: usize = 20;

/// The median time from the kill to the next acknowledged write: a lease of 0.75 s must run out, an election takes as
/// long at most, and a slow machine may take half a second for the rest.
const MEDIAN_MAX: Duration = Duration::from_secs(2);

/// How often the leader is killed while clients append, how many append, and how many appends of theirs are
/// acknowledged before each kill.
const KILLS_UNDER_APPENDS: usize = 10;
const CLIENTS: usize = 5;
const APPENDS_BETWEEN: usize = 50;

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

/// When the leader dies, writes go on within two seconds in the median of twenty deaths, and nothing is lost.
#[tokio::test(flavor = "multi_thread")]
async fn writes_go_on_after_a_leader_dies() {
    let mut cluster = Cluster::start(Shape::default()).await;
    let client = connect(&cluster).await;
    let mut pauses = Vec::new();
    for round in 0..KILLS_MEASURED {
        client.put("warm", round.to_string()).await.expect("a cluster that is ready takes writes");
        let killed = cluster.kill_leader(1).await;
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

/// What one client has begun and what of it was acknowledged; one append of it is open at most.
#[derive(Debug, Default)]
struct Progress {
    begun: AtomicUsize,
    acknowledged: AtomicUsize,
}

impl Progress {
    fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::SeqCst)
    }

    /// The number of the append that is open now.
    fn open(&self) -> Option<usize> {
        let acknowledged = self.acknowledged();
        let begun = self.begun.load(Ordering::SeqCst);
        (begun > acknowledged).then_some(begun)
    }
}

/// Appends without a pause until there is no round any more, to a fresh key in each; returns what each must hold.
async fn append(
    client: Client,
    number: usize,
    rounds: watch::Receiver<Option<usize>>,
    progress: Arc<Progress>,
) -> BTreeMap<String, String> {
    let mut expected: BTreeMap<String, String> = BTreeMap::new();
    loop {
        let Some(round) = *rounds.borrow() else { return expected };
        let key = format!("client/{number}/{round}");
        let token = format!("{},", progress.begun.fetch_add(1, Ordering::SeqCst));
        client.append(&key, &token).await.expect("a majority lives on");
        progress.acknowledged.fetch_add(1, Ordering::SeqCst);
        expected.entry(key).or_default().push_str(&token);
    }
}

/// Five clients append without a pause while the leader is killed ten times, each time in the middle of some appends:
/// all take effect exactly once each, in each client's order.
#[tokio::test(flavor = "multi_thread")]
async fn appends_take_effect_once_across_leaders() {
    let mut cluster = Cluster::start(Shape::default().with_fast_elections()).await;
    let (round, rounds) = watch::channel(Some(0));
    let progress: Vec<Arc<Progress>> = (0..CLIENTS).map(|_| Arc::default()).collect();
    let mut appending = JoinSet::new();
    for (number, progress) in progress.iter().enumerate() {
        appending.spawn(append(connect(&cluster).await, number, rounds.clone(), progress.clone()));
    }
    let acknowledged = || progress.iter().map(|progress| progress.acknowledged()).sum::<usize>();
    let open = || progress.iter().map(|progress| progress.open()).collect::<Vec<_>>();
    let mut interrupted = 0;
    for kill in 0..KILLS_UNDER_APPENDS {
        round.send_replace(Some(kill));
        let before = acknowledged();
        let enough = || std::future::ready((acknowledged() >= before + APPENDS_BETWEEN).then_some(()));
        eventually("appends are acknowledged", enough).await;
        let leader = cluster.leader(1).await;
        let (open_before, node) = (open(), cluster.node(leader));
        node.begin_kill();
        let across =
            open().iter().zip(&open_before).filter(|(now, then)| now.is_some() && now == then).count();
        node.ended().await;
        assert!(open_before.iter().any(Option::is_some), "no append was open when n{leader} was killed");
        println!("kill {kill} of n{leader}: {across} of {CLIENTS} clients had an append open");
        interrupted += across;
        cluster.start_all().await;
    }
    assert!(interrupted >= KILLS_UNDER_APPENDS, "too few appends were open at a kill: {interrupted}");
    round.send_replace(None);
    let client = connect(&cluster).await;
    for (key, expected) in appending.join_all().await.into_iter().flatten() {
        let value = client.get(&key).await.expect("a cluster that is ready answers");
        assert_eq!(value.expect("appended").bytes, expected, "{key}");
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
    let written: BTreeMap<String, String> =
        (0..2_000).map(|number| (format!("k{number:04}"), format!("v{number}"))).collect();
    let puts = written.iter().map(|(key, value)| client::Operation::put(key, value, client::Expect::Any));
    for answer in client.batch(puts).await {
        answer.expect("two of three nodes take writes");
    }
    cluster.node(away).start();
    cluster.node(away).ready().await;
    let node = &cluster.nodes()[away as usize - 1];
    eventually("the returned node shows every write from its own memory", || async {
        (own_keys(node).await? == written).then_some(())
    })
    .await;
}

/// All keys that start with k, with their values, as the node itself holds them. Each page starts with the last key
/// of the one before.
async fn own_keys(node: &Node) -> Option<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    let mut start = "k".to_owned();
    loop {
        let path = format!("/v1/kv?prefix=k&limit=1000&consistency=stale&start={start}");
        let page = node.get_json(&path).await?;
        let records = page["keys"].as_array()?;
        for record in records {
            found.insert(record["key"].as_str()?.to_owned(), record["value"].as_str()?.to_owned());
        }
        if page["cursor"].is_null() {
            return Some(found);
        }
        start = found.last_key_value()?.0.clone();
    }
}
