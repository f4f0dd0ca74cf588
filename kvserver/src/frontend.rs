//! The node as its front end sees it: what is asked goes to the router, what is watched is looked up.

use crate::config::NodeConfig;
use crate::encoded;
use crate::machine::{KvMachine, Usage};
use crate::moves::{EndedMove, MoveProgress, Progress};
use crate::node::CONTROLLER;
use crate::replica;
use crate::residence::expected;
use crate::restoration::Restoration;
use crate::router::{Router, Terms};
use crate::service::{
    Answers, BatchAnswer, Call, ClusterGroup, ClusterLimits, ClusterNode, ClusterView, EndedMoveStatus,
    FollowerStatus, GroupStatus, MetricsText, MoveStatus, NodeStatus, Role, Service, SnapshotStatus,
};
use crate::settlement::settle;
use crate::stamps::Stamps;
use crate::telemetry;
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use proto::{
    BatchRequest, ClusterMap, Code, ControllerChange, ControllerReply, Epoch, Error, GroupId, GroupView,
    Limits, NodeId, ShardMap,
};
use raftstore::{Address, Host};
use shardctrler::{ControllerHandle, ExecuteError, Plan};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tracing::Instrument;

/// The most operations in one batch.
const ITEMS_MAX: usize = 16 << 10;

/// How much before the HTTP server gives a batch up it is answered, so that the answer tells one by one what
/// happened.
const BATCH_GRACE: Duration = Duration::from_millis(500);

/// For how many election timeouts a replica may be out of touch with its leader, or a leader with its quorum,
/// before it is not ready any more.
const TOUCH_ELECTIONS: u32 = 2;

/// For how long a change waits for this node to hear of it, before it is answered all the same.
const LEARN_TIME_MAX: Duration = Duration::from_secs(1);

/// How old a measurement of the disk may be: measuring walks through all its files.
const DISK_AGE_MAX: Duration = Duration::from_secs(5);

/// The disk's size as it was measured last. May block: who comes while it is measured waits for the result.
#[derive(Default)]
struct DiskUsage(Mutex<Option<(Instant, u64)>>);

impl DiskUsage {
    fn bytes<E>(&self, measure: impl FnOnce() -> Result<u64, E>) -> Result<u64, E> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match *last {
            Some((at, bytes)) if now.saturating_duration_since(at) < DISK_AGE_MAX => Ok(bytes),
            _ => {
                let bytes = measure()?;
                *last = Some((now, bytes));
                Ok(bytes)
            }
        }
    }
}

/// What the HTTP server asks.
pub(crate) struct Frontend {
    router: Arc<Router>,
    controller: Arc<ControllerHandle>,
    moves: Arc<Progress>,
    restoration: Arc<Restoration>,
    stamps: Stamps,
    cluster: String,
    members: BTreeMap<NodeId, Address>,
    /// The longest time that a batch may take, whatever it asks for.
    batch_time_max: Duration,
    touch_max: Duration,
    disk: DiskUsage,
    started: Instant,
}

impl Frontend {
    pub(crate) fn new(
        config: &NodeConfig,
        router: Arc<Router>,
        controller: Arc<ControllerHandle>,
        moves: Arc<Progress>,
        restoration: Arc<Restoration>,
    ) -> Self {
        let http_time_max = Duration::from_millis(config.http.timeout_ms_max);
        Self {
            router,
            controller,
            moves,
            restoration,
            stamps: Stamps::default(),
            cluster: config.cluster.clone(),
            members: config.members.clone(),
            batch_time_max: http_time_max.saturating_sub(BATCH_GRACE).max(http_time_max / 2),
            touch_max: Duration::from_millis(config.raft.election_timeout_ms_max) * TOUCH_ELECTIONS,
            disk: DiskUsage::default(),
            started: Instant::now(),
        }
    }
}

