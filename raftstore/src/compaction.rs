//! Keeps a group's log short: makes a snapshot when enough bytes were applied since the last one, then purges
//! the log behind it.
//!
//! Bytes decide, not entries, so that the disk stays bounded whatever the entries' size. What stays behind the
//! snapshot: `log_bytes_kept`, so that a follower which lags a little is served from the log; and what a
//! follower needs that is being sent an older snapshot or follows in the log, unless the log has outgrown that:
//! then such a follower's stream is ended (see [`LogFloor`]),
//! and it starts over with a newer one.
//!
//! Replicas apply the same bytes, so left alone they would all make their snapshots at once, and a write would find
//! no majority of idle disks. So a replica's first snapshot after its start comes early, by its place among the
//! voters, and those that follow keep about that distance; where snapshots have become twice as far apart, so again.

use crate::config::RaftConfig;
use crate::group::stop_reason;
use crate::machine::Machine;
use crate::replica::{Shared, StateMachine};
use crate::snapshot::SnapshotStore;
use crate::transport::LogFloor;
use crate::types::TypeConfig;
use openraft::async_runtime::WatchReceiver;
use std::sync::Arc;
use std::time::Duration;

/// How long a busy group is left alone between two looks. A snapshot is late by no more than what is applied
/// meanwhile.
const PACE: Duration = Duration::from_millis(200);

/// How long an idle group is left alone between two looks.
const LOOK: Duration = Duration::from_secs(10);

/// How many times the least bytes that make a snapshot due the log may hold before followers stop holding it, unless the
/// last snapshot is larger than that: whoever is sent a snapshot has to take it in before as much was written anew.
const LOG_OUTGROWN: u64 = 3;

/// What the log holds, in entries and bytes: enough to turn bytes to keep into entries to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LogView {
    /// The last index that a snapshot covers.
    snapshot: u64,
    /// The last index that was purged; 0 for none.
    purged: u64,
    /// Entries and bytes applied since this replica started, for their mean.
    applied_entries: u64,
    applied_bytes: u64,
    /// Bytes of the log that are not purged.
    live_bytes: u64,
}

/// Whether the replicas are to be spread anew: never yet, or over a distance that has become short.
fn spreads(due_bytes: u64, spread_over: u64) -> bool {
    due_bytes >= spread_over.saturating_mul(2)
}

/// The bytes of log that make a snapshot due, after one of `last_bytes` during which the log grew by `grown_bytes`.
///
/// While a snapshot is made, the disk holds the last one, the new one and the log since the last one, and is to hold
/// three times the data at most. What the log grows by meanwhile counts three times: in the log, and as what was
/// copied again, in both snapshots. So the more there is written, the sooner the next one begins; with little, half
/// of the last one is the bound, for a restart replays what is in the log.
fn due_bytes(config: &RaftConfig, last_bytes: u64, grown_bytes: u64) -> u64 {
    let data_bytes = last_bytes.saturating_sub(grown_bytes);
    let room = (data_bytes / 4 * 3).saturating_sub(grown_bytes.saturating_mul(3));
    config.snapshot_log_bytes_min.max(room.clamp(last_bytes / 5, last_bytes / 2))
}

/// The bytes after which the replica at `place` of so many `voters` makes a snapshot: the last one, and whoever is not
/// to be spread, after all that makes one due, the others evenly before it. `spread_over` is the distance over which
/// they were spread before, and still are: only what it grew by is shared out anew.
fn first_due(due_bytes: u64, spread_over: u64, place: u64, voters: u64) -> u64 {
    due_bytes - (voters - place) * due_bytes.saturating_sub(spread_over) / voters
}

/// The last index that may be purged, or `None` where nothing may. `needed` are indexes that followers hold:
/// each needs what comes after it.
fn purge_upto(
    view: LogView,
    config: &RaftConfig,
    outgrown_bytes: u64,
    needed: impl Iterator<Item = u64>,
) -> Option<u64> {
    let mean = (view.applied_bytes / view.applied_entries.max(1)).max(1);
    let kept = config.log_bytes_kept / mean;
    let mut upto = view.snapshot.saturating_sub(kept);
    if view.live_bytes < outgrown_bytes {
        upto = needed.filter(|&index| index >= view.purged).fold(upto, u64::min);
    }
    (upto > view.purged).then_some(upto)
}

