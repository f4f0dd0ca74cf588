//! Whatever a caller sends to the front end.
#![no_main]

#[expect(dead_code, reason = "its samples are the seeds' business")]
#[path = "../../kvserver/tests/hostile/http.rs"]
mod http;
#[path = "../../raftstore/tests/hostile/panics.rs"]
mod panics;

libfuzzer_sys::fuzz_target!(|input: &[u8]| drop(http::ask(input)));
