//! Properties of placement, each held against what is best, found by trying all that there is or by a
//! formula.

use proptest::prelude::*;
use proto::{GroupId, NodeId};
use shardctrler::placement::{Candidates, Held, Site, assign, leaders, place, quotas};
use std::collections::{BTreeMap, BTreeSet};

/// Shards as they lie after some history: targets among groups 0 to 6, of which some are gone.
fn held() -> impl Strategy<Value = Vec<Held>> {
    let shard =
        (0..7_u64, 0..7_u64, 0..7_u64, any::<bool>()).prop_map(|(target, owner, origin, moving)| Held {
            target: GroupId(target),
            owner: GroupId(if moving { owner } else { target }),
            origin: GroupId(origin),
            moving: moving && owner != target,
        });
    prop::collection::vec(shard, 0..60)
}

fn weights(weight: std::ops::Range<u32>) -> impl Strategy<Value = BTreeMap<GroupId, u32>> {
    prop::collection::btree_map((1..9_u64).prop_map(GroupId), weight, 1..6)
}

fn counts(groups: impl IntoIterator<Item = GroupId>) -> BTreeMap<GroupId, usize> {
    let mut counts = BTreeMap::new();
    groups.into_iter().for_each(|group| *counts.entry(group).or_default() += 1);
    counts
}

/// The fewest shards that must change their target so that no two groups differ by more than one: over every
/// choice of the groups that have one more.
fn fewest_moves(held: &[Held], groups: &[GroupId]) -> usize {
    let targets = counts(held.iter().map(|held| held.target));
    let has = |group: &GroupId| targets.get(group).copied().unwrap_or(0);
    let (base, extra) = (held.len() / groups.len(), held.len() % groups.len());
    let choices = (0..1_u32 << groups.len()).filter(|choice| choice.count_ones() as usize == extra);
    let kept = choices.map(|choice| {
        let quota = |i: usize| base + usize::from(choice >> i & 1 == 1);
        (0..groups.len()).map(|i| has(&groups[i]).min(quota(i))).sum::<usize>()
    });
    held.len() - kept.max().expect("there is a choice")
}

proptest! {
    /// At equal weights no group has two shards more than another, and no assignment that is so balanced
    /// moves fewer.
    #[test]
    fn balanced_by_the_fewest_moves(held in held(), weights in weights(3..4)) {
        let after = assign(&held, &weights);
        let count = counts(after.iter().copied());
        let count_of = |group| count.get(group).copied().unwrap_or(0);
        let (least, most) = (weights.keys().map(count_of).min(), weights.keys().map(count_of).max());
        prop_assert!(most <= least.map(|least| least + 1));
        prop_assert_eq!(count.values().sum::<usize>(), held.len());
        let moved = held.iter().zip(&after).filter(|(held, after)| held.target != **after).count();
        prop_assert_eq!(moved, fewest_moves(&held, &weights.keys().copied().collect::<Vec<_>>()));
    }

    /// Shares follow the weights: no group would come closer to its own by taking a shard of another than that one
    /// would move away. Shards move only from groups that are gone or have too many, to groups that have too few:
    /// whoever gives takes nothing.
    #[test]
    fn weighted_and_nothing_between_bystanders(held in held(), weights in weights(1..9)) {
        let after = assign(&held, &weights);
        let before_count = counts(held.iter().map(|held| held.target));
        let count = counts(after.iter().copied());
        let quotas = quotas(&held, &weights);
        for (group, &weight) in &weights {
            let has = count.get(group).copied().unwrap_or(0);
            prop_assert_eq!(has, quotas[group]);
            for (other, &its) in &weights {
                prop_assert!((2 * has as i64 - 1) * i64::from(its) <= (2 * quotas[other] as i64 + 1) * i64::from(weight));
            }
            let had = before_count.get(group).copied().unwrap_or(0);
            let moved = || held.iter().zip(&after).filter(|(held, to)| held.target != **to);
            let took = moved().filter(|(_, to)| *to == group).count();
            let gave = moved().filter(|(held, _)| held.target == *group).count();
            prop_assert_eq!((took, gave), (has.saturating_sub(had), had.saturating_sub(has)));
        }
        prop_assert!(after.iter().all(|group| weights.contains_key(group)));
        let again = held.iter().zip(&after).map(|(held, &target)| Held { target, ..*held });
        prop_assert_eq!(assign(&again.collect::<Vec<_>>(), &weights), after, "what is balanced stays");
    }

    /// Whoever comes, goes or changes its weight gives or takes, and nobody else does both: no shard moves between
    /// bystanders, whatever the weights.
    #[test]
    fn bystanders_exchange_nothing(held in held(), weights in weights(1..9), weight in 1..9_u32, one in 1..9_u64) {
        let one = GroupId(one);
        let again = |targets: &[GroupId]| -> Vec<Held> {
            held.iter().zip(targets).map(|(held, &target)| Held { target, ..*held }).collect()
        };
        let mut changed = weights.clone();
        changed.insert(one, weight);
        for (before, after) in [(&weights, &changed), (&changed, &weights)] {
            let from = assign(&held, before);
            let to = assign(&again(&from), after);
            let mut moved = from.iter().zip(&to).filter(|(from, to)| from != to);
            prop_assert!(moved.all(|(&from, &to)| from == one || to == one), "{from:?} {to:?}");
        }
    }

    /// A group that is added and removed again leaves every shard where it was, whatever the weights.
    #[test]
    fn what_is_undone_is_as_before(shards in 1..200_usize, weights in weights(1..4), weight in 1..4_u32) {
        let fresh = Held { target: GroupId(0), owner: GroupId(0), origin: GroupId(0), moving: false };
        let settled = |targets: &[GroupId], origins: &[GroupId]| -> Vec<Held> {
            let pairs = targets.iter().zip(origins);
            pairs.map(|(&target, &origin)| Held { target, owner: target, origin, moving: false }).collect()
        };
        let before = assign(&vec![fresh; shards], &weights);
        let mut more = weights.clone();
        more.insert(GroupId(99), weight);
        let with = assign(&settled(&before, &before), &more);
        let origins: Vec<GroupId> = before.clone();
        prop_assert_eq!(assign(&settled(&with, &origins), &weights), before);
    }
}

