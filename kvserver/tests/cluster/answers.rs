//! Every answer to a write is the truth: done is there for ever, none is never there, unknown may be.

use crate::door::{Answer, Door};
use crate::fleet::{Fleet, NODES, Settings, others};
use reqwest::Method;
use std::collections::BTreeMap;
use std::time::Duration;

/// Puts a fresh key through `door` within `timeout_ms`.
async fn put(door: &Door, key: &str, timeout_ms: u64) -> Answer {
    door.ask(Method::PUT, &format!("/v1/kv/{key}?timeout={timeout_ms}"), &[], key.to_owned()).await
}

/// While the leader is cut off, writes through it are refused or unknown, writes through the others go on; once it
/// is back, all that was acknowledged is there and nothing of what was said to have had no effect. Some of what was
/// unknown is there: the leader was deaf at first, so that its followers held what it could not acknowledge.
#[tokio::test(flavor = "multi_thread")]
async fn a_cut_off_leader_tells_the_truth() {
    let fleet = Fleet::start(Settings::default()).await;
    let mut told: BTreeMap<String, Answer> = BTreeMap::new();
    for round in 0..3 {
        let leader = fleet.leader(1).await;
        let key = |node: u64, number: usize| format!("r{round}-n{node}-{number}");
        // Under way while the cut comes: some arrive before it, some after it, some in between.
        let before = (0..40).map(|number| {
            let (key, door) = (key(leader, number), fleet.door(leader).clone());
            async move {
                tokio::time::sleep(Duration::from_millis(number as u64)).await;
                let answer = put(&door, &key, 700).await;
                (key, answer)
            }
        });
        let cut = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            fleet.deafen(leader);
            tokio::time::sleep(Duration::from_millis(20)).await;
            fleet.isolate(leader);
        };
        let (before, ()) = tokio::join!(futures_util::future::join_all(before), cut);
        let late = put(fleet.door(leader), &key(leader, 99), 300).await;
        assert!(!late.is_done(), "a leader without a quorum acknowledged: {late:?}");
        told.extend(before);
        told.insert(key(leader, 99), late);
        for node in others(&[leader]) {
            let answer = put(fleet.door(node), &key(node, 0), 10_000).await;
            assert_eq!(answer.status, 201, "a majority goes on: {}", answer.text());
            told.insert(key(node, 0), answer);
        }
        fleet.heal();
        fleet.all_ready().await;
    }
    let door = fleet.door(1);
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for (key, answer) in &told {
        let present = door.value(key).await.is_some();
        let kind = match answer.is_done() {
            true => "done".to_owned(),
            false => format!("{}, {}", answer.said().2, if present { "there" } else { "absent" }),
        };
        match kind.as_str() {
            "done" => assert!(present, "{key} was acknowledged and is lost"),
            "none, there" => panic!("{key} was said to have had no effect: {answer:?}"),
            _ => {}
        }
        *kinds.entry(kind).or_default() += 1;
    }
    println!("{kinds:?}");
    assert!(kinds["done"] >= 6, "{kinds:?}");
    assert!(kinds.contains_key("unknown, there"), "followers held what the deaf leader sent: {kinds:?}");
}

/// An append with an idempotency key takes effect once, although it is sent to every node, again and again, while
/// leaders are cut off one after the other.
#[tokio::test(flavor = "multi_thread")]
async fn keyed_appends_take_effect_once() {
    let fleet = Fleet::start(Settings::default()).await;
    for round in 0..3 {
        let leader = fleet.leader(1).await;
        let appends = (0..12).map(|number| {
            let doors = NODES.map(|node| fleet.door(node).clone());
            async move {
                let (key, token) = (format!("order-{round}-{number}"), format!("{round}/{number},"));
                let headers = [("idempotency-key", key.as_str())];
                let send = |door: Door| {
                    let token = token.clone();
                    async move { door.ask(Method::POST, "/v1/kv/log?timeout=400", &headers, token).await }
                };
                let mut done = 0;
                for _ in 0..50 {
                    let sent = doors.iter().cloned().map(send);
                    let answers = futures_util::future::join_all(sent).await;
                    done += answers.iter().filter(|answer| answer.is_done()).count();
                    if done >= 3 {
                        let length = |answer: &Answer| answer.header("flotilla-length").map(str::to_owned);
                        let lengths: Vec<_> = answers.iter().filter(|a| a.is_done()).map(length).collect();
                        assert!(lengths.iter().all(|length| *length == lengths[0]), "{lengths:?}");
                        return;
                    }
                }
                panic!("{token} was never acknowledged");
            }
        });
        let faults = async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            fleet.isolate(leader);
            fleet.leader_among(1, &others(&[leader])).await;
            fleet.heal();
        };
        tokio::join!(futures_util::future::join_all(appends), faults);
        fleet.all_ready().await;
    }
    let log = fleet.door(1).value("log").await.unwrap();
    let mut tokens: Vec<&str> = std::str::from_utf8(&log).unwrap().trim_end_matches(',').split(',').collect();
    tokens.sort_unstable();
    let mut expected: Vec<String> =
        (0..3).flat_map(|round| (0..12).map(move |number| format!("{round}/{number}"))).collect();
    expected.sort_unstable();
    assert_eq!(tokens, expected);
}