/// The task that keeps one group's log short.
pub(crate) struct Compactor<M: Machine> {
    pub(crate) raft: openraft::Raft<TypeConfig, StateMachine<M>>,
    pub(crate) shared: Arc<Shared<M>>,
    pub(crate) snapshots: SnapshotStore,
    pub(crate) config: RaftConfig,
    pub(crate) floor: LogFloor,
    /// Bytes of this group's log that are not purged.
    pub(crate) live_bytes: Box<dyn Fn() -> u64 + Send + Sync>,
}

impl<M: Machine> Compactor<M> {
    /// Runs until the group stops.
    pub(crate) async fn run(self) {
        let mut applied = self.shared.applied();
        let (mut covered_bytes, mut grown_bytes, mut spread_over) = (0, 0, 0);
        // The first look comes unasked: what was replayed at start may be a snapshot's worth already.
        loop {
            let applied_bytes = self.shared.applied_bytes();
            let due_bytes = self.due_bytes(grown_bytes);
            let spreads = spreads(due_bytes, spread_over);
            let (place, voters) = if spreads { self.place() } else { (1, 1) };
            if applied_bytes - covered_bytes >= first_due(due_bytes, spread_over, place, voters) {
                if !self.snapshot().await {
                    return;
                }
                covered_bytes = applied_bytes;
                grown_bytes = self.shared.applied_bytes() - applied_bytes;
                if spreads {
                    spread_over = due_bytes;
                }
            }
            if !self.purge().await {
                return;
            }
            // This task shares the machine, so the end of `applied` never comes: the group's does.
            tokio::select! {
                biased;
                changed = applied.changed() => changed.expect("the sender lives in what this task shares"),
                _ = stop_reason(&self.raft) => return,
                // What could not be purged is looked at again even where nobody writes any more.
                () = tokio::time::sleep(LOOK) => {}
            }
            tokio::time::sleep(PACE).await;
        }
    }

    fn due_bytes(&self, grown_bytes: u64) -> u64 {
        let last_bytes = self.snapshots.current().map_or(0, |snapshot| snapshot.bytes);
        due_bytes(&self.config, last_bytes, grown_bytes)
    }

    /// This replica's place among the voters, from 1, and their number; `(1, 1)` for whoever is none.
    fn place(&self) -> (u64, u64) {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let voters: Vec<u64> = metrics.membership_config.membership().voter_ids().collect();
        let place = voters.iter().filter(|&&voter| voter <= metrics.id).count();
        if voters.contains(&metrics.id) { (place as u64, voters.len() as u64) } else { (1, 1) }
    }

    /// Makes a snapshot and waits for it; `false` once the group has stopped.
    async fn snapshot(&self) -> bool {
        let mut metrics = self.raft.data_metrics();
        let before = metrics.borrow_watched().snapshot;
        let applied = *self.shared.applied().borrow();
        // A snapshot that a leader sent has come first: openraft would ignore another of the same entries.
        if before.is_some_and(|id| id.index() >= applied) {
            return true;
        }
        if self.raft.trigger().snapshot().await.is_err() {
            return false;
        }
        while metrics.borrow_and_update().snapshot <= before {
            if metrics.changed().await.is_err() {
                return false;
            }
        }
        true
    }

    /// The bytes of log from which followers do not hold it any more.
    fn outgrown_bytes(&self) -> u64 {
        let last_bytes = self.snapshots.current().map_or(0, |snapshot| snapshot.bytes);
        self.config.snapshot_log_bytes_min.saturating_mul(LOG_OUTGROWN).max(last_bytes)
    }

