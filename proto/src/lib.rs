//! The words that flotilla's parts say to each other.
//!
//! A key belongs to a [`ShardId`] (see [`shard_of`]), a shard to a [`GroupId`], a group's replicas live on
//! nodes ([`NodeId`]). A client writes with a [`Stamp`], so that a request takes effect once however often it
//! is sent. What it asks is an [`Operation`]; what comes back is an [`Answer`].
//!
//! ```text
//!   front end or client ── BatchRequest ──▶ leader's node ── Command ──▶ log ──▶ machine
//!                       ◀── BatchReply ───                ◀── Answer ──────────────┘
//! ```
//!
//! Everything here is plain data: no tokio, no sockets, no clocks. Every message that leaves a process starts
//! with a format version, and its bytes are held fast by tests.

mod address;
mod batch;
mod codec;
mod controller;
mod error;
mod ids;
mod lifecycle;
mod limits;
mod operation;
mod shard;

pub use address::split_address;
pub use batch::{BatchReply, BatchRequest, Consistency, Item};
pub use codec::{DecodeError, VERSION, decode, decode_part, encode, encode_into};
pub use controller::{
    Birth, ClusterMap, ClusterSettings, ControllerAnswer, ControllerChange, ControllerCommand,
    ControllerError, ControllerReply, GroupState, GroupView, Incarnation, MembersReport, MoveState, MoveView,
    NewGroups, NodeSpec, NodeState, NodeView, PlannedMove, SetbackView, ShardMap, ShardRun,
};
pub use error::{Code, Error, Outcome};
pub use ids::{ClientId, Epoch, GroupId, NodeId, Revision, Sequence, ShardId, Version};
pub use lifecycle::{
    CopyToken, LifecycleAnswer, LifecycleError, MoveCommand, MoveStep, PieceEnd, ShardState,
};
pub use limits::Limits;
pub use operation::{Answer, Command, Expect, Operation, Record, Reply, Stamp, Write};
pub use shard::{SHARDS_DEFAULT, SHARDS_MAX, ShardSet, hashed_part, shard_of, shard_of_prefix};
