//! How fast a snapshot is copied: slowly enough to leave the disk to the log, fast enough to end before the log has
//! grown too long.
//!
//! Pure: it is told the time. It must never let a copy burst past its bounds, nor lose what coarse timers cost it.

use std::time::Duration;
use tokio::time::Instant;

/// A copy that is behind its pace may make up for this much of it: timers are coarse, and a piece takes less than
/// one of their ticks. No more, or a slow stretch would be followed by a burst.
const CATCH_UP: Duration = Duration::from_millis(100);

/// A copy is calm as long as the log has grown by no more than this part of what was copied.
const CALM_LOG_SHARE: u64 = 6;

/// The share of the most bytes a second that a calm copy takes: the rest of the disk stays with the log.
const CALM_SHARE: f64 = 0.25;

/// One copy's pace.
#[derive(Debug)]
pub(crate) struct Pace {
    bytes_per_second_max: u64,
    /// When what was copied so far was due to be there.
    due: Instant,
    copied: u64,
}

impl Pace {
    pub(crate) fn new(now: Instant, bytes_per_second_max: u64) -> Self {
        Self { bytes_per_second_max, due: now, copied: 0 }
    }

    /// Notes that `bytes` more were copied while the log has grown by `log_bytes` since the copy began, and says when
    /// to go on. A copy that writers wait for (`awaited`) is never calm.
    pub(crate) fn next(&mut self, now: Instant, bytes: u64, log_bytes: u64, awaited: bool) -> Instant {
        self.copied += bytes;
        let calm = !awaited && log_bytes.saturating_mul(CALM_LOG_SHARE) <= self.copied;
        let bytes_per_second = self.bytes_per_second_max as f64 * if calm { CALM_SHARE } else { 1.0 };
        let earliest = now.checked_sub(CATCH_UP).unwrap_or(now);
        self.due = self.due.max(earliest) + Duration::from_secs_f64(bytes as f64 / bytes_per_second);
        self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const PIECE: u64 = 96 << 10;

    /// Copies `bytes` at 256 MiB/s while the log grows by `log_share` of them; each piece takes `work`, each sleep
    /// ends at the next full `tick`. Returns the seconds that it took.
    fn copy(bytes: u64, log_share: f64, work: Duration, tick: Duration) -> f64 {
        copy_awaited(bytes, log_share, work, tick, false)
    }

    fn copy_awaited(bytes: u64, log_share: f64, work: Duration, tick: Duration, awaited: bool) -> f64 {
        let start = Instant::now();
        let (mut now, mut copied) = (start, 0);
        let mut pace = Pace::new(start, 256 * MIB);
        while copied < bytes {
            now += work;
            copied += PIECE;
            let until = pace.next(now, PIECE, (copied as f64 * log_share) as u64, awaited);
            if until > now {
                let ticks = (until - start).as_nanos().div_ceil(tick.as_nanos());
                now = start + Duration::from_nanos((ticks * tick.as_nanos()) as u64);
            }
        }
        (now - start).as_secs_f64()
    }

    fn is_about(seconds: f64, expected: f64) {
        assert!((expected * 0.97..expected * 1.03).contains(&seconds), "{seconds} s, not {expected}");
    }

    /// A calm copy takes a quarter of the most bytes a second, one whose log grows fast takes all of them: 1 GiB in
    /// sixteen seconds, or in four.
    #[test]
    fn a_copy_keeps_its_pace() {
        let tick = Duration::from_micros(1);
        for (log_share, seconds) in [(0.0, 16.0), (0.1, 16.0), (0.2, 4.0), (3.0, 4.0)] {
            is_about(copy(1024 * MIB, log_share, Duration::ZERO, tick), seconds);
        }
    }

    /// A copy that writers wait for takes all bytes a second, however little they write.
    #[test]
    fn a_copy_that_is_waited_for_hurries() {
        is_about(copy_awaited(1024 * MIB, 0.1, Duration::ZERO, Duration::from_micros(1), true), 4.0);
    }

    /// Coarse timers and the work itself do not slow it: what one sleep was late by, the next pieces make up for.
    #[test]
    fn a_copy_is_not_slowed_by_coarse_timers() {
        for tick_ms in [1, 10, 50] {
            let work = Duration::from_micros(200);
            is_about(copy(1024 * MIB, 1.0, work, Duration::from_millis(tick_ms)), 4.0);
        }
    }

    /// Where the disk is slower than the pace, the disk sets it.
    #[test]
    fn a_slow_disk_sets_the_pace() {
        let work = Duration::from_millis(2);
        is_about(copy(96 * MIB, 1.0, work, Duration::from_millis(1)), 2.048);
    }

    /// After a stall, no more than a tenth of a second is made up for: never a burst of all that the stall cost.
    #[test]
    fn a_stall_is_not_followed_by_a_burst() {
        let start = Instant::now();
        let mut pace = Pace::new(start, 256 * MIB);
        let now = start + Duration::from_secs(10);
        let (mut copied, mut until) = (0, now);
        while until <= now {
            until = pace.next(now, PIECE, u64::MAX, false);
            copied += PIECE;
        }
        assert!((25 * MIB..26 * MIB).contains(&copied), "{copied} bytes at once");
    }
}
