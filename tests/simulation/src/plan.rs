//! What a seed decides before anything runs: how large the cluster is, how it behaves, who calls.

use raftstore::mutation::Mutation;
use raftstore::{Link, RaftConfig, StorageConfig};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::time::Duration;

/// How many shards the clusters have.
pub const SHARDS: u32 = 16;

/// The large values of a shard that is heavy: several times what a copy hands out in one step.
const HEAVY_VALUES: u32 = 24;

/// Whose random numbers: each part draws from a stream of its own, so that a change to one leaves the others
/// alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// The plan's.
    Plan = 1,
    /// The product's, and the network's.
    Product,
    /// The faults'.
    Faults,
    /// The operator's.
    Operator,
    /// The first client's; others follow.
    Clients,
    /// The walkers'.
    Walkers,
    /// The comings' and goings'.
    Comings,
}

/// A part's own seed.
pub fn seed_of(seed: u64, stream: Stream, number: u64) -> u64 {
    let mut mixed = seed ^ ((stream as u64) << 32 | number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// For how long clients call and faults happen.
    pub time: Duration,
    /// How many nodes there are at first.
    pub nodes: u64,
    /// Whether a further one joins.
    pub newcomer: bool,
    /// How many data groups the cluster is born with.
    pub groups: u32,
    /// How many clients there are, each with a session of its own.
    pub clients: u64,
    /// How many calls each client has under way.
    pub calls: u64,
    /// How many walkers there are.
    pub walkers: u64,
    /// How many keys they share.
    pub keys: usize,
    /// How many large values one shard holds beside them; 0 where copies are to be made in one step.
    pub heavy_values: u32,
    /// The longest pause of a caller between two calls, in milliseconds.
    pub pause_ms_max: u64,
    /// How links behave where no fault is.
    pub link: Link,
    /// How long a sync takes where no fault is.
    pub sync_delay: Duration,
    /// How groups behave.
    pub raft: RaftConfig,
    /// How logs are kept.
    pub storage: StorageConfig,
    /// Whether disks report syncs that they have not made: then the run must fail.
    pub lying_disks: bool,
    /// How long a node may be silent before it counts as dead, in milliseconds; `None` for longer than a run.
    pub dead_after_ms: Option<u64>,
    /// The guarantee that nodes lack: then the run must fail.
    pub mutation: Option<Mutation>,
    /// By how much each node's clock is off, in milliseconds, and what it gains, in millionths.
    pub clocks: Vec<(i64, i64)>,
}

impl Plan {
    /// The plan of a seed.
    pub fn new(seed: u64, time: Duration) -> Self {
        let mut rng = StdRng::seed_from_u64(seed_of(seed, Stream::Plan, 0));
        let nodes = if rng.random_bool(0.25) { 5 } else { 3 };
        let heartbeat_interval_ms = rng.random_range(60..=200);
        let election_timeout_ms_min = heartbeat_interval_ms * 5 / 2;
        let snapshot_log_bytes_min = 1 << rng.random_range(13..=18);
        let raft = RaftConfig {
            heartbeat_interval_ms,
            election_timeout_ms_min,
            election_timeout_ms_max: election_timeout_ms_min * 2,
            snapshot_log_bytes_min,
            log_bytes_kept: snapshot_log_bytes_min / rng.random_range(2..=8),
            ..RaftConfig::default()
        };
        let storage = StorageConfig {
            segment_bytes: 1 << rng.random_range(13..=17),
            slack_bytes: 1 << rng.random_range(14..=18),
            snapshot_part_bytes: 1 << rng.random_range(12..=16),
            ..StorageConfig::default()
        };
        let delay_min = Duration::from_micros(rng.random_range(50..=1_000));
        let link = Link {
            delay_min,
            delay_max: delay_min + Duration::from_micros(rng.random_range(0..=10_000)),
            reset_probability: if rng.random_bool(0.3) { 0.001 } else { 0.0 },
            bytes_per_second: None,
        };
        let skewed = rng.random_bool(0.5);
        let clocks = (0..nodes).map(|_| match skewed {
            true => (rng.random_range(-10_000..=10_000), rng.random_range(-10_000..=10_000)),
            false => (0, 0),
        });
        let clocks = clocks.collect();
        let dead_after_ms = rng.random_range(5_000..15_000);
        let dead_after_ms = rng.random_bool(0.35).then_some(dead_after_ms);
        let heavy = rng.random_bool(0.25);
        // Slow enough for writers to get ahead of a copy, many times as fast as they write.
        let copy_bytes_per_second = rng.random_range(1_000_000..4_000_000);
        let raft = match heavy {
            true => RaftConfig { snapshot_bytes_per_second_max: copy_bytes_per_second, ..raft },
            false => raft,
        };
        Self {
            seed,
            time,
            nodes,
            newcomer: StdRng::seed_from_u64(seed_of(seed, Stream::Comings, 0)).random_bool(0.5),
            groups: rng.random_range(2..=3),
            clients: rng.random_range(2..=5),
            calls: rng.random_range(1..=3),
            walkers: rng.random_range(1..=3),
            keys: rng.random_range(4..=24),
            heavy_values: if heavy { HEAVY_VALUES } else { 0 },
            pause_ms_max: rng.random_range(20..=200),
            link,
            sync_delay: Duration::from_micros(rng.random_range(0..=5_000)),
            raft,
            storage,
            lying_disks: false,
            dead_after_ms,
            mutation: None,
            clocks,
        }
    }
}
