//! How a client process calls the store: through the Rust client, or with plain HTTP and an
//! `Idempotency-Key`. Each call ends within its deadline as an event of the history: answered, certainly
//! without effect, or unknown.

use anyhow::{Context, Result, bail};
use checker::{Answer, Event, Operation};
use client::{Client, Consistency, Error, Outcome, Version};
use rand::RngExt;
use rand::rngs::StdRng;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::Value;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// How long plain HTTP waits for one node before it asks another, and between two attempts.
const ATTEMPT: Duration = Duration::from_secs(2);
const PAUSE_MS: std::ops::Range<u64> = 20..120;

/// A way to the store.
#[derive(Debug)]
pub(crate) enum Caller {
    /// The Rust client.
    Client(Client),
    /// Plain HTTP to one node after another.
    Http(Http),
}

impl Caller {
    /// Carries `operation` out.
    pub(crate) async fn call(
        &mut self,
        operation: &Operation,
        reads: Reads,
        deadline: Duration,
        chance: &mut StdRng,
    ) -> Result<Event> {
        let consistency = reads.consistency(chance);
        match self {
            Self::Client(client) => by_client(client, operation, consistency, deadline).await,
            Self::Http(http) => http.call(operation, consistency, deadline, chance).await,
        }
    }
}

/// How fresh reads are to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reads {
    /// As promised: by leaders, and one in three by any replica.
    #[default]
    Linearizable,
    /// Whatever any replica has. Such a run must be found wrong.
    Stale,
}

impl Reads {
    fn consistency(self, chance: &mut StdRng) -> Consistency {
        match self {
            Self::Stale => Consistency::Stale { lag_ms_max: None },
            Self::Linearizable if chance.random_ratio(1, 3) => Consistency::Follower,
            Self::Linearizable => Consistency::Linearizable,
        }
    }
}

async fn by_client(
    client: &Client,
    operation: &Operation,
    consistency: Consistency,
    deadline: Duration,
) -> Result<Event> {
    let client = client.with_deadline(deadline)?;
    let answer = match operation {
        Operation::Get { key } => {
            let value = client.with_consistency(consistency).get(key).await;
            value.map(|value| match value {
                Some(value) => Answer::value(&value.bytes, value.version.0),
                None => Answer::Absent,
            })
        }
        Operation::Put { key, value } => client.put(key, value).await.map(|it| Answer::written(it.version.0)),
        Operation::Append { key, value } => {
            client.append(key, value).await.map(|it| Answer::written(it.version.0))
        }
        Operation::CompareAndSet { key, expect, value } => {
            let written = client.compare_and_set(key, Version(*expect), value).await;
            written.map(|it| Answer::written(it.version.0))
        }
        Operation::Delete { key } => client.delete(key).await.map(|_| Answer::deleted(true)),
        Operation::Scan { .. } => bail!("the workload lists nothing"),
    };
    Ok(match answer {
        Ok(answer) => Event::Ok(answer),
        Err(Error::NotFound) => Event::Ok(Answer::deleted(false)),
        Err(Error::VersionMismatch { current }) => Event::Ok(Answer::mismatch(current.0)),
        Err(error) if error.outcome() == Outcome::Unknown => Event::Info,
        Err(Error::Unavailable { .. }) => Event::Fail,
        Err(error) => bail!("the client says of {operation:?}: {error}"),
    })
}

/// Plain HTTP, as a script with curl would speak it.
#[derive(Debug)]
pub(crate) struct Http {
    http: reqwest::Client,
    nodes: Vec<String>,
    /// Before every name of a request, so that no two processes share one.
    name: String,
    count: u64,
}

/// What one attempt tells.
enum Attempt {
    /// It is over.
    Ended(Event),
    /// It had no effect.
    Refused,
    /// It may have had its effect.
    Unknown,
}

impl Http {
    /// A caller that asks `nodes`, addresses such as `10.0.0.1:7101`.
    pub(crate) fn new(nodes: Vec<String>, name: String) -> Result<Self> {
        let http = reqwest::Client::builder().no_proxy().connect_timeout(ATTEMPT / 2).build()?;
        Ok(Self { http, nodes, name, count: 0 })
    }

