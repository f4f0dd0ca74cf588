//! What may be written may be read: the largest keys and values, through every node and in every way.

use crate::door::Door;
use crate::fleet::{Fleet, NODES, Settings, eventually, others};
use proto::{BatchReply, BatchRequest, Consistency, Expect, Item, Limits, Operation, Reply};
use reqwest::Method;
use serde_json::{Value, json};

/// Sends `operation` in a message, and says whether its answer is as it should be.
async fn message(door: &Door, operation: Operation<'_>, right: impl Fn(&Reply<'_>) -> bool) {
    let consistency = Consistency::Linearizable;
    let items = vec![Item { stamp: None, operation }];
    let body = proto::encode(&BatchRequest { deadline_ms: 10_000, consistency, request_id: 7, items });
    let headers = [("content-type", "application/vnd.flotilla.batch")];
    let answer = door.ask(Method::POST, "/v1/batch", &headers, body).await;
    let reply: BatchReply<'_> = proto::decode(&answer.body).unwrap();
    match &reply.answers[..] {
        [Ok(reply)] => assert!(right(reply)),
        refused => panic!("{refused:?}"),
    }
}

/// Reads `key` alone, at every consistency, in both kinds of batch, and on pages.
async fn read_in_every_way(fleet: &Fleet, key: &str, value: &str) {
    for node in NODES {
        let door = fleet.door(node);
        for consistency in ["linearizable", "follower"] {
            let answer = door.get(&format!("/v1/kv/{key}?consistency={consistency}")).await;
            assert_eq!(answer.status, 200, "n{node}, {consistency}: {}", answer.text());
            assert!(answer.body == value, "n{node}, {consistency}");
        }
        let stale = format!("/v1/kv/{key}?consistency=stale");
        eventually("a stale read sees it", async || (door.get(&stale).await.body == value).then_some(()))
            .await;
        let batch = door.batch(&json!([{"op": "get", "key": key}])).await.json();
        assert!(batch["answers"][0]["value"] == value, "n{node}: {}", batch["answers"][0]["detail"]);
        let page = door.get(&format!("/v1/kv?prefix={key}")).await.json();
        assert!(page["keys"][0]["value"] == value, "n{node}: {}", page["detail"]);
        let (key, value) = (key.as_bytes(), value.as_bytes());
        let is_value = |reply: &Reply<'_>| match reply {
            Reply::Value { value: got, .. } => *got == value,
            _ => false,
        };
        message(door, Operation::Get { key }, is_value).await;
        let scan = Operation::Scan { prefix: key, after: None, start: b"", limit: 9, bytes_max: 1 };
        let is_page = |reply: &Reply<'_>| match reply {
            Reply::Page { records, .. } => records[0].value == value,
            _ => false,
        };
        message(door, scan, is_page).await;
    }
}

/// At the largest limits that a node takes, and the smallest messages between nodes that go with them, the
/// longest key and value are written in every way through every node, and are read so.
#[tokio::test(flavor = "multi_thread")]
async fn the_largest_that_may_be_written_may_be_read() {
    let mut settings = Settings::groups(2);
    let (command_bytes_max, key_bytes_max) = (4 << 20, 16 << 10);
    let value_bytes_max = command_bytes_max - key_bytes_max - 96;
    settings.raft.command_bytes_max = command_bytes_max;
    settings.http.header_bytes_max = 64 << 10;
    settings.limits = Limits { key_bytes_max, value_bytes_max, batch_bytes_max: 32 << 20 };
    settings.transport.request_frame_bytes_max = key_bytes_max + value_bytes_max + 98 + (1 << 20);
    let fleet = Fleet::start(settings).await;
    let mut config = fleet.config(1);
    config.limits.value_bytes_max += 1;
    assert!(config.validate().unwrap_err().contains("value_bytes_max"), "it is the largest");
    config.limits.value_bytes_max -= 1;
    config.transport.request_frame_bytes_max -= 1;
    assert!(config.validate().unwrap_err().contains("request_frame_bytes_max"), "it is the smallest");
    for node in NODES {
        let (door, key) = (fleet.door(node), node.to_string().repeat(key_bytes_max));
        let values = ["put", "json", "message"].map(|way| {
            let mut value = way.to_owned();
            value.extend(std::iter::repeat_n('v', value_bytes_max - way.len()));
            value
        });
        assert!(door.put(&key, values[0].clone()).await.is_done());
        read_in_every_way(&fleet, &key, &values[0]).await;
        let batch = door.batch(&json!([{"op": "put", "key": key, "value": values[1]}])).await.json();
        assert_eq!(batch["answers"][0]["status"], 200, "n{node}");
        assert!(fleet.door(others(&[node])[0]).value(&key).await.unwrap() == values[1]);
        let (key, value) = (key.as_bytes(), values[2].as_bytes());
        let written = |reply: &Reply<'_>| matches!(reply, Reply::Written { .. });
        message(door, Operation::Put { key, value, expect: Expect::Any }, written).await;
        let longer = [value, b"x"].concat();
        let path = format!("/v1/kv/{}", std::str::from_utf8(key).unwrap());
        assert_eq!(door.ask(Method::PUT, &path, &[], longer).await.said().1, "value_too_large");
        assert_eq!(door.append(&path["/v1/kv/".len()..], "x").await.said().1, "value_too_large");
    }
}

/// A value that is larger than a message between nodes can be, because limits were higher when it was
/// written, is read through every node all the same, also beside others.
#[tokio::test(flavor = "multi_thread")]
async fn a_value_beyond_todays_messages_is_read() {
    let mut settings = Settings::groups(2);
    settings.raft.command_bytes_max = 4 << 20;
    settings.limits = Limits { value_bytes_max: 7 << 19, batch_bytes_max: 8 << 20, ..Limits::default() };
    settings.transport.request_frame_bytes_max = 6 << 20;
    let mut fleet = Fleet::start(settings).await;
    let value = "v".repeat(7 << 19);
    assert!(fleet.door(1).put("large", value.clone()).await.is_done());
    assert!(fleet.door(1).put("small", "s").await.is_done());
    fleet.stop_all().await;
    let settings = Settings::groups(2);
    assert!(settings.transport.request_frame_bytes_max - (1 << 20) < value.len(), "it fits no message");
    fleet.settings = settings;
    fleet.start_all().await;
    read_in_every_way(&fleet, "large", &value).await;
    let reads =
        json!([{"op": "get", "key": "small"}, {"op": "get", "key": "large"}, {"op": "get", "key": "small"}]);
    for node in NODES {
        let answers = fleet.door(node).batch(&json!(reads)).await.json();
        let values: Vec<&Value> =
            answers["answers"].as_array().unwrap().iter().map(|of| &of["value"]).collect();
        assert!(values == [&json!("s"), &json!(value), &json!("s")], "n{node}: {values:.100?}");
        let path = "/v1/kv/large";
        assert_eq!(fleet.door(node).ask(Method::PUT, path, &[], value.clone()).await.status, 413);
    }
    assert_eq!(fleet.door(1).ask(Method::DELETE, "/v1/kv/large", &[], "").await.status, 204);
}
