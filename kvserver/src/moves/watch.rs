//! A node's replicas as a test looks at them, whoever serves what.

use crate::machine::{KvMachine, ShardView, Usage};
use crate::residence::Residents;
use proto::{ClusterMap, GroupId, NodeId, ShardId};
use raftstore::{GroupStatus, MemberError};
use shardctrler::ControllerHandle;
use std::sync::Arc;
use std::time::Duration;

/// A handle that outlives its node, as far as a test needs it.
#[derive(Clone)]
pub struct Watch {
    residents: Arc<Residents>,
    controller: Arc<ControllerHandle>,
}

/// One replica, as it is in memory.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its group.
    pub group: GroupId,
    /// Whether it leads, as far as it knows.
    pub leads: bool,
    /// What it holds of each shard.
    pub shards: Vec<ShardView>,
    /// What it holds of all.
    pub usage: Usage,
    /// Whether nothing that was dropped waits to be freed.
    pub is_swept: bool,
}

impl Watch {
    pub(crate) fn new(residents: Arc<Residents>, controller: Arc<ControllerHandle>) -> Self {
        Self { residents, controller }
    }

    /// Whether this node leads the controller's group.
    pub fn leads_controller(&self) -> bool {
        self.controller.group().is_some_and(|group| group.leads())
    }

    /// All replicas as they have applied their logs so far.
    pub fn replicas(&self) -> Vec<Seen> {
        let replicas = self.residents.all().into_iter();
        replicas
            .map(|replica| {
                let leads = replica.group.leads();
                replica.group.read_stale(|machine| Seen {
                    group: replica.group.id(),
                    leads,
                    shards: machine.shards().collect(),
                    usage: machine.usage(),
                    is_swept: machine.is_swept(),
                })
            })
            .collect()
    }

    /// What `group` holds, where this node leads it and a quorum has just confirmed that.
    pub async fn confirmed(&self, group: GroupId) -> Option<Vec<ShardView>> {
        let replica = self.residents.get(group).filter(|replica| replica.group.leads())?;
        replica.group.read(|machine: &KvMachine| machine.shards().collect()).await.ok()
    }

    /// Has a replica forget what changed in its shards since they were exported, as if it had been loaded
    /// since.
    pub fn forget_exports(&self, group: GroupId) {
        let Some(replica) = self.residents.get(group) else { return };
        replica.group.read_stale(|machine| {
            machine.exports().into_iter().for_each(|(shard, epoch, _)| machine.export_end(shard, epoch));
        });
    }

    /// The shards of which this node notes what changes, by group.
    pub fn exports(&self) -> Vec<(GroupId, ShardId)> {
        let replicas = self.residents.all().into_iter();
        let of = replicas.map(|replica| (replica.group.id(), replica.group.read_stale(KvMachine::exports)));
        of.flat_map(|(group, shards)| shards.into_iter().map(move |(shard, ..)| (group, shard))).collect()
    }

    /// The state of this node's replica.
    pub fn status(&self, group: GroupId) -> Option<GroupStatus> {
        Some(self.residents.get(group)?.group.status())
    }

    /// The index of the last entry that this node's replica has applied, with the digest of its machine after
    /// it. On a runtime of one thread the two belong together.
    pub fn digest(&self, group: GroupId) -> Option<(u64, u64)> {
        let replica = self.residents.get(group)?;
        let applied = *replica.group.applied().borrow();
        Some((applied, replica.group.read_stale(KvMachine::digest)))
    }

    /// The groups that have a replica here.
    pub fn groups(&self) -> Vec<GroupId> {
        self.residents.all().into_iter().map(|replica| replica.group.id()).collect()
    }

    /// The state of this node's replica of the controller's group, while it has one.
    pub fn controller(&self) -> Option<GroupStatus> {
        self.controller.group().map(|group| group.status())
    }

    /// The controller's map, as far as this node knows.
    pub fn map(&self) -> Option<Arc<ClusterMap>> {
        self.controller.map().borrow().clone()
    }

    /// Hands the lead of a group over that this node leads.
    ///
    /// # Errors
    /// As the group says; where it is not here, nothing is done.
    pub async fn hand_over(&self, group: GroupId, to: NodeId, time: Duration) -> Result<(), MemberError> {
        match self.residents.get(group) {
            Some(replica) => replica.group.hand_over(Some(to), time).await,
            None => Ok(()),
        }
    }
}
