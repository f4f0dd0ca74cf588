//! Any node answers for any key while shards move, leaders change and not every node has every group.

use crate::door::{Answer, Door};
use crate::fleet::{Fleet, NODES, SHARDS, Settings, eventually, host};
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// The shard of `key`.
fn shard_of(key: &str) -> u32 {
    proto::shard_of(key.as_bytes(), SHARDS).0
}

/// A key of `shard` that starts with `prefix`.
fn key_of(prefix: &str, shard: u32) -> String {
    let mut keys = (0..).map(|number: u32| format!("{prefix}{number}"));
    keys.find(|key| shard_of(key) == shard).expect("every shard has keys")
}

/// The group that serves `shard`, by a map.
fn owner(map: &Value, shard: u32) -> u64 {
    let runs = map["shard_runs"].as_array().unwrap();
    let run = runs
        .iter()
        .find(|run| run[0].as_u64() <= Some(shard.into()) && run[1].as_u64() >= Some(shard.into()));
    run.unwrap()[2].as_u64().unwrap()
}

/// Begins a move of `shard`, and waits until the map of the node that was asked says that it has ended.
async fn move_shard(door: &Door, shard: u32, to: u64) {
    let path = format!("/v1/cluster/shards/{shard}/move");
    let started = door.ask(Method::POST, &path, &[], format!("{{\"to\":{to}}}")).await;
    assert_eq!(started.status, 200, "{}", started.text());
    eventually("the shard has moved", async || {
        let map = door.get("/v1/cluster/map").await.json();
        (map["moves"] == json!([]) && owner(&map, shard) == to).then_some(())
    })
    .await;
}

/// What a crowd of callers has been answered.
#[derive(Default)]
struct Told {
    /// The tokens that were appended, by key.
    appended: BTreeMap<String, Vec<String>>,
    /// How long each answer took, in microseconds.
    took_us: Vec<u128>,
}

/// Appends token after token to `key`, through one node after the other, and reads in between, until told to
/// stop. Every answer must be a success: a caller need not know that anything moves.
async fn caller(doors: Vec<Door>, key: String, name: usize, stop: Arc<AtomicBool>) -> Told {
    let mut told = Told::default();
    for number in (0..).take_while(|_| !stop.load(Ordering::Relaxed)) {
        let door = &doors[(name + number) % doors.len()];
        let (path, token) = (format!("/v1/kv/{key}"), format!("{name}/{number},"));
        let named = format!("{key}/{token}");
        let headers = [("idempotency-key", named.as_str())];
        // Every other append is named by its caller, and sent once more through another node.
        let headers = if number % 2 == 0 { &headers[..] } else { &[] };
        let began = Instant::now();
        let answer = door.ask(Method::POST, &path, headers, token.clone()).await;
        told.took_us.push(began.elapsed().as_micros());
        assert!(answer.is_done(), "{key} {token}: {} {}", answer.status, answer.text());
        if number % 8 == 0 {
            let again = doors[(name + number + 1) % doors.len()]
                .ask(Method::POST, &path, headers, token.clone())
                .await;
            assert_eq!(again.essence(), answer.essence(), "the same answer again");
        }
        told.appended.entry(key.clone()).or_default().push(token);
        let began = Instant::now();
        let read = door.get(&path).await;
        told.took_us.push(began.elapsed().as_micros());
        assert_eq!(read.status, 200, "{}", read.text());
    }
    told
}

fn times_of(what: &str, mut took_us: Vec<u128>) -> String {
    took_us.sort_unstable();
    let at = |part: usize| took_us[(took_us.len() * part / 1000).min(took_us.len() - 1)];
    let (p50, p99, p999, most) = (at(500), at(990), at(999), at(1000));
    format!("{what}: {} answers, µs: p50 {p50} p99 {p99} p99.9 {p999} longest {most}", took_us.len())
}

