//! Agreement: what is committed, by whom, at what cost, and what becomes of entries that were not.

use crate::cluster::{AGREEMENT, Cluster, MS, SECOND, Settings, without_effect};
use crate::power::host_name;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::join_all;
use raftstore::{ProposeError, RaftConfig};
use tokio::time::{sleep, timeout};

/// One command an entry, and many entries under way: what the rows about divergent logs are about.
fn one_by_one(nodes: u64, seed: u64) -> Settings {
    let settings = Settings::new(nodes, seed);
    let raft = RaftConfig { entry_commands_max: 1, entries_in_flight_max: 64, ..settings.raft.clone() };
    Settings { raft, ..settings }
}

/// Commands get consecutive ordinals, and every replica applies each at its ordinal.
#[tokio::test(start_paused = true)]
async fn basic_agree() {
    let cluster = Cluster::start(Settings::new(5, 10)).await;
    cluster.leader().await;
    for ordinal in 0..3 {
        assert_eq!(cluster.write_all().await, ordinal);
    }
    cluster.settle().await;
}

/// Ten commands of 5 kB go over the wire once for each follower, and little else does.
#[tokio::test(start_paused = true)]
async fn rpc_bytes() {
    let cluster = Cluster::start(Settings::new(3, 11)).await;
    cluster.leader().await;
    cluster.write_all().await;
    let total = || {
        let pairs = [(1, 2), (1, 3), (2, 1), (2, 3), (3, 1), (3, 2)];
        let bytes =
            |(from, to): (u64, u64)| cluster.rack.network.counters(&host_name(from), &host_name(to)).bytes;
        pairs.into_iter().map(bytes).sum::<u64>()
    };
    let before = total();
    let leader = cluster.leader().await;
    let mut payload = 0;
    for number in 0..10 {
        let command = Bytes::from(format!("large/{number}/{}", "x".repeat(5_000)));
        payload += command.len() as u64;
        let ordinal = cluster.propose(leader, command).await.unwrap();
        cluster.applied(&[1, 2, 3], ordinal + 1, AGREEMENT).await;
    }
    let sent = total() - before;
    assert!(sent >= 2 * payload, "both followers are sent {payload} bytes, in {sent}");
    assert!(sent <= 3 * payload + 50_000, "{payload} bytes of commands took {sent} bytes");
    cluster.check();
}

/// The group goes on without one follower; without both nothing commits.
#[tokio::test(start_paused = true)]
async fn follower_failure() {
    let cluster = Cluster::start(Settings::new(3, 12)).await;
    cluster.write_all().await;
    let leader = cluster.leader().await;
    let followers: Vec<u64> = cluster.nodes().into_iter().filter(|&node| node != leader).collect();
    cluster.isolate(followers[0]);
    cluster.write_all().await;
    sleep(2 * SECOND).await;
    assert_eq!(cluster.leader().await, leader);
    cluster.write_all().await;
    cluster.isolate(followers[1]);
    no_commit(&cluster, leader).await;
    cluster.heal();
    cluster.settle().await;
}

/// A second leader takes over from the first; when it is lost too, nothing commits, on any node.
#[tokio::test(start_paused = true)]
async fn leader_failure() {
    let cluster = Cluster::start(Settings::new(3, 13)).await;
    cluster.write_all().await;
    let first = cluster.leader().await;
    cluster.isolate(first);
    cluster.write_all().await;
    let second = cluster.leader().await;
    cluster.isolate(second);
    for node in cluster.nodes() {
        no_commit(&cluster, node).await;
    }
    cluster.heal();
    cluster.settle().await;
}

/// Nothing that is proposed on `node` commits within two seconds.
async fn no_commit(cluster: &Cluster, node: u64) {
    let before = cluster.truth().len();
    let told = timeout(2 * SECOND, cluster.propose(node, cluster.fresh("minority"))).await;
    assert!(!matches!(told, Ok(Ok(_))), "n{node} has no majority: {told:?}");
    assert_eq!(cluster.truth().len(), before);
}

/// A follower that was cut off catches up when it is back, and goes on with the others.
#[tokio::test(start_paused = true)]
async fn fail_agree() {
    let cluster = Cluster::start(Settings::new(3, 14)).await;
    cluster.write_all().await;
    let leader = cluster.leader().await;
    let follower = leader % 3 + 1;
    cluster.isolate(follower);
    for pause in [0, 1, 0, 1] {
        sleep(pause * SECOND).await;
        cluster.write_all().await;
    }
    cluster.connect(follower);
    cluster.write_all().await;
    sleep(SECOND).await;
    cluster.write_all().await;
    assert_eq!(cluster.len(follower), 7);
    cluster.settle().await;
}

/// With three of five gone nothing commits; when they are back the group goes on, with one order of commands.
#[tokio::test(start_paused = true)]
async fn fail_no_agree() {
    let cluster = Cluster::start(Settings::new(5, 15)).await;
    cluster.write_all().await;
    let leader = cluster.leader().await;
    let gone: Vec<u64> = cluster.nodes().into_iter().filter(|&node| node != leader).take(3).collect();
    gone.iter().for_each(|&node| cluster.isolate(node));
    no_commit(&cluster, leader).await;
    gone.iter().for_each(|&node| cluster.connect(node));
    cluster.leader().await;
    cluster.write_all().await;
    cluster.write_all().await;
    cluster.settle().await;
}

