//! Shards to groups.
//!
//! Each group's quota is its share by weight after Webster's method (Balinski and Young, "Fair Representation",
//! 1982): shards are dealt one by one, each to the group whose weight is largest against twice what it has and one.
//! At equal weights no two quotas differ by more than one. The method was chosen because it is coherent: a group that
//! comes, goes or changes its weight takes from others or gives to them, and no two others exchange anything. By
//! largest remainders they might.
//!
//! Where groups have the same claim to a shard, it goes to one that has it already, so that as few shards change
//! their group as the weights allow: those whose group is gone, and those by which a group exceeds its quota. They go
//! to groups below their quota and nowhere else, so nothing moves between bystanders.

use proto::GroupId;
use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap};

/// A shard as it is placed now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Where it is to be.
    pub target: GroupId,
    /// Where it is served.
    pub owner: GroupId,
    /// Where it was to be before; its target itself where that never changed.
    pub origin: GroupId,
    /// Whether a move of it has started.
    pub moving: bool,
}

/// How many shards each of the groups is to have, given how many of `held` it has; `weights` are from 1.
pub fn quotas(held: &[Held], weights: &BTreeMap<GroupId, u32>) -> BTreeMap<GroupId, usize> {
    let targets = counts(held.iter().map(|held| held.target));
    let homeless = held.iter().filter(|held| !weights.contains_key(&held.target));
    let origins = counts(homeless.map(|held| held.origin));
    let claims = weights.iter().map(|(group, &weight)| {
        let held = count(&targets, group);
        Claim { group: *group, weight, dealt: 0, held, claimed: held + count(&origins, group) }
    });
    let mut claims: BinaryHeap<Claim> = claims.collect();
    for _ in held {
        let Some(mut best) = claims.peek_mut() else { break };
        best.dealt += 1;
    }
    claims.into_iter().map(|claim| (claim.group, claim.dealt)).collect()
}

/// A group's claim to the next shard that is dealt; the greatest gets it.
#[derive(Debug, PartialEq, Eq)]
struct Claim {
    group: GroupId,
    weight: u32,
    /// What it was dealt so far.
    dealt: usize,
    /// How many shards it has.
    held: usize,
    /// The same with those that have lost their group and were its own before.
    claimed: usize,
}

impl Ord for Claim {
    fn cmp(&self, other: &Self) -> Ordering {
        // By weight / (2 · dealt + 1); among equals whoever has the shard already, then whose it was.
        let share = |one: &Self, than: &Self| u128::from(one.weight) * (2 * than.dealt as u128 + 1);
        let rest = |one: &Self| (one.held > one.dealt, one.claimed > one.dealt, Reverse(one.group));
        share(self, other).cmp(&share(other, self)).then_with(|| rest(self).cmp(&rest(other)))
    }
}

impl PartialOrd for Claim {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The groups that the shards are to be in, in the order of `held`. Empty `weights` leave everything where it
/// is.
pub fn assign(held: &[Held], weights: &BTreeMap<GroupId, u32>) -> Vec<GroupId> {
    let mut targets: Vec<GroupId> = held.iter().map(|held| held.target).collect();
    let quotas = quotas(held, weights);
    if quotas.is_empty() {
        return targets;
    }
    let counts = counts(targets.iter().copied());
    let room = quotas.iter().map(|(&group, &quota)| (group, quota.saturating_sub(count(&counts, &group))));
    let mut room = Room(room.filter(|(_, more)| *more > 0).collect());

    let mut movers = Vec::new();
    let mut kept: BTreeMap<GroupId, Vec<usize>> = BTreeMap::new();
    for (shard, held) in held.iter().enumerate() {
        match quotas.contains_key(&held.target) {
            true => kept.entry(held.target).or_default().push(shard),
            false => movers.push(shard),
        }
    }
    for (group, mut kept) in kept {
        let quota = quotas.get(&group).copied().unwrap_or(0);
        let surplus = kept.len().saturating_sub(quota);
        kept.sort_by_key(|&shard| cost(&held[shard], &room));
        movers.extend(&kept[..surplus]);
    }
    movers.sort_unstable();

    // Whoever can go where its data is goes there, then whoever can go back where it was to be before.
    movers.retain(|&shard| !room.admit(held[shard].owner, &mut targets[shard]));
    movers.retain(|&shard| !room.admit(held[shard].origin, &mut targets[shard]));
    for shard in movers {
        let widest =
            room.widest().expect("quotas sum up to all shards, so there is room for each that moves");
        room.admit(widest, &mut targets[shard]);
    }
    targets
}

/// How many shards more each group is to have; from 1.
struct Room(BTreeMap<GroupId, usize>);

impl Room {
    fn has(&self, group: GroupId) -> bool {
        self.0.contains_key(&group)
    }

    /// Sends a shard to `group`, if there is room.
    fn admit(&mut self, group: GroupId, target: &mut GroupId) -> bool {
        let Some(left) = self.0.get_mut(&group) else { return false };
        *target = group;
        *left -= 1;
        if *left == 0 {
            self.0.remove(&group);
        }
        true
    }

    /// The group with most room.
    fn widest(&self) -> Option<GroupId> {
        self.0.iter().max_by_key(|(group, room)| (**room, Reverse(**group))).map(|(&group, _)| group)
    }
}

fn counts(groups: impl Iterator<Item = GroupId>) -> BTreeMap<GroupId, usize> {
    let mut counts = BTreeMap::new();
    groups.for_each(|group| *counts.entry(group).or_default() += 1);
    counts
}

fn count(counts: &BTreeMap<GroupId, usize>, group: &GroupId) -> usize {
    counts.get(group).copied().unwrap_or(0)
}

/// What it costs to send a shard away from its target: nothing where its data is at a group with room, or is
/// still to be copied anyhow; then a copy; most where a copy under way would be lost.
fn cost(held: &Held, room: &Room) -> u8 {
    let due = held.owner != held.target;
    if due && room.has(held.owner) {
        0
    } else if held.moving {
        4
    } else if due {
        1
    } else if room.has(held.origin) {
        2
    } else {
        3
    }
}