/// While a shard goes to and fro between groups, callers through every node are answered every request on its
/// keys, and on those of shards that rest; every append takes effect once and in its caller's order.
#[tokio::test(flavor = "multi_thread")]
async fn callers_do_not_notice_moves() {
    let fleet = Fleet::start(Settings::groups(2)).await;
    let doors: Vec<Door> = NODES.map(|node| fleet.door(node).clone()).into();
    let born = doors[0].get("/v1/cluster/map").await.json();
    let moving = 3;
    let resting = (0..SHARDS).find(|&shard| shard != moving && owner(&born, shard) == 2).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let crowd: Vec<_> = (0..6)
        .map(|name| {
            let key = key_of("log", if name < 4 { moving } else { resting });
            (name, tokio::spawn(caller(doors.clone(), key, name, stop.clone())))
        })
        .collect();
    for round in 0..6 {
        let to = if round % 2 == 0 { 3 - owner(&born, moving) } else { owner(&born, moving) };
        move_shard(&doors[round % 3], moving, to).await;
    }
    stop.store(true, Ordering::Relaxed);
    let (mut appended, mut times) = (BTreeMap::<String, Vec<String>>::new(), [Vec::new(), Vec::new()]);
    for (name, told) in crowd {
        let told = told.await.unwrap();
        times[usize::from(name >= 4)].extend(told.took_us);
        for (key, tokens) in told.appended {
            appended.entry(key).or_default().extend(tokens);
        }
    }
    let [moved, rested] = times;
    println!("{}", times_of("a shard that moved 6 times", moved));
    println!("{}", times_of("a shard that rested", rested));
    for (key, tokens) in appended {
        let log = doors[1].value(&key).await.unwrap();
        let log = std::str::from_utf8(&log).unwrap();
        let mut kept: Vec<&str> = log.split_inclusive(',').collect();
        let in_order = |name: usize| {
            let own = kept.iter().filter_map(|token| token.strip_prefix(&format!("{name}/")));
            let own: Vec<u64> = own.map(|number| number.trim_end_matches(',').parse().unwrap()).collect();
            own.is_sorted_by(|left, right| left < right)
        };
        assert!((0..6).all(in_order), "{log}");
        kept.sort_unstable();
        let mut expected: Vec<&str> = tokens.iter().map(String::as_str).collect();
        expected.sort_unstable();
        assert_eq!(kept, expected, "{key}");
    }
}

/// A listing in small pages, each from another node, gives every key once and in order while shards move
/// under it, and a cursor from before a move goes on after it.
#[tokio::test(flavor = "multi_thread")]
async fn listings_survive_moves() {
    let fleet = Fleet::start(Settings::groups(2)).await;
    let doors: Vec<Door> = NODES.map(|node| fleet.door(node).clone()).into();
    let keys: Vec<String> = (0..120).map(|number| format!("key{number:03}")).collect();
    let puts: Vec<Value> = keys.iter().map(|key| json!({"op": "put", "key": key, "value": key})).collect();
    assert_eq!(doors[0].batch(&json!(puts)).await.status, 200);
    let stop = Arc::new(AtomicBool::new(false));
    let moves = tokio::spawn({
        let (doors, stop) = (doors.clone(), stop.clone());
        async move {
            let mut moved = 0;
            while !stop.load(Ordering::Relaxed) {
                let (door, shard) = (&doors[moved % 3], (moved * 5) as u32 % SHARDS);
                let to = 3 - owner(&door.get("/v1/cluster/map").await.json(), shard);
                move_shard(door, shard, to).await;
                moved += 1;
            }
            moved
        }
    });
    let mut pages = 0;
    for round in 0..12 {
        let (mut listed, mut cursor) = (Vec::new(), None::<String>);
        loop {
            let after = cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
            let limit = 3 + round % 5;
            let page = doors[pages % 3].get(&format!("/v1/kv?prefix=key&limit={limit}{after}")).await;
            assert_eq!(page.status, 200, "{}", page.text());
            let page = page.json();
            let of_page = page["keys"].as_array().unwrap();
            listed.extend(of_page.iter().map(|listed| listed["key"].as_str().unwrap().to_owned()));
            pages += 1;
            match page["cursor"].as_str() {
                Some(next) => cursor = Some(next.to_owned()),
                None => break,
            }
        }
        assert_eq!(listed, keys, "listing {round}");
    }
    stop.store(true, Ordering::Relaxed);
    println!("{pages} pages over {} moves", moves.await.unwrap());
}

