//! Members that come and go: how they are added, given a vote and removed, and what does not happen meanwhile.

use crate::cluster::{AGREEMENT, Cluster, ELECTION, MS, SECOND, Settings, address_of, eventually};
use crate::journal::Journal;
use crate::persistence::unreliable;
use crate::power::{Death, host_name};
use crate::rounds;
use crate::snapshots::write_until_purged;
use futures_util::future::join_all;
use proto::{GroupId, NodeId};
use raftstore::{Address, Group, GroupStatus, HostConfig, Link, Member, MemberError, Role, random};
use rand::RngExt;
use rand::seq::IteratorRandom;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// A change as whoever drives a group asks for it.
#[derive(Clone, Debug)]
pub enum Change {
    Add(u64, Member),
    Promote(u64),
    Remove(u64),
}

impl Change {
    pub async fn ask(self, group: Group<Journal>, deadline: Duration) -> Result<(), MemberError> {
        match self {
            Self::Add(node, member) => group.add_learner(NodeId(node), &member, deadline).await,
            Self::Promote(node) => group.promote(NodeId(node), deadline).await,
            Self::Remove(node) => group.remove(NodeId(node), deadline).await,
        }
    }
}

/// Asks whoever leads for a change, again and again until it is made.
pub async fn make(cluster: &Cluster, change: Change) {
    let until = Instant::now() + 3 * AGREEMENT;
    loop {
        for node in cluster.leaders() {
            match change.clone().ask(cluster.group(node).clone(), 5 * SECOND).await {
                Ok(()) => return,
                Err(error) => assert!(Instant::now() < until, "{change:?}: {error}"),
            }
        }
        assert!(Instant::now() < until, "nobody made {change:?}");
        sleep(10 * MS).await;
    }
}

/// Makes a node that runs a member with a vote.
pub async fn welcome(cluster: &Cluster, node: u64) {
    make(cluster, Change::Add(node, cluster.member(node))).await;
    make(cluster, Change::Promote(node)).await;
}

fn ids(nodes: &[u64]) -> Vec<NodeId> {
    nodes.iter().copied().map(NodeId).collect()
}

/// Waits until the leader's members are these and agreed on.
pub async fn settled(cluster: &Cluster, voters: &[u64], learners: &[u64]) -> GroupStatus {
    let as_wanted = || {
        let status = cluster.status(*cluster.leaders().first()?);
        let so = status.voters == ids(voters) && status.learners == ids(learners);
        (so && status.settled && !status.joint).then_some(status)
    };
    eventually(&format!("voters {voters:?}, learners {learners:?}"), AGREEMENT, as_wanted).await
}

/// A learner catches up, by log or by snapshot, without a vote; promoted, it has one. Whatever was done already is no
/// error when it is said again, also to a successor.
#[tokio::test(start_paused = true)]
async fn a_learner_catches_up_and_gets_a_vote() {
    for by_snapshot in [false, true] {
        let settings = Settings::new(3, 200);
        let mut cluster =
            Cluster::start(if by_snapshot { settings.with_snapshots() } else { settings }).await;
        for _ in 0..50 {
            cluster.write().await;
        }
        if by_snapshot {
            write_until_purged(&cluster, &[1, 2, 3], Some(20)).await;
        }
        cluster.boot(4).await.unwrap();
        make(&cluster, Change::Add(4, cluster.member(4))).await;
        let status = settled(&cluster, &[1, 2, 3], &[4]).await;
        assert_eq!(status.incarnations[&NodeId(4)], cluster.node(4).host.incarnation());
        assert_eq!(status.members[&NodeId(4)], address_of(4));
        let count = cluster.write().await + 1;
        cluster.applied(&[4], count, AGREEMENT).await;
        assert_eq!(cluster.status(4).role, Role::Learner);
        assert_eq!(cluster.status(4).snapshot_index.is_some(), by_snapshot);

        make(&cluster, Change::Promote(4)).await;
        settled(&cluster, &[1, 2, 3, 4], &[]).await;
        let leader = cluster.leader().await;
        let at = cluster.status(leader).membership_index;
        let next = leader % 4 + 1;
        cluster.group(leader).hand_over(Some(NodeId(next)), SECOND).await.unwrap();
        assert_eq!(cluster.leader().await, next);
        for change in [Change::Add(4, cluster.member(4)), Change::Promote(4), Change::Remove(5)] {
            change.ask(cluster.group(next).clone(), SECOND).await.unwrap();
        }
        assert_eq!(cluster.status(next).membership_index, at, "nothing was to be done");

        // Two of the old three are not a majority any more, and three of four are.
        cluster.kill(1);
        let leader = cluster.leader().await;
        cluster.write_all().await;
        cluster.kill(leader);
        sleep(ELECTION).await;
        assert_eq!(cluster.leaders(), []);
        cluster.boot(1).await.unwrap();
        cluster.boot(leader).await.unwrap();
        cluster.leader().await;
        cluster.settle().await;
        cluster.end().await;
    }
}

