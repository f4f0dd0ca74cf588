//! How a node comes into a cluster that runs: it asks a seed who the others are and what the cluster was born
//! with, then announces itself, and is given replicas as the map says.
//!
//! Everything that speaks against it is found out before its disk remembers anything, on a host that lives in
//! memory: a directory must not belong to a node that could not join. Must never take over the number of a
//! node that lives.

use crate::acquaintance::Acquaintance;
use crate::birth::BornWith;
use crate::config::{Join, NodeConfig};
use crate::node::StartError;
use proto::{ClusterMap, Epoch, NodeState};
use raftstore::{Address, Clock, Host, HostConfig, Network, SimulatedDisk};
use shardctrler::{ControllerHandle, SeedError, map_of, silence_of};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long seeds may take to answer: they may be starting, too.
const SEEDS_TIME: Duration = Duration::from_secs(10);

/// How often it is said meanwhile that none has.
const SEEDS_NOTICE: Duration = Duration::from_secs(3);

/// The pause before seeds are asked again.
const SEEDS_PACE: Duration = Duration::from_millis(200);

/// How often seeds are asked by a node that nobody who leads the controller hears of.
const SEEK_PACE: Duration = Duration::from_secs(1);

/// How often it is looked whether a former node of this number is dead yet.
const DEATH_PACE: Duration = Duration::from_millis(500);

/// A sign of life that was given this long after the first look is no straggler of a node that has died
/// before it.
const STRAGGLER_TIME: Duration = Duration::from_secs(1);

/// What a node knows of its cluster before it has joined.
pub(crate) struct Introduction {
    pub(crate) born: BornWith,
    pub(crate) known: Acquaintance,
}

/// Asks the seeds.
///
/// # Errors
/// [`StartError::Join`] with what speaks against joining.
pub(crate) async fn introduce(
    config: &NodeConfig,
    join: &Join,
    host_config: HostConfig,
    network: Arc<dyn Network>,
    clock: Arc<dyn Clock>,
) -> Result<Introduction, StartError> {
    let seeds = join.others().collect::<Vec<_>>().join(", ");
    tracing::info!(node = %config.node, %seeds, "node asks for the map of the cluster that it is to join");
    let host = Host::start(host_config, Arc::new(SimulatedDisk::new()), network, clock).await?;
    let found = find(&host, config, join).await;
    host.shutdown().await?;
    let map = found.map_err(StartError::Join)?;
    // Its groups have been born long since: it has no part in that.
    let born = BornWith { shards: map.shard_map.shards, groups: 0 };
    Ok(Introduction { born, known: Acquaintance::default().after(&map, config.node, Epoch(0)) })
}

async fn find(host: &Host, config: &NodeConfig, join: &Join) -> Result<ClusterMap, String> {
    let mut map = first_map(host, join).await?;
    let node = config.node;
    for other in map.nodes.iter().filter(|view| view.node != node && view.state != NodeState::Dead) {
        let Address { peer, http } = &join.address;
        let taken =
            [(peer, &other.spec.peer), (http, &other.spec.http)].into_iter().find(|(own, its)| own == its);
        if let Some((address, _)) = taken {
            return Err(format!("the address {address} is that of {} already", other.node));
        }
    }
    let began = Instant::now();
    let mut told = false;
    loop {
        // A new disk never is the one that the map knows.
        let former = map.nodes.iter().find(|view| view.node == node && view.state != NodeState::Dead);
        let Some(former) = former else { return Ok(map) };
        let looked_for = began.elapsed();
        let silence = silence_of(host, &map, node, former.spec.incarnation).await;
        if silence.is_some_and(|silence| silence + STRAGGLER_TIME < looked_for) {
            return Err(format!(
                "{node} is in use: the cluster hears of it at {}, on another disk. Choose another id, or stop that node \
                 and wait until the cluster counts it as dead",
                former.spec.peer
            ));
        }
        if !told {
            let dead_after_ms = map.settings.dead_after_ms;
            tracing::warn!(%node, dead_after_ms, "the cluster knows this node by another disk; waits until it counts as dead");
            told = true;
        }
        sleep(DEATH_PACE).await;
        if let Ok(later) = first_map(host, join).await {
            map = later;
        }
    }
}

/// What the first seed that answers says. Whoever waits for it hears at once where nobody does, and why.
async fn first_map(host: &Host, join: &Join) -> Result<ClusterMap, String> {
    let began = Instant::now();
    let mut notice = began;
    loop {
        let mut unreached: BTreeMap<&str, String> = BTreeMap::new();
        for seed in join.others() {
            match map_of(host, seed).await {
                Ok(map) => return Ok(map),
                Err(SeedError::Refused(why)) => return Err(why),
                Err(SeedError::Unreached(why)) => drop(unreached.insert(seed, why)),
            }
        }
        let why = unreached.into_values().collect::<Vec<_>>().join("; ");
        let left = SEEDS_TIME.saturating_sub(began.elapsed());
        if left.is_zero() {
            return Err(format!("no seed has answered: {why}"));
        }
        if Instant::now() >= notice {
            let (node, left) = (host.node(), left.as_secs_f64().ceil());
            tracing::warn!(%node, "no seed has answered yet, goes on asking for {left} s: {why}");
            notice = Instant::now() + SEEDS_NOTICE;
        }
        sleep(SEEDS_PACE).await;
    }
}

/// Asks the seeds while whoever leads the controller does not hear of this node: those that it knew may have come back
/// elsewhere, all at once, or have gone while it was away. Who they are is found out, and each of them learns in
/// turn where this node is.
pub(crate) async fn seek(host: Arc<Host>, controller: Arc<ControllerHandle>, join: Join) {
    let mut told: BTreeMap<&str, SeedError> = BTreeMap::new();
    loop {
        sleep(SEEK_PACE).await;
        if controller.is_in_touch() {
            told.clear();
            continue;
        }
        for seed in join.others() {
            match map_of(&host, seed).await {
                Ok(map) => controller.learn(map),
                Err(error) if told.get(seed) == Some(&error) => {}
                Err(error) => {
                    tracing::info!(node = %host.node(), %error, "seed did not tell the map");
                    told.insert(seed, error);
                }
            }
        }
    }
}
