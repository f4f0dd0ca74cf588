//! What groups see of their logs, together and apart.

use super::*;
use openraft::storage::LogState;
use proptest::prelude::*;
use std::time::Duration;
use tokio::time::Instant;

/// Appends that wait while a sync is under way are all made durable by the next one.
#[test]
fn appends_of_all_groups_share_a_sync() {
    simulated(|disk| async move {
        let storage = open(&disk, StorageConfig::default()).await.unwrap();
        settle(&storage).await;
        disk.set_sync_delay(Duration::from_millis(10));
        let before = (disk.counters().syncs, Instant::now());
        let mut told = Vec::new();
        for round in 0..100 {
            for group in 1..=8 {
                told.push(append(&mut storage.log(GroupId(group)), vec![entry(1, round, 100)]).await);
            }
        }
        for told in told {
            told.await.unwrap().unwrap();
        }
        // The first may leave alone, for nothing was under way when it came.
        assert!(disk.counters().syncs - before.0 <= 2, "{:?}", disk.counters());
        assert!(before.1.elapsed() <= Duration::from_millis(20));
        assert_eq!(storage.stats().entries, 800);
    });
}

/// Entries can be read when append returns, and are not reported durable before a sync.
#[test]
fn appended_entries_are_readable_before_they_are_durable() {
    simulated(|disk| async move {
        let storage = open(&disk, StorageConfig::default()).await.unwrap();
        disk.set_sync_delay(Duration::from_secs(1));
        let mut log = storage.log(G1);
        let mut told = append(&mut log, entries(1, 0..5, 10)).await;
        assert_eq!(all(&log).await, entries(1, 0..5, 10));
        assert!(told.try_recv().is_err());
        assert_eq!(disk.counters().syncs, 0);
        told.await.unwrap().unwrap();
        assert_eq!(disk.counters().syncs, 1);
    });
}

/// A vote is answered after its sync, and not seen before.
#[test]
fn a_vote_waits_for_its_sync() {
    simulated(|disk| async move {
        let storage = open(&disk, StorageConfig::default()).await.unwrap();
        disk.set_sync_delay(Duration::from_secs(1));
        let (mut log, mut reader) = (storage.log(G1), storage.log(G1));
        let started = Instant::now();
        let saving = tokio::spawn(async move { log.save_vote(&Vote::new(3, 2)).await });
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(reader.read_vote().await.unwrap(), None);
        saving.await.unwrap().unwrap();
        assert_eq!(started.elapsed(), Duration::from_secs(1));
        assert_eq!(reader.read_vote().await.unwrap(), Some(Vote::new(3, 2)));
    });
}

/// A commit mark costs no sync of its own, and reaches the disk with the next record, or on closing.
#[test]
fn commit_marks_ride_along() {
    simulated(|disk| async move {
        let storage = open(&disk, StorageConfig::default()).await.unwrap();
        let mut log = storage.log(G1);
        append_synced(&mut log, entries(1, 0..9, 10)).await;
        let before = disk.counters();
        log.save_committed(Some(id(1, 3))).await.unwrap();
        tokio::time::sleep(Duration::from_secs(100)).await;
        assert_eq!(disk.counters(), before);
        append_synced(&mut log, vec![entry(1, 9, 10)]).await;
        let later = open(&disk.crash(1), StorageConfig::default()).await.unwrap();
        assert_eq!(later.log(G1).read_committed().await.unwrap(), Some(id(1, 3)));

        let mut log = later.log(G1);
        log.save_committed(Some(id(1, 5))).await.unwrap();
        later.close().await.unwrap();
        assert!(matches!(log.save_committed(None).await, Err(error) if error.to_string().contains("closed")));
    });
}

/// A commit mark beyond the log is not believed.
#[test]
fn a_commit_mark_beyond_the_log_is_cut() {
    simulated(|disk| async move {
        let storage = open(&disk, StorageConfig::default()).await.unwrap();
        let mut log = storage.log(G1);
        append_synced(&mut log, entries(1, 0..3, 10)).await;
        log.save_committed(Some(id(1, 8))).await.unwrap();
        storage.close().await.unwrap();
        let storage = open(&disk, StorageConfig::default()).await.unwrap();
        assert_eq!(storage.log(G1).read_committed().await.unwrap(), Some(id(1, 2)));
    });
}

