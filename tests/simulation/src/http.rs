//! HTTP over the simulated network: the client's transport, and the operator's. It may lose requests and
//! answers, hold answers back, and deliver a request once more, long after its answer.

use crate::lock;
use crate::report::{Check, Violations};
use client::{Request, Response, Transport, TransportError};
use futures_util::future::{BoxFuture, pending};
use raftstore::Network;
use rand::RngExt;
use simulated_http::{Message, Reply, in_time};
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

/// See the module; clones are the same host with the same connections.
#[derive(Clone, Debug)]
pub struct Http(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    way: simulated_http::Http,
    mishaps: SharedMishaps,
    violations: Violations,
    /// How many requests were delivered once more, or are to be.
    repeated: AtomicU64,
}

impl Http {
    /// A host's HTTP.
    pub fn new(network: Arc<dyn Network>, mishaps: SharedMishaps, violations: Violations) -> Self {
        let (way, repeated) = (simulated_http::Http::new(network), AtomicU64::new(0));
        Self(Arc::new(Inner { way, mishaps, violations, repeated }))
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

    /// Sends a request that nothing happens to, and gives its answer back.
    ///
    /// # Errors
    /// Says truthfully whether the request may have been sent.
    pub async fn exchange(&self, message: &Message) -> Result<Reply, TransportError> {
        self.0.way.exchange(message).await
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
            let message = Message::of(&request);
            let reply = in_time(request.timeout, Http::send(self, &message)).await?;
            self.check_sessions(&reply);
            Ok(reply.into())
        })
    }
}
