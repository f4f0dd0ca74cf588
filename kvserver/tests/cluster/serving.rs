//! Any node serves any key, and all answer alike.

use crate::fleet::{Fleet, NODES, Settings, keys_of_groups, others};
use proto::Limits;
use reqwest::Method;
use serde_json::{Value, json};

/// A value written through any node is answered by every node with the same status, headers and body.
#[tokio::test(flavor = "multi_thread")]
async fn any_node_serves_any_key() {
    let fleet = Fleet::start(Settings::groups(3)).await;
    for (keys, writer) in keys_of_groups("k", 3, 3).into_values().flat_map(|keys| keys.into_iter().zip(NODES))
    {
        let written = fleet.door(writer).put(&keys, format!("value of {keys}")).await;
        assert_eq!((written.status, written.header("etag")), (201, Some("\"1\"")), "{written:?}");
        let answers = [1, 2, 3].map(|node| fleet.door(node));
        let mut seen = Vec::new();
        for door in answers {
            seen.push(door.get(&format!("/v1/kv/{keys}")).await);
        }
        assert_eq!(seen[0].text(), format!("value of {keys}"));
        assert!(seen.iter().all(|answer| answer.essence() == seen[0].essence()), "{seen:?}");
        assert!(
            ["etag", "flotilla-revision", "flotilla-shard"].iter().all(|name| seen[0].header(name).is_some())
        );
    }
    for node in NODES {
        let missing = fleet.door(node).get("/v1/kv/missing").await.said();
        assert_eq!(missing, (404, "not_found".into(), "none".into()));
    }
}

/// Conditions hold through a follower exactly as on the leader, for every kind of write.
#[tokio::test(flavor = "multi_thread")]
async fn conditions_hold_through_a_follower() {
    let fleet = Fleet::start(Settings::default()).await;
    let leader = fleet.leader(1).await;
    for node in [leader, others(&[leader])[0]] {
        let (door, path) = (fleet.door(node), format!("/v1/kv/of-{node}"));
        let ask = async |method: &Method, headers: &[(&str, &str)], body: &'static str| {
            door.ask(method.clone(), &path, headers, body).await
        };
        let (put, post, delete) = (Method::PUT, Method::POST, Method::DELETE);
        assert_eq!(ask(&put, &[("if-match", "*")], "a").await.said().1, "version_mismatch");
        assert_eq!(ask(&put, &[("if-none-match", "*")], "a").await.status, 201);
        let refused = ask(&put, &[("if-none-match", "*")], "b").await;
        assert_eq!((refused.status, refused.header("etag")), (412, Some("\"1\"")), "{refused:?}");
        let appended = ask(&post, &[("if-match", "\"1\"")], "b").await;
        assert_eq!((appended.status, appended.header("etag")), (200, Some("\"2\"")), "{appended:?}");
        assert_eq!(appended.header("flotilla-length"), Some("2"));
        assert_eq!(ask(&delete, &[("if-match", "\"1\"")], "").await.status, 412);
        let seen = ask(&Method::GET, &[], "").await;
        assert_eq!((seen.text(), seen.header("etag")), ("ab", Some("\"2\"")));
        assert_eq!(ask(&Method::GET, &[("if-none-match", "\"2\"")], "").await.status, 304);
        assert_eq!(ask(&delete, &[("if-match", "\"2\"")], "").await.status, 204);
        assert_eq!(ask(&delete, &[], "").await.said().1, "not_found");
    }
}

/// One batch reaches all groups through any node, is answered in its order, and what fails in it fails alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_spans_groups() {
    let fleet = Fleet::start(Settings::groups(3)).await;
    for node in NODES {
        let keys: Vec<String> = keys_of_groups(&format!("b{node}-"), 3, 2).into_values().flatten().collect();
        let mut operations: Vec<Value> =
            keys.iter().map(|key| json!({"op": "put", "key": key, "value": key})).collect();
        operations.push(json!({"op": "cas", "key": "absent", "value": "x", "version": 9}));
        operations.push(json!({"op": "get", "key": "absent"}));
        let answers = fleet.door(node).batch(&json!(operations)).await.json();
        let statuses: Vec<u64> =
            answers["answers"].as_array().unwrap().iter().map(|of| of["status"].as_u64().unwrap()).collect();
        assert_eq!(statuses, [201, 201, 201, 201, 201, 201, 412, 404], "{answers}");
        let reads: Vec<Value> = keys.iter().map(|key| json!({"op": "get", "key": key})).collect();
        let answers = fleet.door(others(&[node])[0]).batch(&json!(reads)).await.json();
        let values: Vec<&str> =
            answers["answers"].as_array().unwrap().iter().map(|of| of["value"].as_str().unwrap()).collect();
        assert_eq!(values, keys);
    }
}

