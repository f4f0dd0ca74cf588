//! Nodes join a cluster that runs, are drained, removed, wiped, take one another's places, and come back elsewhere.

use crate::door::Door;
use crate::fleet::{Fleet, NODES, Settings, address, at, eventually};
use kvserver::{Join, NodeConfig, StartError};
use proto::NodeId;
use raftstore::SimulatedDisk;
use reqwest::Method;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How long a silent node lives on in these tests, in milliseconds: several signs of life.
const DEAD_AFTER_MS: u64 = 5_000;

/// The configuration of a node that joins by asking `seeds`.
fn joiner(fleet: &Fleet, node: u64, seeds: &[u64]) -> NodeConfig {
    let seeds = seeds.iter().map(|seed| address(*seed).peer).collect();
    // What the cluster was born with is the others' to say.
    NodeConfig {
        members: BTreeMap::new(),
        join: Some(Join { seeds, address: address(node) }),
        groups: 1,
        shards: 7,
        ..fleet.config(node)
    }
}

async fn join(fleet: &mut Fleet, node: u64, seeds: &[u64]) {
    fleet.disks.entry(node).or_default();
    let config = joiner(fleet, node, seeds);
    fleet.try_start(node, config).await.unwrap_or_else(|error| panic!("n{node}: {error}"));
    fleet.node(node).ready(Duration::from_secs(60)).await.unwrap();
}

/// Why a node does not join; it stays out.
async fn refused(fleet: &mut Fleet, node: u64, config: NodeConfig) -> String {
    fleet.disks.insert(node, SimulatedDisk::new());
    match fleet.try_start(node, config).await {
        Err(StartError::Join(why)) => why,
        other => panic!("n{node} should have been refused: {other:?}"),
    }
}

async fn map(door: &Door) -> Value {
    door.get("/v1/cluster/map").await.json()
}

async fn ask(door: &Door, method: Method, path: &str, body: &'static str) -> (u16, Value) {
    let answer = door.ask(method, path, &[], body).await;
    (answer.status, answer.json())
}

async fn dead_after(door: &Door, body: &'static str) {
    assert_eq!(ask(door, Method::PUT, "/v1/cluster/nodes", body).await.0, 200);
}

fn ids(of: &Value) -> BTreeSet<u64> {
    of.as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
}

/// Waits until all groups, the controller's own among them, have exactly these voters, and no other members.
async fn voters_are(door: &Door, voters: &[u64]) -> Value {
    eventually(&format!("the voters of all groups are {voters:?}"), async || {
        let map = map(door).await;
        let own = map.get("controller").filter(|own| own.is_object())?;
        let settled = map["groups"].as_array()?.iter().chain([own]).all(|group| {
            ids(&group["voters"]) == voters.iter().copied().collect() && ids(&group["learners"]).is_empty()
        });
        settled.then_some(map)
    })
    .await
}

/// Removes a node once nothing counts on it any more, the controller included.
async fn remove(door: &Door, node: u64) {
    eventually(&format!("n{node} can be removed"), async || {
        let (status, answer) = ask(door, Method::DELETE, &format!("/v1/cluster/nodes/{node}"), "").await;
        match status {
            200 => Some(()),
            _ => {
                assert_eq!(answer["code"], "node_in_use", "{answer}");
                None
            }
        }
    })
    .await;
}

