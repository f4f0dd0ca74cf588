//! Faults, one after the other and several at a time, until they are told to end; then each takes itself
//! back.

use crate::fleet::{Fleet, host};
use crate::http::{Mishaps, SharedMishaps};
use crate::lock;
use crate::plan::{Stream, seed_of};
use raftstore::{Effect, Fault, Link};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// The longest time that one fault lasts, in milliseconds.
const FAULT_MS_MAX: u64 = 6_000;

/// The longest time that answers are on their way where they are late, in milliseconds: their connection does not count
/// as dead yet.
const LATE_MS_MAX: u64 = 1_900;

#[derive(Clone, Copy, Debug)]
enum Kind {
    Crash,
    CrashAll,
    Wipe,
    DieAt,
    Partition,
    OneWay,
    Pair,
    Slow,
    Late,
    Resets,
    Mishaps,
    Pause,
    ClockJump,
    SlowDisk,
    FailWrite,
    FailSync,
    Flip,
}

const KINDS: [(Kind, u32); 17] = [
    (Kind::Crash, 6),
    (Kind::CrashAll, 1),
    (Kind::Wipe, 2),
    (Kind::DieAt, 3),
    (Kind::Partition, 5),
    (Kind::OneWay, 4),
    (Kind::Pair, 5),
    (Kind::Slow, 3),
    (Kind::Late, 3),
    (Kind::Resets, 2),
    (Kind::Mishaps, 4),
    (Kind::Pause, 4),
    (Kind::ClockJump, 2),
    (Kind::SlowDisk, 2),
    (Kind::FailWrite, 1),
    (Kind::FailSync, 1),
    (Kind::Flip, 1),
];

/// See the module.
pub struct Faults {
    fleet: Arc<Fleet>,
    mishaps: SharedMishaps,
    rng: StdRng,
}

impl Faults {
    /// The faults of the fleet's seed.
    pub fn new(fleet: &Arc<Fleet>, mishaps: &SharedMishaps) -> Self {
        let rng = StdRng::seed_from_u64(seed_of(fleet.plan.seed, Stream::Faults, 0));
        Self { fleet: fleet.clone(), mishaps: mishaps.clone(), rng }
    }

    /// Lets faults happen for so long, and has taken all of them back when it returns.
    pub async fn run(mut self, time: Duration) {
        let until = Instant::now() + time;
        let mut tasks = tokio::task::JoinSet::new();
        loop {
            let pause = Duration::from_millis(self.rng.random_range(200..4_000));
            if Instant::now() + pause >= until {
                break;
            }
            sleep(pause).await;
            let lasts = Duration::from_millis(self.rng.random_range(100..FAULT_MS_MAX))
                .min(until.saturating_duration_since(Instant::now()));
            let Ok(kind) = KINDS.choose_weighted(&mut self.rng, |kind| kind.1) else { continue };
            self.strike(kind.0, lasts, &mut tasks);
        }
        while tasks.join_next().await.is_some() {}
    }

