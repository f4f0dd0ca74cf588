//! Stopping a node while it serves, and starting a cluster again.

use crate::fleet::{Fleet, NODES, Settings, others};
use raftstore::RaftConfig;
use std::time::Duration;
use tokio::time::Instant;

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
    let asked = (0..8).map(|number| {
        let door = fleet.door(leader).clone();
        tokio::spawn(async move {
            let mut told = Vec::new();
            for round in 0.. {
                let key = format!("asked{number}-{round}");
                match door.try_ask(reqwest::Method::PUT, &format!("/v1/kv/{key}"), &[], "v").await {
                    Ok(answer) => told.push((key, answer)),
                    // Refused before it was sent: the node takes no more connections.
                    Err(error) if error.is_connect() => return told,
                    Err(error) => panic!("a request that was taken is not answered: {error:?}"),
                }
            }
            told
        })
    });
    let asked: Vec<_> = asked.collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    fleet.take(leader).shutdown(Duration::from_secs(10)).await.unwrap();
    stop.send_replace(true);
    let (longest, number) = writer.await.unwrap();
    assert!(longest < Duration::from_secs(2), "the longest write of {number} took {longest:?}");
    let door = fleet.door(others(&[leader])[1]);
    for of in asked {
        for (key, answer) in of.await.unwrap() {
            assert_eq!(answer.status, 201, "{key}: {}", answer.text());
            assert!(door.value(&key).await.is_some(), "{key} was acknowledged and is lost");
        }
    }
}

/// A cluster that was stopped as a whole keeps everything, sessions included: an append with an idempotency key
/// that was done before is not done again.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_everything() {
    let mut fleet = Fleet::start(Settings::groups(3)).await;
    let keyed = [("idempotency-key", "order-1")];
    let post = reqwest::Method::POST;
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
