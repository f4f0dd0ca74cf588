//! Conditional requests (RFC 9110, section 13): entity tags are versions in quotes, and version 0 is an absent key.
//!
//! A condition that cannot be expressed is refused. It must never be dropped, because the caller believes that it
//! protects a write.

use crate::http::problem::Problem;
use hyper::HeaderMap;
use hyper::header::{
    CONTENT_RANGE, HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE,
};
use proto::{Epoch, Expect, Version};

/// The condition on a write: `If-Match` with one version or `*`, or `If-None-Match: *`. Parts of values cannot be
/// written, and keys have no times: what asks for either is refused, because without it the write would be another.
pub(crate) fn of_write(headers: &HeaderMap) -> Result<Expect, Problem> {
    let not_taken = [CONTENT_RANGE, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE];
    if let Some(name) = not_taken.into_iter().find(|name| headers.contains_key(name)) {
        let why = "a write takes the body whole, on if-match or if-none-match alone";
        return Err(Problem::bad_request(format!("header cannot go with a write: {name}; {why}")));
    }
    let (wanted, unwanted) = (single(headers, IF_MATCH)?, single(headers, IF_NONE_MATCH)?);
    match (wanted, unwanted) {
        (None, None) => Ok(Expect::Any),
        (Some(wanted), None) => if_match(wanted),
        (None, Some("*")) => Ok(Expect::Absent),
        (None, Some(other)) => {
            Err(Problem::bad_request(format!("if-none-match of a write can only be *, not {other}")))
        }
        (Some(_), Some(_)) => {
            Err(Problem::bad_request("if-match and if-none-match exclude each other in a write"))
        }
    }
}

/// The condition on a change of the cluster's map: `If-Match` with one epoch.
pub(crate) fn of_change(headers: &HeaderMap) -> Result<Option<Epoch>, Problem> {
    let not_taken = [IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE];
    if let Some(name) = not_taken.into_iter().find(|name| headers.contains_key(name)) {
        let why = "it goes on if-match with one epoch alone";
        return Err(Problem::bad_request(format!(
            "header cannot go with a change of the map: {name}; {why}"
        )));
    }
    let Some(tag) = single(headers, IF_MATCH)? else { return Ok(None) };
    match version_of(tag) {
        Some(Version(epoch)) => Ok(Some(Epoch(epoch))),
        None => Err(Problem::bad_request(format!(
            "if-match of a change of the map must be one epoch in double quotes, not {tag}"
        ))),
    }
}

/// What becomes of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Evaluation {
    /// Answer as if there were no condition.
    Serve,
    /// The caller has this version already.
    NotModified,
    /// `If-Match` does not hold.
    Failed,
}

/// The condition on a read.
#[derive(Debug)]
pub(crate) struct ReadCondition<'a> {
    wanted: Expect,
    unwanted: Option<&'a str>,
}

impl<'a> ReadCondition<'a> {
    /// The condition in `headers`: `If-Match` as for writes, `If-None-Match` with any list of tags.
    pub(crate) fn of(headers: &'a HeaderMap) -> Result<Self, Problem> {
        let wanted = single(headers, IF_MATCH)?.map_or(Ok(Expect::Any), if_match)?;
        let unwanted = single(headers, IF_NONE_MATCH)?;
        if let Some(list) = unwanted.filter(|list| *list != "*" && !tags(list).all(is_tag)) {
            return Err(Problem::bad_request(format!("if-none-match is not a list of entity tags: {list}")));
        }
        Ok(Self { wanted, unwanted })
    }

    /// The evaluation for a key at `version`, 0 where it is absent.
    pub(crate) fn evaluate(&self, version: Version) -> Evaluation {
        let present = version != Version(0);
        let holds = match self.wanted {
            Expect::Any => true,
            Expect::Absent => !present,
            Expect::Present => present,
            Expect::Version(wanted) => wanted == version,
        };
        let has =
            |list: &str| list == "*" || tags(list).any(|tag| version_of(unweakened(tag)) == Some(version));
        match self.unwanted {
            _ if !holds => Evaluation::Failed,
            Some(list) if present && has(list) => Evaluation::NotModified,
            _ => Evaluation::Serve,
        }
    }
}

fn if_match(tag: &str) -> Result<Expect, Problem> {
    match (tag, version_of(tag)) {
        ("*", _) => Ok(Expect::Present),
        (_, Some(Version(0))) => Ok(Expect::Absent),
        (_, Some(version)) => Ok(Expect::Version(version)),
        (other, None) => Err(Problem::bad_request(format!(
            "if-match must be * or one version in double quotes, not {other}"
        ))),
    }
}

