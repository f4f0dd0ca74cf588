//! The node: the key/value machine, the way from a key to its group, and the HTTP front end.
//!
//! ```text
//!   http ── Service ──▶ frontend ── settlement ──▶ router ──▶ replica ── group (raftstore) ──▶ machine
//!  curl, client                      stamps,         here, or one hop away on            keys, sessions
//!                                    retries         the leader's node
//! ```

mod acquaintance;
mod appends;
mod birth;
mod config;
mod encoded;
mod formation;
mod frontend;
pub mod http;
mod joining;
pub mod machine;
mod merge;
pub mod moves;
mod node;
mod refusal;
mod replica;
mod residence;
mod restoration;
mod router;
mod routes;
pub mod service;
mod settlement;
mod stamps;
mod stewardship;
mod telemetry;

pub use config::{Join, NodeConfig};
pub use http::Config as HttpConfig;
pub use node::{Node, StartError};
pub use service::{Call, Service};
