//! Whole clusters in one thread: the product's own nodes (front end, groups, controller, moves) and clients,
//! on a simulated network, disk, clock and chance. A seed decides everything, so a run is repeated by its
//! seed.
//!
//! ```text
//!   seed ─▶ plan ─▶ faults ──────┐           sentinel: looks at all replicas, all the while
//!            │                   ▼                         │
//!            ├──▶ clients, walkers ─▶ http ─▶ fleet of nodes ─▶ wire, disk, clock
//!            │       └─▶ history ─▶ checker           │             │
//!            └──▶ operator, comings ─▶ http           └──▶ trace ◀──┘   every event, hashed
//! ```
//!
//! # What a run does
//!
//! For so many simulated seconds clients read and write a few keys through the client crate (often one that somebody
//! else was just told to have written), an operator moves shards and adds and removes groups, and faults happen. By
//! half of the seeds a further node joins, and mostly one of all is drained and removed then. At the end everything is
//! mended, the cluster must come to rest, every key is read once more, and the history is held against what is
//! promised.
//!
//! # Why a run can be repeated
//!
//! One thread, tokio's clock stood still and moved on only when nobody has anything to do, and random numbers
//! from the seed. tokio draws numbers of its own (whom a change of a `watch` wakes first); these come from
//! the operating system, which `entropy.c` replaces in this program. Threads that may block are replaced by
//! the simulated disk, which runs their work at once. What the world tells of time is on the wire only in
//! HTTP's `Date`, of which the trace tells the length.
//!
//! # What is missing
//!
//! Timers follow one clock: the rate of a node's timers cannot drift, and those of a paused node go on, while its
//! network and its disk stand still. Streams deliver in order, as TCP does; what is reordered and doubled are
//! requests and connections. One node joins at most, and one leaves. A scan is checked key by key, and keys that it
//! leaves out are not missed.
//!
//! # Whether it would notice
//!
//! [`mutants`] leaves out one guarantee of the product after the other, and a run must fail: see
//! docs/reference/mutations.md.

pub mod clients;
pub mod clock;
pub mod comings;
pub mod disk;
pub mod faults;
pub mod fleet;
pub mod http;
pub mod mutants;
pub mod operator;
pub mod plan;
pub mod report;
pub mod run;
pub mod sentinel;
pub mod sweep;
pub mod trace;
pub mod walkers;
pub mod wire;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, whatever became of earlier holders: each critical section here leaves its data whole.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
