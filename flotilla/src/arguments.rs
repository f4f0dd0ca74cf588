//! What several commands take on the command line: which nodes to ask, and times.

use crate::error::Error;
use proto::split_address;
use std::time::Duration;

/// The longest time that one question may be given.
pub(crate) const TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// After how long without an answer it is said on stderr what is waited for.
pub(crate) const NOTICE: Duration = Duration::from_secs(1);

/// The longest time that something may be waited for.
const WAIT_MAX: Duration = Duration::from_secs(24 * 3_600);

/// Where a cluster of `flotilla dev` listens.
pub(crate) const NODES_DEFAULT: &str = "127.0.0.1:7101,127.0.0.1:7102,127.0.0.1:7103";

/// What to do where none of the nodes that were asked answered.
pub(crate) const NOBODY_ADVICE: &str =
    "is `flotilla dev` running? --nodes or FLOTILLA_NODES names other nodes";

/// The help of `--nodes`.
pub(crate) fn nodes_help() -> String {
    format!(
        "Nodes to ask first, as host:port or http://host:port, separated by commas [env: FLOTILLA_NODES] [default: {NODES_DEFAULT}]"
    )
}

/// The nodes in `list` as `host:port`, in its order.
///
/// # Errors
/// [`Error::Usage`] names what is no address.
pub(crate) fn parse_nodes(list: &str) -> Result<Vec<String>, Error> {
    let mut nodes = Vec::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let bare = part.strip_prefix("http://").unwrap_or(part).trim_end_matches('/');
        if split_address(bare).is_none() {
            return Err(Error::Usage(format!(
                "--nodes takes host:port, separated by commas, not \"{part}\""
            )));
        }
        nodes.push(bare.to_owned());
    }
    if nodes.is_empty() { Err(Error::Usage("--nodes names no node".into())) } else { Ok(nodes) }
}

/// A time such as `500ms`, `10s` or `2m`; seconds where no unit is said.
pub(crate) fn parse_time(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| format!("expected a number with ms, s or m: {text}"))?;
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "" | "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number.saturating_mul(60))),
        _ => Err(format!("expected ms, s or m after the number: {unit}")),
    }
}

/// A time that one question may take.
pub(crate) fn parse_timeout(text: &str) -> Result<Duration, String> {
    parse_within(text, TIMEOUT_MAX, "1m")
}

/// A time that something may be waited for.
pub(crate) fn parse_wait(text: &str) -> Result<Duration, String> {
    parse_within(text, WAIT_MAX, "1440m")
}

fn parse_within(text: &str, max: Duration, written: &str) -> Result<Duration, String> {
    let time = parse_time(text)?;
    let fits = !time.is_zero() && time <= max;
    if fits { Ok(time) } else { Err(format!("must be above 0 and at most {written}: {text}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nodes are given as addresses or plain URLs, and keep their order; anything else is refused by name.
    #[test]
    fn node_lists() {
        assert_eq!(parse_nodes("http://b:1/, a:2,").unwrap(), ["b:1", "a:2"]);
        for bad in ["", ",", "a", "a:b", ":1", "https://a:1", "a:1/path", "u@a:1"] {
            parse_nodes(bad).expect_err(bad);
        }
    }

    /// A time without a unit means seconds, so that milliseconds of old are refused rather than awaited; and no time is so
    /// long that the clock could not tell its end.
    #[test]
    fn times_are_bounded() {
        assert_eq!(parse_timeout("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_timeout("1m"), Ok(TIMEOUT_MAX));
        for bad in ["0", "0ms", "61s", "2000"] {
            parse_timeout(bad).expect_err(bad);
        }
        assert_eq!(parse_wait("1440m"), Ok(WAIT_MAX));
        for bad in ["0", "1441m", "18446744073709551615m"] {
            let why = parse_wait(bad).expect_err(bad);
            assert!(why.contains("at most 1440m"), "{why}");
        }
    }

    /// Every unit means what it says, and what is no time is refused.
    #[test]
    fn times_parse() {
        for (text, ms) in [("500ms", 500), ("10s", 10_000), ("2m", 120_000), ("3", 3_000)] {
            assert_eq!(parse_time(text), Ok(Duration::from_millis(ms)));
        }
        for bad in ["", "ms", "fast", "1h", "1.5s", "-1s"] {
            parse_time(bad).expect_err(bad);
        }
    }
}
