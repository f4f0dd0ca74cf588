//! Stopping a node while it serves, and starting a cluster again.

use crate::fleet::{Fleet, NODES, Settings, eventually, others};
use raftstore::RaftConfig;
use reqwest::Method;
use std::time::Duration;
use tokio::time::Instant;

/// The line of the metrics that counts requests under way.
const IN_FLIGHT: &str = "flotilla_http_requests_in_flight ";

/// Elections that take so long that a gap in service tells whether there was one.
fn slow_elections() -> Settings {
    let raft = RaftConfig {
        heartbeat_interval_ms: 200,
        election_timeout_ms_min: 4_000,
        election_timeout_ms_max: 6_000,
        ..RaftConfig::default()
    };
    Settings { raft, ..Settings::default() }
}

/// When the leader's node is told to stop, a steady writer through another node sees no error, and no gap as long
/// as an election; what the node itself was asked by then is answered.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_leaves_unnoticed() {
    let mut fleet = Fleet::start(slow_elections()).await;
    let leader = fleet.leader(1).await;
    let steady = fleet.door(others(&[leader])[0]).clone();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let writer = tokio::spawn(async move {
        let (mut longest, mut number) = (Duration::ZERO, 0_u64);
        // One write more once the leader is gone.
        loop {
            let last = *stopped.borrow();
            let began = Instant::now();
            let answer = steady.put(&format!("steady{number}"), "v").await;
            assert_eq!(answer.status, 201, "{}", answer.text());
            longest = longest.max(began.elapsed());
            number += 1;
            if last {
                return (longest, number);
            }
        }
    });
    // Asked of the leader's node all the while; it may close a connection between two requests, never answer with
    // an error.
    let asked: Vec<_> = (0..4)
        .map(|number| {
            let door = fleet.door(leader).clone();
            tokio::spawn(async move {
                let mut acknowledged = Vec::new();
                for round in 0.. {
                    let path = format!("asked{number}-{round}");
                    let asked = door.try_ask(Method::PUT, &format!("/v1/kv/{path}"), &[], "v").await;
                    let Ok(answer) = asked else { break };
                    assert_eq!(answer.status, 201, "{path}: {}", answer.text());
                    acknowledged.push(path);
                }
                acknowledged
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    fleet.take(leader).shutdown(Duration::from_secs(10)).await.unwrap();
    stop.send_replace(true);
    let (longest, number) = writer.await.unwrap();
    println!("{number} writes, the longest took {longest:?}");
    assert!(longest < Duration::from_secs(2), "the longest write of {number} took {longest:?}");
    let door = fleet.door(others(&[leader])[1]);
    for of in asked {
        for key in of.await.unwrap() {
            assert!(door.value(&key).await.is_some(), "{key} was acknowledged and is lost");
        }
    }
}

/// Requests that are under way on a node when it is told to stop are answered, and with success.
#[tokio::test(flavor = "multi_thread")]
async fn requests_under_way_are_answered() {
    let mut fleet = Fleet::start(slow_elections()).await;
    let leader = fleet.leader(1).await;
    fleet.disks.values().for_each(|disk| disk.set_sync_delay(Duration::from_millis(300)));
    let asked: Vec<_> = (0..8)
        .map(|number| {
            let door = fleet.door(leader).clone();
            tokio::spawn(async move { door.put(&format!("k{number}"), "v").await })
        })
        .collect();
    eventually("all are under way", async || {
        let metrics = fleet.door(leader).get("/metrics").await;
        let under_way = metrics.text().lines().find_map(|line| line.strip_prefix(IN_FLIGHT))?.to_owned();
        (under_way.trim() == "8").then_some(())
    })
    .await;
    fleet.take(leader).shutdown(Duration::from_secs(20)).await.unwrap();
    for answer in asked {
        let answer = answer.await.unwrap();
        assert_eq!(answer.status, 201, "{}", answer.text());
    }
    for number in 0..8 {
        assert!(fleet.door(others(&[leader])[0]).value(&format!("k{number}")).await.is_some());
    }
}

/// A cluster that was stopped as a whole keeps everything, sessions included: an append with an idempotency key
/// that was done before is not done again.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_everything() {
    let mut fleet = Fleet::start(Settings::groups(3)).await;
    let keyed = [("idempotency-key", "order-1")];
    let post = Method::POST;
    let first = fleet.door(1).ask(post.clone(), "/v1/kv/log", &keyed, "once").await;
    for number in 0..60 {
        let key = format!("k{number}");
        assert_eq!(fleet.door(NODES[number % 3]).put(&key, key.clone()).await.status, 201);
    }
    fleet.stop_all().await;
    fleet.start_all().await;
    let again = fleet.door(2).ask(post, "/v1/kv/log", &keyed, "once").await;
    assert_eq!(again.essence(), first.essence());
    assert_eq!(fleet.door(3).value("log").await.unwrap(), "once");
    for number in 0..60 {
        let key = format!("k{number}");
        assert_eq!(fleet.door(NODES[(number + 1) % 3]).value(&key).await.unwrap(), key);
    }
}
