//! HTTP over whatever network a host has, the simulated one above all, on connections that are kept. A transport of the
//! client crate: its own one speaks to real sockets only.

use bytes::Bytes;
use client::{
    BATCH_CONTENT_TYPE, EPOCH_HEADER, FORWARDED_HEADER, REQUEST_ID_HEADER, Request, Response, Transport,
    TransportError,
};
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, RETRY_AFTER};
use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use raftstore::Network;
use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::timeout;

type Connection = SendRequest<Full<Bytes>>;

/// A host's HTTP.
#[derive(Debug)]
pub struct Http {
    network: Arc<dyn Network>,
    /// Connections on which nothing is under way, by address.
    idle: Mutex<BTreeMap<String, Vec<Connection>>>,
}

/// A request as it goes over the wire.
#[derive(Clone, Debug)]
pub struct Message {
    /// Its node, as `host:port`.
    pub address: String,
    /// Its method.
    pub method: Method,
    /// Its path, from the slash.
    pub path: String,
    /// Its headers, beside the host.
    pub headers: Vec<(&'static str, String)>,
    /// Its body.
    pub body: Bytes,
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

fn not_sent(error: impl ToString) -> TransportError {
    TransportError::NotSent(error.to_string())
}

fn no_answer(error: impl ToString) -> TransportError {
    TransportError::NoAnswer(error.to_string())
}

impl Http {
    /// That of the host whose network this is.
    pub fn new(network: Arc<dyn Network>) -> Self {
        Self { network, idle: Mutex::default() }
    }

    fn idle(&self) -> MutexGuard<'_, BTreeMap<String, Vec<Connection>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An unused connection, or a new one.
    async fn connection(&self, address: &str) -> Result<Connection, TransportError> {
        let take = || self.idle().get_mut(address).and_then(Vec::pop);
        while let Some(mut idle) = take() {
            if idle.ready().await.is_ok() {
                return Ok(idle);
            }
        }
        let stream = self.network.connect(address).await.map_err(not_sent)?;
        let (connection, driver) = handshake(TokioIo::new(stream)).await.map_err(not_sent)?;
        tokio::spawn(async move {
            // Whoever waits for an answer hears of it.
            drop(driver.await);
        });
        Ok(connection)
    }

    /// Sends a request over a connection of its own for as long as that takes, and gives its answer back.
    ///
    /// # Errors
    /// Says truthfully whether the request may have been sent.
    pub async fn exchange(&self, message: &Message) -> Result<Reply, TransportError> {
        let mut connection = self.connection(&message.address).await?;
        let mut request = hyper::Request::builder()
            .method(message.method.clone())
            .uri(&message.path)
            .header(HOST, &message.address);
        for (name, value) in &message.headers {
            request = request.header(*name, value);
        }
        let request = request.body(Full::new(message.body.clone())).map_err(not_sent)?;
        let (head, body) = connection.send_request(request).await.map_err(no_answer)?.into_parts();
        let body = body.collect().await.map_err(no_answer)?.to_bytes();
        if connection.ready().await.is_ok() {
            self.idle().entry(message.address.clone()).or_default().push(connection);
        }
        Ok(Reply { status: head.status, headers: head.headers, body })
    }
}

impl Message {
    /// A request of the client crate.
    pub fn of(request: &Request<'_>) -> Self {
        let mut headers = vec![(REQUEST_ID_HEADER, format!("{:032x}", request.request_id))];
        if request.body.is_some() {
            headers.push((CONTENT_TYPE.as_str(), BATCH_CONTENT_TYPE.to_owned()));
        }
        Self {
            address: request.address.to_owned(),
            method: if request.body.is_some() { Method::POST } else { Method::GET },
            path: request.path.to_owned(),
            headers,
            body: request.body.clone().unwrap_or_default(),
        }
    }
}

impl From<Reply> for Response {
    fn from(reply: Reply) -> Self {
        fn number<T: FromStr>(reply: &Reply, name: &str) -> Option<T> {
            reply.headers.get(name)?.to_str().ok()?.parse().ok()
        }
        Self {
            status: reply.status.as_u16(),
            retry_after: number(&reply, RETRY_AFTER.as_str()).map(Duration::from_secs),
            epoch: number(&reply, EPOCH_HEADER),
            forwarded: number(&reply, FORWARDED_HEADER).unwrap_or(0),
            body: reply.body,
        }
    }
}

/// `answer`, if it comes within the time that the client gives it.
///
/// # Errors
/// What `answer` says, or that it is late.
pub async fn in_time(
    time: Duration,
    answer: impl Future<Output = Result<Reply, TransportError>>,
) -> Result<Reply, TransportError> {
    let late = |_| no_answer(format!("no answer within {time:?}"));
    timeout(time, answer).await.map_err(late)?
}

impl Transport for Http {
    fn send<'a>(&'a self, request: Request<'a>) -> BoxFuture<'a, Result<Response, TransportError>> {
        Box::pin(async move {
            let message = Message::of(&request);
            Ok(in_time(request.timeout, self.exchange(&message)).await?.into())
        })
    }
}