/// A cursor is good after its group has ended: the listing goes on where it was, through every node.
#[tokio::test(flavor = "multi_thread")]
async fn cursors_outlive_groups() {
    let fleet = Fleet::start(Settings::groups(2)).await;
    let door = fleet.door(1);
    let keys: Vec<String> = (0..40).map(|number| format!("key{number:03}")).collect();
    let puts: Vec<Value> = keys.iter().map(|key| json!({"op": "put", "key": key, "value": "v"})).collect();
    assert_eq!(door.batch(&json!(puts)).await.status, 200);
    let page = async |node: u64, after: &str| -> (Vec<String>, Option<String>) {
        let page = fleet.door(node).get(&format!("/v1/kv?prefix=key&limit=25{after}")).await;
        assert_eq!(page.status, 200, "n{node}: {}", page.text());
        let page = page.json();
        let keys = page["keys"].as_array().unwrap().iter();
        let keys = keys.map(|of| of["key"].as_str().unwrap().to_owned()).collect();
        (keys, page["cursor"].as_str().map(str::to_owned))
    };
    let (first, cursor) = page(1, "").await;
    assert_eq!(first, keys[..25]);
    let cursor = cursor.unwrap();
    let removed = door.ask(Method::DELETE, "/v1/cluster/groups/2", &[], "").await;
    assert_eq!(removed.status, 200, "{}", removed.text());
    // Nobody asks for a single key meanwhile: listings alone must find out that the group is gone.
    eventually("the group is gone, and listings go on", async || {
        for node in NODES {
            assert_eq!(page(node, &format!("&cursor={cursor}")).await, (keys[25..].to_vec(), None));
        }
        let map = door.get("/v1/cluster/map").await.json();
        (map["groups"].as_array().unwrap().len() == 1).then_some(())
    })
    .await;
    for node in NODES {
        assert_eq!(page(node, &format!("&cursor={cursor}")).await, (keys[25..].to_vec(), None));
    }
}

/// A batch over both groups, one of whose shards moves under it, is answered item by item without a failure;
/// sent again under the same name through another node it says the same, and nothing is done twice.
#[tokio::test(flavor = "multi_thread")]
async fn batches_survive_moves() {
    let fleet = Fleet::start(Settings::groups(2)).await;
    let doors: Vec<Door> = NODES.map(|node| fleet.door(node).clone()).into();
    let keys: Vec<String> = (0..SHARDS).map(|shard| key_of("k", shard)).collect();
    let stop = Arc::new(AtomicBool::new(false));
    let batches = tokio::spawn({
        let (doors, keys, stop) = (doors.clone(), keys.clone(), stop.clone());
        async move {
            let mut sent = 0;
            while !stop.load(Ordering::Relaxed) {
                let appends: Vec<Value> = keys
                    .iter()
                    .map(|key| json!({"op": "append", "key": key, "value": format!("{sent},")}))
                    .collect();
                let body = serde_json::to_vec(&json!({ "operations": appends })).unwrap();
                let name = format!("batch-{sent}");
                let headers = [("content-type", "application/json"), ("idempotency-key", name.as_str())];
                let send = async |door: &Door| -> Answer {
                    door.ask(Method::POST, "/v1/batch", &headers, body.clone()).await
                };
                let first = send(&doors[sent % 3]).await;
                let answers = first.json();
                let answers = answers["answers"].as_array().unwrap();
                let failed: Vec<&Value> = answers
                    .iter()
                    .filter(|of| ![200, 201].contains(&of["status"].as_u64().unwrap()))
                    .collect();
                assert!(answers.len() == keys.len() && failed.is_empty(), "{failed:?}");
                assert_eq!(send(&doors[(sent + 1) % 3]).await.essence(), first.essence());
                sent += 1;
            }
            sent
        }
    });
    for shard in [2, 9, 2, 9] {
        let to = 3 - owner(&doors[0].get("/v1/cluster/map").await.json(), shard);
        move_shard(&doors[0], shard, to).await;
    }
    stop.store(true, Ordering::Relaxed);
    let sent = batches.await.unwrap();
    let all: String = (0..sent).map(|number| format!("{number},")).collect();
    for key in keys {
        assert_eq!(doors[2].value(&key).await.unwrap(), all, "{key}");
    }
}

/// The same named request, sent to another node after its shard has moved, is answered as it was the first
/// time and has no second effect; another request under the name is found out there as well.
#[tokio::test(flavor = "multi_thread")]
async fn names_travel_with_their_shard() {
    let fleet = Fleet::start(Settings::groups(2)).await;
    let (shard, born) = (5, fleet.door(1).get("/v1/cluster/map").await.json());
    let (key, home) = (key_of("k", shard), owner(&born, shard));
    let path = format!("/v1/kv/{key}");
    let headers = [("idempotency-key", "order-17")];
    let first = fleet.door(1).ask(Method::POST, &path, &headers, "once,").await;
    assert_eq!(first.status, 201);
    for to in [3 - home, home] {
        move_shard(fleet.door(2), shard, to).await;
        for node in NODES {
            let again = fleet.door(node).ask(Method::POST, &path, &headers, "once,").await;
            assert_eq!(again.essence(), first.essence(), "n{node}, in g{to}");
            let other = fleet.door(node).ask(Method::PUT, &path, &headers, "other").await;
            assert_eq!(other.said(), (422, "idempotency_key_reused".into(), "none".into()));
        }
    }
    assert_eq!(fleet.door(3).value(&key).await.unwrap(), "once,");
}

