//! Whether the groups have got back the votes that they lack for this node's sake: the part of readiness by
//! which whoever exchanges disks may go.
//!
//! A group whose member lost its disk goes on with one voter less, and with one loss less that it survives,
//! until a replica has caught up and was given the vote. A node on a new disk is not ready before that,
//! however well it answers by asking others, nor is one that was started again meanwhile. Once nothing is
//! lacking it stays so: replicas that come to a node in service catch up beside it and take it out of
//! nothing, those of other nodes' lost disks among them, or one lost disk would take every node out of
//! service at once. Must never hold a node up that has the votes itself: it is what the group still has.

use proto::{ClusterMap, GroupId, Incarnation, NodeId};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Restoration {
    node: NodeId,
    disk: Incarnation,
    /// Whether the cluster did not know the disk when this process began. What was on a lost one may be
    /// rebuilt on any node, so every group counts then.
    is_new: bool,
    is_done: AtomicBool,
}

impl Restoration {
    pub(crate) fn new(node: NodeId, disk: Incarnation, is_new: bool) -> Self {
        Self { node, disk, is_new, is_done: AtomicBool::new(false) }
    }

    /// Takes a map's word that nothing is lacking, for as long as this process lives. A map that does not
    /// know this disk yet has no word on it.
    pub(crate) fn follow(&self, map: &ClusterMap) {
        let is_known = disks(map).get(&self.node) == Some(&self.disk);
        if is_known && self.missing(map).is_empty() {
            self.is_done.store(true, Ordering::Relaxed);
        }
    }

    /// What is lacking by a map that knows this disk, group by group, for people.
    pub(crate) fn missing(&self, map: &ClusterMap) -> Vec<String> {
        if self.is_done.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let disks = disks(map);
        let spent: Vec<GroupId> = shardctrler::spent(map).collect();
        let groups = map.groups.iter().filter(|view| !spent.contains(&view.group));
        let lacking = groups.filter_map(|view| {
            let has_vote = view.voters.get(&self.node) == Some(&self.disk);
            // A vote under this number that is not this disk's is that of the one that was lost.
            let is_here = view.replicas.contains_key(&self.node) || view.voters.contains_key(&self.node);
            let voters = view.voters.iter().filter(|(node, disk)| disks.get(node) == Some(disk)).count();
            let wanted = view.replicas.len();
            let is_lacking = !has_vote && (self.is_new || is_here) && voters < wanted;
            is_lacking.then(|| format!("{} has {voters} of {wanted} voters", view.group))
        });
        lacking.collect()
    }
}