    /// Sends the same request under the same name until it is answered or the deadline has come.
    async fn call(
        &mut self,
        operation: &Operation,
        consistency: Consistency,
        deadline: Duration,
        chance: &mut StdRng,
    ) -> Result<Event> {
        self.count += 1;
        let name = format!("{}-{}", self.name, self.count);
        let until = Instant::now() + deadline;
        let mut unknown = false;
        while Instant::now() < until {
            let node = &self.nodes[chance.random_range(0..self.nodes.len())];
            let request = self.request(node, operation, consistency)?.header("idempotency-key", &name);
            match attempt(request, operation, until.min(Instant::now() + ATTEMPT)).await? {
                Attempt::Ended(event) => return Ok(event),
                Attempt::Refused => {}
                Attempt::Unknown => unknown = true,
            }
            sleep(Duration::from_millis(chance.random_range(PAUSE_MS))).await;
        }
        Ok(if unknown { Event::Info } else { Event::Fail })
    }

    fn request(&self, node: &str, operation: &Operation, consistency: Consistency) -> Result<RequestBuilder> {
        let key = operation.key().context("the workload lists nothing")?;
        let key = std::str::from_utf8(key).context("the workload's keys are text")?;
        let timeout = ATTEMPT.as_millis();
        let url = format!("http://{node}/v1/kv/{key}?timeout={timeout}");
        Ok(match operation {
            Operation::Get { .. } => {
                let consistency = match consistency {
                    Consistency::Linearizable => "linearizable",
                    Consistency::Follower => "follower",
                    Consistency::Stale { .. } => "stale",
                };
                self.http.get(format!("{url}&consistency={consistency}"))
            }
            Operation::Put { value, .. } => self.http.request(Method::PUT, url).body(value.clone()),
            Operation::Append { value, .. } => self.http.request(Method::POST, url).body(value.clone()),
            Operation::CompareAndSet { expect, value, .. } => {
                let version = format!("\"{expect}\"");
                self.http.request(Method::PUT, url).header("if-match", version).body(value.clone())
            }
            Operation::Delete { .. } => self.http.request(Method::DELETE, url),
            Operation::Scan { .. } => bail!("the workload lists nothing"),
        })
    }
}

async fn attempt(request: RequestBuilder, operation: &Operation, until: Instant) -> Result<Attempt> {
    let response = match timeout_at(until, request.send()).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) if error.is_connect() => return Ok(Attempt::Refused),
        Ok(Err(_)) | Err(_) => return Ok(Attempt::Unknown),
    };
    let (status, version) = (response.status(), version(&response));
    let Ok(Ok(body)) = timeout_at(until, response.bytes()).await else {
        // The head has told all that a write's answer tells; of a read, nothing is known yet.
        return Ok(Attempt::Unknown);
    };
    let ended = |answer| Ok(Attempt::Ended(Event::Ok(answer)));
    match (operation, status) {
        (Operation::Get { .. }, StatusCode::OK) => ended(Answer::value(&body, version)),
        (Operation::Get { .. }, StatusCode::NOT_FOUND) => ended(Answer::Absent),
        (Operation::Delete { .. }, StatusCode::NO_CONTENT) => ended(Answer::deleted(true)),
        (Operation::Delete { .. }, StatusCode::NOT_FOUND) => ended(Answer::deleted(false)),
        (Operation::CompareAndSet { .. }, StatusCode::PRECONDITION_FAILED) => {
            ended(Answer::mismatch(version))
        }
        (_, StatusCode::OK | StatusCode::CREATED) => ended(Answer::written(version)),
        (_, StatusCode::TOO_MANY_REQUESTS) | (_, StatusCode::REQUEST_TIMEOUT) => refused(&body),
        (_, status) if status.is_server_error() => refused(&body),
        (_, status) => bail!("{operation:?} is answered {status}: {}", String::from_utf8_lossy(&body)),
    }
}

/// What a problem document says of the request's effect. Without one nothing is known.
fn refused(body: &[u8]) -> Result<Attempt> {
    let problem: Value = serde_json::from_slice(body).unwrap_or_default();
    Ok(if problem["outcome"] == "none" { Attempt::Refused } else { Attempt::Unknown })
}

fn version(response: &Response) -> Option<u64> {
    response.headers().get("etag")?.to_str().ok()?.trim_matches('"').parse().ok()
}
