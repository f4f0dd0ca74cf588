//! Replicated time: what the entries of a group say the time is, and what this replica would say next.
//!
//! A wall clock may jump: a machine wakes from a night's sleep, somebody sets the date. Were its jump replicated,
//! every session and lease of the group would end at once, for good, and a retry would take effect twice. So the
//! wall clock is asked once in a group's life, for its first entry; from there on time passes as this process's
//! monotonic clock does, from the last entry that another leader proposed. Time stands still while a whole group is
//! down, and loses a message's delay at a change of leaders: what is bounded by it may end late, never early.

use crate::runtime::Clock;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct ReplicatedTime {
    clock: Arc<dyn Clock>,
    base: Mutex<Option<Base>>,
}

/// A time, and when it was that.
#[derive(Clone, Copy, Debug)]
struct Base {
    time_ms: u64,
    at: Instant,
}

impl Base {
    fn now(time_ms: u64) -> Self {
        Self { time_ms, at: Instant::now() }
    }

    fn reads_ms(self) -> u64 {
        let passed = |since: Duration| u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        self.time_ms.saturating_add(passed(self.at.elapsed()))
    }
}

impl ReplicatedTime {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, base: Mutex::default() }
    }

    fn base(&self) -> MutexGuard<'_, Option<Base>> {
        self.base.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The machine's time is `time_ms` after an entry that another leader proposed, or after a snapshot.
    pub(crate) fn follow(&self, time_ms: u64) {
        // A machine that nothing was ever applied to knows no time.
        if time_ms > 0 {
            *self.base() = Some(Base::now(time_ms));
        }
    }

    /// The time for the next entry, should this replica lead.
    pub(crate) fn now_ms(&self) -> u64 {
        self.base().get_or_insert_with(|| Base::now(self.clock.now_ms())).reads_ms()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[derive(Debug, Default)]
    struct Wall(AtomicU64);

    impl Clock for Wall {
        fn now_ms(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
    }

    fn at(wall_ms: u64) -> (Arc<Wall>, ReplicatedTime) {
        let wall = Arc::new(Wall(wall_ms.into()));
        (wall.clone(), ReplicatedTime::new(wall))
    }

    async fn pass(ms: u64) {
        tokio::time::advance(Duration::from_millis(ms)).await;
    }

    /// The wall clock counts for a group's first entry only, however it jumps afterwards.
    #[tokio::test(start_paused = true)]
    async fn the_wall_clock_is_asked_once() {
        let (wall, time) = at(1_000_000);
        assert_eq!(time.now_ms(), 1_000_000);
        for jump in [50_000_000, 0, u64::MAX] {
            wall.0.store(jump, Ordering::Relaxed);
            let before = time.now_ms();
            pass(250).await;
            assert_eq!(time.now_ms(), before + 250);
        }
    }

    /// A replica goes on from the last entry of another leader, and not from its own wall clock.
    #[tokio::test(start_paused = true)]
    async fn a_new_leader_goes_on_from_the_last_entry() {
        let (_, time) = at(99_000_000);
        time.follow(0);
        time.follow(5_000);
        pass(700).await;
        assert_eq!(time.now_ms(), 5_700);
        time.follow(5_600);
        pass(100).await;
        assert_eq!(time.now_ms(), 5_700);
    }
}