impl Service for Frontend {
    fn batch(&self, request: Bytes) -> BoxFuture<'_, Result<BatchAnswer, Error>> {
        async move {
            let batch: BatchRequest<'_> =
                proto::decode(&request).map_err(|error| Error::new(Code::BadRequest, error.to_string()))?;
            if batch.items.len() > ITEMS_MAX {
                let why = format!("batch has {} operations, limit is {ITEMS_MAX}", batch.items.len());
                return Err(Error::new(Code::BatchTooLarge, why));
            }
            let time = Duration::from_millis(u64::from(batch.deadline_ms)).min(self.batch_time_max);
            let terms = Terms {
                deadline: Instant::now() + time,
                consistency: batch.consistency,
                request_id: batch.request_id,
                forward: true,
            };
            let span = tracing::debug_span!("batch", id = %format_args!("{:032x}", terms.request_id));
            let (routed, forwarded) = self.router.route_counted(&batch.items, terms).instrument(span).await;
            let reply = encoded::join(&routed.answers, routed.lag);
            Ok(BatchAnswer { reply, epoch: self.router.routes.epoch(), forwarded })
        }
        .boxed()
    }

    fn execute(&self, call: Call) -> BoxFuture<'_, Result<Answers, Error>> {
        async move {
            let shards = self.router.shards;
            let (answers, lag) = settle(&*self.router, &self.stamps, shards, &call).await;
            Ok(Answers { answers, lag_ms: millis(lag), node: self.router.host.node() })
        }
        .boxed()
    }

    /// The leaders are those that this node's replicas follow: the map's are as old as its epoch.
    fn cluster_map(&self) -> Result<ClusterMap, Error> {
        let mut map = ClusterMap::clone(&*self.router.routes.map()?);
        for view in &mut map.groups {
            if view.group == CONTROLLER {
                view.leader = self.controller.group().and_then(|group| group.leader()).or(view.leader);
            } else if let Some(replica) = self.router.replica_of(view.group) {
                view.leader = replica.group.leader();
            }
        }
        Ok(map)
    }

    fn shard_map(&self, epoch: Epoch, deadline: Instant) -> BoxFuture<'_, Result<ShardMap, ExecuteError>> {
        self.controller.history(Some(epoch), left(deadline)).boxed()
    }

    fn change(
        &self,
        expect: Option<Epoch>,
        change: ControllerChange,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<ControllerReply, ExecuteError>> {
        async move {
            let reply = self.controller.execute(expect, change, left(deadline)).await?;
            // It holds whether or not this node hears of it in time.
            if !self.controller.learns_of(reply.epoch(), left(deadline).min(LEARN_TIME_MAX)).await {
                let (node, epoch) = (self.router.host.node(), reply.epoch());
                tracing::warn!(%node, %epoch, "a change was made that this node has not heard of yet");
            }
            Ok(reply)
        }
        .boxed()
    }

    fn plan(
        &self,
        expect: Option<Epoch>,
        change: ControllerChange,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<Plan, ExecuteError>> {
        self.controller.plan(expect, change, left(deadline)).boxed()
    }

    fn cluster(&self) -> ClusterView {
        let Limits { key_bytes_max, value_bytes_max, batch_bytes_max } = self.router.limits;
        let mut view = ClusterView {
            cluster: self.cluster.clone(),
            epoch: 0,
            shards: self.router.shards,
            limits: ClusterLimits { key_bytes_max, value_bytes_max, batch_bytes_max },
            nodes: Vec::new(),
            groups: Vec::new(),
            shard_groups: Vec::new(),
        };
        let Ok(map) = self.router.routes.map() else {
            let node =
                |(id, address): (&NodeId, &Address)| ClusterNode { id: id.0, http: address.http.clone() };
            view.nodes = self.members.iter().map(node).collect();
            return view;
        };
        view.epoch = map.shard_map.epoch.0;
        view.nodes = map
            .nodes
            .iter()
            .map(|node| ClusterNode { id: node.node.0, http: node.spec.http.clone() })
            .collect();
        let data = map.groups.iter().filter(|view| view.group != CONTROLLER);
        view.groups = data.map(|group| self.group_view(group)).collect();
        for run in &map.shard_map.runs {
            let (first, last) = (run.first.0, run.first.0 + run.count - 1);
            match view.shard_groups.last_mut() {
                Some((_, before, owner)) if *owner == run.owner.0 => *before = last,
                _ => view.shard_groups.push((first, last, run.owner.0)),
            }
        }
        view
    }

    fn status(&self) -> NodeStatus {
        let unmeasured = |what: &str, why: &dyn std::fmt::Display| {
            tracing::warn!(node = %self.router.host.node(), %why, "{what} is not known and shown as 0");
            0
        };
        let disk_bytes = self.disk.bytes(|| self.router.host.disk_bytes());
        NodeStatus {
            id: self.router.host.node().0,
            cluster: self.cluster.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            uptime_ms: millis(self.started.elapsed()),
            disk_bytes: disk_bytes.unwrap_or_else(|why| unmeasured("disk_bytes", &why)),
            memory_rss_bytes: telemetry::resident_bytes()
                .unwrap_or_else(|why| unmeasured("memory_rss_bytes", &why)),
            groups: {
                let own = self.controller.group().map(|group| {
                    let serving = replica::missing(&group, self.touch_max).is_none();
                    group_status(&group.status(), Usage::default(), serving)
                });
                let data = self.router.residents.all().into_iter().map(|replica| {
                    let usage = replica.group.read_stale(KvMachine::usage);
                    let serving = replica.missing(self.touch_max).is_none();
                    group_status(&replica.group.status(), usage, serving)
                });
                own.into_iter().chain(data).collect()
            },
            moves: self.moves.under_way().into_iter().map(move_status).collect(),
            ended_moves: self.moves.ended().into_iter().map(ended_move_status).collect(),
        }
    }

    fn readiness(&self) -> Result<(), String> {
        if self.router.stopping.load(Ordering::Relaxed) {
            return Err("node is stopping".into());
        }
        let map = self.router.routes.map().map_err(|error| error.message)?;
        if !self.controller.is_member_of_cluster() {
            let why = self.controller.refused().map(|why| format!(": {why}")).unwrap_or_default();
            return Err(format!("node has not joined the cluster yet{why}"));
        }
        let serving =
            expected(&map, &self.router.host).filter_map(|group| match self.router.residents.get(group) {
                Some(replica) if replica.has_vote() => replica.missing(self.touch_max),
                None if has_vote(&map, group, &self.router.host) => {
                    Some(format!("replica of {group} is not open yet"))
                }
                Some(_) | None => None,
            });
        let missing: Vec<String> = serving.chain(self.restoration.missing(&map)).collect();
        if missing.is_empty() { Ok(()) } else { Err(missing.join(", ")) }
    }

    fn metrics(&self, into: &mut MetricsText) {
        telemetry::node(&self.router, self.controller.group(), into);
    }

    fn offload(&self, work: BoxFuture<'static, ()>) -> BoxFuture<'static, ()> {
        self.router.host.offload(work)
    }

    fn shards(&self) -> u32 {
        self.router.shards
    }

    fn limits(&self) -> Limits {
        self.router.limits
    }
}

impl Frontend {
    /// A group as this node knows it: by its own replica, where it has one, or by the map.
    fn group_view(&self, view: &GroupView) -> ClusterGroup {
        let id = view.group;
        match self.router.replica_of(id) {
            Some(replica) => {
                let status = replica.group.status();
                ClusterGroup {
                    id: id.0,
                    leader: status.leader.map(|leader| leader.0),
                    term: status.term,
                    serving: replica.missing(self.touch_max).is_none(),
                    replicas: status.members.keys().map(|node| node.0).collect(),
                }
            }
            None => ClusterGroup {
                id: id.0,
                leader: view.leader.map(|leader| leader.0),
                term: 0,
                serving: view.leader.is_some(),
                replicas: view.voters.keys().chain(view.learners.keys()).map(|node| node.0).collect(),
            },
        }
    }
}

/// Whether the map says that a group counts on this node's present disk.
fn has_vote(map: &ClusterMap, group: GroupId, host: &Host) -> bool {
    let view = map.groups.iter().find(|view| view.group == group);
    view.is_some_and(|view| view.voters.get(&host.node()) == Some(&host.incarnation()))
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn move_status(of: MoveProgress) -> MoveStatus {
    MoveStatus {
        shard: of.shard.0,
        from: of.from.0,
        to: of.to.0,
        id: of.id.0,
        phase: of.phase.name().into(),
        copied_bytes: of.copied_bytes,
        remaining_bytes: of.remaining_bytes,
        copies: of.copies,
        took_ms: millis(of.since.elapsed()),
    }
}

fn ended_move_status(of: EndedMove) -> EndedMoveStatus {
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    EndedMoveStatus {
        shard: of.shard.0,
        from: of.from.0,
        to: of.to.0,
        id: of.id.0,
        aborted: of.aborted,
        copied_bytes: of.copied_bytes,
        copies: of.copies,
        took_ms: millis(of.took),
        freeze_pause_us: of.freeze.map(|freeze| micros(freeze.pause())),
        served_us_ago: of.freeze.map(|freeze| micros(freeze.served.elapsed())),
    }
}

fn group_status(status: &raftstore::GroupStatus, usage: Usage, serving: bool) -> GroupStatus {
    let last_index = status.last_index.unwrap_or(0);
    let follower = |(node, matched): (&NodeId, &Option<u64>)| {
        let matched_index = matched.unwrap_or(0);
        FollowerStatus { node: node.0, matched_index, lag_entries: last_index.saturating_sub(matched_index) }
    };
    GroupStatus {
        id: status.group.0,
        role: match status.role {
            raftstore::Role::Leader => Role::Leader,
            raftstore::Role::Follower => Role::Follower,
            raftstore::Role::Candidate => Role::Candidate,
            raftstore::Role::Learner => Role::Learner,
            raftstore::Role::Stopped => Role::Stopped,
        },
        term: status.term,
        leader: status.leader.map(|leader| leader.0),
        serving,
        lag_ms: status.lag.map(millis),
        last_index,
        committed_index: status.committed_index.unwrap_or(0),
        applied_index: status.applied_index.unwrap_or(0),
        followers: status.matched.iter().map(follower).collect(),
        snapshot: status.snapshot_index.map(|index| SnapshotStatus { index, bytes: status.snapshot_bytes }),
        log_bytes: status.log_bytes,
        keys: usage.keys,
        bytes: usage.bytes,
        sessions: usage.sessions,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::tests::{Bench, Log, SOURCE};
    use proto::{Consistency, Item, Operation};
    use shardctrler::Settings;
    use tokio::task::JoinSet;

    /// The front end of a node that the map has as its second, and that is in service.
    fn frontend(router: &Arc<Router>) -> (Frontend, JoinSet<()>) {
        let map = ClusterMap::clone(&router.routes.map().unwrap());
        let spec = map.nodes[1].spec.clone();
        let config = NodeConfig {
            shards: router.shards,
            limits: router.limits,
            ..NodeConfig::founder("test", router.host.node(), BTreeMap::new())
        };
        let settings = Settings { seeds: BTreeMap::new(), named: Epoch(0), spec, birth: None };
        let (controller, tasks) = ControllerHandle::start(router.host.clone(), None, settings);
        let restoration = restoration(router);
        restoration.follow(&ClusterMap { groups: vec![], ..map.clone() });
        controller.learn(map);
        (Frontend::new(&config, router.clone(), controller, Arc::default(), restoration.into()), tasks)
    }

    fn restoration(router: &Router) -> Restoration {
        Restoration::new(router.host.node(), router.host.incarnation(), true)
    }

    /// A node that starts is not ready as long as a group lacks the vote that it is to have here.
    #[tokio::test]
    async fn a_vote_that_a_group_lacks_is_waited_for() {
        let bench = Bench::start().await;
        let router = bench.neighbour().await;
        let (frontend, _tasks) = frontend(&router);
        let starts = Frontend { restoration: restoration(&router).into(), ..frontend };
        assert_eq!(starts.readiness(), Err("g1 has 1 of 2 voters".to_owned()));
    }

    /// A replica that waits to be added is said to wait, takes its node out of no service, and hides nobody's leader.
    #[tokio::test]
    async fn a_replica_that_waits_is_no_replica_yet() {
        let bench = Bench::start().await;
        let router = bench.neighbour().await;
        let (frontend, _tasks) = frontend(&router);
        assert_eq!(frontend.readiness(), Ok(()));
        let missing = router.residents.get(SOURCE).unwrap().missing(Duration::MAX);
        assert_eq!(missing.as_deref(), Some("replica of g1 is not a member yet"));
        let shown: Vec<(u64, bool)> =
            frontend.status().groups.iter().map(|group| (group.id, group.serving)).collect();
        assert_eq!(shown, [(SOURCE.0, false)]);
        assert_eq!(frontend.cluster_map().unwrap().groups[0].leader, Some(NodeId(1)));
        let view = frontend.cluster();
        assert_eq!((view.groups[0].leader, view.groups[0].serving), (Some(1), true));
    }

    /// The id of a batch stands in the traces of the node that was asked.
    #[tokio::test]
    async fn batches_are_traced_by_their_id() {
        let bench = Bench::start().await;
        let router = bench.neighbour().await;
        let (frontend, _tasks) = frontend(&router);
        let (log, _ends) = Log::start();
        let request = BatchRequest {
            deadline_ms: 10_000,
            consistency: Consistency::Linearizable,
            request_id: 0xfeed,
            items: vec![Item { stamp: None, operation: Operation::Get { key: b"k" } }],
        };
        frontend.batch(Bytes::from(proto::encode(&request))).await.unwrap();
        let (text, id) = (log.text(), "id=0000000000000000000000000000feed");
        for span in [format!("batch{{{id}}}"), format!("forwarded{{{id} group=")] {
            assert!(text.contains(&span), "{span}: {text}");
        }
    }

    /// The disk is measured again once the last measurement is too old, and at once where it failed.
    #[tokio::test(start_paused = true)]
    async fn the_disk_is_measured_now_and_then() {
        let disk = DiskUsage::default();
        assert_eq!(disk.bytes(|| Err("gone")), Err("gone"));
        assert_eq!(disk.bytes(|| Ok::<_, ()>(7)), Ok(7));
        tokio::time::advance(DISK_AGE_MAX - Duration::from_millis(1)).await;
        assert_eq!(disk.bytes(|| Err("measured again")), Ok(7));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(disk.bytes(|| Ok::<_, ()>(9)), Ok(9));
    }
}
