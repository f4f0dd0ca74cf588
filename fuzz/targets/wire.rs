//! A peer that says whatever comes to mind, before it is welcome and after.
#![no_main]

#[path = "../../raftstore/tests/hostile/log.rs"]
mod log;
#[path = "../../raftstore/tests/hostile/panics.rs"]
mod panics;
#[expect(dead_code, reason = "its samples are the seeds' business")]
#[path = "../../raftstore/tests/hostile/wire.rs"]
mod wire;

libfuzzer_sys::fuzz_target!(|input: &[u8]| drop(wire::talk(input)));
