//! Lines of files to import, as anybody may have written them. Also what fuzzing runs.

use super::format::{Format, parse, render};

/// Reads `line` in every format. What is read is written again, and read as the same.
pub(crate) fn read(line: &[u8]) {
    for format in [Format::Lines, Format::Tsv, Format::Jsonl] {
        let Ok((key, value)) = parse(format, 7, line) else { continue };
        let mut again = Vec::new();
        if render(format, &key, &value, &mut again).is_ok() {
            let line = again.strip_suffix(b"\n").expect("a line ends");
            assert_eq!(parse(format, 7, line), Ok((key, value)));
        }
    }
}

/// Lines that are read, in each format.
pub(crate) fn samples() -> Vec<Vec<u8>> {
    let lines: [&[u8]; 5] = [
        b"key\tvalue",
        br#"{"key":"a","value":"b"}"#,
        br#"{"key":"/w==","value":"","b64":true}"#,
        br#"{"value":"\u00e4\\\n","key":"\ud83d\ude00"}"#,
        b"\tv\xffalue\t\r",
    ];
    lines.map(<[u8]>::to_vec).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hostile::damage::damaged;
    use crate::hostile::memory::Bound;
    use proptest::prelude::*;
    use proptest::sample::select;

    /// A line is held as what was read of it, as what is written of that, and once more.
    const BOUND: Bound = Bound { own: 4 << 10, each: 32 };

    fn bounded(line: &[u8]) {
        BOUND.hold(line, || read(line));
    }

    /// Samples are read in some format, and what has no bottom is refused in each that has depth.
    #[test]
    fn samples_are_read() {
        for line in samples() {
            let jsonl_only = line.starts_with(b"{");
            let format = if jsonl_only { Format::Jsonl } else { Format::Tsv };
            assert!(parse(format, 1, &line).is_ok(), "{}", line.escape_ascii());
            bounded(&line);
        }
        for (open, depth) in [("[", 100_000), (r#"{"key":"#, 100_000), (r#"{"other":["#, 50_000)] {
            let line = open.repeat(depth).into_bytes();
            assert!(parse(Format::Jsonl, 1, &line).is_err());
            bounded(&line);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 900, failure_persistence: None, ..Default::default() })]

        /// Any line is read or refused, and so are good ones that were damaged, and what is made of JSON's
        /// parts.
        #[test]
        fn any_line(
            any in prop::collection::vec(any::<u8>(), 0..100),
            damaged in damaged(samples()),
            words in prop::collection::vec(
                select(vec![
                    "{", "}", "[", "]", ":", ",", "\"", "\"key\"", "\"value\"", "\"b64\"", "\"a\"",
                    "\"/w==\"", "true", "null", "1e999", "-", "\\u", "d83d", "\\", "\t", " ", "\u{0}",
                ]),
                0..20,
            ),
        ) {
            bounded(&any);
            bounded(&damaged);
            bounded(words.concat().as_bytes());
        }
    }
}
