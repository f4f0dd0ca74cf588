//! What operators ask of the controller's map, against a real controller behind a fake node.

use crate::Stand;
use crate::wire::Answer;
use proto::{ControllerError, Epoch, GroupId, NodeId, ShardId};
use serde_json::{Value, json};
use shardctrler::ExecuteError;

/// One request for each of the paths, in an order in which none depends on another.
pub(crate) const REQUESTS: [(&str, &[u8]); 13] = [
    ("GET /v1/cluster/map", b""),
    ("POST /v1/cluster/groups", br#"{"count":1}"#),
    ("PUT /v1/cluster/groups/1", br#"{"weight":2}"#),
    ("DELETE /v1/cluster/groups/2", b""),
    ("POST /v1/cluster/shards/0/move", br#"{"to":2}"#),
    ("PUT /v1/cluster/moves", br#"{"paused":true}"#),
    ("DELETE /v1/cluster/moves/3", b""),
    ("PUT /v1/cluster/nodes", br#"{"dead_after_ms":60000}"#),
    ("DELETE /v1/cluster/nodes/4", b""),
    ("POST /v1/cluster/nodes/4/drain", b""),
    ("POST /v1/cluster/nodes/4/undrain", b""),
    ("POST /v1/cluster/rebalance", b""),
    ("POST /v1/cluster/plan", br#"{"add_groups":1}"#),
];

/// The path of one of [`REQUESTS`] as the description writes it.
pub(crate) fn described(line: &str) -> String {
    let (_, path) = line.split_once(' ').unwrap();
    let name = if path.starts_with("/v1/cluster/moves/") { "{shard}" } else { "{id}" };
    let is_id = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    path.split('/').map(|part| if is_id(part) { name } else { part }).collect::<Vec<_>>().join("/")
}

/// A front end whose fake node knows two groups, sixteen shards and four nodes, of which one drains.
async fn stand() -> Stand {
    let stand = Stand::new().await;
    stand.fake.bear();
    stand
}

async fn map(stand: &Stand) -> Value {
    stand.ask("GET /v1/cluster/map", &[], b"").await.json()
}

fn done(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    let json = answer.json();
    assert_eq!(answer.header("etag"), Some(&format!("\"{}\"", json["epoch"])[..]));
    json
}

fn refused(answer: &Answer) -> (u16, String, String) {
    (answer.status, answer.code(), answer.json()["outcome"].as_str().unwrap().to_owned())
}

fn none(status: u16, code: &str) -> (u16, String, String) {
    (status, code.into(), "none".into())
}

/// The map tells all that operators follow, and that of an earlier epoch is what was.
#[tokio::test]
async fn the_map_now_and_then() {
    let stand = stand().await;
    let born = done(&stand.ask("GET /v1/cluster/map", &[], b"").await);
    assert_eq!(born["shard_runs"], json!([[0, 7, 1, 1], [8, 15, 2, 2]]));
    assert_eq!((born["nodes"][0]["state"].as_str(), born["groups"][1]["id"].as_u64()), (Some("up"), Some(2)));
    let moved = done(&stand.ask("POST /v1/cluster/shards/3/move", &[], br#"{"to":2}"#).await);
    assert_eq!(map(&stand).await["shard_runs"][1], json!([3, 3, 1, 2]));
    assert_eq!(map(&stand).await["moves"][0]["state"], "running");
    let at = |epoch: &Value| format!("GET /v1/cluster/map?epoch={epoch}");
    let then = done(&stand.ask(&at(&born["epoch"]), &[], b"").await);
    assert_eq!(then, json!({"epoch": born["epoch"], "shards": 16, "shard_runs": born["shard_runs"]}));
    let now = done(&stand.ask(&at(&moved["epoch"]), &[], b"").await);
    assert_eq!(now["shard_runs"], map(&stand).await["shard_runs"]);
    let ahead = stand.ask("GET /v1/cluster/map?epoch=99", &[], b"").await;
    assert_eq!(refused(&ahead), none(404, "epoch_ahead"));
    assert_eq!(stand.ask("GET /v1/cluster/map?epoch=x", &[], b"").await.code(), "bad_request");
}

/// Every change changes what it says, and answers the epoch from which it holds.
#[tokio::test]
async fn changes_change() {
    let stand = stand().await;
    let ask = async |line: &str, body: &str| done(&stand.ask(line, &[], body.as_bytes()).await);
    let added = ask("POST /v1/cluster/groups", r#"{"count":2,"weight":3}"#).await;
    assert_eq!((&added["groups"], &added["epoch"]), (&json!([3, 4]), &map(&stand).await["epoch"]));
    assert_eq!(map(&stand).await["groups"][3]["weight"], 3);
    assert_eq!(ask("POST /v1/cluster/groups", "").await["groups"], json!([5]));
    ask("DELETE /v1/cluster/groups/5", "").await;
    assert_eq!(map(&stand).await["groups"][4]["state"], "leaving");
    ask("DELETE /v1/cluster/groups/2", "").await;
    assert_eq!(ask("POST /v1/cluster/groups", r#"{"ids":[2]}"#).await["groups"], json!([2]));
    assert_eq!(map(&stand).await["groups"][1]["state"], "serving", "it stays after all");
    ask("PUT /v1/cluster/groups/4", r#"{"weight":2}"#).await;
    assert_eq!(map(&stand).await["groups"][3]["weight"], 2);
    ask("PUT /v1/cluster/moves", r#"{"paused":true}"#).await;
    ask("PUT /v1/cluster/moves", r#"{"copy_bytes_per_second":1000000,"moves_max":4}"#).await;
    let settings = &map(&stand).await["settings"];
    let told = ["moves_paused", "copy_bytes_per_second", "moves_max"].map(|name| settings[name].clone());
    assert_eq!(told, [json!(true), json!(1_000_000), json!(4)]);
    ask("PUT /v1/cluster/moves", r#"{"paused":false}"#).await;
    ask("PUT /v1/cluster/moves", r#"{"copy_bytes_per_second":null,"moves_max":2}"#).await;
    let settings = &map(&stand).await["settings"];
    assert_eq!(
        (&settings["moves_paused"], &settings["copy_bytes_per_second"]),
        (&json!(false), &Value::Null)
    );
    let shard = map(&stand).await["moves"][0]["shard"].clone();
    ask(&format!("DELETE /v1/cluster/moves/{shard}"), "").await;
    assert_eq!(map(&stand).await["moves"][0]["state"], "cancelling");
    ask("POST /v1/cluster/rebalance", "").await;
    ask("PUT /v1/cluster/nodes", r#"{"dead_after_ms":7000}"#).await;
    assert_eq!(map(&stand).await["settings"]["dead_after_ms"], 7_000);
    stand.fake.bear();
    ask("POST /v1/cluster/nodes/4/undrain", "").await;
    assert_eq!(map(&stand).await["nodes"][3]["state"], "up");
    ask("POST /v1/cluster/nodes/4/drain", "").await;
    assert_eq!(map(&stand).await["nodes"][3]["state"], "draining");
    ask("DELETE /v1/cluster/nodes/4", "").await;
    assert_eq!(map(&stand).await["nodes"].as_array().unwrap().len(), 3);
}

/// A plan names the moves and changes nothing; what it planned comes true at the epoch that it names.
#[tokio::test]
async fn plans_come_true() {
    let stand = stand().await;
    let before = map(&stand).await;
    let plan = done(&stand.ask("POST /v1/cluster/plan", &[], br#"{"add_groups":1}"#).await);
    assert_eq!(map(&stand).await, before);
    let moves = plan["moves"].as_array().unwrap();
    assert!(moves.len() == 5 && moves.iter().all(|of| of["to"] == 3), "{plan}");
    let leaving = done(&stand.ask("POST /v1/cluster/plan", &[], br#"{"remove_group":2}"#).await);
    assert_eq!(leaving["moves"][7], json!({"shard": 15, "from": 2, "to": 1}));
    let tag = format!("\"{}\"", plan["epoch"]);
    done(&stand.ask("POST /v1/cluster/groups", &[("if-match", &tag)], b"{}").await);
    let to_come: Vec<Value> = map(&stand).await["shard_runs"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|run| run[2] != run[3])
        .flat_map(|run| (run[0].as_u64().unwrap()..=run[1].as_u64().unwrap()).map(move |shard| (shard, run)))
        .map(|(shard, run)| json!({"shard": shard, "from": run[2], "to": run[3]}))
        .collect();
    assert_eq!(json!(to_come), plan["moves"]);
}

/// A change that was decided by another epoch changes nothing, and neither does one whose condition is no epoch.
#[tokio::test]
async fn conditions_are_epochs() {
    let stand = stand().await;
    let before = map(&stand).await;
    for (line, body) in &REQUESTS[1..] {
        let late = stand.ask(line, &[("if-match", "\"99\"")], body).await;
        assert_eq!(refused(&late), none(409, "epoch_mismatch"), "{line}");
        for header in [("if-match", "*"), ("if-match", "1"), ("if-none-match", "*")] {
            assert_eq!(refused(&stand.ask(line, &[header], body).await), none(400, "bad_request"), "{line}");
        }
    }
    assert_eq!(map(&stand).await, before);
}

/// What is wrong in itself is refused before the controller hears of it.
#[tokio::test]
async fn malformed_requests() {
    let stand = stand().await;
    let before = map(&stand).await;
    for (line, body) in [
        ("POST /v1/cluster/groups", r#"{"counts":1}"#),
        ("POST /v1/cluster/groups", "[1,1]"),
        ("POST /v1/cluster/groups", r#"{"count":-1}"#),
        ("POST /v1/cluster/groups", r#"{"count":1,"ids":[9]}"#),
        ("PUT /v1/cluster/groups/1", "{}"),
        ("DELETE /v1/cluster/groups/two", ""),
        ("POST /v1/cluster/shards/0/move", "{}"),
        ("POST /v1/cluster/shards/-1/move", r#"{"to":2}"#),
        ("PUT /v1/cluster/moves", "{}"),
        ("PUT /v1/cluster/moves", r#"{"moves_max":1}"#),
        ("PUT /v1/cluster/moves", r#"{"copy_bytes_per_second":null}"#),
        ("PUT /v1/cluster/moves", r#"{"paused":true,"copy_bytes_per_second":null,"moves_max":1}"#),
        ("DELETE /v1/cluster/moves/4294967296", ""),
        ("PUT /v1/cluster/nodes", "{}"),
        ("PUT /v1/cluster/nodes", r#"{"dead_after_ms":null}"#),
        ("DELETE /v1/cluster/nodes/x", ""),
        ("POST /v1/cluster/nodes/x/drain", ""),
        ("POST /v1/cluster/nodes/x/undrain", ""),
        ("POST /v1/cluster/plan", "{}"),
        ("POST /v1/cluster/plan", r#"{"add_groups":1,"remove_group":1}"#),
        ("POST /v1/cluster/rebalance?x=1", ""),
    ] {
        let answer = stand.ask(line, &[], body.as_bytes()).await;
        assert_eq!(refused(&answer), none(400, "bad_request"), "{line} {body}");
    }
    let too_soon = stand.ask("PUT /v1/cluster/nodes", &[], br#"{"dead_after_ms":4999}"#).await;
    assert_eq!(refused(&too_soon), none(400, "invalid"));
    let text = String::from_utf8_lossy(&too_soon.body);
    assert!(text.contains("dead_after_ms must be at least 5000: 4999"), "{text}");
    let none_added = stand.ask("POST /v1/cluster/groups", &[], br#"{"count":0}"#).await;
    assert_eq!(refused(&none_added), none(400, "invalid"));
    assert_eq!(map(&stand).await, before);
}

/// Each refusal of the controller comes with its own code, and a lost answer is never softened.
#[tokio::test]
async fn refusals_are_told_apart() {
    use ControllerError as Of;
    let stand = stand().await;
    let (node, group, shard) = (NodeId(9), GroupId(9), ShardId(9));
    let why = || "as asked".to_owned();
    for (error, status, code) in [
        (Of::EpochMismatch { current: Epoch(9) }, 409, "epoch_mismatch"),
        (Of::Stale { why: why() }, 409, "stale"),
        (Of::Unborn, 503, "unborn"),
        (Of::Born, 409, "born"),
        (Of::Invalid { why: why() }, 400, "invalid"),
        (Of::UnknownNode { node }, 404, "unknown_node"),
        (Of::UnknownGroup { group }, 404, "unknown_group"),
        (Of::UnknownShard { shard }, 404, "unknown_shard"),
        (Of::GroupIdUsed { group }, 409, "group_id_used"),
        (Of::GroupLeaving { group }, 409, "group_leaving"),
        (Of::LastGroup { group }, 409, "last_group"),
        (Of::GroupInUse { group }, 409, "group_in_use"),
        (Of::NoPlace { needed: 3, live: 2 }, 409, "no_place"),
        (Of::NoQuorum { group }, 409, "no_quorum"),
        (Of::NodeInUse { node, replicas: 1 }, 409, "node_in_use"),
        (Of::ShardMoving { shard }, 409, "shard_moving"),
        (Of::ShardThere { shard }, 409, "shard_there"),
        (Of::ShardNotMoving { shard }, 409, "shard_not_moving"),
        (Of::EpochAhead { current: Epoch(9) }, 404, "epoch_ahead"),
        (Of::EpochForgotten { oldest: Epoch(9) }, 404, "epoch_forgotten"),
    ] {
        stand.fake.fail_controller(ExecuteError::Refused(error));
        let answer = stand.ask("POST /v1/cluster/rebalance", &[], b"").await;
        assert_eq!(refused(&answer), none(status, code));
    }
    for (line, body) in &REQUESTS[1..] {
        stand.fake.fail_controller(ExecuteError::Unreached(why()));
        assert_eq!(refused(&stand.ask(line, &[], body).await), none(503, "unavailable"), "{line}");
        stand.fake.fail_controller(ExecuteError::Unknown(why()));
        let outcome = if line.ends_with("/plan") { "none" } else { "unknown" };
        let lost = (504, "timeout".to_owned(), outcome.to_owned());
        assert_eq!(refused(&stand.ask(line, &[], body).await), lost, "{line}");
    }
}
