//! Nodes that join, are drained, removed, die and return, as real processes, while a client appends without a
//! pause.

use client::Client;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tests::{Cluster, Node, Run, Shape, eventually, http, run};
use tokio::task::JoinHandle;

/// How long a silent node lives on, where a test waits for its death, in milliseconds.
const DEAD_AFTER_MS: u64 = 5_000;

/// A call may sit out elections and moves.
const DEADLINE: Duration = Duration::from_secs(60);

fn shape(groups: u32) -> Shape {
    Shape { groups, ..Shape::default() }.with_fast_elections()
}

/// A client that appends numbers to one key, each once; it knows only the nodes that it is given.
struct Writer {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

async fn connect(seeds: Vec<String>) -> Client {
    let client = Client::builder().seeds(seeds).deadline(DEADLINE).connect().await;
    client.expect("a cluster that is ready")
}

impl Writer {
    async fn start(cluster: &Cluster) -> Self {
        let client = connect(cluster.seeds()).await;
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, count) = (stop.clone(), done.clone());
        let task = tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                let number = count.load(Ordering::Relaxed);
                client.append("log", format!("{number},")).await.expect("a majority lives on");
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { stop, done, task }
    }

    /// Waits until it was acknowledged `more` appends since now.
    async fn goes_on(&self, more: usize) {
        let before = self.done.load(Ordering::Relaxed);
        eventually("the writer goes on", || {
            std::future::ready((self.done.load(Ordering::Relaxed) >= before + more).then_some(()))
        })
        .await;
    }

    /// Stops it; every append is there once, in order, whoever is asked.
    async fn check(self, cluster: &Cluster) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("no append fails");
        let done = self.done.load(Ordering::Relaxed);
        let expected: String = (0..done).map(|number| format!("{number},")).collect();
        for node in cluster.nodes().iter().filter(|node| node.is_running()) {
            let answer = http().get(format!("http://{}/v1/kv/log", node.http())).send().await;
            let value = answer.expect("it answers").text().await.expect("it answers in full");
            assert_eq!(value, expected, "n{}", node.id());
        }
    }
}

/// `flotilla …` asked of one node.
async fn flotilla(node: &Node, args: &[&str]) -> Run {
    run(args.iter().copied().chain(["--nodes", node.http()])).await
}

#[track_caller]
fn assert_done(run: &Run) {
    assert_eq!(run.code(), Some(0), "{}", run.stderr);
}

/// Drains a node and removes it once nothing is left on it.
async fn drain_and_remove(ask: &Node, id: u64) {
    let id = id.to_string();
    assert_done(&flotilla(ask, &["node", "drain", &id]).await);
    eventually(&format!("n{id} can be removed"), || async {
        let removed = flotilla(ask, &["node", "remove", &id]).await;
        let waits = removed.stderr.contains("still holds");
        assert!(removed.code() == Some(0) || waits, "{}", removed.stderr);
        (removed.code() == Some(0)).then_some(())
    })
    .await;
}

async fn set_dead_after(node: &Node) {
    let body = json!({ "dead_after_ms": DEAD_AFTER_MS }).to_string();
    let url = format!("http://{}/v1/cluster/nodes", node.http());
    let request = http().put(url).header("content-type", "application/json").body(body);
    assert_eq!(request.send().await.expect("it answers").status(), 200);
}

fn ids(of: &Value) -> Option<BTreeSet<u64>> {
    of.as_array()?.iter().map(Value::as_u64).collect()
}

async fn map(node: &Node) -> Option<Value> {
    node.get_json("/v1/cluster/map").await
}

/// Waits until every group, the controller's own among them, has exactly the voters that it is to have: three of them,
/// and none of `without`.
async fn settled(node: &Node, without: &[u64]) -> Value {
    eventually("every group has its three voters", || async {
        let map = map(node).await?;
        let own = map.get("controller").filter(|own| own.is_object())?;
        for group in map["groups"].as_array()?.iter().chain([own]) {
            let (replicas, voters) = (ids(&group["replicas"])?, ids(&group["voters"])?);
            let learners = ids(&group["learners"])?;
            let is_rid = without.iter().all(|node| !voters.contains(node));
            if replicas != voters || voters.len() != 3 || !learners.is_empty() || !is_rid {
                return None;
            }
        }
        Some(map)
    })
    .await
}

