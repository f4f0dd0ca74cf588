//! Replicas to nodes.
//!
//! Each group's replicas are on distinct nodes that are fit, spread over as many zones as there are, and
//! nodes carry replicas in proportion to their weights. A replica on a node that is not fit is given up only
//! for one that takes its place, so a group never shrinks; and of the replicas on fit nodes a group gives up
//! one at most, so that a change never takes a group's quorum.

use proto::{GroupId, NodeId};
use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet};

/// A node as a place for replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site<'a> {
    /// What fails together with it.
    pub zone: &'a str,
    /// How much it can carry, beside the others; from 1.
    pub weight: u32,
    /// Whether it may be given replicas.
    pub fit: bool,
}

/// Replicas per weight, as a fraction; compares by value.
#[derive(Clone, Copy, Debug)]
struct Load {
    replicas: u64,
    weight: u32,
}

impl Ord for Load {
    fn cmp(&self, other: &Self) -> Ordering {
        let (left, right) = (
            u128::from(self.replicas) * u128::from(other.weight),
            u128::from(other.replicas) * u128::from(self.weight),
        );
        left.cmp(&right)
    }
}

impl PartialOrd for Load {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Load {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Load {}

/// Where the replicas of each group are to be, given where they are; `wanted` of them for each, as far as
/// there are nodes.
pub fn place(
    sites: &BTreeMap<NodeId, Site<'_>>,
    groups: &BTreeMap<GroupId, BTreeSet<NodeId>>,
    wanted: usize,
) -> BTreeMap<GroupId, BTreeSet<NodeId>> {
    let mut placed = groups.clone();
    let mut loads: BTreeMap<NodeId, u64> = sites.keys().map(|&node| (node, 0)).collect();
    for node in groups.values().flatten() {
        *loads.entry(*node).or_default() += 1;
    }
    let mut plan = Plan { sites, loads };
    for replicas in placed.values_mut() {
        plan.repair(replicas, wanted);
    }
    let mut untouched: BTreeSet<GroupId> =
        groups.keys().copied().filter(|id| placed.get(id) == groups.get(id)).collect();
    while let Some(Exchange { group, from, to, .. }) = plan.best_exchange(&placed, &untouched) {
        untouched.remove(&group);
        placed.entry(group).and_modify(|replicas| plan.exchange(replicas, Some(from), to));
    }
    placed
}

/// A replica that would be better off on another node. The smallest is the best: whatever separates most
/// replicas that share a zone, then what goes from the most loaded node to the least loaded one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Exchange {
    /// Replicas in the zone that it goes to, less those in the one that it leaves.
    crowding: i64,
    left: Reverse<Load>,
    joined: Load,
    group: GroupId,
    from: NodeId,
    to: NodeId,
}

impl Exchange {
    fn helps(&self) -> bool {
        self.crowding < 0 || self.crowding == 0 && self.joined < self.left.0
    }
}

/// The sites, and how many replicas each has so far.
struct Plan<'a> {
    sites: &'a BTreeMap<NodeId, Site<'a>>,
    loads: BTreeMap<NodeId, u64>,
}

impl Plan<'_> {
    /// Adds what is missing, then replaces what is not fit: a node that lost its disk may return to where it
    /// was, and must not count as the place of another.
    fn repair(&mut self, replicas: &mut BTreeSet<NodeId>, wanted: usize) {
        let unfit: Vec<NodeId> = replicas.iter().filter(|node| !self.is_fit(node)).copied().collect();
        let missing = wanted.saturating_sub(replicas.len());
        for lost in std::iter::repeat_n(None, missing).chain(unfit.into_iter().map(Some)) {
            let Some(node) = self.best_addition(replicas) else { return };
            self.exchange(replicas, lost, node);
        }
    }

    /// The best exchange that makes things better at all, in one of `groups`.
    fn best_exchange(
        &self,
        placed: &BTreeMap<GroupId, BTreeSet<NodeId>>,
        groups: &BTreeSet<GroupId>,
    ) -> Option<Exchange> {
        let zones = self.ranked_zones();
        let exchanges = groups.iter().filter_map(|group| {
            let replicas =
                placed.get(group).filter(|replicas| replicas.iter().all(|node| self.is_fit(node)))?;
            let free = |ranked: &Vec<NodeId>| ranked.iter().copied().find(|node| !replicas.contains(node));
            let additions: Vec<NodeId> = zones.iter().filter_map(free).collect();
            let pairs = replicas.iter().flat_map(|&from| additions.iter().map(move |&to| (from, to)));
            let exchange = |(from, to)| {
                let crowd = |node| self.crowd(replicas.iter().filter(|other| **other != from), node);
                let (left, joined) = (Reverse(self.load(from, 0)), self.load(to, 1));
                Exchange { crowding: crowd(to) - crowd(from), left, joined, group: *group, from, to }
            };
            pairs.map(exchange).filter(Exchange::helps).min()
        });
        exchanges.min()
    }

    /// The fit nodes of each zone, the least loaded first.
    fn ranked_zones(&self) -> Vec<Vec<NodeId>> {
        let mut zones: BTreeMap<&str, Vec<NodeId>> = BTreeMap::new();
        for (&node, site) in self.sites.iter().filter(|(_, site)| site.fit) {
            zones.entry(site.zone).or_default().push(node);
        }
        zones.values_mut().for_each(|nodes| nodes.sort_by_key(|&node| (self.load(node, 1), node)));
        zones.into_values().collect()
    }

    fn is_fit(&self, node: &NodeId) -> bool {
        self.sites.get(node).is_some_and(|site| site.fit)
    }

    /// The best node for another replica of a group: in the zone with the fewest of its fit ones, then with
    /// the least load.
    fn best_addition(&self, replicas: &BTreeSet<NodeId>) -> Option<NodeId> {
        let free = self.sites.iter().filter(|(node, site)| site.fit && !replicas.contains(node));
        let crowd = |node| self.crowd(replicas.iter().filter(|other| self.is_fit(other)), node);
        free.map(|(&node, _)| node).min_by_key(|&node| (crowd(node), self.load(node, 1), node))
    }

    /// How many of `replicas` share their zone with `node`.
    fn crowd<'r>(&self, replicas: impl Iterator<Item = &'r NodeId>, node: NodeId) -> i64 {
        let zone = |node: &NodeId| self.sites.get(node).map(|site| site.zone);
        replicas.filter(|other| zone(other) == zone(&node)).count() as i64
    }

    /// The load of `node` with so many more replicas.
    fn load(&self, node: NodeId, more: u64) -> Load {
        let replicas = self.loads.get(&node).copied().unwrap_or(0) + more;
        Load { replicas, weight: self.sites.get(&node).map_or(1, |site| site.weight) }
    }

    fn exchange(&mut self, replicas: &mut BTreeSet<NodeId>, lost: Option<NodeId>, gained: NodeId) {
        if let Some(lost) = lost {
            replicas.remove(&lost);
            self.loads.entry(lost).and_modify(|load| *load -= 1);
        }
        replicas.insert(gained);
        *self.loads.entry(gained).or_default() += 1;
    }
}