/// Five commands proposed at once all commit, each once.
#[tokio::test(start_paused = true)]
async fn concurrent_starts() {
    let cluster = Cluster::start(Settings::new(3, 16)).await;
    let leader = cluster.leader().await;
    let proposals = (0..5).map(|_| cluster.propose(leader, cluster.fresh("c")));
    let mut ordinals: Vec<u64> = join_all(proposals).await.into_iter().map(Result::unwrap).collect();
    ordinals.sort_unstable();
    assert_eq!(ordinals, [0, 1, 2, 3, 4]);
    cluster.settle().await;
}

/// Entries that a cut-off leader took are overwritten when it rejoins: whoever proposed them hears that the outcome
/// is unknown, never that there was none, and never that it was done.
#[tokio::test(start_paused = true)]
async fn rejoin() {
    let cluster = Cluster::start(one_by_one(3, 17)).await;
    cluster.write_all().await;
    let first = cluster.leader().await;
    cluster.isolate(first);
    let lost: Vec<Bytes> = (0..3).map(|_| cluster.fresh("lost")).collect();
    let stranded: Vec<_> =
        lost.iter().map(|command| tokio::spawn(cluster.propose(first, command.clone()))).collect();
    cluster.write_all().await;
    let second = cluster.leader().await;
    assert_ne!(first, second);
    cluster.isolate(second);
    cluster.connect(first);
    cluster.write_all().await;
    cluster.connect(second);
    cluster.write_all().await;
    for proposal in stranded {
        let told = timeout(AGREEMENT, proposal).await.unwrap().unwrap();
        assert!(matches!(told, Err(raftstore::ProposeError::Unknown { .. })), "{told:?}");
    }
    assert!(lost.iter().all(|command| !cluster.truth().holds(command)), "no quorum ever held them");
    cluster.settle().await;
}

/// Of five replicas, minorities gather runs of fifty entries that nobody else has; reunited, the logs are brought
/// together within the time that an agreement may take.
#[tokio::test(start_paused = true)]
async fn backup() {
    let cluster = Cluster::start(one_by_one(5, 18)).await;
    cluster.write_all().await;
    let mut stranded = Vec::new();
    let mut strand = |node: u64| {
        let run = (0..50).map(|_| tokio::spawn(cluster.propose(node, cluster.fresh("stranded"))));
        stranded.extend(run);
    };
    let fifty = async || {
        for _ in 0..50 {
            cluster.write().await;
        }
    };

    let first = cluster.leader().await;
    let companion = first % 5 + 1;
    cluster.split(&[first, companion]);
    strand(first);
    sleep(500 * MS).await;
    let second = cluster.leader().await;
    fifty().await;

    // Of the three that agreed, the leader and one more lose the third; the first two come back to it.
    let third = cluster.nodes().into_iter().find(|node| ![first, companion, second].contains(node)).unwrap();
    cluster.isolate(third);
    strand(second);
    sleep(500 * MS).await;
    cluster.heal();
    let partner =
        cluster.nodes().into_iter().find(|node| ![first, companion, second, third].contains(node)).unwrap();
    cluster.split(&[second, partner]);
    cluster.leader().await;
    fifty().await;

    cluster.heal();
    cluster.write_all().await;
    for proposal in stranded {
        timeout(AGREEMENT, proposal).await.expect("every proposal ends once all are back").unwrap().ok();
    }
    cluster.settle().await;
}

/// Calls between nodes are few: an election takes at most 30, ten entries at most 42, an idle second at most 60.
#[tokio::test(start_paused = true)]
async fn count() {
    let cluster = Cluster::start(Settings::new(3, 19)).await;
    let calls = || {
        let sent = cluster.nodes().into_iter().map(|node| {
            let sent = cluster.node(node).host.transport_stats().sent;
            sent.appends
                + sent.heartbeats
                + sent.votes
                + sent.pre_votes
                + sent.transfers
                + sent.snapshots
                + sent.snapshot_pieces
        });
        sent.sum::<u64>()
    };
    let leader = cluster.leader().await;
    let election = calls();
    assert!((1..=30).contains(&election), "an election took {election} calls");

    cluster.write_all().await;
    let before = calls();
    let proposals = (0..10).map(|_| cluster.propose(leader, cluster.fresh("c")));
    let told = join_all(proposals).await;
    assert!(told.iter().all(Result::is_ok), "{told:?}");
    cluster.applied(&cluster.nodes(), 11, AGREEMENT).await;
    let entries = calls() - before;
    assert!((2..=42).contains(&entries), "ten entries took {entries} calls");

    let before = calls();
    sleep(SECOND).await;
    let idle = calls() - before;
    assert!((2..=60).contains(&idle), "an idle second took {idle} calls");
    cluster.check();
}

