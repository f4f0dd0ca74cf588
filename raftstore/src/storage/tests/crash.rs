//! Crashes at every point: what was acknowledged is there afterwards, and what is there makes sense.

use super::*;
use crate::disk::Effect;
use crate::types::SnapshotMeta;

/// What a group was promised, and the most it asked for.
#[derive(Clone, Debug, Default)]
struct Promised {
    vote: u64,
    /// Entries 0 up to this are there, or were purged.
    entries: u64,
    asked: u64,
    purge_asked: Option<u64>,
    term_asked: u64,
    snapshot: u64,
}

/// Works through a script with two groups until it is done or the disk is dead. Every step is awaited, so what
/// was promised is known exactly.
async fn work(disk: &SimulatedDisk, promised: &mut [Promised; 2]) -> Result<(), StorageError> {
    let storage = open(disk, tiny()).await?;
    let wrong = |error: io::Error| StorageError::Refused(error.to_string());
    for round in 0..12 {
        for (group, promised) in (1..).zip(promised.iter_mut()) {
            let mut log = storage.log(GroupId(group));
            if round % 4 == 0 {
                promised.term_asked = round + 1;
                log.save_vote(&Vote::new(round + 1, group)).await.map_err(wrong)?;
                promised.vote = round + 1;
            }
            let new = entries(1, promised.asked..promised.asked + 3, 150);
            promised.asked += 3;
            let (tell, told) = TypeConfig::oneshot();
            log.append(new, IOFlushed::<TypeConfig>::signal(tell)).await.map_err(wrong)?;
            told.await.unwrap_or_else(|_| Err(io::Error::other("no answer"))).map_err(wrong)?;
            promised.entries = promised.asked;
            log.save_committed(Some(id(1, promised.asked - 1))).await.map_err(wrong)?;
            if round % 5 == 4 && group == 2 {
                snapshot_and_purge(&storage, &mut log, promised).await?;
            }
        }
    }
    storage.close().await
}

async fn snapshot_and_purge(
    storage: &Storage,
    log: &mut GroupLog,
    promised: &mut Promised,
) -> Result<(), StorageError> {
    let snapshots = storage.snapshots(G2);
    let mut writer = snapshots.create().await?;
    let last = promised.entries - 1;
    for _ in 0..3 {
        writer.append(vec![last as u8; 120_000]).await?;
    }
    let meta = SnapshotMeta { last_log_id: Some(id(1, last)), ..SnapshotMeta::default() };
    let snapshot = writer.finish(meta).await?;
    snapshots.install(&snapshot).await?;
    promised.snapshot = last;
    promised.purge_asked = Some(last);
    log.purge(id(1, last)).await.map_err(|error| StorageError::Refused(error.to_string()))
}

/// Checks what a storage holds against what was promised; returns the promises as they stand now.
async fn check(storage: &Storage, group: u64, promised: &Promised) -> Promised {
    let mut log = storage.log(GroupId(group));
    let state = log.get_log_state().await.unwrap();
    let purged = state.last_purged_log_id.map(|id| id.index());
    let next = state.last_log_id.map_or(0, |id| id.index() + 1);
    assert!(promised.entries <= next && next <= promised.asked, "{next} entries of {promised:?}");
    assert!(purged <= promised.purge_asked, "{purged:?} purged of {promised:?}");
    let start = purged.map_or(0, |purged| purged + 1);
    assert_eq!(all(&log).await, entries(1, start..next, 150));
    let term = log.read_vote().await.unwrap().map_or(0, |vote| vote.leader_id().term);
    assert!(promised.vote <= term && term <= promised.term_asked, "term {term} of {promised:?}");
    let committed = log.read_committed().await.unwrap().map_or(0, |id| id.index() + 1);
    assert!(committed <= next, "{committed} committed of {next}");

    let current = storage.snapshots(GroupId(group)).current();
    let snapshot = current.as_ref().and_then(|snapshot| snapshot.meta.last_log_id).map_or(0, |id| id.index());
    assert!(promised.snapshot <= snapshot, "snapshot {snapshot} of {promised:?}");
    assert!(purged.is_none_or(|purged| purged <= snapshot), "{purged:?} purged, snapshot at {snapshot}");
    if let Some(snapshot) = current {
        let (mut reader, mut pieces) = (snapshot.read(), 0);
        while let Some(piece) = reader.next().await.unwrap() {
            assert_eq!(piece, vec![snapshot.meta.last_log_id.unwrap().index() as u8; 120_000]);
            pieces += 1;
        }
        assert_eq!(pieces, 3);
    }
    Promised { vote: term, entries: next, asked: next, snapshot, ..promised.clone() }
}

