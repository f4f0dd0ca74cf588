//! The steps of a move, and a kill at each.

use crate::cluster::{MovingShard, Role};
use kvserver::moves::failpoint::Failpoint;

/// The steps of a move up to the word that its shard is frozen, and whose leader takes each.
const DEPARTING: [(Failpoint, Role); 9] = [
    (Failpoint::BeforeStart, Role::Controller),
    (Failpoint::StartCommitted, Role::Controller),
    (Failpoint::Started, Role::Destination),
    (Failpoint::ImportBegun, Role::Destination),
    (Failpoint::PieceTaken, Role::Destination),
    (Failpoint::Copied, Role::Destination),
    (Failpoint::BeforeFreeze, Role::Source),
    (Failpoint::Frozen, Role::Source),
    (Failpoint::FreezeAnswered, Role::Destination),
];

/// Those that follow, of a move that arrives.
const ARRIVING: [(Failpoint, Role); 7] = [
    (Failpoint::BeforeActivate, Role::Destination),
    (Failpoint::Activated, Role::Destination),
    (Failpoint::BeforeDone, Role::Controller),
    (Failpoint::DoneCommitted, Role::Controller),
    (Failpoint::DoneTold, Role::Destination),
    (Failpoint::BeforeDrop, Role::Source),
    (Failpoint::Dropped, Role::Source),
];

/// The steps of a move that is given up after the shard was frozen.
const RETURNING: [(Failpoint, Role); 6] = [
    (Failpoint::Aborted, Role::Destination),
    (Failpoint::BeforeAborted, Role::Controller),
    (Failpoint::AbortedCommitted, Role::Controller),
    (Failpoint::AbortTold, Role::Destination),
    (Failpoint::BeforeThaw, Role::Source),
    (Failpoint::Thawed, Role::Source),
];

/// Who is killed at each of `steps`, one after the other.
fn kills(steps: &[(Failpoint, Role)]) -> Vec<(Failpoint, Role)> {
    match std::env::var_os("FLOTILLA_FULL_ROUNDS") {
        Some(_) => steps.iter().flat_map(|(point, _)| Role::ALL.map(|role| (*point, role))).collect(),
        None => steps.to_vec(),
    }
}

/// Whoever is killed at whichever step of a move until its shard is frozen, the shard arrives, is served by one
/// group, and every append to it has taken effect once.
#[tokio::test(flavor = "multi_thread")]
async fn moves_arrive_over_kills_up_to_the_freeze() {
    let mut shard = MovingShard::start().await;
    for (point, role) in kills(&DEPARTING) {
        shard.arrives_over_a_kill(point, role).await;
    }
    shard.finish().await;
}

/// The same from there on, until the source has dropped the shard.
#[tokio::test(flavor = "multi_thread")]
async fn moves_arrive_over_kills_after_the_freeze() {
    let mut shard = MovingShard::start().await;
    for (point, role) in kills(&ARRIVING) {
        shard.arrives_over_a_kill(point, role).await;
    }
    shard.finish().await;
}

/// Whoever is killed at whichever step on the way back of a move that is called off while its shard is
/// frozen, the shard is served where it was, and every append to it has taken effect once.
#[tokio::test(flavor = "multi_thread")]
async fn moves_return_over_kills_at_every_step() {
    let mut shard = MovingShard::start().await;
    for (point, role) in kills(&RETURNING) {
        shard.returns_over_a_kill(point, role).await;
    }
    shard.finish().await;
}
