//! Stopping as an operator does: leaderships go first, and nothing stays behind.

use crate::cluster::{Cluster, MS, SECOND, Settings, eventually};
use proto::NodeId;
use raftstore::{Link, MemberError, Role};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout};

/// While nodes are stopped one after another, and started again, a writer waits for no election: its longest wait is
/// far below the shortest election timeout.
#[tokio::test(start_paused = true)]
async fn a_writer_hardly_notices_a_rolling_restart() {
    let mut cluster = Cluster::start(Settings::new(3, 110)).await;
    cluster.write_all().await;
    cluster.rack.network.set_default_link(Link { delay_min: MS, delay_max: MS, ..Link::default() });
    sleep(SECOND).await;
    for node in [1, 2, 3] {
        let writer = {
            let groups: Vec<_> =
                cluster.nodes().into_iter().map(|node| cluster.group(node).clone()).collect();
            tokio::spawn(async move {
                let (began, mut last, mut longest) = (Instant::now(), Instant::now(), Duration::ZERO);
                let mut number = 0;
                while began.elapsed() < 2 * SECOND {
                    for group in groups.iter().filter(|group| group.status().role == Role::Leader) {
                        number += 1;
                        let command = format!("stop{node}/{number}").into();
                        if let Ok(Ok(_)) = timeout(100 * MS, group.propose(command)).await {
                            longest = longest.max(last.elapsed());
                            last = Instant::now();
                        }
                    }
                    sleep(MS).await;
                }
                (longest.max(last.elapsed()), number)
            })
        };
        sleep(500 * MS).await;
        let leads = cluster.status(node).role == Role::Leader;
        cluster.stop(node).await;
        let (longest, number) = writer.await.unwrap();
        assert!(number > 200, "the writer wrote {number} times");
        assert!(longest <= 60 * MS, "n{node} (leader: {leads}): a writer waited {longest:?}");
        cluster.boot(node).await.unwrap();
        cluster.write_all().await;
        // So that the next to stop leads.
        let next = NodeId(node % 3 + 1);
        let leader = cluster.leader().await;
        cluster.group(leader).hand_over(Some(next), 2 * SECOND).await.unwrap();
        assert_eq!(cluster.leader().await, next.0);
    }
    cluster.check();
}

/// A node that was stopped leaves no task behind, idle or in the midst of work; nor does one that lost its power.
#[tokio::test(start_paused = true)]
async fn nothing_stays_behind() {
    let tasks = || Handle::current().metrics().num_alive_tasks();
    assert_eq!(tasks(), 0);
    let mut lone = Cluster::start(Settings::new(1, 114)).await;
    lone.write().await;
    lone.stop(1).await;
    no_tasks().await;
    let mut cluster = Cluster::start(Settings::new(3, 111).with_snapshots()).await;
    for _ in 0..50 {
        cluster.write().await;
    }
    let leader = cluster.leader().await;
    let proposals: Vec<_> =
        (0..20).map(|_| tokio::spawn(cluster.propose(leader, cluster.fresh("last")))).collect();
    for node in [leader % 3 + 1, leader, (leader + 1) % 3 + 1] {
        cluster.stop(node).await;
    }
    for proposal in proposals {
        timeout(SECOND, proposal).await.expect("what is under way at a stop ends").unwrap().ok();
    }
    no_tasks().await;
    cluster.boot_all().await;
    cluster.settle().await;
    cluster.end().await;
    no_tasks().await;
}

async fn no_tasks() {
    let tasks = || Handle::current().metrics().num_alive_tasks();
    eventually("no task is left", 2 * SECOND, || (tasks() == 0).then_some(())).await;
}

/// Leadership goes where it is sent, stays where it is sent to its holder, and to nobody without a vote.
#[tokio::test(start_paused = true)]
async fn leadership_goes_where_it_is_sent() {
    let cluster = Cluster::start(Settings::new(3, 113)).await;
    let first = cluster.leader().await;
    let term = cluster.status(first).term;
    let hand_over = async |from: u64, to: u64| cluster.group(from).hand_over(Some(NodeId(to)), SECOND).await;
    hand_over(first, first).await.unwrap();
    assert!(matches!(hand_over(first, 9).await, Err(MemberError::Refused { .. })));
    sleep(3 * SECOND).await;
    let status = cluster.status(first);
    assert_eq!((status.role, status.term), (Role::Leader, term));
    let second = first % 3 + 1;
    hand_over(first, second).await.unwrap();
    assert_eq!(cluster.leader().await, second);
    assert!(hand_over(first, first).await.is_ok(), "who does not lead hands nothing over");
    assert_eq!(cluster.leader().await, second);
    cluster.settle().await;
}

/// Stopped and started again, all together, a cluster has lost nothing: also what was proposed last.
#[tokio::test(start_paused = true)]
async fn a_clean_stop_loses_nothing() {
    let mut cluster = Cluster::start(Settings::new(3, 112)).await;
    for _ in 0..3 {
        for _ in 0..10 {
            cluster.write().await;
        }
        for node in cluster.nodes() {
            cluster.stop(node).await;
        }
        cluster.boot_all().await;
        cluster.settle().await;
    }
}
