//! The client's way to the nodes: HTTP over the simulated network, on connections that are kept.

use bytes::Bytes;
use client::{
    BATCH_CONTENT_TYPE, EPOCH_HEADER, FORWARDED_HEADER, REQUEST_ID_HEADER, Request, Response, Transport,
    TransportError,
};
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt, Full};
use hyper::Method;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, RETRY_AFTER};
use hyper_util::rt::TokioIo;
use raftstore::Network;
use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::timeout;

type Connection = SendRequest<Full<Bytes>>;

/// See the module.
#[derive(Debug)]
pub struct Http {
    network: Arc<dyn Network>,
    /// Connections on which nothing is under way, by address.
    idle: Mutex<BTreeMap<String, Vec<Connection>>>,
}

fn not_sent(error: impl ToString) -> TransportError {
    TransportError::NotSent(error.to_string())
}

fn no_answer(error: impl ToString) -> TransportError {
    TransportError::NoAnswer(error.to_string())
}

fn number<T: FromStr>(headers: &HeaderMap, name: &str) -> Option<T> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

impl Http {
    /// That of the host whose network this is.
    pub fn new(network: Arc<dyn Network>) -> Self {
        Self { network, idle: Mutex::default() }
    }

    fn idle(&self) -> MutexGuard<'_, BTreeMap<String, Vec<Connection>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One that is idle, or a new one.
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

    async fn exchange(&self, request: Request<'_>) -> Result<Response, TransportError> {
        let mut connection = self.connection(request.address).await?;
        let outgoing = hyper::Request::builder()
            .uri(request.path)
            .header(HOST, request.address)
            .header(REQUEST_ID_HEADER, format!("{:032x}", request.request_id));
        let outgoing = match request.body {
            Some(body) => {
                outgoing.method(Method::POST).header(CONTENT_TYPE, BATCH_CONTENT_TYPE).body(Full::new(body))
            }
            None => outgoing.body(Full::default()),
        };
        let outgoing = outgoing.map_err(not_sent)?;
        let (head, body) = connection.send_request(outgoing).await.map_err(no_answer)?.into_parts();
        let body = body.collect().await.map_err(no_answer)?.to_bytes();
        self.idle().entry(request.address.to_owned()).or_default().push(connection);
        Ok(Response {
            status: head.status.as_u16(),
            retry_after: number(&head.headers, RETRY_AFTER.as_str()).map(Duration::from_secs),
            epoch: number(&head.headers, EPOCH_HEADER),
            forwarded: number(&head.headers, FORWARDED_HEADER).unwrap_or(0),
            body,
        })
    }
}

impl Transport for Http {
    fn send<'a>(&'a self, request: Request<'a>) -> BoxFuture<'a, Result<Response, TransportError>> {
        Box::pin(async move {
            let within = request.timeout;
            let late = |_| no_answer(format!("no answer within {within:?}"));
            timeout(within, self.exchange(request)).await.map_err(late)?
        })
    }
}
