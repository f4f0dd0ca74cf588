//! From a key to its shard.

use crate::ShardId;

/// The number of shards a cluster is born with unless told otherwise.
pub const SHARDS_DEFAULT: u32 = 256;

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

/// The shard of every key that starts with `prefix`, where the prefix alone decides it: where the part that is
/// hashed ends before the prefix does.
///
/// # Panics
/// If `shards` is 0.
pub fn shard_of_prefix(prefix: &[u8], shards: u32) -> Option<ShardId> {
    let decided = hashed_part(prefix).len() < prefix.len();
    decided.then(|| shard_of(prefix, shards))
}

#[cfg(test)]
mod tests {
    use super::*;

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
