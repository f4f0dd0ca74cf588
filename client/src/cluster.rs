//! The cluster as a node describes it (`GET /v1/cluster`): pure data, checked once on arrival.

use proto::{GroupId, Limits, NodeId, SHARDS_MAX, ShardId, shard_of, split_address};
use serde::Deserialize;

/// More nodes or groups than this are refused.
const MEMBERS_MAX: usize = 1 << 14;

/// Which nodes there are, what each group consists of, and which group holds which shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// The cluster's name.
    pub name: String,
    /// The version of the map that the node told; 0 where it told none. Of two maps the later one is right.
    pub epoch: u64,
    /// The number of shards, fixed when the cluster was born.
    pub shards: u32,
    /// What it accepts, by the word of the node that described it. Larger keys, values and batches are not sent.
    pub limits: Limits,
    /// Its nodes, by id.
    pub nodes: Vec<Node>,
    /// Its data groups, by id.
    pub groups: Vec<Group>,
    /// `shard_groups[s]` is the group that holds shard `s`; one for each shard.
    pub shard_groups: Vec<GroupId>,
}

/// A node of a [`Cluster`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// Where its HTTP front end listens, `host:port`.
    pub http: String,
}

/// A group of a [`Cluster`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its id.
    pub id: GroupId,
    /// Who leads it, as far as the answering node knows.
    pub leader: Option<NodeId>,
    /// The term in which that was known.
    pub term: u64,
    /// The nodes that hold a replica.
    pub replicas: Vec<NodeId>,
}

#[derive(Deserialize)]
struct WireCluster {
    cluster: String,
    #[serde(default)]
    epoch: u64,
    shards: u32,
    /// A node that does not say has the defaults.
    #[serde(default)]
    limits: WireLimits,
    nodes: Vec<WireNode>,
    groups: Vec<WireGroup>,
    shard_groups: Vec<(u32, u32, u64)>,
}

#[derive(Deserialize)]
#[serde(default)]
struct WireLimits {
    key_bytes_max: usize,
    value_bytes_max: usize,
    batch_bytes_max: usize,
}

impl Default for WireLimits {
    fn default() -> Self {
        let Limits { key_bytes_max, value_bytes_max, batch_bytes_max } = Limits::default();
        Self { key_bytes_max, value_bytes_max, batch_bytes_max }
    }
}

#[derive(Deserialize)]
struct WireNode {
    id: u64,
    http: String,
}

#[derive(Deserialize)]
struct WireGroup {
    id: u64,
    leader: Option<u64>,
    term: u64,
    replicas: Vec<u64>,
}

impl Cluster {
    /// The cluster that `json` describes, or what is wrong with the description.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, String> {
        let wire: WireCluster = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        if !(1..=SHARDS_MAX).contains(&wire.shards) {
            return Err(format!("number of shards is out of bounds: {}", wire.shards));
        }
        if wire.nodes.is_empty() || wire.nodes.len().max(wire.groups.len()) > MEMBERS_MAX {
            return Err(format!("number of nodes or groups is out of bounds: {}", wire.nodes.len()));
        }
        let mut nodes = Vec::with_capacity(wire.nodes.len());
        for node in wire.nodes {
            nodes.push(Node { id: NodeId(node.id), http: address(&node.http)? });
        }
        nodes.sort_by_key(|node| node.id);
        let mut groups: Vec<Group> = wire.groups.into_iter().map(Group::from).collect();
        groups.sort_by_key(|group| group.id);
        let shard_groups = spread(wire.shards, &wire.shard_groups)?;
        let WireLimits { key_bytes_max, value_bytes_max, batch_bytes_max } = wire.limits;
        let limits = Limits { key_bytes_max, value_bytes_max, batch_bytes_max };
        let WireCluster { cluster: name, epoch, shards, .. } = wire;
        Ok(Self { name, epoch, shards, limits, nodes, groups, shard_groups })
    }

    /// The shard that `key` belongs to.
    pub fn shard_of(&self, key: impl AsRef<[u8]>) -> ShardId {
        shard_of(key.as_ref(), self.shards)
    }

    /// The group that holds `shard`.
    ///
    /// # Panics
    /// If `shard` is not below [`shards`](Self::shards).
    pub fn group_of(&self, shard: ShardId) -> GroupId {
        self.shard_groups[shard.0 as usize]
    }

    /// The group called `id`.
    pub fn group(&self, id: GroupId) -> Option<&Group> {
        self.groups.binary_search_by_key(&id, |group| group.id).ok().map(|at| &self.groups[at])
    }
}

