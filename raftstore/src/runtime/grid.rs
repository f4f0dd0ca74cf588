//! One grid for the timers of all groups in a process: those that are due within a line's width fire together.
//!
//! openraft gives every replica a tick of its own, about every fifth of a heartbeat, and spreads their phases. With
//! hundreds of groups a node would wake thousands of times a second, mostly for a single tick; what two groups have
//! to say to one peer would leave in two writes. On the grid a node wakes a few dozen times a second whatever the
//! number of groups, and all that falls due in one wake leaves together.

use std::cell::Cell;
use std::sync::OnceLock;
use std::time::Duration;
use tokio::time::Instant;

/// The distance between two lines: a timer fires later than it is due by less than this.
const WIDTH: Duration = Duration::from_millis(20);

/// What is due sooner than this is no tick, but a pause that somebody waits for: it stays where it is.
const SOON: Duration = Duration::from_millis(5);

thread_local! {
    /// Where a simulation on this thread has begun to count.
    static SIMULATED: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Begins a grid of this thread's own now, so that a simulation meets the same lines in every run.
pub(super) fn restart() {
    SIMULATED.set(Some(Instant::now()));
}

/// How much longer than `wait` to wait from now, so as to end on a line.
pub(super) fn delay(wait: Duration) -> Duration {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    let origin = SIMULATED.get().unwrap_or_else(|| *ORIGIN.get_or_init(Instant::now));
    if wait < SOON { Duration::ZERO } else { to_line(origin, Instant::now() + wait) }
}

/// From `deadline` to the first line at or after it.
fn to_line(origin: Instant, deadline: Instant) -> Duration {
    let past = deadline.saturating_duration_since(origin).as_nanos() % WIDTH.as_nanos();
    let past = Duration::from_nanos(u64::try_from(past).unwrap_or(0));
    if past.is_zero() { past } else { WIDTH - past }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Deadlines move to the next line, by less than its width; what is on a line stays.
    #[test]
    fn deadlines_meet_on_lines() {
        let origin = Instant::now();
        let ms = Duration::from_millis;
        for (deadline, delay) in [(0, 0), (1, 19), (19, 1), (20, 0), (21, 19), (1_000_001, 19)] {
            assert_eq!(to_line(origin, origin + ms(deadline)), ms(delay), "{deadline}");
        }
    }

    /// A pause that somebody waits for is not drawn out.
    #[tokio::test(start_paused = true)]
    async fn short_pauses_stay() {
        restart();
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(delay(Duration::from_micros(1)), Duration::ZERO);
        assert_eq!(delay(Duration::from_millis(4)), Duration::ZERO);
        assert_eq!(delay(Duration::from_millis(5)), Duration::from_millis(14));
    }
}
