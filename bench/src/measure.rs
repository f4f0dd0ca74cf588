//! Workers that carry operations out for a while, in a closed or an open loop, and what the servers spent meanwhile.

use crate::open_loop::Schedule;
use crate::tally::Tally;
use crate::timer::{ThreadTimer, Timer};
use anyhow::{Context, Result};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

/// How long the operations that are under way at the end, or wait then, may take.
const DRAIN_TIME: Duration = Duration::from_secs(30);

/// Carries operations out, one after the other.
pub(crate) trait Worker: Send + 'static {
    /// What is to be done, with all that it needs.
    type Operation: Send;

    /// The next operation. Making it up is no part of its time.
    fn draw(&mut self) -> Self::Operation;

    /// Carries it out, and returns how many bytes of keys and values it had stored.
    fn carry_out(&mut self, operation: Self::Operation) -> impl Future<Output = Result<u64>> + Send;
}

/// For how long, and how fast.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Before anything counts.
    warm: Duration,
    measured: Duration,
    /// Operations a second in an open loop; `None` for a closed one: each worker goes on as soon as it can.
    per_second: Option<u32>,
}

impl Plan {
    /// Measures for so long, after a fifth of it unmeasured.
    pub(crate) fn new(seconds: u64, per_second: Option<u32>) -> Self {
        let measured = Duration::from_secs(seconds);
        Self { warm: measured / 5, measured, per_second }
    }
}

/// What a measurement came to.
#[derive(Debug)]
pub(crate) struct Measured<S> {
    pub(crate) tally: Tally,
    /// Operations of an open loop that found too many waiting.
    pub(crate) refused: u64,
    /// From the first operation that counts to the end of the last.
    pub(crate) seconds: f64,
    /// What was spent before the first operation that counts.
    pub(crate) before: S,
    /// What was spent after the last.
    pub(crate) after: S,
}

impl<S> Measured<S> {
    /// Operations a second.
    pub(crate) fn throughput(&self) -> f64 {
        self.tally.operations() as f64 / self.seconds
    }

    /// Of a sum, each operation's part.
    pub(crate) fn per_operation(&self, sum: f64) -> f64 {
        sum / self.tally.operations() as f64
    }
}

/// Has the workers work as planned, and asks `spent` before and after.
///
/// # Errors
/// The first operation that failed, `spent`'s, one that did not end in time, or that none was carried out.
pub(crate) async fn measure<W: Worker, S>(
    workers: Vec<W>,
    plan: Plan,
    spent: impl AsyncFn() -> Result<S>,
) -> Result<Measured<S>> {
    measure_by(&ThreadTimer::start()?, workers, plan, spent).await
}

/// The same, by a timer of another kind in an open loop.
async fn measure_by<W: Worker, S>(
    timer: &impl Timer,
    workers: Vec<W>,
    plan: Plan,
    spent: impl AsyncFn() -> Result<S>,
) -> Result<Measured<S>> {
    let began = Instant::now();
    let (warm_until, until) = (began + plan.warm, began + plan.warm + plan.measured);
    let schedule = plan.per_second.map(|rate| Schedule::new(began, rate, plan.warm, plan.measured));
    let schedule = schedule.map(|schedule| Arc::new(Mutex::new(schedule)));
    // One for all: a thousand workers with a histogram each measure how slow memory is.
    let tally = Arc::new(Mutex::new(Tally::new()?));
    let mut tasks = JoinSet::new();
    for worker in workers {
        match schedule.clone() {
            None => tasks.spawn(closed(worker, tally.clone(), warm_until, until)),
            Some(schedule) => tasks.spawn(open(worker, tally.clone(), timer.clone(), schedule)),
        };
    }
    let watching = async {
        sleep_until(warm_until).await;
        spent().await
    };
    let working = async {
        while let Some(done) = tasks.join_next().await {
            done??;
        }
        Ok(warm_until.elapsed())
    };
    let both = async { tokio::try_join!(watching, working) };
    let time_max = plan.warm + plan.measured + DRAIN_TIME;
    let (before, elapsed) = timeout(time_max, both).await.with_context(|| {
        format!("operations are still under way {} s after the end", DRAIN_TIME.as_secs())
    })??;
    let after = spent().await?;
    let tally = std::mem::replace(&mut *lock(&tally), Tally::new()?);
    anyhow::ensure!(tally.operations() > 0, "no operation was carried out in the time: measure longer");
    let refused = schedule.map_or(0, |schedule| lock(&schedule).refused());
    Ok(Measured { tally, refused, seconds: elapsed.as_secs_f64(), before, after })
}

/// One operation after the other until the end.
async fn closed<W: Worker>(
    mut worker: W,
    tally: Arc<Mutex<Tally>>,
    warm_until: Instant,
    until: Instant,
) -> Result<()> {
    while Instant::now() < until {
        let operation = worker.draw();
        let began = Instant::now();
        let stored_bytes = worker.carry_out(operation).await?;
        let took = began.elapsed();
        if began >= warm_until {
            lock(&tally).record(took, stored_bytes)?;
        }
    }
    Ok(())
}

