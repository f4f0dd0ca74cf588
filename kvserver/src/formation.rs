//! How a cluster comes into being: every node of it gives every group the same first members.
//!
//! Relies on the host, which waits until all first members have met before any of them votes. Runs at every start;
//! on a cluster that has formed it finds nothing to do.

use crate::router::Router;
use proto::NodeId;
use raftstore::{Address, Fatal};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Gives groups that have no members yet the cluster's first ones. A failure is the host's, which stops the node.
pub(crate) async fn form(router: Arc<Router>, members: BTreeMap<NodeId, Address>) {
    if let Err(fatal) = formed(&router, &members).await {
        router.host.fail(fatal);
    }
}

async fn formed(router: &Router, members: &BTreeMap<NodeId, Address>) -> Result<(), Fatal> {
    router.host.form(members).await?;
    for replica in router.replicas.values() {
        replica.group.bootstrap(members).await?;
    }
    Ok(())
}
