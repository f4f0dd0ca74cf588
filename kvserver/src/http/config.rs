//! The front end's bounds: one struct, each field with its default, its unit and the reason to change it.
//!
//! Sizes of keys, values and batches are the node's ([`proto::Limits`]); here stands what protects the front end
//! itself. Nothing here may be unbounded.

use proto::Limits;
use std::time::Duration;

/// hyper's parser cannot work with less.
const HEADER_BYTES_MIN: usize = 8 << 10;

/// hyper refuses request targets beyond this, whatever the header limit.
const HEADER_BYTES_MAX: usize = 64 << 10;

/// Room in a request's head for everything but the key.
const HEADER_BYTES_BESIDE_KEY: usize = 4 << 10;

/// The longest time to answer in that can be configured: machines must remember for longer what a write came to
/// (`SESSION_IDLE_MIN_MS` in `machine/bounds.rs`; `stamps.rs` holds one against the other).
pub(crate) const TIMEOUT_MAX: Duration = Duration::from_secs(300);

/// Limits and times of a front end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The most connections served at once (4,096). More are answered 503 and closed. Each takes about 10 kB while
    /// idle and one file descriptor.
    pub connections_max: usize,
    /// The most requests worked on at once (2,048). More are answered 429. Health and metrics are exempt.
    pub requests_in_flight_max: usize,
    /// The most bytes of request bodies held at once (256 MiB). More are answered 429.
    pub body_bytes_in_flight_max: usize,
    /// The largest head of a request, target and headers together, in bytes (32 KiB). A percent-encoded key takes
    /// up to three times its length there.
    pub header_bytes_max: usize,
    /// The longest time for a request's head to arrive once it has begun, in milliseconds (10,000).
    pub header_read_timeout_ms: u64,
    /// The longest time for a request's body to arrive, in milliseconds (30,000). Raise it for slow links.
    pub body_read_timeout_ms: u64,
    /// How long a connection may stay without a byte in either direction, in milliseconds (75,000). Keep it above
    /// the time for which clients keep unused connections, so that they close first.
    pub idle_timeout_ms: u64,
    /// The time to answer in for requests that do not say, in milliseconds (10,000).
    pub timeout_ms_default: u64,
    /// The longest time to answer in that a request may ask for, in milliseconds (60,000; at most 300,000).
    pub timeout_ms_max: u64,
    /// The most operations in one JSON batch (1,000).
    pub batch_operations_max: usize,
    /// The most bytes of values that a JSON batch is answered (8 MiB).
    pub answer_bytes_max: usize,
    /// The most bytes of keys and values on one page of a listing (1 MiB); one record always fits.
    pub page_bytes_max: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            connections_max: 4_096,
            requests_in_flight_max: 2_048,
            body_bytes_in_flight_max: 256 << 20,
            header_bytes_max: 32 << 10,
            header_read_timeout_ms: 10_000,
            body_read_timeout_ms: 30_000,
            idle_timeout_ms: 75_000,
            timeout_ms_default: 10_000,
            timeout_ms_max: 60_000,
            batch_operations_max: 1_000,
            answer_bytes_max: 8 << 20,
            page_bytes_max: 1 << 20,
        }
    }
}

/// A setting that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {why}, not {value}")]
pub struct ConfigError {
    /// The field's name.
    pub field: &'static str,
    /// What it must be.
    pub why: String,
    /// What it is.
    pub value: u64,
}

