//! Groups come and go over HTTP while their keys stay.

use crate::fleet::{Fleet, NODES, Settings, eventually};
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// How many keys there are: several for each shard.
const KEYS: u32 = 60;

fn key(number: u32) -> String {
    format!("key{number:03}")
}

async fn write_all(fleet: &Fleet, node: u64, value: &str) {
    let puts: Vec<Value> =
        (0..KEYS).map(|number| json!({"op": "put", "key": key(number), "value": value})).collect();
    let answers = fleet.door(node).batch(&json!(puts)).await.json();
    let answers = answers["answers"].as_array().unwrap();
    assert!(answers.iter().all(|of| [200, 201].contains(&of["status"].as_u64().unwrap())), "{answers:?}");
}

async fn assert_all(fleet: &Fleet, value: &str) {
    for node in NODES {
        let gets: Vec<Value> = (0..KEYS).map(|number| json!({"op": "get", "key": key(number)})).collect();
        let answers = fleet.door(node).batch(&json!(gets)).await.json();
        let answers = answers["answers"].as_array().unwrap();
        let wrong: Vec<&Value> = answers.iter().filter(|of| of["value"] != value).collect();
        assert!(answers.len() == KEYS as usize && wrong.is_empty(), "n{node}: {wrong:?}");
    }
}

/// Has a node carry a change out, and tells what it answered.
async fn change(fleet: &Fleet, node: u64, method: Method, path: &str, body: &'static str) -> Value {
    let answer = fleet.door(node).ask(method, path, &[], body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

/// The map of every node once all are at `epoch` or later and no shard is on its way.
async fn settled(fleet: &Fleet, epoch: &Value) -> Value {
    eventually("all shards are where they are to be", async || {
        let mut map = Value::Null;
        for node in NODES {
            map = fleet.door(node).get("/v1/cluster/map").await.json();
            let runs = map["shard_runs"].as_array()?;
            let rests = map["moves"] == json!([]) && runs.iter().all(|run| run[2] == run[3]);
            if !rests || map["epoch"].as_u64() < epoch.as_u64() {
                return None;
            }
        }
        Some(map)
    })
    .await
}

fn owners(map: &Value) -> BTreeSet<u64> {
    map["shard_runs"].as_array().unwrap().iter().map(|run| run[2].as_u64().unwrap()).collect()
}

/// The controller's own group is looked at like any other: its replicas stand in the status under id 0 and in the
/// metrics, with all that a group has but keys.
#[tokio::test(flavor = "multi_thread")]
async fn the_controllers_group_is_shown() {
    let fleet = Fleet::start(Settings::default()).await;
    let leader = fleet.leader(0).await;
    for node in NODES {
        let replica = fleet.replica(node, 0).await;
        let led = if node == leader { "leader" } else { "follower" };
        assert_eq!((&replica["role"], &replica["serving"]), (&json!(led), &json!(true)), "{replica}");
        assert!(replica["applied_index"].as_u64() > Some(0) && replica["keys"] == 0, "{replica}");
        let page = fleet.door(node).get("/metrics").await;
        let leads = format!("flotilla_group_is_leader{{group=\"0\"}} {}\n", u8::from(node == leader));
        assert!(page.text().contains(&leads), "{}", page.text());
        assert!(page.text().contains("flotilla_group_lag_ms{group=\"0\"}"), "{}", page.text());
        assert!(!page.text().contains("flotilla_group_keys{group=\"0\"}"), "{}", page.text());
    }
}

/// A node that says that a change was made shows it: the controller's leader, and those that follow it.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_shows_the_change_that_it_answered() {
    let fleet = Fleet::start(Settings::default()).await;
    fleet.leader(0).await;
    for round in 0..10 {
        for node in NODES {
            let ms = 60_000 + round * 10 + node;
            let body = json!({ "dead_after_ms": ms }).to_string();
            let answer = fleet.door(node).ask(Method::PUT, "/v1/cluster/nodes", &[], body).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            let map = fleet.door(node).get("/v1/cluster/map").await.json();
            // Nodes that settle down after their start change the map as well, in between.
            let [shown, answered] = [&map, &answer.json()].map(|json| json["epoch"].as_u64().unwrap());
            assert!(shown >= answered, "{map}");
            assert_eq!(map["settings"]["dead_after_ms"], ms);
        }
    }
}

/// A group that is added takes its share of shards over, and gives it back when it is removed; every key is read and
/// written through every node all the same, and the map of an earlier epoch stays what it was.
#[tokio::test(flavor = "multi_thread")]
async fn groups_come_and_go() {
    let fleet = Fleet::start(Settings::groups(2)).await;
    write_all(&fleet, 1, "first").await;
    let born = fleet.door(1).get("/v1/cluster/map").await.json();
    assert_eq!(owners(&born), [1, 2].into());

    let plan = change(&fleet, 2, Method::POST, "/v1/cluster/plan", r#"{"add_groups":1}"#).await;
    let added = change(&fleet, 2, Method::POST, "/v1/cluster/groups", r#"{"count":1}"#).await;
    assert_eq!(added["groups"], json!([3]));
    let grown = settled(&fleet, &added["epoch"]).await;
    assert_eq!(owners(&grown), [1, 2, 3].into());
    let taken = grown["shard_runs"].as_array().unwrap().iter().filter(|run| run[2] == 3);
    let taken: u64 = taken.map(|run| run[1].as_u64().unwrap() - run[0].as_u64().unwrap() + 1).sum();
    assert_eq!(plan["moves"].as_array().unwrap().len() as u64, taken);
    assert_all(&fleet, "first").await;
    write_all(&fleet, 3, "second").await;
    assert_all(&fleet, "second").await;

    let removed = change(&fleet, 3, Method::DELETE, "/v1/cluster/groups/3", "").await;
    let shrunk = settled(&fleet, &removed["epoch"]).await;
    assert_eq!(owners(&shrunk), [1, 2].into());
    assert_all(&fleet, "second").await;
    write_all(&fleet, 2, "third").await;
    assert_all(&fleet, "third").await;
    eventually("the group is gone", async || {
        let map = fleet.door(1).get("/v1/cluster/map").await.json();
        (map["groups"].as_array().unwrap().len() == 2).then_some(())
    })
    .await;

    for node in NODES {
        let path = format!("/v1/cluster/map?epoch={}", born["epoch"]);
        let then = fleet.door(node).get(&path).await.json();
        assert_eq!(then["shard_runs"], born["shard_runs"]);
        let path = format!("/v1/cluster/map?epoch={}", grown["epoch"]);
        assert_eq!(fleet.door(node).get(&path).await.json()["shard_runs"], grown["shard_runs"]);
    }
}
