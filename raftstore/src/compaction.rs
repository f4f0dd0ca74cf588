//! Keeps a group's log short: makes a snapshot when enough bytes were applied since the last one, then purges
//! the log behind it; and keeps snapshots small: makes one when the data has shrunk below half of the last one.
//!
//! Bytes decide, not entries, so that the disk stays bounded whatever the entries' size. What stays behind the
//! snapshot: `log_bytes_kept`, so that a follower which lags a little is served from the log; and what a
//! follower needs that is being sent an older snapshot or follows in the log, unless that is more than the log may
//! hold for it: then such a follower's stream is ended (see [`LogFloor`]), and it starts over with a newer snapshot.
//! That is before so much of the bound on disk is taken that writers would have to wait for the follower's sake (see
//! [`crate::flow_control`]). What counts is the log behind each follower, not all that there is: at the end of a copy
//! the log is at its longest, and nearly all of it is about to go.
//!
//! Replicas apply the same bytes, so left alone they would all make their snapshots at once, and a write would find
//! no majority of idle disks. So a replica's first snapshot after its start comes early, by its place among the
//! voters, and those that follow keep about that distance; where snapshots have become twice as far apart, so again.

use crate::config::RaftConfig;
use crate::flow_control::{FlowControl, disk_bytes_max};
use crate::group::stop_reason;
use crate::log::GroupLog;
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

/// The part of the data that the disk's bound still has room for, beside the next snapshot, when that is due. Half of
/// that is what the log may grow by while it is made. Less room makes for fewer snapshots and slower writers beside
/// each; see `compaction/simulation.rs`.
const COPY_ROOM_SHARE: u64 = 2;

/// The part that is left to the copy where followers hold the log: enough for it to let the log grow by its least
/// share.
const HELD_ROOM_SHARE: u64 = 3;

/// However little room there is, the log grows by this part of the data between two snapshots: a disk that only makes
/// snapshots serves nobody.
const LEAST_DUE_SHARE: u64 = 8;

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
}

/// Whether the replicas are to be spread anew: never yet, or over a distance that has become short.
fn spreads(due_bytes: u64, spread_over: u64) -> bool {
    due_bytes >= spread_over.saturating_mul(2)
}

/// The bytes of log that make a snapshot due, where the last one took `last_bytes` and one would take `data_bytes` now.
///
/// While it is made, the disk holds the last one, the new one and the log since the last one. What the log grows by
/// meanwhile may count twice, for it may be copied again. So the more the last one takes beyond the data, the sooner
/// the next one begins.
fn due_bytes(config: &RaftConfig, last_bytes: u64, data_bytes: u64) -> u64 {
    let room = room(config, last_bytes, data_bytes, data_bytes / COPY_ROOM_SHARE);
    room.min(replayed_bytes_max(last_bytes, data_bytes))
        .max(data_bytes / LEAST_DUE_SHARE)
        .max(config.snapshot_log_bytes_min)
}

/// The most bytes of log that a restart should have to replay. It reads the last snapshot as well, so where data is
/// overwritten half of that is enough: a restart takes half as long again as one that finds a fresh snapshot. Where the
/// data grows, what is in the log is data that a fresh snapshot would hold, too: making one sooner would spare a restart
/// little, and write the data over and over. Then each snapshot is three times the one before it.
fn replayed_bytes_max(last_bytes: u64, data_bytes: u64) -> u64 {
    let grown = data_bytes.saturating_add(data_bytes / 2).saturating_sub(last_bytes);
    grown.min(data_bytes / 3 * 2).max(last_bytes / 2)
}

/// The most bytes of log that are held for a follower.
fn held_bytes_max(config: &RaftConfig, last_bytes: u64, data_bytes: u64) -> u64 {
    room(config, last_bytes, data_bytes, data_bytes / HELD_ROOM_SHARE).max(config.snapshot_log_bytes_min)
}

/// What the disk's bound has room for beside the last snapshot, the next one and what that needs to be made.
fn room(config: &RaftConfig, last_bytes: u64, data_bytes: u64, needed_bytes: u64) -> u64 {
    let taken = last_bytes.saturating_add(data_bytes).saturating_add(needed_bytes);
    disk_bytes_max(config, data_bytes).saturating_sub(taken)
}