impl From<WireGroup> for Group {
    fn from(wire: WireGroup) -> Self {
        Self {
            id: GroupId(wire.id),
            leader: wire.leader.map(NodeId),
            term: wire.term,
            replicas: wire.replicas.into_iter().map(NodeId).collect(),
        }
    }
}

/// One group for each shard, from ranges that must cover every shard once.
fn spread(shards: u32, ranges: &[(u32, u32, u64)]) -> Result<Vec<GroupId>, String> {
    let mut groups = vec![None; shards as usize];
    for &(first, last, group) in ranges {
        if first > last || last >= shards {
            return Err(format!("shard range is out of bounds: {first} to {last}"));
        }
        for slot in &mut groups[first as usize..=last as usize] {
            if slot.replace(GroupId(group)).is_some() {
                return Err(format!("shard range overlaps another: {first} to {last}"));
            }
        }
    }
    let all: Option<Vec<GroupId>> = groups.into_iter().collect();
    all.ok_or_else(|| "shard ranges leave a gap".to_owned())
}

/// `host:port` from `host:port` or `http://host:port`, with or without a slash at the end.
pub(crate) fn address(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.starts_with("https://") {
        return Err(format!("this build does not speak TLS: {text}"));
    }
    let bare = text.strip_prefix("http://").unwrap_or(text);
    let bare = bare.strip_suffix('/').unwrap_or(bare);
    split_address(bare).map(|_| bare.to_owned()).ok_or_else(|| format!("expected host:port: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"cluster":"c","epoch":9,"shards":4,"nodes":[{"id":2,"http":"h2:7102"},{"id":1,"http":"h1:7101"}],
        "groups":[{"id":1,"leader":null,"term":3,"replicas":[1,2]},{"id":2,"leader":2,"term":1,"replicas":[2]}],
        "shard_groups":[[2,3,2],[0,1,1]]}"#;

    /// A description in any order becomes ordered data with one group for each shard.
    #[test]
    fn parses_what_nodes_answer() {
        let cluster = Cluster::parse(GOOD.as_bytes()).expect("a good description");
        assert_eq!(cluster.nodes[0], Node { id: NodeId(1), http: "h1:7101".into() });
        assert_eq!(cluster.shard_groups, [1, 1, 2, 2].map(GroupId));
        assert_eq!(cluster.group(GroupId(2)).and_then(|group| group.leader), Some(NodeId(2)));
        assert_eq!(cluster.group(GroupId(9)), None);
        assert_eq!(cluster.epoch, 9);
        let untold = GOOD.replace("\"epoch\":9,", "");
        assert_eq!(Cluster::parse(untold.as_bytes()).expect("a good description").epoch, 0);
    }

    /// Limits are those that the node says, each the default where it does not.
    #[test]
    fn limits_are_the_nodes() {
        let limits = |json: &str| Cluster::parse(json.as_bytes()).expect("a good description").limits;
        assert_eq!(limits(GOOD), Limits::default());
        let said = GOOD.replacen("\"shards\"", "\"limits\":{\"value_bytes_max\":7},\"shards\"", 1);
        assert_eq!(limits(&said), Limits { value_bytes_max: 7, ..Limits::default() });
    }

    /// Gaps, overlaps, ranges and counts out of bounds are refused with the reason.
    #[test]
    fn refuses_maps_that_do_not_cover_each_shard_once() {
        for (from, to, reason) in [
            ("[2,3,2],[0,1,1]", "[0,1,1]", "gap"),
            ("[2,3,2],[0,1,1]", "[0,3,1],[3,3,2]", "overlaps"),
            ("[2,3,2]", "[2,4,2]", "out of bounds"),
            ("[2,3,2]", "[3,2,2]", "out of bounds"),
            ("\"shards\":4", "\"shards\":0", "out of bounds"),
            ("h1:7101", "h1", "expected host:port"),
        ] {
            let json = GOOD.replace(from, to);
            let error = Cluster::parse(json.as_bytes()).expect_err("a bad description");
            assert!(error.contains(reason), "{error}");
        }
    }

    /// Seeds may be given as addresses or as plain HTTP URLs, nothing else.
    #[test]
    fn addresses() {
        assert_eq!(address("http://127.0.0.1:7101/").as_deref(), Ok("127.0.0.1:7101"));
        assert_eq!(address("[::1]:7101").as_deref(), Ok("[::1]:7101"));
        for bad in ["", "localhost", ":80", "h:port", "https://h:1", "http://h:1/path", "u@h:1"] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }
}
