//! HTTP over the simulated network: the client's transport, and the operator's. It may lose requests and
//! answers, hold answers back, and deliver a request once more, long after its answer.

use crate::lock;
use crate::report::{Check, Violations};
use bytes::Bytes;
use client::{BATCH_CONTENT_TYPE, EPOCH_HEADER, FORWARDED_HEADER, REQUEST_ID_HEADER};
use client::{Request, Response, Transport, TransportError};
use futures_util::future::{BoxFuture, pending};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap};
use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use raftstore::Network;
use rand::RngExt;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// How likely requests meet with what, from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Mishaps {
    /// It is lost before it is sent.
    pub request_lost: f64,
    /// It is carried out and its answer is lost.
    pub answer_lost: f64,
    /// Its answer is held back for up to two seconds, so that later ones overtake it.
    pub answer_late: f64,
    /// It is delivered once more, up to three seconds after its answer.
    pub repeated: f64,
}

/// Shared by all callers; changes while they call.
pub type SharedMishaps = Arc<Mutex<Mishaps>>;

type Connection = SendRequest<Full<Bytes>>;

/// See the module; clones are the same host with the same connections.
#[derive(Clone, Debug)]
pub struct Http(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    network: Arc<dyn Network>,
    idle: Mutex<BTreeMap<String, Vec<Connection>>>,
    mishaps: SharedMishaps,
    violations: Violations,
    /// How many requests were delivered once more, or are to be.
    repeated: AtomicU64,
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

impl Http {
    /// A host's HTTP.
    pub fn new(network: Arc<dyn Network>, mishaps: SharedMishaps, violations: Violations) -> Self {
        let (idle, repeated) = (Mutex::default(), AtomicU64::new(0));
        Self(Arc::new(Inner { network, idle, mishaps, violations, repeated }))
    }

    /// How many requests were delivered once more, or are to be. One that was refused, and whose caller has given up,
    /// is carried out where that happens: no client can know.
    pub fn repeated(&self) -> u64 {
        self.0.repeated.load(Ordering::Relaxed)
    }

    /// A run is shorter than any session's life: whoever says that one is over has lost it. Clients bear that,
    /// and would not tell.
    fn check_sessions(&self, reply: &Reply) {
        let Ok(batch) = proto::decode::<proto::BatchReply<'_>>(&reply.body) else { return };
        for error in batch.answers.iter().filter_map(|answer| answer.as_ref().err()) {
            if error.code == proto::Code::SessionExpired {
                self.0.violations.add(Check::Sessions, error.message.to_string());
            }
        }
    }

    /// Sends a request over a connection of its own for as long as that takes, and gives its answer back.
    ///
    /// # Errors
    /// Says truthfully whether the request may have been sent.
    pub async fn exchange(&self, message: &Message) -> Result<Reply, TransportError> {
        let mut connection = self.connection(&message.address).await?;
        let no_answer = |error: hyper::Error| TransportError::NoAnswer(error.to_string());
        let mut request = hyper::Request::builder()
            .method(message.method.clone())
            .uri(&message.path)
            .header(HOST, &message.address);
        for (name, value) in &message.headers {
            request = request.header(*name, value);
        }
        let request = request
            .body(Full::new(message.body.clone()))
            .map_err(|error| TransportError::NotSent(error.to_string()))?;
        let (head, body) = connection.send_request(request).await.map_err(no_answer)?.into_parts();
        let body = body.collect().await.map_err(no_answer)?.to_bytes();
        let inner = &self.0;
        if connection.ready().await.is_ok() {
            lock(&inner.idle).entry(message.address.clone()).or_default().push(connection);
        }
        Ok(Reply { status: head.status, headers: head.headers, body })
    }

    /// An unused connection, or a new one.
    async fn connection(&self, address: &str) -> Result<Connection, TransportError> {
        let not_sent = |error: String| TransportError::NotSent(error);
        let take = || lock(&self.0.idle).get_mut(address).and_then(Vec::pop);
        while let Some(mut idle) = take() {
            if idle.ready().await.is_ok() {
                return Ok(idle);
            }
        }
        let stream = self.0.network.connect(address).await.map_err(|error| not_sent(error.to_string()))?;
        let made = handshake(TokioIo::new(stream)).await;
        let (connection, driver) = made.map_err(|error| not_sent(error.to_string()))?;
        tokio::spawn(async move {
            // Whoever waits for an answer hears of it.
            drop(driver.await);
        });
        Ok(connection)
    }

    /// Sends a request through whatever the network has in store for it.
    async fn send(&self, message: &Message) -> Result<Reply, TransportError> {
        let mishaps = *lock(&self.0.mishaps);
        let happens = |probability: f64| raftstore::random().random_bool(probability);
        if happens(mishaps.request_lost) {
            return pending().await;
        }
        let reply = self.exchange(message).await?;
        if happens(mishaps.repeated) {
            self.0.repeated.fetch_add(1, Ordering::Relaxed);
            let (again, message) = (self.clone(), message.clone());
            let later = Duration::from_millis(raftstore::random().random_range(0..3_000));
            tokio::spawn(async move {
                sleep(later).await;
                drop(timeout(Duration::from_secs(2), again.exchange(&message)).await);
            });
        }
        if happens(mishaps.answer_lost) {
            return pending().await;
        }
        if happens(mishaps.answer_late) {
            sleep(Duration::from_millis(raftstore::random().random_range(200..2_200))).await;
        }
        Ok(reply)
    }
}

impl Transport for Http {
    fn send<'a>(&'a self, request: Request<'a>) -> BoxFuture<'a, Result<Response, TransportError>> {
        Box::pin(async move {
            let mut headers = vec![(REQUEST_ID_HEADER, format!("{:032x}", request.request_id))];
            if request.body.is_some() {
                headers.push((CONTENT_TYPE.as_str(), BATCH_CONTENT_TYPE.to_owned()));
            }
            let message = Message {
                address: request.address.to_owned(),
                method: if request.body.is_some() { Method::POST } else { Method::GET },
                path: request.path.to_owned(),
                headers,
                body: request.body.unwrap_or_default(),
            };
            let late = || TransportError::NoAnswer(format!("no answer within {:?}", request.timeout));
            let reply = timeout(request.timeout, Http::send(self, &message)).await.map_err(|_| late())??;
            self.check_sessions(&reply);
            let number = |name: &str| reply.headers.get(name)?.to_str().ok()?.parse::<u64>().ok();
            Ok(Response {
                status: reply.status.as_u16(),
                retry_after: number("retry-after").map(Duration::from_secs),
                epoch: number(EPOCH_HEADER),
                forwarded: number(FORWARDED_HEADER).and_then(|count| u32::try_from(count).ok()).unwrap_or(0),
                body: reply.body,
            })
        })
    }
}