/// Whatever is due next, until nothing is; each operation's time counts from when it was due.
async fn open<W: Worker>(
    mut worker: W,
    tally: Arc<Mutex<Tally>>,
    timer: impl Timer,
    schedule: Arc<Mutex<Schedule>>,
) -> Result<()> {
    loop {
        let taken = lock(&schedule).take(Instant::now());
        let Some((due, counts)) = taken else { return Ok(()) };
        let operation = worker.draw();
        timer.until(due).await?;
        let stored_bytes = worker.carry_out(operation).await?;
        let took = due.elapsed();
        if counts {
            lock(&tally).record(took, stored_bytes)?;
        }
    }
}

/// A schedule and a tally are whole between any two of their calls.
fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    const MS: Duration = Duration::from_millis(1);

    /// Follows the runtime's clock, which stands still in tests while anything can be done.
    #[derive(Clone)]
    struct RuntimeTimer;

    impl Timer for RuntimeTimer {
        async fn until(&self, moment: Instant) -> Result<()> {
            sleep_until(moment).await;
            Ok(())
        }
    }

    /// Takes a millisecond for each operation, except that all stall from 2 s to 3 s after the beginning.
    struct Stalling {
        began: Instant,
        done: Arc<AtomicU64>,
    }

    impl Worker for Stalling {
        type Operation = ();

        fn draw(&mut self) {}

        async fn carry_out(&mut self, (): ()) -> Result<u64> {
            let at = self.began.elapsed();
            if (Duration::from_secs(2)..Duration::from_secs(3)).contains(&at) {
                sleep_until(self.began + Duration::from_secs(3)).await;
            }
            tokio::time::sleep(MS).await;
            self.done.fetch_add(1, Ordering::Relaxed);
            Ok(10)
        }
    }

    async fn stalled(workers: u32, per_second: Option<u32>) -> Measured<u64> {
        let done = Arc::new(AtomicU64::new(0));
        let began = Instant::now();
        let workers = (0..workers).map(|_| Stalling { began, done: done.clone() }).collect();
        let spent = async || Ok(done.load(Ordering::Relaxed));
        let measured = measure_by(&RuntimeTimer, workers, Plan::new(5, per_second), spent);
        measured.await.expect("all succeed")
    }

    /// In an open loop a stall counts against every operation that was due in it, in a closed one only against one for
    /// each worker.
    #[tokio::test(start_paused = true)]
    async fn a_stall_counts_against_all_that_were_due() {
        let open = stalled(100, Some(100)).await;
        assert_eq!(open.tally.operations(), 500, "all that were due in the five seconds");
        let hit = (0..100).filter(|nth| open.tally.millis(1.0 - f64::from(*nth) / 500.0) > 9.0).count();
        assert_eq!(hit, 100, "those that were due in the second's stall");
        assert!(
            (open.tally.millis(0.9) - 500.0).abs() < 20.0,
            "half of them waited for half a second and more"
        );

        let closed = stalled(4, None).await;
        assert!(closed.tally.millis(0.99) < 3.0, "{}", closed.tally.millis(0.99));
        assert!(closed.tally.millis(1.0) > 990.0);
    }

    /// Latencies count from when an operation was due also where all workers are busy then.
    #[tokio::test(start_paused = true)]
    async fn waiting_counts() {
        let one = stalled(1, Some(100)).await;
        assert_eq!(one.tally.operations(), 500);
        assert!((one.tally.millis(1.0) - 1_001.0).abs() < 10.0, "{}", one.tally.millis(1.0));
        assert_eq!(one.refused, 0);
    }

    /// What is spent is asked for once the first operation counts and once the last has ended.
    #[tokio::test(start_paused = true)]
    async fn spent_meanwhile() {
        let open = stalled(100, Some(100)).await;
        assert!((100..=101).contains(&open.before), "{}", open.before);
        assert_eq!(open.after, 600);
        assert_eq!(open.tally.stored_bytes, 5_000);
        assert!((open.throughput() - 100.0).abs() < 1.0, "{}", open.throughput());
    }

    struct Failing;

    impl Worker for Failing {
        type Operation = ();

        fn draw(&mut self) {}

        async fn carry_out(&mut self, (): ()) -> Result<u64> {
            anyhow::bail!("the disk is full")
        }
    }

    /// An operation that fails ends the measurement at once.
    #[tokio::test(start_paused = true)]
    async fn failures_end_it() {
        let began = Instant::now();
        let failed = measure(vec![Failing], Plan::new(3_600, None), async || Ok(())).await;
        assert_eq!(failed.expect_err("it failed").to_string(), "the disk is full");
        assert!(began.elapsed() < Duration::from_secs(1));
    }

    struct Hanging;

    impl Worker for Hanging {
        type Operation = ();

        fn draw(&mut self) {}

        async fn carry_out(&mut self, (): ()) -> Result<u64> {
            std::future::pending().await
        }
    }

    /// An operation that never ends is not waited for without end.
    #[tokio::test(start_paused = true)]
    async fn waiting_is_bounded() {
        for rate in [None, Some(10)] {
            let failed = measure_by(&RuntimeTimer, vec![Hanging], Plan::new(10, rate), async || Ok(())).await;
            let why = failed.expect_err("it hung").to_string();
            assert_eq!(why, "operations are still under way 30 s after the end");
        }
    }
}
