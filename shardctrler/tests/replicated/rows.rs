//! The rows.

use crate::cluster::{Cluster, NODES, SHARDS, eventually};
use proto::{
    ClusterMap, ControllerChange, ControllerError, ControllerReply, Epoch, GroupId, NewGroups, ShardId,
    ShardMap,
};
use shardctrler::ExecuteError;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// The target of each shard.
fn targets(map: &ShardMap) -> Vec<u64> {
    map.runs.iter().flat_map(|run| std::iter::repeat_n(run.target.0, run.count as usize)).collect()
}

/// Every shard is to be at one of exactly these groups, and no group is to have two shards more than another.
fn check_balance(map: &ShardMap, groups: &[u64]) {
    let mut counts: BTreeMap<u64, u32> = groups.iter().map(|group| (*group, 0)).collect();
    for target in targets(map) {
        *counts.get_mut(&target).unwrap() += 1;
    }
    assert!(counts.values().max().unwrap() - counts.values().min().unwrap() <= 1, "{counts:?}");
}

/// The data groups on the map.
fn groups(map: &ClusterMap) -> Vec<u64> {
    map.groups.iter().map(|view| view.group.0).filter(|group| *group != 0).collect()
}

/// LeaveJoin: groups join and leave, alone and several at once, asked of any node; after each step every node knows
/// that exactly those that are there share all shards evenly, and those that left own none in the end.
#[tokio::test(start_paused = true)]
async fn leave_join() {
    let cluster = Cluster::start(1, 1).await;
    assert_eq!(cluster.join(1, 1).await, [2]);
    check_balance(&cluster.map().await.shard_map, &[1, 2]);
    cluster.settle(2).await;
    assert_eq!(cluster.join(3, 3).await, [3, 4, 5]);
    check_balance(&cluster.map().await.shard_map, &[1, 2, 3, 4, 5]);
    cluster.leave(4, 2).await;
    check_balance(&cluster.map().await.shard_map, &[1, 3, 4, 5]);
    cluster.leave(5, 5).await;
    check_balance(&cluster.map().await.shard_map, &[1, 3, 4]);
    let map = cluster.settle(1).await;
    assert_eq!(groups(&map), [1, 3, 4]);
    assert_eq!(cluster.join(2, 1).await, [6]);
    check_balance(&cluster.settle(3).await.shard_map, &[1, 3, 4, 6]);
    cluster.end().await;
}

/// HistoricalQueries: each epoch's map is told by every node as it was then, also after nodes crashed one by one and
/// all at once, with what their logs and snapshots hold.
#[tokio::test(start_paused = true)]
async fn historical_queries() {
    let cluster = Cluster::start(2, 2).await;
    let mut recorded: BTreeMap<Epoch, ShardMap> = BTreeMap::new();
    let born = cluster.shard_map(1, None).await.unwrap();
    recorded.insert(born.epoch, born);
    let mut group = 1;
    for round in 0..12 {
        let node = 1 + round % NODES;
        match round % 3 {
            0 | 1 => drop(cluster.join(node, 1).await),
            _ => {
                cluster.leave(node, group).await;
                group += 1;
            }
        }
        let now = cluster.shard_map(node, None).await.unwrap();
        recorded.insert(now.epoch, now);
        let settled = cluster.settle(node).await.shard_map.clone();
        recorded.insert(settled.epoch, settled);
        match round % 4 {
            3 => cluster.crash_all().await,
            _ => cluster.crash(node).await,
        }
        cluster.boot_all().await;
        cluster.leader().await;
        for asked in cluster.up() {
            for (epoch, known) in &recorded {
                assert_eq!(cluster.shard_map(asked, Some(*epoch)).await.as_ref(), Ok(known), "n{asked}");
            }
        }
    }
    let current = *recorded.last_key_value().unwrap().0;
    let ahead = cluster.shard_map(1, Some(Epoch(current.0 + 1_000))).await;
    assert_eq!(ahead, Err(ControllerError::EpochAhead { current: cluster.map().await.shard_map.epoch }));
    cluster.end().await;
}

/// Move: a shard goes where it was sent and stays there while the others stay where they are, until a group joins.
#[tokio::test(start_paused = true)]
async fn moves() {
    let cluster = Cluster::start(2, 3).await;
    let mut expected = targets(&cluster.map().await.shard_map);
    for shard in 0..10_u32 {
        let to = 1 + u64::from(shard % 2);
        let change = ControllerChange::ShardMove { shard: ShardId(shard), to: GroupId(to) };
        let sent = cluster.change(1 + u64::from(shard) % NODES, change).await;
        let there = expected[shard as usize] == to;
        assert_eq!(sent.is_err(), there, "{sent:?}");
        expected[shard as usize] = to;
        assert_eq!(targets(&cluster.settle(1).await.shard_map), expected);
    }
    cluster.join(1, 1).await;
    check_balance(&cluster.settle(1).await.shard_map, &[1, 2, 3]);
    cluster.end().await;
}

/// What one of several clients was told of its changes.
#[derive(Default)]
struct Told {
    joined: BTreeSet<u64>,
    left: BTreeSet<u64>,
    unknown: u32,
}

