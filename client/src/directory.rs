//! Whom to ask: the client's view of the cluster, the leaders it has heard of, and the lanes to all nodes.
//!
//! The view is a guess that may be old: nodes forward what they are not the right ones for, and a wrong guess
//! costs a hop or an attempt, never correctness. It is fetched again beside a call when it is old or was found
//! wrong, by one task at a time.

use crate::Error;
use crate::cluster::{Cluster, address};
use crate::fault::Fault;
use crate::lane::{Lane, Shared};
use crate::sync::lock;
use proto::{Code, GroupId, NodeId};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::OwnedMutexGuard;
use tokio::task::JoinHandle;
use tokio::time::Instant;

const CLUSTER_PATH: &str = "/v1/cluster";

/// Views are not fetched more often than this beside calls.
const REFRESH_PAUSE: Duration = Duration::from_millis(200);

/// What kind of node a call wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aim {
    /// The leader of a group.
    Leader(GroupId),
    /// Any replica of a group.
    Replica(GroupId),
    /// Any node at all.
    Any,
}

/// The lanes that a call has tried, and how often; at most one entry for each node.
#[derive(Debug, Default)]
pub(crate) struct Tried(Vec<(Arc<Lane>, u32)>);

impl Tried {
    pub(crate) fn add(&mut self, lane: &Arc<Lane>) {
        match self.0.iter_mut().find(|(tried, _)| Arc::ptr_eq(tried, lane)) {
            Some((_, times)) => *times += 1,
            None => self.0.push((lane.clone(), 1)),
        }
    }

    pub(crate) fn times(&self, lane: &Arc<Lane>) -> u32 {
        self.0.iter().find(|(tried, _)| Arc::ptr_eq(tried, lane)).map_or(0, |(_, times)| *times)
    }
}

#[derive(Debug)]
pub(crate) struct Directory {
    shared: Arc<Shared>,
    seeds: Vec<Arc<Lane>>,
    view: Mutex<View>,
    /// Held while the view is fetched.
    fetching: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug)]
struct View {
    cluster: Arc<Cluster>,
    /// The nodes, then the seeds whose address no node has: where nodes announce addresses that only they can
    /// reach, the seeds still work.
    peers: Vec<Peer>,
    /// One entry for each group of the cluster.
    leaders: BTreeMap<GroupId, Leader>,
    /// When fetching the view beside a call was last started; paces that.
    asked_at: Instant,
    /// When fetching the view last ended, with or without success; paces those who wait for it.
    tried_at: Instant,
    fetched_at: Instant,
    /// It led a call astray since it was fetched.
    doubted: bool,
}

#[derive(Debug)]
struct Peer {
    node: Option<NodeId>,
    lane: Arc<Lane>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Leader {
    node: Option<NodeId>,
    /// Of the view that named it; views of lower terms are not believed. Hints carry no term and leave it.
    term: u64,
}

impl Directory {
    /// Asks the seeds in turn until one describes the cluster. Where none does, the error has each one's last word.
    pub(crate) async fn connect(shared: Arc<Shared>) -> Result<Self, Error> {
        let wrong = |reason| Error::Config { field: "seeds", reason };
        let mut seeds: Vec<Arc<Lane>> = Vec::new();
        for seed in &shared.config.seeds {
            let address = address(seed).map_err(wrong)?;
            if !seeds.iter().any(|lane| lane.address() == address) {
                seeds.push(Arc::new(Lane::new(address, shared.clone())));
            }
        }
        let deadline = Instant::now() + shared.config.deadline;
        let (mut attempts, mut last) = (0, vec!["deadline passed".to_owned(); seeds.len()]);
        let search = async {
            loop {
                for (lane, last) in seeds.iter().zip(&mut last) {
                    attempts += 1;
                    match fetch(lane, &shared).await {
                        Ok(cluster) => return cluster,
                        Err(error) => *last = error,
                    }
                }
                let Shared { config, random, .. } = &*shared;
                tokio::time::sleep(random.backoff(attempts, config.backoff_min, config.backoff_max)).await;
            }
        };
        match tokio::time::timeout_at(deadline, search).await {
            Ok(cluster) => Ok(Self::new(shared, seeds, cluster)),
            Err(_) => Err(Error::Unavailable { attempts, last: by_reason(&seeds, &last) }),
        }
    }

