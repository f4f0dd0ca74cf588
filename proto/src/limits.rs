//! How large things may be. All configurable; all refused with a clear error.

/// Sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest key: 4 KiB.
    pub key_bytes_max: usize,
    /// The longest value: 1 MiB.
    pub value_bytes_max: usize,
    /// The largest batch, all keys and values together: 1.5 MiB.
    pub batch_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { key_bytes_max: 4 << 10, value_bytes_max: 1 << 20, batch_bytes_max: 3 << 19 }
    }
}
