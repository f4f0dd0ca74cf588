//! Pieces of a copy of the key/value machine, from a snapshot or another group.
#![no_main]

#[expect(dead_code, reason = "commands have a target of their own, and samples are the seeds' business")]
#[path = "../../kvserver/tests/hostile/machine.rs"]
mod machine;
#[path = "../../raftstore/tests/hostile/panics.rs"]
mod panics;

libfuzzer_sys::fuzz_target!(|input: &[u8]| machine::load(input));
