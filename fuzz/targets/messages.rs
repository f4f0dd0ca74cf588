//! Every kind of message between nodes and clients.
#![no_main]

#[expect(dead_code, reason = "its samples are the seeds' business")]
#[path = "../../proto/tests/hostile/messages.rs"]
mod messages;

libfuzzer_sys::fuzz_target!(|input: &[u8]| messages::read(input));
