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
//! no majority of idle disks. So they take turns, see [`Turn`].

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

/// The most bytes of log that a restart should have to replay. It reads the last snapshot as well, so where
/// data is overwritten half of that is enough: a restart takes half as long again as one that finds a fresh
/// snapshot. Where the data grows, what is in the log is data that a fresh snapshot would hold, too: making
/// one sooner would spare a restart little, and write the data over and over. Then each of a replica's
/// snapshots is three times its one before. In between it is a quarter less for each byte that the last one
/// is larger, and not a whole one: of two replicas the one that made its last snapshot later must not catch
/// up with the other (see [`Turn`]).
fn replayed_bytes_max(last_bytes: u64, data_bytes: u64) -> u64 {
    let grown = data_bytes.saturating_mul(3).saturating_sub(last_bytes) / 4;
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

/// A replica among the voters of its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    /// Its place by its id, from 1.
    own: u64,
    /// Its leader's; 0 where it knows none that votes.
    leader: u64,
    voters: u64,
}

/// A replica's turn to make a snapshot.
///
/// When the next one is due follows from the last one and what was written since, and the later the last one
/// was made, the later is the next, unless data that was written in between was removed again and the disk
/// has no room. So replicas whose last ones are apart stay apart, and between two of each every other makes
/// one: at the same distance where data is overwritten, in the same proportion where it grows. Nothing has to
/// be done but to bring them apart wherever the last snapshot was not made in the replica's own turn.
#[derive(Clone, Copy, Debug)]
struct Turn {
    /// Whether the last snapshot was made in this replica's turn. That a start finds is taken for one:
    /// whoever restarts alone must not step into another's turn.
    own: bool,
    /// How many snapshots had been taken in by then. One that was taken in since was made in its leader's
    /// turn.
    taken_in: u64,
}

impl Turn {
    /// The turn of a replica that starts, whose last snapshot takes so many bytes; it may have been taken in
    /// again.
    fn new(last_bytes: u64, taken_in: u64) -> Self {
        Self { own: last_bytes > 0, taken_in }
    }

    /// Whether a snapshot is to be made. `taken_in` is how many were since the replica started, and `place`
    /// its own, where it votes.
    fn comes(&mut self, config: &RaftConfig, sizes: Sizes, taken_in: u64, place: Option<Place>) -> bool {
        let Sizes { last_bytes, data_bytes, uncovered_bytes } = sizes;
        if has_shrunk(config, last_bytes, data_bytes) {
            // All replicas may make theirs at this entry.
            *self = Self { own: false, taken_in };
            return true;
        }
        let due_bytes = due_bytes(config, last_bytes, data_bytes);
        let Some(place) = place else { return uncovered_bytes >= due_bytes };
        let maker = match (taken_in == self.taken_in, self.own) {
            (false, _) => place.leader,
            (true, true) => place.own,
            (true, false) => 0,
        };
        let comes = uncovered_bytes >= first_due(due_bytes, maker, place);
        if comes {
            *self = Self { own: true, taken_in };
        }
        comes
    }
}

/// The bytes after which a replica makes its next snapshot where its last one was made in the turn of the
/// voter at place `maker`: as large a part of all that makes one due as its own place is ahead of that, among
/// all places. It is all of it where the turn was its own. Where it was nobody's, `maker` is 0, and the last
/// of the voters waits for all of it.
fn first_due(due_bytes: u64, maker: u64, place: Place) -> u64 {
    let Place { own, voters, .. } = place;
    let behind = (maker + voters - own) % voters;
    due_bytes - due_bytes / voters * behind
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
    /// What the log holds beyond the last snapshot, of which this replica has applied it.
    uncovered_bytes: u64,
}

