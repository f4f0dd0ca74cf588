//! Moves of shards on three whole nodes in one process, while clients append and nodes die: simulated disks
//! and peer network, real HTTP on loopback, real time with short elections (but for [`pause`]). A move can be held at each of its
//! steps.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the answer")]
#![expect(clippy::print_stdout, reason = "a failing run shows which node was killed at which step")]

#[allow(dead_code, reason = "other tests use all of it")]
#[path = "../cluster/door.rs"]
mod door;
#[allow(dead_code, reason = "other tests use all of it")]
#[path = "../cluster/fleet.rs"]
mod fleet;
#[path = "../sharded/wait.rs"]
mod wait;

mod clients;
#[path = "../replicated/connection.rs"]
mod connection;
mod control;
mod crashes;
mod pause;
mod resumption;
mod sentinel;
mod space;
mod world;
