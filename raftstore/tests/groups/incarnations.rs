//! Replicas that were lost, with their node's disk or by being dropped, and those that come after them: nobody votes
//! or acknowledges in the name of one who is gone.

use crate::cluster::{AGREEMENT, Cluster, ELECTION, MS, SECOND, Settings, address_of, eventually};
use crate::journal::Journal;
use crate::membership::{Change, make, settled, welcome};
use crate::power::Death;
use crate::truth::{Truth, recorded};
use bytes::Bytes;
use proto::{GroupId, NodeId};
use raftstore::{Fatal, Group, Member, MemberError, Role, SimulatedDisk};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// How a replica is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    /// The node's disk is replaced by an empty one.
    Wiped,
    /// The node drops its replica, and opens another on the same disk.
    Dropped,
}

/// `node` runs again, with a replica that knows nothing.
async fn lose(cluster: &mut Cluster, node: u64, loss: Loss) {
    match loss {
        Loss::Wiped => {
            cluster.kill(node);
            cluster.wipe(node);
            cluster.boot(node).await.unwrap();
        }
        Loss::Dropped => {
            cluster.drop_replica(node).await;
            cluster.open_learner(node).await;
        }
    }
}

/// A cluster of three that `leader` leads, and the other two, in the order of their ids.
async fn led(seed: u64) -> (Cluster, u64, u64, u64) {
    let cluster = Cluster::start(Settings::new(3, seed)).await;
    cluster.write_all().await;
    let leader = cluster.leader().await;
    let others: Vec<u64> = (1..=3).filter(|&node| node != leader).collect();
    (cluster, leader, others[0], others[1])
}

/// A write that only the leader and one follower hold is not lost when the leader is down and that follower lost its
/// replica: the third, which never had it, asks the follower's node for its vote and is not given one. Were it given,
/// the two would be a majority that knows nothing of the write.
#[tokio::test(start_paused = true)]
async fn a_lost_replica_does_not_vote() {
    for (seed, loss) in [(0, Loss::Wiped), (1, Loss::Dropped), (2, Loss::Wiped), (3, Loss::Dropped)] {
        let (mut cluster, leader, lost, behind) = led(2400 + seed).await;
        cluster.isolate(behind);
        let ordinal = cluster.propose(leader, cluster.fresh("acknowledged")).await.unwrap();
        cluster.kill(leader);
        lose(&mut cluster, lost, loss).await;
        cluster.connect(behind);
        let asked = || cluster.node(behind).host.transport_stats().sent.pre_votes;
        let before = asked();
        sleep(3 * ELECTION).await;
        assert!(asked() > before, "it asks for votes");
        assert_eq!(cluster.leaders(), []);
        assert_eq!(cluster.len(lost), 0);
        // Even a candidate that asks nobody beforehand gets no vote: its restart begins the asking anew.
        cluster.restart(behind).await;
        sleep(2 * ELECTION).await;
        assert_eq!(cluster.leaders(), []);

        cluster.boot(leader).await.unwrap();
        cluster.leader_of_members(&[leader, behind]).await;
        assert_eq!(cluster.write().await, ordinal + 1);
        let former = Change::Add(lost, cluster.member(lost));
        let leads = cluster.leaders()[0];
        let refused = former.ask(cluster.group(leads).clone(), SECOND).await;
        assert_eq!(refused, Err(MemberError::Former { group: GroupId(1), node: NodeId(lost) }));
        make(&cluster, Change::Remove(lost)).await;
        welcome(&cluster, lost).await;
        settled(&cluster, &[1, 2, 3], &[]).await;
        // The new one is a voter like any other.
        cluster.kill(leader);
        cluster.write_all().await;
        cluster.boot(leader).await.unwrap();
        cluster.settle().await;
        cluster.end().await;
    }
}

