//! What openraft and pipelined replication get wrong where one is not careful, one test each.

use crate::cluster::{AGREEMENT, Cluster, ELECTION, MS, SECOND, Settings, eventually};
use crate::journal::Journal;
use crate::persistence::unreliable;
use crate::power::host_name;
use bytes::Bytes;
use futures_util::future::join_all;
use raftstore::{Link, RaftConfig, Role, TransportConfig, random};
use rand::RngExt;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// A leader that restarts does not take up its old leadership: whoever leads next was elected in a later term.
#[tokio::test(start_paused = true)]
async fn a_restarted_leader_is_not_a_leader() {
    let mut cluster = Cluster::start(Settings::new(3, 50)).await;
    cluster.write_all().await;
    let leader = cluster.leader().await;
    let term = cluster.status(leader).term;
    cluster.kill_all();
    cluster.boot_all().await;
    let until = Instant::now() + ELECTION;
    let elected = loop {
        let leads = cluster.leaders();
        if let Some(&node) = leads.first() {
            break cluster.status(node).term;
        }
        assert!(Instant::now() < until);
        sleep(MS).await;
    };
    assert!(elected > term, "n{leader} led term {term}; the next leader leads {elected}");

    cluster.write_all().await;
    let leader = cluster.leader().await;
    let term = cluster.status(leader).term;
    cluster.kill(leader);
    cluster.boot(leader).await.unwrap();
    for _ in 0..2_000 {
        let status = cluster.status(leader);
        assert!(status.role != Role::Leader || status.term > term, "{status:?}");
        sleep(MS).await;
    }
    cluster.settle().await;
}

/// How far the log was committed survives a restart: a node that is alone after it shows what it had shown before,
/// but for the newest entries, and says that it has not recovered while any may be missing.
#[tokio::test(start_paused = true)]
async fn commit_marks_survive() {
    let mut cluster = Cluster::start(Settings::new(3, 51)).await;
    for _ in 0..20 {
        cluster.write_all().await;
    }
    cluster.kill_all();
    cluster.isolate(1);
    cluster.boot(1).await.unwrap();
    let shown = eventually("n1 applies what it knows to be committed", ELECTION, || {
        let count = cluster.len(1);
        (count >= 15).then_some(count)
    });
    let shown = shown.await;
    let status = cluster.status(1);
    assert!(!status.recovered || shown == 20, "{status:?}");
    cluster.boot_all().await;
    cluster.connect(1);
    cluster.group(1).wait_for_recovery(AGREEMENT).await.unwrap();
    assert!(cluster.len(1) >= 20);
    assert!(cluster.status(1).recovered);
    cluster.settle().await;
}

/// Once a replica says that it has recovered, a stale read on it does not go back behind what it showed before it
/// crashed: not even where it had shown entries that its own disk had not synced.
#[tokio::test(start_paused = true)]
async fn stale_reads_do_not_go_back_across_a_restart() {
    let mut forgotten = 0;
    for seed in 0..10 {
        let mut cluster = Cluster::start(Settings::new(3, 520 + seed)).await;
        cluster.write_all().await;
        let leader = cluster.leader().await;
        let slow = leader % 3 + 1;
        cluster.rack.disk(slow).set_sync_delay(Duration::from_millis(400));
        for _ in 0..5 {
            cluster.write().await;
            sleep(Duration::from_millis(random().random_range(0..300))).await;
        }
        let shown = cluster.len(slow);
        cluster.isolate(slow);
        cluster.kill(slow);
        cluster.boot(slow).await.unwrap();
        let recovered = |cluster: &Cluster| cluster.status(slow).recovered;
        for _ in 0..500 {
            assert!(!recovered(&cluster) || cluster.len(slow) >= shown, "seed {seed}: went back");
            sleep(MS).await;
        }
        forgotten += u64::from(cluster.status(slow).last_index < Some(shown));
        cluster.connect(slow);
        while !recovered(&cluster) {
            sleep(MS).await;
        }
        assert!(cluster.len(slow) >= shown, "seed {seed}: {} after {shown}", cluster.len(slow));
        cluster.settle().await;
        cluster.end().await;
    }
    assert!(forgotten > 0, "no disk ever forgot what its machine had shown");
}

/// A node that was cut off asks before it raises its term, and an unreachable peer's silence is no grant: the term
/// is the same when it comes back, on every node.
#[tokio::test(start_paused = true)]
async fn a_returning_node_does_not_raise_the_term() {
    let cluster = Cluster::start(Settings::new(3, 53)).await;
    cluster.write_all().await;
    let leader = cluster.leader().await;
    let term = cluster.status(leader).term;
    let away = leader % 3 + 1;
    cluster.isolate(away);
    sleep(20 * SECOND).await;
    assert_eq!(cluster.status(away).term, term, "alone it stands for nothing");
    cluster.write_all().await;
    cluster.connect(away);
    cluster.write_all().await;
    sleep(5 * SECOND).await;
    assert_eq!(cluster.leader().await, leader);
    assert_eq!(cluster.status(leader).term, term);
    cluster.settle().await;
}