impl<M: Machine> Compactor<M> {
    /// Runs until the group stops.
    pub(crate) async fn run(self) {
        let mut applied = self.shared.applied();
        let mut turn = Turn::new(self.sizes().last_bytes, self.shared.taken_in());
        // The first look comes unasked: what was replayed at start may be a snapshot's worth already.
        loop {
            let mut sizes = self.sizes();
            if turn.comes(&self.config, sizes, self.shared.taken_in(), self.place()) {
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
        let uncovered_bytes = self.shared.uncovered_bytes();
        let (least, voters) =
            (self.config.snapshot_log_bytes_min, self.place().map_or(1, |place| place.voters));
        // The machine is asked only where its size may matter: where a snapshot may be due, or the log held too long.
        let matters =
            last_bytes >= least || uncovered_bytes >= least / voters || self.flow.log_bytes() >= least;
        let data_bytes = if matters { self.shared.data_bytes() } else { 0 };
        Sizes { last_bytes, data_bytes, uncovered_bytes }
    }

    /// This replica's place among the voters; `None` for whoever is none.
    fn place(&self) -> Option<Place> {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let voters: Vec<u64> = metrics.membership_config.membership().voter_ids().collect();
        let place = |id: u64| {
            let upto = voters.iter().filter(|&&voter| voter <= id).count() as u64;
            voters.contains(&id).then_some(upto)
        };
        let leader = metrics.current_leader.and_then(place).unwrap_or(0);
        Some(Place { own: place(metrics.id)?, leader, voters: voters.len() as u64 })
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
    async fn purge(&self, Sizes { last_bytes, data_bytes, .. }: Sizes) -> bool {
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

    /// Where the replica at `own` of so many voters makes its snapshots, in MiB of log, while its data takes
    /// `data_mib` of so much log, from `from` to `to`, and what they take in all. Its last snapshot takes
    /// `last`.
    fn snapshots(
        (own, voters): (u64, u64),
        turn: &mut Turn,
        mut last: u64,
        (from, to): (u64, u64),
        data_mib: impl Fn(u64) -> u64,
    ) -> (Vec<u64>, u64) {
        const MIB: u64 = 1 << 20;
        let place = Some(Place { own, leader: 1, voters });
        let (mut covered, mut written, mut at) = (from, 0, Vec::new());
        for log in from..=to {
            let data = data_mib(log);
            let sizes = Sizes {
                last_bytes: last * MIB,
                data_bytes: data * MIB,
                uncovered_bytes: (log - covered) * MIB,
            };
            if turn.comes(&RaftConfig::default(), sizes, turn.taken_in, place) {
                (covered, last, written) = (log, data, written + data);
                at.push(log);
            }
        }
        (at, written)
    }

    /// Of the snapshots that all replicas make, in the order in which they make them, each follows the one
    /// before it by so many hundredths of what was written until then.
    fn gaps_percent(mut all: Vec<u64>) -> Vec<u64> {
        all.sort_unstable();
        all.windows(2).map(|pair| (pair[1] - pair[0]) * 100 / pair[0]).collect()
    }

    /// Data that only grows is written into snapshots once and a half in all by each replica, not over and
    /// over: each of its snapshots makes the next one due when that is three times as large. And the replicas
    /// of three or of five stay apart all the while, as they were brought apart at the beginning, or once the
    /// data had shrunk or was there.
    #[test]
    fn growing_data_is_not_copied_over_and_over() {
        const MIB: u64 = 1 << 20;
        for (voters, least_gap) in [(3, 22), (5, 11)] {
            for there in [0, 128, 1_000] {
                let mut all = Vec::new();
                for own in 1..=voters {
                    let mut turn = Turn { own: false, taken_in: 0 };
                    let (at, written) =
                        snapshots((own, voters), &mut turn, there, (there, 16 << 10), |log| log);
                    let case = format!("n{own} of {voters} from {there} MiB on: {at:?}, {written} MiB");
                    for pair in at.windows(2).filter(|pair| pair[0] >= 128) {
                        assert!((pair[0] * 3).abs_diff(pair[1]) <= 8, "{case}");
                    }
                    let last = at[at.len() - 1];
                    assert!(last >= (16 << 10) / 3 && written <= last * 3 / 2, "{case}");
                    all.extend(at.into_iter().filter(|at| *at >= 128));
                }
                let gaps = gaps_percent(all);
                assert!(gaps.iter().all(|gap| *gap >= least_gap), "{voters} voters from {there}: {gaps:?}");
            }
        }
        assert_eq!(
            due_bytes(&RaftConfig::default(), 0, 1_200 * MIB),
            800 * MIB,
            "two thirds of growing data"
        );
    }

    /// Replicas stay apart where data is overwritten, grows, is overwritten again, and then grows by a tenth
    /// of what is written: between two snapshots of one replica each of the others makes one.
    #[test]
    fn replicas_stay_apart_whatever_is_written() {
        let data = |log: u64| match log {
            0..4_000 => log.min(48),
            4_000..8_000 => log - 3_952,
            8_000..16_000 => 4_048,
            _ => 4_048 + (log - 16_000) / 10,
        };
        for voters in [3, 5] {
            let mut all = Vec::new();
            for own in 1..=voters {
                let (at, _) = snapshots((own, voters), &mut Turn::new(0, 0), 0, (0, 40_000), data);
                all.extend(at.into_iter().map(|at| (at, own)));
            }
            all.sort_unstable();
            for stretch in [0..4_000, 8_000..16_000, 16_000..40_000] {
                let here: Vec<_> = all.iter().filter(|(at, _)| stretch.contains(at)).collect();
                let gaps = here.windows(2).map(|pair| pair[1].0 - pair[0].0);
                let (least, most) = (gaps.clone().min(), gaps.max());
                assert!(least.zip(most).is_none_or(|(least, most)| least * 5 >= most), "{voters}: {here:?}");
            }
            for round in all.windows(usize::try_from(voters).unwrap_or_default()) {
                let makers: std::collections::BTreeSet<u64> = round.iter().map(|(_, own)| *own).collect();
                assert_eq!(makers.len(), round.len(), "{voters} voters: {round:?}");
            }
        }
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

    /// Three replicas make their first snapshots a third of the way apart, none later than it is due; and so
    /// again after one that all made at once, or that was taken in.
    #[test]
    fn replicas_take_turns() {
        let first = |maker| [1, 2, 3].map(|own| first_due(90, maker, Place { own, leader: 0, voters: 3 }));
        assert_eq!(first(0), [30, 60, 90]);
        assert_eq!(first(1), [90, 30, 60], "after one that the first has made");
        assert_eq!(first(3), [30, 60, 90]);
        assert_eq!(first_due(90, 1, Place { own: 1, leader: 1, voters: 1 }), 90);
    }

    /// A replica keeps its own turn, over a restart too; after a snapshot that was taken in it comes as far
    /// behind its leader as its place is, and after one for data that has shrunk by its place alone. Who does
    /// not vote has no turn.
    #[test]
    fn a_turn_is_kept_until_a_snapshot_is_anothers() {
        const MIB: u64 = 1 << 20;
        let (config, third) = (RaftConfig::default(), Place { own: 3, leader: 2, voters: 3 });
        let sizes = |uncovered: u64| Sizes {
            last_bytes: 900 * MIB,
            data_bytes: 900 * MIB,
            uncovered_bytes: uncovered * MIB,
        };
        let mut turn = Turn::new(900 * MIB, 1);
        assert!(!turn.comes(&config, sizes(449), 1, Some(third)), "half of the last snapshot");
        assert!(turn.comes(&config, sizes(450), 1, Some(third)));
        assert!(!turn.comes(&config, sizes(149), 2, Some(third)), "one after its leader");
        assert!(turn.comes(&config, sizes(150), 2, Some(third)));
        assert!(!turn.comes(&config, sizes(449), 2, Some(third)), "its own again");
        let mut learner = Turn::new(0, 0);
        assert!(learner.comes(&config, sizes(450), 1, None) && !learner.comes(&config, sizes(449), 1, None));
        assert!(learner.comes(&config, sizes(150), 1, Some(third)), "it votes now");
        let shrunk = Sizes { last_bytes: 900 * MIB, data_bytes: 300 * MIB, uncovered_bytes: 0 };
        let first = Place { own: 1, ..third };
        assert!(turn.comes(&config, shrunk, 2, Some(first)));
        assert!(
            turn.comes(&config, sizes(150), 2, Some(first))
                && !turn.comes(&config, sizes(150), 2, Some(first))
        );
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
