//! Walkers: callers who ask plain HTTP as curl does, each time of another node. They know no map and keep no
//! session, so that they see what a node shows to whoever happens to ask it.

use crate::clients::{Workload, key};
use crate::fleet::{Fleet, http_address};
use crate::http::Http;
use crate::plan::{Stream, seed_of};
use bytes::Bytes;
use checker::{Answer, Operation};
use client::TransportError;
use hyper::Method;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use simulated_http::{Message, Reply};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// How long a walker waits for an answer.
const PATIENCE: Duration = Duration::from_secs(4);

/// The longest pause of a walker between two calls, in milliseconds.
const PAUSE_MS_MAX: u64 = 80;

/// How likely a walker reads what somebody has written, as soon as that is known to be written.
const LOOKS_PROBABILITY: f64 = 0.5;

/// What came of a call.
pub enum Told {
    /// It was answered.
    Answer(Answer),
    /// Nothing was done.
    Nothing,
    /// Nobody knows.
    Unknown,
}

/// See the module.
pub struct Walker {
    fleet: Arc<Fleet>,
    workload: Arc<Workload>,
    http: Http,
    rng: StdRng,
}

impl Walker {
    /// The walker of that number.
    pub fn new(fleet: &Arc<Fleet>, workload: &Arc<Workload>, http: Http, number: u64) -> Self {
        let rng = StdRng::seed_from_u64(seed_of(fleet.plan.seed, Stream::Walkers, number));
        Self { fleet: fleet.clone(), workload: workload.clone(), http, rng }
    }

    /// Calls, one after the other, until told to end.
    pub async fn run(mut self) {
        let nodes = self.fleet.nodes();
        let mut process = self.workload.process();
        let mut written = None;
        while !self.workload.has_ended() {
            let Some(&node) = nodes.choose(&mut self.rng) else { return };
            let operation = match written {
                Some(written) => Operation::get(written),
                None => self.draw(process),
            };
            let ticket = self.workload.begin(process, &operation);
            let told = self.ask(node, &operation).await;
            if !self.workload.end_walk(process, &operation, ticket, told) {
                process = self.workload.process();
            }
            written = self.workload.pause(&mut self.rng, PAUSE_MS_MAX, LOOKS_PROBABILITY).await;
        }
    }

    fn draw(&mut self, process: u64) -> Operation {
        let key = key(self.rng.random_range(0..self.fleet.plan.keys));
        let value = self.workload.value("walker", process);
        match self.rng.random_range(0..10) {
            0..=7 => Operation::get(key),
            8 => Operation::put(key, value),
            _ => Operation::append(key, value),
        }
    }

    async fn ask(&self, node: u64, operation: &Operation) -> Told {
        let (method, key, body) = match operation {
            Operation::Get { key } => (Method::GET, key, &[][..]),
            Operation::Put { key, value } => (Method::PUT, key, &value[..]),
            Operation::Append { key, value } => (Method::POST, key, &value[..]),
            _ => return Told::Nothing,
        };
        let mut path = "/v1/kv/".to_owned();
        for byte in key {
            write!(path, "%{byte:02X}").expect("text can be written to a string");
        }
        let body = Bytes::copy_from_slice(body);
        let message = Message { address: http_address(node), method, path, headers: Vec::new(), body };
        match timeout(PATIENCE, self.http.exchange(&message)).await {
            Ok(Ok(reply)) => told(operation, &reply),
            Ok(Err(TransportError::NotSent(_))) => Told::Nothing,
            Ok(Err(_)) | Err(_) => Told::Unknown,
        }
    }
}

/// What an answer says.
fn told(operation: &Operation, reply: &Reply) -> Told {
    let tag = reply.headers.get("etag").and_then(|tag| tag.to_str().ok());
    let version = tag.and_then(|tag| tag.trim_matches('"').parse::<u64>().ok());
    match (reply.status.as_u16(), operation) {
        (200, Operation::Get { .. }) => Told::Answer(Answer::value(&reply.body, version)),
        (404, Operation::Get { .. }) => Told::Answer(Answer::Absent),
        (200 | 201, _) => Told::Answer(Answer::written(version)),
        _ if operation.is_read() => Told::Nothing,
        _ => {
            let problem: Option<serde_json::Value> = serde_json::from_slice(&reply.body).ok();
            match problem.is_some_and(|problem| problem["outcome"] == "none") {
                true => Told::Nothing,
                false => Told::Unknown,
            }
        }
    }
}
