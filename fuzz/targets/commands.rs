//! Commands for the key/value machine.
#![no_main]

#[expect(dead_code, reason = "pieces have a target of their own, and samples are the seeds' business")]
#[path = "../../kvserver/tests/hostile/machine.rs"]
mod machine;
#[path = "../../raftstore/tests/hostile/panics.rs"]
mod panics;

libfuzzer_sys::fuzz_target!(|input: &[u8]| machine::apply(input));
