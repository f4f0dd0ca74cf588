//! How a cluster comes into being: every node of it gives every group the same first members, and their leaders give
//! the groups their first shards, until there is a controller to say who has what.
//!
//! Relies on the host, which waits until all first members have met before any of them votes. Runs at every start;
//! on a cluster that has formed it finds nothing to do.

use crate::replica::Replica;
use crate::router::Router;
use futures_util::future::join_all;
use proto::NodeId;
use raftstore::{Address, Fatal};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Gives groups that have no members yet the cluster's first ones, and shards to those that have none. A failure is the host's, which stops the node.
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
    join_all(router.replicas.values().map(Replica::give_birth)).await;
    Ok(())
}