/// More nodes than a group has replicas, all ready, and four groups.
async fn five_nodes() -> Fleet {
    let mut fleet = Fleet::prepare(Settings::groups(4));
    for node in 1..=5 {
        fleet.disks.entry(node).or_default();
        let config = fleet.settings.node_config(node, 1..=5, SHARDS);
        fleet.try_start(node, config).await.unwrap();
    }
    fleet.all_ready().await;
    fleet
}

/// A leader that is cut off from its group, but not from the node that is asked, goes on believing that it leads; the
/// node that asked it in vain asks the others next, whatever it has heard of that leader before.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_cut_off_is_not_asked_again() {
    let mut fleet = five_nodes().await;
    let map = fleet.door(1).get("/v1/cluster/map").await.json();
    let group = &map["groups"][0];
    let voters: Vec<u64> =
        group["voters"].as_array().unwrap().iter().map(|node| node.as_u64().unwrap()).collect();
    let id = group["id"].as_u64().unwrap();
    let asker = (1..=5).find(|node| !voters.contains(node)).unwrap();
    let leader = fleet.leader_among(id, &voters).await;
    let shard = (0..SHARDS).find(|&shard| owner(&map, shard) == id).unwrap();
    let path = format!("/v1/kv/{}?timeout=1000", key_of("k", shard));
    let put = async || fleet.door(asker).ask(Method::PUT, &path, &[], "v").await;
    assert!(put().await.is_done(), "now the asker knows who leads");
    let others: Vec<String> = (1..=5).filter(|node| ![leader, asker].contains(node)).map(host).collect();
    let others: Vec<&str> = others.iter().map(String::as_str).collect();
    fleet.network.partition(&[&host(leader)], &others);
    eventually("the asker finds who leads now", async || put().await.is_done().then_some(())).await;
    let replica = fleet.replica(leader, id).await;
    assert_eq!(replica["role"], "leader", "the old one believes that it leads: {replica}");
    fleet.heal();
    tokio::time::timeout(Duration::from_secs(30), fleet.stop_all()).await.unwrap();
}

/// With more nodes than replicas, every node answers for every key, also for groups of which it has no
/// replica, and goes on doing so when the leader of such a group stops.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_without_a_replica_answer_all_the_same() {
    let mut fleet = five_nodes().await;
    let map = fleet.door(1).get("/v1/cluster/map").await.json();
    let groups = map["groups"].as_array().unwrap();
    assert!(groups.iter().all(|group| group["voters"].as_array().unwrap().len() == 3), "{groups:?}");
    let keys: Vec<String> = (0..SHARDS).map(|shard| key_of("k", shard)).collect();
    for node in 1..=5 {
        for key in &keys {
            let answer = fleet.door(node).append(key, format!("{node}")).await;
            assert!(answer.is_done(), "n{node} {key}: {}", answer.text());
        }
        let listed = fleet.door(node).get("/v1/kv?prefix=k&limit=100").await.json();
        assert_eq!(listed["keys"].as_array().unwrap().len(), keys.len(), "n{node}");
    }
    // A group that some other node than the one that stops has no replica of.
    let leader = eventually("the first group has a leader", async || {
        let status = fleet.door(1).get("/v1/cluster").await.json();
        let group = status["groups"].as_array()?.iter().find(|group| group["id"] == 1)?.clone();
        group["leader"].as_u64()
    })
    .await;
    fleet.stop(leader).await;
    for node in (1..=5).filter(|node| *node != leader) {
        for key in &keys {
            let answer = fleet.door(node).append(key, "x").await;
            assert!(answer.is_done(), "n{node} {key}: {}", answer.text());
            let value = fleet.door(node).value(key).await.unwrap();
            assert!(value.starts_with(b"12345"), "{value:?}");
        }
    }
    tokio::time::timeout(Duration::from_secs(30), fleet.stop_all()).await.unwrap();
}
