//! A simulated cluster behind the client's [`Transport`]: three nodes in front of one [`Machine`], a leader that
//! may change, and a network whose faults are drawn from a seed.

use crate::machine::Machine;
use bytes::Bytes;
use flotilla_client::{Builder, Client, Config, Request, Response, Transport, TransportError};
use futures_util::future::BoxFuture;
use proto::{
    Answer, BatchReply, BatchRequest, Code, Consistency, Epoch, Error, GroupId, Item, Limits, NodeId,
    shard_of,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

pub const SHARDS: u32 = 4;
pub const NODES: u64 = 3;

/// What the network and the nodes do wrong; each a probability per message or per item.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    pub refuse_connection: f64,
    pub drop_request: f64,
    pub drop_reply: f64,
    /// Delivers a request once more, up to `late_max` later.
    pub duplicate: f64,
    pub late_max: Duration,
    /// Every message takes up to this long.
    pub delay_max: Duration,
    /// Batches arrive no faster than this; `None` for at once.
    pub bytes_per_second: Option<u64>,
    /// An item is answered with a retryable error before it is carried out.
    pub item_refused: f64,
    /// An item is carried out and answered "timeout, outcome unknown".
    pub item_forgotten: f64,
    /// The leader changes after a batch.
    pub change_leader: f64,
}

#[derive(Debug)]
pub struct State {
    pub machine: Machine,
    /// Of the first group.
    pub leader: u64,
    pub term: u64,
    /// Those of the other groups.
    pub leaders: BTreeMap<u64, u64>,
    /// The version of the map.
    pub epoch: u64,
    /// The nodes on the map.
    pub nodes: BTreeSet<u64>,
    /// The group of each shard.
    pub owners: [u64; SHARDS as usize],
    /// Shards between two groups.
    pub moving: BTreeSet<u32>,
    /// Nodes that go on describing the cluster as it was.
    pub behind: BTreeMap<u64, serde_json::Value>,
    pub faults: Faults,
    /// Nodes that swallow everything.
    pub hung: BTreeSet<u64>,
    /// Nodes that refuse connections.
    pub down: BTreeSet<u64>,
    /// Followers forward instead of answering "not leader".
    pub forwarding: bool,
    /// Answers given to whole batches instead of carrying them out, oldest first.
    pub refusals: Vec<(u16, Option<Duration>, &'static str)>,
    /// Batches with more items are refused with status 413.
    pub items_max: usize,
    /// What the nodes say that they accept; nobody holds callers to it.
    pub limits: Limits,
    /// `(node, items)` of every batch that arrived, in order.
    pub batches: Vec<(u64, usize)>,
    /// How many items were sent on from node to node.
    pub forwarded: usize,
    /// Of every batch with reads that arrived, in order: how fresh they must be, and their keys.
    pub reads: Vec<(Consistency, Vec<String>)>,
    pub views: usize,
    /// Requests for views that were sent, whatever became of them.
    pub view_requests: usize,
    /// Batches under way now and at most, for each node.
    pub under_way: BTreeMap<u64, (usize, usize)>,
    /// Items under way now and at most, over all nodes.
    pub items_under_way: (usize, usize),
    rng: StdRng,
}

#[derive(Clone, Debug)]
pub struct Network(Arc<Mutex<State>>);

impl Network {
    pub fn new(seed: u64, faults: Faults) -> Self {
        Self(Arc::new(Mutex::new(State {
            machine: Machine::default(),
            leader: 1,
            term: 1,
            leaders: BTreeMap::new(),
            epoch: 1,
            nodes: (1..=NODES).collect(),
            owners: [1; SHARDS as usize],
            moving: BTreeSet::new(),
            behind: BTreeMap::new(),
            faults,
            hung: BTreeSet::new(),
            down: BTreeSet::new(),
            forwarding: false,
            refusals: Vec::new(),
            items_max: usize::MAX,
            limits: Limits::default(),
            batches: Vec::new(),
            forwarded: 0,
            reads: Vec::new(),
            views: 0,
            view_requests: 0,
            under_way: BTreeMap::new(),
            items_under_way: (0, 0),
            rng: StdRng::seed_from_u64(seed),
        })))
    }

    /// A network that takes a millisecond each way and does nothing wrong.
    pub fn calm() -> Self {
        Self::new(1, Faults { delay_max: Duration::from_millis(1), ..Faults::default() })
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no test panics while it holds the state")
    }

    /// A client of this network; repeatable also where `config` names no seed.
    pub fn builder(&self, config: Config) -> Builder {
        let config = Config { seed: config.seed.or(Some(1)), ..config };
        Client::builder().config(config).seeds(["n1:1"]).transport(Arc::new(self.clone()))
    }

    pub async fn client(&self) -> Client {
        self.builder(Config::default()).connect().await.expect("a calm network answers")
    }

