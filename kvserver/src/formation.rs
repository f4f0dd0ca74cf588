//! How a cluster comes into being: every node of it gives every group the same first members.

use crate::machine::KvMachine;
use proto::{GroupId, NodeId};
use raftstore::{Address, Fatal, Group, Host};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Gives groups that have no members yet the cluster's first ones.
pub(crate) async fn form(
    host: Arc<Host>,
    groups: BTreeMap<GroupId, Group<KvMachine>>,
    members: BTreeMap<NodeId, Address>,
) {
    if let Err(fatal) = formed(&host, &groups, &members).await {
        host.fail(fatal);
    }
}

async fn formed(
    host: &Host,
    groups: &BTreeMap<GroupId, Group<KvMachine>>,
    members: &BTreeMap<NodeId, Address>,
) -> Result<(), Fatal> {
    host.form(members).await?;
    for group in groups.values() {
        group.bootstrap(members).await?;
    }
    Ok(())
}