/// How many groups of data each running node leads, by its own word.
async fn leaders(cluster: &Cluster) -> Option<Vec<usize>> {
    let mut leaders = Vec::new();
    for node in cluster.nodes().iter().filter(|node| node.is_running()) {
        let status = node.get_json("/v1/status").await?;
        let data = status["groups"].as_array()?.iter().filter(|group| group["id"] != 0);
        leaders.push(data.filter(|group| group["role"] == "leader").count());
    }
    Some(leaders)
}

/// A fourth node joins with one command, is given replicas and leaders, and holds its part of a group that is
/// added; drained and removed, it stops, and nothing that a client appended all the while is lost or doubled.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_joins_and_leaves() {
    let mut cluster = Cluster::start(shape(3)).await;
    let writer = Writer::start(&cluster).await;
    cluster.join(4, &[2, 1]).await;
    writer.goes_on(50).await;
    assert_done(&flotilla(&cluster.nodes()[0], &["group", "add"]).await);
    let map = settled(&cluster.nodes()[0], &[]).await;
    let groups = map["groups"].as_array().expect("groups");
    assert_eq!(groups.len(), 4);
    for node in 1..=4 {
        let held = groups.iter().filter(|group| ids(&group["voters"]).is_some_and(|ids| ids.contains(&node)));
        assert_eq!(held.count(), 3, "12 replicas on 4 nodes: {map}");
    }
    eventually("every node leads one of the four groups", || async {
        (leaders(&cluster).await? == [1; 4]).then_some(())
    })
    .await;
    // Started again without a word of the others, it finds them by what its directory remembers.
    cluster.node(4).kill().await;
    cluster.node(4).start();
    cluster.node(4).ready().await;
    drain_and_remove(&cluster.nodes()[0], 4).await;
    settled(&cluster.nodes()[0], &[4]).await;
    let ended = cluster.node(4).ended().await;
    assert_eq!(ended.code(), Some(1));
    let log = cluster.node(4).log();
    assert!(log.contains("n4 was removed from the cluster"), "{}", cluster.node(4).log_end());
    writer.goes_on(50).await;
    writer.check(&cluster).await;
}

/// Of four nodes one is killed and stays dead: without any operator its replicas, one of the controller's
/// among them, are rebuilt on the others, so that another death is survived; when it returns, it does no
/// harm.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_node_is_replaced() {
    let mut cluster = Cluster::start(shape(2)).await;
    cluster.join(4, &[1]).await;
    set_dead_after(&cluster.nodes()[0]).await;
    settled(&cluster.nodes()[0], &[]).await;
    let writer = Writer::start(&cluster).await;
    cluster.node(3).kill().await;
    settled(&cluster.nodes()[0], &[3]).await;
    writer.goes_on(50).await;
    cluster.node(3).start();
    cluster.node(3).ready().await;
    let is_up = |map: &Value| {
        map["nodes"].as_array().is_some_and(|nodes| nodes.iter().all(|node| node["state"] == "up"))
    };
    eventually("it lives again", || async {
        map(&cluster.nodes()[0]).await.filter(|map| is_up(map)).map(drop)
    })
    .await;
    writer.goes_on(50).await;
    writer.check(&cluster).await;
    // The controller too has three voters that live: with one of the others dead it still decides.
    cluster.node(2).kill().await;
    let asked = eventually("the controller decides", || async {
        let added = flotilla(&cluster.nodes()[0], &["group", "add"]).await;
        (added.code() == Some(0)).then_some(added)
    })
    .await;
    assert_done(&asked);
}