/// A leader that still counts a lost replica as a voter is not acknowledged in its name: with the third cut off, it
/// commits nothing.
#[tokio::test(start_paused = true)]
async fn a_lost_replica_acknowledges_nothing() {
    for (seed, loss) in [(0, Loss::Wiped), (1, Loss::Dropped)] {
        let (mut cluster, leader, lost, away) = led(2410 + seed).await;
        cluster.isolate(away);
        lose(&mut cluster, lost, loss).await;
        let write = tokio::spawn(cluster.propose(leader, cluster.fresh("unheard")));
        sleep(2 * ELECTION).await;
        assert!(!write.is_finished(), "nobody but the leader holds it");
        assert_eq!(cluster.len(lost), 0);
        assert!(timeout(ELECTION, cluster.read(leader)).await.is_ok_and(|read| read.is_err()));
        cluster.connect(away);
        cluster.leader_of_members(&[leader, away]).await;
        drop(timeout(AGREEMENT, write).await.unwrap());
        make(&cluster, Change::Remove(lost)).await;
        welcome(&cluster, lost).await;
        cluster.settle().await;
        cluster.end().await;
    }
}

/// A replica that catches up passes by memberships in which its predecessor on the same node has a vote. It takes none
/// of them for its own: not even with one who was left behind at the same place, with whom its predecessor would be a
/// majority, does it found a second government.
#[tokio::test(start_paused = true)]
async fn a_successor_does_not_take_its_predecessors_vote() {
    for (seed, loss) in [(0, Loss::Wiped), (1, Loss::Dropped)] {
        let mut settings = Settings::new(3, 2420 + seed);
        settings.transport.append_bytes = 4 << 10;
        settings.transport.stream_window_bytes = 8 << 10;
        let mut cluster = Cluster::start(settings).await;
        cluster.write_all().await;
        let leader = cluster.leader().await;
        let (lost, left) = (leader % 3 + 1, (leader + 1) % 3 + 1);
        // `left` knows of no change of members at all, and of hardly anything else. It is replaced by n4.
        cluster.isolate(left);
        for number in 0..40 {
            let command = format!("{number}/{}", "x".repeat(3_000));
            cluster.propose(leader, command.into()).await.unwrap();
        }
        let count = cluster.write().await + 1;
        cluster.boot(4).await.unwrap();
        welcome(&cluster, 4).await;
        make(&cluster, Change::Remove(left)).await;
        // Then the other one loses its replica, and is out.
        cluster.kill(lost);
        make(&cluster, Change::Remove(lost)).await;
        for _ in 0..10 {
            cluster.write().await;
        }
        cluster.boot(lost).await.unwrap();
        lose(&mut cluster, lost, loss).await;
        cluster.rack.disk(lost).set_sync_delay(30 * MS);
        make(&cluster, Change::Add(lost, cluster.member(lost))).await;
        // In the midst of the catching up it finds itself alone with `left`.
        let on_the_way = || (cluster.len(lost) > 3 && cluster.len(lost) < count).then_some(());
        eventually("it is on its way", AGREEMENT, on_the_way).await;
        for member in [leader, 4] {
            cluster.rack.cut(lost, member);
            cluster.rack.cut(left, member);
        }
        cluster.connect(left);
        sleep(SECOND).await;
        let status = cluster.status(lost);
        assert!(
            status.voters.contains(&NodeId(lost)),
            "the members that it has met name its node: {status:?}"
        );
        assert!(cluster.len(lost) < count, "it has not got further");
        sleep(3 * ELECTION).await;
        let second = [lost, left].map(|node| (cluster.status(node).role, cluster.status(node).leader));
        assert!(second.iter().all(|(role, _)| *role != Role::Leader), "{second:?}");
        cluster.rack.disk(lost).set_sync_delay(Duration::ZERO);
        cluster.heal();
        make(&cluster, Change::Promote(lost)).await;
        cluster.kill(left);
        cluster.settle().await;
        cluster.end().await;
    }
}

/// A wiped node that is added again in a group whose leaders, too, are cut off and replaced all the while is never a
/// voice of the one that it was: whatever was acknowledged stays.
#[tokio::test(start_paused = true)]
async fn nodes_are_wiped_under_fire() {
    for seed in 0..crate::rounds(20, 3) {
        let mut cluster = Cluster::start(Settings::new(3, 2430 + seed)).await;
        cluster.write_all().await;
        cluster.rack.network.set_default_link(crate::persistence::unreliable());
        for round in 0..6 {
            let node = round % 3 + 1;
            let loss = if round % 2 == 0 { Loss::Wiped } else { Loss::Dropped };
            // Who was cut off comes back just when the other's memory is gone.
            let away = (round + 1) % 3 + 1;
            cluster.isolate(away);
            for _ in 0..5 {
                for up in [node, (round + 2) % 3 + 1] {
                    let write = cluster.propose(up, cluster.fresh("w"));
                    drop(timeout(Duration::from_millis(400), write).await);
                }
            }
            lose(&mut cluster, node, loss).await;
            cluster.heal();
            for up in cluster.up() {
                let write = cluster.propose(up, cluster.fresh("w"));
                drop(timeout(Duration::from_millis(400), write).await);
            }
            make(&cluster, Change::Remove(node)).await;
            welcome(&cluster, node).await;
            cluster.write().await;
            cluster.check();
        }
        cluster.rack.network.set_default_link(raftstore::Link::default());
        cluster.settle().await;
        cluster.end().await;
    }
}