/// A client that appends numbers one by one, each once whatever happens.
struct Writer {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Writer {
    fn start(door: &Door, key: &str) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, count) = (stop.clone(), done.clone());
        let (door, path, key) = (door.clone(), format!("/v1/kv/{key}"), key.to_owned());
        let task = tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                let number = count.load(Ordering::Relaxed);
                let stamp = format!("{key}-{number}");
                loop {
                    let headers = [("Idempotency-Key", stamp.as_str())];
                    let answer = door.ask(Method::POST, &path, &headers, format!("{number},")).await;
                    if [200, 201].contains(&answer.status) {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { stop, done, task }
    }

    /// Waits until `more` appends were acknowledged since now.
    async fn goes_on(&self, more: usize) {
        let before = self.done.load(Ordering::Relaxed);
        eventually("the writer goes on", async || {
            (self.done.load(Ordering::Relaxed) >= before + more).then_some(())
        })
        .await;
    }

    /// Stops it; what the key must hold.
    async fn finish(self) -> String {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
        (0..self.done.load(Ordering::Relaxed)).map(|number| format!("{number},")).collect()
    }
}

/// A node joins by asking one other, is given replicas and leaders where placement says so, serves every key,
/// and starts again by what its disk remembers, though its seed is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_joins_and_returns() {
    let mut fleet = Fleet::start(Settings::groups(4)).await;
    assert!(fleet.door(1).put("k", "v").await.is_done());
    join(&mut fleet, 4, &[3]).await;
    assert_eq!(fleet.door(4).value("k").await.unwrap(), "v");
    let map = eventually("every node has its share of replicas and leaders", async || {
        let map = map(fleet.door(4)).await;
        let groups = map["groups"].as_array()?.clone();
        for node in 1..=4 {
            let held = groups.iter().filter(|group| ids(&group["voters"]).contains(&node)).count();
            let status = fleet.door(node).get("/v1/status").await.json();
            let data = status["groups"].as_array()?.iter().filter(|group| group["id"] != 0);
            let led = data.filter(|group| group["role"] == "leader").count();
            if (held, led) != (3, 1) {
                return None;
            }
        }
        Some(map)
    })
    .await;
    assert_eq!(map["shards"], u64::from(crate::fleet::SHARDS), "the cluster's, not its own");
    fleet.stop(4).await;
    fleet.stop(3).await;
    let nobody = joiner(&fleet, 4, &[9]);
    fleet.try_start(4, nobody).await.unwrap();
    fleet.node(4).ready(Duration::from_secs(60)).await.unwrap();
    assert!(fleet.door(4).put("k", "w").await.is_done());
}

