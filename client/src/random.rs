//! The client's only source of randomness: ids, jitter and the choice among equals. A seed makes it repeat.

use crate::sync::lock;
use proto::ClientId;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::sync::Mutex;
use std::time::Duration;

#[derive(Debug)]
pub(crate) struct Random(Mutex<StdRng>);

impl Random {
    pub(crate) fn new(seed: Option<u64>) -> Self {
        Self(Mutex::new(match seed {
            Some(seed) => StdRng::seed_from_u64(seed),
            None => rand::make_rng(),
        }))
    }

    /// A new session's name: 128 random bits, so that no two clients ever share one.
    pub(crate) fn client_id(&self) -> ClientId {
        ClientId(lock(&self.0).random())
    }

    pub(crate) fn request_id(&self) -> u128 {
        lock(&self.0).random()
    }

    /// A starting place for a round over equals.
    pub(crate) fn spin(&self) -> usize {
        usize::from(lock(&self.0).random::<u16>())
    }

    /// A random part of `whole`.
    pub(crate) fn part(&self, whole: Duration) -> Duration {
        whole.mul_f64(lock(&self.0).random_range(0.0..=1.0))
    }

    /// The wait before attempt number `attempt` (from 1): doubles from `min` to `max`, then a random half off,
    /// so that callers that failed together do not return together.
    pub(crate) fn backoff(&self, attempt: u32, min: Duration, max: Duration) -> Duration {
        let full = min.saturating_mul(1 << attempt.saturating_sub(1).min(16)).min(max);
        full.mul_f64(lock(&self.0).random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A backoff grows, stays within its bounds, and repeats under one seed.
    #[test]
    fn backoff_is_bounded_and_repeatable() {
        let (min, max) = (Duration::from_millis(20), Duration::from_millis(500));
        let waits = |seed| {
            let random = Random::new(Some(seed));
            (1..40).map(|attempt| random.backoff(attempt, min, max)).collect::<Vec<_>>()
        };
        assert!(waits(1).iter().all(|wait| (min / 2..=max).contains(wait)));
        assert!(waits(1)[30] >= max / 2);
        assert_eq!(waits(1), waits(1));
        assert_ne!(waits(1), waits(2));
    }
}