    pub fn value(&self, key: &str) -> String {
        let state = self.state();
        let value = state.machine.data.get(key.as_bytes()).map(|(value, _)| value.clone());
        String::from_utf8(value.unwrap_or_default()).expect("tests write text")
    }

    fn chance(&self, fault: impl Fn(&Faults) -> f64) -> bool {
        let mut state = self.state();
        let probability = fault(&state.faults);
        state.rng.random_bool(probability)
    }

    async fn travel(&self) {
        let delay = {
            let mut state = self.state();
            let max = state.faults.delay_max;
            max.mul_f64(state.rng.random_range(0.0..=1.0))
        };
        tokio::time::sleep(delay).await;
    }

    async fn exchange(&self, node: u64, request: Request<'_>) -> Result<Response, TransportError> {
        self.state().view_requests += usize::from(request.body.is_none());
        if self.state().down.contains(&node) || self.chance(|faults| faults.refuse_connection) {
            return Err(TransportError::NotSent("connection refused".into()));
        }
        self.travel().await;
        if self.state().hung.contains(&node) || self.chance(|faults| faults.drop_request) {
            std::future::pending::<()>().await;
        }
        let Some(body) = request.body else { return Ok(self.view(node)) };
        let rate = self.state().faults.bytes_per_second;
        if let Some(rate) = rate {
            tokio::time::sleep(Duration::from_millis(body.len() as u64 * 1_000 / rate)).await;
        }
        self.state().arrived(node, &body);
        let (response, carried_out) = self.deliver(node, &body);
        if self.chance(|faults| faults.duplicate) {
            self.repeat(node, &body, &carried_out);
        }
        if self.chance(|faults| faults.drop_reply) {
            if self.chance(|_| 0.5) {
                return Err(TransportError::NoAnswer("connection reset".into()));
            }
            std::future::pending::<()>().await;
        }
        self.travel().await;
        Ok(response)
    }

    /// Delivers once more, later, what was carried out. What was refused is not repeated: a node that says
    /// "no effect" keeps its word.
    fn repeat(&self, node: u64, body: &[u8], carried_out: &[bool]) {
        let mut request: BatchRequest<'_> = proto::decode(body).expect("decoded before");
        let mut carried_out = carried_out.iter();
        request.items.retain(|_| carried_out.next() == Some(&true));
        let (network, body) = (self.clone(), proto::encode(&request));
        let late = {
            let mut state = self.state();
            state.faults.late_max.mul_f64(state.rng.random_range(0.0..=1.0))
        };
        tokio::spawn(async move {
            tokio::time::sleep(late).await;
            network.deliver(node, &body);
        });
    }

    fn view(&self, node: u64) -> Response {
        let mut state = self.state();
        state.views += 1;
        let view = state.behind.get(&node).cloned().unwrap_or_else(|| state.view());
        Response { status: 200, body: Bytes::from(view.to_string()), ..Response::default() }
    }

    /// What `node` makes of a batch, and which of its items it carried out.
    fn deliver(&self, node: u64, body: &[u8]) -> (Response, Vec<bool>) {
        let mut state = self.state();
        if !state.refusals.is_empty() {
            let (status, retry_after, body) = state.refusals.remove(0);
            let body = Bytes::from_static(body.as_bytes());
            return (Response { status, retry_after, body, ..Response::default() }, Vec::new());
        }
        let request: BatchRequest<'_> = proto::decode(body).expect("the client encodes batches");
        if request.items.len() > state.items_max {
            return (Response { status: 413, ..Response::default() }, Vec::new());
        }
        let elsewhere = |item: &&Item<'_>| state.leader_of(&item.operation).is_some_and(|(_, of)| of != node);
        let forwarded = match state.forwarding {
            true => request.items.iter().filter(elsewhere).count(),
            false => 0,
        };
        state.forwarded += forwarded;
        // Writes and refusals first: the answers of reads borrow the machine.
        let decided: Vec<_> = request.items.iter().map(|item| state.decide(node, item)).collect();
        let carried_out =
            decided.iter().map(|decided| !matches!(decided, Some(Err(error)) if refused(error)));
        let carried_out = carried_out.collect();
        let answers = decided.into_iter().zip(&request.items);
        let answers =
            answers.map(|(decided, item)| decided.unwrap_or_else(|| state.machine.read(&item.operation)));
        let reply = proto::encode(&BatchReply { answers: answers.collect(), lag_ms: 0 });
        let change = state.faults.change_leader;
        if state.rng.random_bool(change) {
            state.leader = state.leader % NODES + 1;
            state.term += 1;
        }
        let epoch = Some(state.epoch);
        let forwarded = u32::try_from(forwarded).expect("batches are small");
        (Response { status: 200, retry_after: None, epoch, forwarded, body: Bytes::from(reply) }, carried_out)
    }
}

impl State {
    /// The cluster as a node that knows all describes it.
    pub fn view(&self) -> serde_json::Value {
        let nodes: Vec<_> =
            self.nodes.iter().map(|id| serde_json::json!({"id": id, "http": format!("n{id}:1")})).collect();
        let group = |id: u64, leader: u64| -> serde_json::Value {
            let term = self.term;
            serde_json::json!({"id": id, "leader": leader, "term": term, "replicas": self.nodes})
        };
        let groups = self.leaders.iter().map(|(&id, &leader)| group(id, leader));
        let groups: Vec<_> = [group(1, self.leader)].into_iter().chain(groups).collect();
        let owners: Vec<_> = (0..SHARDS).map(|shard| (shard, shard, self.owners[shard as usize])).collect();
        serde_json::json!({
            "cluster": "test", "epoch": self.epoch, "shards": SHARDS, "nodes": nodes,
            "limits": {
                "key_bytes_max": self.limits.key_bytes_max,
                "value_bytes_max": self.limits.value_bytes_max,
                "batch_bytes_max": self.limits.batch_bytes_max,
            },
            "groups": groups,
            "shard_groups": owners,
        })
    }

