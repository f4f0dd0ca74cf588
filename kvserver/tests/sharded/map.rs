//! The controller's map as nodes tell it, and the changes that a single operator makes, said again until they hold.

use crate::cluster::{Cluster, SHARDS};
use crate::door::Answer;
use crate::wait::eventually;
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long a node may take over one change, so that another is asked soon where it is cut off.
const CHANGE_MS: u64 = 1_500;

/// A change is seen on the map within this time, said as often as it takes, and again after this pause.
const PATIENCE: Duration = Duration::from_secs(60);
const PACE: Duration = Duration::from_millis(20);

/// All shards are where they are to be within this time.
const SETTLED_PATIENCE: Duration = Duration::from_secs(120);

/// What every node knows, to be told where something has not come.
async fn known(cluster: &Cluster) -> String {
    let mut known = String::new();
    for door in cluster.connected() {
        for path in ["/v1/cluster/map", "/v1/status"] {
            known += &format!("{path}: {}\n", door.get(path).await.json());
        }
    }
    known
}

/// A map that some node knew.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Map(pub(crate) Value);

impl Map {
    /// The newest map that any running node knows.
    pub(crate) async fn newest(cluster: &Cluster) -> Self {
        eventually("some node knows the map", async || {
            let mut newest: Option<Self> = None;
            for door in cluster.doors() {
                let Ok(answer) = door.try_ask(Method::GET, "/v1/cluster/map", &[], "").await else {
                    continue;
                };
                let map = Some(Self(answer.json())).filter(|_| answer.status == 200);
                if map.as_ref().map(Self::epoch) > newest.as_ref().map(Self::epoch) {
                    newest = map;
                }
            }
            newest
        })
        .await
    }

    /// A map of `epoch` or later, from the first connected node that knows one.
    pub(crate) async fn since(cluster: &Cluster, epoch: u64) -> Self {
        eventually("some node knows the map", async || {
            for door in cluster.connected() {
                let Ok(answer) = door.try_ask(Method::GET, "/v1/cluster/map", &[], "").await else {
                    continue;
                };
                let map = Some(Self(answer.json())).filter(|_| answer.status == 200);
                if let Some(map) = map.filter(|map| map.epoch() >= epoch) {
                    return Some(map);
                }
            }
            None
        })
        .await
    }

    /// The map once no shard is on its way nor is to be, and all that leave are gone, as far as every node knows that
    /// runs and is not cut off.
    pub(crate) async fn settled(cluster: &Cluster) -> Self {
        let until = Instant::now() + SETTLED_PATIENCE;
        loop {
            if let Some(settled) = Self::if_settled(cluster).await {
                return settled;
            }
            if Instant::now() >= until {
                panic!("shards do not come to where they are to be:\n{}", known(cluster).await);
            }
            tokio::time::sleep(PACE).await;
        }
    }

    /// The map once, besides, every group's replicas are where they are to be and vote. The controller's group begins
    /// with one on each node and is down to three some seconds later.
    pub(crate) async fn at_home(cluster: &Cluster) -> Self {
        eventually("all replicas are where they are to be", async || {
            let map = Self::settled(cluster).await;
            let is_home = |view: &Value| view["voters"] == view["replicas"] && view["learners"] == json!([]);
            let all_home = map.all_groups().all(is_home);
            all_home.then_some(map)
        })
        .await
    }

    async fn if_settled(cluster: &Cluster) -> Option<Self> {
        let mut settled: Option<Self> = None;
        for door in cluster.connected() {
            let map = Self(door.get("/v1/cluster/map").await.json());
            let agrees = settled.as_ref().is_none_or(|settled| settled.0["epoch"] == map.0["epoch"]);
            if !(agrees && map.rests() && map.groups("leaving").is_empty()) {
                return None;
            }
            settled = Some(map);
        }
        settled
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.0["epoch"].as_u64().unwrap()
    }

    fn rests(&self) -> bool {
        self.0["shard_runs"].is_array() && self.0["moves"] == json!([]) && self.owners() == self.targets()
    }

