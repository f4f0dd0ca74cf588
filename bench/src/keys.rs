//! Which key an operation takes. Owns the keys' names and how often each is drawn.

use anyhow::{Context, Result};
use clap::ValueEnum;
use rand::rngs::StdRng;
use rand::{Rng, RngExt};
use rand_distr::{Distribution as _, Zipf};

/// What every key of this tool's own begins with.
pub(crate) const PREFIX: &str = "bench/";

/// The exponent of the skewed distribution, as in YCSB: one key in 100,000 takes about a twelfth of the operations.
const SKEW: f64 = 0.99;

/// How often each key is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Distribution {
    /// All equally often.
    Uniform,
    /// The nth most popular key n^0.99 times less often than the first; popular keys lie anywhere among the others.
    Zipfian,
}

/// So many keys, drawn in one way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keys {
    count: u64,
    skewed: Option<Zipf<f64>>,
}

impl Keys {
    pub(crate) fn new(count: u64, distribution: Distribution) -> Result<Self> {
        let skewed = match distribution {
            Distribution::Uniform => None,
            Distribution::Zipfian => Some(Zipf::new(count as f64, SKEW).context("the keys' distribution")?),
        };
        Ok(Self { count, skewed })
    }

    /// The number of a key, below their count.
    pub(crate) fn draw(&self, random: &mut StdRng) -> u64 {
        match &self.skewed {
            None => random.random_range(0..self.count),
            // Ranks are whole numbers from 1.
            Some(skewed) => scrambled(skewed.sample(random) as u64) % self.count,
        }
    }
}

/// Spreads ranks over all numbers, so that popular keys are no neighbours: splitmix64's finish.
fn scrambled(rank: u64) -> u64 {
    let mut mixed = rank.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The name of a key; in the order of the numbers.
pub(crate) fn key(number: u64) -> String {
    format!("{PREFIX}{number:016}")
}

/// The number of a key with a name of ours.
pub(crate) fn number(key: &[u8]) -> Option<u64> {
    std::str::from_utf8(key).ok()?.strip_prefix(PREFIX)?.parse().ok()
}

/// Bytes that no compression makes fewer.
pub(crate) fn value(random: &mut StdRng, bytes: usize) -> Vec<u8> {
    let mut value = vec![0; bytes];
    random.fill_bytes(&mut value);
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use std::collections::BTreeMap;

    fn drawn(count: u64, distribution: Distribution) -> Vec<u64> {
        let keys = Keys::new(count, distribution).expect("a distribution");
        let mut random = StdRng::seed_from_u64(7);
        let mut often = BTreeMap::<u64, u64>::new();
        (0..100_000).for_each(|_| *often.entry(keys.draw(&mut random)).or_default() += 1);
        assert!(often.keys().all(|number| *number < count));
        let mut often: Vec<u64> = often.into_values().collect();
        often.sort_unstable_by_key(|times| std::cmp::Reverse(*times));
        often
    }

    /// Uniform keys are drawn about equally often; of skewed ones the first about twice as often as the second.
    #[test]
    fn distributions() {
        let uniform = drawn(100, Distribution::Uniform);
        assert!(uniform.iter().all(|times| (800..1_200).contains(times)), "{uniform:?}");
        let skewed = drawn(100_000, Distribution::Zipfian);
        assert!((6_500..9_500).contains(&skewed[0]), "{}", skewed[0]);
        assert!((3_000..5_000).contains(&skewed[1]), "{}", skewed[1]);
        assert!(skewed.len() > 10_000);
    }

    /// One key alone can be drawn in both ways.
    #[test]
    fn a_single_key() {
        for distribution in [Distribution::Uniform, Distribution::Zipfian] {
            assert_eq!(drawn(1, distribution), [100_000]);
        }
    }

    /// A key's number is read off its name again, and no other's.
    #[test]
    fn names() {
        assert_eq!(number(key(42).as_bytes()), Some(42));
        assert_eq!(number(b"notes/today"), None);
        assert_eq!(number(b"bench/today"), None);
        assert!(key(9) < key(10));
    }
}
