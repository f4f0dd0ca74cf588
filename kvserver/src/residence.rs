//! Which replicas live on this node: opened and dropped as the controller's map says.
//!
//! Owns the replicas, and what the disk remembers of the other nodes. A replica is opened where the map wants
//! or knows it on this node's present disk. It is dropped only where that costs the group nothing: where its
//! leader, just confirmed by a quorum, says that this node is not a member, or where the whole group has
//! ended. A map may be old, after a start above all, and a report may be behind: neither alone is ever a
//! reason to drop. The controller's own replica, which tells the map where there is one, is kept by the same
//! rules.

use crate::acquaintance::Acquaintance;
use crate::birth::BornWith;
use crate::machine::KvMachine;
use crate::node::CONTROLLER;
use crate::replica::{Bounds, Replica};
use crate::restoration::Restoration;
use proto::{ClusterMap, Epoch, GroupId, GroupView, Incarnation, NodeId, ShardId, ShardSet};
use raftstore::{Address, Disk, Fatal, Group, Host, Member};
use shardctrler::{ControllerHandle, ControllerMachine};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::task::JoinSet;

/// The pause before what could not be done is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How long a leader may take to say who its members are.
const ASK_TIME: Duration = Duration::from_secs(2);

/// The replicas on this node, by group.
#[derive(Default)]
pub(crate) struct Residents(RwLock<BTreeMap<GroupId, Arc<Replica>>>);

impl Residents {
    pub(crate) fn get(&self, group: GroupId) -> Option<Arc<Replica>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&group).cloned()
    }

    /// All of them, in order.
    pub(crate) fn all(&self) -> Vec<Arc<Replica>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub(crate) fn insert(&self, replica: Arc<Replica>) {
        let group = replica.group.id();
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(group, replica);
    }

    fn remove(&self, group: GroupId) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&group);
    }
}

/// The task that keeps the replicas what the map says.
pub(crate) struct Residence {
    pub(crate) host: Arc<Host>,
    pub(crate) controller: Arc<ControllerHandle>,
    pub(crate) residents: Arc<Residents>,
    pub(crate) restoration: Arc<Restoration>,
    pub(crate) bounds: Bounds,
    /// With what the cluster was born, as this node was told or its disk remembers.
    pub(crate) born: BornWith,
    /// What the disk remembers of the cluster.
    pub(crate) known: Option<Acquaintance>,
    pub(crate) disk: Arc<dyn Disk>,
}

/// The groups of data of which this node is to have a replica, as the map wants or knows them on its present
/// disk.
pub(crate) fn expected<'a>(map: &'a ClusterMap, host: &'a Host) -> impl Iterator<Item = GroupId> + 'a {
    let spent: Vec<GroupId> = shardctrler::spent(map).collect();
    let here = map.groups.iter().filter(|view| is_here(view, host));
    here.map(|view| view.group).filter(move |group| *group != CONTROLLER && !spent.contains(group))
}

/// Whether the map wants or knows a replica on this node's present disk.
fn is_here(view: &GroupView, host: &Host) -> bool {
    let (node, incarnation) = (host.node(), host.incarnation());
    let here = |members: &BTreeMap<NodeId, Incarnation>| members.get(&node) == Some(&incarnation);
    here(&view.replicas) || here(&view.voters) || here(&view.learners)
}

impl Residence {
    /// Runs until it is dropped.
    pub(crate) async fn run(mut self) {
        let mut map = self.controller.map();
        let mut births = JoinSet::new();
        loop {
            while births.try_join_next().is_some() {}
            let known = map.borrow_and_update().clone();
            let done = match known {
                Some(map) => {
                    self.restoration.follow(&map);
                    match self.note(&map).await {
                        Ok(()) => self.settle(&map, &mut births).await,
                        Err(fatal) => return self.host.fail(fatal),
                    }
                }
                None => true,
            };
            let changed = async {
                match done {
                    true => map.changed().await,
                    false => tokio::time::timeout(RETRY, map.changed()).await.unwrap_or(Ok(())),
                }
            };
            if changed.await.is_err() {
                return;
            }
        }
    }