    fn column(&self, column: usize) -> Vec<u64> {
        let runs = self.0["shard_runs"].as_array().unwrap();
        let number = |run: &Value, at: usize| run[at].as_u64().unwrap();
        let shards = runs.iter().flat_map(|run| {
            let count = number(run, 1) - number(run, 0) + 1;
            std::iter::repeat_n(number(run, column), count as usize)
        });
        shards.collect()
    }

    /// The group that serves each shard.
    pub(crate) fn owners(&self) -> Vec<u64> {
        self.column(2)
    }

    /// The group that is to serve each shard.
    pub(crate) fn targets(&self) -> Vec<u64> {
        self.column(3)
    }

    /// Who serves a key.
    pub(crate) fn owner_of(&self, key: &str) -> u64 {
        self.owners()[proto::shard_of(key.as_bytes(), SHARDS).0 as usize]
    }

    /// The controller's group and the data groups.
    fn all_groups(&self) -> impl Iterator<Item = &Value> {
        std::iter::once(&self.0["controller"]).chain(self.0["groups"].as_array().unwrap())
    }

    /// Nodes of which hardly a group has none and no group has two; another choice of them at each of three turns.
    pub(crate) fn one_of_each_group(&self, turn: usize) -> Vec<u64> {
        let number = |id: &Value| id.as_u64().unwrap();
        let members = |view: &Value| view["replicas"].as_array().unwrap().iter().map(number).collect();
        let groups: Vec<BTreeSet<u64>> = self.all_groups().map(members).collect();
        let nodes: Vec<u64> =
            self.0["nodes"].as_array().unwrap().iter().map(|node| number(&node["id"])).collect();
        let choice = |bits: u32| -> Vec<u64> {
            (0..nodes.len()).filter(|at| bits & (1 << at) != 0).map(|at| nodes[at]).collect()
        };
        let is_one_of_each = |choice: &Vec<u64>| {
            groups.iter().all(|group| choice.iter().filter(|node| group.contains(node)).count() <= 1)
                && choice.iter().all(|node| groups.iter().any(|group| group.contains(node)))
        };
        let mut choices: Vec<Vec<u64>> = (0..1 << nodes.len()).map(choice).filter(is_one_of_each).collect();
        let lost = |choice: &Vec<u64>| {
            groups.iter().filter(|group| choice.iter().any(|node| group.contains(node))).count()
        };
        let most = choices.iter().map(lost).max().unwrap();
        assert!(most + 1 >= groups.len(), "groups share their nodes: {groups:?}");
        choices.retain(|choice| lost(choice) == most);
        assert!(choices.len() >= 3, "{choices:?} of {groups:?}");
        choices.swap_remove(turn * choices.len() / 3)
    }

    /// Fails where a majority of the controller's group is on `nodes`, so that nothing could be changed without them.
    pub(crate) fn check_controller_outlives(&self, nodes: &[u64]) {
        let voters = self.0["controller"]["voters"].as_array().unwrap();
        let lost = voters.iter().filter(|node| nodes.contains(&node.as_u64().unwrap())).count();
        assert!(2 * lost < voters.len(), "{nodes:?} of {voters:?}");
    }

    /// The data groups in `state`.
    pub(crate) fn groups(&self, state: &str) -> BTreeSet<u64> {
        let groups = self.0["groups"].as_array().unwrap().iter();
        let ids = groups.filter(|group| group["state"] == state).map(|group| group["id"].as_u64().unwrap());
        ids.filter(|id| *id != 0).collect()
    }

    pub(crate) fn replicas(&self, group: u64) -> Vec<u64> {
        let groups = self.0["groups"].as_array().unwrap();
        let view =
            groups.iter().find(|view| view["id"] == group).unwrap_or_else(|| panic!("g{group} is known"));
        view["replicas"].as_array().unwrap().iter().map(|node| node.as_u64().unwrap()).collect()
    }

