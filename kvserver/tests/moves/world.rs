//! Three nodes with three groups, each group led by a node of its own, clients on all shards, and a gate at
//! which moves can be held.

use crate::clients::{Clients, Doors};
use crate::fleet::{Fleet, SHARDS, Settings, eventually};
use crate::sentinel::{Sentinel, Watches};
use futures_util::future::FutureExt;
use kvserver::machine::ShardView;
use kvserver::moves::failpoint::{Failpoint, FailpointHook, set_hook};
use kvserver::moves::progress::{EndedMove, MoveProgress};
use kvserver::moves::watch::Watch;
use proto::{GroupId, NodeId, ShardId};
use reqwest::Method;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

/// A test that waits longer hangs: it fails here instead.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How many data groups there are: one for each node to lead.
pub(crate) const GROUPS: u32 = 3;

/// How many clients there are.
const CLIENTS: usize = 4;

/// How many worlds there have been: each has nodes of its own numbers, [`WORLD_NODES`] apart.
static WORLDS: AtomicU64 = AtomicU64::new(0);
const WORLD_NODES: u64 = 10;

/// There is one hook for the process, and tests run side by side: it asks that of the node's own world.
static HOOKS: Mutex<BTreeMap<u64, FailpointHook>> = Mutex::new(BTreeMap::new());

fn hooks() -> MutexGuard<'static, BTreeMap<u64, FailpointHook>> {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        set_hook(Some(Arc::new(|node: NodeId, shard, at| {
            let hook = hooks().get(&(node.0 / WORLD_NODES)).cloned();
            async move {
                if let Some(hook) = hook {
                    hook(node, shard, at).await;
                }
            }
            .boxed()
        })));
    });
    HOOKS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whose leader a test kills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Destination,
    Source,
    Controller,
}

/// A shard that is to move, between groups whose leaders are two nodes, neither of which leads the
/// controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) shard: u32,
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) source_leader: u64,
    pub(crate) destination_leader: u64,
    pub(crate) controller_leader: u64,
}

impl Route {
    pub(crate) fn node(&self, role: Role) -> u64 {
        match role {
            Role::Destination => self.destination_leader,
            Role::Source => self.source_leader,
            Role::Controller => self.controller_leader,
        }
    }
}

/// See the module.
pub(crate) struct World {
    pub(crate) fleet: Fleet,
    pub(crate) doors: Doors,
    pub(crate) watches: Watches,
    pub(crate) clients: Clients,
    sentinel: Sentinel,
    number: u64,
    seed: u64,
}

/// A gate through which the first who comes must be let.
pub(crate) struct Gate {
    reached: oneshot::Receiver<NodeId>,
    open: watch::Sender<bool>,
}

impl Gate {
    /// Waits until somebody is held; who it is.
    pub(crate) async fn reached(&mut self) -> u64 {
        timeout(PATIENCE, &mut self.reached).await.expect("nobody comes to the gate").unwrap().0
    }

    /// Lets through whoever is held.
    pub(crate) fn open(self) {
        self.open.send_replace(true);
    }
}

/// A key for each place in `0..count` of each shard.
pub(crate) fn keys(count: usize) -> Vec<String> {
    let mut keys: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for number in 0.. {
        let key = format!("key{number:04}");
        let of = keys.entry(proto::shard_of(key.as_bytes(), SHARDS).0).or_default();
        if of.len() < count {
            of.push(key);
        }
        if keys.len() == SHARDS as usize && keys.values().all(|of| of.len() == count) {
            break;
        }
    }
    keys.into_values().flatten().collect()
}

/// The owner and the target of a shard, by a map that lists no move of it.
pub(crate) fn at_rest(map: &Value, shard: u32) -> Option<(u64, u64)> {
    let moves = map["moves"].as_array()?;
    if moves.iter().any(|moving| moving["shard"] == shard) {
        return None;
    }
    let within = |run: &&Value| {
        run[0].as_u64().unwrap() <= u64::from(shard) && u64::from(shard) <= run[1].as_u64().unwrap()
    };
    let run = map["shard_runs"].as_array()?.iter().find(within)?;
    Some((run[2].as_u64()?, run[3].as_u64()?))
}

impl World {
    /// Everything runs, and every group is led by a node of its own.
    pub(crate) async fn start(seed: u64) -> Self {
        Self::start_with(Settings::groups(GROUPS), seed).await
    }

    /// The same, of nodes that are told otherwise.
    pub(crate) async fn start_with(settings: Settings, seed: u64) -> Self {
        let number = 1 + WORLDS.fetch_add(1, Ordering::Relaxed);
        let nodes = [1, 2, 3].map(|node| number * WORLD_NODES + node);
        let fleet = Fleet::start(Settings { nodes, ..settings }).await;
        let doors = Doors::default();
        let watches = Watches::default();
        for node in nodes {
            doors.lock().unwrap().insert(node, fleet.door(node).clone());
            watches.lock().unwrap().insert(node, fleet.node(node).watch().clone());
        }
        let clients = Clients::start(&doors, &keys(2), CLIENTS);
        let sentinel = Sentinel::start(&watches);
        Self { fleet, doors, watches, clients, sentinel, number, seed }
    }

