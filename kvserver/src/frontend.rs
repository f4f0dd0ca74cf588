//! The node as its front end sees it: curl's writes get stamps and are sent again until they are answered, the
//! rest is looked up.

use crate::machine::KvMachine;
use crate::node::NodeConfig;
use crate::router::{self, Encoded, Router, Terms, decoded, is_unknown};
use crate::service::{
    Answer, Answers, Call, ClusterGroup, ClusterNode, ClusterView, FollowerStatus, GroupStatus, IdempotencyKey,
    MetricsText, NodeStatus, Operation, Reply, Role, Service, SnapshotStatus,
};
use crate::stamps::{Stamps, Ticket};
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use proto::{
    BatchRequest, ClientId, Code, Error, Item, Limits, NodeId, Outcome, Sequence, ShardId, Stamp,
};
use raftstore::{Address, Group, random};
use rand::RngExt;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The first pause before a call is sent again; it doubles, with jitter, up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(5);

/// The longest such pause: a leader that is elected is found within this time.
const RETRY_MAX: Duration = Duration::from_millis(100);

/// The most operations in one batch.
const ITEMS_MAX: usize = 16 << 10;

/// The longest time that a batch may take, whatever it asks for.
const BATCH_DEADLINE_MAX: Duration = Duration::from_secs(60);

/// What the HTTP server asks.
pub(crate) struct Frontend {
    router: Arc<Router>,
    stamps: Stamps,
    cluster: String,
    members: BTreeMap<NodeId, Address>,
    limits: Limits,
    started: Instant,
}

/// Where a write's stamp comes from.
enum Stamped {
    /// Reads have none.
    Not,
    /// The front end's own session; open until dropped.
    Own(Ticket),
    /// A session of the caller's making that holds this one write.
    Keyed(Stamp),
}

impl Stamped {
    fn stamp(&self) -> Option<Stamp> {
        match self {
            Self::Not => None,
            Self::Own(ticket) => Some(ticket.stamp()),
            Self::Keyed(stamp) => Some(*stamp),
        }
    }
}

/// One operation of a call, on its way to a final answer.
struct Pending {
    at: usize,
    stamped: Stamped,
    /// Whether any attempt so far may have taken effect.
    unknown: bool,
}

impl Frontend {
    pub(crate) fn new(config: &NodeConfig, router: Arc<Router>) -> Self {
        Self {
            router,
            stamps: Stamps::default(),
            cluster: config.cluster.clone(),
            members: config.members.clone(),
            limits: config.limits,
            started: Instant::now(),
        }
    }

    fn shard(&self, operation: &Operation) -> Option<ShardId> {
        operation.wire().key().map(|key| proto::shard_of(key, self.router.map.shards))
    }

    fn stamp(&self, call: &Call, at: usize) -> Result<Stamped, Error> {
        let operation = &call.operations[at];
        let Some(shard) = self.shard(operation).filter(|_| !operation.is_read()) else { return Ok(Stamped::Not) };
        if let Some(key) = &call.idempotency_key {
            return Ok(Stamped::Keyed(keyed(key, at, operation)));
        }
        let full = || Error::new(Code::Overloaded, format!("writes to {shard} under way reach their limit"));
        self.stamps.open(shard).map(Stamped::Own).ok_or_else(full)
    }

    /// Sends what is pending again and again until each operation has an answer that will not change.
    async fn settle(&self, call: Call) -> Answers {
        let mut answers: Vec<Option<Encoded>> = vec![None; call.operations.len()];
        let mut pending = Vec::new();
        for at in 0..call.operations.len() {
            match self.stamp(&call, at) {
                Ok(stamped) => pending.push(Pending { at, stamped, unknown: false }),
                Err(error) => answers[at] = Some(router::refused(error)),
            }
        }
        let terms = Terms {
            deadline: call.deadline,
            consistency: call.consistency,
            request_id: call.request_id,
            forward: true,
        };
        let mut lag = Duration::ZERO;
        let mut pause = RETRY_MIN;
        while !pending.is_empty() {
            let items: Vec<Item<'_>> = pending
                .iter()
                .map(|open| Item { stamp: open.stamped.stamp(), operation: call.operations[open.at].wire() })
                .collect();
            let routed = self.router.route(&items, terms).await;
            lag = lag.max(routed.lag);
            let last = call.deadline.saturating_duration_since(Instant::now()) <= pause;
            pending = pending
                .into_iter()
                .zip(routed.answers)
                .filter_map(|(open, answer)| self.judge(&call, open, answer, last, &mut answers))
                .collect();
            if !pending.is_empty() {
                tokio::time::sleep(jittered(pause)).await;
                pause = (pause * 2).min(RETRY_MAX);
            }
        }
        self.answers(&call, answers, lag)
    }

    /// Takes an answer that will not change; gives back what is to be sent again.
    fn judge(
        &self,
        call: &Call,
        mut open: Pending,
        answer: Encoded,
        last: bool,
        answers: &mut [Option<Encoded>],
    ) -> Option<Pending> {
        let (retry, error) = match decoded(&answer) {
            Err(error) if error.code == Code::SessionExpired => (self.renew(call, &mut open), Some(error)),
            Err(error) if error.retryable() => {
                open.unknown |= is_unknown(&Err(error.clone())) && !call.operations[open.at].is_read();
                (error.code != Code::TooStale, Some(error))
            }
            _ => (false, None),
        };
        if retry && !last {
            return Some(open);
        }
        answers[open.at] = Some(match error {
            // No effect of the last attempt says nothing of those before it.
            Some(error) if open.unknown => router::refused(Error { outcome: Outcome::Unknown, ..error }),
            _ => answer,
        });
        None
    }

