//! Lines of files to import: what is read is written again, and read as the same.
#![no_main]

#[expect(dead_code, reason = "the command's other half")]
#[path = "../../flotilla/src/kv/format.rs"]
mod format;
#[expect(dead_code, reason = "what else commands print")]
#[path = "../../flotilla/src/output.rs"]
mod output;

use format::Format;

libfuzzer_sys::fuzz_target!(|line: &[u8]| {
    for format in [Format::Lines, Format::Tsv, Format::Jsonl] {
        let Ok((key, value)) = format::parse(format, 7, line) else { continue };
        let mut again = Vec::new();
        if format::render(format, &key, &value, &mut again).is_ok() {
            let line = again.strip_suffix(b"\n").expect("a line ends");
            assert_eq!(format::parse(format, 7, line), Ok((key, value)));
        }
    }
});