/// Entries that do not follow the last one are refused, and nothing of them is kept.
#[test]
fn a_hole_is_refused() {
    simulated(|disk| async move {
        let storage = open(&disk, StorageConfig::default()).await.unwrap();
        let mut log = storage.log(G1);
        append_synced(&mut log, entries(1, 0..3, 10)).await;
        for bad in [vec![entry(1, 4, 1)], vec![entry(1, 2, 1)], vec![entry(1, 3, 1), entry(1, 5, 1)]] {
            let (tell, _told) = TypeConfig::oneshot();
            let error = log.append(bad, IOFlushed::<TypeConfig>::signal(tell)).await.unwrap_err();
            assert!(error.to_string().contains("does not follow"), "{error}");
        }
        assert_eq!(all(&log).await, entries(1, 0..3, 10));
        append_synced(&mut log, vec![entry(1, 3, 10)]).await;
        storage.close().await.unwrap();
        let storage = open(&disk, StorageConfig::default()).await.unwrap();
        assert_eq!(all(&storage.log(G1)).await, entries(1, 0..4, 10));
    });
}

/// A full queue makes appends wait; it never grows beyond its bound.
#[test]
fn a_full_queue_makes_callers_wait() {
    simulated(|disk| async move {
        let config = StorageConfig { queue_bytes_max: 10_000, ..StorageConfig::default() };
        let storage = open(&disk, config).await.unwrap();
        disk.set_sync_delay(Duration::from_secs(1));
        let mut log = storage.log(G1);
        let started = Instant::now();
        for index in 0..30 {
            drop(append(&mut log, vec![entry(1, index, 1_000)]).await);
        }
        // Nine at a time fit: 30 of them need at least three syncs before the last is let in.
        assert!(started.elapsed() >= Duration::from_secs(3), "{:?}", started.elapsed());
        settle(&storage).await;
        assert_eq!(all(&log).await.len(), 30);
    });
}

/// Reads for followers return a bounded piece, and at least one entry, from memory and from disk alike.
#[test]
fn reads_are_bounded() {
    simulated(|disk| async move {
        for tail_bytes_max in [0, 1 << 20] {
            let config = StorageConfig { tail_bytes_max, read_bytes_max: 1_000, ..StorageConfig::default() };
            let storage = open(&disk, config).await.unwrap();
            let mut log = storage.log(G1);
            log.purge(id(0, 0)).await.unwrap();
            log.truncate_after(Some(id(0, 0))).await.unwrap();
            append_synced(&mut log, entries(1, 1..20, 300)).await;
            append_synced(&mut log, entries(1, 20..30, 3_000)).await;
            let read = log.limited_get_log_entries(1, 30).await.unwrap();
            assert_eq!(read, entries(1, 1..4, 300));
            let read = log.limited_get_log_entries(25, 30).await.unwrap();
            assert_eq!(read, entries(1, 25..26, 3_000));
            assert_eq!(log.limited_get_log_entries(5, 5).await.unwrap(), vec![]);
            assert_eq!(log.try_get_log_entries(1..30).await.unwrap().len(), 29);
            assert_eq!(storage.stats().disk_reads > 0, tail_bytes_max == 0);
            storage.close().await.unwrap();
        }
    });
}

/// The memory that tails take is bounded, and a quiet group keeps its few entries beside a busy one.
#[test]
fn tails_share_the_memory_fairly() {
    simulated(|disk| async move {
        let config = StorageConfig { tail_bytes_max: 100_000, ..StorageConfig::default() };
        let storage = open(&disk, config).await.unwrap();
        append_synced(&mut storage.log(G2), entries(1, 0..10, 100)).await;
        let mut busy = storage.log(G1);
        for index in 0..1_000 {
            append_synced(&mut busy, vec![entry(1, index, 1_000)]).await;
            assert!(storage.stats().tail_bytes <= 107_000, "{:?}", storage.stats());
        }
        assert_eq!(all(&storage.log(G2)).await, entries(1, 0..10, 100));
        assert_eq!(storage.stats().disk_reads, 0);
        assert_eq!(all(&busy).await, entries(1, 0..1_000, 1_000));
        assert_eq!(storage.stats().disk_reads, 1);
    });
}