    fn new(shared: Arc<Shared>, seeds: Vec<Arc<Lane>>, cluster: Cluster) -> Self {
        let now = Instant::now();
        let mut view = View {
            cluster: Arc::new(cluster),
            peers: Vec::new(),
            leaders: BTreeMap::new(),
            asked_at: now,
            tried_at: now,
            fetched_at: now,
            doubted: false,
        };
        view.adopt(view.cluster.clone(), &seeds, &shared);
        Self { shared, seeds, view: Mutex::new(view), fetching: Arc::default() }
    }

    pub(crate) fn cluster(&self) -> Arc<Cluster> {
        lock(&self.view).cluster.clone()
    }

    /// The node to try next: least tried by this call, not suspect, best fitting the aim, in this order; among
    /// equals the one that `spin` points at.
    pub(crate) fn pick(self: &Arc<Self>, aim: Aim, tried: &Tried, spin: usize) -> Arc<Lane> {
        let mut view = lock(&self.view);
        let lane = view.pick(aim, tried, spin);
        if view.wants_refresh(aim, self.shared.config.map_age_max) {
            view.asked_at = Instant::now();
            drop(view);
            self.refresh_beside();
        }
        lane
    }

    /// Whether some node has not been tried yet.
    pub(crate) fn has_untried(&self, tried: &Tried) -> bool {
        lock(&self.view).peers.iter().any(|peer| tried.times(&peer.lane) == 0)
    }

    /// Learns from a failed attempt: a hint names the leader, and a node that cannot serve is not it. Returns
    /// whether a leader was named.
    pub(crate) fn learn(&self, aim: Aim, lane: &Arc<Lane>, fault: &Fault) -> bool {
        let mut view = lock(&self.view);
        if let Code::NotLeader { group, leader: Some(leader) } = fault.code {
            view.doubted = true;
            return view.believe(group, leader, lane);
        }
        let cannot_lead = matches!(
            fault.code,
            Code::NotLeader { .. } | Code::NoLeader | Code::Timeout | Code::Unavailable | Code::Internal
        );
        if let (true, Aim::Leader(group)) = (cannot_lead, aim) {
            view.doubted = true;
            view.depose(group, lane);
        }
        false
    }

    /// Learns from an attempt that succeeded after others failed: where nobody is known to lead, the node that
    /// answered is the best guess, until the next view.
    pub(crate) fn learn_success(&self, aim: Aim, lane: &Arc<Lane>) {
        let mut view = lock(&self.view);
        let node = view.peers.iter().find(|peer| Arc::ptr_eq(&peer.lane, lane)).and_then(|peer| peer.node);
        if let Aim::Leader(group) = aim
            && let Some(known) = view.leaders.get_mut(&group)
        {
            known.node = known.node.or(node);
        }
    }

    /// Whether `lane` goes to the node that is known to lead.
    pub(crate) fn leads(&self, aim: Aim, lane: &Arc<Lane>) -> bool {
        let Aim::Leader(group) = aim else { return false };
        lock(&self.view).leader_lane(group).is_some_and(|leader| Arc::ptr_eq(leader, lane))
    }

    /// Fetches the view once, from the first node that gives one.
    pub(crate) async fn refresh(&self) -> Result<Arc<Cluster>, Error> {
        let guard = self.fetching.lock().await;
        let result = self.fetch_from_any().await;
        drop(guard);
        result
    }