    /// Opens a new session in the place of one that the machine has forgotten. An attempt under the old one
    /// that may have taken effect cannot be told from one that did not any more: it is not sent again.
    fn renew(&self, call: &Call, open: &mut Pending) -> bool {
        let Stamped::Own(ticket) = &open.stamped else { return false };
        let Some(shard) = self.shard(&call.operations[open.at]) else { return false };
        if open.unknown {
            return false;
        }
        self.stamps.replace(shard, ticket.stamp());
        match self.stamps.open(shard) {
            Some(ticket) => {
                open.stamped = Stamped::Own(ticket);
                true
            }
            None => false,
        }
    }

    fn answers(&self, call: &Call, answers: Vec<Option<Encoded>>, lag: Duration) -> Answers {
        let mut left = call.answer_bytes_max;
        let owned = answers.into_iter().map(|answer| {
            let answer = answer.expect("the loop ends when every operation is answered");
            let reply = decoded(&answer).map(|reply| Reply::sharing(&answer, &reply));
            bounded(reply, &mut left)
        });
        Answers { answers: owned.collect(), lag_ms: millis(lag), node: self.router.host.node() }
    }
}

/// The one stamp of a session that a caller's key names: the same for the same operation of the same request,
/// whichever node it is sent to, and another for any other operation.
fn keyed(key: &IdempotencyKey, at: usize, operation: &Operation) -> Stamp {
    let named = Sha256::new().chain_update(key.as_str()).chain_update([0]).chain_update((at as u64).to_le_bytes());
    let digest = named.chain_update(proto::encode(&operation.wire())).finalize();
    let client = digest.first_chunk::<16>().map_or(0, |bytes| u128::from_le_bytes(*bytes));
    Stamp { client: ClientId(client), sequence: Sequence(1), lowest_open: Sequence(1) }
}

/// `reply`, unless its value no longer fits what may be answered.
fn bounded(reply: Answer, left: &mut usize) -> Answer {
    if let Ok(Reply::Value { value, .. }) = &reply {
        if value.len() > *left {
            return Err(Error::new(Code::BatchTooLarge, "values of the batch exceed what one answer may hold"));
        }
        *left -= value.len();
    }
    reply
}

fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(random().random_range(0.5..1.0))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Service for Frontend {
    fn batch(&self, request: Bytes) -> BoxFuture<'_, Result<Bytes, Error>> {
        async move {
            let batch: BatchRequest<'_> =
                proto::decode(&request).map_err(|error| Error::new(Code::BadRequest, error.to_string()))?;
            if batch.items.len() > ITEMS_MAX {
                let why = format!("batch has {} operations, limit is {ITEMS_MAX}", batch.items.len());
                return Err(Error::new(Code::BatchTooLarge, why));
            }
            let terms = Terms {
                deadline: Instant::now()
                    + Duration::from_millis(u64::from(batch.deadline_ms)).min(BATCH_DEADLINE_MAX),
                consistency: batch.consistency,
                request_id: batch.request_id,
                forward: true,
            };
            let routed = self.router.route(&batch.items, terms).await;
            Ok(router::reply(&routed.answers, routed.lag))
        }
        .boxed()
    }

    fn execute(&self, call: Call) -> BoxFuture<'_, Result<Answers, Error>> {
        async move { Ok(self.settle(call).await) }.boxed()
    }

    fn cluster(&self) -> ClusterView {
        let node = |(id, address): (&NodeId, &Address)| ClusterNode { id: id.0, http: address.http.clone() };
        let group = |group: &Group<KvMachine>| {
            let status = group.status();
            ClusterGroup {
                id: status.group.0,
                leader: status.leader.map(|leader| leader.0),
                term: status.term,
                replicas: status.members.keys().map(|node| node.0).collect(),
            }
        };
        let ranges = self.router.map.ranges().into_iter();
        ClusterView {
            cluster: self.cluster.clone(),
            shards: self.router.map.shards,
            nodes: self.members.iter().map(node).collect(),
            groups: self.router.groups.values().map(group).collect(),
            shard_groups: ranges.map(|(first, last, group)| (first.0, last.0, group.0)).collect(),
        }
    }

    fn status(&self) -> NodeStatus {
        NodeStatus {
            id: self.router.host.node().0,
            cluster: self.cluster.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            uptime_ms: millis(self.started.elapsed()),
            disk_bytes: self.router.host.disk_bytes().unwrap_or(0),
            memory_rss_bytes: resident_bytes().unwrap_or(0),
            groups: self.router.groups.values().map(group_status).collect(),
        }
    }

    fn readiness(&self) -> Result<(), String> {
        let missing = self.router.groups.values().filter_map(|group| {
            let status = group.status();
            match (status.leader, status.recovered) {
                (None, _) => Some(format!("{} has no leader", status.group)),
                (_, false) => Some(format!("replica of {} has not recovered", status.group)),
                _ => None,
            }
        });
        let missing: Vec<String> = missing.collect();
        if missing.is_empty() { Ok(()) } else { Err(missing.join(", ")) }
    }

    fn metrics(&self, into: &mut MetricsText) {
        crate::telemetry::node(&self.router, into);
    }

    fn shards(&self) -> u32 {
        self.router.map.shards
    }

    fn limits(&self) -> Limits {
        self.limits
    }
}

fn group_status(group: &Group<KvMachine>) -> GroupStatus {
    let status = group.status();
    let usage = group.read_stale(KvMachine::usage);
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

/// The process's resident memory, where the operating system tells.
fn resident_bytes() -> Option<u64> {
    const PAGE_BYTES: u64 = 4096;
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * PAGE_BYTES)
}
