//! Readiness: whether a node may be given requests.

use crate::fleet::{Fleet, Settings, eventually, others};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A leader that has lost its quorum stops being ready, and says which group it is about; so does everybody where
/// no quorum is left.
#[tokio::test(flavor = "multi_thread")]
async fn readiness_needs_a_quorum() {
    let mut fleet = Fleet::start(Settings::groups(2)).await;
    let leader = fleet.leader(1).await;
    fleet.isolate(leader);
    eventually("the old leader is not ready, for want of a quorum of g1", async || {
        let answer = fleet.door(leader).get("/readyz").await;
        (answer.status == 503 && answer.text().contains("g1 has a leader")).then_some(())
    })
    .await;
    for node in others(&[leader]) {
        eventually("the others are ready", async || {
            (fleet.door(node).get("/readyz").await.status == 200).then_some(())
        })
        .await;
    }
    fleet.heal();
    fleet.all_ready().await;
    let stays = others(&[leader])[0];
    for node in others(&[stays]) {
        fleet.stop(node).await;
    }
    eventually("the last one is not ready", async || {
        (fleet.door(stays).get("/readyz").await.status == 503).then_some(())
    })
    .await;
}

/// A node that is ready stays ready under load, although its log always runs ahead of what is committed.
#[tokio::test(flavor = "multi_thread")]
async fn load_does_not_make_a_node_unready() {
    let fleet =
        Fleet::start(Settings { raft: raftstore::RaftConfig::default(), ..Settings::default() }).await;
    let leader = fleet.leader(1).await;
    for disk in fleet.disks.values() {
        disk.set_sync_delay(std::time::Duration::from_millis(5));
    }
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let (stop, door) = (stop.clone(), fleet.door(leader).clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    assert!(door.put(&format!("w{writer}"), "v").await.is_done());
                }
            })
        })
        .collect();
    let mut ahead = 0;
    for _ in 0..100 {
        let answer = fleet.door(leader).get("/readyz").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let replica = fleet.replica(leader, 1).await;
        ahead += u64::from(replica["last_index"].as_u64() > replica["committed_index"].as_u64());
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    assert!(ahead > 0, "the load was none: the log was never ahead");
}