/// A node that lost its disk comes back under its number once the lost disk counts as dead, has its votes again when it
/// says that it is ready, and no acknowledged append is missing though it had held it.
#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_node_comes_back() {
    let mut cluster = Cluster::start(shape(2)).await;
    set_dead_after(&cluster.nodes()[0]).await;
    let writer = Writer::start(&cluster).await;
    writer.goes_on(50).await;
    cluster.node(3).kill().await;
    cluster.wipe(3);
    cluster.node(3).start();
    writer.goes_on(50).await;
    cluster.node(3).ready().await;
    // It is a voter in earnest, at once: with one of the others dead, it makes the quorum.
    cluster.node(1).kill().await;
    writer.goes_on(50).await;
    assert!(cluster.node(3).log().contains("it joins anew"), "{}", cluster.node(3).log_end());
    writer.check(&cluster).await;
    let client = connect(cluster.seeds()).await;
    client.put("after", "kept").await.expect("two of three voters");
}

/// All three first nodes are replaced by three others, one by one, under load; what was born with them goes
/// on without them, and a node can still join.
#[tokio::test(flavor = "multi_thread")]
async fn every_node_is_replaced() {
    let mut cluster = Cluster::start(shape(2)).await;
    for id in 4..=6 {
        cluster.join(id, &[1]).await;
    }
    let writer = Writer::start(&cluster).await;
    for id in 1..=3 {
        drain_and_remove(&cluster.nodes()[cluster.nodes().len() - 1], id).await;
        cluster.node(id).ended().await;
        drop(cluster.take(id));
        writer.goes_on(50).await;
    }
    settled(&cluster.nodes()[0], &[1, 2, 3]).await;
    cluster.join(7, &[4]).await;
    writer.check(&cluster).await;
}

/// A node that cannot join says why and exits with 1, and what the operator mistook harms nobody: a seed that
/// is nobody, another cluster's name, an id that another node goes by; the same directory serves once it is
/// told right.
#[tokio::test(flavor = "multi_thread")]
async fn bad_joins() {
    let mut cluster = Cluster::start(shape(1)).await;
    let before = map(&cluster.nodes()[0]).await.expect("a map")["nodes"].clone();
    let scratch = tempfile::tempdir().expect("a directory");
    let data = scratch.path().join("data").display().to_string();
    let ports = tests::Ports::take(3);
    let (peer, http, nobody) = (ports.address(0), ports.address(1), ports.address(2));
    let seed = cluster.peer(1).to_owned();
    let told = |join: &str, id: &str, cluster: &str| {
        let set = format!("cluster={cluster}");
        let args = [
            "server",
            "--join",
            join,
            "--node",
            id,
            "--data",
            &data,
            "--peer-listen",
            &peer,
            "--http-listen",
            &http,
            "--set",
            &set,
        ];
        args.map(str::to_owned)
    };
    for (args, reason) in [
        (told(&nobody, "4", "flotilla"), format!("no seed has answered: {nobody}")),
        (told(&seed, "4", "elsewhere"), r#"cluster does not match: you are of "elsewhere""#.to_owned()),
        (told(&seed, "3", "flotilla"), "n3 is in use: the cluster hears of it at".to_owned()),
    ] {
        let refused = run(args).await;
        assert_eq!(refused.code(), Some(1), "{}", refused.stderr);
        assert!(refused.stderr.contains(&reason), "should say \"{reason}\": {}", refused.stderr);
    }
    let both = run(["server", "--join", &seed, "--members", "1=a:1/a:2"]).await;
    assert_eq!(both.code(), Some(2), "{}", both.stderr);
    assert!(both.stderr.contains("join and members exclude each other"), "{}", both.stderr);
    assert_eq!(map(&cluster.nodes()[0]).await.expect("a map")["nodes"], before);
    let args = told(&seed, "5", "flotilla")[1..].to_vec();
    let mut joins = Node::new(5, args, http.clone(), scratch.path().join("n5.log"));
    joins.start();
    joins.ready().await;
    cluster.node(3).ready().await;
}
