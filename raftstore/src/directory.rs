//! The replicas that run on a node, and how the transport finds them and what else others ask of the node.
//!
//! Must never let two replicas of one group run at once: whoever opens or drops one claims its group first.

use crate::disk::lock;
use crate::error::Fatal;
use crate::formation::Formation;
use crate::group::{Group, READ_INDEX_SERVICE};
use crate::host::Services;
use crate::machine::Machine;
use crate::membership::{self, REPLICA_SERVICE};
use crate::peer;
use crate::transport::{Inbound, Refusal, Replica};
use crate::types::ReplicaId;
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use proto::{GroupId, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;
use tokio::sync::OnceCell;

/// The service number, on the transport's request lane, by which first members ask what each other's disks say of
/// the cluster's beginning.
pub(crate) const FORMATION_SERVICE: u8 = 1;

/// A group of any machine, as far as the host drives it.
pub(crate) trait Hosted: Send + Sync {
    fn group(&self) -> GroupId;
    fn replica(&self) -> Arc<dyn Replica>;
    /// Which replica this is, once it takes part in its group.
    fn replica_id(&self) -> Option<ReplicaId>;
    fn read_index(&self) -> BoxFuture<'static, Bytes>;
    fn hand_over(&self, deadline: Duration) -> BoxFuture<'_, ()>;
    fn shutdown(&self) -> BoxFuture<'_, ()>;
}

impl<M: Machine> Hosted for Group<M> {
    fn group(&self) -> GroupId {
        self.id()
    }

    fn replica(&self) -> Arc<dyn Replica> {
        peer::replica(&self.inner)
    }

    fn replica_id(&self) -> Option<ReplicaId> {
        Group::replica_id(self)
    }

    fn read_index(&self) -> BoxFuture<'static, Bytes> {
        let group = self.clone();
        async move { group.serve_read_index().await }.boxed()
    }

    fn hand_over(&self, deadline: Duration) -> BoxFuture<'_, ()> {
        async move {
            // Who is a quorum alone has nobody to hand it to, and nothing is wrong with that.
            let is_alone = self.status().voters.len() <= 1;
            if is_alone {
                return;
            }
            if let Err(reason) = Group::hand_over(self, None, deadline).await {
                tracing::info!(group = %self.id(), %reason, "leadership was not handed over");
            }
        }
        .boxed()
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Group::shutdown(self).boxed()
    }
}

/// The replicas that run.
#[derive(Default)]
struct Replicas {
    by_group: BTreeMap<GroupId, Arc<dyn Hosted>>,
    /// The same, by what frames for them are addressed to.
    by_mailbox: BTreeMap<GroupId, Arc<dyn Hosted>>,
}

/// What the transport asks; shared with it, so that the host itself is not.
pub(crate) struct Directory {
    replicas: RwLock<Replicas>,
    /// Groups that are being opened or dropped; those that run are not here.
    claimed: Mutex<BTreeSet<GroupId>>,
    services: OnceCell<Arc<dyn Services>>,
    formation: Arc<RwLock<Formation>>,
}

/// The right to open or to drop a group, which one task has at a time.
pub(crate) struct Claim {
    directory: Arc<Directory>,
    group: GroupId,
}

impl Drop for Claim {
    fn drop(&mut self) {
        lock(&self.directory.claimed).remove(&self.group);
    }
}

impl Directory {
    /// One without any replica yet.
    pub(crate) fn new(formation: Formation) -> Arc<Self> {
        Arc::new(Self {
            replicas: RwLock::default(),
            claimed: Mutex::default(),
            services: OnceCell::new(),
            formation: Arc::new(RwLock::new(formation)),
        })
    }

    /// Claims a group until the claim is dropped.
    pub(crate) fn claim(self: &Arc<Self>, group: GroupId) -> Result<Claim, Fatal> {
        if lock(&self.claimed).insert(group) {
            return Ok(Claim { directory: self.clone(), group });
        }
        Err(Fatal::Group { group, why: "it is being opened or dropped already".into() })
    }

