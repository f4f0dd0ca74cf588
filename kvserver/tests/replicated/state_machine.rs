//! The replicated state machine: what is submitted to it, and what its replicas make of that.

use crate::form::{rounds, seed_of};
use crate::replicas::{REPLICAS, Replicas, Told, examine};
use futures_util::future::join_all;
use raftstore::RaftConfig;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// How many submissions are under way at once where the row says so.
const MANY: u64 = 100;

/// Submissions to a minority end within this time after healing.
const HEALED: Duration = Duration::from_secs(1);

/// Submissions to replicas that are killed end within this time.
const KILLED: Duration = Duration::from_secs(11);

/// What all of these were told, within some time.
async fn all_told(submissions: Vec<JoinHandle<Told>>, within: Duration) -> Vec<Told> {
    let told = timeout(within, join_all(submissions)).await.expect("all submissions end");
    told.into_iter().map(Result::unwrap).collect()
}

/// Concurrent: fifty submissions at once each take effect once, and each is told of its own.
#[tokio::test(start_paused = true)]
async fn concurrent() {
    examine(RaftConfig::default(), 1, async |replicas| {
        let submissions = replicas.submissions(replicas.leader().await, 50);
        let told = all_told(submissions, Duration::from_secs(10)).await;
        assert!(told.iter().all(|(_, answer)| answer.is_ok()), "{told:?}");
        replicas.check(&told).await;
        assert_eq!(replicas.words().await.len(), 50);
    })
    .await;
}

/// LeaderPartition: a hundred submissions to a leader whose side is a minority never succeed, although the
/// majority goes on, and all of them end within a second of healing.
#[tokio::test(start_paused = true)]
async fn leader_partition() {
    examine(RaftConfig::default(), 2, async |replicas| {
        assert_eq!(replicas.increment().await, 1);
        let leader = replicas.leader().await;
        replicas.cut_off(&[leader, leader % REPLICAS + 1]);
        let submissions = replicas.submissions(leader, MANY);
        assert_eq!(replicas.increment().await, 2, "the majority goes on");
        replicas.heal();
        let told = all_told(submissions, HEALED).await;
        assert!(told.iter().all(|(_, answer)| answer.is_err()), "{told:?}");
        replicas.check(&told).await;
        assert_eq!(replicas.increment().await, 3, "what a minority was told is nowhere");
    })
    .await;
}

/// RestartReplay: after a hundred increments all replicas crash; the next increment is the hundred and first.
#[tokio::test(start_paused = true)]
async fn restart_replay() {
    examine(RaftConfig::default(), 3, async |replicas| {
        for count in 1..=100 {
            assert_eq!(replicas.increment().await, count);
        }
        replicas.crash_all().await;
        replicas.boot_all().await;
        assert_eq!(replicas.increment().await, 101);
    })
    .await;
}

/// Shutdown: a hundred outstanding submissions end within eleven seconds of the kill: of their leader that is
/// cut off from its quorum and stopped, and of all replicas by a loss of power.
#[tokio::test(start_paused = true)]
async fn shutdown() {
    examine(RaftConfig::default(), 4, async |replicas| {
        replicas.increment().await;
        let leader = replicas.leader().await;
        replicas.cut_off(&[leader]);
        let submissions = replicas.submissions(leader, MANY);
        sleep(Duration::from_millis(100)).await;
        assert!(submissions.iter().all(|submission| !submission.is_finished()), "nobody can answer them");
        let (told, ()) = tokio::join!(all_told(submissions, KILLED), replicas.stop(leader));
        replicas.heal();
        replicas.boot_all().await;
        replicas.check(&told).await;

        let submissions = replicas.submissions(replicas.leader().await, MANY);
        sleep(Duration::from_millis(1)).await;
        assert!(submissions.iter().any(|submission| !submission.is_finished()), "some are outstanding");
        let (told, ()) = tokio::join!(all_told(submissions, KILLED), replicas.crash_all());
        replicas.boot_all().await;
        replicas.check(&told).await;
    })
    .await;
}

/// RestartSubmit: submissions from before a crash of all replicas and those from after it are not confused:
/// each that is answered is told of its own. Thirty rounds in full, five by default.
#[tokio::test(start_paused = true)]
async fn restart_submit() {
    examine(RaftConfig::default(), 5, async |replicas| {
        let mut dice = StdRng::seed_from_u64(seed_of(5));
        let (mut told, mut unanswered) = (Vec::new(), 0);
        for _ in 0..rounds(30, 5) {
            let old = replicas.submissions(replicas.leader().await, MANY);
            sleep(Duration::from_millis(dice.random_range(0..10))).await;
            let (old, ()) = tokio::join!(all_told(old, KILLED), replicas.crash_all());
            replicas.boot_all().await;
            let new = replicas.submissions(replicas.leader().await, MANY);
            let new = all_told(new, KILLED).await;
            assert!(new.iter().all(|(_, answer)| answer.is_ok()), "{new:?}");
            unanswered += old.iter().filter(|(_, answer)| answer.is_err()).count();
            told.extend(old);
            told.extend(new);
        }
        assert!(unanswered > 0, "no crash came before all was answered");
        replicas.check(&told).await;
    })
    .await;
}

/// The longest of all logs, in bytes.
fn longest_log(replicas: &Replicas) -> u64 {
    replicas.statuses().into_iter().map(|status| status.log_bytes).max().unwrap_or_default()
}

/// Snapshot: while increments follow each other, no log takes more than twice what makes a snapshot due; a
/// crash of all replicas, whose logs no longer hold everything, loses none of them.
#[tokio::test(start_paused = true)]
async fn snapshot() {
    const DUE_BYTES: u64 = 4_000;
    let raft = RaftConfig { snapshot_log_bytes_min: DUE_BYTES, log_bytes_kept: 0, ..RaftConfig::default() };
    examine(raft, 6, async |replicas| {
        let (increments, mut longest) = (200, 0);
        for count in 1..=increments {
            assert_eq!(replicas.increment().await, count);
            longest = longest.max(longest_log(replicas));
            sleep(Duration::from_millis(10)).await;
        }
        for status in replicas.statuses() {
            assert!(status.snapshot_index.is_some(), "{status:?}");
        }
        replicas.crash_all().await;
        replicas.boot_all().await;
        assert_eq!(replicas.increment().await, increments + 1);
        longest = longest.max(longest_log(replicas));
        println!("the longest log took {longest} bytes");
        assert!(longest <= 2 * DUE_BYTES, "the longest log took {longest} bytes");
    })
    .await;
}
