//! openraft's asynchronous runtime, tokio's, with the things that a simulation replaces: randomness, the wall
//! clock, and the one channel that makes use of randomness (see `watch`); and with two that it lacks: a word
//! when a task of it panics (see `supervisor`), and a clock that can be told to stand still (see `moment`).
//!
//! Timers are tokio's alone, so a paused or simulated tokio clock moves every timeout here with it. Random
//! numbers (election timeouts, jitter) come from [`random`], which [`seed`] makes repeatable for a thread.

mod grid;
mod moment;
mod supervisor;
mod ticker;
mod watch;

pub(crate) use self::moment::{Moment, as_of};
pub(crate) use self::supervisor::Supervisor;
pub(crate) use self::ticker::Ticker;

use self::watch::OrderedWatch;
use openraft::OptionalSend;
use openraft::async_runtime::{AsyncRuntime, Instant};
use openraft_rt_tokio::{TokioMpsc, TokioMutex, TokioOneshot, TokioRuntime};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng, TryRng};
use std::cell::RefCell;
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::time::Duration;

thread_local! {
    static SEEDED: RefCell<Option<StdRng>> = const { RefCell::new(None) };
}

/// Makes [`random`] repeatable on this thread from now on. A simulation runs on one thread.
pub fn seed(seed: u64) {
    SEEDED.with_borrow_mut(|rng| *rng = Some(StdRng::seed_from_u64(seed)));
    grid::restart();
}

/// The crate's only source of randomness: the operating system's, unless this thread was [`seed`]ed.
pub fn random() -> Random {
    Random
}

/// See [`random`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Random;

impl TryRng for Random {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        SEEDED.with_borrow_mut(|seeded| match seeded {
            Some(rng) => rng.try_next_u32(),
            None => Ok(system_random().next_u32()),
        })
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        SEEDED.with_borrow_mut(|seeded| match seeded {
            Some(rng) => rng.try_next_u64(),
            None => Ok(system_random().next_u64()),
        })
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        SEEDED.with_borrow_mut(|seeded| match seeded {
            Some(rng) => rng.try_fill_bytes(bytes),
            None => {
                system_random().fill_bytes(bytes);
                Ok(())
            }
        })
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the replacement that the lint names")]
fn system_random() -> rand::rngs::ThreadRng {
    rand::rng()
}

/// A wall clock, for what must mean something to people: where a group's replicated time begins. Never for
/// timeouts.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Milliseconds since the Unix epoch; may jump either way.
    fn now_ms(&self) -> u64;
}

/// The machine's own clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the replacement that the lint names")]
    fn now_ms(&self) -> u64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

/// A clock that follows tokio's, from a chosen start: deterministic where tokio's clock is.
#[derive(Clone, Copy, Debug)]
pub struct SimulatedClock {
    start_ms: u64,
    started: tokio::time::Instant,
}

impl SimulatedClock {
    /// A clock that reads `start_ms` now.
    pub fn starting_at(start_ms: u64) -> Self {
        Self { start_ms, started: tokio::time::Instant::now() }
    }
}

impl Clock for SimulatedClock {
    fn now_ms(&self) -> u64 {
        let passed = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.start_ms.saturating_add(passed)
    }
}

/// tokio with [`Random`]: what openraft runs on.
#[derive(Debug)]
pub struct Runtime(TokioRuntime);

impl AsyncRuntime for Runtime {
    type JoinError = tokio::task::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = tokio::task::JoinHandle<T>;
    type Sleep = tokio::time::Sleep;
    type Instant = Moment;
    type TimeoutError = tokio::time::error::Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = tokio::time::Timeout<T>;
    type ThreadLocalRng = Random;
    type Mpsc = TokioMpsc;
    type Watch = OrderedWatch;
    type Oneshot = TokioOneshot;
    type Mutex<T: OptionalSend + 'static> = TokioMutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        TokioRuntime::spawn(Supervisor::supervised(future))
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        tokio::time::sleep_until(deadline.0 + grid::delay(deadline - Self::Instant::now()))
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        tokio::time::timeout_at(deadline.0, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        random()
    }

    fn new(threads: usize) -> Self {
        Self(TokioRuntime::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two runs from one seed draw the same numbers.
    #[test]
    fn a_seed_repeats() {
        let draw = |from| {
            seed(from);
            [random().next_u64(), random().next_u64()]
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    /// openraft's own conformance suite holds for the wrapped runtime.
    #[test]
    fn openraft_runtime_suite() {
        openraft_rt::testing::Suite::<Runtime>::test_all();
    }
}
