//! The places at which tests hold a move, or end its node: just before and just after each step that stands
//! in a log.
//!
//! Nothing without the feature `failpoints`. With it, a test installs a hook, which may wait for as long as
//! it likes: the task that has reached the point waits with it, and no thread does, so that the node goes on
//! with all else and can be stopped meanwhile. That is why this is not one of the crates for fail points:
//! theirs hold the thread.

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

#[cfg(feature = "failpoints")]
mod enabled {
    use super::{Failpoint, NodeId, ShardId};
    use futures_util::future::BoxFuture;
    use std::sync::{Arc, PoisonError, RwLock};

    impl Failpoint {
        /// All of them.
        pub const ALL: [Self; 16] = [
            Self::Started,
            Self::ImportBegun,
            Self::PieceTaken,
            Self::Copied,
            Self::FreezeAnswered,
            Self::BeforeActivate,
            Self::Activated,
            Self::DoneTold,
            Self::Aborted,
            Self::AbortTold,
            Self::BeforeFreeze,
            Self::Frozen,
            Self::BeforeDrop,
            Self::Dropped,
            Self::BeforeThaw,
            Self::Thawed,
        ];
    }

    /// What a test does at a point.
    pub type FailpointHook = Arc<dyn Fn(NodeId, ShardId, Failpoint) -> BoxFuture<'static, ()> + Send + Sync>;

    /// One for the whole process: tests that use it take turns.
    static HOOK: RwLock<Option<FailpointHook>> = RwLock::new(None);

    /// Has all nodes of this process call `hook` at every point, or none.
    pub fn set_hook(hook: Option<FailpointHook>) {
        *HOOK.write().unwrap_or_else(PoisonError::into_inner) = hook;
    }

    pub(super) async fn hold(node: NodeId, shard: ShardId, point: Failpoint) {
        let hook = HOOK.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(hook) = hook {
            hook(node, shard, point).await;
        }
    }
}