/// A change that cannot be made is refused by name, and nothing happens.
#[tokio::test(start_paused = true)]
async fn refusals_have_names() {
    let mut cluster = Cluster::start(Settings::new(3, 201)).await;
    cluster.write_all().await;
    let leader = cluster.leader().await;
    let follower = leader % 3 + 1;
    let at = cluster.status(leader).membership_index;
    let ask = async |node: u64, change: Change| change.ask(cluster.group(node).clone(), SECOND).await;
    let nobody = Member { address: address_of(4), ..Member::default() };

    let answer = ask(follower, Change::Remove(leader)).await;
    let known = Some(NodeId(leader));
    assert!(matches!(answer, Err(MemberError::NotLeader { leader, .. }) if leader == known), "{answer:?}");
    let answer = ask(leader, Change::Add(4, nobody.clone())).await;
    assert!(matches!(answer, Err(MemberError::NotReady { node: NodeId(4), .. })), "{answer:?}");
    let answer = ask(leader, Change::Promote(4)).await;
    assert!(matches!(answer, Err(MemberError::Refused { .. })), "{answer:?}");
    let elsewhere = Member { address: address_of(5), ..cluster.member(follower) };
    // It is found where it is, and not where it is said to be.
    let answer = ask(leader, Change::Add(follower, elsewhere)).await;
    assert!(matches!(answer, Err(MemberError::Refused { .. })), "{answer:?}");
    let none = cluster.group(leader).change_voters(&BTreeSet::new(), SECOND).await;
    assert_eq!(none, Err(MemberError::NoVoter(GroupId(1))));

    cluster.boot(4).await.unwrap();
    let another_disk = Member { incarnation: cluster.node(1).host.incarnation(), ..nobody };
    let answer = Change::Add(4, another_disk).ask(cluster.group(leader).clone(), SECOND).await;
    assert!(matches!(answer, Err(MemberError::NotReady { node: NodeId(4), .. })), "{answer:?}");
    assert_eq!(cluster.status(leader).membership_index, at);

    // Without one of the two followers the rest would need both of themselves: then one more cannot go.
    cluster.kill(follower);
    sleep(2 * SECOND).await;
    let alone: BTreeSet<NodeId> = [NodeId(leader), NodeId(follower)].into();
    let answer = cluster.group(leader).change_voters(&alone, SECOND).await;
    assert_eq!(answer, Err(MemberError::NoQuorum(GroupId(1))));
    assert_eq!(cluster.status(leader).membership_index, at);
    cluster.boot(follower).await.unwrap();
    cluster.kill(4);
    cluster.settle().await;
}

/// A learner that lags is not given a vote, also where it holds all that there is but does not answer; once it has
/// caught up, it is.
#[tokio::test(start_paused = true)]
async fn a_learner_that_lags_gets_no_vote() {
    let mut cluster = Cluster::start(Settings::new(3, 202)).await;
    cluster.boot(4).await.unwrap();
    make(&cluster, Change::Add(4, cluster.member(4))).await;
    let count = cluster.write().await + 1;
    cluster.applied(&[4], count, AGREEMENT).await;
    cluster.isolate(4);
    sleep(2 * SECOND).await;
    let leader = cluster.leaders()[0];
    let promote = async |deadline| cluster.group(leader).promote(NodeId(4), deadline).await;
    let silent = promote(SECOND).await;
    assert!(matches!(silent, Err(MemberError::NotCaughtUp { node: NodeId(4), .. })), "{silent:?}");
    for _ in 0..200 {
        cluster.propose(leader, cluster.fresh("w")).await.unwrap();
    }
    let behind = promote(SECOND).await;
    assert!(matches!(behind, Err(MemberError::NotCaughtUp { node: NodeId(4), .. })), "{behind:?}");
    settled(&cluster, &[1, 2, 3], &[4]).await;
    let waits = promote(20 * SECOND);
    let reconnects = async {
        sleep(5 * SECOND).await;
        cluster.connect(4);
    };
    let (promoted, ()) = tokio::join!(waits, reconnects);
    promoted.unwrap();
    settled(&cluster, &[1, 2, 3, 4], &[]).await;
    cluster.settle().await;
}

