//! The request target: percent-encoding and query parameters, read strictly.
//!
//! A key is whatever bytes the encoding says, with nothing normalised: `.`, `..`, `//`, `%2F` and `%00` stay what
//! they are. What is not a correct encoding is refused rather than guessed, because a guess would name another
//! key.

use crate::http::problem::Problem;
use std::borrow::Cow;

/// What a `+` stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plus {
    /// Itself: in paths.
    Literal,
    /// A space: in queries, as forms, browsers and most libraries write them.
    Space,
}

/// The bytes that `text` encodes.
///
/// # Errors
/// Where a `%` is not followed by two hexadecimal digits: its place.
pub(crate) fn decode(text: &str, plus: Plus) -> Result<Cow<'_, [u8]>, usize> {
    let bytes = text.as_bytes();
    let special = |byte: u8| byte == b'%' || (byte == b'+' && plus == Plus::Space);
    if !bytes.iter().any(|&byte| special(byte)) {
        return Ok(Cow::Borrowed(bytes));
    }
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'%' => {
                let digit = |offset: usize| char::from(*bytes.get(at + offset)?).to_digit(16);
                let (Some(high), Some(low)) = (digit(1), digit(2)) else { return Err(at) };
                decoded.push((high << 4 | low) as u8);
                at += 3;
            }
            b'+' if plus == Plus::Space => {
                decoded.push(b' ');
                at += 1;
            }
            other => {
                decoded.push(other);
                at += 1;
            }
        }
    }
    Ok(Cow::Owned(decoded))
}

/// A parameter's name and value, decoded.
type Parameter<'a> = (Cow<'a, [u8]>, Cow<'a, [u8]>);

/// The parameters of a query, each known and given once.
#[derive(Debug)]
pub(crate) struct Query<'a>(Vec<Parameter<'a>>);

impl<'a> Query<'a> {
    /// The parameters in `query`, all of which must be `known`.
    pub(crate) fn parse(query: Option<&'a str>, known: &[&str]) -> Result<Self, Problem> {
        let mut pairs: Vec<Parameter<'a>> = Vec::new();
        for part in query.unwrap_or_default().split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let decoded = |text: &'a str| {
                decode(text, Plus::Space).map_err(|_| {
                    Problem::bad_request(format!("query has a malformed percent-encoding: {part}"))
                })
            };
            let (name, value) = (decoded(name)?, decoded(value)?);
            if !known.iter().any(|known| known.as_bytes() == &name[..]) {
                return Err(Problem::bad_request(unknown_parameter(&name, known)));
            }
            if pairs.iter().any(|(given, _)| *given == name) {
                let name = String::from_utf8_lossy(&name);
                return Err(Problem::bad_request(format!("query parameter is given twice: {name}")));
            }
            pairs.push((name, value));
        }
        Ok(Self(pairs))
    }

    /// The bytes of a parameter.
    pub(crate) fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|(given, _)| &given[..] == name.as_bytes()).map(|(_, value)| &value[..])
    }

    /// A parameter that is a whole number of `min..=max`.
    pub(crate) fn number(&self, name: &str, min: u64, max: u64) -> Result<Option<u64>, Problem> {
        let Some(value) = self.bytes(name) else { return Ok(None) };
        let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
        let number = std::str::from_utf8(value).ok().filter(|_| digits).and_then(|text| text.parse().ok());
        match number {
            Some(number) if (min..=max).contains(&number) => Ok(Some(number)),
            _ => Err(Problem::bad_request(format!(
                "query parameter {name} must be a whole number from {min} to {max}, not {}",
                String::from_utf8_lossy(value)
            ))),
        }
    }

    /// A parameter that is a switch: given alone or as `true` it is on.
    pub(crate) fn switch(&self, name: &str) -> Result<bool, Problem> {
        match self.bytes(name) {
            None | Some(b"false") => Ok(false),
            Some(b"" | b"true") => Ok(true),
            Some(other) => Err(Problem::bad_request(format!(
                "query parameter {name} must be true or false, not {}",
                String::from_utf8_lossy(other)
            ))),
        }
    }
}

fn unknown_parameter(name: &[u8], known: &[&str]) -> String {
    let name = String::from_utf8_lossy(name);
    if known.is_empty() {
        format!("this path takes no query parameters, unknown: {name}")
    } else {
        format!("query parameter is unknown, known are {}: {name}", known.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
    use proptest::prelude::*;

    /// Nothing is normalised, and half an escape is refused at its place.
    #[test]
    fn keys_are_taken_as_they_are() {
        let path = |text| decode(text, Plus::Literal).map(Cow::into_owned);
        for same in ["a/b//c", "..", "./../.", "a+b", "{room}/x", "ä"] {
            assert_eq!(path(same), Ok(same.as_bytes().to_vec()));
        }
        assert_eq!(path("%00%2f%2F%ff%25"), Ok(b"\0//\xff%".to_vec()));
        for (bad, at) in [("%", 0), ("ab%4", 2), ("%zz", 0), ("%41%+1", 3), ("%ä", 0)] {
            assert_eq!(path(bad), Err(at), "{bad}");
        }
        assert_eq!(decode("a+b%2B", Plus::Space).unwrap(), &b"a b+"[..]);
    }

    /// Unknown, repeated and ill-formed parameters are refused by name.
    #[test]
    fn parameters_are_strict() {
        let known = ["limit", "prefix", "keys-only"];
        let query = Query::parse(Some("limit=7&&prefix=%ff&keys-only"), &known).unwrap();
        assert_eq!(query.number("limit", 1, 1000), Ok(Some(7)));
        assert_eq!(query.bytes("prefix"), Some(&b"\xff"[..]));
        assert_eq!(query.switch("keys-only"), Ok(true));
        for (bad, named) in [("limits=1", "limits"), ("limit=1&limit=2", "limit"), ("prefix=%", "prefix=%")] {
            let detail = Query::parse(Some(bad), &known).unwrap_err().detail;
            assert!(detail.contains(named), "{detail}");
        }
        for bad in ["limit=", "limit=-1", "limit=+1", "limit=0", "limit=1001", "limit=99999999999999999999"] {
            assert!(Query::parse(Some(bad), &known).unwrap().number("limit", 1, 1000).is_err(), "{bad}");
        }
        assert!(Query::parse(Some("keys-only=yes"), &known).unwrap().switch("keys-only").is_err());
    }

    proptest! {
        /// Any bytes survive the encoding, in paths and in queries.
        #[test]
        fn any_bytes_round_trip(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let text = percent_encode(&bytes, NON_ALPHANUMERIC).to_string();
            prop_assert_eq!(decode(&text, Plus::Literal).unwrap(), &bytes[..]);
            prop_assert_eq!(decode(&text, Plus::Space).unwrap(), &bytes[..]);
        }

        /// Hostile text is refused or read, never a panic.
        #[test]
        fn any_text(text in "[%+&=0-9a-f/]{0,40}") {
            match decode(&text, Plus::Space) {
                Ok(decoded) => prop_assert!(decoded.len() <= text.len()),
                Err(at) => prop_assert_eq!(text.as_bytes()[at], b'%'),
            }
        }
    }
}
