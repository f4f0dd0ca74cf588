//! What a node tells about the cluster and itself: the JSON of `/v1/cluster` and `/v1/status`. Field names are
//! part of the HTTP API; they may be added to, never renamed.

use serde::{Deserialize, Serialize};

/// The nodes, groups and shards: all that a client needs to send a request straight to its leader.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterView {
    /// The cluster's name, fixed when it is born.
    pub cluster: String,
    /// The version of the map that this is told by; 0 where the node has not heard of one yet.
    #[serde(default)]
    pub epoch: u64,
    /// How many shards there are, fixed when it is born.
    pub shards: u32,
    /// What this node accepts.
    pub limits: ClusterLimits,
    /// The nodes, by id.
    pub nodes: Vec<ClusterNode>,
    /// The groups, by id.
    pub groups: Vec<ClusterGroup>,
    /// `[first_shard, last_shard, group]` ranges, ascending; together they cover every shard.
    pub shard_groups: Vec<(u32, u32, u64)>,
}

/// How large things may be, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterLimits {
    /// The longest key.
    pub key_bytes_max: usize,
    /// The longest value.
    pub value_bytes_max: usize,
    /// The largest batch, all keys and values together.
    pub batch_bytes_max: usize,
}

/// A node's address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterNode {
    /// The node's id.
    pub id: u64,
    /// `host:port` of its HTTP front end.
    pub http: String,
}

/// Who leads a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterGroup {
    /// The group's id.
    pub id: u64,
    /// The leader's node, as far as this node knows.
    pub leader: Option<u64>,
    /// The term that this belongs to.
    pub term: u64,
    /// Whether the group serves, as far as this node knows; see [`GroupStatus::serving`]. Of a group of which it
    /// has no replica it knows only whether it has heard of a leader.
    pub serving: bool,
    /// The nodes that hold a replica.
    pub replicas: Vec<u64>,
}

/// A node and its replicas, at a glance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The node's id.
    pub id: u64,
    /// The cluster's name.
    pub cluster: String,
    /// The release that runs.
    pub version: String,
    /// Milliseconds since the node started.
    pub uptime_ms: u64,
    /// Bytes that the data directory takes.
    pub disk_bytes: u64,
    /// Bytes of memory that the process takes (its resident set).
    pub memory_rss_bytes: u64,
    /// The replicas on this node, by group.
    pub groups: Vec<GroupStatus>,
    /// The moves that this node drives, as the leader of where they go, by shard.
    #[serde(default)]
    pub moves: Vec<MoveStatus>,
    /// The last moves that ended here, the latest last.
    #[serde(default)]
    pub ended_moves: Vec<EndedMoveStatus>,
}

/// How far a move has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveStatus {
    /// The shard.
    pub shard: u32,
    /// Where it is.
    pub from: u64,
    /// Where it goes.
    pub to: u64,
    /// The move's id.
    pub id: u64,
    /// `waiting`, `copying`, `paused`, `freezing`, `activating`, `giving up` or `reporting`.
    pub phase: String,
    /// Bytes of the present copy that this node took in.
    pub copied_bytes: u64,
    /// About how many bytes of it are left; 0 before that is known.
    pub remaining_bytes: u64,
    /// How many copies this node has begun.
    pub copies: u32,
    /// How many milliseconds this node has driven it.
    pub took_ms: u64,
}

/// How a move ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndedMoveStatus {
    /// The shard.
    pub shard: u32,
    /// Where it was.
    pub from: u64,
    /// Where it was to go.
    pub to: u64,
    /// The move's id.
    pub id: u64,
    /// Why it was given up; none where the shard arrived.
    pub aborted: Option<String>,
    /// Bytes that this node took in with the last copy.
    pub copied_bytes: u64,
    /// How many copies this node had begun.
    pub copies: u32,
    /// How many milliseconds this node had driven it.
    pub took_ms: u64,
    /// Microseconds from asking the source to freeze the shard until it was served here; none where this node did not
    /// see both.
    pub freeze_pause_us: Option<u64>,
    /// How many microseconds ago that was; none where `freeze_pause_us` is.
    pub served_us_ago: Option<u64>,
}

/// One replica.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupStatus {
    /// The group's id.
    pub id: u64,
    /// What this replica is to the group.
    pub role: Role,
    /// The replica's term.
    pub term: u64,
    /// The leader's node, as far as this replica knows.
    pub leader: Option<u64>,
    /// Whether the group serves, as far as this replica knows: it has recovered, holds the shards that the group is
    /// born with, and a quorum confirmed the leader of late. A leader that lost its quorum goes on being a leader, and so do followers that hear of no other.
    pub serving: bool,
    /// How many milliseconds ago this replica was known to be as fresh as a leader that a quorum confirmed; on the
    /// leader, when that was. None where it never was since the start.
    pub lag_ms: Option<u64>,
    /// The last index in the log.
    pub last_index: u64,
    /// The last index known to be committed; `committed_index <= last_index` once a replica has caught up.
    pub committed_index: u64,
    /// The last index that the machine has applied; `applied_index <= committed_index`.
    pub applied_index: u64,
    /// How far each follower has come; only a leader knows.
    pub followers: Vec<FollowerStatus>,
    /// The last snapshot, where there is one.
    pub snapshot: Option<SnapshotStatus>,
    /// Bytes of the group's log.
    pub log_bytes: u64,
    /// Keys that exist.
    pub keys: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
    /// Client sessions that are remembered.
    pub sessions: u64,
}

/// What a replica is to its group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Orders the group's writes.
    Leader,
    /// Votes, and applies what the leader commits.
    Follower,
    /// Stands for election.
    Candidate,
    /// Applies what the leader commits, without a vote.
    Learner,
    /// Does not run: starting, stopping or failed.
    #[default]
    Stopped,
}

/// A follower, as its leader sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowerStatus {
    /// The follower's node.
    pub node: u64,
    /// The last index known to be on its disk.
    pub matched_index: u64,
    /// How many entries it is behind the leader's last.
    pub lag_entries: u64,
}

/// A snapshot on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotStatus {
    /// The last index that it covers.
    pub index: u64,
    /// Its size.
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The cluster's JSON is what clients were built against.
    #[test]
    fn golden_cluster() {
        let view = ClusterView {
            cluster: "home".into(),
            epoch: 7,
            shards: 256,
            limits: ClusterLimits { key_bytes_max: 4, value_bytes_max: 5, batch_bytes_max: 9 },
            nodes: vec![ClusterNode { id: 1, http: "127.0.0.1:7101".into() }],
            groups: vec![
                ClusterGroup { id: 1, leader: Some(1), term: 3, serving: true, replicas: vec![1, 2, 3] },
                ClusterGroup { id: 2, leader: None, term: 0, serving: false, replicas: vec![1] },
            ],
            shard_groups: vec![(0, 255, 1)],
        };
        let golden = r#"{"cluster":"home","epoch":7,"shards":256,"limits":{"key_bytes_max":4,"value_bytes_max":5,"batch_bytes_max":9},"nodes":[{"id":1,"http":"127.0.0.1:7101"}],"groups":[{"id":1,"leader":1,"term":3,"serving":true,"replicas":[1,2,3]},{"id":2,"leader":null,"term":0,"serving":false,"replicas":[1]}],"shard_groups":[[0,255,1]]}"#;
        assert_eq!(serde_json::to_string(&view).unwrap(), golden);
        assert_eq!(serde_json::from_str::<ClusterView>(golden).unwrap(), view);
    }
}
