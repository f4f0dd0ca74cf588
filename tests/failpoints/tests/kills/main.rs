//! Moves of a shard on three real processes, of which one gets SIGKILL while the move stands at one of its
//! steps: all of them by turns, under clients that append and read all the while, and whose history is
//! judged.
//!
//! By default the node dies that has come to the step; `FLOTILLA_FULL_ROUNDS=1` kills at each step the leader
//! of the source, that of the destination and that of the controller, one after the other.

#![expect(clippy::print_stdout, reason = "a failing run shows which node was killed at which step")]

mod clients;
mod cluster;
mod gate;
mod steps;
