//! What the storage did so far, in numbers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Buckets of the sync latencies: bucket `i` counts syncs below `2^i` microseconds that the one before does not.
pub const LATENCY_BUCKETS: usize = 26;

/// Counters since the start; all only rise but for the last four.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StorageStats {
    /// Records written, one for each group commit.
    pub records: u64,
    /// Syncs of the log.
    pub syncs: u64,
    /// Bytes of records, as handed to the disk.
    pub bytes_written: u64,
    /// Entries that groups appended.
    pub entries: u64,
    /// Bytes of entries that were written again to free old segments.
    pub bytes_carried: u64,
    /// Segments removed.
    pub segments_removed: u64,
    /// Reads that the memory could not serve.
    pub disk_reads: u64,
    /// Sync latencies, see [`LATENCY_BUCKETS`]; the last bucket has no upper end.
    pub sync_micros: [u64; LATENCY_BUCKETS],
    /// How long all syncs took together, in microseconds.
    pub sync_micros_sum: u64,
    /// Segments of the log on disk, the one being written included.
    pub segments: u64,
    /// Bytes in these segments, as handed to the disk.
    pub segment_bytes: u64,
    /// Bytes of entries in them that are still needed.
    pub live_bytes: u64,
    /// Bytes of entries kept in memory.
    pub tail_bytes: u64,
}

/// The same, as it is counted.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) records: AtomicU64,
    pub(crate) syncs: AtomicU64,
    pub(crate) bytes_written: AtomicU64,
    pub(crate) entries: AtomicU64,
    pub(crate) bytes_carried: AtomicU64,
    pub(crate) segments_removed: AtomicU64,
    pub(crate) disk_reads: AtomicU64,
    sync_micros: [AtomicU64; LATENCY_BUCKETS],
    sync_micros_sum: AtomicU64,
    pub(crate) segments: AtomicU64,
    pub(crate) segment_bytes: AtomicU64,
    pub(crate) live_bytes: AtomicU64,
    pub(crate) tail_bytes: AtomicU64,
}

pub(crate) fn count(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

impl Counters {
    pub(crate) fn synced(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = (u64::BITS - micros.leading_zeros()) as usize;
        count(&self.sync_micros[bucket.min(LATENCY_BUCKETS - 1)], 1);
        count(&self.sync_micros_sum, micros);
        count(&self.syncs, 1);
    }

    pub(crate) fn read(&self) -> StorageStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StorageStats {
            records: read(&self.records),
            syncs: read(&self.syncs),
            bytes_written: read(&self.bytes_written),
            entries: read(&self.entries),
            bytes_carried: read(&self.bytes_carried),
            segments_removed: read(&self.segments_removed),
            disk_reads: read(&self.disk_reads),
            sync_micros: self.sync_micros.each_ref().map(read),
            sync_micros_sum: read(&self.sync_micros_sum),
            segments: read(&self.segments),
            segment_bytes: read(&self.segment_bytes),
            live_bytes: read(&self.live_bytes),
            tail_bytes: read(&self.tail_bytes),
        }
    }
}
