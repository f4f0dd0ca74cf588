//! The storage as a whole, on both disks. The harness here opens storages and speaks openraft's part.

mod conformance;
mod crash;
mod faults;
mod groups;
mod real;
mod segments;
mod snapshots;

use super::*;
use crate::disk::{SimulatedDisk, SledDisk};
use crate::types::{CommittedLeaderId, Data, Entry, LogId, Payload, TypeConfig, Vote};
use bytes::Bytes;
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use proto::NodeId;
use std::io;
use tempfile::TempDir;
use tokio::sync::oneshot;

const G1: GroupId = GroupId(1);
const G2: GroupId = GroupId(2);

fn identity() -> Identity {
    Identity { cluster: "test".into(), node: NodeId(1) }
}

/// Segments of a few records, tails of a few entries: whatever happens at a bound happens soon.
fn tiny() -> StorageConfig {
    StorageConfig {
        segment_bytes: 2_000,
        tail_bytes_max: 1_000,
        slack_bytes: 4_000,
        snapshot_part_bytes: 200_000,
        ..StorageConfig::default()
    }
}

async fn open(disk: &SimulatedDisk, config: StorageConfig) -> Result<Storage, StorageError> {
    Storage::open(Arc::new(disk.clone()), identity(), config).await
}

async fn open_real(folder: &TempDir, config: StorageConfig) -> Result<Storage, StorageError> {
    let disk = SledDisk::open(folder.path())?;
    Storage::open(Arc::new(disk), identity(), config).await
}

fn id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term), index)
}

fn entry(term: u64, index: u64, bytes: usize) -> Entry {
    let fill = (index as u8).wrapping_mul(31).wrapping_add(term as u8);
    Entry { log_id: id(term, index), payload: Payload::Normal(Data(Bytes::from(vec![fill; bytes]))) }
}

fn entries(term: u64, range: std::ops::Range<u64>, bytes: usize) -> Vec<Entry> {
    range.map(|index| entry(term, index, bytes)).collect()
}

/// Starts an append; the answer comes when it is durable.
async fn append(log: &mut GroupLog, entries: Vec<Entry>) -> oneshot::Receiver<Result<(), io::Error>> {
    let (tell, told) = TypeConfig::oneshot();
    log.append(entries, IOFlushed::<TypeConfig>::signal(tell)).await.unwrap();
    told
}

/// Appends and waits until it is durable.
async fn append_synced(log: &mut GroupLog, entries: Vec<Entry>) {
    append(log, entries).await.await.unwrap().unwrap();
}

async fn all(log: &GroupLog) -> Vec<Entry> {
    log.clone().try_get_log_entries(..).await.unwrap()
}

/// Waits until everything queued so far is durable: a vote waits for its sync.
async fn settle(storage: &Storage) {
    storage.log(GroupId(999)).save_vote(&Vote::new(1, 1)).await.unwrap();
}

/// Runs a test on the simulated disk, in virtual time.
fn simulated<F: Future<Output = ()>>(test: impl FnOnce(SimulatedDisk) -> F) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(test(SimulatedDisk::new()));
}

/// Runs a test on a real disk.
fn real<F: Future<Output = ()>>(test: impl FnOnce(Arc<TempDir>) -> F) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let folder = Arc::new(TempDir::new().unwrap());
    runtime.block_on(test(Arc::clone(&folder)));
}
