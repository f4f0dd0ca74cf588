//! From the members that a group has to those that it is to have, one change at a time.
//!
//! A pure function says the next step; whoever leads the group takes it, waits for its end, and reports the
//! members, from which the step after it follows. The order is the one that never risks what a quorum holds:
//!
//! 1. learners that are not wanted, or have lost their disks, are removed: they cost nothing but traffic;
//! 2. a voter that lost its disk is removed: it must not vote with amnesia, nor count as holding what it lost;
//! 3. a learner that has caught up is given a vote, in one joint change with a voter that is not wanted any
//!    more (Raft, section 6), so that the number of voters stays odd;
//! 4. a replica that is missing is added as a learner;
//! 5. voters too many are removed.
//!
//! No step is named that a quorum of live voters could not commit, or after which there would be none.

use proto::{Incarnation, NodeId};
use std::collections::BTreeMap;

/// One change of a group's members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MembershipStep {
    /// Have the node open a replica under this incarnation, and only under this, then add it without a vote.
    AddLearner {
        /// The node.
        node: NodeId,
        /// Which disk of it.
        incarnation: Incarnation,
    },
    /// Once the learner has caught up, give it a vote.
    Promote {
        /// The learner.
        node: NodeId,
        /// The voter that is removed by the same change.
        replacing: Option<NodeId>,
    },
    /// Remove a voter from the group.
    RemoveVoter {
        /// The voter.
        node: NodeId,
    },
    /// Remove a learner from the group.
    RemoveLearner {
        /// The learner.
        node: NodeId,
    },
}

/// The members of a group, each with the disk that its replica is on, as last reported.
#[derive(Clone, Copy, Debug)]
pub struct Members<'a> {
    /// Members with a vote.
    pub voters: &'a BTreeMap<NodeId, Incarnation>,
    /// Members without a vote.
    pub learners: &'a BTreeMap<NodeId, Incarnation>,
    /// Who leads; it is the last to be replaced.
    pub leader: Option<NodeId>,
}

/// A node as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    /// What its disk is.
    pub incarnation: Incarnation,
    /// Whether it is not dead.
    pub live: bool,
}

/// Whether a quorum of `voters` is live, on the disks on which they voted.
pub fn has_quorum(voters: &BTreeMap<NodeId, Incarnation>, disks: &BTreeMap<NodeId, Disk>) -> bool {
    let live = voters.iter().filter(|(node, disk)| is_live(**node, **disk, disks));
    live.count() > voters.len() / 2
}

fn is_live(node: NodeId, incarnation: Incarnation, disks: &BTreeMap<NodeId, Disk>) -> bool {
    disks.get(&node) == Some(&Disk { incarnation, live: true })
}

/// The next step from `members` to `replicas`, given all nodes as they are now.
pub fn next_step(
    replicas: &BTreeMap<NodeId, Incarnation>,
    members: &Members<'_>,
    disks: &BTreeMap<NodeId, Disk>,
) -> Option<MembershipStep> {
    let Members { voters, learners, leader } = *members;
    if replicas.is_empty() || !has_quorum(voters, disks) {
        return None;
    }
    let is_wiped =
        |node: &NodeId, disk: &Incarnation| disks.get(node).is_some_and(|now| now.incarnation != *disk);
    let is_wanted = |node: &NodeId| replicas.contains_key(node);
    let useless = learners.iter().find(|(node, disk)| is_wiped(node, disk) || !is_wanted(node));
    if let Some((&node, _)) = useless {
        return Some(MembershipStep::RemoveLearner { node });
    }
    let remove_voter = |node: NodeId| {
        let mut after = voters.clone();
        after.remove(&node);
        has_quorum(&after, disks).then_some(MembershipStep::RemoveVoter { node })
    };
    if let Some((&node, _)) = voters.iter().find(|(node, disk)| is_wiped(node, disk)) {
        return remove_voter(node);
    }
    // A dead voter is given up before a live one, and the leader last.
    let unwanted = voters.iter().filter(|(node, _)| !is_wanted(node));
    let replacing =
        unwanted.min_by_key(|(node, disk)| (is_live(**node, **disk, disks), leader == Some(**node)));
    let replacing = replacing.map(|(&node, _)| node);
    if let Some((&node, &disk)) = learners.iter().find(|(node, disk)| is_live(**node, **disk, disks)) {
        let mut after = voters.clone();
        after.retain(|voter, _| replacing != Some(*voter));
        after.insert(node, disk);
        return has_quorum(&after, disks).then_some(MembershipStep::Promote { node, replacing });
    }
    let missing = replicas.iter().find(|(node, disk)| {
        !voters.contains_key(node) && !learners.contains_key(node) && is_live(**node, **disk, disks)
    });
    if let Some((&node, &incarnation)) = missing {
        return Some(MembershipStep::AddLearner { node, incarnation });
    }
    replacing.filter(|_| voters.len() > replicas.len()).and_then(remove_voter)
}

#[cfg(test)]
mod tests;