/// By largest remainders, a sixth group's coming sent a shard from group 3 to group 4: found by
/// `what_is_undone_is_as_before`.
#[test]
fn newcomers_move_nothing_between_others() {
    let mut weights: BTreeMap<GroupId, u32> = (1..).map(GroupId).zip([3, 2, 3, 1, 3]).collect();
    let at = |target| Held { target, owner: target, origin: target, moving: false };
    let five = assign(&[at(GroupId(0)); 6], &weights);
    let held: Vec<Held> = five.iter().copied().map(at).collect();
    for (weight, given) in [(1, 0), (2, 1)] {
        weights.insert(GroupId(99), weight);
        let moved = held.iter().zip(assign(&held, &weights)).filter(|(held, to)| held.target != *to);
        assert_eq!(moved.map(|(_, to)| to).collect::<Vec<_>>(), vec![GroupId(99); given]);
    }
}

/// A fourth group takes exactly its share of 256 shards, and gives exactly those back.
#[test]
fn sixty_four_of_256() {
    let weights = |groups: u64| (1..=groups).map(|group| (GroupId(group), 1)).collect::<BTreeMap<_, _>>();
    let at = |target, origin| Held { target, owner: target, origin, moving: false };
    let fresh = vec![at(GroupId(0), GroupId(0)); 256];
    let three = assign(&fresh, &weights(3));
    let four = assign(&three.iter().map(|&target| at(target, target)).collect::<Vec<_>>(), &weights(4));
    let moved: Vec<usize> = (0..256).filter(|&shard| three[shard] != four[shard]).collect();
    assert_eq!(moved.len(), 64);
    assert!(moved.iter().all(|&shard| four[shard] == GroupId(4)));
    let held: Vec<Held> = four.iter().zip(&three).map(|(&target, &origin)| at(target, origin)).collect();
    assert_eq!(assign(&held, &weights(3)), three);
}

/// A shard that has not started to move is sent elsewhere before one whose data would have to be copied, one
/// under way last; and a shard returns where its data is.
#[test]
fn cheap_shards_move_first() {
    let weights: BTreeMap<GroupId, u32> = [(GroupId(1), 1), (GroupId(2), 1)].into();
    let held = |owner, moving| Held { target: GroupId(1), owner: GroupId(owner), origin: GroupId(1), moving };
    let all = [held(3, true), held(1, false), held(3, false), held(2, true)];
    let (one, two) = (GroupId(1), GroupId(2));
    assert_eq!(assign(&all, &weights), [one, one, two, two]);
    assert_eq!(assign(&all[..2], &weights), [one, two]);
}

/// Nodes with zone, weight and fitness, and groups placed on them anyhow.
#[derive(Clone, Debug)]
struct Cluster {
    nodes: BTreeMap<NodeId, (String, u32, bool)>,
    groups: BTreeMap<GroupId, BTreeSet<NodeId>>,
}

