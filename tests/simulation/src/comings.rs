//! Who comes and goes: a further node joins while everything is under way, and one of all nodes is drained
//! and removed, as people have a cluster do it. Faults befall a newcomer as they befall the others.

use crate::fleet::Fleet;
use crate::operator::Operator;
use crate::plan::{Stream, seed_of};
use hyper::Method;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// How likely somebody leaves once a newcomer was let in, and that it is the newcomer.
const LEAVING_PROBABILITY: f64 = 0.7;
const NEWCOMER_LEAVES_PROBABILITY: f64 = 0.4;

/// The pause before an operator asks again.
const PACE: Duration = Duration::from_millis(500);

/// How long a node that was removed may take to hear of it; then its power is cut.
const HEARING: Duration = Duration::from_secs(10);

/// How long it may take, once no faults happen any more, until it is certain whether a node is a member.
const CERTAINTY: Duration = Duration::from_secs(60);

/// What became of a node that is to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Membership {
    Member,
    Removed,
}

/// See the module.
pub struct Comings {
    fleet: Arc<Fleet>,
    operator: Operator,
    rng: StdRng,
}

impl Comings {
    /// The comings and goings of the fleet's seed.
    pub fn new(fleet: &Arc<Fleet>, operator: &Operator) -> Self {
        let rng = StdRng::seed_from_u64(seed_of(fleet.plan.seed, Stream::Comings, 1));
        Self { fleet: fleet.clone(), operator: operator.clone(), rng }
    }

    /// Lets nodes come and go for so long; when it returns, whoever was to leave has left or stays.
    pub async fn run(mut self, time: Duration) {
        let Some(newcomer) = self.fleet.newcomer() else { return };
        let until = Instant::now() + time;
        sleep(time.mul_f64(self.rng.random_range(0.02..0.4))).await;
        self.fleet.tally.count("joined");
        // It may take a while: whoever is to let it in is cut off, or down.
        let fleet = self.fleet.clone();
        tokio::spawn(async move { fleet.let_in(newcomer).await });
        sleep(time.mul_f64(self.rng.random_range(0.1..0.4))).await;
        if !self.rng.random_bool(LEAVING_PROBABILITY) {
            return;
        }
        let leaver = match self.rng.random_bool(NEWCOMER_LEAVES_PROBABILITY) {
            true => newcomer,
            false => self.fleet.nodes().choose(&mut self.rng).copied().unwrap_or(newcomer),
        };
        self.fleet.trace.note(format_args!("n{leaver} is to leave"));
        self.fleet.tally.count("drained");
        self.remove(leaver, until).await;
    }

    /// Drains and removes a node; where that takes too long, it is to stay.
    async fn remove(&mut self, node: u64, until: Instant) {
        let drain = format!("/v1/cluster/nodes/{node}/drain");
        while self.any(Method::POST, &drain).await != Some(200) {
            if Instant::now() >= until {
                return self.keep(node).await;
            }
            sleep(PACE).await;
        }
        // From here on it may find itself removed whatever its operator hears.
        self.fleet.expect_leaving(node, true);
        loop {
            match self.ask_to_remove(node).await {
                Some(200 | 404) => return self.removed(node).await,
                _ if Instant::now() >= until => return self.keep(node).await,
                _ => sleep(PACE).await,
            }
        }
    }

    /// Has a node stay, unless it turns out that it was removed. No faults happen any more, or soon.
    async fn keep(&mut self, node: u64) {
        let undrain = format!("/v1/cluster/nodes/{node}/undrain");
        let certainly = async {
            loop {
                match self.any(Method::POST, &undrain).await {
                    // Also where it was never drained. No removal that is still on its way is carried out any
                    // more: each was asked for at an epoch before this.
                    Some(200) => return Membership::Member,
                    Some(404) => return Membership::Removed,
                    _ => sleep(PACE).await,
                }
            }
        };
        match timeout(CERTAINTY, certainly).await {
            Ok(Membership::Removed) if self.fleet.is_leaving(node) => self.removed(node).await,
            Ok(_) => self.fleet.expect_leaving(node, false),
            // Whether the cluster comes to rest is judged by others.
            Err(_) => self.fleet.trace.note(format_args!("nobody says whether n{node} is a member")),
        }
    }

    async fn removed(&mut self, node: u64) {
        let newcomer = self.fleet.newcomer() == Some(node);
        self.fleet.tally.count(if newcomer { "newcomer removed" } else { "founder removed" });
        self.fleet.dismiss(node, HEARING).await;
    }

    /// Asks any node that runs to remove `node` from the map that it tells; the status.
    async fn ask_to_remove(&mut self, node: u64) -> Option<u16> {
        let asked = *self.fleet.up().choose(&mut self.rng)?;
        let epoch = self.operator.map(asked).await?["epoch"].as_u64()?;
        let path = format!("/v1/cluster/nodes/{node}");
        Some(self.operator.ask_at(asked, Method::DELETE, &path, epoch).await?.0)
    }

    /// Asks any node that runs; the status.
    async fn any(&mut self, method: Method, path: &str) -> Option<u16> {
        let node = *self.fleet.up().choose(&mut self.rng)?;
        Some(self.operator.ask(node, method, path, String::new()).await?.0)
    }
}
