//! The places at which tests hold a move, or end its node: just before and just after each step that stands
//! in a log.
//!
//! Nothing without the feature `failpoints`. With it, a test installs a hook, which may wait for as long as
//! it likes: the task that has reached the point waits with it, and no thread does, so that the node goes on
//! with all else and can be stopped meanwhile. That is why this is not one of the crates for fail points:
//! theirs hold the thread.
//!
//! A test whose nodes are processes of their own has no hook in them, but a directory of `gates`, which it
//! names in the environment. Nothing else below `main` reads that; no binary that people run has this.

#[cfg(feature = "failpoints")]
pub mod gates;

use proto::{NodeId, ShardId};

/// A point in the course of a move, by who passes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Failpoint {
    /// Destination: the map says that the move has started.
    Started,
    /// Destination: `ImportBegin` is committed.
    ImportBegun,
    /// Destination: a piece that is not the last is committed.
    PieceTaken,
    /// Destination: little is left, and the source is not asked to freeze yet.
    Copied,
    /// Destination: the source has said that it is frozen.
    FreezeAnswered,
    /// Destination: the last piece is here, and not proposed yet.
    BeforeActivate,
    /// Destination: the shard is served here, and the controller does not know it.
    Activated,
    /// Destination: the controller knows that the shard is here.
    DoneTold,
    /// Destination: `Abort` is committed, and the controller does not know it.
    Aborted,
    /// Destination: the controller knows that the move was given up.
    AbortTold,
    /// Source: it was asked to freeze, and has not proposed it.
    BeforeFreeze,
    /// Source: `Freeze` is committed, and the destination does not know it.
    Frozen,
    /// Source: the map says that the shard is elsewhere.
    BeforeDrop,
    /// Source: `Drop` is committed.
    Dropped,
    /// Source: the map says that the move was given up.
    BeforeThaw,
    /// Source: `Thaw` is committed.
    Thawed,
    /// Controller: it was asked to move the shard, and has not proposed it.
    BeforeStart,
    /// Controller: the start of the move is committed, and who asked for it does not know it.
    StartCommitted,
    /// Controller: it was told that the shard has arrived, and has not proposed it.
    BeforeDone,
    /// Controller: the arrival is committed, and the destination does not know it.
    DoneCommitted,
    /// Controller: it was told that the move was given up, and has not proposed it.
    BeforeAborted,
    /// Controller: the end of the move that was given up is committed, and the destination does not know it.
    AbortedCommitted,
}

#[cfg(feature = "failpoints")]
pub use enabled::*;

/// Tells the test that `node` has come to a point with a shard.
#[cfg(feature = "failpoints")]
pub(super) async fn reach(node: NodeId, shard: ShardId, point: Failpoint) {
    enabled::hold(node, shard, point).await;
}

/// Nothing: there is no test.
#[cfg(not(feature = "failpoints"))]
pub(super) async fn reach(_: NodeId, _: ShardId, _: Failpoint) {}

/// Has the controller's leader tell of its points as well.
#[cfg(feature = "failpoints")]
pub(super) fn follow_controller() {
    enabled::follow_controller();
}

/// Nothing: there is no test.
#[cfg(not(feature = "failpoints"))]
pub(super) fn follow_controller() {}

#[cfg(feature = "failpoints")]
mod enabled {
    use super::{Failpoint, NodeId, ShardId, gates};
    use futures_util::future::BoxFuture;
    use proto::ControllerChange;
    use shardctrler::failpoint as controller;
    use std::sync::{Arc, PoisonError, RwLock};

    impl Failpoint {
        /// The point that a change to the controller's map has come to, and with which shard.
        fn of(change: &ControllerChange, point: controller::Failpoint) -> Option<(ShardId, Self)> {
            let asked = point == controller::Failpoint::Asked;
            let either = |before, after| if asked { before } else { after };
            match change {
                ControllerChange::ShardMove { shard, .. } => {
                    Some((*shard, either(Self::BeforeStart, Self::StartCommitted)))
                }
                ControllerChange::MoveDone { shard, .. } => {
                    Some((*shard, either(Self::BeforeDone, Self::DoneCommitted)))
                }
                ControllerChange::MoveAborted { shard, .. } => {
                    Some((*shard, either(Self::BeforeAborted, Self::AbortedCommitted)))
                }
                _ => None,
            }
        }
    }

    /// What a test does at a point.
    pub type FailpointHook = Arc<dyn Fn(NodeId, ShardId, Failpoint) -> BoxFuture<'static, ()> + Send + Sync>;

    /// One for the whole process: tests that run at once tell their nodes apart by number.
    static HOOK: RwLock<Option<FailpointHook>> = RwLock::new(None);

    /// Has all nodes of this process call `hook` at every point, or none.
    pub fn set_hook(hook: Option<FailpointHook>) {
        *HOOK.write().unwrap_or_else(PoisonError::into_inner) = hook;
    }

    pub(super) async fn hold(node: NodeId, shard: ShardId, point: Failpoint) {
        let hook = HOOK.read().unwrap_or_else(PoisonError::into_inner).clone();
        match hook {
            Some(hook) => hook(node, shard, point).await,
            None => gates::pass(node, shard, point).await,
        }
    }

    pub(super) fn follow_controller() {
        controller::set_hook(Arc::new(|node, change, point| {
            let point = Failpoint::of(change, point);
            Box::pin(async move {
                if let Some((shard, point)) = point {
                    hold(node, shard, point).await;
                }
            })
        }));
    }
}
