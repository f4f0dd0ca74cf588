//! The formats of import and export files: pure functions between a line and a key with its value.

use crate::output::JsonPair;
use std::path::Path;

/// What a line of a file means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// The line is a key; its value is its line number, from 1
    Lines,
    /// Key, tab, value; no escapes, so neither holds a line break and the key no tab
    Tsv,
    /// {"key": …, "value": …, "b64": false}; with "b64": true both are in base64
    #[default]
    Jsonl,
}

/// What to take a file's lines for where nobody says it: by its ending, or else as the default. With it, the reason
/// and what else there is, for people.
pub(crate) fn guess(file: &Path) -> (Format, String) {
    let ending = file.extension().and_then(|ending| ending.to_str());
    let (format, why) = match ending {
        Some("tsv") => (Format::Tsv, "taken for tsv by the file's ending"),
        Some("jsonl") => (Format::Jsonl, "taken for jsonl by the file's ending"),
        _ => (Format::default(), "taken for jsonl, as the file ends in neither .jsonl nor .tsv"),
    };
    (format, format!("no --format was given: {why}; the formats are lines, tsv and jsonl"))
}

/// The key and the value that line `number` (from 1, without its line break) stands for, or what is wrong.
pub(crate) fn parse(format: Format, number: u64, line: &[u8]) -> Result<(Vec<u8>, Vec<u8>), String> {
    match format {
        Format::Lines => Ok((line.to_vec(), number.to_string().into_bytes())),
        Format::Tsv => {
            let tab = line.iter().position(|&byte| byte == b'\t').ok_or("line has no tab")?;
            Ok((line[..tab].to_vec(), line[tab + 1..].to_vec()))
        }
        Format::Jsonl => {
            let pair: JsonPair = serde_json::from_slice(line).map_err(|error| error.to_string())?;
            pair.bytes()
        }
    }
}

/// Adds the line for `key` and `value`, with its line break, or says why the format cannot hold it.
pub(crate) fn render(format: Format, key: &[u8], value: &[u8], lines: &mut Vec<u8>) -> Result<(), String> {
    let refused = |reason: &str| Err(format!("{reason}, use --format jsonl: {}", key.escape_ascii()));
    match format {
        Format::Lines => {
            if key.contains(&b'\n') {
                return refused("key holds a line break");
            }
            lines.extend_from_slice(key);
        }
        Format::Tsv => {
            if key.contains(&b'\t') || key.contains(&b'\n') || value.contains(&b'\n') {
                return refused("key holds a tab or a line break, or its value a line break");
            }
            lines.extend_from_slice(key);
            lines.push(b'\t');
            lines.extend_from_slice(value);
        }
        Format::Jsonl => {
            let json = serde_json::to_vec(&JsonPair::new(key, value)).map_err(|error| error.to_string())?;
            lines.extend_from_slice(&json);
        }
    }
    lines.push(b'\n');
    Ok(())
}

/// The line number that an import as lines stored, or what is wrong with the value.
pub(crate) fn line_number(key: &[u8], value: &[u8]) -> Result<u64, String> {
    let number = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| {
        format!("value is no line number, use another --format or --prefix: {}", key.escape_ascii())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    /// A file's ending tells its format, and whatever is told names all formats.
    #[test]
    fn formats_by_ending() {
        for (file, format) in [
            ("keys.tsv", Format::Tsv),
            ("a.tsv/keys.jsonl", Format::Jsonl),
            ("words.txt", Format::Jsonl),
            ("-", Format::Jsonl),
        ] {
            let (guessed, why) = guess(Path::new(file));
            assert_eq!(guessed, format, "{file}");
            let named = Format::value_variants().iter().filter_map(|format| format.to_possible_value());
            assert!(named.into_iter().all(|format| why.contains(format.get_name())), "{why}");
        }
    }

    /// What a format can hold comes back as it went in.
    #[test]
    fn lines_round_trip() {
        for (format, key, value) in [
            (Format::Lines, &b"w\xf6rter\r"[..], &b"7"[..]),
            (Format::Tsv, b"key", b"a\tb\xff"),
            (Format::Tsv, b"", b""),
            (Format::Jsonl, b"a\tb\n", b"\xff\n"),
            (Format::Jsonl, b"\"", "ä\\".as_bytes()),
        ] {
            let mut lines = Vec::new();
            render(format, key, value, &mut lines).unwrap();
            let line = lines.strip_suffix(b"\n").unwrap();
            assert_eq!(parse(format, 7, line).unwrap(), (key.to_vec(), value.to_vec()), "{format:?}");
        }
    }

    /// What a format cannot hold is refused rather than damaged.
    #[test]
    fn what_does_not_fit_is_refused() {
        let refuse = |format, key: &[u8], value: &[u8]| render(format, key, value, &mut Vec::new()).is_err();
        assert!(refuse(Format::Lines, b"a\nb", b"1"));
        assert!(refuse(Format::Tsv, b"a\tb", b"1"));
        assert!(refuse(Format::Tsv, b"a", b"1\n"));
        assert!(parse(Format::Tsv, 1, b"no tab").is_err());
        assert!(parse(Format::Jsonl, 1, br#"{"key":"a"}"#).is_err());
        assert!(parse(Format::Jsonl, 1, br#"{"key":"?","value":"","b64":true}"#).is_err());
        assert!(line_number(b"k", b"1x").is_err() && line_number(b"k", b"").is_err());
    }
}