    /// Has the disk remember whom the map names, before anything follows from it.
    async fn note(&mut self, map: &ClusterMap) -> Result<(), Fatal> {
        let node = self.host.node();
        if self.controller.was_removed() {
            let why = format!(
                "{node} was removed from the cluster; to have it join again, start it with an empty data directory"
            );
            return Err(Fatal::Config(why));
        }
        check_birth(self.born, map)?;
        // By what follows the disk is new no more: that it waits all the same must be on it before.
        self.restoration.save(&self.disk).await?;
        let before = self.known.as_ref();
        let after = before.cloned().unwrap_or_default().after(map, node, self.controller.named());
        if before != Some(&after) {
            after.save(&self.disk).await?;
            self.known = Some(after);
        }
        if self.known.as_ref().is_some_and(|known| known.named > Epoch(0)) {
            self.controller.remembered();
        }
        Ok(())
    }

    /// Opens and drops; whether nothing is left to do.
    async fn settle(&self, map: &ClusterMap, births: &mut JoinSet<()>) -> bool {
        let wanted: BTreeSet<GroupId> = expected(map, &self.host).collect();
        let mut done = self.settle_controller(map).await;
        for view in map.groups.iter().filter(|view| wanted.contains(&view.group)) {
            if self.residents.get(view.group).is_some() {
                continue;
            }
            match self.open(map, view).await {
                Ok(replica) => drop(births.spawn(async move { replica.give_birth().await })),
                Err(fatal) => {
                    tracing::warn!(group = %view.group, %fatal, "replica could not be opened");
                    done = false;
                }
            }
        }
        // Of a replica that was never added to its group the disk holds nothing.
        let open = self.residents.all().into_iter().map(|replica| replica.group.id());
        let stored = self.host.stored_groups().into_iter().filter(|group| *group != CONTROLLER);
        let held: BTreeSet<GroupId> = stored.chain(open).collect();
        for group in held.difference(&wanted) {
            done &= self.drop_unneeded(map, *group).await;
        }
        done
    }

    /// Opens the controller's replica as a learner, or drops it; whether nothing is left to do. Its first
    /// members open theirs when they start, and as long as the map does not know the group, nobody is to have
    /// another.
    async fn settle_controller(&self, map: &ClusterMap) -> bool {
        let Some(view) = map.groups.iter().find(|view| view.group == CONTROLLER) else { return true };
        let is_open = self.controller.group().is_some();
        match (is_here(view, &self.host), is_open) {
            (true, true) => true,
            (true, false) => match self.host.open_learner(CONTROLLER, ControllerMachine::new).await {
                Ok(group) => {
                    tracing::info!(node = %self.host.node(), group = %CONTROLLER, "replica is open");
                    self.controller.set_group(Some(group));
                    true
                }
                Err(fatal) => {
                    tracing::warn!(group = %CONTROLLER, %fatal, "replica could not be opened");
                    false
                }
            },
            (false, _) if self.host.stored_groups().contains(&CONTROLLER) => {
                self.drop_unneeded(map, CONTROLLER).await
            }
            (false, _) => true,
        }
    }

