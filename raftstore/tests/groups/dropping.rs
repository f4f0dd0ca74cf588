//! Groups that are opened and dropped while their node goes on.

use crate::cluster::{AGREEMENT, Cluster, ELECTION, G, MS, SECOND, Settings, address_of, eventually};
use crate::journal::Journal;
use crate::truth::Truth;
use futures_util::FutureExt;
use proto::{GroupId, NodeId};
use raftstore::{Disk, Fatal, Group, Host, Member, Role};
use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use tokio::time::{sleep, timeout};

/// A group beside the cluster's own, of the first node alone.
const EXTRA: GroupId = GroupId(7);

async fn open(host: &Host, group: GroupId) -> Result<Group<Journal>, Fatal> {
    let truth = Arc::new(Truth::default());
    host.open_group(group, move || Journal::new(truth.clone())).await
}

/// Opens [`EXTRA`] on a node and makes the node its only member.
async fn found(host: &Host) -> Group<Journal> {
    let group = open(host, EXTRA).await.unwrap();
    let members = BTreeMap::from([(host.node(), address_of(host.node().0))]);
    group.bootstrap(&members).await.unwrap();
    group.wait_for_leader(ELECTION).await.unwrap();
    group
}

fn parts(cluster: &Cluster, node: u64, group: GroupId) -> Vec<String> {
    let mut tables = cluster.rack.disk(node).tables().unwrap();
    tables.retain(|table| table.starts_with(&format!("snap-{group}-")));
    tables
}

/// A group that is dropped while its snapshot is being made stays dropped: neither the manifest nor a table
/// of the snapshot comes after it, and a restart finds nothing of it.
#[tokio::test(start_paused = true)]
async fn a_snapshot_under_way_does_not_bring_a_dropped_group_back() {
    let mut cluster = Cluster::start(Settings::new(1, 160).with_snapshots()).await;
    cluster.leader().await;
    let host = cluster.node(1).host.clone();
    let group = found(&host).await;
    // Each step of the snapshot takes a while: its part, the part's end, the manifest.
    cluster.rack.disk(1).set_sync_delay(SECOND);
    group.propose(format!("writer/{}", "x".repeat(1_000)).into()).await.unwrap();
    let begun = || (!parts(&cluster, 1, EXTRA).is_empty()).then_some(());
    eventually("a snapshot is begun", 30 * SECOND, begun).await;
    assert_eq!(group.status().snapshot_index, None);
    host.drop_group(EXTRA).await.unwrap();
    cluster.rack.disk(1).set_sync_delay(MS);
    sleep(30 * SECOND).await;
    cluster.write().await;
    cluster.write().await;
    assert_eq!(host.stored_groups(), [G]);
    assert_eq!(parts(&cluster, 1, EXTRA), Vec::<String>::new());

    drop((group, host));
    cluster.restart(1).await;
    cluster.leader().await;
    assert_eq!(cluster.node(1).host.stored_groups(), [G]);
    cluster.settle().await;
    cluster.end().await;
}

/// A group that was dropped may be opened again on the same node: as a new replica, which knows nothing of
/// the old one and outlives a restart as any other.
#[tokio::test(start_paused = true)]
async fn a_dropped_group_may_be_opened_again() {
    let mut cluster = Cluster::start(Settings::new(1, 161).with_snapshots()).await;
    cluster.leader().await;
    let host = cluster.node(1).host.clone();
    for life in 1..=3_u64 {
        let group = found(&host).await;
        assert_eq!(group.read(Journal::len).await.unwrap(), 0);
        for number in 0..20 * life {
            group.propose(format!("writer{life}/{number}").into()).await.unwrap();
        }
        let made = || group.status().snapshot_index.is_some().then_some(());
        eventually("a snapshot is made", AGREEMENT, made).await;
        if life < 3 {
            host.drop_group(EXTRA).await.unwrap();
            assert_eq!(host.stored_groups(), [G]);
        }
    }
    drop(host);
    cluster.restart(1).await;
    let group = open(&cluster.node(1).host, EXTRA).await.unwrap();
    group.wait_for_leader(ELECTION).await.unwrap();
    assert_eq!(group.read(Journal::len).await.unwrap(), 60);
    cluster.settle().await;
    drop(group);
    cluster.end().await;
}

/// A member that was removed, dropped its replica and is taken in again catches up from nothing.
#[tokio::test(start_paused = true)]
async fn a_removed_member_may_come_back() {
    let cluster = Cluster::start(Settings::new(3, 162)).await;
    cluster.write_all().await;
    let leader = cluster.leader().await;
    let away = leader % 3 + 1;
    let members = |without: Option<u64>| -> BTreeSet<NodeId> {
        let nodes = cluster.nodes().into_iter().filter(|&node| Some(node) != without);
        nodes.map(NodeId).collect()
    };
    cluster.group(leader).change_voters(&members(Some(away)), AGREEMENT).await.unwrap();
    let host = &cluster.node(away).host;
    host.drop_group(G).await.unwrap();
    assert_eq!(host.stored_groups(), []);
    let count = cluster.write().await + 1;
    let truth = cluster.truth().clone();
    let again = host.open_learner(G, move || Journal::new(truth.clone())).await.unwrap();
    assert_eq!(again.read_stale(Journal::len), 0);
    let member = Member { address: address_of(away), incarnation: host.incarnation() };
    cluster.group(leader).add_learner(NodeId(away), &member, AGREEMENT).await.unwrap();
    cluster.group(leader).change_voters(&members(None), AGREEMENT).await.unwrap();
    let caught_up = || (again.read_stale(Journal::len) >= count).then_some(());
    eventually("the new replica catches up", AGREEMENT, caught_up).await;
    assert!(again.status().voters.contains(&NodeId(away)));
    cluster.check();
    drop(again);
    cluster.end().await;
}

