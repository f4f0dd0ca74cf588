//! Byte streams between nodes: TCP in the world, memory in a simulation.
//!
//! Owns nothing but the two traits and their implementations' names. Whatever is carried (frames, lanes,
//! calls) is [`crate::transport`]'s matter. TLS will wrap the streams that an implementation hands out; nothing
//! above notices.

mod pipe;
mod simulated;
mod tcp;

pub use simulated::{Link, LinkCounters, Observer, SimulatedNetwork};
pub use tcp::TcpNetwork;

use futures_util::future::BoxFuture;
use std::fmt;
use std::io;
use tokio::io::{AsyncRead, AsyncWrite};

/// Both directions of one connection.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for S {}

/// Makes and accepts connections. Implementations put no deadline on connecting: the caller does.
pub trait Network: fmt::Debug + Send + Sync + 'static {
    /// Connects to `address` (`host:port`).
    ///
    /// # Errors
    /// Whatever keeps the connection from being made; it may be tried again.
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Stream>>>;

    /// Listens on `address` (`host:port`; port 0 takes a free one).
    ///
    /// # Errors
    /// Among others where the address is in use, with the address in the message.
    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>>;
}

/// An address that is listened on, until it is dropped.
pub trait Listener: Send + 'static {
    /// The next connection, with the peer's name for logs. Dropping the future loses no connection.
    ///
    /// # Errors
    /// Where this one connection failed or the process ran out of descriptors; accepting may go on.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Box<dyn Stream>, String)>>;

    /// Where this listens, with the port that was taken for port 0.
    fn local_address(&self) -> &str;
}
