//! The border to the network: one request out, one response or a failure back. The client relies on one thing
//! alone: a failure says truthfully whether the request may have reached the node.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::fmt;
use std::time::Duration;

/// The content type of batches, both ways.
pub const BATCH_CONTENT_TYPE: &str = "application/vnd.flotilla.batch";

/// The header that carries a request's id, 32 hexadecimal digits.
pub const REQUEST_ID_HEADER: &str = "flotilla-request-id";

/// What is sent to a node.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The node, as `host:port`.
    pub address: &'a str,
    /// The path, from its slash.
    pub path: &'a str,
    /// A batch to `POST`; `None` makes it a `GET`.
    pub body: Option<Bytes>,
    /// Goes into [`REQUEST_ID_HEADER`].
    pub request_id: u128,
    /// The time for everything, from connecting to the last byte of the response.
    pub timeout: Duration,
}

/// The header by which a node tells the version of the map that it knows.
pub const EPOCH_HEADER: &str = "flotilla-epoch";

/// The header by which a node tells how many of a batch's operations it sent on to the nodes that lead their
/// groups.
pub const FORWARDED_HEADER: &str = "flotilla-forwarded";

/// What a node sent back, whatever its status.
#[derive(Clone, Debug, Default)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// The header `Retry-After`, where it was given in seconds.
    pub retry_after: Option<Duration>,
    /// What stands in [`EPOCH_HEADER`], where it was given.
    pub epoch: Option<u64>,
    /// What stands in [`FORWARDED_HEADER`]; 0 where it was not given.
    pub forwarded: u32,
    /// The whole body.
    pub body: Bytes,
}

/// Why there is no response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// No byte of the request reached the node: it was refused, or had no connection to travel on.
    #[error("not sent: {0}")]
    NotSent(String),
    /// No byte of it reached a node either: nobody listens at the address, or somebody who wants no connection.
    #[error("not sent: {0}")]
    Refused(String),
    /// It may have reached the node.
    #[error("no answer: {0}")]
    NoAnswer(String),
    /// The node answered more than the transport is willing to hold.
    #[error("answer is too large, at most {bytes_max} bytes are read")]
    TooLarge {
        /// The bound.
        bytes_max: usize,
    },
}

/// Carries requests: reqwest in the world, a simulated network in tests.
///
/// The returned future must tolerate being dropped, at any time; it is once [`Request::timeout`] has passed.
pub trait Transport: fmt::Debug + Send + Sync + 'static {
    /// Sends one request and waits for its response.
    fn send<'a>(&'a self, request: Request<'a>) -> BoxFuture<'a, Result<Response, TransportError>>;
}
