//! From a key to its shard, and sets of shards.

use crate::ShardId;
use bincode::{Decode, Encode};

/// The number of shards a cluster is born with unless told otherwise.
pub const SHARDS_DEFAULT: u32 = 256;

/// The most shards of a cluster; ids are below this. Machines depend on it, so it is part of their format.
pub const SHARDS_MAX: u32 = 1 << 16;

/// The part of a key that decides its shard: the text inside the first `{…}` where there is one and it is not
/// empty, otherwise the whole key. `{room1}/a` and `{room1}/b` therefore live together.
pub fn hashed_part(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|&b| b == b'{') else { return key };
    match key[open + 1..].iter().position(|&b| b == b'}') {
        Some(length) if length > 0 => &key[open + 1..open + 1 + length],
        _ => key,
    }
}

/// The shard of `key` among `shards`: CRC-32 (the polynomial of zlib) of [`hashed_part`], modulo `shards`.
///
/// # Panics
/// If `shards` is 0.
pub fn shard_of(key: &[u8], shards: u32) -> ShardId {
    assert!(shards > 0, "a cluster has at least one shard");
    ShardId(crc32fast::hash(hashed_part(key)) % shards)
}

/// The shard of every key that starts with `prefix`, where the prefix alone decides it: where the part that
/// is hashed ends before the prefix does.
///
/// # Panics
/// If `shards` is 0.
pub fn shard_of_prefix(prefix: &[u8], shards: u32) -> Option<ShardId> {
    let decided = hashed_part(prefix).len() < prefix.len();
    decided.then(|| shard_of(prefix, shards))
}

/// A set of shards, at one bit each up to the last of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct ShardSet {
    /// Bit `s % 64` of the word at `s / 64` says whether shard `s` is in it.
    words: Vec<u64>,
}

impl ShardSet {
    /// Adds `shard`; says whether it is new.
    pub fn insert(&mut self, shard: ShardId) -> bool {
        let (word, bit) = place(shard);
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let is_new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        is_new
    }

    /// Whether `shard` is in it.
    pub fn contains(&self, shard: ShardId) -> bool {
        let (word, bit) = place(shard);
        self.words.get(word).is_some_and(|word| word & bit != 0)
    }

    /// Its shards, in order.
    pub fn iter(&self) -> impl Iterator<Item = ShardId> + '_ {
        // No message is long enough for more words than ids have.
        let firsts = (0..=u32::MAX).step_by(64);
        let of_word = |(first, &word): (u32, &u64)| {
            (0..u64::BITS).filter(move |bit| word >> bit & 1 == 1).map(move |bit| ShardId(first + bit))
        };
        firsts.zip(&self.words).flat_map(of_word)
    }

    /// The most bytes that it takes in its encoding.
    pub fn encoded_bytes_max(&self) -> usize {
        9 * (1 + self.words.len())
    }
}

impl FromIterator<ShardId> for ShardSet {
    fn from_iter<I: IntoIterator<Item = ShardId>>(shards: I) -> Self {
        let mut set = Self::default();
        for shard in shards {
            set.insert(shard);
        }
        set
    }
}

/// A shard's word in a set, and its bit there.
fn place(shard: ShardId) -> (usize, u64) {
    ((shard.0 / u64::BITS) as usize, 1 << (shard.0 % u64::BITS))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A set holds what was put into it, in order, whatever the order in which it came.
    #[test]
    fn sets_hold_their_shards() {
        let ids = [700, 0, 63, 64, 5, 700, 65_535];
        let set: ShardSet = ids.into_iter().map(ShardId).collect();
        assert_eq!(set.iter().map(|shard| shard.0).collect::<Vec<_>>(), [0, 5, 63, 64, 700, 65_535]);
        assert!(ids.into_iter().all(|id| set.contains(ShardId(id))));
        assert!([1, 62, 65, 701, 65_536, u32::MAX].into_iter().all(|id| !set.contains(ShardId(id))));
        let mut set = ShardSet::default();
        assert!(set.insert(ShardId(9)) && !set.insert(ShardId(9)) && set.insert(ShardId(8)));
        assert!(crate::encode(&set).len() <= set.encoded_bytes_max());
        assert_eq!(ShardSet::default().iter().count(), 0);
    }

    /// A set keeps its bytes: they are in logs and in answers.
    #[test]
    fn golden_sets() {
        let set: ShardSet = [0, 3, 65].into_iter().map(ShardId).collect();
        assert_eq!(crate::encode(&set), [1, 2, 9, 2]);
    }

    /// The mapping is a format: every client and every node must agree on it for ever.
    #[test]
    fn golden_shards() {
        assert_eq!(shard_of(b"", 256), ShardId(0));
        assert_eq!(shard_of(b"123456789", 256), ShardId(0xCB_F4_39_26 % 256));
        assert_eq!(shard_of(b"notes/today", 256), shard_of(b"x{notes/today}y", 256));
    }

    /// Only the first non-empty pair of braces counts.
    #[test]
    fn braces_choose_what_is_hashed() {
        assert_eq!(hashed_part(b"{room1}/a"), b"room1");
        assert_eq!(hashed_part(b"a{}b{c}"), b"a{}b{c}");
        assert_eq!(hashed_part(b"a{b"), b"a{b");
        assert_eq!(hashed_part(b"a}b{c}d"), b"c");
    }

    /// A prefix decides the shard only where it holds the whole of what is hashed, and then as its keys do.
    #[test]
    fn prefixes_that_decide() {
        for open in [&b""[..], b"a", b"{a", b"{}", b"}{", b"{}x{a"] {
            assert_eq!(shard_of_prefix(open, 256), None, "{open:?}");
        }
        for decided in [&b"{a}"[..], b"x{a}y", b"{a}{b", b"{a}/\xff"] {
            for rest in [&b""[..], b"/rest", b"}", b"{b}"] {
                let key = [decided, rest].concat();
                assert_eq!(shard_of_prefix(decided, 256), Some(shard_of(&key, 256)), "{key:?}");
            }
        }
    }
}
