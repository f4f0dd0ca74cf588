//! A node loses its power while a move stands at one of its steps.

use crate::world::{Role, World};
use kvserver::machine::ShardView;
use kvserver::moves::failpoint::Failpoint;
use proto::{GroupId, ShardState};

/// The steps of a move that arrives.
const ARRIVING: [Failpoint; 12] = [
    Failpoint::Started,
    Failpoint::ImportBegun,
    Failpoint::PieceTaken,
    Failpoint::Copied,
    Failpoint::BeforeFreeze,
    Failpoint::Frozen,
    Failpoint::FreezeAnswered,
    Failpoint::BeforeActivate,
    Failpoint::Activated,
    Failpoint::DoneTold,
    Failpoint::BeforeDrop,
    Failpoint::Dropped,
];

/// Holds a move at each of its steps, cuts the power of the leader of `role`, and lets it go on: the shard
/// arrives.
async fn arrives_over_the_loss_of(role: Role, seed: u64) {
    let mut world = World::start(seed).await;
    for point in ARRIVING {
        let route = world.route().await;
        let mut gate = world.gate(point, route.shard);
        world.move_shard(route.shard, route.to).await;
        let held = gate.reached().await;
        let killed = route.node(role);
        println!("{point:?}: n{held} is held, n{killed} dies, {route:?}");
        world.kill(killed).await;
        gate.open();
        world.arrived(route.shard, route.to).await;
        world.revive(killed).await;
        world.served(20).await;
    }
    world.finish().await;
}

/// The steps of a move that is given up after the shard was frozen.
const RETURNING: [Failpoint; 4] =
    [Failpoint::Aborted, Failpoint::AbortTold, Failpoint::BeforeThaw, Failpoint::Thawed];

/// Whenever the leader of its destination dies, a move arrives; nothing acknowledged is lost, nothing is
/// doubled, and no shard is served twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn moves_survive_their_destinations_leader() {
    arrives_over_the_loss_of(Role::Destination, 100).await;
}

/// Whenever the leader of its source dies, a move arrives, all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn moves_survive_their_sources_leader() {
    arrives_over_the_loss_of(Role::Source, 200).await;
}

/// Whenever the controller's leader dies, a move arrives, all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn moves_survive_the_controllers_leader() {
    arrives_over_the_loss_of(Role::Controller, 300).await;
}

/// A move that is called off while the shard is frozen ends where the shard was, whoever dies on the way
/// back; the shard thaws after the destination's abort, never before.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn cancelled_moves_survive_as_well() {
    let mut world = World::start(400).await;
    for role in [Role::Destination, Role::Source, Role::Controller] {
        for point in RETURNING {
            let route = world.route().await;
            let mut frozen = world.gate(Failpoint::FreezeAnswered, route.shard);
            world.move_shard(route.shard, route.to).await;
            frozen.reached().await;
            world.cancel(route.shard).await;
            world.all_know_of_the_cancel(route.shard).await;
            // Nothing but the destination's word lets it thaw: it stays as it is for as long as there is
            // none.
            let is_frozen = |view: &ShardView| matches!(view.state, ShardState::Frozen { .. });
            world.all_hold(route.from, route.shard, "it is frozen", is_frozen).await;
            let mut gate = world.gate(point, route.shard);
            frozen.open();
            let held = gate.reached().await;
            let aborted = world.views(route.to, route.shard);
            assert!(
                aborted.values().any(|view| matches!(view.state, ShardState::Aborted { .. })),
                "{point:?}: {aborted:?}"
            );
            let killed = route.node(role);
            println!("{point:?}: n{held} is held, n{killed} dies, {route:?}");
            world.kill(killed).await;
            gate.open();
            world.arrived(route.shard, route.from).await;
            world.revive(killed).await;
            let serves = |view: &ShardView| matches!(view.state, ShardState::Serving { .. });
            world.all_hold(route.from, route.shard, "it is served where it was", serves).await;
            world.served(20).await;
        }
    }
    world.finish().await;
}

/// Where a large shard is frozen and its copy dies with the source's leader, and no other replica of the
/// source can go on with it, the move is given up, so that the shard is served meanwhile; it arrives later.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_large_frozen_shard_is_given_back_where_its_copy_is_lost() {
    let mut world = World::start(500).await;
    let route = world.route().await;
    world.fill(route.shard, 36, 512 << 10).await;
    let mut gate = world.gate(Failpoint::FreezeAnswered, route.shard);
    world.move_shard(route.shard, route.to).await;
    gate.reached().await;
    world.kill(route.source_leader).await;
    for node in world.live() {
        world.watch(node).unwrap().forget_exports(GroupId(route.from));
    }
    gate.open();
    world.arrived(route.shard, route.to).await;
    let ended = world.ends(route).await;
    let given_up = ended.iter().filter_map(|ended| ended.aborted.as_deref());
    assert_eq!(given_up.collect::<Vec<_>>(), ["the copy was lost after the shard was frozen"]);
    assert_eq!(ended.iter().filter(|ended| ended.aborted.is_none()).count(), 1);
    world.revive(route.source_leader).await;
    world.finish().await;
}
