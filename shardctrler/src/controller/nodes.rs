//! Nodes come, go, drain, die, return, and lose their disks.

use super::birth::{invalid, within};
use super::state::{Group, Node, OWN, State};
use crate::bounds::{FORMER_MAX, NODES_MAX};
use crate::membership::has_quorum;
use crate::placement::{self, Candidates, Site};
use proto::{ControllerError, Epoch, GroupId, Incarnation, NodeId, NodeSpec};
use std::collections::{BTreeMap, BTreeSet};

impl Node {
    pub(super) fn new(spec: NodeSpec, since: Epoch) -> Self {
        Self { spec, draining: false, dead: false, since, former: Vec::new() }
    }

    fn site(&self, fit: bool) -> Site<'_> {
        Site { zone: &self.spec.zone, weight: self.spec.weight, fit }
    }
}

impl State {
    pub(super) fn node_join(&mut self, id: NodeId, spec: &NodeSpec) -> Result<(), ControllerError> {
        self.check_spec(id, spec)?;
        let epoch = self.epoch;
        let Some(node) = self.nodes.get_mut(&id) else {
            within("nodes", self.nodes.len() as u64 + 1, NODES_MAX as u64)?;
            self.nodes.insert(id, Node::new(spec.clone(), epoch));
            self.place_replicas();
            return Ok(());
        };
        if node.former.contains(&spec.incarnation) {
            return stale(format!("{id} has lost the disk {}", spec.incarnation));
        }
        let lost = node.spec.incarnation;
        let wiped = lost != spec.incarnation;
        if wiped && !node.dead {
            // Who calls itself so may be another process that was given a number in use.
            return Err(invalid(format!(
                "{id} is in use, on the disk {lost}: another disk takes its place once it was silent for {} ms",
                self.settings.dead_after_ms
            )));
        }
        if wiped {
            node.former.push(lost);
            let forgotten = node.former.len().saturating_sub(FORMER_MAX);
            node.former.drain(..forgotten);
        }
        if wiped || node.dead {
            node.dead = false;
            node.since = epoch;
        }
        node.spec = spec.clone();
        if wiped {
            self.void_replicas(id, spec.incarnation);
        } else {
            self.place_replicas();
        }
        Ok(())
    }

    /// Takes from a node what was on the disk that it lost, then places it anew, maybe there again. A group
    /// for which there is no other place keeps the node, under its new incarnation. Where it was a member it
    /// still is one, on the lost disk, until the group has removed it.
    fn void_replicas(&mut self, id: NodeId, incarnation: Incarnation) {
        let mut sizes = BTreeMap::new();
        for (&group_id, group) in &mut self.groups {
            if group.replicas.remove(&id).is_some() {
                sizes.insert(group_id, group.replicas.len() + 1);
            }
        }
        self.place_replicas();
        for (group, size) in sizes {
            if let Some(group) = self.groups.get_mut(&group).filter(|group| group.replicas.len() < size) {
                group.replicas.insert(id, incarnation);
            }
        }
    }

    pub(super) fn node_drain(&mut self, id: NodeId) -> Result<(), ControllerError> {
        let node = self.nodes.get_mut(&id).ok_or(ControllerError::UnknownNode { node: id })?;
        if node.draining {
            return Ok(());
        }
        node.draining = true;
        let live = self.nodes.values().filter(|node| node.is_fit()).count();
        let disks = self.disks();
        for (&group_id, group) in self.groups.iter().filter(|(_, group)| group.concerns(id)) {
            let needed = group.replicas.len();
            if group.replicas.contains_key(&id) && live < needed {
                return Err(ControllerError::NoPlace { needed: needed as u32, live: live as u32 });
            }
            if !has_quorum(&group.members().0, &disks) {
                return Err(ControllerError::NoQuorum { group: group_id });
            }
        }
        self.place_replicas();
        Ok(())
    }

    pub(super) fn node_undrain(&mut self, id: NodeId) -> Result<(), ControllerError> {
        let node = self.nodes.get_mut(&id).ok_or(ControllerError::UnknownNode { node: id })?;
        if node.draining {
            node.draining = false;
            self.place_replicas();
        }
        Ok(())
    }

    pub(super) fn node_remove(&mut self, id: NodeId) -> Result<(), ControllerError> {
        if !self.nodes.contains_key(&id) {
            return Err(ControllerError::UnknownNode { node: id });
        }
        let replicas = self.groups.values().filter(|group| group.concerns(id)).count() as u32;
        if replicas > 0 {
            return Err(ControllerError::NodeInUse { node: id, replicas });
        }
        self.nodes.remove(&id);
        Ok(())
    }

