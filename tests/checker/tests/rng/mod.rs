//! Chance from a seed that is printed, so that a failing run can be had again.

use std::hash::{BuildHasher, RandomState};
use std::io::Write as _;

/// A small random generator (splitmix64).
pub struct Rng(u64);

impl Rng {
    /// A generator with the seed in `FLOTILLA_TEST_SEED`, or a fresh one; `test` names who prints it.
    pub fn announced(test: &str) -> Self {
        let seed = match std::env::var("FLOTILLA_TEST_SEED") {
            Ok(seed) => seed.parse().expect("FLOTILLA_TEST_SEED is a whole number"),
            // A hasher's keys are the standard library's one source of randomness.
            Err(_) => RandomState::new().hash_one(test),
        };
        writeln!(std::io::stdout(), "{test}: FLOTILLA_TEST_SEED={seed}").expect("stdout of a test is open");
        Self(seed)
    }

    /// A number from 0 up to, but without, `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits ^ (bits >> 31)) % end
    }
}
