//! What operations came to: their latencies, and what they had stored.

use anyhow::Result;
use hdrhistogram::Histogram;
use std::time::Duration;

/// Of latencies three digits are kept, whatever their size.
const DIGITS: u8 = 3;

/// Operations that were carried out.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    micros: Histogram<u64>,
    /// Keys and values that were acknowledged, counted once however many replicas keep them.
    pub(crate) stored_bytes: u64,
}

impl Tally {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self { micros: Histogram::new(DIGITS)?, stored_bytes: 0 })
    }

    /// Notes one operation.
    pub(crate) fn record(&mut self, latency: Duration, stored_bytes: u64) -> Result<()> {
        self.micros.record(u64::try_from(latency.as_micros())?)?;
        self.stored_bytes += stored_bytes;
        Ok(())
    }

    pub(crate) fn operations(&self) -> u64 {
        self.micros.len()
    }

    /// The latency that this share of the operations did not exceed, in milliseconds.
    pub(crate) fn millis(&self, quantile: f64) -> f64 {
        self.micros.value_at_quantile(quantile) as f64 / 1e3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Latencies and bytes are those that were noted.
    #[test]
    fn what_was_noted_is_told() {
        let mut tally = Tally::new().expect("a histogram");
        tally.record(Duration::from_millis(1), 10).expect("a latency");
        tally.record(Duration::from_millis(9), 20).expect("a latency");
        assert_eq!((tally.operations(), tally.stored_bytes), (2, 30));
        assert!((tally.millis(0.5) - 1.0).abs() < 0.01 && (tally.millis(1.0) - 9.0).abs() < 0.01);
    }
}