/// A node that hears nothing from the leader, but is heard by all, does not depose it.
#[tokio::test(start_paused = true)]
async fn a_deaf_node_deposes_nobody() {
    let cluster = Cluster::start(Settings::new(3, 54)).await;
    cluster.write_all().await;
    let leader = cluster.leader().await;
    let term = cluster.status(leader).term;
    let deaf = leader % 3 + 1;
    cluster.rack.cut_one_way(leader, deaf);
    sleep(20 * SECOND).await;
    let status = cluster.status(leader);
    assert_eq!((status.role, status.term), (Role::Leader, term));
    cluster.heal();
    cluster.settle().await;
}

/// A leader that was replaced while it was cut off answers no read with old data: neither while it believes to
/// lead, nor at the moment when it is back.
#[tokio::test(start_paused = true)]
async fn a_replaced_leader_answers_no_read() {
    for away_ms in [0, 300, 700, 1_500, 10_000] {
        let cluster = Cluster::start(Settings::new(3, 55 + away_ms)).await;
        cluster.write_all().await;
        let old = cluster.leader().await;
        cluster.isolate(old);
        let lonely = tokio::spawn({
            let group = cluster.group(old).clone();
            async move { group.read(Journal::len).await }
        });
        cluster.leader().await;
        let written = cluster.write_all().await + 1;
        sleep(Duration::from_millis(away_ms)).await;
        let read = |node: u64| {
            let group = cluster.group(node).clone();
            async move { group.read_following(2 * SECOND, Journal::len).await }
        };
        let on_its_own = timeout(SECOND, read(old)).await;
        assert!(!matches!(on_its_own, Ok(Ok(_))), "{on_its_own:?}");
        let started = tokio::spawn(read(old));
        cluster.heal();
        let back = timeout(AGREEMENT, started).await.unwrap().unwrap();
        assert!(back.is_err() || back == Ok(written), "{back:?} after {written}");
        let lonely = timeout(AGREEMENT, lonely).await.unwrap().unwrap();
        assert!(lonely.is_err() || lonely == Ok(written), "began before the cut, ended after it: {lonely:?}");
        eventually("a follower's read is answered", AGREEMENT, || {
            (cluster.status(old).leader.is_some() && cluster.len(old) >= written).then_some(())
        })
        .await;
        assert_eq!(read(old).await, Ok(written));
        cluster.settle().await;
        cluster.end().await;
    }
}

/// An answer that was given before a read began, and was long on its way, does not confirm it, although more was sent
/// to the node that gave it since.
#[tokio::test(start_paused = true)]
async fn an_old_answer_confirms_no_read() {
    let settings = Settings::new(3, 61);
    let transport = TransportConfig {
        silence_timeout_ms: 60_000,
        progress_timeout_ms: 60_000,
        ..settings.transport.clone()
    };
    let cluster = Cluster::start(Settings { transport, ..settings }).await;
    cluster.write_all().await;
    let old = cluster.leader().await;
    sleep(SECOND).await;
    let began = Instant::now();
    let set_delay = |from: u64, to: u64, delay: Duration| {
        let link = Link { delay_min: delay, delay_max: delay, ..Link::default() };
        cluster.rack.network.set_link(&host_name(from), &host_name(to), link);
    };
    let others: Vec<u64> = cluster.nodes().into_iter().filter(|&node| node != old).collect();
    // Both have the entry at once. One's answer commits it at the old leader, which says so to the other, whose
    // answer to the entry comes then.
    set_delay(others[0], old, 5 * SECOND);
    set_delay(others[1], old, 5 * SECOND + 200 * MS);
    let last = tokio::spawn(cluster.propose(old, cluster.fresh("last")));
    sleep(10 * MS).await;
    for &other in &others {
        set_delay(other, old, 20 * SECOND);
        set_delay(old, other, 20 * SECOND);
    }
    let new =
        eventually("another leads", ELECTION, || cluster.leaders().into_iter().find(|&leader| leader != old));
    let new = new.await;
    cluster.propose(new, cluster.fresh("w")).await.unwrap();
    assert!(began.elapsed() < 4_900 * MS, "{:?}", began.elapsed());
    tokio::time::sleep_until(began + 4_900 * MS).await;
    assert_eq!(cluster.status(old).role, Role::Leader, "it knows of nothing yet");
    let read = timeout(SECOND, cluster.read(old)).await;
    assert!(last.is_finished(), "the first answer has committed the entry");
    assert!(!matches!(read, Ok(Ok(_))), "{read:?} without what was written at n{new}");
    for &other in &others {
        set_delay(other, old, Duration::ZERO);
        set_delay(old, other, Duration::ZERO);
    }
    sleep(20 * SECOND).await;
    cluster.settle().await;
}