    /// The driver found a node dead, or alive. A judgement by a map from before the node's last change is
    /// refused: it comes late, or from a driver that has been superseded.
    pub(super) fn node_judged(
        &mut self,
        id: NodeId,
        incarnation: Incarnation,
        judged: Epoch,
        dead: bool,
    ) -> Result<(), ControllerError> {
        let before = Epoch(self.epoch.0 - 1);
        let node = self.nodes.get(&id).ok_or(ControllerError::UnknownNode { node: id })?;
        if judged > before {
            return Err(ControllerError::EpochAhead { current: before });
        }
        if node.spec.incarnation != incarnation {
            return stale(format!("{id} is not on the disk {incarnation}"));
        }
        if node.dead == dead {
            return Ok(());
        }
        if judged < node.since {
            return stale(format!("{id} was judged at {judged}, it has changed at {}", node.since));
        }
        if !dead {
            // Whoever answers under an address that was given to another meanwhile is that other.
            self.check_spec(id, &node.spec)?;
        }
        let since = self.epoch;
        self.nodes.entry(id).and_modify(|node| (node.dead, node.since) = (dead, since));
        self.place_replicas();
        Ok(())
    }

    /// Brings every group's replicas where they belong.
    pub(super) fn place_replicas(&mut self) {
        self.place(|id, _| id != OWN, Node::is_fit);
        self.place_own();
    }

    /// Completes the replicas of new groups on dead nodes where there were too few others: a group that begins with
    /// fewer voters than it is to have may depend on each of their disks, and one of those may be lost already.
    pub(super) fn place_beginners(&mut self, ids: &[GroupId]) {
        let wanted = self.settings.replicas as usize;
        self.place(
            |id, group| ids.contains(&id) && group.replicas.len() < wanted,
            |node| node.dead && !node.draining || node.is_fit(),
        );
    }

    /// Brings the controller's own replicas where they belong. The others are placed as if they were not
    /// there.
    pub(super) fn place_own(&mut self) {
        self.place(|id, _| id == OWN, Node::is_fit);
    }

    /// The nodes as places for replicas, which may be given to those that are `fit`.
    pub(super) fn sites(&self, fit: impl Fn(&Node) -> bool) -> BTreeMap<NodeId, Site<'_>> {
        self.nodes.iter().map(|(&id, node)| (id, node.site(fit(node)))).collect()
    }

    /// Brings the replicas of some groups where they belong.
    fn place(&mut self, which: impl Fn(GroupId, &Group) -> bool, fit: impl Fn(&Node) -> bool) {
        let wanted = self.settings.replicas as usize;
        let groups = self.groups.iter().filter(|(id, group)| which(**id, group));
        let groups = groups.map(|(&id, group)| (id, group.replicas.keys().copied().collect()));
        let placed = placement::place(&self.sites(fit), &groups.collect(), wanted);
        let nodes = &self.nodes;
        for (id, replicas) in placed {
            if let Some(group) = self.groups.get_mut(&id) {
                let incarnation = |node: NodeId| Some((node, nodes.get(&node)?.spec.incarnation));
                group.replicas = replicas.into_iter().filter_map(incarnation).collect();
            }
        }
    }

    /// Chooses who is to lead each group: among its live voters that are to stay; while there are none, among
    /// the replicas that are to be, then among those on nodes that drain. Whoever leads the controller may go
    /// on.
    pub(super) fn prefer_leaders(&mut self) {
        let candidates = |group: &Group| {
            let (voters, _) = group.members();
            let replicas = || group.replicas.keys().copied();
            let votes =
                |node: &NodeId| voters.get(node).is_some_and(|disk| group.replicas.get(node) == Some(disk));
            let fit = |node: &NodeId| self.nodes.get(node).is_some_and(Node::is_fit);
            let live = |node: &NodeId| self.nodes.get(node).is_some_and(|node| !node.dead);
            let choices: [BTreeSet<NodeId>; 3] = [
                replicas().filter(|node| fit(node) && votes(node)).collect(),
                replicas().filter(fit).collect(),
                replicas().filter(live).collect(),
            ];
            choices.into_iter().find(|nodes| !nodes.is_empty())
        };
        let groups = self.data_groups().map(|(&id, group)| {
            let nodes = candidates(group).unwrap_or_default();
            (id, Candidates { current: group.preferred, nodes })
        });
        let leaders = placement::leaders(&groups.collect::<BTreeMap<GroupId, _>>());
        for (id, group) in &mut self.groups {
            group.preferred = leaders.get(id).copied();
        }
    }
}

pub(super) fn stale(why: String) -> Result<(), ControllerError> {
    Err(ControllerError::Stale { why })
}