/// At every operation of the disk, lost or done but unanswered, and with whatever the crash leaves of what was
/// not synced: the storage starts again, holds everything it acknowledged and nothing that was never asked of
/// it, leaves no table behind, and survives a second crash at once.
#[test]
fn crashes_at_every_operation_lose_nothing_acknowledged() {
    let mut operations = 0;
    simulated(|disk| {
        let operations = &mut operations;
        async move {
            work(&disk, &mut Default::default()).await.unwrap();
            *operations = disk.counters().operations;
        }
    });
    assert!(operations > 100, "{operations}");
    for at in 0..operations {
        for effect in [Effect::Lost, Effect::Done] {
            simulated(|disk| crash_twice(disk, at, effect));
        }
    }
}

async fn crash_twice(disk: SimulatedDisk, at: u64, effect: Effect) {
    let mut promised: [Promised; 2] = Default::default();
    disk.die_at(at, effect);
    work(&disk, &mut promised).await.unwrap_err();
    let mut disk = disk.crash(at);
    for again in 0..2 {
        let storage = open(&disk, tiny()).await.unwrap_or_else(|error| panic!("at {at} {effect:?}: {error}"));
        for (group, promised) in (1..).zip(promised.iter_mut()) {
            *promised = check(&storage, group, promised).await;
        }
        let parts: Vec<String> =
            disk.tables().unwrap().into_iter().filter(|name| name.starts_with("snap-")).collect();
        let wanted = storage.snapshots(G2).current().map_or(0, |snapshot| snapshot.manifest().parts);
        assert_eq!(parts.len(), wanted as usize, "{parts:?}");
        // The storage goes on working after the crash.
        let mut log = storage.log(G1);
        append_synced(&mut log, entries(1, promised[0].asked..promised[0].asked + 2, 150)).await;
        promised[0].asked += 2;
        promised[0].entries = promised[0].asked;
        disk = disk.crash(at + 1_000_000 * (again + 1));
    }
}

/// Whatever a crash leaves of the last record, torn or whole, the log ends at a border of records.
#[test]
fn a_torn_record_is_cut() {
    let mut cut = 0;
    for seed in 0..200 {
        simulated(|disk| {
            let cut = &mut cut;
            async move {
                let storage = open(&disk, StorageConfig::default()).await.unwrap();
                let mut log = storage.log(G1);
                append_synced(&mut log, entries(1, 0..5, 100)).await;
                // A record of several parts, of which the disk has some when the power goes.
                let parts = 1 + seed % 4;
                disk.die_at(parts, Effect::Done);
                drop(append(&mut log, entries(1, 5..9, 90_000)).await);
                storage.close().await.unwrap_err();
                let storage = open(&disk.crash(seed), StorageConfig::default()).await.unwrap();
                let found = all(&storage.log(G1)).await;
                assert!(found.len() == 5 || found.len() == 9, "{} entries", found.len());
                *cut += u64::from(found.len() == 5);
                // What was cut does not come back, nor does it harm what is written in its place.
                let mut log = storage.log(G1);
                if found.len() == 5 {
                    append_synced(&mut log, entries(2, 5..7, 90_000)).await;
                    storage.close().await.unwrap();
                    let again = storage.handle.shared.disk.clone();
                    let storage = Storage::open(again, identity(), StorageConfig::default()).await.unwrap();
                    let want = [entries(1, 0..5, 100), entries(2, 5..7, 90_000)].concat();
                    assert_eq!(all(&storage.log(G1)).await, want);
                }
            }
        });
    }
    assert!(cut > 20, "{cut} torn records");
}
