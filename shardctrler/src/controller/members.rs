//! What groups' leaders report of their members.

use super::birth::{invalid, within};
use super::nodes::stale;
use super::state::{Hint, Reported, State};
use crate::bounds::MEMBERS_MAX;
use proto::{ControllerError, GroupId, MembersReport};
use std::collections::BTreeMap;

impl State {
    /// Takes the report for the group's members, unless a newer one came before; the same again is no change.
    pub(super) fn members_report(
        &mut self,
        report: &MembersReport,
        hints: &mut BTreeMap<GroupId, Hint>,
    ) -> Result<(), ControllerError> {
        let MembersReport { group: id, term, index, ref voters, ref learners, leader } = *report;
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
}