/// The header's text; a condition that is split over several headers is not guessed together.
fn single(headers: &HeaderMap, name: HeaderName) -> Result<Option<&str>, Problem> {
    let mut values = headers.get_all(&name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::bad_request(format!("header is given twice: {name}")));
    }
    match value.to_str() {
        Ok(text) => Ok(Some(text.trim())),
        Err(_) => Err(Problem::bad_request(format!("header is not visible ascii: {name}"))),
    }
}

/// Entity tags of ours hold digits alone, so a comma always separates. A foreign tag with a comma inside falls
/// apart into pieces that are no tags, and the list is refused.
fn tags(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|tag| !tag.is_empty())
}

fn unweakened(tag: &str) -> &str {
    tag.strip_prefix("W/").unwrap_or(tag)
}

fn is_tag(tag: &str) -> bool {
    let quoted = unweakened(tag).strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    quoted.is_some_and(|inside| !inside.contains('"'))
}

fn version_of(tag: &str) -> Option<Version> {
    let digits = tag.strip_prefix('"')?.strip_suffix('"')?;
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok().map(Version)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    fn headers(wanted: Option<&'static str>, unwanted: Option<&'static str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [(IF_MATCH, wanted), (IF_NONE_MATCH, unwanted)] {
            headers.extend(value.map(|value| (name, HeaderValue::from_static(value))));
        }
        headers
    }

    /// A write's condition is one of four, and anything else is refused rather than dropped.
    #[test]
    fn writes() {
        let of = |wanted, unwanted| of_write(&headers(wanted, unwanted)).ok();
        assert_eq!(of(None, None), Some(Expect::Any));
        assert_eq!(of(Some("*"), None), Some(Expect::Present));
        assert_eq!(of(Some("\"7\""), None), Some(Expect::Version(Version(7))));
        assert_eq!(of(Some("\"0\""), None), Some(Expect::Absent));
        assert_eq!(of(None, Some("*")), Some(Expect::Absent));
        let refused =
            ["7", "W/\"7\"", "\"7\", \"8\"", "\"x\"", "\"\"", "\"-1\"", "\"99999999999999999999\"", ""];
        assert!(refused.into_iter().all(|bad| of(Some(bad), None).is_none()));
        assert!(of(None, Some("\"7\"")).is_none());
        assert!(of(Some("*"), Some("*")).is_none());
        let mut twice = headers(Some("\"7\""), None);
        twice.append(IF_MATCH, HeaderValue::from_static("\"8\""));
        assert!(of_write(&twice).is_err());
    }

    /// A change's condition is one epoch, and anything else is refused rather than dropped.
    #[test]
    fn changes() {
        let of = |wanted, unwanted| of_change(&headers(wanted, unwanted)).ok();
        assert_eq!(of(None, None), Some(None));
        assert_eq!(of(Some("\"7\""), None), Some(Some(Epoch(7))));
        assert!(["*", "7", "W/\"7\"", "\"7\", \"8\""].into_iter().all(|bad| of(Some(bad), None).is_none()));
        assert_eq!(of(None, Some("*")), None);
    }

    /// The evaluation for a read follows RFC 9110: `If-Match` first, then `If-None-Match` by weak comparison.
    #[test]
    fn reads() {
        use Evaluation::{Failed, NotModified, Serve};
        let cases = [
            (None, None, 7, Serve),
            (None, None, 0, Serve),
            (Some("\"7\""), None, 7, Serve),
            (Some("\"7\""), None, 8, Failed),
            (Some("*"), None, 7, Serve),
            (Some("*"), None, 0, Failed),
            (Some("\"0\""), None, 0, Serve),
            (None, Some("\"7\""), 7, NotModified),
            (None, Some("\"7\""), 8, Serve),
            (None, Some("W/\"7\""), 7, NotModified),
            (None, Some("\"6\", \"7\""), 7, NotModified),
            (None, Some("\"foreign\""), 7, Serve),
            (None, Some("*"), 7, NotModified),
            (None, Some("*"), 0, Serve),
            (Some("\"7\""), Some("\"7\""), 7, NotModified),
        ];
        for (wanted, unwanted, version, evaluation) in cases {
            let headers = headers(wanted, unwanted);
            let condition = ReadCondition::of(&headers).unwrap();
            assert_eq!(condition.evaluate(Version(version)), evaluation, "{wanted:?} {unwanted:?} {version}");
        }
        assert!(ReadCondition::of(&headers(None, Some("7"))).is_err());
        assert!(ReadCondition::of(&headers(Some("7"), None)).is_err());
    }
}
