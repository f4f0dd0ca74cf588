//! Groups come and go, and shards are balanced over them.

use super::birth::{invalid, within};
use super::state::{Group, Hint, OWN, Shard, State};
use crate::bounds::{GROUP_ID_MAX, GROUPS_MAX};
use crate::placement;
use proto::{ControllerError, GroupId, GroupState, NewGroups, ShardId};
use std::collections::{BTreeMap, BTreeSet};

impl Shard {
    pub(super) fn born(group: GroupId) -> Self {
        Self { owner: group, target: group, origin: group, arrived: None }
    }
}

impl State {
    pub(super) fn group_add(&mut self, groups: &NewGroups, weight: u32) -> Result<(), ControllerError> {
        within("weight", u64::from(weight), u64::from(u32::MAX))?;
        let asked = match groups {
            NewGroups::Count(count) => u64::from(*count),
            NewGroups::Ids(ids) => ids.len() as u64,
        };
        within("new groups", asked, GROUPS_MAX as u64)?;
        let last = self.group_last.0;
        let ids = match groups {
            NewGroups::Count(_) => (last + 1..=last + asked).map(GroupId).collect(),
            NewGroups::Ids(ids) => ids.clone(),
        };
        let (mut new, mut returning) = (BTreeSet::new(), BTreeSet::new());
        for id in ids {
            match self.groups.get(&id) {
                // Of one that is spent the nodes drop the replicas, as soon as they hear of it.
                Some(group) if group.state == GroupState::Leaving && !self.is_spent(id) => {
                    returning.insert(id)
                }
                _ if id > self.group_last => new.insert(id),
                _ => return Err(ControllerError::GroupIdUsed { group: id }),
            };
        }
        for id in returning {
            if let Some(group) = self.groups.get_mut(&id) {
                group.state = GroupState::Serving;
                group.weight = weight;
            }
        }
        self.found_groups(new.into_iter(), weight)?;
        self.balance_shards();
        Ok(())
    }

    /// Makes groups that own nothing yet, and places their replicas.
    pub(super) fn found_groups(
        &mut self,
        ids: impl Iterator<Item = GroupId>,
        weight: u32,
    ) -> Result<(), ControllerError> {
        let ids: Vec<GroupId> = ids.collect();
        for &id in &ids {
            within("group id", id.0, GROUP_ID_MAX)?;
            self.groups.insert(id, Group::founded(weight));
            self.group_last = self.group_last.max(id);
        }
        within("groups", self.data_groups().count() as u64, GROUPS_MAX as u64)?;
        self.place_replicas();
        let has_place = |id| self.groups.get(id).is_some_and(|group| !group.replicas.is_empty());
        if !ids.iter().all(has_place) {
            return Err(ControllerError::NoPlace { needed: 1, live: 0 });
        }
        self.place_beginners(&ids);
        for id in &ids {
            if let Some(group) = self.groups.get_mut(id) {
                group.first = group.replicas.clone();
            }
        }
        Ok(())
    }

    pub(super) fn group_remove(&mut self, id: GroupId) -> Result<(), ControllerError> {
        refuse_own(id)?;
        let serving = self.data_groups().filter(|(_, group)| group.state == GroupState::Serving).count();
        let group = self.groups.get_mut(&id).ok_or(ControllerError::UnknownGroup { group: id })?;
        if group.state == GroupState::Leaving {
            return Ok(());
        }
        if serving == 1 {
            return Err(ControllerError::LastGroup { group: id });
        }
        group.state = GroupState::Leaving;
        self.balance_shards();
        Ok(())
    }

    pub(super) fn group_gone(
        &mut self,
        id: GroupId,
        hints: &mut BTreeMap<GroupId, Hint>,
    ) -> Result<(), ControllerError> {
        if !self.groups.contains_key(&id) {
            return Err(ControllerError::UnknownGroup { group: id });
        }
        if !self.is_spent(id) {
            return Err(ControllerError::GroupInUse { group: id });
        }
        self.groups.remove(&id);
        hints.remove(&id);
        self.place_replicas();
        Ok(())
    }

    pub(super) fn group_weight(&mut self, id: GroupId, weight: u32) -> Result<(), ControllerError> {
        within("weight", u64::from(weight), u64::from(u32::MAX))?;
        self.serving_group(id)?.weight = weight;
        self.balance_shards();
        Ok(())
    }

    /// The group of that id, if it serves.
    pub(super) fn serving_group(&mut self, id: GroupId) -> Result<&mut Group, ControllerError> {
        refuse_own(id)?;
        match self.groups.get_mut(&id) {
            Some(group) if group.state == GroupState::Serving => Ok(group),
            Some(_) => Err(ControllerError::GroupLeaving { group: id }),
            None => Err(ControllerError::UnknownGroup { group: id }),
        }
    }

    /// Gives every group that serves its share of shards.
    pub(super) fn balance_shards(&mut self) {
        let serving = self.data_groups().filter(|(_, group)| group.state == GroupState::Serving);
        let weights = serving.map(|(&id, group)| (id, group.weight)).collect();
        let held =
            self.shards.iter().zip(0..).map(|(shard, id)| shard.held(self.moves.contains_key(&ShardId(id))));
        let targets = placement::assign(&held.collect::<Vec<_>>(), &weights);
        for (shard, target) in (0..).zip(targets) {
            self.retarget(ShardId(shard), target);
        }
    }

    /// The shard of that id.
    pub(super) fn shard(&mut self, id: ShardId) -> Result<&mut Shard, ControllerError> {
        self.shards.get_mut(id.0 as usize).ok_or(ControllerError::UnknownShard { shard: id })
    }

    /// Sends a shard to `target`; what hindered it on its way elsewhere counts no more.
    pub(super) fn retarget(&mut self, id: ShardId, target: GroupId) {
        if let Some(shard) = self.shards.get_mut(id.0 as usize).filter(|shard| shard.target != target) {
            shard.origin = std::mem::replace(&mut shard.target, target);
            self.setbacks.remove(&id);
        }
    }
}

impl Group {
    pub(super) fn founded(weight: u32) -> Self {
        Self {
            state: GroupState::Serving,
            weight,
            first: BTreeMap::new(),
            replicas: BTreeMap::new(),
            reported: None,
            preferred: None,
        }
    }
}

/// Refuses what is asked of the controller's own group as if it held data.
fn refuse_own(id: GroupId) -> Result<(), ControllerError> {
    match id {
        OWN => Err(invalid(format!("{id} is the controller's own: it serves no shards and never leaves"))),
        _ => Ok(()),
    }
}
