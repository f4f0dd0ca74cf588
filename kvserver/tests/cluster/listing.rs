//! Listing all keys, in order, whatever happens meanwhile.

use crate::fleet::{Fleet, SHARDS, Settings, others};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A listing over three groups gives every key that stays exactly once and in order, while other keys come and go
/// and a leader leaves.
#[tokio::test(flavor = "multi_thread")]
async fn a_listing_misses_nothing() {
    let mut fleet = Fleet::start(Settings::groups(3)).await;
    let leaving = fleet.leader(1).await;
    let door = fleet.door(others(&[leaving])[0]).clone();
    let stays: Vec<String> = (0..120).map(|number| format!("stay{number:03}")).collect();
    for key in &stays {
        assert_eq!(door.put(key, key.clone()).await.status, 201);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let churn = {
        let (stop, door) = (stop.clone(), fleet.door(others(&[leaving])[1]).clone());
        tokio::spawn(async move {
            for round in (0..).take_while(|_| !stop.load(Ordering::Relaxed)) {
                let key = format!("stay{:03}-comes-and-goes", round % 120);
                assert!(door.put(&key, "x").await.is_done());
                let path = format!("/v1/kv/{key}");
                assert!(door.ask(reqwest::Method::DELETE, &path, &[], "").await.is_done());
            }
        })
    };
    let mut listed: Vec<String> = Vec::new();
    let mut cursor = None;
    let mut leaver = None;
    loop {
        if listed.len() > 40 && leaver.is_none() {
            let node = fleet.take(leaving);
            leaver = Some(tokio::spawn(node.shutdown(std::time::Duration::from_secs(5))));
        }
        let after = cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
        let page = door.get(&format!("/v1/kv?prefix=stay&limit=7{after}")).await;
        assert_eq!(page.status, 200, "{}", page.text());
        let page = page.json();
        let keys = page["keys"].as_array().unwrap();
        listed.extend(keys.iter().map(|listed| listed["key"].as_str().unwrap().to_owned()));
        match page["cursor"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => break,
        }
    }
    stop.store(true, Ordering::Relaxed);
    churn.await.unwrap();
    leaver.unwrap().await.unwrap().unwrap();
    assert!(listed.is_sorted_by(|left, right| left < right), "{listed:?}");
    listed.retain(|key| !key.ends_with("goes"));
    assert_eq!(listed, stays);
}

/// A listing whose prefix decides the group lists the same as any other, in order, asking that group alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_tagged_listing_asks_one_group() {
    let fleet = Fleet::start(Settings::groups(3)).await;
    let door = fleet.door(1);
    for tag in ["a", "b", "c", "d", "e"] {
        for number in 0..5 {
            assert_eq!(door.put(&format!("%7B{tag}%7D/{number}"), "v").await.status, 201);
        }
        let page = door.get(&format!("/v1/kv?prefix=%7B{tag}%7D")).await.json();
        let keys: Vec<&str> =
            page["keys"].as_array().unwrap().iter().map(|listed| listed["key"].as_str().unwrap()).collect();
        let expected: Vec<String> = (0..5).map(|number| format!("{{{tag}}}/{number}")).collect();
        assert_eq!(keys, expected);
        assert!(proto::shard_of_prefix(format!("{{{tag}}}").as_bytes(), SHARDS).is_some());
    }
    let all = door.get("/v1/kv?prefix=%7B").await.json();
    assert_eq!(all["keys"].as_array().unwrap().len(), 25);
}
