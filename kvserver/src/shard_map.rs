//! Which group serves which shard: contiguous ranges, fixed when the cluster is born.

use proto::{GroupId, ShardId, ShardSet};

/// The assignment of a cluster's shards to its groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardMap {
    /// How many shards there are; from 1.
    pub shards: u32,
    /// How many groups hold data, numbered from 1; at most one for each shard. 0 on a node that joined the cluster, for
    /// whom all of them were born long ago.
    pub groups: u32,
}

impl ShardMap {
    /// The group that serves `shard`.
    ///
    /// # Panics
    /// If the shard is not of this map.
    pub fn group_of(&self, shard: ShardId) -> GroupId {
        assert!(shard.0 < self.shards, "shard is of this cluster: {shard} of {}", self.shards);
        GroupId(1 + u64::from(shard.0) * u64::from(self.groups) / u64::from(self.shards))
    }

    /// The group that serves `key`.
    pub fn group_of_key(&self, key: &[u8]) -> GroupId {
        self.group_of(proto::shard_of(key, self.shards))
    }

    /// The shards that `group` serves.
    pub fn shards_of(&self, group: GroupId) -> ShardSet {
        (0..self.shards).map(ShardId).filter(|&shard| self.group_of(shard) == group).collect()
    }

    /// All groups that hold data.
    pub fn group_ids(&self) -> impl Iterator<Item = GroupId> + use<> {
        (1..=u64::from(self.groups)).map(GroupId)
    }

    /// The groups that may hold keys with this prefix: one alone where the part of the key that is hashed lies
    /// within the prefix.
    pub fn groups_of_prefix(&self, prefix: &[u8]) -> impl Iterator<Item = GroupId> + use<> {
        let only = proto::shard_of_prefix(prefix, self.shards).map(|shard| self.group_of(shard).0);
        (only.unwrap_or(1)..=only.unwrap_or(u64::from(self.groups))).map(GroupId)
    }

    /// For each run of shards that one group serves: first shard, last shard, group.
    pub fn ranges(&self) -> Vec<(ShardId, ShardId, GroupId)> {
        let mut ranges: Vec<(ShardId, ShardId, GroupId)> = Vec::new();
        for shard in (0..self.shards).map(ShardId) {
            let group = self.group_of(shard);
            match ranges.last_mut() {
                Some((_, last, of)) if *of == group => *last = shard,
                _ => ranges.push((shard, shard, group)),
            }
        }
        ranges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every group serves as many shards as any other, or one more.
    #[test]
    fn shards_are_spread_evenly() {
        for groups in [1, 2, 3, 7, 256] {
            let map = ShardMap { shards: 256, groups };
            let sizes: Vec<u32> = map.ranges().iter().map(|(first, last, _)| last.0 - first.0 + 1).collect();
            assert_eq!(sizes.len(), groups as usize);
            assert_eq!(sizes.iter().sum::<u32>(), 256);
            assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1);
            assert_eq!(
                map.ranges().iter().map(|range| range.2).collect::<Vec<_>>(),
                map.group_ids().collect::<Vec<_>>()
            );
        }
    }

    /// A prefix that holds the whole of what is hashed leads to the one group of all its keys, any other to all.
    #[test]
    fn prefixes_lead_to_their_groups() {
        let map = ShardMap { shards: 256, groups: 7 };
        let groups = |prefix: &[u8]| map.groups_of_prefix(prefix).collect::<Vec<_>>();
        for prefix in [&b""[..], b"a", b"{a", b"{}", b"}{"] {
            assert_eq!(groups(prefix), map.group_ids().collect::<Vec<_>>(), "{prefix:?}");
        }
        for prefix in [&b"{a}"[..], b"x{a}y", b"{a}{b}"] {
            let key = [prefix, b"/rest"].concat();
            assert_eq!(groups(prefix), [map.group_of_key(&key)], "{prefix:?}");
        }
    }
}
