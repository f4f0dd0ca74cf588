//! What clients are promised, held against real processes on a machine that misbehaves.
//!
//! # The problem
//! A store that is correct in a simulator still meets the kernel, the C library, the disk's and the network's
//! own ways of failing. So several `flotilla server` processes run here, clients work on a few dozen keys, a
//! *nemesis* kills, stops, cuts off, fills, slows and misleads the processes, and at the end a checker says
//! whether any client saw what a correct store could not have shown.
//!
//! # Vocabulary
//! The words are Jepsen's. The **workload** is what clients ask for; what they asked and were answered is the
//! **history**. A **fault** has a kind, a victim and a duration; the **schedule** is the list of all faults
//! of a run, drawn from its seed before the run begins; the **nemesis** inflicts them. A **process** is one
//! life after another of one node. A **finding** is anything that must not be: a key whose history has no
//! order, an append that was acknowledged and is gone, a process that ended without a reason, a cluster that
//! does not heal.
//!
//! ```text
//!  seed ──▶ schedule ──▶ nemesis ──▶ processes, network, disks, clocks, operators' changes
//!                                        ▲
//!           workload ── calls ───────────┘
//!               └────▶ journal (history.jsonl) ──▶ verdict: each key ──▶ report, exit status
//! ```
//!
//! # What it must never do
//! End, unmount or reconfigure anything that it did not start, mount or make itself. All of that is undone
//! when [`run`] is over or dropped.
//!
//! # What is missing
//! - The seed repeats the schedule, not what the machine does at the same time.
//! - SIGKILL leaves the system's page cache as it is: bytes that were never synced survive here. Losing them
//!   is the simulator's business.
//! - Where the kernel has no netem, a slow link is one of little bandwidth.

mod admin;
mod calls;
mod capabilities;
mod clock;
mod command;
mod disk;
mod field;
mod journal;
mod nemesis;
mod network;
mod node;
#[cfg(test)]
mod pauses;
mod process;
mod report;
mod run;
mod schedule;
mod verdict;
mod workload;

pub use calls::Reads;
pub use report::Report;
pub use run::{NetworkChoice, Options, run};
pub use schedule::{Fault, Kind, Schedule, Victim};