/// What is left of a dropping that a crash cut short is nobody: the replica that is opened next begins with nothing, and
/// the group counts it as another.
#[tokio::test(start_paused = true)]
async fn a_dropping_cut_short_is_finished() {
    for at in 0..3 {
        let (mut cluster, leader, dropping, _) = led(2440 + at).await;
        cluster.write_all().await;
        cluster.rack.arm(at, raftstore::Effect::Done, &[dropping], &[dropping], 2);
        let host = cluster.node(dropping).host.clone();
        let dropped = timeout(ELECTION, host.drop_group(GroupId(1))).await;
        assert!(cluster.rack.blown(), "the power went in the midst of it: {dropped:?}");
        drop(host);
        cluster.rack.disarm();
        cluster.lay_out(dropping);
        cluster.open_as_learner_from_now_on(dropping);
        cluster.boot(dropping).await.unwrap();
        assert_eq!(cluster.len(dropping), 0);
        assert_eq!(cluster.node(dropping).host.stored_groups(), []);
        let leads = cluster.leader_of_members(&[leader]).await;
        let again = Change::Add(dropping, cluster.member(dropping));
        let refused = again.ask(cluster.group(leads).clone(), SECOND).await;
        assert!(matches!(refused, Err(MemberError::Former { .. })), "{refused:?}");
        make(&cluster, Change::Remove(dropping)).await;
        welcome(&cluster, dropping).await;
        cluster.settle().await;
        cluster.end().await;
    }
}

/// A group beside the cluster's own.
const EXTRA: GroupId = GroupId(7);

/// Opens [`EXTRA`] as a first member and gives it its members.
async fn found(
    cluster: &Cluster,
    node: u64,
    truth: &Arc<Truth>,
    members: &BTreeMap<NodeId, Member>,
) -> Result<Group<Journal>, Fatal> {
    let truth = truth.clone();
    let host = &cluster.node(node).host;
    let group = host.open_group(EXTRA, move || Journal::new(truth.clone())).await?;
    group.bootstrap_pinned(members).await?;
    Ok(group)
}

/// Has a command agreed on, whoever leads; returns its ordinal.
async fn write_to(groups: &[Group<Journal>], truth: &Arc<Truth>) -> u64 {
    let until = Instant::now() + AGREEMENT;
    for attempt in 0.. {
        assert!(Instant::now() < until, "nobody agreed on anything");
        for (at, group) in groups.iter().enumerate() {
            let command = Bytes::from(format!("w/{}/{attempt}/{at}", truth.len()));
            let proposed = recorded(truth.clone(), command.clone(), group.propose(command));
            if let Ok(Ok(ordinal)) = timeout(SECOND, proposed).await {
                return ordinal;
            }
        }
        sleep(10 * MS).await;
    }
    unreachable!("it ends by its deadline")
}

/// A group is made while the cluster runs, of nodes that were not among the cluster's first members as well, each of
/// which may come late or crash meanwhile.
#[tokio::test(start_paused = true)]
async fn a_group_is_made_while_the_cluster_runs() {
    let mut cluster = Cluster::start(Settings::new(3, 2450)).await;
    cluster.leader().await;
    cluster.boot(4).await.unwrap();
    let truth = Arc::new(Truth::default());
    let members: BTreeMap<NodeId, Member> = [2, 3, 4].map(|node| (NodeId(node), cluster.member(node))).into();
    let late = found(&cluster, 2, &truth, &members).await.unwrap();
    sleep(2 * ELECTION).await;
    assert_ne!(late.status().role, Role::Leader, "one of three");
    let second = found(&cluster, 4, &truth, &members).await.unwrap();
    assert_eq!(write_to(&[late.clone(), second.clone()], &truth).await, 0);
    drop(second);
    cluster.restart(4).await;
    let groups = [
        late,
        found(&cluster, 3, &truth, &members).await.unwrap(),
        found(&cluster, 4, &truth, &members).await.unwrap(),
    ];
    assert_eq!(write_to(&groups, &truth).await, 1);
    for group in &groups {
        group.wait_for_recovery(AGREEMENT).await.unwrap();
        assert_eq!(group.read_following(SECOND, Journal::len).await, Ok(2));
    }
    assert_eq!(groups[0].status().incarnations[&NodeId(4)], cluster.node(4).host.incarnation());
    truth.check();
    drop(groups);
    cluster.kill(4);
    cluster.end().await;
}