impl Cluster {
    fn sites(&self) -> BTreeMap<NodeId, Site<'_>> {
        let site = |(zone, weight, fit): &(String, u32, bool)| (zone.clone(), *weight, *fit);
        assert!(self.nodes.values().all(|node| site(node).1 > 0));
        self.nodes
            .iter()
            .map(|(&id, (zone, weight, fit))| (id, Site { zone, weight: *weight, fit: *fit }))
            .collect()
    }

    fn fit(&self) -> BTreeSet<NodeId> {
        self.nodes.iter().filter(|(_, node)| node.2).map(|(&id, _)| id).collect()
    }

    fn place(&self) -> BTreeMap<GroupId, BTreeSet<NodeId>> {
        place(&self.sites(), &self.groups, 3)
    }

    /// Placed again and again, until nothing changes any more.
    fn settled(&self) -> Self {
        let mut cluster = self.clone();
        for _ in 0..200 {
            let groups = cluster.place();
            if groups == cluster.groups {
                return cluster;
            }
            cluster.groups = groups;
        }
        panic!("placement comes to rest");
    }

    fn loads(&self) -> BTreeMap<NodeId, usize> {
        let mut loads: BTreeMap<NodeId, usize> = self.fit().into_iter().map(|node| (node, 0)).collect();
        self.groups.values().flatten().for_each(|node| *loads.entry(*node).or_default() += 1);
        loads
    }
}

fn cluster(zones: u8, weight: std::ops::Range<u32>) -> impl Strategy<Value = Cluster> {
    let node = (0..zones, weight, prop::bool::weighted(0.8));
    let nodes = prop::collection::btree_map((1..10_u64).prop_map(NodeId), node, 1..9);
    let on = prop::collection::vec(any::<prop::sample::Index>(), 0..4);
    (nodes, prop::collection::vec(on, 1..10)).prop_map(|(nodes, groups)| {
        let ids: Vec<NodeId> = nodes.keys().copied().collect();
        let groups = groups.into_iter().map(|on| on.iter().map(|index| *index.get(&ids)).collect());
        let groups = (1..).map(GroupId).zip(groups).collect();
        let nodes = nodes
            .into_iter()
            .map(|(id, (zone, weight, fit))| (id, (format!("z{zone}"), weight, fit)))
            .collect();
        Cluster { nodes, groups }
    })
}