/// A group that was forgotten has nothing left, is not found after a restart, and may come again.
#[test]
fn a_forgotten_group_is_gone() {
    simulated(|disk| async move {
        let storage = open(&disk, tiny()).await.unwrap();
        let mut log = storage.log(G1);
        log.save_vote(&Vote::new(7, 1)).await.unwrap();
        append_synced(&mut log, entries(1, 0..5, 10)).await;
        append_synced(&mut storage.log(G2), entries(1, 0..5, 10)).await;
        storage.forget(G1).await.unwrap();
        assert_eq!(storage.groups(), vec![G2,]);
        storage.close().await.unwrap();
        let storage = open(&disk, tiny()).await.unwrap();
        assert_eq!(storage.groups(), vec![G2]);
        let mut log = storage.log(G1);
        assert_eq!(log.get_log_state().await.unwrap(), LogState::default());
        assert_eq!(log.read_vote().await.unwrap(), None);
        append_synced(&mut log, entries(2, 0..3, 10)).await;
        assert_eq!(all(&log).await, entries(2, 0..3, 10));
    });
}

/// Another node's or cluster's directory is refused, in words that name both.
#[test]
fn a_foreign_directory_is_refused() {
    simulated(|disk| async move {
        open(&disk, tiny()).await.unwrap().close().await.unwrap();
        for other in
            [Identity { node: NodeId(2), ..identity() }, Identity { cluster: "other".into(), ..identity() }]
        {
            let names = (identity().to_string(), other.to_string());
            let error = Storage::open(Arc::new(disk.clone()), other, tiny()).await.unwrap_err();
            let text = error.to_string();
            assert!(matches!(error, StorageError::Foreign { .. }), "{text}");
            assert!(text.contains(&names.0) && text.contains(&names.1), "{text}");
        }
        open(&disk, tiny()).await.unwrap();
    });
}

/// Storages that are dropped without closing write what was queued, and let a successor in.
#[test]
fn dropping_writes_what_was_queued() {
    simulated(|disk| async move {
        let storage = open(&disk, tiny()).await.unwrap();
        let mut log = storage.log(G1);
        let told = append(&mut log, entries(1, 0..5, 10)).await;
        drop((storage, log));
        told.await.unwrap().unwrap();
        let storage = open(&disk, tiny()).await.unwrap();
        assert_eq!(all(&storage.log(G1)).await, entries(1, 0..5, 10));
    });
}

/// The last log id of each leader is known without reading the log, wherever its entries are.
#[test]
fn key_log_ids_name_the_last_of_each_leader() {
    simulated(|disk| async move {
        let storage = open(&disk, tiny()).await.unwrap();
        let mut log = storage.log(G1);
        for (term, range) in [(1, 0..10), (2, 10..11), (5, 11..40), (6, 40..41)] {
            append_synced(&mut log, entries(term, range, 100)).await;
        }
        let ids = |first: u64, last: LogId| {
            let mut log = log.clone();
            async move { log.get_key_log_ids(id(1, first)..=last).await.unwrap() }
        };
        assert_eq!(ids(0, id(6, 40)).await, vec![id(1, 9), id(2, 10), id(5, 39), id(6, 40)]);
        assert_eq!(ids(3, id(5, 20)).await, vec![id(1, 9), id(2, 10), id(5, 20)]);
        assert_eq!(ids(3, id(1, 7)).await, vec![id(1, 7)]);
        assert!(log.get_key_log_ids(id(1, 0)..=id(7, 50)).await.is_err());
    });
}

/// What a group's log should be.
#[derive(Clone, Debug, Default)]
struct Model {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    entries: Vec<Entry>,
    term: u64,
}

#[derive(Clone, Debug)]
enum Step {
    Append {
        count: u64,
        bytes: usize,
    },
    NewTerm,
    Truncate {
        back: u64,
    },
    Purge {
        ahead: u64,
    },
    /// A snapshot replaces the whole log.
    Leap {
        ahead: u64,
    },
    Commit,
    Vote,
    Reopen,
}

fn step() -> impl Strategy<Value = (u64, Step)> {
    let step = prop_oneof![
        8 => (1u64..8, 0usize..400).prop_map(|(count, bytes)| Step::Append { count, bytes }),
        2 => Just(Step::NewTerm),
        2 => (0u64..6).prop_map(|back| Step::Truncate { back }),
        2 => (0u64..10).prop_map(|ahead| Step::Purge { ahead }),
        1 => (1u64..5).prop_map(|ahead| Step::Leap { ahead }),
        1 => Just(Step::Commit),
        1 => Just(Step::Vote),
        1 => Just(Step::Reopen),
    ];
    (1u64..4, step)
}

