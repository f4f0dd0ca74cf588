//! Clusters of real processes, and the commands that ask them: what a user of the whole sees, without faults or with
//! the plainest of them, a process that is killed.
//!
//! One binary, so that its tests run beside each other: each waits for elections, restarts and moves most of the time.
//! What is timed stands alone, in `leader_failure.rs`.

mod bad_input;
mod commands;
mod curl;
mod dev;
mod durability;
mod import;
mod membership;
mod moves;
mod routing;
mod shards;
mod space;
