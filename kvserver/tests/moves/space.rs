//! What a shard took is given back where it left.

use crate::fleet::{Settings, eventually};
use crate::world::{GROUPS, World};
use kvserver::machine::{ShardView, Usage};
use proto::{GroupId, ShardState};
use raftstore::{GroupStatus, RaftConfig};

/// What the records of clients may add meanwhile, in bytes.
const CLIENTS_BYTES: u64 = 1 << 20;

/// Once a shard has left, every replica of its source holds nothing of it, counts its bytes no more, and has
/// freed them; every replica of its destination holds them.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_shard_that_left_takes_no_memory() {
    let world = World::start(1100).await;
    let route = world.route().await;
    let filled: u64 = 64 * (90 << 10);
    world.fill(route.shard, 64, 90 << 10).await;
    let bytes = |group: u64| -> Vec<u64> {
        let live = world.live().into_iter();
        let replicas = live.map(|node| world.watch(node).unwrap().replicas());
        let of = replicas.map(|seen| seen.into_iter().find(|seen| seen.group == GroupId(group)).unwrap());
        of.filter(|seen| seen.is_swept).map(|seen| seen.usage.bytes).collect()
    };
    assert!(bytes(route.from).into_iter().max().unwrap() >= filled);
    world.move_shard(route.shard, route.to).await;
    world.arrived(route.shard, route.to).await;
    let is_gone =
        |view: &ShardView| matches!(view.state, ShardState::Dropped { .. }) && view.usage == Usage::default();
    world.all_hold(route.from, route.shard, "nothing is held where it left", is_gone).await;
    eventually("its memory is freed", async || {
        let left = bytes(route.from);
        (left.len() == world.live().len() && left.iter().all(|left| *left <= CLIENTS_BYTES)).then_some(())
    })
    .await;
    eventually("it is held where it arrived", async || {
        bytes(route.to).iter().all(|there| *there >= filled).then_some(())
    })
    .await;
    world.finish().await;
}

/// Once a shard has left, the disks of its source give its room back, though nothing is written there that
/// would make a snapshot due: each replica's snapshot and log take no more than the clients' records and
/// twice the least log that makes one due.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_shard_that_left_takes_no_disk() {
    const LEAST_LOG: u64 = 1 << 20;
    const BOUND: u64 = CLIENTS_BYTES + 2 * LEAST_LOG;
    let groups = Settings::groups(GROUPS);
    let raft = RaftConfig { snapshot_log_bytes_min: LEAST_LOG, log_bytes_kept: 0, ..groups.raft.clone() };
    let world = World::start_with(Settings { raft, ..groups }, 1200).await;
    let route = world.route().await;
    let filled: u64 = 128 * (90 << 10);
    // Twice: data that grows is in the log for the most part, data that is overwritten in a snapshot.
    for _ in 0..2 {
        world.fill(route.shard, 128, 90 << 10).await;
    }
    let replicas = |group: u64| -> Vec<GroupStatus> {
        let status = |node| world.watch(node).unwrap().status(GroupId(group)).unwrap();
        world.live().into_iter().map(status).collect()
    };
    let hold_it = |group: u64| replicas(group).iter().all(|replica| replica.snapshot_bytes >= filled / 2);
    assert!(filled / 2 > BOUND, "a snapshot that holds it is beyond the bound");
    eventually("snapshots hold it", async || hold_it(route.from).then_some(())).await;
    world.move_shard(route.shard, route.to).await;
    world.arrived(route.shard, route.to).await;
    eventually("its room is given back", async || {
        let taken =
            replicas(route.from).into_iter().map(|replica| replica.snapshot_bytes + replica.log_bytes);
        (taken.max() <= Some(BOUND)).then_some(())
    })
    .await;
    world.fill(route.shard, 128, 90 << 10).await;
    eventually("snapshots hold it where it went", async || hold_it(route.to).then_some(())).await;
    world.finish().await;
}