/// A refusal without effect is one: nothing that a follower, or a leader whose lease has run out, refuses is in any
/// log afterwards.
#[tokio::test(start_paused = true)]
async fn refusals_have_no_effect() {
    let cluster = Cluster::start(Settings::new(3, 20)).await;
    cluster.write_all().await;
    let leader = cluster.leader().await;
    let follower = leader % 3 + 1;
    let told = cluster.propose(follower, cluster.fresh("follower")).await;
    assert!(without_effect(&told), "{told:?}");
    cluster.isolate(leader);
    sleep(3 * SECOND).await;
    let told = cluster.propose(leader, cluster.fresh("expired")).await;
    assert!(without_effect(&told), "the lease has run out: {told:?}");
    cluster.heal();
    cluster.settle().await;
    assert!(cluster.truth().refused() >= 2);
}

/// A command whose proposer has left before its turn came is not proposed: it would take the place of one that
/// somebody waits for.
#[tokio::test(start_paused = true)]
async fn what_nobody_waits_for_is_not_proposed() {
    let mut settings = one_by_one(3, 33);
    settings.raft.entries_in_flight_max = 1;
    let cluster = Cluster::start(settings).await;
    cluster.write_all().await;
    let leader = cluster.leader().await;
    cluster.isolate(leader);
    let [first, left, last] = ["first", "left", "last"].map(|writer| cluster.fresh(writer));
    let first = tokio::spawn(cluster.propose(leader, first));
    tokio::task::yield_now().await;
    let leaves = timeout(10 * MS, cluster.group(leader).propose(left.clone())).await;
    assert!(leaves.is_err(), "it waits behind the first");
    let last = tokio::spawn(cluster.propose(leader, last));
    cluster.connect(leader);
    first.await.unwrap().unwrap();
    last.await.unwrap().unwrap();
    assert!(!cluster.truth().holds(&left));
    cluster.settle().await;
}

/// Commands that are proposed together share entries, as many as one can carry, and each is answered in its place. One
/// that is too large is refused alone.
#[tokio::test(start_paused = true)]
async fn what_is_proposed_together_shares_entries() {
    let mut settings = Settings::new(3, 34);
    settings.raft.entry_commands_max = 4;
    settings.raft.command_bytes_max = 64;
    let cluster = Cluster::start(settings).await;
    cluster.write_all().await;
    let group = cluster.group(cluster.leader().await);
    let before = group.status().last_index;
    let mut commands: Vec<Bytes> = (0..10).map(|_| cluster.fresh("together")).collect();
    commands.insert(3, Bytes::from(vec![b'x'; 65]));
    let mut answers: Vec<_> = group.propose_all(commands.clone()).collect().await;
    answers.sort_by_key(|(place, _)| *place);
    assert_eq!(answers.iter().map(|(place, _)| *place).collect::<Vec<_>>(), (0..11).collect::<Vec<_>>());
    let (_, too_large) = answers.remove(3);
    assert!(matches!(too_large, Err(ProposeError::TooLarge { bytes: 65, bytes_max: 64 })), "{too_large:?}");
    assert!(!cluster.truth().holds(&commands.remove(3)));
    let ordinals: Vec<Bytes> = answers.into_iter().map(|(_, answer)| answer.unwrap()).collect();
    assert!(
        ordinals.is_sorted() && commands.iter().all(|command| cluster.truth().holds(command)),
        "{ordinals:?}"
    );
    assert_eq!(group.status().last_index, before.map(|index| index + 3), "ten commands, four in an entry");
    cluster.settle().await;
}

/// Of commands that are proposed together as many wait as there is room for; the others are refused.
#[tokio::test(start_paused = true)]
async fn what_has_no_room_to_wait_is_refused() {
    let mut settings = Settings::new(3, 35);
    settings.raft.entries_in_flight_max = 1;
    settings.raft.entry_commands_max = 8;
    settings.raft.proposals_waiting_max = 4;
    let cluster = Cluster::start(settings).await;
    cluster.write_all().await;
    let leader = cluster.leader().await;
    cluster.isolate(leader);
    let [first, waiting] = ["first", "waiting"].map(|writer| cluster.fresh(writer));
    let first = tokio::spawn(cluster.propose(leader, first));
    sleep(MS).await;
    let waiting = tokio::spawn(cluster.propose(leader, waiting));
    sleep(MS).await;
    let commands: Vec<Bytes> = (0..4).map(|_| cluster.fresh("together")).collect();
    let group = cluster.group(leader);
    let proposed = group.propose_all(commands.clone()).collect::<Vec<_>>();
    let reconnect = async {
        sleep(MS).await;
        cluster.connect(leader);
    };
    let (answers, ()) = tokio::join!(proposed, reconnect);
    first.await.unwrap().unwrap();
    waiting.await.unwrap().unwrap();
    for (place, answer) in answers {
        let refused = matches!(answer, Err(ProposeError::Overloaded(_)));
        assert_eq!((place == 3, refused), (refused, !cluster.truth().holds(&commands[place])), "{answer:?}");
    }
    cluster.settle().await;
}
