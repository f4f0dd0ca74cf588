//! The HTTP front end: from bytes on a socket to a [`Call`](crate::service::Call) and back.
//!
//! It owns sockets, limits, conditions, problem documents and the routes of `/v1`, and relies on the node through
//! the trait [`Service`](crate::service::Service) alone. It must never hand on a request that it has not read to its end
//! and found good in every part, because what is refused here must have had no effect.
//!
//! ```text
//!   server       accepts, bounds connections, drains them at the end
//!     connection   one socket: who is slow, who is idle, how to part from a sender who still sends
//!       front        one request: id, route, permit, metrics, problem
//!         key · list · batch · admin · observe      one file for each kind of route
//!           target · condition · cursor · body · json      how they read requests
//! ```
//!
//! axum's router finds the kind of route; what stands in a key's place is taken from the request's target as it
//! came, because keys are any bytes and must not be decoded or normalised on the way.

mod admin;
mod batch;
mod body;
mod condition;
mod config;
mod connection;
mod cursor;
mod front;
mod json;
mod key;
mod list;
mod observe;
mod permit;
mod problem;
mod request_id;
mod route;
mod router;
mod server;
mod target;
mod traffic;

pub(crate) use config::TIMEOUT_MAX;
pub use config::{Config, ConfigError};
pub use server::{BindError, Drained, Server};