/// Of two changes at once one is refused, and the other is made.
#[tokio::test(start_paused = true)]
async fn changes_are_made_one_at_a_time() {
    let mut cluster = Cluster::start(Settings::new(3, 203)).await;
    cluster.boot(4).await.unwrap();
    cluster.boot(5).await.unwrap();
    cluster.write().await;
    let leader = cluster.leader_of_members(&[1, 2, 3]).await;
    let ask = |change: Change| change.ask(cluster.group(leader).clone(), 5 * SECOND);
    let (one, other) =
        tokio::join!(ask(Change::Add(4, cluster.member(4))), ask(Change::Add(5, cluster.member(5))));
    assert_eq!((one, other), (Ok(()), Err(MemberError::UnderWay(GroupId(1)))));
    settled(&cluster, &[1, 2, 3], &[4]).await;
    make(&cluster, Change::Add(5, cluster.member(5))).await;
    make(&cluster, Change::Promote(4)).await;
    make(&cluster, Change::Promote(5)).await;
    settled(&cluster, &[1, 2, 3, 4, 5], &[]).await;
    cluster.settle().await;
}

/// A leader that is to remove itself hands over first and says who leads; the successor removes it, and a writer waits
/// for no election.
#[tokio::test(start_paused = true)]
async fn a_leader_is_removed() {
    for seed in 0..3 {
        let mut cluster = Cluster::start(Settings::new(3, 2040 + seed)).await;
        cluster.write_all().await;
        let leader = cluster.leader().await;
        let asked = Change::Remove(leader).ask(cluster.group(leader).clone(), 5 * SECOND).await;
        let Err(MemberError::NotLeader { leader: Some(NodeId(next)), .. }) = asked else {
            panic!("it names its successor: {asked:?}")
        };
        assert_ne!(next, leader);
        let began = Instant::now();
        let (removed, _) = tokio::join!(make(&cluster, Change::Remove(leader)), cluster.write());
        assert_eq!(removed, ());
        assert!(began.elapsed() < 450 * MS, "nobody waited for an election: {:?}", began.elapsed());
        let others: Vec<u64> = [1, 2, 3].into_iter().filter(|&node| node != leader).collect();
        settled(&cluster, &others, &[]).await;
        cluster.kill(leader);
        cluster.settle().await;
        cluster.end().await;
    }
}

/// A group of one moves to another node altogether: the only voter is replaced, and leads no more.
#[tokio::test(start_paused = true)]
async fn the_only_voter_is_replaced() {
    let mut cluster = Cluster::start(Settings::new(1, 205)).await;
    cluster.write().await;
    cluster.boot(2).await.unwrap();
    make(&cluster, Change::Add(2, cluster.member(2))).await;
    let alone: BTreeSet<NodeId> = [NodeId(2)].into();
    cluster.group(1).change_voters(&alone, AGREEMENT).await.unwrap();
    eventually("the new one leads", ELECTION, || (cluster.leaders() == [2]).then_some(())).await;
    settled(&cluster, &[2], &[]).await;
    cluster.kill(1);
    cluster.settle().await;
}

/// A replica that was removed and not told disturbs nobody, neither while the leader lives nor when it dies: no term
/// rises because of it, and it is never elected.
#[tokio::test(start_paused = true)]
async fn a_removed_replica_disturbs_nobody() {
    for seed in 0..3 {
        let mut cluster = Cluster::start(Settings::new(4, 2060 + seed)).await;
        cluster.write_all().await;
        let leader = cluster.leader().await;
        let out = leader % 4 + 1;
        make(&cluster, Change::Remove(out)).await;
        let term = cluster.status(leader).term;
        for _ in 0..20 {
            sleep(SECOND).await;
            cluster.write().await;
        }
        assert_eq!((cluster.leaders(), cluster.status(leader).term), (vec![leader], term));
        cluster.kill(leader);
        let next = eventually("another leads", ELECTION, || cluster.leaders().first().copied()).await;
        assert_ne!(next, out);
        assert!(cluster.status(next).term <= term + 2, "{:?}", cluster.status(next));
        let term = cluster.status(next).term;
        sleep(10 * SECOND).await;
        assert_eq!((cluster.leaders(), cluster.status(next).term), (vec![next], term));
        cluster.kill(out);
        cluster.boot(leader).await.unwrap();
        cluster.settle().await;
        cluster.end().await;
    }
}