/// Lets groups join, each alone, and leave again but for the last one, all through one node.
async fn client(handle: Arc<shardctrler::ControllerHandle>) -> Told {
    let mut told = Told::default();
    for turn in 0..5 {
        let add = ControllerChange::GroupAdd { groups: NewGroups::Count(1), weight: 1 };
        let added = loop {
            match handle.execute(None, add.clone(), Duration::from_secs(2)).await {
                Ok(ControllerReply::GroupsAdded { groups, .. }) => break Some(groups[0]),
                Err(ExecuteError::Unknown(_)) => break None,
                Err(ExecuteError::Unreached(_)) => {}
                other => panic!("a group joins: {other:?}"),
            }
        };
        let Some(added) = added else {
            told.unknown += 1;
            continue;
        };
        told.joined.insert(added.0);
        // To leave is to leave once, however often it is said.
        let remove = ControllerChange::GroupRemove { group: added };
        while turn < 4 && !told.left.contains(&added.0) {
            match handle.execute(None, remove.clone(), Duration::from_secs(2)).await {
                Ok(_) | Err(ExecuteError::Refused(ControllerError::UnknownGroup { .. })) => {
                    told.left.insert(added.0);
                }
                Err(ExecuteError::Unknown(_) | ExecuteError::Unreached(_)) => {}
                Err(ExecuteError::Refused(error)) => panic!("a group leaves: {error}"),
            }
        }
    }
    told
}

/// ConcurrentLeaveJoin: ten clients, two on each node, let groups join and leave at the same time while the leader is
/// cut off in their midst; on the map in the end is what they were told, each change made once.
#[tokio::test(start_paused = true)]
async fn concurrent_leave_join() {
    let cluster = Cluster::start(1, 4).await;
    let mut clients = JoinSet::new();
    for number in 0..10 {
        drop(clients.spawn(client(cluster.handle(1 + number % NODES))));
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    let leader = cluster.leader().await;
    cluster.isolate(leader);
    tokio::time::sleep(Duration::from_secs(5)).await;
    cluster.heal();
    let told: Vec<Told> = clients.join_all().await;
    let unknown: u32 = told.iter().map(|told| told.unknown).sum();
    let stays = |told: &Told| told.joined.difference(&told.left).copied().collect::<Vec<_>>();
    let mut expected: BTreeSet<u64> = told.iter().flat_map(stays).collect();
    expected.insert(1);
    let ids: usize = told.iter().map(|told| told.joined.len()).sum();
    let all: BTreeSet<u64> = told.iter().flat_map(|told| told.joined.iter().copied()).collect();
    assert_eq!(all.len(), ids, "no group was given to two clients");
    let map = cluster.settle(1).await;
    let there: BTreeSet<u64> = groups(&map).into_iter().collect();
    assert!(there.is_superset(&expected), "{there:?} {expected:?}");
    let extra = there.difference(&expected).count();
    assert!(extra as u32 <= unknown, "{extra} groups that nobody asked for, {unknown} changes unknown");
    assert!(told.iter().all(|told| told.left.is_disjoint(&there)));
    check_balance(&map.shard_map, &there.into_iter().collect::<Vec<_>>());
    cluster.end().await;
}

/// MinimalTransfer: a group that joins takes what it needs and not a shard more, and nothing moves between the others.
#[tokio::test(start_paused = true)]
async fn minimal_transfer() {
    let cluster = Cluster::start(3, 5).await;
    let mut serving: Vec<u64> = vec![1, 2, 3];
    for node in 1..=NODES {
        let before = targets(&cluster.map().await.shard_map);
        let new = cluster.join(node, 1).await[0];
        serving.push(new);
        let after = targets(&cluster.map().await.shard_map);
        let moved: Vec<u64> =
            before.iter().zip(&after).filter(|(old, now)| old != now).map(|(_, now)| *now).collect();
        assert_eq!(moved.len(), SHARDS as usize / serving.len());
        assert!(moved.iter().all(|to| *to == new), "nothing moves between bystanders: {moved:?}");
        check_balance(&cluster.settle(node).await.shard_map, &serving);
    }
    cluster.end().await;
}

/// MinimalTransferAfterLeave: a group that leaves gives away what it has and nothing else moves.
#[tokio::test(start_paused = true)]
async fn minimal_transfer_after_leave() {
    let cluster = Cluster::start(5, 6).await;
    let mut serving: Vec<u64> = vec![1, 2, 3, 4, 5];
    for (node, leaving) in [(1, 4), (2, 1), (3, 5)] {
        let before = targets(&cluster.map().await.shard_map);
        cluster.leave(node, leaving).await;
        serving.retain(|group| *group != leaving);
        let after = targets(&cluster.map().await.shard_map);
        for (old, now) in before.iter().zip(&after) {
            assert!(*old == leaving || old == now, "nothing moves between bystanders");
        }
        check_balance(&cluster.settle(node).await.shard_map, &serving);
    }
    cluster.end().await;
}

/// AgreeConfig: after the leader is lost, crashed or cut off, the others know the same configuration as before and go
/// on from it; when it is back, it knows what they know.
#[tokio::test(start_paused = true)]
async fn agree_config() {
    let cluster = Cluster::start(2, 7).await;
    for round in 0..4 {
        cluster.join(1, 1).await;
        let before = cluster.settle(1).await;
        let leader = cluster.leader().await;
        match round % 2 {
            0 => cluster.crash(leader).await,
            _ => cluster.isolate(leader),
        }
        let other = 1 + leader % NODES;
        let successor = eventually("a successor leads", async || {
            Some(cluster.leader().await).filter(|successor| *successor != leader)
        })
        .await;
        assert_eq!(cluster.map().await.shard_map.runs, before.shard_map.runs);
        cluster.leave(other, groups(&before)[0]).await;
        let after = cluster.settle(successor).await;
        assert!(after.shard_map.epoch > before.shard_map.epoch);
        cluster.heal();
        cluster.boot_all().await;
        // The epoch rises when the one that was away is noticed to be.
        assert_eq!(cluster.map().await.shard_map.runs, after.shard_map.runs, "all five know it");
        for node in cluster.up() {
            let then = cluster.shard_map(node, Some(before.shard_map.epoch)).await;
            assert_eq!(then.as_ref(), Ok(&before.shard_map), "n{node}");
        }
    }
    cluster.end().await;
}
