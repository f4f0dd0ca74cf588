//! Operators slow moves down, have them rest, and call them off.

use crate::fleet::eventually;
use crate::world::World;
use kvserver::machine::{ShardView, Usage};
use kvserver::moves::failpoint::Failpoint;
use kvserver::moves::progress::MovePhase;
use proto::ShardState;
use reqwest::Method;
use std::time::Duration;

async fn throttle(world: &World, bytes_per_second: u64) {
    let body = format!(r#"{{"copy_bytes_per_second":{bytes_per_second},"moves_max":4}}"#);
    world.change(Method::PUT, "/v1/cluster/moves", &body).await;
}

async fn pause(world: &World, paused: bool) {
    world.change(Method::PUT, "/v1/cluster/moves", &format!(r#"{{"paused":{paused}}}"#)).await;
}

/// Called off before the shard is frozen, a move leaves the source as it was, never frozen, and nothing at
/// the destination.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cancel_before_the_freeze_thaws_nothing() {
    let world = World::start(800).await;
    for point in [Failpoint::Started, Failpoint::ImportBegun, Failpoint::PieceTaken, Failpoint::Copied] {
        let route = world.route().await;
        let before = world.views(route.from, route.shard)[&route.source_leader].state;
        let mut gate = world.gate(point, route.shard);
        world.move_shard(route.shard, route.to).await;
        gate.reached().await;
        world.cancel(route.shard).await;
        world.all_know_of_the_cancel(route.shard).await;
        gate.open();
        world.arrived(route.shard, route.from).await;
        // A thaw would have raised the fence.
        let is_as_before = |view: &ShardView| view.state == before;
        world.all_hold(route.from, route.shard, "the source is as it was", is_as_before).await;
        let is_gone = |view: &ShardView| {
            matches!(view.state, ShardState::Aborted { .. }) && view.usage == Usage::default()
        };
        world.all_hold(route.to, route.shard, "the destination holds nothing", is_gone).await;
        println!("{point:?}: {route:?}");
    }
    world.served(20).await;
    world.finish().await;
}

/// Moves that rest copy nothing, go on where they were, and are shown so; a frozen shard does not rest.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_pause_stops_copies_and_no_freeze() {
    let world = World::start(900).await;
    let route = world.route().await;
    // More than is on its way at a time.
    world.fill(route.shard, 30, 120 << 10).await;
    let mut gate = world.gate(Failpoint::PieceTaken, route.shard);
    world.move_shard(route.shard, route.to).await;
    gate.reached().await;
    pause(&world, true).await;
    gate.open();
    let rests = eventually("the move rests", async || {
        world.progress(route.shard).filter(|moving| moving.phase == MovePhase::Paused)
    })
    .await;
    world.served(200).await;
    let after = world.progress(route.shard).unwrap();
    assert_eq!((after.phase, after.pieces), (MovePhase::Paused, rests.pieces));
    assert!(rests.remaining_bytes > 0 && rests.pieces > 0, "{rests:?}");

    let mut gate = world.gate(Failpoint::FreezeAnswered, route.shard);
    pause(&world, false).await;
    gate.reached().await;
    pause(&world, true).await;
    gate.open();
    world.arrived(route.shard, route.to).await;
    assert_eq!(world.map().await["settings"]["moves_paused"], true);
    let ended = world.end(route).await;
    assert_eq!(ended.copies, 1);
    assert!(ended.freeze.is_some());
    pause(&world, false).await;
    world.finish().await;
}

/// A copy takes at least as long as its throttle says, but for what is handed out at once at its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_throttle_is_kept() {
    const RATE: u64 = 512 << 10;
    let world = World::start(1000).await;
    let route = world.route().await;
    let total: u64 = 20 * (90 << 10);
    world.fill(route.shard, 20, 90 << 10).await;
    throttle(&world, RATE).await;
    world.move_shard(route.shard, route.to).await;
    world.arrived(route.shard, route.to).await;
    let ended = world.end(route).await;
    // What is left when the source freezes, and one piece, are not waited for.
    let slowly = total - (256 << 10) - (128 << 10);
    let least = Duration::from_secs_f64(slowly as f64 / RATE as f64);
    assert!(ended.took >= least, "{:?} for {total} bytes, at least {least:?}", ended.took);
    world.finish().await;
}