impl Config {
    /// Checks the fields against each other and against the node's limits.
    ///
    /// # Errors
    /// [`ConfigError`] naming the first field that does not hold.
    pub fn validate(&self, limits: &Limits) -> Result<(), ConfigError> {
        let header_bytes_min = HEADER_BYTES_MIN.max(3 * limits.key_bytes_max + HEADER_BYTES_BESIDE_KEY);
        let body_bytes_max = json_bytes_max(limits);
        let ranges = [
            ("connections_max", self.connections_max as u64, 1, 1 << 20),
            ("requests_in_flight_max", self.requests_in_flight_max as u64, 1, 1 << 20),
            (
                "body_bytes_in_flight_max",
                self.body_bytes_in_flight_max as u64,
                body_bytes_max as u64,
                u64::MAX,
            ),
            (
                "header_bytes_max",
                self.header_bytes_max as u64,
                header_bytes_min as u64,
                HEADER_BYTES_MAX as u64,
            ),
            ("header_read_timeout_ms", self.header_read_timeout_ms, 1, 3_600_000),
            ("body_read_timeout_ms", self.body_read_timeout_ms, 1, 3_600_000),
            ("idle_timeout_ms", self.idle_timeout_ms, 1, 3_600_000),
            ("timeout_ms_default", self.timeout_ms_default, 1, self.timeout_ms_max),
            ("timeout_ms_max", self.timeout_ms_max, 1, TIMEOUT_MAX.as_millis() as u64),
            ("batch_operations_max", self.batch_operations_max as u64, 1, 1 << 20),
            ("answer_bytes_max", self.answer_bytes_max as u64, limits.value_bytes_max as u64, 32 << 20),
            ("page_bytes_max", u64::from(self.page_bytes_max), 1, 32 << 20),
        ];
        let outside = ranges.into_iter().find(|(_, value, min, max)| !(min..=max).contains(&value));
        match outside {
            None => Ok(()),
            Some((field, value, min, u64::MAX)) => {
                Err(ConfigError { field, why: format!("must be at least {min}"), value })
            }
            Some((field, value, min, max)) => {
                Err(ConfigError { field, why: format!("must lie between {min} and {max}"), value })
            }
        }
    }

    pub(crate) fn header_read_timeout(&self) -> Duration {
        Duration::from_millis(self.header_read_timeout_ms)
    }

    pub(crate) fn body_read_timeout(&self) -> Duration {
        Duration::from_millis(self.body_read_timeout_ms)
    }

    pub(crate) fn idle_timeout(&self) -> Duration {
        Duration::from_millis(self.idle_timeout_ms)
    }
}

/// The largest JSON body: base64 makes a third more of its bytes, and each operation has a frame of text.
pub(crate) fn json_bytes_max(limits: &Limits) -> usize {
    limits.batch_bytes_max.saturating_mul(2).saturating_add(64 << 10)
}

/// The largest binary batch: its keys and values, and room for what stands around them.
pub(crate) fn binary_bytes_max(limits: &Limits) -> usize {
    limits.batch_bytes_max.saturating_add(64 << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The defaults hold together, and each contradiction is refused by the field's name.
    #[test]
    fn validation_names_the_field() {
        let good = Config::default();
        let limits = Limits::default();
        assert_eq!(good.validate(&limits), Ok(()));
        let bad = [
            (Config { connections_max: 0, ..good.clone() }, "connections_max"),
            (Config { requests_in_flight_max: 0, ..good.clone() }, "requests_in_flight_max"),
            (Config { body_bytes_in_flight_max: 1 << 20, ..good.clone() }, "body_bytes_in_flight_max"),
            (Config { header_bytes_max: 12 << 10, ..good.clone() }, "header_bytes_max"),
            (Config { header_bytes_max: 1 << 20, ..good.clone() }, "header_bytes_max"),
            (Config { timeout_ms_default: 70_000, ..good.clone() }, "timeout_ms_default"),
            (Config { timeout_ms_max: 300_001, ..good.clone() }, "timeout_ms_max"),
            (Config { answer_bytes_max: 1, ..good.clone() }, "answer_bytes_max"),
            (Config { page_bytes_max: 0, ..good }, "page_bytes_max"),
        ];
        for (config, field) in bad {
            let error = config.validate(&limits).unwrap_err();
            assert_eq!(error.field, field, "{error}");
            assert!(error.to_string().starts_with(field), "{error}");
        }
    }
}
