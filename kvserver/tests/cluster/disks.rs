//! Disks that are lost, fail, or belong to a cluster of another shape.

use crate::fleet::{Fleet, NODES, Settings, eventually, keys_of_groups, others};
use kvserver::NodeConfig;
use raftstore::{Fault, SimulatedDisk};
use reqwest::Method;
use std::time::Duration;
use tokio::time::timeout;

/// Within this time a node that must stop says so.
const PATIENCE: Duration = Duration::from_secs(20);

/// A node whose disk was wiped votes nowhere as long as the cluster counts on the lost disk, and says what it
/// waits for; the others go on, but not with its voice.
#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_node_stays_out() {
    let mut fleet = Fleet::start(Settings::default()).await;
    assert!(fleet.door(1).put("k", "v").await.is_done());
    fleet.stop(2).await;
    fleet.disks.insert(2, SimulatedDisk::new());
    fleet.start_node(2).await;
    eventually("n2 says what it waits for", async || {
        let answer = fleet.door(2).get("/readyz").await;
        (answer.status == 503 && answer.text().contains("n2 is in use, on the disk")).then_some(())
    })
    .await;
    for node in others(&[2]) {
        assert_eq!(fleet.door(node).value("k").await.unwrap(), "v");
        assert!(fleet.door(node).put("k", "v").await.is_done());
    }
    fleet.stop(3).await;
    let alone = fleet.door(1).ask(Method::PUT, "/v1/kv/k?timeout=2000", &[], "w").await;
    assert!(!alone.is_done(), "n1 is one of three, with an old voter whose disk is lost: {alone:?}");
}

/// A node that was wiped and has joined anew is ready only once every group, the controller's own among them, has its
/// three voters again; from then on another node may be missed.
#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_node_is_ready_with_its_votes() {
    let mut fleet = Fleet::start(Settings::groups(2)).await;
    let set = fleet.door(1).ask(Method::PUT, "/v1/cluster/nodes", &[], r#"{"dead_after_ms":5000}"#).await;
    assert!(set.is_done(), "{set:?}");
    assert!(fleet.door(1).put("k", "v").await.is_done());
    fleet.stop(2).await;
    fleet.disks.insert(2, SimulatedDisk::new());
    fleet.start_node(2).await;
    eventually("n2 is ready", async || (fleet.door(2).get("/readyz").await.status == 200).then_some(()))
        .await;
    fleet.stop(3).await;
    let keys = keys_of_groups("k", 2, 1);
    for key in keys.values().flatten() {
        assert!(fleet.door(1).put(key, "w").await.is_done(), "{key}");
        assert_eq!(fleet.door(2).value(key).await.unwrap(), "w");
    }
    let set = fleet.door(1).ask(Method::PUT, "/v1/cluster/nodes", &[], r#"{"dead_after_ms":6000}"#).await;
    assert!(set.is_done(), "the controller decides: {set:?}");
}

/// A disk that fails stops its node with the reason, whether it is the leader's or a follower's; what was
/// acknowledged is kept by the others.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_disk_stops_its_node() {
    for leads in [true, false] {
        let fleet = Fleet::start(Settings::default()).await;
        let leader = fleet.leader(1).await;
        let failing = if leads { leader } else { others(&[leader])[0] };
        let writer = fleet.door(others(&[leader, failing])[0]);
        assert!(writer.put("before", "v").await.is_done());
        fleet.disks[&failing].fail_sync(0, Fault::Failed);
        assert!(writer.put("after", "v").await.is_done());
        let why = timeout(PATIENCE, fleet.node(failing).failed()).await.unwrap();
        // Whoever notices first says so: the log's writer, or the group that waits for it.
        assert!(why.contains("input/output error"), "{why}");
        for key in ["before", "after"] {
            assert_eq!(writer.value(key).await.unwrap(), "v", "{key}");
        }
    }
}

/// Shards and groups are fixed when the cluster is born: a node that is told otherwise later does not start,
/// and starts again as it was.
#[tokio::test(flavor = "multi_thread")]
async fn the_shape_of_a_cluster_is_fixed() {
    let mut fleet = Fleet::start(Settings::groups(2)).await;
    assert!(fleet.door(1).put("k", "v").await.is_done());
    fleet.stop(3).await;
    let config = fleet.config(3);
    for (changed, field) in [
        (NodeConfig { groups: 3, ..config.clone() }, "groups"),
        (NodeConfig { shards: 32, ..config.clone() }, "shards"),
    ] {
        let error = fleet.try_start(3, changed).await.unwrap_err().to_string();
        assert!(error.contains(field), "{error}");
    }
    fleet.start_node(3).await;
    fleet.all_ready().await;
    assert_eq!(fleet.door(3).value("k").await.unwrap(), "v");
}

/// First members that were told of different numbers of groups do not serve the same shards twice: whoever was told
/// otherwise than the one that had the cluster born stops with the reason, and the others serve.
#[tokio::test(flavor = "multi_thread")]
async fn first_members_are_told_the_same() {
    let mut fleet = Fleet::prepare(Settings::groups(2));
    for node in NODES {
        let config = fleet.config(node);
        let groups = if node == 3 { 3 } else { 2 };
        fleet.try_start(node, NodeConfig { groups, ..config }).await.unwrap();
    }
    let born = eventually("the cluster is born", async || {
        let map = fleet.door(1).get("/v1/cluster/map").await.json();
        Some(map["groups"].as_array()?.len())
    })
    .await;
    for node in NODES {
        let groups = if node == 3 { 3 } else { 2 };
        if groups == born {
            continue;
        }
        let why = timeout(PATIENCE, fleet.node(node).failed()).await.unwrap();
        let expected = format!("groups is {groups} here, the cluster was born with {born}");
        assert!(why.contains(&expected), "n{node}: {why}");
        let status = fleet.door(node).get("/v1/status").await.json();
        let open: Vec<_> = status["groups"].as_array().unwrap().iter().map(|group| &group["id"]).collect();
        assert_eq!(open, [0], "it has no part in any group of data");
    }
}

/// A node that restarts alone under load catches up and becomes ready while the load goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_becomes_ready_under_load() {
    let mut fleet = Fleet::start(Settings::default()).await;
    let back = others(&[fleet.leader(1).await])[0];
    let door = fleet.door(others(&[back])[0]).clone();
    fleet.stop(back).await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (door, stopped) = (door.clone(), stopped.clone());
            tokio::spawn(async move {
                for number in (0..).take_while(|_| !*stopped.borrow()) {
                    assert!(door.put(&format!("w{writer}-{number}"), "v").await.is_done());
                }
            })
        })
        .collect();
    fleet.start_node(back).await;
    eventually("the node is ready", async || {
        (fleet.door(back).get("/readyz").await.status == 200).then_some(())
    })
    .await;
    stop.send_replace(true);
    for writer in writers {
        writer.await.unwrap();
    }
    assert!(fleet.door(back).get("/v1/kv/w0-0?consistency=follower").await.is_done());
}
