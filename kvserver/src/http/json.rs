//! Bytes in JSON: text where they are UTF-8, base64 (standard alphabet, padded) beside `"b64": true` otherwise.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use std::borrow::Cow;

/// Whether some of `parts` must be written as base64; then all of them are, under one `b64`.
pub(crate) fn needs_base64(parts: &[&[u8]]) -> bool {
    parts.iter().any(|part| std::str::from_utf8(part).is_err())
}

/// `bytes` as a JSON string's text.
pub(crate) fn text(bytes: &[u8], base64: bool) -> Cow<'_, str> {
    if base64 { Cow::Owned(STANDARD.encode(bytes)) } else { String::from_utf8_lossy(bytes) }
}

/// The bytes that a JSON string's text stands for; `None` where it ought to be base64 and is not.
pub(crate) fn bytes(text: &str, base64: bool) -> Option<Bytes> {
    if base64 {
        STANDARD.decode(text).ok().map(Bytes::from)
    } else {
        Some(Bytes::copy_from_slice(text.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Any bytes survive, as text where they can and as base64 where they must.
        #[test]
        fn round_trip(given in proptest::collection::vec(any::<u8>(), 0..40)) {
            let base64 = needs_base64(&[&given]);
            prop_assert_eq!(base64, std::str::from_utf8(&given).is_err());
            prop_assert_eq!(bytes(&text(&given, base64), base64).unwrap(), given);
        }
    }
}
