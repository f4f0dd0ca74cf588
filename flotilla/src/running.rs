//! One node from its start to its end, as `server` and `dev` run it. Owns what is said when a node cannot start
//! and the order of stopping; which signals stop it, the callers decide.

use crate::error::Error;
use kvserver::{Node, NodeConfig, StartError};
use proto::NodeId;
use raftstore::Fatal;
use std::convert::Infallible;
use std::net::TcpListener;
use std::time::Duration;
use tokio::sync::watch;

/// How long a node that failed may take to close what it can; its state is on disk already.
const FAILED_STOP_DEADLINE: Duration = Duration::from_secs(2);

/// After how long without leaders a node says in its log what it waits for.
const READY_NOTICE: Duration = Duration::from_secs(10);

/// Refuses addresses that cannot be listened on, with what to do (`advice`), before anything is made: a directory must
/// not remember a node that could not be born. Whoever takes one of them in between is noticed by [`start`].
pub(crate) fn check_addresses(addresses: &[(NodeId, &str)], advice: &str) -> Result<(), Error> {
    let mut listeners = Vec::new();
    for (node, address) in addresses {
        let listener = TcpListener::bind(address).map_err(|error| {
            Error::Failed(format!("{node} cannot listen on {address}: {error}; {advice}"))
        })?;
        listeners.push(listener);
    }
    Ok(())
}

/// Starts a node, or says why it did not and, for an address that is taken, what to do (`advice`).
pub(crate) async fn start(config: NodeConfig, advice: &str) -> Result<Node, Error> {
    let node = config.node;
    Node::start(config).await.map_err(|error| match error {
        StartError::Config(what) => Error::Usage(what),
        StartError::Host(Fatal::Config(what)) => Error::Usage(what),
        StartError::Http(_) | StartError::Host(Fatal::Listen { .. }) => {
            Error::Failed(format!("{node} cannot start: {error}; {advice}"))
        }
        StartError::Join(_) => Error::Failed(format!("{node} {error}")),
        StartError::Host(_) => Error::Failed(format!("{node} cannot start: {error}")),
    })
}

/// Runs `node` until `stop` says so, then stops it gracefully within about `deadline`; or until the node itself must stop, which is an
/// error that says why.
pub(crate) async fn until_stopped(
    node: Node,
    mut stop: watch::Receiver<bool>,
    deadline: Duration,
) -> Result<(), Error> {
    let id = node.node();
    let failure = tokio::select! {
        reason = node.failed() => Some(reason),
        never = announce(&node) => match never {},
        // A sender that is gone asks for the same.
        _ = stop.wait_for(|stop| *stop) => None,
    };
    let Some(reason) = failure else {
        let stopped = node.shutdown(deadline).await;
        return stopped.map_err(|error| Error::Failed(format!("{id} did not stop cleanly: {error}")));
    };
    tracing::error!(node = %id, %reason, "node must stop");
    match tokio::time::timeout(FAILED_STOP_DEADLINE, node.shutdown(FAILED_STOP_DEADLINE)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(node = %id, %error, "failed node did not close cleanly"),
        Err(_) => tracing::warn!(node = %id, "failed node did not close in time"),
    }
    Err(Error::Failed(format!("{id} had to stop: {reason}")))
}

/// Logs once when the node becomes ready, and now and then what it waits for until then.
async fn announce(node: &Node) -> Infallible {
    let id = node.node();
    while let Err(missing) = node.ready(READY_NOTICE).await {
        tracing::warn!(node = %id, %missing, "node is not ready yet");
    }
    tracing::info!(node = %id, "node is ready");
    std::future::pending().await
}