    /// The group of a key's shard and who leads it; none for a scan.
    fn leader_of(&self, operation: &proto::Operation<'_>) -> Option<(u64, u64)> {
        let group = self.owners[shard_of(operation.key()?, SHARDS).0 as usize];
        Some((group, self.leaders.get(&group).copied().unwrap_or(self.leader)))
    }

    fn arrived(&mut self, node: u64, body: &[u8]) {
        let request: BatchRequest<'_> = proto::decode(body).expect("the client encodes batches");
        self.batches.push((node, request.items.len()));
        let reads = request.items.iter().filter(|item| item.operation.is_read());
        let keys = reads.filter_map(|item| item.operation.key()).map(String::from_utf8_lossy);
        let keys: Vec<String> = keys.map(Cow::into_owned).collect();
        if !keys.is_empty() {
            self.reads.push((request.consistency, keys));
        }
    }

    /// The answer to a write, or to anything that is refused; `None` where the item is a read to carry out.
    fn decide(&mut self, node: u64, item: &Item<'_>) -> Option<Answer<'static>> {
        let (refused, forgotten) = (self.faults.item_refused, self.faults.item_forgotten);
        if let Some((group, leader)) = self.leader_of(&item.operation).filter(|_| !self.forwarding)
            && node != leader
        {
            let (group, leader) = (GroupId(group), self.rng.random_bool(0.7).then_some(NodeId(leader)));
            return Some(Err(Error::new(Code::NotLeader { group, leader }, "ask the leader")));
        }
        let shard = item.operation.key().map(|key| shard_of(key, SHARDS));
        if let Some(shard) = shard.filter(|shard| self.moving.contains(&shard.0)) {
            let code = Code::WrongGroup { shard, to: None, epoch: Epoch(self.epoch) };
            return Some(Err(Error::new(code, "it is on its way")));
        }
        if self.rng.random_bool(refused) {
            return Some(Err(Error::new(Code::NoLeader, "election under way")));
        }
        if item.operation.is_read() {
            return None;
        }
        let shard = shard_of(item.operation.key().expect("writes have keys"), SHARDS);
        let answer = self.machine.write(shard, item);
        if self.rng.random_bool(forgotten) {
            return Some(Err(Error::unknown(Code::Timeout, "not answered in time")));
        }
        Some(answer)
    }
}

impl Transport for Network {
    fn send<'a>(&'a self, request: Request<'a>) -> BoxFuture<'a, Result<Response, TransportError>> {
        Box::pin(async move {
            let node = request.address[1..].split(':').next().and_then(|id| id.parse().ok()).expect("nN:1");
            let _under_way = request.body.as_ref().map(|body| UnderWay::enter(self, node, item_count(body)));
            self.exchange(node, request).await
        })
    }
}

/// Counts a batch and its items while they are under way, however that ends.
struct UnderWay<'n> {
    network: &'n Network,
    node: u64,
    items: usize,
}

impl<'n> UnderWay<'n> {
    fn enter(network: &'n Network, node: u64, items: usize) -> Self {
        let mut state = network.state();
        let more = |(now, most): &mut (usize, usize), count: usize| {
            *now += count;
            *most = (*most).max(*now);
        };
        more(state.under_way.entry(node).or_default(), 1);
        more(&mut state.items_under_way, items);
        drop(state);
        Self { network, node, items }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut state = self.network.state();
        state.under_way.entry(self.node).or_default().0 -= 1;
        state.items_under_way.0 -= self.items;
    }
}

fn refused(error: &Error) -> bool {
    matches!(error.code, Code::NoLeader | Code::NotLeader { .. } | Code::WrongGroup { .. })
}

fn item_count(body: &[u8]) -> usize {
    proto::decode::<BatchRequest<'_>>(body).map_or(0, |request| request.items.len())
}
