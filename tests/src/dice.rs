//! Chance from a seed that is printed, so that a failing run can be rolled again. What two processes do at the same
//! time stays outside of it: a seed repeats the test's own choices, not the machine's.

use std::hash::{BuildHasher, RandomState};
use std::io::Write;

/// The variable that repeats a run.
const VARIABLE: &str = "FLOTILLA_TEST_SEED";

/// A small random generator (splitmix64).
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    /// Dice with the seed in `FLOTILLA_TEST_SEED`, or a fresh one; `test` names who prints it.
    ///
    /// # Panics
    /// If the variable is no number.
    pub fn roll(test: &str) -> Self {
        let seed = match std::env::var(VARIABLE) {
            Ok(text) => {
                text.parse().unwrap_or_else(|_| panic!("{VARIABLE} must be a whole number, not {text}"))
            }
            // A hasher's keys are the standard library's one source of randomness.
            Err(_) => RandomState::new().hash_one(test),
        };
        writeln!(std::io::stdout(), "{test}: {VARIABLE}={seed}").expect("stdout of a test is open");
        Self(seed)
    }

    /// 64 random bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number in `range`, which must not be empty.
    pub fn within(&mut self, range: std::ops::Range<u64>) -> u64 {
        range.start + self.draw() % (range.end - range.start)
    }

    /// So many random bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.draw().to_le_bytes()[0]).collect()
    }
}
