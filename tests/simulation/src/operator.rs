//! The operator: moves shards, adds and removes groups, pauses and resumes, through whichever node listens.

use crate::clients::key;
use crate::fleet::{Fleet, http_address};
use crate::http::Http;
use crate::plan::{SHARDS, Stream, seed_of};
use bytes::Bytes;
use hyper::Method;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use simulated_http::Message;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// How long the operator waits for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The most data groups at a time.
const GROUPS_MAX: usize = 5;

/// See the module.
#[derive(Clone)]
pub struct Operator {
    fleet: Arc<Fleet>,
    http: Http,
}

impl Operator {
    /// An operator who has not done anything yet.
    pub fn new(fleet: &Arc<Fleet>, http: Http) -> Self {
        Self { fleet: fleet.clone(), http }
    }

    /// Asks a node; the status and the body.
    pub async fn ask(&self, node: u64, method: Method, path: &str, body: String) -> Option<(u16, Bytes)> {
        let kind = ("content-type", "application/json".to_owned());
        self.exchange(node, method, path, vec![kind], body).await
    }

    /// Asks a node for a change that is made only while the map is at `epoch`.
    pub async fn ask_at(&self, node: u64, method: Method, path: &str, epoch: u64) -> Option<(u16, Bytes)> {
        let condition = ("if-match", format!("\"{epoch}\""));
        self.exchange(node, method, path, vec![condition], String::new()).await
    }

    async fn exchange(
        &self,
        node: u64,
        method: Method,
        path: &str,
        headers: Vec<(&'static str, String)>,
        body: String,
    ) -> Option<(u16, Bytes)> {
        let (address, body) = (http_address(node), body.into());
        let message = Message { address, method: method.clone(), path: path.to_owned(), headers, body };
        let reply = timeout(PATIENCE, self.http.exchange(&message)).await.ok()?.ok()?;
        let status = reply.status.as_u16();
        self.fleet.trace.note(format_args!("operator {method} {path} at n{node}: {status}"));
        Some((status, reply.body))
    }

    /// The map as a node knows it.
    pub async fn map(&self, node: u64) -> Option<Value> {
        let (status, body) = self.ask(node, Method::GET, "/v1/cluster/map", String::new()).await?;
        (status == 200).then(|| serde_json::from_slice(&body).ok()).flatten()
    }

    /// Has the cluster count silent nodes as dead sooner, where the plan wants that.
    pub async fn set_dead_after(&self) {
        let Some(ms) = self.fleet.plan.dead_after_ms else { return };
        for node in self.fleet.nodes().into_iter().cycle() {
            let body = format!(r#"{{"dead_after_ms":{ms}}}"#);
            if let Some((200, _)) = self.ask(node, Method::PUT, "/v1/cluster/nodes", body).await {
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Makes changes for so long.
    pub async fn run(self, time: Duration) {
        let mut rng = StdRng::seed_from_u64(seed_of(self.fleet.plan.seed, Stream::Operator, 0));
        let until = Instant::now() + time;
        while Instant::now() < until {
            sleep(Duration::from_millis(rng.random_range(300..4_000))).await;
            let Some(&node) = self.fleet.nodes().choose(&mut rng) else { return };
            let Some(map) = self.map(node).await else { continue };
            let groups = map["groups"].as_array().cloned().unwrap_or_default();
            let groups: Vec<u64> =
                groups.iter().filter_map(|group| group["id"].as_u64()).filter(|group| *group != 0).collect();
            let Some(&group) = groups.choose(&mut rng) else { continue };
            // Most often one that holds something.
            let shard = match rng.random_bool(0.75) {
                true => proto::shard_of(&key(rng.random_range(0..self.fleet.plan.keys)), SHARDS).0,
                false => rng.random_range(0..SHARDS),
            };
            let (method, path, body) = match rng.random_range(0..20) {
                0..=9 => {
                    (Method::POST, format!("/v1/cluster/shards/{shard}/move"), format!(r#"{{"to":{group}}}"#))
                }
                10..=12 if groups.len() < GROUPS_MAX => {
                    (Method::POST, "/v1/cluster/groups".to_owned(), r#"{"count":1}"#.to_owned())
                }
                13..=15 if groups.len() > 1 => {
                    (Method::DELETE, format!("/v1/cluster/groups/{group}"), String::new())
                }
                16 => (Method::POST, "/v1/cluster/rebalance".to_owned(), String::new()),
                17 => (Method::DELETE, format!("/v1/cluster/moves/{shard}"), String::new()),
                18 => (Method::PUT, "/v1/cluster/moves".to_owned(), r#"{"paused":true}"#.to_owned()),
                _ => (Method::PUT, "/v1/cluster/moves".to_owned(), r#"{"paused":false}"#.to_owned()),
            };
            let Some((status, _)) = self.ask(node, method, &path, body).await else { continue };
            self.fleet.tally.count(if status == 200 { "map changed" } else { "change refused" });
        }
    }

    /// Has moves go on, until somebody says that they do.
    pub async fn resume(&self) -> bool {
        for node in self.fleet.up() {
            let body = r#"{"paused":false}"#.to_owned();
            // A second word of the same is refused as no change, or is one more epoch: either will do.
            if let Some((200 | 409, _)) = self.ask(node, Method::PUT, "/v1/cluster/moves", body).await {
                return true;
            }
        }
        false
    }
}
