//! The cursor of a listing: where the next page begins.
//!
//! It names the last key of a page and is tied by a checksum to the cluster, the prefix and the start of its
//! listing, so that one that is damaged, foreign or used with another listing is refused instead of skipping
//! keys. It is no secret and proves nothing: whoever may list may forge one, and gains nothing by it.
//!
//! ```text
//! base64url without padding of: version u8 (1) · crc32 u32 little-endian · last key
//! crc32 covers, each behind its length as u32 little-endian: cluster · prefix · start · last key
//! ```

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

const VERSION: u8 = 1;

/// Version and checksum.
const HEADER: usize = 5;

/// What a cursor belongs to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listing<'a> {
    /// The cluster's name.
    pub(crate) cluster: &'a str,
    /// Only keys that start so.
    pub(crate) prefix: &'a [u8],
    /// Only keys at or after this one.
    pub(crate) start: &'a [u8],
}

impl Listing<'_> {
    /// The cursor behind `last`.
    pub(crate) fn cursor(&self, last: &[u8]) -> String {
        let mut bytes = Vec::with_capacity(HEADER + last.len());
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.checksum(last).to_le_bytes());
        bytes.extend_from_slice(last);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The last key of the page before.
    ///
    /// # Errors
    /// Why the text is not a cursor of this listing.
    pub(crate) fn last(&self, cursor: &[u8]) -> Result<Vec<u8>, &'static str> {
        let mut bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| "cursor is not one that was given out")?;
        let Some((&[version, a, b, c, d], last)) = bytes.split_first_chunk() else {
            return Err("cursor is cut short");
        };
        if version != VERSION {
            return Err("cursor is of another release");
        }
        if self.checksum(last) != u32::from_le_bytes([a, b, c, d]) {
            return Err("cursor is damaged or belongs to another listing");
        }
        Ok(bytes.split_off(HEADER))
    }

    fn checksum(&self, last: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        for part in [self.cluster.as_bytes(), self.prefix, self.start, last] {
            let length = u32::try_from(part.len()).expect("a part of a request is shorter than 4 GiB");
            hasher.update(&length.to_le_bytes());
            hasher.update(part);
        }
        hasher.finalize()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LISTING: Listing<'static> = Listing { cluster: "home", prefix: b"notes/", start: b"notes/b" };

    /// The layout does not drift.
    #[test]
    fn golden_cursor() {
        assert_eq!(LISTING.cursor(b"notes/today"), "Aa6P0qZub3Rlcy90b2RheQ");
    }

    /// A cursor of another cluster, prefix or start is refused, also where the parts only shift.
    #[test]
    fn another_listing_is_refused() {
        let cursor = LISTING.cursor(b"notes/c");
        assert_eq!(LISTING.last(cursor.as_bytes()), Ok(b"notes/c".to_vec()));
        let others = [
            Listing { cluster: "work", ..LISTING },
            Listing { prefix: b"", ..LISTING },
            Listing { start: b"", ..LISTING },
            Listing { prefix: b"notes/n", start: b"otes/b", ..LISTING },
        ];
        for other in others {
            assert!(other.last(cursor.as_bytes()).is_err(), "{other:?}");
        }
    }

    proptest! {
        /// Any last key comes back, and any changed character is noticed.
        #[test]
        fn round_trip(last in proptest::collection::vec(any::<u8>(), 0..60), at in any::<prop::sample::Index>()) {
            let cursor = LISTING.cursor(&last);
            prop_assert_eq!(LISTING.last(cursor.as_bytes()), Ok(last));
            let mut damaged = cursor.into_bytes();
            let at = at.index(damaged.len());
            damaged[at] = if damaged[at] == b'A' { b'B' } else { b'A' };
            prop_assert!(LISTING.last(&damaged).is_err());
        }

        /// Hostile text is refused, never a panic.
        #[test]
        fn any_text(text in proptest::collection::vec(any::<u8>(), 0..60)) {
            prop_assert!(LISTING.last(&text).is_err());
        }
    }
}
