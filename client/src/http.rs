//! The transport of the world: HTTP/1.1 through reqwest, with pooled connections. It follows no redirects and
//! uses no proxies, retries nothing that may have been sent, and never reads more than a codec would accept.

use crate::transport::{
    BATCH_CONTENT_TYPE, EPOCH_HEADER, FORWARDED_HEADER, REQUEST_ID_HEADER, Request, Response, Transport,
    TransportError,
};
use crate::{Config, Error};
use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use std::error::Error as _;
use std::io;
use std::str::FromStr;
use std::time::Duration;

/// No answer may be longer: what [`proto::decode`] would refuse need not be read.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// How long an unused connection is kept.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// See [`Transport`].
#[derive(Clone, Debug)]
pub(crate) struct Http(reqwest::Client);

impl Http {
    pub(crate) fn new(config: &Config) -> Result<Self, Error> {
        let client = reqwest::Client::builder()
            .connect_timeout(config.connect_timeout)
            .pool_idle_timeout(IDLE_MAX)
            .pool_max_idle_per_host(config.batches_per_node + 1)
            .redirect(reqwest::redirect::Policy::none())
            .tcp_nodelay(true)
            .no_proxy()
            .build();
        client.map(Self).map_err(|error| Error::Config { field: "transport", reason: error.to_string() })
    }

    async fn exchange(&self, request: Request<'_>) -> Result<Response, TransportError> {
        let url = format!("http://{}{}", request.address, request.path);
        let outgoing = match request.body {
            Some(body) => self.0.post(url).header(CONTENT_TYPE, BATCH_CONTENT_TYPE).body(body),
            None => self.0.get(url),
        };
        let response = outgoing
            .header(REQUEST_ID_HEADER, format!("{:032x}", request.request_id))
            .send()
            .await
            .map_err(failure)?;
        let status = response.status().as_u16();
        let retry_after = number(&response, RETRY_AFTER.as_str()).map(Duration::from_secs);
        let epoch = number(&response, EPOCH_HEADER);
        let forwarded = number(&response, FORWARDED_HEADER).unwrap_or(0);
        Ok(Response { status, retry_after, epoch, forwarded, body: read_body(response).await? })
    }
}

impl Transport for Http {
    fn send<'a>(&'a self, request: Request<'a>) -> BoxFuture<'a, Result<Response, TransportError>> {
        Box::pin(self.exchange(request))
    }
}

/// A header's number, where it holds one.
fn number<T: FromStr>(response: &reqwest::Response, header: &str) -> Option<T> {
    response.headers().get(header).and_then(|value| value.to_str().ok()?.parse().ok())
}

async fn read_body(mut response: reqwest::Response) -> Result<Bytes, TransportError> {
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(failure)? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(TransportError::TooLarge { bytes_max: ANSWER_BYTES_MAX });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// Only a failure to connect, or a request that could not even be built, is certain not to have been sent.
fn failure(error: reqwest::Error) -> TransportError {
    let error = error.without_url();
    let mut causes = vec![error.to_string()];
    let mut source = error.source();
    let mut is_refused = false;
    while let Some(cause) = source {
        causes.push(cause.to_string());
        is_refused |= cause
            .downcast_ref::<io::Error>()
            .is_some_and(|cause| cause.kind() == io::ErrorKind::ConnectionRefused);
        source = cause.source();
    }
    if error.is_connect() {
        // What lies between says in other words that there was no connection.
        let why = format!("cannot connect: {}", causes.pop().unwrap_or_default());
        if is_refused { TransportError::Refused(why) } else { TransportError::NotSent(why) }
    } else if error.is_builder() {
        TransportError::NotSent(causes.join(": "))
    } else {
        TransportError::NoAnswer(causes.join(": "))
    }
}