fn refused<T>(result: Result<T, Fatal>, reason: &str) {
    match result.map(|_| ()) {
        Err(Fatal::Group { group: EXTRA, why }) => assert!(why.contains(reason), "{why}"),
        other => panic!("it is refused, because {reason}: {other:?}"),
    }
}

/// Of two who open one group at the same time one is refused, before anything is made for it, and the other
/// is not disturbed. Whoever failed to open it may try again.
#[tokio::test(start_paused = true)]
async fn a_group_is_opened_by_one_at_a_time() {
    let cluster = Cluster::start(Settings::new(1, 163)).await;
    cluster.leader().await;
    let host = cluster.node(1).host.clone();
    let second = Arc::new(Mutex::new(None));
    let first = {
        let (second, host, truth) = (second.clone(), host.clone(), Arc::new(Truth::default()));
        // The second comes in the midst of the first's opening: when its machine is made.
        let machine = move || {
            let never = || -> Journal { panic!("no second machine is made") };
            let opened = host.open_group(EXTRA, never).now_or_never();
            second.lock().unwrap().replace(opened.expect("it is refused at once"));
            Journal::new(truth.clone())
        };
        cluster.node(1).host.open_group(EXTRA, machine).await.unwrap()
    };
    refused(second.lock().unwrap().take().unwrap(), "being opened");
    first.bootstrap(&BTreeMap::from([(host.node(), address_of(1))])).await.unwrap();
    first.wait_for_leader(ELECTION).await.unwrap();
    refused(open(&host, EXTRA).await, "runs on this node already");
    host.drop_group(EXTRA).await.unwrap();

    assert!(
        AssertUnwindSafe(host.open_group(EXTRA, || -> Journal { panic!("no machine") }))
            .catch_unwind()
            .await
            .is_err()
    );
    found(&host).await;
    cluster.settle().await;
    drop((first, host));
    cluster.end().await;
}

/// A group that is being dropped can be neither opened nor dropped by another; and one whose dropping was
/// given up half-way cannot be opened before it was dropped altogether.
#[tokio::test(start_paused = true)]
async fn a_group_is_dropped_by_one_at_a_time() {
    let cluster = Cluster::start(Settings::new(1, 164)).await;
    cluster.leader().await;
    let host = &cluster.node(1).host;
    cluster.rack.disk(1).set_sync_delay(100 * MS);
    drop(found(host).await);
    let (dropped, again, opened) =
        tokio::join!(host.drop_group(EXTRA), host.drop_group(EXTRA), open(host, EXTRA));
    dropped.unwrap();
    refused(again, "being opened or dropped");
    refused(opened, "being opened or dropped");
    assert_eq!(host.stored_groups(), [G]);

    drop(found(host).await);
    assert!(timeout(MS, host.drop_group(EXTRA)).await.is_err());
    refused(open(host, EXTRA).await, "runs on this node already");
    host.drop_group(EXTRA).await.unwrap();
    assert_eq!(found(host).await.read(Journal::len).await.unwrap(), 0);
    cluster.settle().await;
    cluster.end().await;
}

/// A drop that is given up while the replica's core waits for its disk harms nobody: the replica stops once the disk
/// answers, the node goes on, and the drop may be repeated.
#[tokio::test(start_paused = true)]
async fn a_drop_given_up_half_way_harms_nobody() {
    let cluster = Cluster::start(Settings::new(3, 165)).await;
    cluster.write_all().await;
    let leader = cluster.leader().await;
    let (next, stuck) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    // Its core holds on until its vote for the next leader is durable.
    cluster.rack.disk(stuck).set_sync_delay(20 * SECOND);
    cluster.group(leader).hand_over(Some(NodeId(next)), SECOND).await.unwrap();
    let host = cluster.node(stuck).host.clone();
    assert!(timeout(SECOND, host.drop_group(G)).await.is_err());
    assert_ne!(cluster.status(stuck).role, Role::Stopped);
    let stopped = || (cluster.status(stuck).role == Role::Stopped).then_some(());
    eventually("the replica stops", 60 * SECOND, stopped).await;
    let failure = cluster.node(stuck).failure(ELECTION).await;
    assert!(failure.is_none(), "the node fails: {failure:?}");
    host.drop_group(G).await.unwrap();
    assert_eq!(host.stored_groups(), []);
    drop(host);
    cluster.write().await;
    cluster.end().await;
}