/// The disk that each node is on.
fn disks(map: &ClusterMap) -> BTreeMap<NodeId, Incarnation> {
    map.nodes.iter().map(|view| (view.node, view.spec.incarnation)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::{ClusterSettings, Epoch, GroupState, GroupView, NodeSpec, NodeState, NodeView, ShardMap};

    /// Members by node, each with the disk that it is on: the first, or the one after it.
    type Members<'a> = &'a [(u64, u128)];

    fn of(members: Members<'_>) -> BTreeMap<NodeId, Incarnation> {
        members.iter().map(|&(node, disk)| (NodeId(node), Incarnation(disk))).collect()
    }

    fn group(group: u64, replicas: Members<'_>, voters: Members<'_>) -> GroupView {
        GroupView {
            group: GroupId(group),
            state: GroupState::Serving,
            weight: 1,
            first: BTreeMap::new(),
            replicas: of(replicas),
            voters: of(voters),
            learners: BTreeMap::new(),
            leader: None,
            preferred: None,
        }
    }

    fn map(nodes: Members<'_>, groups: Vec<GroupView>) -> ClusterMap {
        let view = |&(node, disk): &(u64, u128)| NodeView {
            node: NodeId(node),
            spec: NodeSpec {
                peer: String::new(),
                http: String::new(),
                zone: String::new(),
                weight: 1,
                incarnation: Incarnation(disk),
            },
            // Who is dead for now has its disk still.
            state: if node == 9 { NodeState::Dead } else { NodeState::Up },
        };
        ClusterMap {
            shard_map: ShardMap { epoch: Epoch(1), shards: 1, runs: vec![] },
            settings: ClusterSettings {
                moves_paused: false,
                copy_bytes_per_second: None,
                moves_max: 1,
                replicas: 3,
                dead_after_ms: 1,
            },
            nodes: nodes.iter().map(view).collect(),
            groups,
            moves: vec![],
            setbacks: vec![],
            groups_at_birth: 1,
        }
    }

    fn node(node: u64, disk: u128, is_new: bool) -> Restoration {
        Restoration::new(NodeId(node), Incarnation(disk), is_new)
    }

    const BEFORE: Members<'_> = &[(1, 1), (2, 1), (3, 1)];
    const WIPED: Members<'_> = &[(1, 1), (2, 1), (3, 2)];

    /// A node on a new disk lacks its votes from the first map that knows the disk until the groups, the
    /// controller's among them, have all their voters again; also where it was started once more meanwhile.
    /// Those that have their votes lack nothing.
    #[test]
    fn a_wiped_node_lacks_its_votes() {
        let lost = map(WIPED, vec![group(0, WIPED, BEFORE), group(1, WIPED, WIPED)]);
        let removed = map(WIPED, vec![group(0, WIPED, &[(1, 1), (2, 1)]), group(1, WIPED, WIPED)]);
        for is_new in [true, false] {
            let wiped = node(3, 2, is_new);
            wiped.follow(&map(BEFORE, vec![group(0, BEFORE, BEFORE)]));
            for short in [&lost, &removed] {
                wiped.follow(short);
                assert_eq!(wiped.missing(short), ["g0 has 2 of 3 voters"]);
            }
        }
        assert!(node(1, 1, false).missing(&removed).is_empty());
        let wiped = node(3, 2, true);
        assert!(wiped.missing(&map(WIPED, vec![group(0, WIPED, WIPED)])).is_empty());
    }

    /// Where a lost replica is rebuilt on another node, the one that lost it waits for that too: by its word
    /// alone the next disk may be taken.
    #[test]
    fn a_wiped_node_waits_for_what_is_rebuilt_elsewhere() {
        let nodes: Members<'_> = &[(1, 1), (2, 1), (3, 2), (4, 1)];
        let elsewhere: Members<'_> = &[(1, 1), (2, 1), (4, 1)];
        let short = map(nodes, vec![group(1, elsewhere, &[(1, 1), (2, 1)])]);
        let whole = map(nodes, vec![group(1, elsewhere, elsewhere)]);
        assert_eq!(node(3, 2, true).missing(&short), ["g1 has 2 of 3 voters"]);
        assert!(node(3, 2, true).missing(&whole).is_empty());
        assert!(node(3, 2, false).missing(&short).is_empty(), "an old disk has no part in the group");
    }

    /// A node in service stays in it, whatever is to be rebuilt on it; and one that comes while every group
    /// has its voters is in service at once, also where it is to take a replica over, or one of them is dead
    /// for now.
    #[test]
    fn catching_up_takes_nobody_out() {
        let nodes: Members<'_> = &[(1, 1), (2, 1), (4, 1), (9, 1)];
        let (old, new): (Members<'_>, Members<'_>) = (&[(1, 1), (2, 1), (9, 1)], &[(1, 1), (2, 1), (4, 1)]);
        let moving = map(nodes, vec![group(1, new, old)]);
        let comes = node(4, 1, true);
        assert!(comes.missing(&moving).is_empty());
        comes.follow(&moving);
        let short = map(nodes, vec![group(1, new, &[(1, 1), (2, 1)])]);
        assert!(comes.missing(&short).is_empty(), "it was in service before");
        assert_eq!(node(4, 1, false).missing(&short), ["g1 has 2 of 3 voters"], "it starts only now");
    }
}
