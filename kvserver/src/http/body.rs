//! A request's body: read whole, within a size, a time and a share of memory, or refused.
//!
//! A size that is declared is refused before a byte is asked for: hyper sends `100 Continue` only when the body is
//! first read, so a caller that waits for it never sends what will not be taken.

use crate::http::permit::{Gate, Permit};
use crate::http::problem::Problem;
use axum::body::{Body, HttpBody};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::HeaderMap;
use hyper::header::EXPECT;
use proto::{Code, Error};
use std::time::Duration;
use tokio::time::timeout;

/// A refused body up to this size is read and thrown away, so that the connection can go on; the connection of a
/// larger one closes.
const DRAIN_BYTES_MAX: u64 = 64 << 10;

/// How long to wait for the rest of such a body.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// How a body may be read.
#[derive(Debug)]
pub(crate) struct BodyLimits<'a> {
    pub(crate) bytes_max: usize,
    /// What to call a larger one.
    pub(crate) too_large: Code,
    pub(crate) timeout: Duration,
    /// Where its bytes are counted while they are held.
    pub(crate) gate: &'a Gate,
}

/// A body on its way in.
#[derive(Debug)]
pub(crate) struct RequestBody {
    incoming: Body,
    /// The declared length; `None` where the body comes in chunks.
    declared: Option<u64>,
    /// The caller waits for `100 Continue` before it sends.
    waits: bool,
    /// Read to its end: the connection stands at the next request.
    ended: bool,
    /// Too slow or torn: what follows will not come either.
    given_up: bool,
}

impl RequestBody {
    pub(crate) fn new(incoming: Body, headers: &HeaderMap) -> Self {
        let declared = incoming.size_hint().exact();
        let ended = incoming.is_end_stream();
        Self { incoming, declared, waits: headers.contains_key(EXPECT), ended, given_up: false }
    }

    /// The whole body, and the permit for its memory.
    pub(crate) async fn read<'a>(&mut self, limits: BodyLimits<'a>) -> Result<(Bytes, Permit<'a>), Problem> {
        let bytes_max = limits.bytes_max;
        let too_large = |code: &Code| {
            Problem::from(Error::new(code.clone(), format!("body exceeds the limit of {bytes_max} bytes")))
        };
        let expected = match self.declared {
            Some(declared) => usize::try_from(declared).unwrap_or(usize::MAX),
            None => bytes_max,
        };
        if expected > bytes_max {
            return Err(too_large(&limits.too_large));
        }
        let overloaded =
            || Error::new(Code::Overloaded, "bodies in flight take up all memory set aside for them");
        let permit = limits.gate.enter(expected).ok_or_else(overloaded)?;
        match timeout(limits.timeout, self.collect(bytes_max)).await {
            Ok(Ok(Some(bytes))) => Ok((bytes, permit)),
            Ok(Ok(None)) => Err(too_large(&limits.too_large)),
            Ok(Err(error)) => {
                self.given_up = true;
                Err(Problem::bad_request(format!("body did not arrive whole: {error}")))
            }
            Err(_) => {
                self.given_up = true;
                let waited = limits.timeout.as_millis();
                Err(Problem::request_timeout(format!("body did not arrive within {waited} ms")))
            }
        }
    }

    /// Readies the connection for the next request: whether it can be used for one.
    pub(crate) async fn settle(&mut self) -> bool {
        if self.ended {
            return true;
        }
        let large = self.declared.is_none_or(|declared| declared > DRAIN_BYTES_MAX);
        if self.waits || self.given_up || large {
            return false;
        }
        matches!(timeout(DRAIN_TIMEOUT, self.drain()).await, Ok(Ok(())))
    }

    /// The bytes up to the end; `None` where there are more than `bytes_max`. A body that came in one piece is
    /// not copied.
    async fn collect(&mut self, bytes_max: usize) -> Result<Option<Bytes>, axum::Error> {
        let mut first = Bytes::new();
        let mut gathered = BytesMut::new();
        while let Some(chunk) = self.chunk().await? {
            if first.len().max(gathered.len()) + chunk.len() > bytes_max {
                return Ok(None);
            }
            if first.is_empty() && gathered.is_empty() {
                first = chunk;
                continue;
            }
            if gathered.is_empty() {
                let declared = self.declared.and_then(|declared| usize::try_from(declared).ok());
                gathered.reserve(declared.unwrap_or(first.len() + chunk.len()));
                gathered.extend_from_slice(&first);
            }
            gathered.extend_from_slice(&chunk);
        }
        Ok(Some(if gathered.is_empty() { first } else { gathered.freeze() }))
    }

    async fn drain(&mut self) -> Result<(), axum::Error> {
        while self.chunk().await?.is_some() {}
        Ok(())
    }

    /// The next bytes; `None` at the end. Trailers are passed over.
    async fn chunk(&mut self) -> Result<Option<Bytes>, axum::Error> {
        while let Some(frame) = self.incoming.frame().await {
            if let Ok(bytes) = frame?.into_data() {
                return Ok(Some(bytes));
            }
        }
        self.ended = true;
        Ok(None)
    }
}