    /// Opens a replica: as one of the group's first members where it is one and was not replaced since, as a
    /// learner otherwise.
    async fn open(&self, map: &ClusterMap, view: &GroupView) -> Result<Arc<Replica>, Fatal> {
        let (node, incarnation) = (self.host.node(), self.host.incarnation());
        let mut is_first =
            view.first.get(&node) == Some(&incarnation) && view.voters.get(&node) == Some(&incarnation);
        let mut group: Group<KvMachine> = match is_first {
            true => self.host.open_group(view.group, KvMachine::new).await?,
            false => self.host.open_learner(view.group, KvMachine::new).await?,
        };
        if is_first && let Err(refused) = group.bootstrap_pinned(&first_members(map, view)).await {
            if group.is_initialized().await? {
                return Err(refused);
            }
            // It has voted for nobody and holds nothing: the group counts on a replica that this disk had before, and
            // adds this one in its place.
            tracing::info!(%node, group = %view.group, %refused, "replica waits to be added");
            self.host.drop_group(view.group).await?;
            group = self.host.open_learner(view.group, KvMachine::new).await?;
            is_first = false;
        }
        // From here on it knows its members, if it has any.
        group.is_initialized().await?;
        tracing::info!(%node, group = %view.group, is_first, "replica is open");
        let born = if is_first { born_with(map, view.group) } else { ShardSet::default() };
        let replica = Arc::new(Replica::new(group, born, self.bounds));
        self.residents.insert(replica.clone());
        Ok(replica)
    }

    /// Drops a replica where that is safe; whether it was.
    async fn drop_unneeded(&self, map: &ClusterMap, group: GroupId) -> bool {
        let node = self.host.node();
        let view = map.groups.iter().find(|view| view.group == group);
        let ended = match view {
            // Nothing of it is served any more, and it is not asked for again.
            Some(_) if shardctrler::spent(map).any(|spent| spent == group) => true,
            Some(view) => {
                let members = view.voters.keys().filter(|member| **member != node);
                match self.controller.is_member(group, node, members, ASK_TIME).await {
                    Some(false) => true,
                    Some(true) | None => return false,
                }
            }
            // The map may not know it yet.
            None if group == CONTROLLER => return true,
            None => true,
        };
        // Whatever the map says must be what the controller says now.
        if !(ended && self.controller.is_current(map.shard_map.epoch, ASK_TIME).await) {
            return false;
        }
        self.residents.remove(group);
        if group == CONTROLLER {
            self.controller.set_group(None);
        }
        match self.host.drop_group(group).await {
            Ok(()) => {
                tracing::info!(%node, %group, "replica is dropped");
                true
            }
            Err(fatal) => {
                tracing::warn!(%node, %group, %fatal, "replica could not be dropped");
                false
            }
        }
    }
}

/// Whether a node was told the same of its cluster's birth as the others.
///
/// # Errors
/// [`Fatal::Config`] that names what differs.
fn check_birth(born: BornWith, map: &ClusterMap) -> Result<(), Fatal> {
    let (shards, groups) = (map.shard_map.shards, map.groups_at_birth);
    for (field, here, there) in [("shards", born.shards, shards), ("groups", born.groups, groups)] {
        let joined = field == "groups" && here == 0;
        if here != there && !joined {
            return Err(Fatal::Config(format!("{field} is {here} here, the cluster was born with {there}")));
        }
    }
    Ok(())
}

/// The shards that a group was born with, by the one map that all nodes share: those that the map says are its own. One
/// that came to it since is in its log, and is not born again.
fn born_with(map: &ClusterMap, group: GroupId) -> ShardSet {
    let is_born = group.0 <= u64::from(map.groups_at_birth);
    let own = map.shard_map.runs.iter().filter(|run| is_born && run.owner == group);
    own.flat_map(|run| (run.first.0..run.first.0 + run.count).map(ShardId)).collect()
}

/// The first members of a group, where they are reached now.
fn first_members(map: &ClusterMap, view: &GroupView) -> BTreeMap<NodeId, Member> {
    let address = |node: &NodeId| {
        let view = map.nodes.iter().find(|view| view.node == *node);
        view.map(|view| Address { peer: view.spec.peer.clone(), http: view.spec.http.clone() })
            .unwrap_or_default()
    };
    let member = |(node, incarnation): (&NodeId, &Incarnation)| {
        (*node, Member { address: address(node), incarnation: *incarnation })
    };
    view.first.iter().map(member).collect()
}

#[cfg(test)]
mod tests;