    /// Fetches the view unless that was tried of late, with or without success: many callers at once cost one
    /// fetch, also where no node answers. The fetch goes on where its caller gives up, for those behind it.
    pub(crate) async fn freshen(self: &Arc<Self>) {
        let guard = self.fetching.clone().lock_owned().await;
        let is_due = lock(&self.view).tried_at.elapsed() >= REFRESH_PAUSE;
        if is_due && let Err(error) = self.fetch_beside(guard).await {
            tracing::debug!(%error, "fetching the cluster view was cut short");
        }
    }

    /// Starts fetching the view unless that is under way.
    fn refresh_beside(self: &Arc<Self>) {
        if let Ok(guard) = self.fetching.clone().try_lock_owned() {
            drop(self.fetch_beside(guard));
        }
    }

    /// Fetches the view in a task of its own, which holds `guard` until then.
    fn fetch_beside(self: &Arc<Self>, guard: OwnedMutexGuard<()>) -> JoinHandle<()> {
        let directory = self.clone();
        tokio::spawn(async move {
            if let Err(error) = directory.fetch_from_any().await {
                tracing::debug!(%error, "cluster view was not fetched");
            }
            drop(guard);
        })
    }

    async fn fetch_from_any(&self) -> Result<Arc<Cluster>, Error> {
        let result = self.try_all().await;
        lock(&self.view).tried_at = Instant::now();
        result
    }

    async fn try_all(&self) -> Result<Arc<Cluster>, Error> {
        let spin = self.shared.random.spin();
        let (mut tried, mut attempts, mut last) = (Tried::default(), 0, String::new());
        while self.has_untried(&tried) {
            let lane = lock(&self.view).pick(Aim::Any, &tried, spin);
            tried.add(&lane);
            attempts += 1;
            let adopted = match fetch(&lane, &self.shared).await {
                Ok(cluster) => self.adopt(Arc::new(cluster)),
                Err(error) => Err(error),
            };
            match adopted {
                Ok(cluster) => return Ok(cluster),
                Err(error) => last = format!("{}: {error}", lane.address()),
            }
        }
        Err(Error::Unavailable { attempts, last })
    }

    /// Takes a fetched view over, unless it is of another cluster.
    fn adopt(&self, cluster: Arc<Cluster>) -> Result<Arc<Cluster>, String> {
        let mut view = lock(&self.view);
        if (&cluster.name, cluster.shards) != (&view.cluster.name, view.cluster.shards) {
            tracing::warn!(ours = %view.cluster.name, theirs = %cluster.name, "node belongs to another cluster");
            return Err(format!("node belongs to another cluster: {} of {}", cluster.name, cluster.shards));
        }
        view.adopt(cluster.clone(), &self.seeds, &self.shared);
        Ok(cluster)
    }
}

impl View {
    /// Makes `cluster` the view; lanes to nodes that stay are kept, with what waits on them.
    fn adopt(&mut self, cluster: Arc<Cluster>, seeds: &[Arc<Lane>], shared: &Arc<Shared>) {
        let old = std::mem::take(&mut self.peers);
        let lane_to = |address: &str| {
            let mut known = old.iter().map(|peer| &peer.lane).chain(seeds);
            known.find(|lane| lane.address() == address).cloned()
        };
        for node in &cluster.nodes {
            let lane =
                lane_to(&node.http).unwrap_or_else(|| Arc::new(Lane::new(node.http.clone(), shared.clone())));
            self.peers.push(Peer { node: Some(node.id), lane });
        }
        let strangers =
            seeds.iter().filter(|seed| !cluster.nodes.iter().any(|node| node.http == seed.address()));
        self.peers.extend(strangers.map(|seed| Peer { node: None, lane: seed.clone() }));
        for group in &cluster.groups {
            let known = self.leaders.entry(group.id).or_default();
            match group.term.cmp(&known.term) {
                Ordering::Less => {}
                Ordering::Equal => known.node = group.leader.or(known.node),
                Ordering::Greater => *known = Leader { node: group.leader, term: group.term },
            }
        }
        self.leaders.retain(|&id, _| cluster.group(id).is_some());
        *lock(&shared.limits) = cluster.limits;
        self.cluster = cluster;
        self.fetched_at = Instant::now();
        self.doubted = false;
    }