impl Model {
    fn last(&self) -> Option<LogId> {
        self.entries.last().map(|entry| entry.log_id).or(self.purged)
    }

    fn next(&self) -> u64 {
        self.last().map_or(0, |last| last.index() + 1)
    }

    async fn apply(&mut self, log: &mut GroupLog, step: &Step) {
        match *step {
            Step::Append { count, bytes } => {
                let new = entries(self.term, self.next()..self.next() + count, bytes);
                self.entries.extend(new.clone());
                drop(append(log, new).await);
            }
            Step::NewTerm => self.term += 1,
            Step::Truncate { back } => {
                let kept = self.entries.len().saturating_sub(back as usize);
                // Raft never takes back what was committed.
                let end = self.entries.get(kept.wrapping_sub(1)).map(|entry| entry.log_id);
                if kept > 0 && end >= self.committed {
                    self.entries.truncate(kept);
                    self.term += 1;
                    log.truncate_after(self.last()).await.unwrap();
                }
            }
            Step::Purge { ahead } => {
                if let Some(upto) = self.entries.get(ahead as usize).map(|entry| entry.log_id) {
                    self.purge(log, upto).await;
                }
            }
            Step::Leap { ahead } => self.purge(log, id(self.term, self.next() + ahead)).await,
            Step::Commit => {
                self.committed = self.last();
                log.save_committed(self.committed).await.unwrap();
            }
            Step::Vote => {
                self.vote = Some(Vote::new(self.term, 1));
                log.save_vote(&Vote::new(self.term, 1)).await.unwrap();
            }
            Step::Reopen => {}
        }
    }

    async fn purge(&mut self, log: &mut GroupLog, upto: LogId) {
        self.entries.retain(|entry| entry.log_id.index() > upto.index());
        self.purged = Some(upto);
        log.purge(upto).await.unwrap();
    }

    async fn check(&self, log: &mut GroupLog) {
        let state = LogState { last_purged_log_id: self.purged, last_log_id: self.last() };
        assert_eq!(log.get_log_state().await.unwrap(), state);
        assert_eq!(log.read_vote().await.unwrap(), self.vote);
        assert_eq!(log.read_committed().await.unwrap(), self.committed.min(self.last()));
        assert_eq!(all(log).await, self.entries);
        let middle = self.entries.len() / 2;
        if let Some(first) = self.entries.get(middle) {
            let start = first.log_id.index();
            assert_eq!(log.try_get_log_entries(start..start + 3).await.unwrap(), {
                let end = (middle + 3).min(self.entries.len());
                self.entries[middle..end].to_vec()
            });
        }
        let bytes: u64 = self.entries.iter().map(|entry| crate::log::record::entry_bytes(entry) as u64).sum();
        let known = log.bytes();
        // Runs that were cut are estimated.
        assert!(known.abs_diff(bytes) <= bytes / 2 + 2_000, "{known} for {bytes}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Any sequence of calls by three groups, with segments of a few records and reopening at any point, leaves
    /// each group with exactly the log that a plain list would hold.
    #[test]
    fn agrees_with_a_model(steps in proptest::collection::vec(step(), 1..120)) {
        simulated(|disk| async move {
            let mut storage = open(&disk, tiny()).await.unwrap();
            let mut models = vec![Model { term: 1, ..Model::default() }; 4];
            for (group, step) in &steps {
                let model = &mut models[*group as usize];
                model.apply(&mut storage.log(GroupId(*group)), step).await;
                model.check(&mut storage.log(GroupId(*group))).await;
                if matches!(step, Step::Reopen) {
                    storage.close().await.unwrap();
                    storage = open(&disk, tiny()).await.unwrap();
                    for (group, model) in models.iter().enumerate().skip(1) {
                        model.check(&mut storage.log(GroupId(group as u64))).await;
                    }
                }
            }
            settle(&storage).await;
            storage.close().await.unwrap();
            let storage = open(&disk, tiny()).await.unwrap();
            for (group, model) in models.iter().enumerate().skip(1) {
                model.check(&mut storage.log(GroupId(group as u64))).await;
            }
        });
    }
}
