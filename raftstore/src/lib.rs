//! Replicated machines on disk: give it a deterministic machine, and it keeps copies of it in step on several
//! nodes, through crashes of all of them.
//!
//! # The words
//!
//! A [`Machine`] takes commands and gives answers. A [`Group`] is one machine replicated by Raft; each member of
//! it is a *replica* on a *node*. A [`Host`] is all that one node's replicas share: one log writer and its
//! [`Disk`], one transport over a [`Network`], one [`Clock`]. Nothing of openraft or sled is visible outside.
//!
//! # How a command travels
//!
//! ```text
//!  propose ─▶ proposer: gathers what waits ─▶ openraft ─┬─▶ log writer: one record, one sync for all groups
//!                                                       └─▶ transport ─▶ the same on the followers
//!                                   a quorum has synced ─▶ machine.apply ─▶ answers, to each proposer its own
//!
//!  read ─▶ read index: one confirmation of leadership for all reads that wait ─▶ applied so far? ─▶ machine
//!
//!  enough bytes applied ─▶ machine.copy_next, piece by piece, while it works ─▶ snapshot ─▶ log purged behind it
//! ```
//!
//! # What is promised
//!
//! - [`Group::propose`] returns an answer only once a quorum of disks holds the command. An error says whether the
//!   command may have taken effect: "unknown" means that it may, everything else that it did not and will not.
//! - [`Group::read`] sees every command answered before it was called, by the leader or, through
//!   [`Group::read_following`], by any replica; neither trusts a clock.
//! - A node whose disk fails, or holds something else than was written, stops with the reason ([`Host::failed`]).
//! - Members change while the group works ([`Group::add_learner`], [`Group::promote`], [`Group::remove`]), one at a
//!   time, and are never left half changed.
//! - A replica that was lost, with its node's disk or by being dropped, is nobody's voice again: its node votes and
//!   acknowledges only as somebody new, once it was added as such ([`Host::form`], [`Host::open_learner`]).
//!
//! # An example
//!
//! ```no_run
//! use bytes::Bytes;
//! use proto::{GroupId, NodeId};
//! use raftstore::*;
//! use std::{collections::BTreeMap, sync::Arc};
//!
//! /// Counts commands.
//! struct Counter(u64);
//!
//! impl Machine for Counter {
//!     fn apply(&mut self, _at: Moment, _command: &[u8]) -> Bytes {
//!         self.0 += 1;
//!         Bytes::copy_from_slice(&self.0.to_le_bytes())
//!     }
//!     fn time_ms(&self) -> u64 { 0 }
//!     fn copy_bytes(&self) -> u64 { 8 }
//!     fn copy_begin(&mut self) -> CopyId { CopyId(0) }
//!     fn copy_next(&mut self, _copy: CopyId, _bytes_max: usize) -> CopyStep {
//!         CopyStep { bytes: self.0.to_le_bytes().to_vec(), remaining: 0 }
//!     }
//!     fn copy_end(&mut self, _copy: CopyId) {}
//!     fn load(&mut self, piece: &[u8]) -> Result<(), LoadError> {
//!         let bytes = piece.try_into().map_err(|_| LoadError("a count has eight bytes".into()))?;
//!         self.0 = u64::from_le_bytes(bytes);
//!         Ok(())
//!     }
//! }
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let config = HostConfig {
//!     cluster: "example".into(),
//!     node: NodeId(1),
//!     listen: "127.0.0.1:7201".into(),
//!     raft: RaftConfig::default(),
//!     storage: StorageConfig::default(),
//!     transport: TransportConfig::default(),
//! };
//! let disk = Arc::new(SledDisk::open("data")?);
//! let host = Host::start(config, disk, Arc::new(TcpNetwork::default()), Arc::new(SystemClock)).await?;
//! let group = host.open_group(GroupId(1), || Counter(0)).await?;
//! let address = Address { peer: "127.0.0.1:7201".into(), http: String::new() };
//! let members = BTreeMap::from([(NodeId(1), address)]);
//! host.form(&members).await?;
//! group.bootstrap(&members).await?;
//! group.propose(Bytes::from_static(b"one more")).await?;
//! let count = group.read(|counter| counter.0).await?;
//! # Ok(()) }
//! ```
//!
//! # What is missing
//!
//! Lease reads, TLS on the transport, and heartbeats of many groups in one message: today each group sends its own,
//! and those that are due together share a write. A group that lost most of its voters for good stays without a
//! leader: nobody can decide in their stead.

mod cell;
mod codec;
mod commands;
mod compaction;
mod config;
mod directory;
mod disk;
mod error;
mod flow_control;
mod formation;
mod gathering;
mod group;
mod host;
mod lives;
mod log;
mod machine;
mod membership;
pub mod mutation;
mod network;
mod pace;
mod peer;
mod proposer;
mod read_index;
mod replica;
mod replicated_time;
mod runtime;
mod snapshot;
mod staleness;
mod status;
mod storage;
mod transport;
mod types;

pub use config::RaftConfig;
pub use disk::{
    Disk, DiskCounters, DiskError, Effect, Fault, SimulatedDisk, SledDisk, Syncs, Table, VALUE_BYTES_MAX,
};
pub use error::{Fatal, MemberError, ProposeError, ReadError};
pub use group::Group;
pub use host::{Host, HostConfig, Services};
pub use machine::{CopyId, CopyStep, LoadError, Machine, Moment, unreadable};
pub use network::{Link, LinkCounters, Listener, Network, Observer, SimulatedNetwork, Stream, TcpNetwork};
pub use replica::COPY_LAST_BYTES;
pub use runtime::{Clock, Random, SimulatedClock, SystemClock, random, seed};
pub use snapshot::PIECE_BYTES_MAX;
pub use status::{GroupStatus, Role};
pub use storage::{Identity, LATENCY_BUCKETS, StorageConfig, StorageError, StorageStats};
pub use transport::{
    CallError, GreetError, LaneStats, RaftCalls, Refusal, TransportConfig, TransportStats, Unwelcome,
};
pub use types::{Address, Member};