/// Whether so little is left of the data that the last snapshot is mostly a waste of the disk.
fn has_shrunk(config: &RaftConfig, last_bytes: u64, data_bytes: u64) -> bool {
    data_bytes < last_bytes / 2 && last_bytes - data_bytes >= config.snapshot_log_bytes_min
}

/// The bytes after which the replica at `place` of so many `voters` makes a snapshot: the last one, and whoever is not
/// to be spread, after all that makes one due, the others evenly before it. `spread_over` is the distance over which
/// they were spread before, and still are: only what it grew by is shared out anew.
fn first_due(due_bytes: u64, spread_over: u64, place: u64, voters: u64) -> u64 {
    due_bytes - (voters - place) * due_bytes.saturating_sub(spread_over) / voters
}

/// The last index that may be purged, or `None` where nothing may. `held` are indexes that followers hold: each needs
/// what comes after it.
fn purge_upto(view: LogView, config: &RaftConfig, held: impl Iterator<Item = u64>) -> Option<u64> {
    let mean = (view.applied_bytes / view.applied_entries.max(1)).max(1);
    let kept = config.log_bytes_kept / mean;
    let upto = held.fold(view.snapshot.saturating_sub(kept), u64::min);
    (upto > view.purged).then_some(upto)
}

/// The task that keeps one group's log short.
pub(crate) struct Compactor<M: Machine> {
    pub(crate) raft: openraft::Raft<TypeConfig, StateMachine<M>>,
    pub(crate) shared: Arc<Shared<M>>,
    pub(crate) snapshots: SnapshotStore,
    pub(crate) config: RaftConfig,
    pub(crate) floor: LogFloor,
    pub(crate) flow: Arc<FlowControl>,
    pub(crate) log: GroupLog,
}

/// What a look at a replica says of its disk.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    /// The last snapshot.
    last_bytes: u64,
    /// What a snapshot would take now; 0 where that is neither known nor of any importance.
    data_bytes: u64,
}