    pub(crate) fn formation(&self) -> Formation {
        self.formation.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn hosted(&self, group: GroupId) -> Option<Arc<dyn Hosted>> {
        self.read().by_group.get(&group).cloned()
    }

    /// All replicas that run.
    pub(crate) fn all(&self) -> Vec<Arc<dyn Hosted>> {
        self.read().by_group.values().cloned().collect()
    }

    /// Lists a replica that runs, so that its peers find it.
    pub(crate) fn list<M: Machine>(&self, group: &Group<M>) {
        let (id, hosted): (_, Arc<dyn Hosted>) = (group.id(), Arc::new(group.clone()));
        let mut replicas = self.write();
        replicas.by_mailbox.insert(group.inner.replica.mailbox(id), hosted.clone());
        replicas.by_group.insert(id, hosted);
    }

    /// Takes a replica off the list.
    pub(crate) fn strike(&self, id: GroupId) {
        let mut replicas = self.write();
        replicas.by_group.remove(&id);
        replicas.by_mailbox.retain(|_, hosted| hosted.group() != id);
    }

    /// Takes all replicas off the list.
    pub(crate) fn clear(&self) {
        *self.write() = Replicas::default();
    }

    /// What this disk says of itself and of the cluster's beginning, shared with the groups.
    pub(crate) fn shared_formation(&self) -> Arc<RwLock<Formation>> {
        self.formation.clone()
    }

    pub(crate) fn set_formation(&self, formation: Formation) {
        *self.formation.write().unwrap_or_else(PoisonError::into_inner) = formation;
    }

    /// Sets who answers what is not asked of the groups; whether nobody was set before.
    pub(crate) fn set_services(&self, services: Arc<dyn Services>) -> bool {
        self.services.set(services).is_ok()
    }

    fn read(&self) -> RwLockReadGuard<'_, Replicas> {
        self.replicas.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Replicas> {
        self.replicas.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which replica this node has of the group that is asked for.
    fn replica_id(&self, body: Bytes) -> Result<Bytes, Refusal> {
        let group = membership::asked_group(body);
        let group = group.map_err(|error| Refusal::Unsupported(error.to_string()))?;
        let replica = self.hosted(group).and_then(|hosted| hosted.replica_id());
        let none = || Refusal::Unavailable(format!("this node has no replica of {group}"));
        replica.map(membership::tell_replica).ok_or_else(none)
    }

    fn read_index(&self, body: &[u8]) -> BoxFuture<'static, Result<Bytes, Refusal>> {
        let group = <[u8; 8]>::try_from(body).map(|bytes| GroupId(u64::from_le_bytes(bytes)));
        let hosted = group.map(|group| self.hosted(group));
        async move {
            match hosted {
                Ok(Some(hosted)) => Ok(hosted.read_index().await),
                Ok(None) => Err(Refusal::Unavailable("this node has no replica of that group".into())),
                Err(_) => Err(Refusal::Unsupported("a read index is asked for by a group's id".into())),
            }
        }
        .boxed()
    }
}

impl Inbound for Directory {
    /// Frames are addressed to a replica, not to a group: see the membership module.
    fn replica(&self, mailbox: GroupId) -> Option<Arc<dyn Replica>> {
        let hosted = self.read().by_mailbox.get(&mailbox).cloned()?;
        hosted.replica_id().is_some().then(|| hosted.replica())
    }

    fn call(
        &self,
        from: NodeId,
        service: u8,
        body: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, Refusal>> {
        match (service, self.services.get()) {
            (READ_INDEX_SERVICE, _) => self.read_index(&body),
            (FORMATION_SERVICE, _) => std::future::ready(Ok(self.formation().tell())).boxed(),
            (REPLICA_SERVICE, _) => std::future::ready(self.replica_id(body)).boxed(),
            (_, Some(services)) => services.call(from, service, body, deadline),
            (_, None) => std::future::ready(Err(Refusal::Unavailable("the node is starting".into()))).boxed(),
        }
    }
}
