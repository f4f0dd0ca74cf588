//! One grid for the timers of all groups in a process: those that are due within a line's width fire together.
//!
//! openraft gives every replica a tick of its own and spreads their phases. With hundreds of groups a node would
//! wake thousands of times a second, mostly for a single tick; what two groups have to say to one peer would
//! leave in two writes. On the grid a node wakes a few dozen times a second whatever the number of groups, and
//! all that falls due in one wake leaves together. When a replica ticks at all, [`super::Ticker`] decides.

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

fn origin() -> Instant {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    SIMULATED.get().unwrap_or_else(|| *ORIGIN.get_or_init(Instant::now))
}

/// How much longer than `wait` to wait from now, so as to end on a line.
pub(super) fn delay(wait: Duration) -> Duration {
    let past = past_line(origin(), Instant::now() + wait, WIDTH);
    if wait < SOON || past.is_zero() { Duration::ZERO } else { WIDTH - past }
}

/// From now to the next of the lines that are `width` apart; never zero.
pub(super) fn until_line(width: Duration) -> Duration {
    width - past_line(origin(), Instant::now(), width)
}

/// From the last of the lines that are `width` apart to `moment`.
fn past_line(origin: Instant, moment: Instant, width: Duration) -> Duration {
    let past = moment.saturating_duration_since(origin).as_nanos() % width.as_nanos();
    Duration::from_nanos(u64::try_from(past).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Deadlines move to the next line, by less than its width; what is on a line stays.
    #[tokio::test(start_paused = true)]
    async fn deadlines_meet_on_lines() {
        restart();
        let ms = Duration::from_millis;
        for (deadline, later) in [(20, 0), (21, 19), (39, 1), (40, 0), (1_000_001, 19)] {
            assert_eq!(delay(ms(deadline)), ms(later), "{deadline}");
        }
    }

    /// Whoever waits from line to line wakes once at each, whatever the lines' distance.
    #[tokio::test(start_paused = true)]
    async fn lines_follow_each_other() {
        restart();
        let ms = Duration::from_millis;
        for (pass, until) in [(0, 200), (1, 199), (198, 1), (1, 200), (250, 150)] {
            tokio::time::advance(ms(pass)).await;
            assert_eq!(until_line(ms(200)), ms(until), "{pass}");
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
