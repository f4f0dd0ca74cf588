//! Operations at a fixed rate, whatever the servers make of it: when each is due, which wait, and which found too many
//! waiting. A pure machine; whoever carries operations out asks it for the next.
//!
//! A closed loop sends less while the servers stall, and so hides the stall from its figures. Here what was due meanwhile
//! waits, and its latency counts from the moment that it was due.

use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// How many operations may be due without having begun. One that finds so many waiting is refused, and counted.
pub(crate) const WAITING_MAX: usize = 10_000;

/// Which operations are due when, and what became of those that were.
#[derive(Debug)]
pub(crate) struct Schedule {
    began: Instant,
    per_second: u32,
    /// How many there are in all.
    count: u64,
    /// The first that counts: those before it warm up.
    counted_from: u64,
    /// The first that was neither given out nor found to be due.
    next: u64,
    /// Found to be due and not given out; at most [`WAITING_MAX`].
    waiting: VecDeque<u64>,
    refused: u64,
}

impl Schedule {
    /// So many operations a second, of which those due within `warm` do not count and those due within `measured` after
    /// it do.
    pub(crate) fn new(began: Instant, per_second: u32, warm: Duration, measured: Duration) -> Self {
        let due_within = |time: Duration| (time.as_secs_f64() * f64::from(per_second)).ceil() as u64;
        Self {
            began,
            per_second,
            count: due_within(warm + measured),
            counted_from: due_within(warm),
            next: 0,
            waiting: VecDeque::new(),
            refused: 0,
        }
    }

    /// When the operation is due that is to be carried out next, and whether it counts: the one that waits longest, or
    /// else the next that will be due. `None` once all were given out.
    pub(crate) fn take(&mut self, now: Instant) -> Option<(Instant, bool)> {
        self.admit(now);
        let index = match self.waiting.pop_front() {
            Some(index) => index,
            None if self.next < self.count => {
                self.next += 1;
                self.next - 1
            }
            None => return None,
        };
        Some((self.due(index), index >= self.counted_from))
    }

    /// How many operations that count found too many waiting.
    pub(crate) fn refused(&self) -> u64 {
        self.refused
    }

    /// Lets wait what has become due. Nothing was given out since the last look, so that looking late refuses the same
    /// operations as looking at each moment.
    fn admit(&mut self, now: Instant) {
        while self.next < self.count && self.due(self.next) <= now {
            if self.waiting.len() < WAITING_MAX {
                self.waiting.push_back(self.next);
            } else {
                self.refused += u64::from(self.next >= self.counted_from);
            }
            self.next += 1;
        }
        assert!(self.waiting.len() <= WAITING_MAX, "the bound of what waits holds");
    }

    fn due(&self, index: u64) -> Instant {
        let (seconds, rest) = (index / u64::from(self.per_second), index % u64::from(self.per_second));
        let nanos = rest * 1_000_000_000 / u64::from(self.per_second);
        self.began + Duration::from_secs(seconds) + Duration::from_nanos(nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Who comes early is told when the next operation is due, each is given out once, and there is an end.
    #[test]
    fn each_is_given_out_once() {
        let began = Instant::now();
        let mut schedule = Schedule::new(began, 1_000, MS, 2 * MS);
        let taken: Vec<_> = std::iter::from_fn(|| schedule.take(began)).collect();
        assert_eq!(taken, [(began, false), (began + MS, true), (began + 2 * MS, true)]);
        assert_eq!(schedule.refused(), 0);
    }

    /// What became due during a stall is given out afterwards, in its order, as due when it was.
    #[test]
    fn what_was_due_waits() {
        let began = Instant::now();
        let mut schedule = Schedule::new(began, 1_000, Duration::ZERO, 10 * MS);
        let taken: Vec<_> = (0..10).map(|_| schedule.take(began + 5 * MS).expect("ten are due").0).collect();
        assert_eq!(taken, (0..10).map(|index| began + index * MS).collect::<Vec<_>>());
        assert_eq!(schedule.take(began + 10 * MS), None);
    }

    /// What finds too many waiting is counted, unless it was due while nothing counts; what waits is still given out.
    #[test]
    fn too_many_are_refused_and_counted() {
        let began = Instant::now();
        let mut schedule = Schedule::new(began, 10_000, Duration::from_secs(1), Duration::from_secs(2));
        let mut taken = 0;
        let end = began + Duration::from_secs(3);
        while schedule.take(end).is_some() {
            taken += 1;
        }
        assert_eq!(taken, WAITING_MAX, "the first second's operations waited");
        assert_eq!(schedule.refused(), 20_000, "those of the two seconds after it were refused");
    }

    /// A rate that does not divide a second is kept in the long run.
    #[test]
    fn uneven_rates() {
        let began = Instant::now();
        let schedule = Schedule::new(began, 3, Duration::ZERO, Duration::from_secs(10));
        assert_eq!(schedule.count, 30);
        assert_eq!(schedule.due(30), began + Duration::from_secs(10));
        assert_eq!(schedule.due(31) - began, Duration::from_nanos(10_333_333_333));
    }
}
