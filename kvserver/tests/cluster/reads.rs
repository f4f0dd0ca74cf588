//! How fresh reads are, and when they are refused.

use crate::door::Answer;
use crate::fleet::{Fleet, Settings, eventually, others};

fn lag_ms(answer: &Answer) -> u64 {
    answer.header("flotilla-lag-ms").unwrap_or_else(|| panic!("{answer:?}")).parse().unwrap()
}

/// A follower's own read sees whatever was acknowledged before it began, round after round, and says who answered.
#[tokio::test(flavor = "multi_thread")]
async fn follower_reads_see_what_was_acknowledged() {
    let fleet = Fleet::start(Settings::default()).await;
    let leader = fleet.leader(1).await;
    for round in 0..30 {
        assert!(fleet.door(leader).put("k", round.to_string()).await.is_done());
        for node in others(&[leader]) {
            let answer = fleet.door(node).get("/v1/kv/k?consistency=follower").await;
            assert_eq!((answer.status, answer.text()), (200, round.to_string().as_str()));
            assert_eq!(answer.header("flotilla-node"), Some(node.to_string().as_str()));
            assert_eq!(lag_ms(&answer), 0);
        }
    }
}

/// A follower that is cut off refuses reads that promise freshness, serves stale ones with a lag that grows, refuses
/// them beyond the lag that the caller allows, and stops being ready; healed, it is as good as before.
#[tokio::test(flavor = "multi_thread")]
async fn a_cut_off_follower_knows_its_lag() {
    let fleet = Fleet::start(Settings::default()).await;
    let leader = fleet.leader(1).await;
    let follower = others(&[leader])[0];
    let door = fleet.door(follower);
    assert!(fleet.door(leader).put("k", "before").await.is_done());
    eventually("the follower holds the value", async || {
        let answer = door.get("/v1/kv/k?consistency=stale").await;
        (answer.status == 200 && answer.text() == "before").then_some(())
    })
    .await;
    fleet.isolate(follower);
    assert!(fleet.door(leader).put("k", "after").await.is_done());
    for consistency in ["linearizable", "follower"] {
        let answer = door.get(&format!("/v1/kv/k?consistency={consistency}&timeout=500")).await;
        let (status, _, outcome) = answer.said();
        assert!([503, 504].contains(&status) && outcome == "none", "{consistency}: {answer:?}");
    }
    let first = door.get("/v1/kv/k?consistency=stale").await;
    assert_eq!(first.text(), "before");
    eventually("the lag grows", async || {
        let answer = door.get("/v1/kv/k?consistency=stale").await;
        (lag_ms(&answer) > lag_ms(&first) + 100).then_some(())
    })
    .await;
    let refused = door.get("/v1/kv/k?consistency=stale&max-lag=100").await;
    assert_eq!(refused.said().1, "too_stale");
    assert!(lag_ms(&refused) > 100, "{refused:?}");
    eventually("the follower is not ready", async || (door.get("/readyz").await.status == 503).then_some(()))
        .await;
    fleet.heal();
    eventually("the follower is fresh again", async || {
        let answer = door.get("/v1/kv/k?consistency=stale&max-lag=1000").await;
        (answer.status == 200 && answer.text() == "after").then_some(())
    })
    .await;
    fleet.all_ready().await;
}

/// A replica that was restarted refuses stale reads until it holds again what it has shown before: its reader never
/// goes back in time.
#[tokio::test(flavor = "multi_thread")]
async fn stale_reads_wait_for_recovery() {
    let mut fleet = Fleet::start(Settings::default()).await;
    for number in 0..40 {
        assert!(fleet.door(1).put("k", format!("{number:02}")).await.is_done());
    }
    eventually("n2 shows the last value", async || {
        (fleet.door(2).get("/v1/kv/k?consistency=stale").await.text() == "39").then_some(())
    })
    .await;
    fleet.stop_all().await;
    fleet.start_node(2).await;
    for _ in 0..20 {
        let answer = fleet.door(2).get("/v1/kv/k?consistency=stale&timeout=20").await;
        assert_eq!(answer.said(), (503, "unavailable".into(), "none".into()));
    }
    let ready = fleet.door(2).get("/readyz").await;
    assert_eq!(ready.status, 503, "{ready:?}");
    fleet.start_node(1).await;
    eventually("n2 shows the last value again, and never an older one", async || {
        let answer = fleet.door(2).get("/v1/kv/k?consistency=stale&timeout=20").await;
        match answer.status {
            200 => assert_eq!(answer.text(), "39"),
            status => assert_eq!(status, 503, "{answer:?}"),
        }
        (answer.status == 200).then_some(())
    })
    .await;
}
