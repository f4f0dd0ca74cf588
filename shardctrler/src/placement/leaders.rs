//! Leaders to replicas.
//!
//! Nodes lead as many groups as any other, or one more, as far as the replicas' places allow. Starting from
//! the leaders as they are, leadership is shifted along shortest chains (from a node to another that holds a
//! replica of a group that it leads) from nodes that lead too many to nodes that lead two fewer; when no such
//! chain is left, no other choice is more even (Harvey, Ladner, Lovász, Tamir: Semi-matchings for bipartite
//! graphs and load balancing).

use proto::{GroupId, NodeId};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Who may lead a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Candidates {
    /// Who is to lead it so far.
    pub current: Option<NodeId>,
    /// Who can.
    pub nodes: BTreeSet<NodeId>,
}

/// Who is to lead each group; nobody for a group without candidates.
pub fn leaders(groups: &BTreeMap<GroupId, Candidates>) -> BTreeMap<GroupId, NodeId> {
    let mut loads: BTreeMap<NodeId, usize> = BTreeMap::new();
    for node in groups.values().flat_map(|group| &group.nodes) {
        loads.entry(*node).or_default();
    }
    let mut leaders = BTreeMap::new();
    for (&group, candidates) in groups {
        if let Some(current) = candidates.current.filter(|node| candidates.nodes.contains(node)) {
            leaders.insert(group, current);
            *loads.entry(current).or_default() += 1;
        }
    }
    for (&group, candidates) in groups {
        let least = candidates.nodes.iter().copied().min_by_key(|node| (loads.get(node).copied(), *node));
        if let (false, Some(least)) = (leaders.contains_key(&group), least) {
            leaders.insert(group, least);
            *loads.entry(least).or_default() += 1;
        }
    }
    while let Some(chain) = chain(groups, &leaders, &loads) {
        for (group, to) in chain {
            if let Some(from) = leaders.insert(group, to) {
                loads.entry(from).and_modify(|load| *load -= 1);
            }
            *loads.entry(to).or_default() += 1;
        }
    }
    leaders
}

/// Groups and their new leaders, by which the first node of the chain leads one group fewer, the last one
/// more, and those between as many as before.
fn chain(
    groups: &BTreeMap<GroupId, Candidates>,
    leaders: &BTreeMap<GroupId, NodeId>,
    loads: &BTreeMap<NodeId, usize>,
) -> Option<Vec<(GroupId, NodeId)>> {
    let mut led: BTreeMap<NodeId, Vec<GroupId>> = BTreeMap::new();
    for (&group, &node) in leaders {
        led.entry(node).or_default().push(group);
    }
    let least = loads.values().min().copied()?;
    let starts = loads.iter().filter(|(_, load)| **load >= least + 2);
    let mut starts: Vec<(NodeId, usize)> = starts.map(|(&node, &load)| (node, load)).collect();
    starts.sort_by_key(|(node, load)| (Reverse(*load), *node));
    starts.into_iter().find_map(|(start, load)| {
        // How each node was reached: from where, and by which group.
        let mut reached: BTreeMap<NodeId, Option<(NodeId, GroupId)>> = BTreeMap::from([(start, None)]);
        let mut queue = VecDeque::from([start]);
        while let Some(node) = queue.pop_front() {
            if loads.get(&node).is_some_and(|other| other + 2 <= load) {
                return Some(back(&reached, node));
            }
            for group in led.get(&node).into_iter().flatten() {
                for next in groups.get(group).into_iter().flat_map(|group| &group.nodes) {
                    if !reached.contains_key(next) {
                        reached.insert(*next, Some((node, *group)));
                        queue.push_back(*next);
                    }
                }
            }
        }
        None
    })
}

/// The chain that ends at `node`, in any order: each step stands for itself.
fn back(reached: &BTreeMap<NodeId, Option<(NodeId, GroupId)>>, mut node: NodeId) -> Vec<(GroupId, NodeId)> {
    let mut chain = Vec::new();
    while let Some(Some((from, group))) = reached.get(&node) {
        chain.push((*group, node));
        node = *from;
    }
    chain
}
