//! The id that goes with a request through answers, logs and traces of every node that it touches.
//!
//! Ids come from the caller where they have the right form, and from [`raftstore::random`] otherwise. They are
//! names, never secrets and never a proof of anything.

use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use rand::Rng;
use std::fmt;

/// Where a caller gives the id, and where every answer repeats it.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("flotilla-request-id");

/// Where proxies give theirs.
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// 128 bits, written as 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestId(pub(crate) u128);

impl RequestId {
    /// The caller's id, or a new one where the caller gave none of the right form.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let given = |name| headers.get(name).and_then(|value| Self::parse(value.as_bytes()));
        given(REQUEST_ID).or_else(|| given(X_REQUEST_ID)).unwrap_or_else(Self::fresh)
    }

    /// A new id.
    pub(crate) fn fresh() -> Self {
        let mut random = raftstore::random();
        Self(u128::from(random.next_u64()) << 64 | u128::from(random.next_u64()))
    }

    fn parse(text: &[u8]) -> Option<Self> {
        if text.len() != 32 {
            return None;
        }
        let digit = |id: u128, byte: &u8| Some(id << 4 | u128::from(char::from(*byte).to_digit(16)?));
        text.iter().try_fold(0, digit).map(Self)
    }

    /// As a header's value.
    pub(crate) fn header(self) -> HeaderValue {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0; 32];
        for (place, digit) in text.iter_mut().enumerate() {
            *digit = DIGITS[(self.0 >> (124 - 4 * place)) as usize & 0xF];
        }
        HeaderValue::from_bytes(&text).expect("hexadecimal digits are a header value")
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An id of the right form is taken, in either header and either case; any other form is replaced.
    #[test]
    fn only_the_right_form_is_taken() {
        let of = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_str(value).unwrap());
            RequestId::of(&headers).to_string()
        };
        let id = "00112233445566778899aabbccddeeff";
        assert_eq!(of("flotilla-request-id", id), id);
        assert_eq!(of("x-request-id", &id.to_uppercase()), id);
        for other in ["", "1", "00112233-4455-6677-8899-aabbccddeeff", "+0112233445566778899aabbccddeeff"] {
            let made = of("flotilla-request-id", other);
            assert_eq!(made.len(), 32);
            assert_ne!(made, of("flotilla-request-id", other), "{other}");
        }
    }

    /// The header says the same as the text.
    #[test]
    fn header_is_the_text() {
        for id in [0, 1, u128::MAX, 0x0123_4567_89ab_cdef_0011_2233_4455_6677] {
            assert_eq!(RequestId(id).header(), RequestId(id).to_string());
        }
    }
}
