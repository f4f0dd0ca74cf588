//! How a cluster comes into being: its first nodes meet, and each gives the controller's group the same first members.
//! What is born then, the controller's leader says.
//!
//! Relies on the host, which waits until all first members have met before any of them votes. Runs at every start;
//! on a cluster that has formed it finds nothing to do.

use proto::NodeId;
use raftstore::{Address, Fatal, Group, Host};
use shardctrler::ControllerMachine;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Meets the others and gives the controller's group its members, where it has none. A failure is the host's, which
/// stops the node.
pub(crate) async fn form(
    host: Arc<Host>,
    controller: Group<ControllerMachine>,
    members: BTreeMap<NodeId, Address>,
) {
    if let Err(fatal) = formed(&host, &controller, &members).await {
        host.fail(fatal);
    }
}

async fn formed(
    host: &Host,
    controller: &Group<ControllerMachine>,
    members: &BTreeMap<NodeId, Address>,
) -> Result<(), Fatal> {
    host.form(members).await?;
    controller.bootstrap(members).await
}
