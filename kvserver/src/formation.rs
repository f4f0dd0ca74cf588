//! How a cluster comes into being: its first nodes meet, and each gives the controller's group the same first
//! members. What is born then, the controller's leader says.
//!
//! Relies on the host, which waits until all first members have met before any of them votes. Runs at every
//! start of a first member that never knew its cluster's map; where the others know this node by another
//! disk, its replica of the controller is begun anew, as one that waits to be added.

use proto::NodeId;
use raftstore::{Address, Fatal, Group, Host};
use shardctrler::{ControllerHandle, ControllerMachine};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Meets the others and gives the controller's group its members, where it has none. A failure is the host's,
/// which stops the node.
pub(crate) async fn form(
    host: Arc<Host>,
    controller: Arc<ControllerHandle>,
    group: Group<ControllerMachine>,
    members: BTreeMap<NodeId, Address>,
) {
    let formed = match formed(&host, &group, &members).await {
        Err(Fatal::Amnesia { node, by }) => {
            tracing::warn!(%node, %by, "the cluster knows this node by a disk that is lost: it joins anew");
            begin_anew(&host, &controller, group).await
        }
        formed => formed,
    };
    if let Err(fatal) = formed {
        host.fail(fatal);
    }
}

async fn formed(
    host: &Host,
    group: &Group<ControllerMachine>,
    members: &BTreeMap<NodeId, Address>,
) -> Result<(), Fatal> {
    host.form(members).await?;
    group.bootstrap(members).await
}

/// What it voted and held is lost with the disk, and this replica is none of the first any more. It has said
/// nothing yet.
async fn begin_anew(
    host: &Host,
    controller: &ControllerHandle,
    group: Group<ControllerMachine>,
) -> Result<(), Fatal> {
    controller.set_group(None);
    host.drop_group(group.id()).await?;
    controller.set_group(Some(host.open_learner(group.id(), ControllerMachine::new).await?));
    Ok(())
}
