//! Waking at a moment. The runtime's own timers count in milliseconds and wake up to two of them late, which would be most
//! of a fast operation's latency where that counts from a moment. A thread that does nothing but wait is late by some tens
//! of microseconds.

use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use tokio::sync::oneshot;
use tokio::time::Instant;

/// What an open loop waits with. Clones are cheap.
pub(crate) trait Timer: Clone + Send + 'static {
    /// Returns at this moment, or at once where it is past.
    fn until(&self, moment: Instant) -> impl Future<Output = Result<()>> + Send;
}

/// A moment that somebody waits for.
struct Alarm {
    moment: Instant,
    wake: oneshot::Sender<()>,
}

/// A thread that wakes whoever asks it to. It ends once nobody can ask any more.
#[derive(Clone, Debug)]
pub(crate) struct ThreadTimer {
    alarms: Sender<Alarm>,
}

impl ThreadTimer {
    pub(crate) fn start() -> Result<Self> {
        let (alarms, asked) = mpsc::channel();
        let thread = std::thread::Builder::new().name("bench-timer".to_owned());
        thread.spawn(move || ring(&asked)).context("cannot start the timer's thread")?;
        Ok(Self { alarms })
    }
}

impl Timer for ThreadTimer {
    async fn until(&self, moment: Instant) -> Result<()> {
        if moment <= Instant::now() {
            return Ok(());
        }
        let (wake, woken) = oneshot::channel();
        self.alarms.send(Alarm { moment, wake }).ok().context("the timer's thread is gone")?;
        woken.await.context("the timer's thread is gone")
    }
}

/// Wakes at their moments all that ask. Each worker waits for one moment at a time, so that there are no more alarms than
/// workers.
fn ring(asked: &Receiver<Alarm>) {
    // The number tells alarms of the same moment apart.
    let mut alarms: BTreeMap<(Instant, u64), oneshot::Sender<()>> = BTreeMap::new();
    let mut count = 0;
    loop {
        let now = Instant::now();
        while let Some(first) = alarms.first_entry()
            && first.key().0 <= now
        {
            // Who has gone meanwhile need not be woken.
            match first.remove().send(()) {
                Ok(()) | Err(()) => {}
            }
        }
        let next = alarms.first_key_value().map(|((moment, _), _)| *moment);
        let alarm = match next {
            Some(moment) => asked.recv_timeout(moment.saturating_duration_since(now)),
            None => asked.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match alarm {
            Ok(Alarm { moment, wake }) => {
                count += 1;
                alarms.insert((moment, count), wake);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// It never wakes before its moment, wakes all of the same moment, and does not wait for what is past.
    #[tokio::test]
    async fn moments() {
        let timer = ThreadTimer::start().expect("a thread");
        for micros in [300, 0, 700] {
            let moment = Instant::now() + Duration::from_micros(micros);
            let (one, other) = tokio::join!(timer.until(moment), timer.until(moment));
            one.and(other).expect("it wakes");
            assert!(Instant::now() >= moment);
        }
    }

    /// An earlier moment is not kept waiting by a later one, nor by one whose waiter is gone.
    #[tokio::test]
    async fn earlier_moments_come_first() {
        let timer = ThreadTimer::start().expect("a thread");
        let soon = Instant::now() + Duration::from_micros(500);
        let never = soon + Duration::from_secs(86_400);
        tokio::select! {
            biased;
            _ = timer.until(never) => panic!("it woke a day early"),
            woken = timer.until(soon) => woken.expect("it wakes"),
        }
        timer.until(soon + Duration::from_micros(500)).await.expect("it goes on");
    }
}