proptest! {
    /// Every group gets its replicas as far as there are fit nodes; it never shrinks, gives up one replica at
    /// most on a node that is fit, and is given none on one that is not.
    #[test]
    fn groups_have_their_replicas(cluster in cluster(3, 1..4)) {
        let (placed, fit) = (cluster.place(), cluster.fit());
        prop_assert_eq!(&placed, &cluster.place(), "the same again");
        for (group, before) in &cluster.groups {
            let after = &placed[group];
            prop_assert!(after.len() >= before.len() && after.len() <= 3);
            prop_assert!(after.len() == 3 || fit.iter().all(|node| after.contains(node)));
            let unfit = after.difference(&fit).count();
            prop_assert!(unfit == 0 || fit.iter().all(|node| after.contains(node)), "there is another place");
            prop_assert!(before.difference(after).filter(|node| fit.contains(node)).count() <= 1);
            prop_assert!(after.difference(before).all(|node| fit.contains(node)));
        }
    }

    /// At rest replicas are in as many zones as there can be.
    #[test]
    fn zones_are_spread(cluster in cluster(4, 1..4)) {
        let cluster = cluster.settled();
        let zone = |node: &NodeId| cluster.nodes[node].0.clone();
        let zones: BTreeSet<String> = cluster.fit().iter().map(zone).collect();
        for replicas in cluster.groups.values() {
            if replicas.iter().all(|node| cluster.nodes[node].2) {
                let spread: BTreeSet<String> = replicas.iter().map(zone).collect();
                prop_assert_eq!(spread.len(), zones.len().min(replicas.len()));
            }
        }
    }

    /// At rest, in one zone and at equal weights, no fit node has two replicas more than another, unless one
    /// that is not fit has to stand in.
    #[test]
    fn loads_are_even(cluster in cluster(1, 1..2)) {
        let cluster = cluster.settled();
        let fit = cluster.fit();
        if fit.len() >= 3 {
            let loads = cluster.loads();
            let of_fit = || fit.iter().map(|node| loads[node]);
            prop_assert!(of_fit().max() <= of_fit().min().map(|least| least + 1), "{:?}", loads);
        }
    }

    /// A node that joins an even cluster takes its share and nothing else moves: every change is to the new
    /// node.
    #[test]
    fn a_join_moves_to_the_new_node_only(nodes in 3..8_u64, groups in 1..20_u64) {
        let node = |id| (NodeId(id), (String::new(), 1, true));
        let groups = (1..=groups).map(|group| (GroupId(group), BTreeSet::new())).collect();
        let before = Cluster { nodes: (1..=nodes).map(node).collect(), groups }.settled();
        let mut joined = before.clone();
        joined.nodes.extend([node(nodes + 1)]);
        let after = joined.place();
        let mut gained = 0;
        for (group, replicas) in &before.groups {
            for new in after[group].difference(replicas) {
                prop_assert_eq!(*new, NodeId(nodes + 1));
                gained += 1;
            }
        }
        prop_assert_eq!(gained, 3 * before.groups.len() / (nodes as usize + 1));
    }

    /// A node that is fit no more moves only what was on it.
    #[test]
    fn a_death_moves_only_its_own(
        (nodes, groups) in (4..8_u64, 1..20_u64),
        dead in any::<prop::sample::Index>(),
    ) {
        let node = |id| (NodeId(id), (String::new(), 1, true));
        let groups = (1..=groups).map(|group| (GroupId(group), BTreeSet::new())).collect();
        let mut cluster = Cluster { nodes: (1..=nodes).map(node).collect(), groups }.settled();
        let dead = NodeId(1 + dead.index(nodes as usize) as u64);
        cluster.nodes.entry(dead).and_modify(|node| node.2 = false);
        for (group, after) in cluster.place() {
            let before = &cluster.groups[&group];
            let kept: BTreeSet<NodeId> = before.iter().copied().filter(|node| *node != dead).collect();
            prop_assert!(!before.contains(&dead) || after.is_superset(&kept) && !after.contains(&dead));
        }
    }

    /// Weights share out replicas: a node of weight two carries twice as many as one of weight one, give or
    /// take one.
    #[test]
    fn weighted_nodes_carry_more(groups in 1..30_u64) {
        let node = |id| (NodeId(id), (String::new(), if id == 1 { 2 } else { 1 }, true));
        let groups = (1..=groups).map(|group| (GroupId(group), BTreeSet::new())).collect();
        let cluster = Cluster { nodes: (1..=7).map(node).collect(), groups }.settled();
        let loads = cluster.loads();
        let share = 3.0 * cluster.groups.len() as f64 / 8.0;
        prop_assert!((loads[&NodeId(1)] as f64 - 2.0 * share).abs() <= 2.0, "{:?}", loads);
    }
}

fn candidates() -> impl Strategy<Value = BTreeMap<GroupId, Candidates>> {
    let nodes = || prop::collection::btree_set((1..6_u64).prop_map(NodeId), 0..4);
    let group = (nodes(), prop::option::of((1..6_u64).prop_map(NodeId)));
    prop::collection::vec(group, 0..6).prop_map(|groups| {
        let groups = groups.into_iter().map(|(nodes, current)| Candidates { current, nodes });
        (1..).map(GroupId).zip(groups).collect()
    })
}

/// The most even that leaders can be: the least sum of squares over every choice.
fn most_even(groups: &[&Candidates], loads: &mut BTreeMap<NodeId, usize>) -> usize {
    let Some((first, rest)) = groups.split_first() else {
        return loads.values().map(|load| load * load).sum();
    };
    let choices = first.nodes.iter().map(|node| {
        *loads.entry(*node).or_default() += 1;
        let even = most_even(rest, loads);
        loads.entry(*node).and_modify(|load| *load -= 1);
        even
    });
    choices.min().unwrap_or_else(|| most_even(rest, loads))
}

proptest! {
    /// Leaders are as even as the candidates allow, each group is led by a candidate if it has one, and what
    /// is even stays as it is.
    #[test]
    fn leaders_are_as_even_as_can_be(groups in candidates()) {
        let chosen = leaders(&groups);
        for (group, candidates) in &groups {
            prop_assert_eq!(chosen.contains_key(group), !candidates.nodes.is_empty());
            prop_assert!(chosen.get(group).is_none_or(|node| candidates.nodes.contains(node)));
        }
        let mut loads: BTreeMap<NodeId, usize> = BTreeMap::new();
        chosen.values().for_each(|node| *loads.entry(*node).or_default() += 1);
        let squares: usize = loads.values().map(|load| load * load).sum();
        prop_assert_eq!(squares, most_even(&groups.values().collect::<Vec<_>>(), &mut BTreeMap::new()));
        let again = groups.iter().map(|(&group, candidates)| {
            (group, Candidates { current: chosen.get(&group).copied(), ..candidates.clone() })
        });
        prop_assert_eq!(leaders(&again.collect()), chosen);
    }
}