    /// Holds the first driver that comes to `point` with `shard`, instead of at the gate before.
    pub(crate) fn gate(&self, point: Failpoint, shard: u32) -> Gate {
        let (reach, reached) = oneshot::channel();
        let (open, opened) = watch::channel(false);
        let reach = Mutex::new(Some(reach));
        let hook: FailpointHook = Arc::new(move |node, of: ShardId, at| {
            let first = (of == ShardId(shard) && at == point).then(|| reach.lock().unwrap().take()).flatten();
            let mut opened = opened.clone();
            async move {
                if let Some(first) = first {
                    first.send(node).unwrap();
                    // A gate that is gone is open.
                    while !*opened.borrow() && opened.changed().await.is_ok() {}
                }
            }
            .boxed()
        });
        hooks().insert(self.number, hook);
        Gate { reached, open }
    }

    pub(crate) fn watch(&self, node: u64) -> Option<Watch> {
        self.watches.lock().unwrap().get(&node).cloned()
    }

    pub(crate) fn live(&self) -> Vec<u64> {
        self.watches.lock().unwrap().keys().copied().collect()
    }

    /// The map as a node that lives knows it.
    pub(crate) async fn map(&self) -> Value {
        self.fleet.door(self.live()[0]).get("/v1/cluster/map").await.json()
    }

    /// Has the controller make a change, through whichever node gets it done.
    pub(crate) async fn change(&self, method: Method, path: &str, body: &str) {
        eventually(path, async || {
            let door = self.fleet.door(self.live()[0]);
            let answer = door.ask(method.clone(), path, &[], body.to_owned()).await;
            assert!(answer.status == 200 || answer.status >= 409, "{}", answer.text());
            (answer.status == 200).then_some(())
        })
        .await;
    }

