//! What stands in JSON. Bytes: text where they are UTF-8, base64 (standard alphabet, padded) beside `"b64":
//! true` otherwise. Objects: by the names of their members, never by their places.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

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

/// A `T` that was written as an object. Left to itself, serde takes a struct's members from a list as well,
/// in the order in which they are declared.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Object<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData)).map(Self)
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(members))
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
