//! openraft's clock: tokio's, which stands still at an earlier moment for as long as something is done [`as_of`] it.

use openraft::async_runtime::Instant;
use std::cell::Cell;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::time::Duration;

thread_local! {
    /// Where this thread's clock stands, while it stands.
    static STANDS: Cell<Option<tokio::time::Instant>> = const { Cell::new(None) };
}

/// Does something that takes this moment for the present, in so far as it asks openraft's clock.
pub(crate) fn as_of<T>(moment: tokio::time::Instant, work: impl FnOnce() -> T) -> T {
    /// Lets the clock go on, also where the work panics.
    struct GoesOn;
    impl Drop for GoesOn {
        fn drop(&mut self) {
            STANDS.set(None);
        }
    }
    STANDS.set(Some(moment));
    let _goes_on = GoesOn;
    work()
}

/// A moment of openraft's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub(super) tokio::time::Instant);

impl Instant for Moment {
    fn now() -> Self {
        Self(STANDS.get().unwrap_or_else(tokio::time::Instant::now))
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, time: Duration) -> Self {
        Self(self.0 + time)
    }
}

impl AddAssign<Duration> for Moment {
    fn add_assign(&mut self, time: Duration) {
        self.0 += time;
    }
}

impl Sub<Duration> for Moment {
    type Output = Self;

    fn sub(self, time: Duration) -> Self {
        Self(self.0 - time)
    }
}

impl SubAssign<Duration> for Moment {
    fn sub_assign(&mut self, time: Duration) {
        self.0 -= time;
    }
}

impl Sub for Moment {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.0 - earlier.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::catch_unwind;

    /// The clock stands while the work is done, and goes on afterwards, whatever became of the work.
    #[test]
    fn the_clock_stands_and_goes_on() {
        let past = tokio::time::Instant::now() - Duration::from_secs(5);
        assert_eq!(as_of(past, Moment::now), Moment(past));
        assert!(Moment::now() > Moment(past));
        assert!(catch_unwind(|| as_of(past, || panic!("on purpose"))).is_err());
        assert!(Moment::now() > Moment(past));
    }
}
