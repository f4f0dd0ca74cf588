//! What an operator sees of a cluster and asks of it: the map, who leads, moves of shards.

use crate::{Cluster, eventually, http};
use reqwest::{Method, StatusCode};
use serde_json::Value;
use std::collections::BTreeMap;

impl Cluster {
    /// Has the cluster make a change, through whichever node gets it done.
    ///
    /// # Panics
    /// If the change makes no sense, or is not made in time.
    pub async fn change(&self, method: Method, path: &str, body: &str) {
        eventually(path, async || {
            let status = self.ask(method.clone(), path, body).await?;
            assert!(status == 200 || status.as_u16() >= 409, "{path}: {status}");
            (status == 200).then_some(())
        })
        .await;
    }

    /// Asks a node that runs for a change, once: how it answers, where it does.
    pub async fn ask(&self, method: Method, path: &str, body: &str) -> Option<StatusCode> {
        let node = self.nodes().iter().find(|node| node.is_running())?;
        let url = format!("http://{}{path}", node.http());
        let answer = http().request(method, url).body(body.to_owned()).send().await.ok()?;
        Some(answer.status())
    }

    /// The map of a node that runs.
    pub async fn map(&self) -> Option<Value> {
        self.nodes().iter().find(|node| node.is_running())?.get_json("/v1/cluster/map").await
    }

    /// The shard of a key, as a node that runs tells it.
    ///
    /// # Panics
    /// If no node tells it in time, or the key is absent.
    pub async fn shard_of(&self, key: &str) -> u64 {
        eventually(&format!("the shard of {key} is told"), async || {
            let node = self.nodes().iter().find(|node| node.is_running())?;
            let answer = http().get(format!("http://{}/v1/kv/{key}", node.http())).send().await.ok()?;
            answer.headers().get("flotilla-shard")?.to_str().ok()?.parse().ok()
        })
        .await
    }

    /// The map of which all nodes that run tell; `None` while they tell of several.
    async fn agreed_map(&self) -> Option<Value> {
        let mut agreed: Option<Value> = None;
        for node in self.nodes().iter().filter(|node| node.is_running()) {
            let map = node.get_json("/v1/cluster/map").await?;
            agreed.as_ref().is_none_or(|agreed| agreed["epoch"] == map["epoch"]).then_some(())?;
            agreed = Some(map);
        }
        agreed
    }

    /// The group that serves a shard and the one that is to serve it, by a node's map; and whether a move of
    /// it is listed.
    pub async fn place(&self, shard: u64) -> Option<Place> {
        Place::of(shard, &self.map().await?)
    }

    /// Where a shard is, once all nodes that run agree on it, no move of it is listed and it is where it is
    /// to be. One node's map would not do: a node that was down has an old one.
    ///
    /// # Panics
    /// If it does not come to rest in time.
    pub async fn owner(&self, shard: u64) -> u64 {
        eventually(&format!("shard {shard} is where it is to be"), async || {
            let place = Place::of(shard, &self.agreed_map().await?)?;
            (!place.moves && place.owner == place.target).then_some(place.owner)
        })
        .await
    }

    /// Who leads each group of data, once each is led by the node to which its lead belongs.
    ///
    /// # Panics
    /// If that does not come to be in time.
    pub async fn leaders(&self) -> BTreeMap<u64, u64> {
        eventually("every group is led by whom it belongs to", async || {
            let map = self.map().await?;
            let mut leaders = BTreeMap::new();
            for group in map["groups"].as_array()?.iter().filter(|group| group["id"] != 0) {
                let (id, preferred) = (group["id"].as_u64()?, group["preferred"].as_u64()?);
                let node = self.nodes().iter().find(|node| node.id() == preferred)?;
                let status = node.get_json("/v1/status").await?;
                let replicas = status["groups"].as_array()?;
                let replica = replicas.iter().find(|replica| replica["id"] == id)?;
                (replica["role"] == "leader").then_some(())?;
                leaders.insert(id, preferred);
            }
            Some(leaders)
        })
        .await
    }
}

/// Where a shard is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The group that serves it.
    pub owner: u64,
    /// The group that is to serve it.
    pub target: u64,
    /// Whether a move of it is listed.
    pub moves: bool,
}

impl Place {
    fn of(shard: u64, map: &Value) -> Option<Self> {
        let (owner, target) = owner_and_target(shard, map)?;
        let moves = map["moves"].as_array()?.iter().any(|moving| moving["shard"] == shard);
        Some(Self { owner, target, moves })
    }
}

/// The group that serves a shard and the one that is to, by a map, as JSON, of now or of the past; `None` where the map
/// does not know the shard.
pub fn owner_and_target(shard: u64, map: &Value) -> Option<(u64, u64)> {
    let runs = map["shard_runs"].as_array()?;
    let run = runs.iter().find(|run| run[0].as_u64() <= Some(shard) && Some(shard) <= run[1].as_u64())?;
    Some((run[2].as_u64()?, run[3].as_u64()?))
}
