//! Three whole nodes in one process: simulated disks and peer network, real HTTP on loopback, real time with short
//! elections. What a caller is told is held against what the cluster keeps.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the answer")]

mod admin;
mod answers;
mod disks;
mod door;
mod fleet;
mod joining;
mod largest;
mod leaders;
mod listing;
mod reads;
mod routing;
mod serving;
mod stopping;
#[path = "../sharded/wait.rs"]
mod wait;
mod wire;