/// A first member whose disk is lost after its group was thought of, or in the group's first hours, is no first member
/// any more: it is refused, and the others go on without it.
#[tokio::test(start_paused = true)]
async fn a_wiped_first_member_is_refused() {
    for founded_before in [false, true] {
        let mut cluster = Cluster::start(Settings::new(3, 2460)).await;
        cluster.leader().await;
        let truth = Arc::new(Truth::default());
        let members: BTreeMap<NodeId, Member> =
            [1, 2, 3].map(|node| (NodeId(node), cluster.member(node))).into();
        let mut others = vec![found(&cluster, 1, &truth, &members).await.unwrap()];
        if founded_before {
            others.push(found(&cluster, 2, &truth, &members).await.unwrap());
            assert_eq!(write_to(&others, &truth).await, 0);
            others.pop();
        }
        cluster.kill(2);
        cluster.wipe(2);
        cluster.boot(2).await.unwrap();
        let refused = found(&cluster, 2, &truth, &members).await.err().expect("its disk is another");
        assert!(matches!(&refused, Fatal::Group { group: EXTRA, why } if why.contains("disk")), "{refused}");
        // It stays open, and silent: whatever the first member does alone, it agrees on nothing with this one.
        sleep(2 * ELECTION).await;
        let before = truth.len();
        others.push(found(&cluster, 3, &truth, &members).await.unwrap());
        let ordinal = write_to(&others, &truth).await;
        assert!(ordinal >= before, "{ordinal} of {before}");
        let host = cluster.node(2).host.clone();
        host.drop_group(EXTRA).await.unwrap();
        let learner = {
            let truth = truth.clone();
            host.open_learner(EXTRA, move || Journal::new(truth.clone())).await.unwrap()
        };
        for change in [Change::Remove(2), Change::Add(2, cluster.member(2)), Change::Promote(2)] {
            let mut made = false;
            while !made {
                for group in &others {
                    made |= change.clone().ask(group.clone(), AGREEMENT).await.is_ok();
                }
                sleep(10 * MS).await;
            }
        }
        let whole = || (learner.read_stale(Journal::len) > ordinal).then_some(());
        eventually("the new one has it all", AGREEMENT, whole).await;
        truth.check();
        drop((others, learner, host));
        cluster.end().await;
    }
}

/// A node whose disk is new says so when it forms, and may go on as somebody new: it is added to the groups that knew
/// its old disk once that one is removed.
#[tokio::test(start_paused = true)]
async fn a_wiped_first_member_of_the_cluster_comes_back() {
    let (mut cluster, _, wiped, _) = led(2470).await;
    cluster.kill_by(wiped, Death::Abrupt);
    cluster.rack.replace_disk(wiped, SimulatedDisk::new());
    cluster.boot(wiped).await.unwrap();
    let fatal = cluster.node(wiped).failure(ELECTION).await.expect("its disk is another");
    assert!(matches!(fatal, Fatal::Amnesia { .. }), "{fatal}");
    let before = cluster.node(wiped).host.incarnation();
    cluster.kill(wiped);
    cluster.open_as_learner_from_now_on(wiped);
    cluster.boot(wiped).await.unwrap();
    assert_eq!(cluster.node(wiped).host.incarnation(), before, "an incarnation lasts as long as the disk");
    assert_eq!(cluster.member(wiped).address, address_of(wiped));
    make(&cluster, Change::Remove(wiped)).await;
    welcome(&cluster, wiped).await;
    settled(&cluster, &[1, 2, 3], &[]).await;
    cluster.settle().await;
    cluster.kill_all();
    cluster.boot_all().await;
    cluster.leader().await;
    cluster.settle().await;
}