    pub(crate) async fn move_shard(&self, shard: u32, to: u64) {
        self.change(Method::POST, &format!("/v1/cluster/shards/{shard}/move"), &format!(r#"{{"to":{to}}}"#))
            .await;
    }

    pub(crate) async fn cancel(&self, shard: u32) {
        self.change(Method::DELETE, &format!("/v1/cluster/moves/{shard}"), "").await;
    }

    /// Waits until a live node knows that the move of a shard is called off, and every other with it.
    pub(crate) async fn all_know_of_the_cancel(&self, shard: u32) {
        eventually("all know of the cancel", async || {
            for node in self.live() {
                let map = self.fleet.door(node).get("/v1/cluster/map").await.json();
                let is_it = |moving: &&Value| moving["shard"] == shard && moving["state"] == "cancelling";
                map["moves"].as_array()?.iter().find(is_it)?;
            }
            Some(())
        })
        .await;
    }

    /// What the replicas of a group hold of a shard, by node.
    pub(crate) fn views(&self, group: u64, shard: u32) -> BTreeMap<u64, ShardView> {
        let watches = self.watches.lock().unwrap();
        let view = |watch: &Watch| {
            let seen = watch.replicas().into_iter().find(|seen| seen.group == GroupId(group))?;
            seen.shards.into_iter().find(|view| view.shard == ShardId(shard))
        };
        watches.iter().filter_map(|(node, watch)| Some((*node, view(watch)?))).collect()
    }

    /// Waits until all replicas of a group hold a shard in a state that is as wanted.
    pub(crate) async fn all_hold(&self, group: u64, shard: u32, what: &str, is: impl Fn(&ShardView) -> bool) {
        eventually(what, async || {
            let views = self.views(group, shard);
            (views.len() == self.live().len() && views.values().all(&is)).then_some(())
        })
        .await;
    }

    /// Puts `count` values of `bytes` each into a shard.
    pub(crate) async fn fill(&self, shard: u32, count: usize, bytes: usize) {
        let keys = (0..).map(|number| format!("big{number:05}"));
        let there = keys.filter(|key| proto::shard_of(key.as_bytes(), SHARDS) == ShardId(shard));
        for key in there.take(count) {
            assert!(self.fleet.door(self.live()[0]).put(&key, vec![b'v'; bytes]).await.is_done());
        }
    }

    /// How the moves of a route ended at nodes that live, in no order, once its shard has arrived: whoever drove the last
    /// of them notes that a little later than the map does.
    pub(crate) async fn ends(&self, route: Route) -> Vec<EndedMove> {
        eventually("the arrival is noted", async || {
            let ended = self.live().into_iter().flat_map(|node| self.fleet.node(node).moves().ended());
            let is_it = |of: &EndedMove| of.shard == ShardId(route.shard) && of.to == GroupId(route.to);
            let ends: Vec<EndedMove> = ended.filter(is_it).collect();
            ends.iter().any(|end| end.aborted.is_none()).then_some(ends)
        })
        .await
    }

    /// The same of a route's only move.
    pub(crate) async fn end(&self, route: Route) -> EndedMove {
        let ends = self.ends(route).await;
        let [end] = &ends[..] else { panic!("it ends once: {ends:?}") };
        end.clone()
    }

    /// What is shown of the move of a shard, by whoever drives it.
    pub(crate) fn progress(&self, shard: u32) -> Option<MoveProgress> {
        let moves = self.live().into_iter().flat_map(|node| self.fleet.node(node).moves().under_way());
        moves.into_iter().find(|moving| moving.shard == ShardId(shard))
    }

    /// Who leads a group, as it says itself.
    pub(crate) fn leader(&self, group: u64) -> Option<u64> {
        let watches = self.watches.lock().unwrap();
        let leads =
            |watch: &Watch| watch.replicas().iter().any(|seen| seen.group == GroupId(group) && seen.leads);
        watches.iter().find(|(_, watch)| leads(watch)).map(|(node, _)| *node)
    }

    /// Hands every group's lead to whom it belongs, and finds a shard to move.
    pub(crate) async fn route(&self) -> Route {
        eventually("leaders that are spread", async || {
            let map = self.map().await;
            if map["moves"] != serde_json::json!([]) {
                return None;
            }
            let controller_leader = {
                let watches = self.watches.lock().unwrap();
                *watches.iter().find(|(_, watch)| watch.leads_controller())?.0
            };
            let mut leaders = BTreeMap::new();
            for group in map["groups"].as_array()?.iter().filter(|group| group["id"] != 0) {
                let (id, preferred) = (group["id"].as_u64()?, group["preferred"].as_u64()?);
                let leader = self.leader(id)?;
                if leader != preferred {
                    let watch = self.watch(leader)?;
                    drop(watch.hand_over(GroupId(id), NodeId(preferred), Duration::from_secs(2)).await);
                    return None;
                }
                leaders.insert(id, leader);
            }
            let of = |group: &u64| leaders.get(group).copied().filter(|leader| *leader != controller_leader);
            let runs = map["shard_runs"].as_array()?;
            let (shard, from) = runs.iter().rev().find_map(|run| {
                let from = run[2].as_u64()?;
                of(&from).and(Some((run[1].as_u64()? as u32, from)))
            })?;
            let source_leader = of(&from)?;
            let (to, destination_leader) = leaders.keys().find_map(|to| {
                of(to).filter(|leader| *leader != source_leader).map(|leader| (*to, leader))
            })?;
            Some(Route { shard, from, to, source_leader, destination_leader, controller_leader })
        })
        .await
    }

    /// Cuts a node's power: what it did not sync is gone, or torn.
    pub(crate) async fn kill(&mut self, node: u64) {
        self.seed += 1;
        self.doors.lock().unwrap().remove(&node);
        self.watches.lock().unwrap().remove(&node);
        self.fleet.isolate(node);
        let disk = self.fleet.disks[&node].crash(self.seed);
        let dead = self.fleet.take(node);
        self.fleet.disks.insert(node, disk);
        // Its log cannot be closed any more.
        drop(dead.shutdown(Duration::from_millis(10)).await);
        self.fleet.heal();
    }

    /// Starts a node again on what its disk kept.
    pub(crate) async fn revive(&mut self, node: u64) {
        self.fleet.start_all().await;
        self.doors.lock().unwrap().insert(node, self.fleet.door(node).clone());
        self.watches.lock().unwrap().insert(node, self.fleet.node(node).watch().clone());
    }

    /// The owner and the target of a shard, once no move of it is listed.
    pub(crate) async fn settled(&self, shard: u32) -> (u64, u64) {
        eventually("the shard does not move any more", async || at_rest(&self.map().await, shard)).await
    }

    /// Waits until a shard is where it is to be.
    pub(crate) async fn arrived(&self, shard: u32, at: u64) {
        eventually("the shard has arrived", async || (self.settled(shard).await == (at, at)).then_some(()))
            .await;
    }

    /// Waits until clients were answered `count` times more.
    pub(crate) async fn served(&self, count: usize) {
        let before = self.clients.count();
        eventually("clients are answered", async || (self.clients.count() >= before + count).then_some(()))
            .await;
    }

    /// Nothing was lost, nothing doubled, nothing served twice.
    pub(crate) async fn finish(mut self) {
        self.clients.finish().await;
        self.sentinel.finish().await;
        hooks().remove(&self.number);
        self.fleet.stop_all().await;
    }
}
