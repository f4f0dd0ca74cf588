//! A copy that was begun is gone on with, as long as the node that hands it out lives.

use crate::fleet::eventually;
use crate::world::World;
use kvserver::moves::failpoint::Failpoint;
use proto::{GroupId, NodeId};
use std::time::Duration;

/// Pieces hold at most 128 KiB: one of these values each. A driver is at most four pieces ahead of what it
/// knows to be taken in.
const VALUES: usize = 30;
const VALUE_BYTES: usize = 120 << 10;

/// The destination's new leader goes on with the copy that its machine knows: it begins none, and takes in
/// only what was missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_new_leader_of_the_destination_goes_on() {
    let mut world = World::start(600).await;
    let route = world.route().await;
    world.fill(route.shard, VALUES, VALUE_BYTES).await;
    let mut gate = world.gate(Failpoint::PieceTaken, route.shard);
    world.move_shard(route.shard, route.to).await;
    gate.reached().await;
    world.kill(route.destination_leader).await;
    gate.open();
    world.arrived(route.shard, route.to).await;
    let ended = world.end(route).await;
    assert_eq!((ended.copies, &ended.aborted), (0, &None));
    let total = (VALUES * VALUE_BYTES) as u64;
    assert!(
        (total / 2..total).contains(&ended.copied_bytes),
        "{} of {total} bytes came after the first piece",
        ended.copied_bytes
    );
    world.revive(route.destination_leader).await;
    world.finish().await;
}

/// The source's new leader goes on with the copy that its predecessor has begun, even where the shard is
/// frozen: no other is begun. What was noted for it is forgotten once the move has ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_new_leader_of_the_source_goes_on() {
    let mut world = World::start(650).await;
    for point in [Failpoint::PieceTaken, Failpoint::FreezeAnswered] {
        let route = world.route().await;
        world.fill(route.shard, VALUES, VALUE_BYTES).await;
        let mut gate = world.gate(point, route.shard);
        world.move_shard(route.shard, route.to).await;
        gate.reached().await;
        // Appends to the shard, behind and ahead of what was copied, unless it is frozen: then no client gets
        // far.
        if point == Failpoint::PieceTaken {
            world.served(100).await;
        }
        world.kill(route.source_leader).await;
        gate.open();
        world.arrived(route.shard, route.to).await;
        let ended = world.end(route).await;
        assert_eq!((ended.copies, &ended.aborted), (1, &None), "{point:?}");
        world.revive(route.source_leader).await;
        eventually("what was noted is forgotten", async || {
            let noting = |node| world.watch(node).unwrap().exports();
            world.live().into_iter().all(|node| noting(node).is_empty()).then_some(())
        })
        .await;
    }
    world.finish().await;
}

/// A source whose leader gives the lead away goes on handing the copy out: no other is begun, and none is
/// needed after the shard was frozen by the new leader.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_copy_outlives_its_nodes_lead() {
    let world = World::start(700).await;
    let route = world.route().await;
    world.fill(route.shard, VALUES, VALUE_BYTES).await;
    let mut gate = world.gate(Failpoint::PieceTaken, route.shard);
    world.move_shard(route.shard, route.to).await;
    gate.reached().await;
    let watch = world.watch(route.source_leader).unwrap();
    let to = NodeId(route.controller_leader);
    watch.hand_over(GroupId(route.from), to, Duration::from_secs(5)).await.unwrap();
    gate.open();
    world.arrived(route.shard, route.to).await;
    let ended = world.end(route).await;
    assert_eq!((ended.copies, &ended.aborted), (1, &None));
    world.finish().await;
}
