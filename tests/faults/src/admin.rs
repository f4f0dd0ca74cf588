//! What operators ask of the cluster: looking at it, and changing it.

use anyhow::{Result, bail};
use reqwest::Method;
use serde_json::Value;
use std::time::Duration;
use tokio::task::JoinSet;

/// How long a look may take, and a change.
const LOOK: Duration = Duration::from_millis(1_500);
const CHANGE: Duration = Duration::from_secs(8);

/// Asks any node.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    http: reqwest::Client,
    /// Every node's address, by id from 1.
    nodes: Vec<String>,
}

/// What came of a change.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Changed {
    /// It is on the map.
    Done(Value),
    /// The map does not allow it now: the code.
    Refused(String),
    /// Nobody answered, or nobody knows.
    Unknown,
}

impl Admin {
    pub(crate) fn new(nodes: Vec<String>) -> Result<Self> {
        let http = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build()?;
        Ok(Self { http, nodes })
    }

    /// What a node answers to `GET path` in time; `None` for all but a success.
    pub(crate) async fn look(&self, node: u64, path: &str) -> Option<Value> {
        let address = self.nodes.get(usize::try_from(node).ok()?.checked_sub(1)?)?;
        let response = self.http.get(format!("http://{address}{path}")).timeout(LOOK).send().await.ok()?;
        if !response.status().is_success() {
            return None;
        }
        let body = response.bytes().await.ok()?;
        // Probes answer without JSON, and successfully.
        Some(serde_json::from_slice(&body).unwrap_or_default())
    }

    /// What every node answers; those that do not are left out.
    async fn look_everywhere(&self, path: &'static str) -> Vec<(u64, Value)> {
        let mut looking = JoinSet::new();
        for node in 1..=self.nodes.len() as u64 {
            let admin = self.clone();
            looking.spawn(async move { Some((node, admin.look(node, path).await?)) });
        }
        looking.join_all().await.into_iter().flatten().collect()
    }

    /// The node that leads a group by its own word, of the highest term.
    pub(crate) async fn leader(&self, group: u32) -> Option<u64> {
        let mut leader = None;
        for (node, status) in self.look_everywhere("/v1/status").await {
            let replicas = status["groups"].as_array().map(Vec::as_slice).unwrap_or_default();
            let led = replicas.iter().find(|it| it["id"] == group && it["role"] == "leader");
            leader = leader.max(led.and_then(|replica| Some((replica["term"].as_u64()?, node))));
        }
        leader.map(|(_, node)| node)
    }

    /// The newest map that any node tells.
    pub(crate) async fn map(&self) -> Option<Value> {
        let maps = self.look_everywhere("/v1/cluster/map").await;
        maps.into_iter().map(|(_, map)| map).max_by_key(|map| map["epoch"].as_u64())
    }

    /// Has a change made by the first node that answers. It is not sent again once it may have been made.
    pub(crate) async fn change(&self, method: Method, path: &str, body: &str) -> Result<Changed> {
        for address in &self.nodes {
            let url = format!("http://{address}{path}?timeout=6000");
            let request = self.http.request(method.clone(), url).timeout(CHANGE).body(body.to_owned());
            let response = match request.send().await {
                Ok(response) => response,
                Err(error) if error.is_connect() => continue,
                Err(_) => return Ok(Changed::Unknown),
            };
            let status = response.status();
            let Ok(bytes) = response.bytes().await else { return Ok(Changed::Unknown) };
            let answer: Value = serde_json::from_slice(&bytes).unwrap_or_default();
            if status.is_success() {
                return Ok(Changed::Done(answer));
            }
            match status.as_u16() {
                404 | 409 => return Ok(Changed::Refused(answer["code"].as_str().unwrap_or("").to_owned())),
                429 | 500.. if answer["outcome"] == "none" => {}
                429 | 500.. => return Ok(Changed::Unknown),
                _ => bail!("{method} {path} is answered {status}: {answer}"),
            }
        }
        Ok(Changed::Unknown)
    }
}

/// Whether a map is at rest: nothing moves or is to move or to end, and every group has the members it is to
/// have.
pub(crate) fn is_settled(map: &Value) -> bool {
    let list = |what: &Value| what.as_array().cloned().unwrap_or_default();
    let own = Some(&map["controller"]).filter(|own| own.is_object()).cloned();
    let rests = |group: &Value| {
        let sorted = |what: &Value| {
            let mut ids: Vec<u64> = list(what).iter().filter_map(Value::as_u64).collect();
            ids.sort_unstable();
            ids
        };
        group["state"] == "serving"
            && sorted(&group["replicas"]) == sorted(&group["voters"])
            && list(&group["learners"]).is_empty()
    };
    list(&map["moves"]).is_empty()
        && list(&map["shard_runs"]).iter().all(|run| run[2] == run[3])
        && list(&map["groups"]).iter().chain(&own).all(rests)
}
