//! Whom to ask: the client's view of the cluster, the leaders it has heard of, and the lanes to all nodes.
//!
//! The view is a guess that may be old: nodes forward what they are not the right ones for, and a wrong guess
//! costs a hop or an attempt, never correctness. It is fetched again beside a call when it is old, when a
//! node knows a later map, or when it was found wrong, by one task at a time: seldom where that brings
//! nothing new, and not by all clients of a cluster at once.

use crate::Error;
use crate::cluster::{Cluster, Group, address};
use crate::fault::Fault;
use crate::lane::{Lane, Shared};
use crate::sync::lock;
use crate::transport::TransportError;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use proto::{Code, GroupId, NodeId};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::Ordering as Atomic;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::OwnedMutexGuard;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// How long one seed is asked alone before the next is asked beside it: a seed that swallows everything costs no more
/// than this, and one that is merely far away is not passed over.
const SEED_PACE: Duration = Duration::from_millis(100);

/// After how long without an answer from any seed it is said in the log what is waited for.
const NOTICE: Duration = Duration::from_secs(1);

const CLUSTER_PATH: &str = "/v1/cluster";

/// Views are not fetched more often than this beside calls. Twice as long after each view that brought
/// nothing new, up to the age at which a view is fetched in any case.
const REFRESH_PAUSE: Duration = Duration::from_millis(200);

/// A view that only cost a hop may be fetched up to so much later: a move of a shard is found out by all
/// clients at once.
const REFRESH_SPREAD: Duration = Duration::from_millis(100);

/// A view that is older than the map some node knows is fetched again once it is of this age: what changed
/// may be nothing that this client's calls meet, and maps change often while shards are balanced.
const LATER_MAP_AGE: Duration = Duration::from_secs(1);

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
    /// Whether it led a call astray since it was fetched.
    doubt: Doubt,
    /// The pause before it is fetched again, in multiples of [`REFRESH_PAUSE`]: 1 after one that brought
    /// something new, twice as much after each that brought nothing.
    pauses: u32,
}

