//! The Rust client of flotilla: the only door to the cluster.
//!
//! # The problem
//! A cluster of many Raft groups loses messages, changes leaders and restarts nodes, and an application wants to
//! say `put` and be told the truth: done, not done, or, rarely and honestly, *nobody knows*. This crate turns a
//! call into as many attempts as it takes within a deadline, such that the write takes effect **once** however
//! many of them arrive.
//!
//! # Vocabulary
//! A **call** is what the application waits for; an **attempt** is one copy of it sent to one node. Attempts
//! travel in **batches** on a **lane**, one for each node. A write carries a **stamp**: its place in the
//! client's **session** with the key's shard. All attempts of a call carry the same stamp, so the cluster
//! recognises them. A call whose attempts may have taken effect without an answer is **unsettled**; an answer
//! under the same stamp settles it, and a call that ends unsettled fails with [`Outcome::Unknown`].
//!
//! # How a call flows
//! ```text
//!   put ──▶ session ──────▶ directory ──────▶ lane to n2 ────────▶ transport ──▶ node
//!           draws a stamp   who leads the     gathers behind the   HTTP, or a
//!           in the window   shard's group?    batch on its way     simulation
//!             ▲                 ▲                                      │
//!             │ confirmed,      │ hints, failures                      ▼
//!             │ closed, lost    │                                 answers, faults
//!             └─────────────────┴──────────────── call ◀───────────────┘
//!                                   settled? again, elsewhere, or the end
//! ```
//! While a batch to a node is on its way, further calls gather and leave as the next one, or beside it once they
//! are as many or it takes long: a lone call leaves at once, and a crowd shares few messages. Whatever waits
//! behind a batch that gets no answer is handed back unsent and goes to another node.
//!
//! # Example
//! ```no_run
//! use flotilla_client::{Client, Error, Outcome, Range, Version};
//!
//! # async fn example() -> Result<(), Error> {
//! let client = Client::connect(["127.0.0.1:7101", "127.0.0.1:7102", "127.0.0.1:7103"]).await?;
//!
//! client.put("notes/today", "write the chapter").await?;
//! if let Some(value) = client.get("notes/today").await? {
//!     println!("{:?} at version {}", value.bytes, value.version);
//! }
//!
//! // Only if nobody took it before: version 0 says that the key must not exist.
//! match client.compare_and_set("jobs/7/owner", Version(0), "me").await {
//!     Ok(_) => println!("mine"),
//!     Err(Error::VersionMismatch { .. }) => println!("somebody else's"),
//!     Err(error) if error.outcome() == Outcome::Unknown => println!("read it to find out: {error}"),
//!     Err(error) => return Err(error),
//! }
//!
//! let mut notes = client.scan(Range::prefix("notes/"));
//! while let Some(page) = notes.next_page().await? {
//!     for record in page.records {
//!         println!("{:?}", record.key);
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # What exactly once rests on
//! - The server keeps a session's answers while it lives. A session lives an hour beyond its last write, but only
//!   ten minutes where the server must make room for others: calls end within [`DEADLINE_MAX`], and a session
//!   unused for [`IDLE_MAX`] is not continued.
//! - Those ten minutes pass by replicated time, which runs as the leaders' monotonic clocks do and never ahead of
//!   them. This process's clock must run no slower than half of theirs.
//! - A session that the server lost all the same is replaced. The machine's refusal says that this attempt was not
//!   carried out: a write of which no earlier attempt can have been is sent under the new session, any other ends
//!   as [`Outcome::Unknown`].
//! - A sequence is closed when its call has ended or was dropped, because nobody sends it again.
//! - A node that answers "no effect" for a write keeps its word.
//!
//! # What is missing
//! - TLS and tokens: addresses are plain `host:port`.
//! - A machine that sleeps for minutes in the middle of a call stops the clock that deadlines follow, so the first
//!   writes of a session could be repeated after a server under pressure forgot it.
//! - A scan over several pages is no snapshot, and the lag of a stale read is not reported.
//! - Hundreds of nodes: choosing among them is linear.

mod call;
mod client;
mod cluster;
mod config;
mod directory;
mod error;
mod fault;
mod http;
mod lane;
mod operation;
mod random;
mod scan;
mod session;
mod sync;
mod transport;

pub use client::{Builder, Client};
pub use cluster::{Cluster, Group, Node};
pub use config::{ATTEMPT_TIMEOUT_MAX, Config, DEADLINE_MAX};
pub use error::Error;
pub use operation::{Deleted, Operation, Record, Reply, Value, Written};
pub use proto::{Code, Consistency, Expect, GroupId, Limits, NodeId, Outcome, Revision, ShardId, Version};
pub use scan::{PAGE_BYTES, PAGE_RECORDS, Page, Range, Scan};
pub use session::{IDLE_MAX, WINDOW};
pub use transport::{
    BATCH_CONTENT_TYPE, EPOCH_HEADER, FORWARDED_HEADER, REQUEST_ID_HEADER, Request, Response, Transport,
    TransportError,
};
