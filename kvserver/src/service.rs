//! What a front end asks of its node: one object-safe trait and the plain values that cross it.
//!
//! It relies on nothing but `proto`, the controller's own errors and time. It must never know of HTTP: the front end translates requests into
//! [`Call`]s and [`Answers`] back, so that a test can put a fake in the node's place and another protocol can be
//! served beside this one.

mod admin;
mod answer;
mod metrics;
mod view;

pub use admin::{
    ChangedJson, GroupJson, MapJson, MoveJson, NodeJson, PlanJson, PlannedMoveJson, SetbackJson,
    SettingsJson, ShardMapJson,
};
pub use answer::{Answer, Answers, Operation, Record, Reply};
pub use metrics::{MetricKind, MetricsText};
pub use view::{
    ClusterGroup, ClusterLimits, ClusterNode, ClusterView, EndedMoveStatus, FollowerStatus, GroupStatus,
    MoveStatus, NodeStatus, Role, SnapshotStatus,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use proto::{ClusterMap, Consistency, ControllerChange, ControllerReply, Epoch, Limits, ShardMap};
use shardctrler::{ExecuteError, Plan};
use std::fmt;
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;
use tokio::time::Instant;

/// The node, as its front end sees it.
///
/// Futures may be dropped at any time, for example when the front end stops: a write that was handed on by then
/// may still take effect, and everything else must be as if it had never been asked.
pub trait Service: Send + Sync + 'static {
    /// Answers an encoded [`proto::BatchRequest`] with an encoded [`proto::BatchReply`], and tells its sender how good
    /// the way was that it took. Bytes go in and out, so that a batch that is forwarded is never encoded again.
    ///
    /// # Errors
    /// An error for the batch as a whole, of which nothing was done: `bad_request` where the bytes are not a
    /// batch, `batch_too_large`, `overloaded`. Whatever concerns one item stands in that item's answer.
    fn batch(&self, request: Bytes) -> BoxFuture<'_, Result<BatchAnswer, proto::Error>>;

    /// Carries out the operations of a caller without a session of its own, item by item.
    ///
    /// Writes are stamped under the front end's own session, or under one derived from the call's
    /// [`IdempotencyKey`], and retried under the same stamp until the deadline, so each takes effect at most
    /// once. There is one answer for each operation, in their order.
    ///
    /// # Errors
    /// An error for the call as a whole; its outcome covers every write of the call.
    fn execute(&self, call: Call) -> BoxFuture<'_, Result<Answers, proto::Error>>;

    /// The controller's map, as far as this node knows.
    ///
    /// # Errors
    /// Where it knows none yet.
    fn cluster_map(&self) -> Result<ClusterMap, proto::Error>;

    /// Which group served which shard at an epoch, as the controller says.
    ///
    /// # Errors
    /// [`ExecuteError`].
    fn shard_map(&self, epoch: Epoch, deadline: Instant) -> BoxFuture<'_, Result<ShardMap, ExecuteError>>;

    /// Has the controller carry out a change, once at most; refused where the map is not at the epoch `expect`.
    ///
    /// # Errors
    /// [`ExecuteError`] says whether it may have been carried out.
    fn change(
        &self,
        expect: Option<Epoch>,
        change: ControllerChange,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<ControllerReply, ExecuteError>>;

    /// What a change would bring about; it is not carried out.
    ///
    /// # Errors
    /// [`ExecuteError`], as the change itself would be refused.
    fn plan(
        &self,
        expect: Option<Epoch>,
        change: ControllerChange,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<Plan, ExecuteError>>;

    /// The nodes, groups and shards, as far as this node knows.
    fn cluster(&self) -> ClusterView;

    /// This node and its replicas, at a glance.
    fn status(&self) -> NodeStatus;

    /// Whether this node's replicas of data that their groups count on serve, and no group lacks a vote for its sake.
    ///
    /// # Errors
    /// What is missing, for people.
    fn readiness(&self) -> Result<(), String>;

    /// Appends the node's own gauges and counters to those of the front end.
    fn metrics(&self, into: &mut MetricsText);

    /// Runs work that may block, and waits for it, where nothing else has to wait: on a thread that may block.
    fn offload(&self, work: BoxFuture<'static, ()>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let runtime = Handle::current();
            if let Err(error) = spawn_blocking(move || runtime.block_on(work)).await {
                tracing::error!(%error, "work was lost");
            }
        })
    }

    /// How many shards the cluster was born with. Never changes.
    fn shards(&self) -> u32;

    /// How large keys, values and batches may be. Never change while the node runs.
    fn limits(&self) -> Limits;
}

/// What comes back for an encoded batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BatchAnswer {
    /// An encoded [`proto::BatchReply`].
    pub reply: Bytes,
    /// The version of the map that this node knows; none where it knows none yet.
    pub epoch: Option<Epoch>,
    /// How many of the operations on single keys were sent on to another node, which leads their groups: a sender
    /// with a fresh view of the cluster would have gone there.
    pub forwarded: usize,
}

/// Operations to carry out for one caller.
#[derive(Clone, Debug)]
pub struct Call {
    /// Independent of each other, carried out in any order, answered one by one. Never empty; scans stand alone.
    pub operations: Vec<Operation>,
    /// For the reads among them.
    pub consistency: Consistency,
    /// When to have answered. The front end waits only a little longer.
    pub deadline: Instant,
    /// The id that goes through answers, logs and traces of every node that the call touches.
    pub request_id: u128,
    /// Given by the caller so that the same request, sent again, takes effect once.
    pub idempotency_key: Option<IdempotencyKey>,
    /// The most bytes of values to answer in all: reads beyond it are answered `batch_too_large`, so that many
    /// small questions cannot ask for all memory.
    pub answer_bytes_max: usize,
}

/// A caller's own name for a request: 1 to 128 visible ASCII characters.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(Box<str>);

impl IdempotencyKey {
    /// The longest key, in bytes.
    pub const BYTES_MAX: usize = 128;

    /// The key in `bytes`, unless it is empty, too long, or holds anything but visible ASCII.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let visible = bytes.iter().all(u8::is_ascii_graphic);
        if bytes.is_empty() || bytes.len() > Self::BYTES_MAX || !visible {
            return None;
        }
        std::str::from_utf8(bytes).ok().map(|text| Self(text.into()))
    }

    /// The key as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdempotencyKey({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key is 1 to 128 visible ASCII characters and nothing else.
    #[test]
    fn idempotency_keys_are_visible_ascii() {
        assert_eq!(IdempotencyKey::new(b"order-17").unwrap().as_str(), "order-17");
        assert!(IdempotencyKey::new(&[b'x'; 128]).is_some());
        for bad in [&b""[..], &[b'x'; 129], b"two words", b"tab\t", b"\x7f", "ä".as_bytes(), b"\xff"] {
            assert!(IdempotencyKey::new(bad).is_none(), "{bad:?}");
        }
    }
}