/// How wrong a view was found to be.
#[derive(Clone, Debug, Default)]
enum Doubt {
    #[default]
    None,
    /// A call went to a node that sent it on to another; it knows the way better.
    Detour(Arc<Lane>),
    /// A call failed to find its node.
    Astray,
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
    /// Asks the seeds until one describes the cluster. Where none does, the error has each one's last word.
    pub(crate) async fn connect(shared: Arc<Shared>) -> Result<Self, Error> {
        let wrong = |reason| Error::Config { field: "seeds", reason };
        let mut seeds: Vec<Arc<Lane>> = Vec::new();
        for seed in &shared.config.seeds {
            let address = address(seed).map_err(wrong)?;
            if !seeds.iter().any(|lane| lane.address() == address) {
                seeds.push(Arc::new(Lane::new(address, shared.clone())));
            }
        }
        let began = Instant::now();
        let deadline = began + shared.config.deadline;
        let (mut attempts, mut last) = (0, vec![Silence::Lasting; seeds.len()]);
        let search = async {
            let mut told = false;
            loop {
                if let Some(cluster) = ask_all(&seeds, &shared, &mut attempts, &mut last).await {
                    return Some(cluster);
                }
                let Shared { config, random, .. } = &*shared;
                if !config.awaits_seeds && last.iter().all(|why| matches!(why, Silence::Refused(_))) {
                    return None;
                }
                if !told && began.elapsed() >= NOTICE {
                    let left = deadline.saturating_duration_since(Instant::now()).as_secs();
                    let why = by_reason(&seeds, &last);
                    tracing::warn!("no node has answered yet, goes on asking for {left} s: {why}");
                    told = true;
                }
                tokio::time::sleep(random.backoff(attempts, config.backoff_min, config.backoff_max)).await;
            }
        };
        match tokio::time::timeout_at(deadline, search).await {
            Ok(Some(cluster)) => Ok(Self::new(shared, seeds, cluster)),
            Ok(None) | Err(_) => Err(Error::Unavailable { attempts, last: by_reason(&seeds, &last) }),
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
            doubt: Doubt::None,
            pauses: 1,
        };
        view.adopt(view.cluster.clone(), &seeds, &shared);
        view.pauses = 1;
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
        if view.wants_refresh(aim, &self.shared) {
            view.asked_at = Instant::now();
            let detour = match &view.doubt {
                Doubt::Detour(lane) => Some(lane.clone()),
                Doubt::None | Doubt::Astray => None,
            };
            drop(view);
            self.refresh_beside(detour);
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
            view.doubt = Doubt::Astray;
            return view.believe(group, leader, lane);
        }
        if let Code::WrongGroup { .. } = fault.code {
            view.doubt = Doubt::Astray;
        }
        let cannot_lead = matches!(
            fault.code,
            Code::NotLeader { .. } | Code::NoLeader | Code::Timeout | Code::Unavailable | Code::Internal
        );
        if let (true, Aim::Leader(group)) = (cannot_lead, aim) {
            view.doubt = Doubt::Astray;
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

    /// Learns from an attempt that was answered by a detour: where its node was thought to lead, the view is
    /// wrong.
    pub(crate) fn learn_detour(&self, aim: Aim, lane: &Arc<Lane>) {
        let Aim::Leader(group) = aim else { return };
        let mut view = lock(&self.view);
        let thought_so = view.leader_lane(group).is_some_and(|leader| Arc::ptr_eq(leader, lane));
        if thought_so && matches!(view.doubt, Doubt::None) {
            view.doubt = Doubt::Detour(lane.clone());
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
        let result = self.fetch_from_any(None).await;
        drop(guard);
        result
    }

    /// Fetches the view unless that was tried of late, with or without success: many callers at once cost one
    /// fetch, also where no node answers. The fetch goes on where its caller gives up, for those behind it.
    pub(crate) async fn freshen(self: &Arc<Self>) {
        let guard = self.fetching.clone().lock_owned().await;
        let is_due = lock(&self.view).tried_at.elapsed() >= REFRESH_PAUSE;
        if is_due && let Err(error) = self.fetch_beside(guard, None).await {
            tracing::debug!(%error, "fetching the cluster view was cut short");
        }
    }

    /// Starts fetching the view unless that is under way: a little later, and from the node that knew better
    /// first, where a detour is all that the view costs.
    fn refresh_beside(self: &Arc<Self>, detour: Option<Arc<Lane>>) {
        if let Ok(guard) = self.fetching.clone().try_lock_owned() {
            drop(self.fetch_beside(guard, detour));
        }
    }

    /// Fetches the view in a task of its own, which holds `guard` until then.
    fn fetch_beside(
        self: &Arc<Self>,
        guard: OwnedMutexGuard<()>,
        detour: Option<Arc<Lane>>,
    ) -> JoinHandle<()> {
        let directory = self.clone();
        tokio::spawn(async move {
            if detour.is_some() {
                tokio::time::sleep(directory.shared.random.part(REFRESH_SPREAD)).await;
            }
            if let Err(error) = directory.fetch_from_any(detour).await {
                tracing::debug!(%error, "cluster view was not fetched");
            }
            drop(guard);
        })
    }

    async fn fetch_from_any(&self, first: Option<Arc<Lane>>) -> Result<Arc<Cluster>, Error> {
        let result = self.try_all(first).await;
        lock(&self.view).tried_at = Instant::now();
        result
    }

    /// Asks node after node, up to one whose map is no older than the one that is known. Where all who answer
    /// know only older ones, the cluster was set back, and the latest of those is taken.
    async fn try_all(&self, mut first: Option<Arc<Lane>>) -> Result<Arc<Cluster>, Error> {
        let spin = self.shared.random.spin();
        let (mut tried, mut attempts, mut last) = (Tried::default(), 0, String::new());
        let mut older: Option<Cluster> = None;
        while self.has_untried(&tried) {
            let lane = first.take().unwrap_or_else(|| lock(&self.view).pick(Aim::Any, &tried, spin));
            tried.add(&lane);
            attempts += 1;
            match fetch(&lane, &self.shared).await.and_then(|cluster| self.of_ours(cluster)) {
                Ok(cluster) if cluster.epoch >= self.cluster().epoch => return Ok(self.adopt(cluster)),
                Ok(cluster) if older.as_ref().is_some_and(|older| older.epoch >= cluster.epoch) => {}
                Ok(cluster) => older = Some(cluster),
                Err(why) => last = format!("{}: {why}", lane.address()),
            }
        }
        older.map(|cluster| self.adopt(cluster)).ok_or(Error::Unavailable { attempts, last })
    }

    /// A fetched view, unless it is of another cluster.
    fn of_ours(&self, cluster: Cluster) -> Result<Cluster, Silence> {
        let ours = self.cluster();
        if (&cluster.name, cluster.shards) != (&ours.name, ours.shards) {
            tracing::warn!(ours = %ours.name, theirs = %cluster.name, "node belongs to another cluster");
            let why = format!("node belongs to another cluster: {} of {}", cluster.name, cluster.shards);
            return Err(Silence::Failed(why));
        }
        Ok(cluster)
    }

    /// Takes a fetched view over.
    fn adopt(&self, cluster: Cluster) -> Arc<Cluster> {
        let cluster = Arc::new(cluster);
        lock(&self.view).adopt(cluster.clone(), &self.seeds, &self.shared);
        cluster
    }
}

impl View {
    /// Makes `cluster` the view; lanes to nodes that stay are kept, with what waits on them.
    fn adopt(&mut self, cluster: Arc<Cluster>, seeds: &[Arc<Lane>], shared: &Arc<Shared>) {
        let brings_news = self.brings_news(&cluster);
        self.pauses = if brings_news { 1 } else { self.pauses.saturating_mul(2) };
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
        self.doubt = Doubt::None;
    }

    /// Whether `cluster` tells of another map, or of leaders that were not known.
    fn brings_news(&self, cluster: &Cluster) -> bool {
        let is_new = |group: &Group| {
            let known = self.leaders.get(&group.id).copied().unwrap_or_default();
            group.term >= known.term && group.leader.is_some() && group.leader != known.node
        };
        cluster.epoch != self.cluster.epoch || cluster.groups.iter().any(is_new)
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

    fn wants_refresh(&self, aim: Aim, shared: &Shared) -> bool {
        let (age, age_max) = (self.fetched_at.elapsed(), shared.config.map_age_max);
        let leaderless = matches!(aim, Aim::Leader(group) if self.leader_lane(group).is_none());
        if leaderless || matches!(self.doubt, Doubt::Astray) || age >= age_max {
            return self.asked_at.elapsed() >= REFRESH_PAUSE;
        }
        let is_past = self.cluster.epoch < shared.epoch.load(Atomic::Relaxed);
        let wanted = matches!(self.doubt, Doubt::Detour(_)) || (is_past && age >= LATER_MAP_AGE);
        wanted && self.asked_at.elapsed() >= REFRESH_PAUSE.saturating_mul(self.pauses).min(age_max)
    }
}

/// Why a node has not described the cluster.
#[derive(Clone, Debug)]
enum Silence {
    /// Its answer is waited for.
    Lasting,
    /// Nobody listens there.
    Refused(String),
    Failed(String),
}

impl fmt::Display for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lasting => f.write_str("no answer yet"),
            Self::Refused(why) | Self::Failed(why) => f.write_str(why),
        }
    }
}

impl From<TransportError> for Silence {
    fn from(error: TransportError) -> Self {
        let why = error.to_string();
        match error {
            TransportError::Refused(_) => Self::Refused(why),
            TransportError::NotSent(_) | TransportError::NoAnswer(_) | TransportError::TooLarge { .. } => {
                Self::Failed(why)
            }
        }
    }
}

/// `lanes` with the reason why each failed, those of one reason together: `a:1, b:1: refused; c:1: timed out`.
fn by_reason(lanes: &[Arc<Lane>], reasons: &[Silence]) -> String {
    let mut addresses: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (lane, reason) in lanes.iter().zip(reasons) {
        addresses.entry(reason.to_string()).or_default().push(lane.address());
    }
    let parts = addresses.iter().map(|(reason, addresses)| format!("{}: {reason}", addresses.join(", ")));
    parts.collect::<Vec<_>>().join("; ")
}

/// Asks one of `lanes` after the other, the next as soon as one has failed or has taken [`SEED_PACE`], and takes the
/// first view that comes. Where none does, each has left its reason in `last`.
async fn ask_all(
    lanes: &[Arc<Lane>],
    shared: &Shared,
    attempts: &mut u32,
    last: &mut [Silence],
) -> Option<Cluster> {
    let mut asking = FuturesUnordered::new();
    let mut unasked = lanes.iter().enumerate();
    loop {
        if let Some((index, lane)) = unasked.next() {
            *attempts += 1;
            asking.push(async move { (index, fetch(lane, shared).await) });
        }
        let answered = match unasked.len() {
            0 => Ok(asking.next().await),
            _ => tokio::time::timeout(SEED_PACE, asking.next()).await,
        };
        match answered {
            Ok(Some((_, Ok(cluster)))) => return Some(cluster),
            Ok(Some((index, Err(why)))) => last[index] = why,
            Ok(None) => return None,
            Err(_) => {}
        }
    }
}

async fn fetch(lane: &Lane, shared: &Shared) -> Result<Cluster, Silence> {
    let response = lane.get(CLUSTER_PATH, shared.answer_timeout()).await?;
    if response.status != 200 {
        return Err(Silence::Failed(Fault::of_refusal(&response).describe()));
    }
    Cluster::parse(&response.body).map_err(Silence::Failed)
}
