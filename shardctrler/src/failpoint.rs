//! The places at which tests hold whoever leads the controller, or end its node: just before a command is
//! proposed, and once it is committed and nobody was told.
//!
//! Nothing without the feature `failpoints`. With it, whoever installs a hook is asked at each of them, and
//! the answer waits for as long as the hook does.

/// Where a command stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failpoint {
    /// The leader was asked, and has not proposed it.
    Asked,
    /// It is carried out, and whoever asked does not know it.
    Committed,
}

#[cfg(feature = "failpoints")]
pub use enabled::*;

/// Tells the hook that `node`, which leads, has come to a point with a change.
#[cfg(feature = "failpoints")]
pub(crate) async fn reach(node: proto::NodeId, change: &proto::ControllerChange, point: Failpoint) {
    enabled::hold(node, change, point).await;
}

/// Nothing: there is no test.
#[cfg(not(feature = "failpoints"))]
pub(crate) async fn reach(_: proto::NodeId, _: &proto::ControllerChange, _: Failpoint) {}

#[cfg(feature = "failpoints")]
mod enabled {
    use super::Failpoint;
    use proto::{ControllerChange, NodeId};
    use std::pin::Pin;
    use std::sync::{Arc, PoisonError, RwLock};

    /// What is waited for at a point.
    pub type Hold = Pin<Box<dyn Future<Output = ()> + Send>>;

    /// What is done at a point.
    pub type FailpointHook = Arc<dyn Fn(NodeId, &ControllerChange, Failpoint) -> Hold + Send + Sync>;

    /// One for the whole process.
    static HOOK: RwLock<Option<FailpointHook>> = RwLock::new(None);

    /// Has all nodes of this process call `hook` at every point.
    pub fn set_hook(hook: FailpointHook) {
        *HOOK.write().unwrap_or_else(PoisonError::into_inner) = Some(hook);
    }

    pub(super) async fn hold(node: NodeId, change: &ControllerChange, point: Failpoint) {
        let hook = HOOK.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(hook) = hook {
            hook(node, change, point).await;
        }
    }
}