/// A member that was removed, and comes back without having dropped its replica, goes on with it.
#[tokio::test(start_paused = true)]
async fn a_removed_replica_that_was_kept_goes_on() {
    let cluster = Cluster::start(Settings::new(3, 207)).await;
    cluster.write_all().await;
    let leader = cluster.leader().await;
    let away = leader % 3 + 1;
    make(&cluster, Change::Remove(away)).await;
    for _ in 0..5 {
        cluster.write().await;
    }
    welcome(&cluster, away).await;
    settled(&cluster, &[1, 2, 3], &[]).await;
    cluster.settle().await;
}

/// A group that lost all its power with its voters half-way between two configurations ends the change by itself.
#[tokio::test(start_paused = true)]
async fn a_joint_configuration_survives_a_crash_of_all() {
    let mut met = 0;
    for seed in 0..6 {
        let mut cluster = Cluster::start(Settings::new(3, 2080 + seed)).await;
        cluster.write_all().await;
        cluster.boot(4).await.unwrap();
        make(&cluster, Change::Add(4, cluster.member(4))).await;
        let leader = cluster.leaders()[0];
        let link = Link { delay_min: 5 * MS, delay_max: 10 * MS, ..Link::default() };
        cluster.rack.network.set_default_link(link);
        let swap: BTreeSet<NodeId> = (1..=4).filter(|&node| node != leader % 3 + 1).map(NodeId).collect();
        let change = {
            let (group, swap) = (cluster.group(leader).clone(), swap.clone());
            tokio::spawn(async move { group.change_voters(&swap, AGREEMENT).await })
        };
        let joint = || (1..=4).any(|node| cluster.status(node).joint).then_some(());
        eventually("the change is half-way", AGREEMENT, joint).await;
        sleep(Duration::from_millis(random().random_range(0..12))).await;
        met += u64::from((1..=4).filter(|&node| cluster.status(node).joint).count() >= 3);
        cluster.kill_all();
        for node in 1..=4 {
            cluster.boot(node).await.unwrap();
        }
        let told = timeout(AGREEMENT, change).await.unwrap().unwrap();
        assert!(matches!(told, Ok(()) | Err(MemberError::Unknown { .. })), "{told:?}");
        let ended = || {
            let status = cluster.status(*cluster.leaders().first()?);
            (status.settled && !status.joint).then_some(status.voters)
        };
        let voters = eventually("nothing is left half", AGREEMENT, ended).await;
        let swapped: Vec<NodeId> = swap.iter().copied().collect();
        assert!(voters == ids(&[1, 2, 3]) || voters == swapped, "{voters:?}");
        assert!(told.is_err() || voters == swapped, "what was said to be made is made");
        let left: Vec<u64> = (1..=4).filter(|&node| !cluster.member_nodes().contains(&node)).collect();
        left.into_iter().for_each(|node| cluster.kill(node));
        cluster.settle().await;
        cluster.end().await;
    }
    assert!(met > 0, "no crash met most of them half-way");
}

/// A change that finds no quorum ends within its deadline: refused without effect where that is known in time,
/// otherwise unknown, and then it is made later or not at all, as a whole.
#[tokio::test(start_paused = true)]
async fn a_change_without_a_quorum_is_never_half_made() {
    for (seed, wait_ms) in [0, 100, 400, 700, 3_000].into_iter().enumerate() {
        let mut cluster = Cluster::start(Settings::new(3, 2090 + seed as u64)).await;
        cluster.write_all().await;
        cluster.boot(4).await.unwrap();
        make(&cluster, Change::Add(4, cluster.member(4))).await;
        let count = cluster.write().await + 1;
        cluster.applied(&[4], count, AGREEMENT).await;
        let leader = cluster.leaders()[0];
        let (one, other) = (leader % 3 + 1, (leader + 1) % 3 + 1);
        cluster.kill_by(one, Death::Silent);
        cluster.kill_by(other, Death::Silent);
        sleep(Duration::from_millis(wait_ms)).await;
        let began = Instant::now();
        let told = cluster.group(leader).promote(NodeId(4), 2 * SECOND).await.unwrap_err();
        assert!(began.elapsed() <= 2 * SECOND + 100 * MS, "{:?}", began.elapsed());
        let unknown = matches!(told, MemberError::Unknown { .. });
        let refused = matches!(told, MemberError::NoQuorum(_) | MemberError::NotLeader { .. });
        assert!(unknown || refused, "{told}");
        cluster.boot(one).await.unwrap();
        cluster.boot(other).await.unwrap();
        let ended = || {
            let status = cluster.status(*cluster.leaders().first()?);
            (status.settled && !status.joint).then_some(status.voters)
        };
        let voters = eventually("nothing is left half", AGREEMENT, ended).await;
        assert!(voters == ids(&[1, 2, 3]) || unknown && voters == ids(&[1, 2, 3, 4]), "{told}: {voters:?}");
        cluster.settle().await;
        cluster.end().await;
    }
}

