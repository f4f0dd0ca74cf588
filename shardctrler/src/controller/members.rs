//! What groups' leaders report of their members.

use super::birth::{invalid, within};
use super::nodes::stale;
use super::state::{Group, Hint, Node, OWN, Replicas, Reported, State};
use crate::bounds::MEMBERS_MAX;
use crate::placement;
use proto::{ControllerError, GroupId, MembersReport, NodeId};
use std::collections::{BTreeMap, BTreeSet};

impl State {
    /// Takes the report for the group's members, unless a newer one came before; the same again is no change.
    pub(super) fn members_report(
        &mut self,
        report: &MembersReport,
        hints: &mut BTreeMap<GroupId, Hint>,
    ) -> Result<(), ControllerError> {
        let MembersReport { group: id, term, index, ref voters, ref learners, leader } = *report;
        if id == OWN && !self.groups.contains_key(&OWN) {
            self.found_own(voters, leader);
        }
        let group = self.groups.get_mut(&id).ok_or(ControllerError::UnknownGroup { group: id })?;
        within("voters", voters.len() as u64, MEMBERS_MAX as u64)?;
        within("members", (voters.len() + learners.len()) as u64, MEMBERS_MAX as u64)?;
        if let Some(both) = voters.keys().find(|node| learners.contains_key(node)) {
            return Err(invalid(format!("{both} is reported as voter and as learner")));
        }
        let hint = Hint { term, index, leader };
        let reported = Reported { voters: voters.clone(), learners: learners.clone() };
        if let Some(known) = hints.get(&id) {
            if *known == hint && group.reported.as_ref() == Some(&reported) {
                return Ok(());
            }
            if (known.term, known.index) >= (term, index) {
                return stale(format!(
                    "{id} was seen at t{} i{} before t{term} i{index}",
                    known.term, known.index
                ));
            }
        }
        hints.insert(id, hint);
        group.reported = Some(reported);
        Ok(())
    }

    /// Takes the controller's own group in: its replicas stay with as many of its voters as a group has
    /// replicas, its leader before all others. Births do not name it, so that what was born before it was
    /// placed goes on alike.
    fn found_own(&mut self, voters: &Replicas, leader: Option<NodeId>) {
        let is_here = |(node, disk): &(&NodeId, &_)| {
            self.nodes.get(*node).is_some_and(|node| node.spec.incarnation == **disk)
        };
        let here: BTreeSet<NodeId> = voters.iter().filter(is_here).map(|(node, _)| *node).collect();
        let Some(first) = leader.filter(|leader| here.contains(leader)).or(here.first().copied()) else {
            return;
        };
        let sites = self.sites(Node::is_fit).into_iter().filter(|(node, _)| here.contains(node)).collect();
        let start = BTreeMap::from([(OWN, BTreeSet::from([first]))]);
        let placed = placement::place(&sites, &start, self.settings.replicas as usize);
        let chosen = placed.into_values().flatten();
        let replicas = chosen.filter_map(|node| Some((node, self.nodes.get(&node)?.spec.incarnation)));
        let group = Group { first: voters.clone(), replicas: replicas.collect(), ..Group::founded(1) };
        self.groups.insert(OWN, group);
        self.place_own();
    }
}
