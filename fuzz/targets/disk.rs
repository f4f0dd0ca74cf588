//! A node that starts on a disk whose bytes somebody else has written.
#![no_main]

#[path = "../../raftstore/tests/hostile/disk.rs"]
mod disk;
#[path = "../../raftstore/tests/hostile/log.rs"]
mod log;
#[path = "../../raftstore/tests/hostile/panics.rs"]
mod panics;

libfuzzer_sys::fuzz_target!(|input: &[u8]| drop(disk::start(input)));