/// A name is for one request for a key, whichever node hears of it: another value, method or condition is
/// refused, alone and in a batch, and changes nothing, while another key is another request.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_given_twice_is_found_out() {
    let fleet = Fleet::start(Settings::groups(2)).await;
    let named =
        |node: u64, method: Method, key: &'static str, condition: &'static str, value: &'static str| {
            let door = fleet.door(node).clone();
            async move {
                let headers = [("idempotency-key", "order-17"), ("if-none-match", condition)];
                let headers = if condition.is_empty() { &headers[..1] } else { &headers[..] };
                door.ask(method, &format!("/v1/kv/{key}"), headers, value).await
            }
        };
    assert_eq!(named(1, Method::POST, "a", "", "once,").await.status, 201);
    for node in NODES {
        assert_eq!(named(node, Method::POST, "a", "", "once,").await.status, 201, "the first answer again");
        for (method, condition, value) in [
            (Method::POST, "", "other,"),
            (Method::PUT, "", "once,"),
            (Method::POST, "*", "once,"),
            (Method::DELETE, "", ""),
        ] {
            let answer = named(node, method, "a", condition, value).await;
            assert_eq!(answer.said(), (422, "idempotency_key_reused".into(), "none".into()));
        }
    }
    assert_eq!(named(2, Method::POST, "b", "", "once,").await.status, 201, "another key");
    let body = r#"{"operations":[{"op":"append","key":"a","value":"once,"},{"op":"append","key":"b","value":"x"},
        {"op":"append","key":"c","value":"x"}]}"#;
    let headers = [("content-type", "application/json"), ("idempotency-key", "order-17")];
    let statuses = async |body: String| -> Vec<u64> {
        let answers = fleet.door(3).ask(Method::POST, "/v1/batch", &headers, body).await.json();
        answers["answers"].as_array().unwrap().iter().map(|of| of["status"].as_u64().unwrap()).collect()
    };
    for _ in 0..2 {
        assert_eq!(statuses(body.into()).await, [201, 200, 201], "each place has a name of its own");
    }
    assert_eq!(statuses(body.replace("\"x\"", "\"y\"")).await, [201, 422, 422]);
    for (key, value) in [("a", "once,"), ("b", "once,x"), ("c", "x")] {
        assert_eq!(fleet.door(1).value(key).await.unwrap(), value);
    }
}

/// Plain appends, which the front ends send again under sessions of their own, take effect exactly once each
/// wherever they were acknowledged, and at most once otherwise.
#[tokio::test(flavor = "multi_thread")]
async fn retried_appends_take_effect_once() {
    let fleet = Fleet::start(Settings::default()).await;
    let mut told: BTreeMap<String, Answer> = BTreeMap::new();
    for round in 0..3 {
        let leader = fleet.leader(1).await;
        let appends = (0..24).map(|number: usize| {
            let door = fleet.door(NODES[number % 3]).clone();
            async move {
                tokio::time::sleep(Duration::from_millis(number as u64 * 2)).await;
                let token = format!("{round}/{number},");
                let answer = door.append("log", token.clone()).await;
                (token, answer)
            }
        });
        let faults = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            fleet.isolate(leader);
            fleet.leader_among(1, &others(&[leader])).await;
            fleet.heal();
        };
        told.extend(tokio::join!(futures_util::future::join_all(appends), faults).0);
        fleet.all_ready().await;
    }
    let log = fleet.door(1).value("log").await.unwrap();
    let log = std::str::from_utf8(&log).unwrap();
    for (token, answer) in &told {
        let times = log.split_inclusive(',').filter(|part| part == token).count();
        let allowed = match answer.is_done() {
            true => 1..=1,
            false if answer.said().2 == "none" => 0..=0,
            false => 0..=1,
        };
        assert!(allowed.contains(&times), "{token} is there {times} times: {answer:?}");
    }
    assert!(
        told.values().filter(|answer| answer.is_done()).count() >= 48,
        "most were acknowledged in the end"
    );
}
