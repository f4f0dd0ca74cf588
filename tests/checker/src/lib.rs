//! Could a correct store have shown its clients what they saw?
//!
//! Clients ask and are answered at the same time as others, some answers never come, and the store moves
//! between nodes meanwhile. It is *linearizable* where every operation took effect at one moment between its
//! invocation and its answer (Herlihy and Wing, 1990): where there is one order of all operations, in real
//! time's order, that a store without concurrency could have answered in the same way.
//!
//! # The words
//!
//! A *process* is a client with one operation at a time. It *invokes* an [`Operation`]; that completes as
//! *ok* with an [`Answer`], as *fail*, where it certainly had no effect, or as *info*, where nobody knows:
//! then it may take effect at any later time, or never. All of these are the [`Event`]s of a [`History`].
//!
//! ```text
//!  a test ── Recorder ──┐                              ┌─▶ Linearizable
//!                       ├─▶ History ─▶ check ─▶ Verdict ┼─▶ Unknown: out of time or memory
//!  a file ── jsonl ─────┘               │               └─▶ NotLinearizable(Failure) ─▶ shrink ─▶ html::page
//!                             each key: search(Register)
//! ```
//!
//! [`check`] judges histories of flotilla's keys. [`search`] below it knows no keys; it holds operations
//! against any [`Model`].
//!
//! # An example
//!
//! ```
//! use checker::{Answer, Limits, Operation, Recorder, Verdict, check};
//!
//! let recorder = Recorder::new();
//! let put = recorder.invoke(1, Operation::put("colour", "red"));
//! let get = recorder.invoke(2, Operation::get("colour"));
//! get.ok(Answer::value("red", 1)); // seen before the writer knew: it took effect in between
//! put.ok(Answer::written(1));
//! assert_eq!(check(&recorder.history(), &Limits::default()), Verdict::Linearizable);
//!
//! recorder.invoke(2, Operation::get("colour")).ok(Answer::Absent);
//! assert!(check(&recorder.history(), &Limits::default()).failure().is_some());
//! ```
//!
//! # What is missing
//!
//! - Whatever concerns several keys: a scan is checked item by item, and keys that it leaves out are not
//!   missed.
//! - Revisions, and lengths of values.
//! - To decide is hard where outcomes are unknown (NP-complete at worst). Right histories are found right
//!   quickly; wrong ones, with more than about ten unknown writes to a key that is also overwritten and
//!   deleted, may stay unknown.

mod check;
mod history;
pub mod html;
pub mod jsonl;
mod limits;
mod memo;
mod model;
mod recorder;
pub mod register;
mod search;
mod shrink;
mod stopwatch;

pub use check::{Failure, check};
pub use history::{Answer, Call, End, Entry, Event, History, Item, Operation, OrderError};
pub use limits::{Exceeded, Limits, Verdict};
pub use model::Model;
pub use recorder::{Recorder, Ticket};
pub use search::{Core, Interval, search};
pub use shrink::shrink;