/// A learner that is killed while it catches up, by log or by snapshot, goes on from what its disk has.
#[tokio::test(start_paused = true)]
async fn a_learner_may_crash_while_it_catches_up() {
    for by_snapshot in [false, true] {
        let mut settings = Settings::new(3, 210);
        if by_snapshot {
            settings = settings.with_snapshots();
        }
        settings.transport.append_bytes = 16 << 10;
        let mut cluster = Cluster::start(settings).await;
        let leader = cluster.leader().await;
        for number in 0..60 {
            let command = format!("{number}/{}", "x".repeat(5_000));
            cluster.propose(leader, command.into()).await.unwrap();
        }
        let slow =
            Link { delay_min: MS, delay_max: 5 * MS, bytes_per_second: Some(100_000), ..Link::default() };
        cluster.rack.network.set_default_link(slow);
        cluster.boot(4).await.unwrap();
        make(&cluster, Change::Add(4, cluster.member(4))).await;
        for _ in 0..6 {
            sleep(Duration::from_millis(random().random_range(200..1_200))).await;
            cluster.restart(4).await;
        }
        cluster.rack.network.set_default_link(Link::default());
        make(&cluster, Change::Promote(4)).await;
        settled(&cluster, &[1, 2, 3, 4], &[]).await;
        cluster.settle().await;
        cluster.end().await;
    }
}

/// A member that moved to another address is reached there once it is said.
#[tokio::test(start_paused = true)]
async fn a_member_moves() {
    let mut cluster = Cluster::start(Settings::new(3, 211)).await;
    cluster.write_all().await;
    let leader = cluster.leader().await;
    let mover = leader % 3 + 1;
    cluster.kill(mover);
    let moved = Address { peer: format!("{}:7", host_name(mover)), http: String::new() };
    let config = HostConfig { listen: moved.peer.clone(), ..cluster.config(mover) };
    cluster.boot_as(mover, config).await.unwrap();
    let count = cluster.write().await + 1;
    sleep(SECOND).await;
    assert!(cluster.len(mover) < count, "nobody reaches it");
    cluster.group(leader).set_address(NodeId(mover), &moved, AGREEMENT).await.unwrap();
    cluster.applied(&[mover], count, AGREEMENT).await;
    let leader = cluster.leader().await;
    assert_eq!(cluster.status(leader).members[&NodeId(mover)], moved);
    cluster.group(leader).set_address(NodeId(mover), &moved, AGREEMENT).await.unwrap();
    let answer = cluster.group(leader).set_address(NodeId(9), &moved, AGREEMENT).await;
    assert!(matches!(answer, Err(MemberError::Refused { .. })), "{answer:?}");
    // It is a full member there: with it, one of the others suffices.
    cluster.kill(6 - mover - cluster.leader().await);
    cluster.write_all().await;
}

/// What goes on in a cluster while its members change.
#[derive(Default)]
struct Storm {
    /// How often a change was asked for in vain.
    failures: u64,
}