/// What speaks against joining is said before the disk remembers anything, and the map stays as it was: a
/// seed that nobody answers at, another cluster, an id that lives on another disk, an address that is
/// another's.
#[tokio::test(flavor = "multi_thread")]
async fn bad_joins_are_refused() {
    let mut fleet = Fleet::start(Settings::default()).await;
    let before = map(fleet.door(1)).await["nodes"].clone();
    let nobody = joiner(&fleet, 4, &[9]);
    let other_cluster = NodeConfig { cluster: "other".into(), ..joiner(&fleet, 4, &[1]) };
    let mut taken_address = joiner(&fleet, 4, &[1]);
    taken_address.join.as_mut().unwrap().address.peer = "n2:1".into();
    let mut taken_http = joiner(&fleet, 4, &[1]);
    taken_http.join.as_mut().unwrap().address.http =
        map(fleet.door(1)).await["nodes"][1]["http"].as_str().unwrap().to_owned();
    for (config, reason) in [
        (nobody, "no seed has answered: n9:1"),
        (other_cluster, r#"n1:1: cluster does not match: you are of "other", this node is of "test""#),
        (taken_address, "the address n2:1 is that of n2 already"),
        (taken_http, "is that of n2 already"),
    ] {
        let why = refused(&mut fleet, 4, config).await;
        assert!(why.contains(reason), "{why}");
    }
    // A second process under the id of each node, elsewhere on the network: one of them leads the controller.
    for taken in NODES {
        let mut taken_id = joiner(&fleet, taken, &[taken % 3 + 1]);
        taken_id.peer_listen = "n4:1".into();
        taken_id.join.as_mut().unwrap().address.peer = "n4:1".into();
        let disk: Arc<dyn raftstore::Disk> = Arc::new(SimulatedDisk::new());
        let clock = Arc::new(raftstore::SystemClock);
        let second = kvserver::Node::start_on(taken_id, disk, fleet.network.host("n4"), clock);
        match timeout(Duration::from_secs(60), second).await.unwrap() {
            Err(StartError::Join(why)) => {
                let reason = format!("n{taken} is in use: the cluster hears of it at n{taken}:1");
                assert!(why.contains(&reason), "{why}")
            }
            other => panic!("n{taken} lives: {:?}", other.map(|node| node.node())),
        }
    }
    assert_eq!(map(fleet.door(1)).await["nodes"], before);
    fleet.node(3).ready(Duration::from_secs(30)).await.unwrap();
    // The disk that was refused belongs to nobody: another id takes it.
    fleet.disks.insert(5, fleet.disks[&4].clone());
    join(&mut fleet, 5, &[1]).await;
}

/// A drain that would leave a group without enough nodes, and the removal of a node that is in use, are
/// refused with the reason, and the map stays as it was.
#[tokio::test(flavor = "multi_thread")]
async fn bad_drains_and_removals_are_refused() {
    let fleet = Fleet::start(Settings::default()).await;
    let door = fleet.door(2);
    let before = voters_are(door, &NODES).await;
    for (method, path, code) in [
        (Method::POST, "/v1/cluster/nodes/1/drain", "no_place"),
        (Method::POST, "/v1/cluster/nodes/9/drain", "unknown_node"),
        (Method::DELETE, "/v1/cluster/nodes/1", "node_in_use"),
        (Method::DELETE, "/v1/cluster/groups/0", "invalid"),
    ] {
        let (status, answer) = ask(door, method, path, "").await;
        assert!(status >= 400 && answer["code"] == code && answer["outcome"] == "none", "{path}: {answer}");
    }
    let after = map(door).await;
    assert_eq!((&after["nodes"], &after["shard_runs"]), (&before["nodes"], &before["shard_runs"]));
    voters_are(door, &NODES).await;
}

/// All nodes that a cluster was born with are replaced by others, one after another, the controller's
/// replicas with the rest, while a client writes: nothing is lost or doubled, and whoever was removed stops
/// and does not come back.
#[tokio::test(flavor = "multi_thread")]
async fn every_node_is_replaced() {
    let mut fleet = Fleet::start(Settings::groups(2)).await;
    for node in 4..=6 {
        join(&mut fleet, node, &[1, 2]).await;
    }
    let door = fleet.door(4).clone();
    let writer = Writer::start(&door, "log");
    for node in NODES {
        let (status, answer) = ask(&door, Method::POST, &format!("/v1/cluster/nodes/{node}/drain"), "").await;
        assert_eq!(status, 200, "{answer}");
        remove(&door, node).await;
        let why = timeout(Duration::from_secs(30), fleet.node(node).failed()).await.unwrap();
        assert!(why.contains(&format!("n{node} was removed from the cluster")), "{why}");
        fleet.stop(node).await;
        writer.goes_on(20).await;
    }
    let last = voters_are(&door, &[4, 5, 6]).await;
    assert_eq!(last["nodes"].as_array().unwrap().len(), 3);
    let expected = writer.finish().await;
    for node in 4..=6 {
        assert_eq!(fleet.door(node).value("log").await.unwrap(), expected, "n{node}");
    }
    // One more change of each kind: the controller has moved with its nodes.
    assert_eq!(ask(&door, Method::POST, "/v1/cluster/groups", r#"{"count":1}"#).await.0, 200);
    let config = fleet.config(1);
    fleet.try_start(1, config).await.unwrap();
    let why = timeout(Duration::from_secs(30), fleet.node(1).failed()).await.unwrap();
    assert!(why.contains("n1 was removed from the cluster"), "{why}");
    assert!(map(&door).await["nodes"].as_array().unwrap().iter().all(|node| node["id"] != 1));
}

/// A first member whose disk was lost comes back by itself once its old disk counts as dead: as a learner
/// first, then a voter again, of the controller too, and everything that was acknowledged is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_node_comes_back() {
    let mut fleet = Fleet::start(Settings::groups(2)).await;
    dead_after(fleet.door(1), r#"{"dead_after_ms":5000}"#).await;
    let writer = Writer::start(fleet.door(1), "log");
    writer.goes_on(20).await;
    fleet.stop(3).await;
    fleet.disks.insert(3, SimulatedDisk::new());
    fleet.start_node(3).await;
    fleet.node(3).ready(Duration::from_secs(60)).await.unwrap();
    voters_are(fleet.door(3), &NODES).await;
    writer.goes_on(20).await;
    let expected = writer.finish().await;
    // With the new disk a quorum by itself of either other: n3's voice counts again.
    fleet.stop(2).await;
    eventually("n1 and n3 serve alone", async || fleet.door(3).put("k", "v").await.is_done().then_some(()))
        .await;
    assert_eq!(fleet.door(3).value("log").await.unwrap(), expected);
    let changed = ask(fleet.door(3), Method::PUT, "/v1/cluster/nodes", r#"{"dead_after_ms":60000}"#).await;
    assert_eq!(changed.0, 200, "the controller has a quorum: {}", changed.1);
}

/// A node on a new disk is not ready before what it lost is rebuilt, though that be on another node, and though it be
/// started again meanwhile, by when the cluster knows the disk.
#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_node_that_is_started_again_waits() {
    let mut fleet = Fleet::start(Settings::default()).await;
    join(&mut fleet, 4, &[1]).await;
    voters_are(fleet.door(1), &NODES).await;
    dead_after(fleet.door(1), r#"{"dead_after_ms":5000}"#).await;
    // What n3 loses is to be rebuilt on n4, which comes to hold none of it.
    fleet.disks[&4].set_sync_delay(Duration::from_secs(3_600));
    fleet.stop(3).await;
    fleet.disks.insert(3, SimulatedDisk::new());
    for start in ["first", "second"] {
        fleet.start_node(3).await;
        eventually(&format!("n3 waits at its {start} start"), async || {
            let answer = fleet.door(3).get("/readyz").await;
            (answer.status == 503 && answer.text().contains("g1 has 2 of 3 voters")).then_some(())
        })
        .await;
        assert_eq!(ids(&map(fleet.door(3)).await["groups"][0]["replicas"]), [1, 2, 4].into());
        fleet.stop(3).await;
    }
}

/// A node that had joined and lost its disk joins again as it did at first: it waits until the lost disk counts as dead,
/// and is given replicas anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_newcomer_comes_back() {
    let mut fleet = Fleet::start(Settings::groups(4)).await;
    dead_after(fleet.door(1), r#"{"dead_after_ms":5000}"#).await;
    join(&mut fleet, 4, &[1]).await;
    assert!(fleet.door(4).put("k", "v").await.is_done());
    fleet.stop(4).await;
    fleet.disks.insert(4, SimulatedDisk::new());
    join(&mut fleet, 4, &[1]).await;
    eventually("it is a voter again", async || {
        let map = map(fleet.door(4)).await;
        let held = map["groups"].as_array()?.iter().filter(|group| ids(&group["voters"]).contains(&4));
        (held.count() == 3).then_some(())
    })
    .await;
    assert_eq!(fleet.door(4).value("k").await.unwrap(), "v");
}

/// A node that stays dead for too long is replaced without a word from anybody, in the controller's group as
/// well; when it returns, nothing depends on it, and it takes no place that was given to another.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_node_is_replaced() {
    let mut fleet = Fleet::start(Settings::groups(2)).await;
    join(&mut fleet, 4, &[1]).await;
    let door = fleet.door(1).clone();
    dead_after(&door, r#"{"dead_after_ms":5000}"#).await;
    assert_eq!(map(&door).await["settings"]["dead_after_ms"], DEAD_AFTER_MS);
    let writer = Writer::start(&door, "log");
    writer.goes_on(20).await;
    fleet.stop(2).await;
    voters_are(&door, &[1, 3, 4]).await;
    writer.goes_on(20).await;
    fleet.start_node(2).await;
    eventually("it lives again", async || {
        let map = map(&door).await;
        map["nodes"].as_array()?.iter().any(|node| node["id"] == 2 && node["state"] == "up").then_some(())
    })
    .await;
    writer.goes_on(20).await;
    let expected = writer.finish().await;
    for node in 1..=4 {
        assert_eq!(fleet.door(node).value("log").await.unwrap(), expected, "n{node}");
    }
}

/// Once all is reported an idle cluster writes nothing, after a change of leaders too, which changes no map.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_cluster_writes_nothing() {
    let raft = raftstore::RaftConfig::default();
    let mut fleet = Fleet::start(Settings { raft, ..Settings::groups(3) }).await;
    // Whoever led the most leads no more, for as long as it is away; then leadership goes back to whom it
    // belongs.
    let leader = fleet.leader(1).await;
    fleet.stop(leader).await;
    fleet.start_node(leader).await;
    fleet.all_ready().await;
    let entries = async || {
        let mut sum = 0;
        for node in NODES {
            let page = fleet.door(node).get("/metrics").await;
            let line = page.text().lines().find_map(|line| line.strip_prefix("flotilla_log_entries_total "));
            sum += line.unwrap().parse::<u64>().unwrap();
        }
        sum
    };
    // Several of the paces at which groups, nodes and leaders are looked after, and more than a group rests with whoever
    // leads it before leadership is handed to whom it belongs.
    let quiet = Duration::from_secs(6);
    eventually("nothing is written", async || {
        let before = entries().await;
        tokio::time::sleep(quiet).await;
        (entries().await == before).then_some(())
    })
    .await;
    // And it stays so: one write would not be the last one.
    let before = entries().await;
    tokio::time::sleep(quiet).await;
    assert_eq!(entries().await, before);
}

/// The configuration of a first member that has come back on `host`, while it is told of others only that they are
/// where they were at first.
fn moved(fleet: &Fleet, node: u64, host: &str) -> NodeConfig {
    let mut config = fleet.config(node);
    config.members.insert(NodeId(node), at(host));
    NodeConfig { peer_listen: at(host).peer, ..config }
}

/// Starts nodes that were stopped.
async fn come_back(fleet: &mut Fleet, configs: Vec<NodeConfig>) {
    for config in configs {
        let node = config.node.0;
        fleet.try_start(node, config).await.unwrap_or_else(|error| panic!("n{node}: {error}"));
    }
}

/// Waits until the map has each node where it is now, then shows that each of them counts: with any one of them stopped,
/// the others go on.
async fn everybody_is_found(fleet: &mut Fleet, hosts: [&str; 3], configs: [NodeConfig; 3]) {
    for looker in NODES {
        eventually(&format!("n{looker} knows everybody's address"), async || {
            let map = map(fleet.door(looker)).await;
            let peers = map["nodes"].as_array()?.iter().map(|node| node["peer"].as_str().unwrap().to_owned());
            (peers.collect::<Vec<_>>() == hosts.map(|host| at(host).peer)).then_some(())
        })
        .await;
    }
    fleet.all_ready().await;
    for config in configs {
        let node = config.node.0;
        fleet.stop(node).await;
        let other = fleet.door(node % 3 + 1).clone();
        eventually("two of three serve", async || other.put("k", "v").await.is_done().then_some(())).await;
        fleet.try_start(node, config).await.unwrap();
        fleet.all_ready().await;
    }
}

/// A node that comes back at another address, with its disk and under its number, is found there by everybody without
/// anybody's help: it tells them itself. Where it was, nothing answers, not even by a refusal.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_comes_back_elsewhere() {
    let mut fleet = Fleet::start(Settings::groups(2)).await;
    let writer = Writer::start(fleet.door(1), "log");
    writer.goes_on(20).await;
    fleet.stop(3).await;
    fleet.network.partition(&["n3"], &["n1", "n2", "m3"]);
    let config = moved(&fleet, 3, "m3");
    come_back(&mut fleet, vec![config.clone()]).await;
    writer.goes_on(20).await;
    let configs = [fleet.config(1), fleet.config(2), config];
    let expected = writer.finish().await;
    everybody_is_found(&mut fleet, ["n1", "n2", "m3"], configs).await;
    for node in NODES {
        assert_eq!(fleet.door(node).value("log").await.unwrap(), expected, "n{node}");
    }
}

/// Two of three come back elsewhere at once, so that no quorum is at the addresses that anybody knows, and neither is
/// told of the other: the third, which nobody has told anything either, brings them together.
#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_come_back_elsewhere_at_once() {
    let mut fleet = Fleet::start(Settings::groups(2)).await;
    assert!(fleet.door(1).put("before", "v").await.is_done());
    fleet.stop(2).await;
    fleet.stop(3).await;
    let configs = vec![moved(&fleet, 2, "m2"), moved(&fleet, 3, "m3")];
    come_back(&mut fleet, configs.clone()).await;
    let configs = [fleet.config(1), configs[0].clone(), configs[1].clone()];
    everybody_is_found(&mut fleet, ["n1", "m2", "m3"], configs).await;
    assert_eq!(fleet.door(2).value("before").await.unwrap(), "v");
}

/// Has all three come back at once, each on its own of `hosts` and with what `told` makes of its configuration; they find
/// each other, and what was written before is there.
async fn all_come_back(hosts: [&str; 3], told: impl Fn(NodeConfig) -> NodeConfig) {
    let mut fleet = Fleet::start(Settings::groups(2)).await;
    assert!(fleet.door(1).put("before", "v").await.is_done());
    fleet.stop_all().await;
    let configs = NODES.map(|node| told(moved(&fleet, node, hosts[node as usize - 1])));
    come_back(&mut fleet, configs.to_vec()).await;
    everybody_is_found(&mut fleet, hosts, configs).await;
    assert_eq!(fleet.door(2).value("before").await.unwrap(), "v");
}

/// The same, each told by `members` that were written anew where all of them are.
async fn all_come_back_with_new_members(hosts: [&str; 3]) {
    let members: BTreeMap<_, _> = NODES.map(NodeId).into_iter().zip(hosts.map(at)).collect();
    all_come_back(hosts, |config| NodeConfig { members: members.clone(), ..config }).await;
}

/// All three come back elsewhere at once: `members` that were written anew are enough.
#[tokio::test(flavor = "multi_thread")]
async fn all_nodes_come_back_elsewhere_with_new_members() {
    all_come_back_with_new_members(["m1", "m2", "m3"]).await;
}

/// All three come back elsewhere at once: seeds without numbers are enough, the same list for each, with the node's own
/// address among them or not, and without that of everybody.
#[tokio::test(flavor = "multi_thread")]
async fn all_nodes_come_back_elsewhere_with_seeds() {
    let seeds = vec![at("m2").peer, at("m3").peer];
    all_come_back(["m1", "m2", "m3"], |config| {
        let join = Some(Join { seeds: seeds.clone(), address: config.members[&config.node].clone() });
        NodeConfig { members: BTreeMap::new(), join, ..config }
    })
    .await;
}

/// All three come back at each other's old addresses, as from a pool that is dealt out anew: nobody is taken for the
/// one that was there before, and the map follows.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_come_back_in_each_others_places() {
    all_come_back_with_new_members(["n2", "n3", "n1"]).await;
}

/// An address that is taken is named once, with the reason.
#[tokio::test(flavor = "multi_thread")]
async fn a_taken_address_is_named() {
    let mut fleet = Fleet::prepare(Settings::default());
    fleet.start_node(1).await;
    let second = NodeConfig { peer_listen: address(1).peer, ..fleet.config(2) };
    let error = fleet.try_start(2, second).await.unwrap_err();
    assert_eq!(error.to_string(), "cannot listen on n1:1: address in use");
}
