//! A node's wall clock, which is off, runs at a rate of its own, and jumps when told to.

use raftstore::Clock;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use tokio::time::Instant;

/// What all clocks would show at the beginning, if they were right.
const BEGIN_MS: i64 = 1_700_000_000_000;

/// See the module; clones are the same clock. Timers follow tokio's clock, which all nodes share.
#[derive(Clone, Debug)]
pub struct SkewedClock {
    started: Instant,
    /// How much it gains, in millionths.
    rate_ppm: i64,
    offset_ms: Arc<AtomicI64>,
}

impl SkewedClock {
    /// A clock that is off by `offset_ms` now and gains `rate_ppm` millionths from here on.
    pub fn new(offset_ms: i64, rate_ppm: i64) -> Self {
        Self { started: Instant::now(), rate_ppm, offset_ms: Arc::new(AtomicI64::new(offset_ms)) }
    }

    /// Jumps.
    pub fn jump(&self, by_ms: i64) {
        self.offset_ms.fetch_add(by_ms, Ordering::Relaxed);
    }
}

impl Clock for SkewedClock {
    fn now_ms(&self) -> u64 {
        let passed_ms = i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX / 2);
        let gained_ms = passed_ms.saturating_mul(self.rate_ppm) / 1_000_000;
        let now_ms = BEGIN_MS + passed_ms + gained_ms + self.offset_ms.load(Ordering::Relaxed);
        u64::try_from(now_ms).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// A clock that gains a hundredth is a second ahead after a hundred, and a jump is seen at once.
    #[tokio::test(start_paused = true)]
    async fn clocks_gain_and_jump() {
        let (right, fast) = (SkewedClock::new(0, 0), SkewedClock::new(-500, 10_000));
        tokio::time::advance(Duration::from_secs(100)).await;
        assert_eq!(fast.now_ms() - right.now_ms(), 500);
        fast.jump(-10_000);
        assert_eq!(right.now_ms() - fast.now_ms(), 9_500);
    }
}
