//! The node: the key/value machine, the way from a key to its group, and the HTTP front end.
//!
//! ```text
//!   http ── Service ──▶ frontend ──▶ router ──▶ group (raftstore) ──▶ machine
//!  curl, client          stamps,       here, or one hop away on        keys, sessions
//!                        retries       the leader's node
//! ```

mod formation;
mod frontend;
pub mod http;
pub mod machine;
mod merge;
mod node;
mod router;
pub mod service;
mod shard_map;
mod stamps;
mod telemetry;

pub use http::Config as HttpConfig;
pub use node::{Node, NodeConfig, StartError};
pub use service::{Call, Service};
pub use shard_map::ShardMap;
