//! How the storage uses memory and disk: one struct, each field with its default, its unit and the reason to
//! change it.

/// Bounds of a node's storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageConfig {
    /// A segment of the log is followed by the next at this size, in bytes (64 MiB). Smaller ones give disk
    /// space back sooner and cost a few milliseconds each to begin.
    pub segment_bytes: u64,
    /// How much of the newest entries of all groups together is kept in memory, in bytes (64 MiB): entries are
    /// read again for followers and for applying, and the disk is slow at that.
    pub tail_bytes_max: usize,
    /// What may wait to be written, of all groups together, in bytes (32 MiB). Whoever has more waits.
    pub queue_bytes_max: usize,
    /// The most that one record gathers, in bytes (8 MiB).
    pub record_bytes_max: usize,
    /// How much one read for a follower returns, in bytes (1 MiB), or one larger entry.
    pub read_bytes_max: usize,
    /// Old segments are emptied by moving what is still needed out of them once the log takes this many bytes
    /// (128 MiB) beyond twice what is needed. Larger moves less and takes more disk.
    pub slack_bytes: u64,
    /// A part of a snapshot takes this many bytes (32 MiB): what one open table costs in memory.
    pub snapshot_part_bytes: usize,
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            tail_bytes_max: 64 << 20,
            queue_bytes_max: 32 << 20,
            record_bytes_max: 8 << 20,
            read_bytes_max: 1 << 20,
            slack_bytes: 128 << 20,
            snapshot_part_bytes: 32 << 20,
        }
    }
}

impl StorageConfig {
    /// Checks the fields.
    ///
    /// # Errors
    /// Names the field.
    pub fn validate(&self) -> Result<(), String> {
        let positive = [
            ("segment_bytes", self.segment_bytes),
            ("queue_bytes_max", self.queue_bytes_max as u64),
            ("record_bytes_max", self.record_bytes_max as u64),
            ("read_bytes_max", self.read_bytes_max as u64),
            ("snapshot_part_bytes", self.snapshot_part_bytes as u64),
        ];
        if let Some((field, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(format!("{field} must be at least 1"));
        }
        // One operation may exceed the gathering of a record and still must fit it.
        if self.queue_bytes_max > crate::log::record::RECORD_BYTES_MAX / 2 {
            return Err(format!("queue_bytes_max must not exceed 3 GiB, not {}", self.queue_bytes_max));
        }
        Ok(())
    }
}
