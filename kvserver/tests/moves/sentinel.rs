//! Watches all replicas all the while: no shard is ever served by two groups.
//!
//! Whatever a replica has applied is committed. Once any replica of a group is seen to serve a shard since
//! move `e`, no other group's leader may still say, under a quorum's confirmation that began later, that it
//! serves the shard since an earlier one. A follower that lags may; nobody is answered by it alone.

use kvserver::moves::watch::Watch;
use proto::{Epoch, GroupId, ShardId, ShardState};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// How often everything is looked at.
const PACE: Duration = Duration::from_millis(3);

/// How long a leader may take to be confirmed.
const CONFIRM_TIME: Duration = Duration::from_millis(500);

/// The nodes that are watched.
pub(crate) type Watches = Arc<Mutex<BTreeMap<u64, Watch>>>;

/// The latest move with which each shard is known to have arrived, and where.
type Served = BTreeMap<ShardId, (Epoch, GroupId)>;

/// See the module.
pub(crate) struct Sentinel {
    task: JoinHandle<()>,
}

fn note(served: &mut Served, shard: ShardId, state: ShardState, group: GroupId) {
    let ShardState::Serving { epoch, .. } = state else { return };
    let known = served.entry(shard).or_insert((epoch, group));
    if epoch > known.0 {
        *known = (epoch, group);
    }
    assert!(
        epoch < known.0 || known.1 == group,
        "{shard} is served since {epoch} by {group} and {}",
        known.1
    );
}

async fn look(watches: &Watches, served: &mut Served) {
    let watches: Vec<Watch> = watches.lock().unwrap().values().cloned().collect();
    for watch in &watches {
        for seen in watch.replicas() {
            seen.shards.iter().for_each(|view| note(served, view.shard, view.state, seen.group));
        }
    }
    for watch in &watches {
        for group in watch.replicas().into_iter().filter(|seen| seen.leads).map(|seen| seen.group) {
            let before = served.clone();
            let Ok(Some(shards)) = timeout(CONFIRM_TIME, watch.confirmed(group)).await else { continue };
            for view in shards {
                let ShardState::Serving { epoch, .. } = view.state else { continue };
                let shard = view.shard;
                let (since, by) = before.get(&shard).copied().unwrap_or((epoch, group));
                assert!(
                    epoch >= since,
                    "{group} confirms that it serves {shard} since {epoch}, {by} does since {since}"
                );
                note(served, shard, view.state, group);
            }
        }
    }
}

impl Sentinel {
    pub(crate) fn start(watches: &Watches) -> Self {
        let watches = watches.clone();
        let task = tokio::spawn(async move {
            let mut served = Served::new();
            loop {
                look(&watches, &mut served).await;
                sleep(PACE).await;
            }
        });
        Self { task }
    }

    /// Ends it; panics with what it saw.
    pub(crate) async fn finish(self) {
        self.task.abort();
        match self.task.await {
            Err(error) if error.is_cancelled() => {}
            other => panic!("{other:?}"),
        }
    }
}
