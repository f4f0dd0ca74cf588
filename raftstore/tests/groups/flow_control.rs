//! Writers faster than the disk: log and snapshots stay within their bound, and one slow disk slows nobody else.

use crate::cluster::{AGREEMENT, Cluster, MS, Settings};
use crate::truth::recorded;
use bytes::Bytes;
use raftstore::{Disk, ProposeError};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::sleep;

const KIB: u64 = 1 << 10;

/// The records, of which each overwrite replaces one.
pub const RECORDS: u64 = 128;
const RECORD_BYTES: u64 = 32 * KIB;
const DATA_BYTES: u64 = RECORDS * RECORD_BYTES;
const LOG_BYTES_MIN: u64 = 128 * KIB;
const SEGMENT_BYTES: u64 = 128 * KIB;

/// What is let in at once, from several entries or requests under way.
const ADMITTED_BYTES: u64 = 512 * KIB;

const DISK_BYTES_MAX: u64 = 3 * DATA_BYTES + 3 * LOG_BYTES_MIN + SEGMENT_BYTES + ADMITTED_BYTES;

pub fn settings(seed: u64) -> Settings {
    let mut settings = Settings::new(3, seed);
    settings.raft.snapshot_log_bytes_min = LOG_BYTES_MIN;
    settings.raft.log_bytes_kept = 0;
    settings.raft.entry_bytes_max = 64 << 10;
    settings.storage.segment_bytes = SEGMENT_BYTES;
    settings.storage.slack_bytes = 2 * SEGMENT_BYTES;
    settings.storage.tail_bytes_max = 512 << 10;
    settings.storage.snapshot_part_bytes = 512 << 10;
    settings.transport.stream_window_bytes = 128 << 10;
    settings.transport.append_bytes = 64 << 10;
    settings
}

fn command(record: u64, number: u64) -> Bytes {
    let name = "x".repeat(RECORD_BYTES as usize - 4);
    Bytes::from(format!("{record:04}{name}/{number}"))
}

/// Follows the most that each node's disk ever held.
pub struct Peaks {
    bytes: Arc<Mutex<[u64; 3]>>,
    done: Arc<AtomicBool>,
}

impl Peaks {
    pub fn follow(cluster: &Cluster) -> Self {
        let (bytes, done) = (Arc::new(Mutex::new([0; 3])), Arc::new(AtomicBool::new(false)));
        let disks = cluster.nodes().into_iter().map(|node| cluster.rack.disk(node)).collect::<Vec<_>>();
        let (peaks, ended) = (bytes.clone(), done.clone());
        tokio::spawn(async move {
            while !ended.load(Ordering::Relaxed) {
                for (peak, disk) in peaks.lock().unwrap().iter_mut().zip(&disks) {
                    *peak = (*peak).max(disk.bytes().unwrap());
                }
                sleep(10 * MS).await;
            }
        });
        Self { bytes, done }
    }

    pub fn check(&self) {
        let peaks = *self.bytes.lock().unwrap();
        for (node, peak) in (1..).zip(peaks) {
            assert!(peak <= DISK_BYTES_MAX, "{peaks:?}: n{node} exceeds {DISK_BYTES_MAX}");
        }
        assert!(peaks.iter().any(|&peak| peak > 2 * DATA_BYTES), "{peaks:?}: snapshots were made meanwhile");
    }
}

impl Drop for Peaks {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
    }
}

/// Has the leader agree on the writes of these numbers, from 32 writers who never pause, each record in its turn.
pub async fn write(cluster: &Cluster, leader: u64, numbers: Range<u64>) {
    let (truth, next) = (cluster.truth().clone(), Arc::new(AtomicU64::new(numbers.start)));
    let mut writers = JoinSet::new();
    for _ in 0..32 {
        let group = cluster.group(leader).clone();
        let (truth, next) = (truth.clone(), next.clone());
        writers.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= numbers.end {
                    return Ok::<(), ProposeError>(());
                }
                // A step that is prime to their number: all over the records.
                let command = command(number * 97 % RECORDS, number);
                let proposed = group.propose(command.clone());
                recorded(truth.clone(), command, proposed).await?;
            }
        });
    }
    while let Some(written) = writers.join_next().await {
        written.unwrap().unwrap();
    }
}

/// Ten times the data is overwritten by writers who are as fast as the copies: they wait, and no disk ever holds more
/// than three times the data and what a few small logs take.
#[tokio::test(start_paused = true)]
async fn writers_wait_rather_than_outgrow_the_disk() {
    let cluster = Cluster::start(settings(180)).await;
    let leader = cluster.leader().await;
    write(&cluster, leader, 0..RECORDS).await;
    cluster.nodes().into_iter().for_each(|node| cluster.rack.disk(node).set_sync_delay(20 * MS));
    let peaks = Peaks::follow(&cluster);
    write(&cluster, leader, RECORDS..11 * RECORDS).await;
    peaks.check();
    cluster.nodes().into_iter().for_each(|node| cluster.rack.disk(node).set_sync_delay(Duration::ZERO));
    cluster.settle().await;
    cluster.end().await;
}

/// A follower whose disk takes fifty times as long as the others' waits for its own copies, and its disk stays
/// within the bound, too; but the group does not wait for it. Once its disk is better it catches up.
#[tokio::test(start_paused = true)]
async fn a_follower_with_a_slow_disk_does_not_stop_its_group() {
    let cluster = Cluster::start(settings(181)).await;
    let leader = cluster.leader().await;
    let slow = leader % 3 + 1;
    write(&cluster, leader, 0..RECORDS).await;
    for node in cluster.nodes() {
        cluster.rack.disk(node).set_sync_delay(if node == slow { 1_000 * MS } else { 20 * MS });
    }
    let peaks = Peaks::follow(&cluster);
    write(&cluster, leader, RECORDS..6 * RECORDS).await;
    let behind = cluster.truth().len() - cluster.len(slow);
    assert!(behind > 2 * RECORDS, "all was acknowledged while the slow one was {behind} writes behind");
    peaks.check();
    cluster.rack.disk(slow).set_sync_delay(Duration::ZERO);
    cluster.applied(&[slow], 6 * RECORDS, 6 * AGREEMENT).await;
    peaks.check();
    cluster.settle().await;
    cluster.end().await;
}
