//! Lines of files to import: what is read is written again, and read as the same.
#![no_main]

#[expect(dead_code, reason = "the command's other half")]
#[path = "../../flotilla/src/kv/format.rs"]
mod format;
#[expect(dead_code, reason = "its samples are the seeds' business")]
#[path = "../../flotilla/src/kv/hostile.rs"]
mod hostile;
#[expect(dead_code, reason = "what else commands print")]
#[path = "../../flotilla/src/output.rs"]
mod output;

libfuzzer_sys::fuzz_target!(|line: &[u8]| hostile::read(line));
