//! How commands write their results: text for people and pipes, or one JSON object a line for programs.
//!
//! Everything goes through one locked stdout. A pipe that its reader closed is no error worth a word: callers
//! end quietly (see [`is_closed_pipe`]).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use std::io::{self, IsTerminal, Write};

/// What results look like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum OutputFormat {
    /// Values as they are, byte for byte.
    #[default]
    Text,
    /// One object a line; bytes that are not UTF-8 in base64, marked "b64".
    Json,
}

/// A key and a value in JSON: as text where both are UTF-8, otherwise both in base64.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JsonPair {
    pub(crate) key: String,
    pub(crate) value: String,
    #[serde(default)]
    pub(crate) b64: bool,
}

impl JsonPair {
    pub(crate) fn new(key: &[u8], value: &[u8]) -> Self {
        match (std::str::from_utf8(key), std::str::from_utf8(value)) {
            (Ok(key), Ok(value)) => Self { key: key.to_owned(), value: value.to_owned(), b64: false },
            _ => Self { key: STANDARD.encode(key), value: STANDARD.encode(value), b64: true },
        }
    }

    /// The bytes again, or what is wrong with the base64.
    pub(crate) fn bytes(self) -> Result<(Vec<u8>, Vec<u8>), String> {
        let decode = |text: String| match self.b64 {
            true => STANDARD.decode(&text).map_err(|error| format!("base64 is malformed: {error}")),
            false => Ok(text.into_bytes()),
        };
        Ok((decode(self.key)?, decode(self.value)?))
    }
}

/// Writes bytes to stdout as they are.
pub(crate) fn write_bytes(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}

/// Writes one line of text to stdout.
pub(crate) fn write_line(line: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}

/// Writes bytes as they are; on a terminal also the line break that they lack, so that the prompt stays in its
/// place.
pub(crate) fn write_value(bytes: &[u8]) -> io::Result<()> {
    write_bytes(bytes)?;
    let wants_break = !bytes.ends_with(b"\n") && io::stdout().is_terminal();
    if wants_break { write_bytes(b"\n") } else { Ok(()) }
}

/// Whether whoever read our output has gone away.
pub(crate) fn is_closed_pipe(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Any bytes come back from JSON as they went in, readable where that is possible.
    #[test]
    fn json_keeps_any_bytes() {
        for (key, value, b64) in
            [(&b"k"[..], &b"v\n\"\xc3\xa4"[..], false), (b"k", b"\xff\0", true), (b"", b"", false)]
        {
            let pair = JsonPair::new(key, value);
            assert_eq!(pair.b64, b64);
            let text = serde_json::to_string(&pair).unwrap();
            let again: JsonPair = serde_json::from_str(&text).unwrap();
            assert_eq!(again.bytes().unwrap(), (key.to_vec(), value.to_vec()));
        }
    }
}