    fn strike(&mut self, kind: Kind, lasts: Duration, tasks: &mut tokio::task::JoinSet<()>) {
        let fleet = self.fleet.clone();
        let seed: u64 = self.rng.random();
        let nodes = fleet.nodes();
        let Some(&node) = nodes.choose(&mut self.rng) else { return };
        // Whoever lost its disk comes back only once that counts as dead.
        if matches!(kind, Kind::Wipe) && fleet.plan.dead_after_ms.is_none() {
            return;
        }
        let name = format!("{kind:?}");
        fleet.tally.count(&name);
        fleet.trace.note(format_args!("fault {name} n{node} for {} ms", lasts.as_millis()));
        match kind {
            Kind::Crash | Kind::Flip => {
                let silent = self.rng.random_bool(0.5);
                tasks.spawn(async move {
                    fleet.crash(node, seed, silent).await;
                    sleep(lasts).await;
                    match kind {
                        Kind::Flip => fleet.start_flipped(node, seed).await,
                        _ => fleet.start_or_lose(node).await,
                    }
                });
            }
            Kind::Wipe => {
                tasks.spawn(async move {
                    fleet.crash(node, seed, false).await;
                    if fleet.wipe(node) {
                        fleet.tally.count("wiped");
                    }
                    sleep(lasts).await;
                    fleet.start_or_lose(node).await;
                });
            }
            Kind::CrashAll => {
                for node in fleet.up() {
                    let fleet = fleet.clone();
                    tasks.spawn(async move {
                        fleet.crash(node, seed ^ node, false).await;
                        sleep(lasts / 4).await;
                        fleet.start_or_lose(node).await;
                    });
                }
            }
            Kind::DieAt => {
                let effect = if self.rng.random_bool(0.5) { Effect::Lost } else { Effect::Done };
                fleet.doom(node);
                fleet.disk(node).die_at(self.rng.random_range(0..200), effect);
            }
            Kind::FailWrite | Kind::FailSync => {
                let fault = if self.rng.random_bool(0.5) { Fault::Failed } else { Fault::Full };
                fleet.doom(node);
                let successes = self.rng.random_range(0..50);
                match kind {
                    Kind::FailWrite => fleet.disk(node).fail_write(successes, fault),
                    _ => fleet.disk(node).fail_sync(successes, fault),
                }
            }
            Kind::Partition | Kind::OneWay => {
                let mut hosts = nodes;
                hosts.shuffle(&mut self.rng);
                let split = self.rng.random_range(1..hosts.len());
                let (side, other) = hosts.split_at(split);
                let one_way = matches!(kind, Kind::OneWay);
                let mut pairs = Vec::new();
                for (one, two) in
                    side.iter().flat_map(|one| other.iter().map(move |two| (host(*one), host(*two))))
                {
                    pairs.push((one.clone(), two.clone()));
                    if !one_way {
                        pairs.push((two, one));
                    }
                }
                pairs.iter().for_each(|(from, to)| fleet.cut(from, to));
                tasks.spawn(async move {
                    sleep(lasts).await;
                    fleet.mend(&pairs);
                });
            }
            // Both see all others: for these all is well, and what one of the two leads the other does not hear of.
            Kind::Pair => {
                let others: Vec<u64> = nodes.into_iter().filter(|other| *other != node).collect();
                let Some(&other) = others.choose(&mut self.rng) else { return };
                let pairs = [(host(node), host(other)), (host(other), host(node))];
                pairs.iter().for_each(|(from, to)| fleet.cut(from, to));
                tasks.spawn(async move {
                    sleep(lasts * 2).await;
                    fleet.mend(&pairs);
                });
            }
            Kind::Slow | Kind::Resets => {
                let calm = fleet.plan.link;
                let link = match kind {
                    Kind::Slow => Link {
                        delay_max: Duration::from_millis(self.rng.random_range(20..800)),
                        bytes_per_second: Some(self.rng.random_range(20_000..2_000_000)),
                        ..calm
                    },
                    _ => Link { reset_probability: self.rng.random_range(0.01..0.2), ..calm },
                };
                let of = move |fleet: &Fleet, link: Link| {
                    for other in fleet.nodes().into_iter().filter(|other| *other != node) {
                        fleet.network.set_link(&host(node), &host(other), link);
                        fleet.network.set_link(&host(other), &host(node), link);
                    }
                };
                of(&fleet, link);
                tasks.spawn(async move {
                    sleep(lasts).await;
                    of(&fleet, calm);
                });
            }
            // What a node's peers have answered reaches it when they have had the time to elect another.
            Kind::Late => {
                let calm = fleet.plan.link;
                let asks = self.rng.random_range(50..400);
                let elected = asks + fleet.plan.raft.election_timeout_ms_max;
                let others = nodes.into_iter().filter(|other| *other != node);
                let requests: Vec<_> = others.map(|other| (host(node), host(other))).collect();
                for (to, from) in &requests {
                    let ms = (elected + self.rng.random_range(0..600)).min(LATE_MS_MAX);
                    let delay = Duration::from_millis(ms);
                    fleet.network.set_link(from, to, Link { delay_min: delay, delay_max: delay, ..calm });
                }
                tasks.spawn(async move {
                    sleep(Duration::from_millis(asks)).await;
                    requests.iter().for_each(|(from, to)| fleet.cut(from, to));
                    sleep(lasts).await;
                    fleet.mend(&requests);
                    requests.iter().for_each(|(to, from)| fleet.network.set_link(from, to, calm));
                });
            }
            Kind::Mishaps => {
                let mut chance =
                    || if self.rng.random_bool(0.5) { self.rng.random_range(0.0..0.3) } else { 0.0 };
                let mishaps = Mishaps {
                    request_lost: chance(),
                    answer_lost: chance(),
                    answer_late: chance(),
                    repeated: chance(),
                };
                let shared = self.mishaps.clone();
                *lock(&shared) = mishaps;
                tasks.spawn(async move {
                    sleep(lasts).await;
                    *lock(&shared) = Mishaps::default();
                });
            }
            Kind::Pause => {
                let Some(plug) = fleet.plug(node) else { return };
                plug.pause();
                tasks.spawn(async move {
                    sleep(lasts * 2).await;
                    plug.resume();
                });
            }
            Kind::ClockJump => fleet.clock(node).jump(self.rng.random_range(-10_000..=10_000)),
            Kind::SlowDisk => {
                let calm = fleet.plan.sync_delay;
                fleet.disk(node).set_sync_delay(Duration::from_millis(self.rng.random_range(10..1_000)));
                tasks.spawn(async move {
                    sleep(lasts).await;
                    fleet.disk(node).set_sync_delay(calm);
                });
            }
        }
    }
}