    /// Purges what may be; `false` once the group has stopped.
    async fn purge(&self) -> bool {
        let (snapshot, purged, followers) = {
            let metrics = self.raft.data_metrics();
            let metrics = metrics.borrow_watched();
            let Some(snapshot) = metrics.snapshot else { return true };
            let followers: Vec<u64> = match &metrics.replication {
                Some(replication) => replication.values().flatten().map(|matched| matched.index()).collect(),
                None => Vec::new(),
            };
            (snapshot.index(), metrics.purged.map_or(0, |id| id.index()), followers)
        };
        let view = LogView {
            snapshot,
            purged,
            applied_entries: self.shared.applied_entries(),
            applied_bytes: self.shared.applied_bytes(),
            live_bytes: (self.live_bytes)(),
        };
        let needed = followers.iter().copied().chain(self.snapshots.in_use());
        let Some(upto) = purge_upto(view, &self.config, self.outgrown_bytes(), needed) else { return true };
        let purged_or_postponed = self.raft.trigger().purge_log(upto).await.is_ok();
        // openraft postpones a purge as long as a stream is open to a follower that is below it.
        if followers.iter().any(|matched| (purged..upto).contains(matched)) {
            self.floor.raise(upto);
        }
        purged_or_postponed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> LogView {
        LogView {
            snapshot: 1_000,
            purged: 100,
            applied_entries: 1_000,
            applied_bytes: 1_000_000,
            live_bytes: 900_000,
        }
    }

    fn config(kept: u64) -> RaftConfig {
        RaftConfig { log_bytes_kept: kept, ..RaftConfig::default() }
    }

    /// Replicas are spread at their start, and whenever snapshots have become twice as far apart.
    #[test]
    fn replicas_are_spread_again_as_snapshots_grow() {
        assert!(spreads(64 << 20, 0));
        assert!(!spreads(64 << 20, 64 << 20));
        assert!(!spreads(127 << 20, 64 << 20));
        assert!(spreads(128 << 20, 64 << 20));
    }

    /// Little is written: half of the last snapshot makes the next one due. Much is: a fifth. In between, three times
    /// the data hold everything that is on disk while a snapshot is made.
    #[test]
    fn a_snapshot_is_due_in_time() {
        const MIB: u64 = 1 << 20;
        let due = |last: u64, grown: u64| due_bytes(&RaftConfig::default(), last * MIB, grown * MIB) / MIB;
        assert_eq!([due(0, 0), due(100, 0), due(1_000, 0), due(1_000, 1_000)], [64, 64, 500, 200]);
        for grown in (0..250).step_by(10) {
            let (data, last) = (1_024, 1_024 + grown);
            let peak = 2 * last + due(last, grown) + grown;
            assert!(peak <= 3 * data + 64, "{peak} MiB where the log grew by {grown}");
        }
    }

    /// Three replicas make their snapshots a third of the way apart, none later than it is due; and so again where
    /// snapshots come further apart.
    #[test]
    fn replicas_take_turns() {
        let first = [1, 2, 3].map(|place| first_due(90, 0, place, 3));
        assert_eq!(first, [30, 60, 90]);
        let second = [1, 2, 3].map(|place| first_due(180, 90, place, 3));
        let at: Vec<u64> = first.iter().zip(second).map(|(first, second)| first + second).collect();
        assert_eq!(at, [150, 210, 270], "a third of 180 apart");
        assert_eq!(first_due(90, 0, 1, 1), 90);
    }

    /// Bytes to keep become entries to keep by their mean size.
    #[test]
    fn keeps_bytes_behind_the_snapshot() {
        let none = std::iter::empty;
        assert_eq!(purge_upto(view(), &config(50_000), 1 << 20, none()), Some(950));
        assert_eq!(purge_upto(view(), &config(0), 1 << 20, none()), Some(1_000));
        assert_eq!(purge_upto(view(), &config(900_000), 1 << 20, none()), None);
    }

    /// A follower in the log holds it; one below what is purged is past help; an outgrown log is held by none.
    #[test]
    fn followers_hold_the_log_within_bounds() {
        let upto = |needed: u64, due| purge_upto(view(), &config(0), due, std::iter::once(needed));
        assert_eq!(upto(700, 1 << 20), Some(700));
        assert_eq!(upto(50, 1 << 20), Some(1_000));
        assert_eq!(upto(100, 1 << 20), None);
        assert_eq!(upto(700, 300_000), Some(1_000));
    }
}