impl Storm {
    /// One round: writes on every node, the change on whoever leads, and a fault.
    async fn round(&mut self, cluster: &mut Cluster, change: &Change) -> bool {
        let proposed = cluster.up().into_iter().flat_map(|node| [node; 12]);
        let writes: Vec<_> =
            proposed.map(|node| tokio::spawn(cluster.propose(node, cluster.fresh("w")))).collect();
        let asked: Vec<_> = cluster
            .leaders()
            .into_iter()
            .map(|node| tokio::spawn(change.clone().ask(cluster.group(node).clone(), 2 * SECOND)))
            .collect();
        sleep(Duration::from_millis(random().random_range(0..80))).await;
        let victim = cluster.up().into_iter().choose(&mut random()).expect("somebody runs");
        match random().random_range(0..12) {
            0 => cluster.restart(victim).await,
            1 => cluster.isolate(victim),
            2 => {
                for leader in cluster.leaders() {
                    cluster.restart(leader).await;
                }
            }
            3..6 => cluster.heal(),
            _ => {}
        }
        let mut made = false;
        for answer in join_all(asked).await {
            let answer = answer.unwrap();
            self.failures += u64::from(answer.is_err());
            made |= answer.is_ok();
        }
        for write in writes {
            // What is not answered by now is left open.
            drop(timeout(200 * MS, write).await);
        }
        made
    }

    async fn make(&mut self, cluster: &mut Cluster, change: &Change) {
        for _ in 0..300 {
            if self.round(cluster, change).await {
                return;
            }
        }
        panic!("{change:?} was not made in 300 rounds");
    }
}

/// All three replicas of a group are replaced one after another, under load, on an unreliable network, with leaders and
/// others crashing and cut off: nothing acknowledged is lost, nothing takes effect twice, and the new three hold it
/// all when the old ones' disks are gone.
#[tokio::test(start_paused = true)]
async fn every_replica_is_replaced_under_fire() {
    let mut storm = Storm::default();
    for seed in 0..rounds(20, 4) {
        let settings = Settings::new(3, 2200 + seed);
        let mut cluster =
            Cluster::start(if seed % 2 == 0 { settings } else { settings.with_snapshots() }).await;
        cluster.write_all().await;
        cluster.rack.network.set_default_link(unreliable());
        for (old, new) in [(1, 4), (2, 5), (3, 6)] {
            cluster.boot(new).await.unwrap();
            let member = cluster.member(new);
            storm.make(&mut cluster, &Change::Add(new, member)).await;
            storm.make(&mut cluster, &Change::Promote(new)).await;
            storm.make(&mut cluster, &Change::Remove(old)).await;
            cluster.heal();
            cluster.drop_replica(old).await;
            cluster.kill(old);
            cluster.wipe(old);
        }
        cluster.heal();
        cluster.rack.network.set_default_link(Link::default());
        settled(&cluster, &[4, 5, 6], &[]).await;
        cluster.settle().await;
        assert!(cluster.truth().acknowledged() > 40, "{} writes", cluster.truth().acknowledged());
        cluster.end().await;
    }
    assert!(storm.failures > 0, "no fault ever met a change");
}

/// Members are added, promoted and removed at random while leadership is passed around at every moment.
#[tokio::test(start_paused = true)]
async fn changes_race_with_changes_of_leader() {
    for seed in 0..rounds(20, 3) {
        let mut cluster = Cluster::start(Settings::new(3, 2300 + seed)).await;
        cluster.write_all().await;
        for node in 4..=6 {
            cluster.boot(node).await.unwrap();
        }
        for _ in 0..60 {
            let voters = cluster.leaders().first().map_or(0, |&node| cluster.status(node).voters.len());
            let node = random().random_range(1..=6);
            let change = match random().random_range(0..3) {
                0 if voters > 2 => Change::Remove(node),
                1 => Change::Promote(node),
                _ => Change::Add(node, cluster.member(node)),
            };
            let asked: Vec<_> = cluster
                .leaders()
                .into_iter()
                .map(|leader| tokio::spawn(change.clone().ask(cluster.group(leader).clone(), SECOND)))
                .collect();
            sleep(Duration::from_micros(random().random_range(0..5_000))).await;
            for leader in cluster.leaders() {
                // Nobody may be there to take it.
                drop(cluster.group(leader).hand_over(None, 500 * MS).await);
            }
            for answer in join_all(asked).await {
                if let Err(error) = answer.unwrap() {
                    assert!(!matches!(error, MemberError::NoVoter(_)), "{error}");
                }
            }
            cluster.write().await;
            cluster.check_leaders();
        }
        let ended = || {
            let status = cluster.status(*cluster.leaders().first()?);
            (status.settled && !status.joint).then_some(())
        };
        eventually("nothing is left half", AGREEMENT, ended).await;
        let members = cluster.member_nodes();
        (1..=6).filter(|node| !members.contains(node)).for_each(|node| cluster.kill(node));
        cluster.settle().await;
        cluster.end().await;
    }
}
