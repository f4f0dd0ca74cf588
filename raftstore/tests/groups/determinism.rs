//! The same seed gives the same run, to the byte and the microsecond: a failure can be looked at twice.

use crate::cluster::{Cluster, Settings};
use crate::journal::Digest;
use crate::persistence::unreliable;
use raftstore::random;
use rand::RngExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// What a run wrote to the network, when, and where it ended.
fn trace(seed: u64) -> (usize, u64, u64) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut cluster = Cluster::prepare(Settings::new(3, seed).with_snapshots());
        let seen = Arc::new(Mutex::new((0, Digest::default())));
        let (into, began) = (seen.clone(), Instant::now());
        cluster.rack.network.observe(Arc::new(move |from, to, bytes| {
            let mut seen = into.lock().unwrap();
            seen.0 += 1;
            seen.1.add(&began.elapsed().as_nanos().to_le_bytes());
            seen.1.add(from.as_bytes());
            seen.1.add(to.as_bytes());
            seen.1.add(bytes);
        }));
        cluster.boot_all().await;
        cluster.leader().await;
        cluster.rack.network.set_default_link(unreliable());
        for round in 0..20 {
            cluster.write().await;
            sleep(Duration::from_millis(random().random_range(0..200))).await;
            if round % 5 == 4 {
                let node = random().random_range(1..=3);
                cluster.restart(node).await;
            }
        }
        let end = cluster.truth().len();
        cluster.check();
        cluster.end().await;
        let (writes, digest) = &*seen.lock().unwrap();
        (*writes, digest.0, end)
    })
}

/// Two runs from one seed write the same bytes at the same times; another seed gives another run.
#[test]
fn a_seed_repeats_a_run() {
    let first = trace(120);
    assert!(first.0 > 300, "{first:?}");
    assert_eq!(first, trace(120));
    assert_ne!(first, trace(121));
}