    /// Takes a hint that `leader` leads `group`, unless it names a stranger or the very node that declined.
    fn believe(&mut self, group: GroupId, leader: NodeId, declined: &Arc<Lane>) -> bool {
        let useful = self.lane_of(leader).is_some_and(|lane| !Arc::ptr_eq(lane, declined));
        match self.leaders.get_mut(&group) {
            Some(known) if useful => known.node = Some(leader),
            _ => return false,
        }
        true
    }

    /// Forgets who leads `group` if that was the node at `lane`.
    fn depose(&mut self, group: GroupId, lane: &Arc<Lane>) {
        if self.leader_lane(group).is_some_and(|leader| Arc::ptr_eq(leader, lane))
            && let Some(known) = self.leaders.get_mut(&group)
        {
            known.node = None;
        }
    }

    fn lane_of(&self, node: NodeId) -> Option<&Arc<Lane>> {
        self.peers.iter().find(|peer| peer.node == Some(node)).map(|peer| &peer.lane)
    }

    fn leader_lane(&self, group: GroupId) -> Option<&Arc<Lane>> {
        self.leaders.get(&group).and_then(|leader| leader.node).and_then(|node| self.lane_of(node))
    }

    fn pick(&self, aim: Aim, tried: &Tried, spin: usize) -> Arc<Lane> {
        let (leader, group) = match aim {
            Aim::Leader(group) => (self.leader_lane(group), self.cluster.group(group)),
            Aim::Replica(group) => (None, self.cluster.group(group)),
            Aim::Any => (None, None),
        };
        if let Some(lane) = leader
            && tried.times(lane) == 0
            && !lane.is_suspect()
        {
            return lane.clone();
        }
        let count = self.peers.len();
        let rank = |&(index, peer): &(usize, &Peer)| {
            let is_leader = leader.is_some_and(|lane| Arc::ptr_eq(lane, &peer.lane));
            let is_replica =
                group.is_some_and(|group| peer.node.is_some_and(|id| group.replicas.contains(&id)));
            let class = (peer.node.is_none(), !is_leader, !is_replica);
            (tried.times(&peer.lane), peer.lane.is_suspect(), class, (index + spin) % count)
        };
        let best = self.peers.iter().enumerate().min_by_key(rank);
        best.map(|(_, peer)| peer.lane.clone()).expect("a cluster has at least one node: checked when parsed")
    }

    fn wants_refresh(&self, aim: Aim, age_max: Duration) -> bool {
        let leaderless = matches!(aim, Aim::Leader(group) if self.leader_lane(group).is_none());
        let wanted = leaderless || self.doubted || self.fetched_at.elapsed() >= age_max;
        wanted && self.asked_at.elapsed() >= REFRESH_PAUSE
    }
}

/// `lanes` with the reason why each failed, those of one reason together: `a:1, b:1: refused; c:1: timed out`.
fn by_reason(lanes: &[Arc<Lane>], reasons: &[String]) -> String {
    let mut addresses: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (lane, reason) in lanes.iter().zip(reasons) {
        addresses.entry(reason).or_default().push(lane.address());
    }
    let parts = addresses.iter().map(|(reason, addresses)| format!("{}: {reason}", addresses.join(", ")));
    parts.collect::<Vec<_>>().join("; ")
}

async fn fetch(lane: &Lane, shared: &Shared) -> Result<Cluster, String> {
    let response =
        lane.get(CLUSTER_PATH, shared.answer_timeout()).await.map_err(|error| error.to_string())?;
    if response.status != 200 {
        return Err(Fault::of_refusal(&response).describe());
    }
    Cluster::parse(&response.body)
}
