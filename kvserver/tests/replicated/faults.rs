//! Clerks at work while faults come and go: what most rows of the service have in common.

use crate::cluster::{Cluster, Shape, examine};
use crate::wait::eventually;
use crate::{milliseconds, rounds};
use raftstore::GroupStatus;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// A clerk's pause between requests: it leaves the machine time for everything else.
const PACE: Duration = Duration::from_millis(10);

/// By how much longer things stay as they are at most, between two faults.
const STEP_MS_MORE_MAX: u64 = 200;

/// So many requests are answered after the faults of a round, before all nodes crash: a cluster that is cut
/// apart all the while owes nobody an answer, one that is whole does.
const ANSWERS_MIN: u64 = 30;

/// What happens while clerks Put, Append and Get at random; all false at first.
#[derive(Clone, Copy, Default)]
pub(crate) struct Faults {
    /// Messages are late and lost.
    pub(crate) unreliable: bool,
    /// The network is cut into two sides at random, again and again.
    pub(crate) partitions: bool,
    /// Nodes crash and start again, one at a time and all at once.
    pub(crate) restarts: bool,
    /// Logs are cut short by snapshots.
    pub(crate) snapshots: bool,
}

/// Clerks that go on until they are told to stop.
struct Clerks {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl Clerks {
    /// Each with random requests for `keys`, which it shares with the others.
    fn begin(cluster: &Arc<Cluster>, count: u64, keys: &[String]) -> Self {
        let (stop, mut tasks) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
        for _ in 0..count {
            let (stop, mut clerk, keys) = (stop.clone(), cluster.clerk(), keys.to_vec());
            tasks.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    clerk.anything(&keys).await;
                    sleep(PACE).await;
                }
            });
        }
        Self { stop, tasks }
    }

    /// Waits until each has the answer to its last request.
    async fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }
}

/// A row's own kind of run: so many clerks that share as many keys, and so many nodes, through three rounds
/// of about five seconds; one of about two by default. Restarts strike nodes one at a time during a round,
/// and all at its end. Where logs are cut short, a round lasts until every replica has cut its own since the
/// round began.
pub(crate) async fn survive(clerks: u64, nodes: u64, faults: Faults, seed: u64) {
    let mut shape = Shape::new(nodes, seed);
    if faults.snapshots {
        shape = shape.with_snapshots();
    }
    examine(shape, async |cluster| {
        if faults.unreliable {
            cluster.make_unreliable();
        }
        let keys: Vec<String> = (0..clerks).map(|number| format!("k{number}")).collect();
        let mut dice = StdRng::seed_from_u64(cluster.seed());
        let at_work = Clerks::begin(cluster, clerks, &keys);
        for _ in 0..rounds(3, 1) {
            round(cluster, faults, &mut dice).await;
        }
        at_work.end().await;
    })
    .await;
}

async fn round(cluster: &Cluster, faults: Faults, dice: &mut StdRng) {
    let snapshot = cluster.replicas().iter().map(|status| status.snapshot_index).max().flatten();
    for _ in 0..rounds(5, 2) {
        if faults.partitions {
            let side: Vec<u64> = cluster.nodes().filter(|_| dice.random_bool(0.5)).collect();
            cluster.split(&side);
        }
        if faults.restarts {
            cluster.restart(dice.random_range(cluster.nodes())).await;
        }
        let more = Duration::from_millis(dice.random_range(0..STEP_MS_MORE_MAX));
        sleep(milliseconds(1_000, 600) + more).await;
    }
    cluster.heal();
    let healed = cluster.history.answers();
    eventually("clerks are answered once the network is healed", async || {
        (cluster.history.answers() >= healed + ANSWERS_MIN).then_some(())
    })
    .await;
    if faults.snapshots {
        eventually("every replica has a newer snapshot", async || {
            let is_newer = |status: &GroupStatus| status.snapshot_index > snapshot;
            cluster.replicas().iter().all(is_newer).then_some(())
        })
        .await;
    }
    if faults.restarts {
        cluster.crash_all(&cluster.up());
        cluster.boot_all().await;
    }
}