impl<M: Machine> Compactor<M> {
    /// Runs until the group stops.
    pub(crate) async fn run(self) {
        let mut applied = self.shared.applied();
        let mut spread_over = 0;
        // The first look comes unasked: what was replayed at start may be a snapshot's worth already.
        loop {
            let mut sizes = self.sizes();
            if self.is_due(sizes, &mut spread_over) {
                if !self.snapshot().await {
                    return;
                }
                sizes = self.sizes();
            }
            if !self.purge(sizes).await {
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

    fn sizes(&self) -> Sizes {
        let last_bytes = self.snapshots.current().map_or(0, |snapshot| snapshot.bytes);
        let (least, (_, voters)) = (self.config.snapshot_log_bytes_min, self.place());
        // The machine is asked only where its size may matter: where a snapshot may be due, or the log held too long.
        let matters = last_bytes >= least
            || self.shared.uncovered_bytes() >= least / voters
            || self.flow.log_bytes() >= least;
        Sizes { last_bytes, data_bytes: if matters { self.shared.data_bytes() } else { 0 } }
    }

    /// Whether a snapshot is to be made; `spread_over` is what [`first_due`] says of it.
    fn is_due(&self, Sizes { last_bytes, data_bytes }: Sizes, spread_over: &mut u64) -> bool {
        let due_bytes = due_bytes(&self.config, last_bytes, data_bytes);
        let spreads = spreads(due_bytes, *spread_over);
        let (place, voters) = if spreads { self.place() } else { (1, 1) };
        let is_due = self.shared.uncovered_bytes() >= first_due(due_bytes, *spread_over, place, voters);
        if is_due && spreads {
            *spread_over = due_bytes;
        }
        is_due || has_shrunk(&self.config, last_bytes, data_bytes)
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
        // A follower that is still being sent the one before the last is sent the last instead: the log after it is
        // gone, so it would have to be sent another anyway, and the disk has no room for three.
        let purged = metrics.borrow_watched().purged.map_or(0, |id| id.index());
        self.snapshots.withdraw_before(purged);
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

    /// Purges what may be; `false` once the group has stopped.
    async fn purge(&self, Sizes { last_bytes, data_bytes }: Sizes) -> bool {
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
        };
        let held_bytes_max = held_bytes_max(&self.config, last_bytes, data_bytes);
        // Whoever is below what was purged is past help.
        let held = followers.iter().copied().chain(self.snapshots.in_use()).filter(|&index| {
            index >= purged && (index >= snapshot || self.log.bytes_after(index) < held_bytes_max)
        });
        let Some(upto) = purge_upto(view, &self.config, held) else { return true };
        let purged_or_postponed = self.raft.trigger().purge_log(upto).await.is_ok();
        // openraft postpones a purge as long as a stream is open to a follower that is below it.
        if followers.iter().any(|matched| (purged..upto).contains(matched)) {
            self.floor.raise(upto);
        }
        purged_or_postponed
    }
}

#[cfg(test)]
mod simulation;

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> LogView {
        LogView { snapshot: 1_000, purged: 100, applied_entries: 1_000, applied_bytes: 1_000_000 }
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

    /// The last snapshot is as large as the data: half of it makes the next one due. The more it takes beyond the
    /// data, the sooner; and where it is due, the bound has room for the next one and for what that needs.
    #[test]
    fn a_snapshot_is_due_in_time() {
        const MIB: u64 = 1 << 20;
        let config = RaftConfig::default();
        let due = |last: u64, data: u64| due_bytes(&config, last * MIB, data * MIB) / MIB;
        let (small, large) =
            ([due(0, 0), due(100, 100), due(0, 1_024)], [due(1_000, 1_000), due(1_536, 1_024)]);
        assert_eq!((small, large), ([64, 64, 682], [500, 128]));
        for last in (512..1_500).step_by(16) {
            let taken = last + 1_024 + due(last, 1_024);
            let left = disk_bytes_max(&config, 1_024 * MIB) / MIB - taken;
            assert!(left >= 512, "{left} MiB left after a snapshot of {last}");
        }
    }

    /// Data that only grows is written into snapshots about once and a half in all, not over and over: each makes the
    /// next one due when it has become three times as large.
    #[test]
    fn growing_data_is_not_copied_over_and_over() {
        const MIB: u64 = 1 << 20;
        let config = RaftConfig::default();
        let (mut last, mut written) = (128, 0);
        for data in 128..=4_096 {
            if data - last >= due_bytes(&config, last * MIB, data * MIB) / MIB {
                (last, written) = (data, written + data);
            }
        }
        assert!(last >= 4_096 / 3 && written < last * 3 / 2, "{written} MiB were copied, {last} at last");
    }

    /// Data that has shrunk to less than half of the last snapshot makes one due, though nothing was written; a little
    /// data never does.
    #[test]
    fn shrunken_data_makes_a_snapshot_due() {
        const MIB: u64 = 1 << 20;
        let shrunk = |last: u64, data: u64| has_shrunk(&RaftConfig::default(), last * MIB, data * MIB);
        assert!(shrunk(1_000, 499) && shrunk(1_000, 0) && shrunk(64, 0));
        assert!(!shrunk(1_000, 500) && !shrunk(63, 0) && !shrunk(100, 37) && !shrunk(0, 0));
    }

    /// Followers let go of the log while a copy would still let it grow by its least share.
    #[test]
    fn followers_let_go_before_writers_wait() {
        const MIB: u64 = 1 << 20;
        let config = RaftConfig::default();
        let held = |last: u64, data: u64| held_bytes_max(&config, last * MIB, data * MIB) / MIB;
        assert_eq!([held(0, 0), held(1_200, 1_024), held(3_000, 1_024)], [128, 602, 64]);
        for last in (1_024..1_600).step_by(16) {
            assert!(held(last, 1_024) > due_bytes(&config, last * MIB, 1_024 * MIB) / MIB);
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
        assert_eq!(purge_upto(view(), &config(50_000), none()), Some(950));
        assert_eq!(purge_upto(view(), &config(0), none()), Some(1_000));
        assert_eq!(purge_upto(view(), &config(900_000), none()), None);
    }

    /// Followers in the log hold it, the last of them most; one that is ahead of the snapshot holds nothing.
    #[test]
    fn followers_hold_the_log() {
        let upto = |held: &[u64]| purge_upto(view(), &config(0), held.iter().copied());
        assert_eq!(upto(&[700, 900]), Some(700));
        assert_eq!(upto(&[1_500]), Some(1_000));
        assert_eq!(upto(&[100]), None);
    }
}