/// A batch larger than a message between nodes is written and read through a follower all the same; values beyond
/// what one answer holds are refused one by one.
#[tokio::test(flavor = "multi_thread")]
async fn batches_may_exceed_a_frame() {
    let limits = Limits { batch_bytes_max: 16 << 20, ..Limits::default() };
    let fleet = Fleet::start(Settings { limits, ..Settings::default() }).await;
    let leader = fleet.leader(1).await;
    let door = fleet.door(others(&[leader])[0]);
    let value = "v".repeat(1 << 20);
    let keys: Vec<String> = (0..10).map(|number| format!("large{number}")).collect();
    let writes: Vec<Value> =
        keys.iter().map(|key| json!({"op": "put", "key": key, "value": value})).collect();
    let written = door.batch(&json!(writes)).await;
    assert_eq!(written.status, 200, "{}", written.text());
    let written = written.json();
    assert!(written["answers"].as_array().unwrap().iter().all(|of| of["status"] == 201), "{written}");
    let reads: Vec<Value> = keys.iter().map(|key| json!({"op": "get", "key": key})).collect();
    for node in NODES {
        let read = fleet.door(node).batch(&json!(reads)).await.json();
        let answers = read["answers"].as_array().unwrap();
        let whole = answers.iter().filter(|of| of["value"] == value.as_str()).count();
        let refused = answers.iter().filter(|of| of["code"] == "batch_too_large").count();
        assert_eq!((whole, refused), (8, 2), "an answer holds 8 MiB");
    }
}

/// Appends that race stay within the limit together, and whatever was refused is not there.
#[tokio::test(flavor = "multi_thread")]
async fn racing_appends_keep_to_the_limit() {
    let limits = Limits { value_bytes_max: 10_000, ..Limits::default() };
    let fleet = Fleet::start(Settings { limits, ..Settings::default() }).await;
    let appends = (0..48).map(|number| {
        let door = fleet.door(NODES[number % 3]).clone();
        async move { door.append("hot", vec![b'a'; 1_000]).await }
    });
    let answers = futures_util::future::join_all(appends).await;
    let done = answers.iter().filter(|answer| answer.is_done()).count();
    assert!(answers.iter().all(|answer| answer.is_done() || answer.said().2 == "none"), "{answers:?}");
    assert_eq!(done, 10);
    assert_eq!(fleet.door(1).value("hot").await.unwrap().len(), 10_000);
}

/// A put that fills a value and an append beside it do not outgrow the limit together, whichever comes first.
#[tokio::test(flavor = "multi_thread")]
async fn a_put_and_an_append_keep_to_the_limit() {
    let limits = Limits { value_bytes_max: 10_000, ..Limits::default() };
    let fleet = Fleet::start(Settings { limits, ..Settings::default() }).await;
    let whole = "v".repeat(10_000);
    for (key, operations, length) in [("k", ["put", "append"], 10_000), ("l", ["append", "put"], 4)] {
        let value = |op: &str| if op == "put" { whole.as_str() } else { "more" };
        let operations = operations.map(|op| json!({"op": op, "key": key, "value": value(op)}));
        let answers = fleet.door(1).batch(&json!(operations)).await.json();
        let codes = [0, 1].map(|at| answers["answers"][at]["code"].as_str());
        assert_eq!(codes, [None, Some("overloaded")], "{answers}");
        assert_eq!(fleet.door(1).value(key).await.unwrap().len(), length);
    }
}

/// However many writes of one batch go to one shard, all of them take effect.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_may_fill_one_shard() {
    let fleet = Fleet::start(Settings::default()).await;
    let puts: Vec<Value> = (0..1_000)
        .map(|number| json!({"op": "put", "key": format!("{{room1}}/{number:04}"), "value": "v"}))
        .collect();
    for node in NODES {
        let answer = fleet.door(node).batch(&json!(puts)).await;
        let answers = answer.json();
        let answers = answers["answers"].as_array().unwrap();
        let refused: Vec<&Value> = answers.iter().filter(|of| of["status"].as_u64() > Some(201)).collect();
        assert_eq!(answers.len(), 1_000, "{}", answer.text());
        assert!(refused.is_empty(), "{} refused: {}", refused.len(), refused[0]);
    }
    let page = fleet.door(1).get("/v1/kv?prefix=%7Broom1%7D&limit=1000").await.json();
    assert_eq!(page["keys"].as_array().unwrap().len(), 1_000);
}