/// While nodes are cut off, crash and come back, every linearizable read on any node shows all that was acknowledged
/// before it began.
#[tokio::test(start_paused = true)]
async fn reads_are_linearizable_under_churn() {
    for seed in 0..3 {
        let mut cluster = Cluster::start(Settings::new(3, 560 + seed)).await;
        cluster.leader().await;
        cluster.rack.network.set_default_link(unreliable());
        let mut answered = 0;
        for round in 0..60 {
            let mut writes = Vec::new();
            for node in cluster.up() {
                writes.push(tokio::spawn(cluster.propose(node, cluster.fresh("w"))));
            }
            let mut reads = Vec::new();
            for node in cluster.up() {
                let (group, truth) = (cluster.group(node).clone(), cluster.truth().clone());
                reads.push(tokio::spawn(async move {
                    sleep(Duration::from_millis(random().random_range(0..100))).await;
                    let before = truth.acknowledged_len();
                    let read = timeout(3 * SECOND, group.read_following(SECOND, Journal::len)).await;
                    let read = read.expect("a read ends soon after its deadline");
                    read.map(|count| (before, count, truth.len()))
                }));
            }
            match round % 6 {
                1 => cluster.isolate(cluster.leaders().first().copied().unwrap_or(1)),
                3 => cluster.heal(),
                4 => {
                    let node = random().random_range(1..=3);
                    cluster.restart(node).await;
                }
                _ => {}
            }
            for read in join_all(reads).await {
                if let Ok((before, count, after)) = read.unwrap() {
                    assert!(before <= count && count <= after, "read {count}, of {before} to {after}");
                    answered += 1;
                }
            }
        }
        assert!(answered > 10, "only {answered} reads were answered");
        cluster.heal();
        cluster.rack.network.set_default_link(Link::default());
        cluster.settle().await;
        cluster.end().await;
    }
}

/// What a stalled follower has been sent and has not acknowledged is bounded, while the others go on.
#[tokio::test(start_paused = true)]
async fn a_stalled_follower_holds_a_window_and_no_more() {
    let settings = Settings::new(3, 57);
    let transport = TransportConfig {
        window_bytes: 256 << 10,
        stream_window_bytes: 128 << 10,
        append_bytes: 64 << 10,
        ..settings.transport.clone()
    };
    let mut cluster = Cluster::start(Settings { transport, ..settings }).await;
    cluster.write_all().await;
    let leader = cluster.leader().await;
    let stalled = leader % 3 + 1;
    cluster.rack.disk(stalled).set_sync_delay(60 * SECOND);
    let link = || cluster.rack.network.counters(&host_name(leader), &host_name(stalled)).bytes;
    let (before, began) = (link(), Instant::now());
    let mut written = 0;
    for number in 0..40 {
        let command = Bytes::from(format!("large/{number}/{}", "x".repeat(50_000)));
        written += command.len() as u64;
        cluster.propose(leader, command).await.unwrap();
        sleep(50 * MS).await;
    }
    assert!(began.elapsed() < 4 * SECOND, "the stream has not been given up meanwhile");
    let sent = link() - before;
    assert!(written > 1_900_000);
    assert!(sent > 50_000, "it was sent something: {sent}");
    assert!(sent < (128 << 10) + (64 << 10) + 20_000, "it was sent {sent} of {written} bytes");
    cluster.rack.disk(stalled).set_sync_delay(Duration::ZERO);
    cluster.kill(stalled);
    cluster.boot(stalled).await.unwrap();
    cluster.settle().await;
}

/// An entry does not wait for the answer to the one before: with 20 ms on the way, commands that come every 5 ms
/// take one round trip each.
#[tokio::test(start_paused = true)]
async fn replication_is_pipelined() {
    let settings = Settings::new(3, 58);
    let raft = RaftConfig { entry_commands_max: 1, entries_in_flight_max: 64, ..settings.raft.clone() };
    let cluster = Cluster::start(Settings { raft, ..settings }).await;
    cluster.write_all().await;
    let leader = cluster.leader().await;
    let link = Link { delay_min: 20 * MS, delay_max: 20 * MS, ..Link::default() };
    cluster.rack.network.set_default_link(link);
    sleep(SECOND).await;
    let (began, count) = (Instant::now(), 60);
    let mut proposals = Vec::new();
    for _ in 0..count {
        let proposal = cluster.propose(leader, cluster.fresh("p"));
        proposals.push(tokio::spawn(async move {
            let began = Instant::now();
            proposal.await.map(|_| began.elapsed())
        }));
        sleep(5 * MS).await;
    }
    for proposal in proposals {
        let took = proposal.await.unwrap().unwrap();
        assert!(took >= 40 * MS, "a round trip cannot be outrun: {took:?}");
        assert!(took <= 60 * MS, "a command waited for another's answer: {took:?}");
    }
    assert!(began.elapsed() < count * 10 * MS, "{:?}", began.elapsed());
    cluster.settle().await;
}
