//! The steps of a move, and a kill at each.

use crate::cluster::{MovingShard, Victim};
use kvserver::moves::failpoint::Failpoint;

/// The steps of a move up to the word that its shard is frozen.
const DEPARTING: [Failpoint; 9] = [
    Failpoint::BeforeStart,
    Failpoint::StartCommitted,
    Failpoint::Started,
    Failpoint::ImportBegun,
    Failpoint::PieceTaken,
    Failpoint::Copied,
    Failpoint::BeforeFreeze,
    Failpoint::Frozen,
    Failpoint::FreezeAnswered,
];

/// Those that follow, of a move that arrives.
const ARRIVING: [Failpoint; 7] = [
    Failpoint::BeforeActivate,
    Failpoint::Activated,
    Failpoint::BeforeDone,
    Failpoint::DoneCommitted,
    Failpoint::DoneTold,
    Failpoint::BeforeDrop,
    Failpoint::Dropped,
];

/// The steps of a move that is given up after the shard was frozen.
const RETURNING: [Failpoint; 6] = [
    Failpoint::Aborted,
    Failpoint::BeforeAborted,
    Failpoint::AbortedCommitted,
    Failpoint::AbortTold,
    Failpoint::BeforeThaw,
    Failpoint::Thawed,
];

/// Who is killed at each of `steps`, one after the other.
fn kills(steps: &[Failpoint]) -> Vec<(Failpoint, Victim)> {
    match std::env::var_os("FLOTILLA_FULL_ROUNDS") {
        Some(_) => steps.iter().flat_map(|point| Victim::LEADERS.map(|victim| (*point, victim))).collect(),
        None => steps.iter().map(|point| (*point, Victim::Held)).collect(),
    }
}

async fn arrives_over_kills(steps: &[Failpoint]) {
    let mut shard = MovingShard::start().await;
    for (point, victim) in kills(steps) {
        shard.arrives_over_a_kill(point, victim).await;
    }
    shard.finish().await;
}

/// Whoever is killed at whichever step of a move until its shard is frozen, the shard arrives, is served by one
/// group, and every append to it has taken effect once.
#[tokio::test(flavor = "multi_thread")]
async fn moves_arrive_over_kills_up_to_the_freeze() {
    arrives_over_kills(&DEPARTING).await;
}

/// The same from there on, until the source has dropped the shard.
#[tokio::test(flavor = "multi_thread")]
async fn moves_arrive_over_kills_after_the_freeze() {
    arrives_over_kills(&ARRIVING).await;
}

/// Whoever is killed at whichever step on the way back of a move that is called off while its shard is
/// frozen, the shard is served where it was, and every append to it has taken effect once.
#[tokio::test(flavor = "multi_thread")]
async fn moves_return_over_kills_at_every_step() {
    let mut shard = MovingShard::start().await;
    for (point, victim) in kills(&RETURNING) {
        shard.returns_over_a_kill(point, victim).await;
    }
    shard.finish().await;
}
