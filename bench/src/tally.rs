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

    /// Takes in what another has noted.
    pub(crate) fn add(&mut self, other: &Self) -> Result<()> {
        self.micros.add(&other.micros)?;
        self.stored_bytes += other.stored_bytes;
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

    /// What several have noted counts as if one had.
    #[test]
    fn tallies_add_up() {
        let (mut all, mut other) = (Tally::new().expect("a histogram"), Tally::new().expect("a histogram"));
        all.record(Duration::from_millis(1), 10).expect("a latency");
        other.record(Duration::from_millis(9), 20).expect("a latency");
        all.add(&other).expect("the same kind");
        assert_eq!((all.operations(), all.stored_bytes), (2, 30));
        assert!((all.millis(0.5) - 1.0).abs() < 0.01 && (all.millis(1.0) - 9.0).abs() < 0.01);
    }
}