    /// No group is to have two shards more than another, and each shard is to be at a group that serves.
    pub(crate) fn check_balance(&self) {
        let mut counts: BTreeMap<u64, u32> = self.groups("serving").into_iter().map(|id| (id, 0)).collect();
        for target in self.targets() {
            *counts.get_mut(&target).unwrap_or_else(|| panic!("g{target} serves: {:?}", self.0)) += 1;
        }
        let (least, most) = (counts.values().min().unwrap(), counts.values().max().unwrap());
        assert!(*most <= least + 1, "{counts:?}");
    }
}

/// Asks one node to change the map; `None` where no answer came.
pub(crate) async fn ask(
    cluster: &Cluster,
    node: u64,
    expect: Option<u64>,
    (method, path, body): (Method, &str, &str),
) -> Option<Answer> {
    let door = cluster.door(node)?;
    let tag = expect.map(|epoch| format!("\"{epoch}\""));
    let headers: Vec<(&str, &str)> = tag.iter().map(|tag| ("if-match", tag.as_str())).collect();
    let path = format!("{path}?timeout={CHANGE_MS}");
    door.try_ask(method, &path, &headers, body.to_owned()).await.ok()
}

/// One operator, who alone adds and removes groups: each change is made by the epoch of a map that was read, so a
/// change whose answer was lost is looked for on the map and never made twice.
pub(crate) struct Operator {
    pub(crate) cluster: Arc<Cluster>,
    turn: usize,
    /// The epoch of the last map that was read: none that is older is looked at any more.
    seen: u64,
}

impl Operator {
    pub(crate) fn new(cluster: &Arc<Cluster>) -> Self {
        Self { cluster: cluster.clone(), turn: 0, seen: 0 }
    }

    async fn look(&mut self) -> Map {
        let map = Map::since(&self.cluster, self.seen).await;
        self.seen = map.epoch();
        map
    }

    /// Says a change until `done` sees on the map that it holds.
    async fn change<T>(
        &mut self,
        what: &str,
        (method, path, body): (Method, &str, &str),
        done: impl Fn(&Map) -> Option<T>,
    ) -> T {
        let until = Instant::now() + PATIENCE;
        loop {
            let map = self.look().await;
            if let Some(value) = done(&map) {
                return value;
            }
            if Instant::now() >= until {
                panic!("never came: {what}\n{}", known(&self.cluster).await);
            }
            let up = self.cluster.up();
            self.turn += 1;
            let node = up[self.turn % up.len()];
            let answer = ask(&self.cluster, node, Some(map.epoch()), (method.clone(), path, body)).await;
            if let Some(answer) = answer {
                let known = [200, 404, 409, 429, 503, 504].contains(&answer.status);
                assert!(known, "{what}: {answer:?}");
                // What follows is read from a map that shows what has changed.
                let epoch = answer.json()["epoch"].as_u64().filter(|_| answer.status == 200);
                self.seen = self.seen.max(epoch.unwrap_or(0));
            }
            tokio::time::sleep(PACE).await;
        }
    }

    /// Adds groups; their ids.
    pub(crate) async fn join(&mut self, count: usize) -> Vec<u64> {
        let before = self.look().await.groups("serving");
        let body = format!(r#"{{"count":{count}}}"#);
        self.change("groups join", (Method::POST, "/v1/cluster/groups", &body), |map| {
            let new: Vec<u64> = map.groups("serving").difference(&before).copied().collect();
            (new.len() == count).then_some(new)
        })
        .await
    }

    /// Removes a group; it may take long until it is gone.
    pub(crate) async fn leave(&mut self, group: u64) {
        let path = format!("/v1/cluster/groups/{group}");
        self.change("a group leaves", (Method::DELETE, &path, ""), |map| {
            (!map.groups("serving").contains(&group)).then_some(())
        })
        .await;
    }

    /// Sends a shard somewhere; it may take long until it is there.
    pub(crate) async fn send(&mut self, shard: u32, to: u64) {
        let path = format!("/v1/cluster/shards/{shard}/move");
        let body = format!(r#"{{"to":{to}}}"#);
        self.change("a shard is sent", (Method::POST, &path, &body), |map| {
            (map.targets()[shard as usize] == to).then_some(())
        })
        .await;
    }
}
