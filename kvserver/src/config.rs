//! What a node is told at its start: one struct over those of its parts, checked alone and against each other.
//!
//! What one part takes in, every part behind it must be able to carry: a value that the front end accepts has to
//! fit a command, an entry, a frame and the machine's format. Here is the one place that knows them all.

use crate::http;
use crate::machine::bounds::{KEY_BYTES_MAX, SHARDS_MAX, VALUE_BYTES_MAX};
use crate::replica::ANSWER_OVERHEAD;
use crate::router::FRAME_ROOM;
use proto::{Limits, NodeId, ShardId, ShardSet};
use raftstore::{Address, RaftConfig, StorageConfig, TransportConfig};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What a command takes beside its key and value, in bytes: shard, stamp, condition, lengths. The largest is a piece of
/// a shard's copy with one key: what can be written can also be moved.
pub(crate) const COMMAND_OVERHEAD: usize = 96;

/// What an entry takes in a frame beside its commands, or a copy's piece beside its only key and value, in
/// bytes; generous.
const FRAME_OVERHEAD: usize = 64 << 10;

/// The largest piece of a copy that cannot be cut, in bytes. Limits may have been higher once, so it is the
/// format's.
const PIECE_BYTES_MAX: usize = KEY_BYTES_MAX + VALUE_BYTES_MAX;

/// The largest batch that may be configured, in bytes: twice as much is what one message may claim at most.
const BATCH_BYTES_MAX: usize = 32 << 20;

/// The longest address of a member, in bytes.
const ADDRESS_BYTES_MAX: usize = 255;

/// Everything that a node is told at its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// The cluster's name; nodes of other clusters are turned away, and so are their disks.
    pub cluster: String,
    /// This node's id; a key of `members`, unless it joins a cluster that runs.
    pub node: NodeId,
    /// The directory of this node's disk; made where it is missing.
    pub data: PathBuf,
    /// Where to listen for other nodes, `host:port`.
    pub peer_listen: String,
    /// Where to listen for clients, `host:port`.
    pub http_listen: String,
    /// The nodes that the cluster is born with, this one among them, and where others reach them; none for a node that
    /// joins a cluster that runs.
    pub members: BTreeMap<NodeId, Address>,
    /// Which cluster that runs is joined; none for a node that is among the first.
    pub join: Option<Join>,
    /// What fails together with this node: a rack, a building; empty where nobody says.
    pub zone: String,
    /// How much this node can carry, beside the others; from 1.
    pub weight: u32,
    /// How many groups share the shards; the same on every node, fixed when the cluster is born.
    pub groups: u32,
    /// How many shards there are; the same on every node, fixed when the cluster is born.
    pub shards: u32,
    /// How large keys, values and batches may be.
    pub limits: Limits,
    /// How groups behave.
    pub raft: RaftConfig,
    /// How the log and the snapshots are kept.
    pub storage: StorageConfig,
    /// How nodes talk.
    pub transport: TransportConfig,
    /// How the front end behaves.
    pub http: http::Config,
}

/// How a cluster that runs is joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    /// The addresses by which any of its nodes are reached by other nodes, `host:port`; this node's own may be among
    /// them. They are asked until the first one answers. A node that has joined before knows the others by itself, and
    /// asks the seeds only where it does not find them.
    pub seeds: Vec<String>,
    /// Where others reach this node.
    pub address: Address,
}

impl Join {
    /// The seeds but for this node itself: the same list may be given to all nodes.
    pub(crate) fn others(&self) -> impl Iterator<Item = &str> {
        self.seeds.iter().map(String::as_str).filter(|seed| *seed != self.address.peer)
    }
}

impl NodeConfig {
    /// What one of the nodes is told that a cluster is born with: it listens where `members` say that others reach it, and
    /// the rest is what a node has by default. One that `members` lack is refused when it starts.
    pub fn founder(cluster: &str, node: NodeId, members: BTreeMap<NodeId, Address>) -> Self {
        let Address { peer, http } = members.get(&node).cloned().unwrap_or_default();
        Self {
            cluster: cluster.to_owned(),
            node,
            data: PathBuf::new(),
            peer_listen: peer,
            http_listen: http,
            members,
            join: None,
            zone: String::new(),
            weight: 1,
            groups: 1,
            shards: proto::SHARDS_DEFAULT,
            limits: Limits::default(),
            raft: RaftConfig::default(),
            storage: StorageConfig::default(),
            transport: TransportConfig::default(),
            http: http::Config::default(),
        }
    }

    /// Where others reach this node.
    pub(crate) fn address(&self) -> Address {
        let joins = self.join.as_ref().map(|join| &join.address);
        joins.or_else(|| self.members.get(&self.node)).cloned().unwrap_or_default()
    }

    /// Checks the fields alone and against each other.
    ///
    /// # Errors
    /// A sentence that names the field.
    pub fn validate(&self) -> Result<(), String> {
        self.validate_cluster()?;
        self.raft.validate().map_err(|error| error.to_string())?;
        self.storage.validate()?;
        self.transport.validate()?;
        self.validate_limits()?;
        self.validate_frames()?;
        self.http.validate(&self.limits).map_err(|error| error.to_string())
    }

    fn validate_cluster(&self) -> Result<(), String> {
        if self.cluster.is_empty() || self.cluster.len() > 64 {
            return Err(format!("cluster must be a name of 1 to 64 bytes, not {:?}", self.cluster));
        }
        if self.node.0 == 0 {
            return Err("node must be at least 1, not 0".into());
        }
        match &self.join {
            Some(_) if !self.members.is_empty() => {
                return Err("join must be left out where members are given, and the other way round".into());
            }
            Some(join) if join.others().next().is_none() => {
                return Err("join must name another node to ask".into());
            }
            None if !self.members.contains_key(&self.node) => {
                return Err(format!("members must name this node: {} is missing", self.node));
            }
            _ => {}
        }
        if self.zone.len() > shardctrler::bounds::ZONE_BYTES_MAX {
            let most = shardctrler::bounds::ZONE_BYTES_MAX;
            return Err(format!("zone must have at most {most} bytes, not {}", self.zone.len()));
        }
        if self.weight == 0 {
            return Err("weight must be at least 1, not 0".into());
        }
        if self.members.contains_key(&NodeId(0)) {
            return Err("members must have ids of at least 1".into());
        }
        let too_long = |address: &&Address| address.peer.len().max(address.http.len()) > ADDRESS_BYTES_MAX;
        if let Some(address) = self.members.values().find(too_long) {
            return Err(format!(
                "members must have addresses of at most {ADDRESS_BYTES_MAX} bytes: {address}"
            ));
        }
        if let Some(address) = self.join.as_ref().map(|join| &join.address).filter(too_long) {
            return Err(format!("join must have an address of at most {ADDRESS_BYTES_MAX} bytes: {address}"));
        }
        if self.shards == 0 || self.shards > SHARDS_MAX {
            return Err(format!("shards must lie between 1 and {SHARDS_MAX}, not {}", self.shards));
        }
        if self.groups == 0 || self.groups > self.shards {
            return Err(format!(
                "groups must lie between 1 and shards of {}, not {}",
                self.shards, self.groups
            ));
        }
        Ok(())
    }

    /// Limits within what the machine's format stores.
    fn validate_limits(&self) -> Result<(), String> {
        let Limits { key_bytes_max, value_bytes_max, batch_bytes_max } = self.limits;
        for (field, value, most) in [
            ("key_bytes_max", key_bytes_max, KEY_BYTES_MAX),
            ("value_bytes_max", value_bytes_max, VALUE_BYTES_MAX),
            ("batch_bytes_max", batch_bytes_max, BATCH_BYTES_MAX),
        ] {
            if value == 0 || value > most {
                return Err(format!("{field} must lie between 1 and {most}, not {value}"));
            }
        }
        let item = key_bytes_max + value_bytes_max;
        if batch_bytes_max < item {
            return Err(format!(
                "batch_bytes_max must be at least key_bytes_max and value_bytes_max together, {item}, not {batch_bytes_max}"
            ));
        }
        let (command, most) = (item + COMMAND_OVERHEAD, self.raft.command_bytes_max);
        if command > most {
            return Err(format!(
                "key_bytes_max and value_bytes_max must fit command_bytes_max of {most}, not {command}"
            ));
        }
        Ok(())
    }

    /// Frames that carry what the limits let in.
    fn validate_frames(&self) -> Result<(), String> {
        let entry = self.raft.command_bytes_max.max(self.raft.entry_bytes_max).saturating_add(FRAME_OVERHEAD);
        let frame = self.transport.frame_bytes_max;
        if entry > frame {
            return Err(format!(
                "frame_bytes_max must hold an entry of command_bytes_max or entry_bytes_max, {entry}, not {frame}"
            ));
        }
        let piece = PIECE_BYTES_MAX + FRAME_OVERHEAD;
        if piece > frame {
            return Err(format!(
                "frame_bytes_max must hold a key and a value of any size, however old, {piece}, not {frame}"
            ));
        }
        let share = ShardSet::from_iter([ShardId(self.shards - 1)]).encoded_bytes_max();
        let item = self.limits.key_bytes_max + self.limits.value_bytes_max + 2 * ANSWER_OVERHEAD + share;
        let (least, frame) = (item + FRAME_ROOM, self.transport.request_frame_bytes_max);
        if least > frame {
            return Err(format!(
                "request_frame_bytes_max must hold a key and a value of their largest sizes, {least}, not {frame}"
            ));
        }
        Ok(())
    }

    /// What of a message between nodes is for keys and values.
    pub(crate) fn payload_bytes_max(&self) -> usize {
        self.transport.request_frame_bytes_max - FRAME_ROOM
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Change = &'static dyn Fn(&mut NodeConfig);

    fn good() -> NodeConfig {
        let address = Address { peer: "a:1".into(), http: "a:2".into() };
        NodeConfig::founder("test", NodeId(1), BTreeMap::from([(NodeId(1), address)]))
    }

    fn join(seeds: &[&str]) -> Option<Join> {
        let seeds = seeds.iter().map(|seed| (*seed).to_owned()).collect();
        Some(Join { seeds, address: Address::default() })
    }

    /// The defaults hold together, and each contradiction is refused by the field's name, however wild its value.
    #[test]
    fn validation_names_the_field() {
        assert_eq!(good().validate(), Ok(()));
        let with = |change: Change| {
            let mut config = good();
            change(&mut config);
            config.validate().unwrap_err()
        };
        let cases: [(&str, Change); 26] = [
            ("join", &|c| c.join = join(&["a:1"])),
            ("join", &|c| (c.join, c.members) = (join(&[]), BTreeMap::new())),
            ("join", &|c| {
                (c.join, c.members) = (join(&["a:1"]), BTreeMap::new());
                c.join.iter_mut().for_each(|join| join.address.peer = "a:1".into());
            }),
            ("zone", &|c| c.zone = "z".repeat(65)),
            ("weight", &|c| c.weight = 0),
            ("cluster", &|c| c.cluster.clear()),
            ("node", &|c| c.node = NodeId(0)),
            ("members", &|c| c.members.clear()),
            ("members", &|c| drop(c.members.insert(NodeId(0), Address::default()))),
            ("members", &|c| c.members.values_mut().for_each(|address| address.http = "a".repeat(256))),
            ("shards", &|c| c.shards = 0),
            ("shards", &|c| c.shards = SHARDS_MAX + 1),
            ("groups", &|c| c.groups = 257),
            ("key_bytes_max", &|c| c.limits.key_bytes_max = 0),
            ("key_bytes_max", &|c| c.limits.key_bytes_max = KEY_BYTES_MAX + 1),
            ("value_bytes_max", &|c| c.limits.value_bytes_max = usize::MAX),
            ("value_bytes_max", &|c| c.limits.value_bytes_max = 0),
            ("batch_bytes_max", &|c| c.limits.batch_bytes_max = 1 << 20),
            ("batch_bytes_max", &|c| c.limits.batch_bytes_max = usize::MAX),
            ("command_bytes_max", &|c| c.raft.command_bytes_max = 1 << 20),
            ("frame_bytes_max", &|c| c.raft.entry_bytes_max = 8 << 20),
            ("frame_bytes_max", &|c| c.transport.frame_bytes_max = 4 << 20),
            ("request_frame_bytes_max", &|c| c.transport.request_frame_bytes_max = 2 << 20),
            ("segment_bytes", &|c| c.storage.segment_bytes = 0),
            ("heartbeat_interval_ms", &|c| c.raft.heartbeat_interval_ms = 0),
            ("header_bytes_max", &|c| c.limits.key_bytes_max = 12 << 10),
        ];
        for (field, change) in cases {
            let error = with(change);
            assert!(error.contains(field), "{field}: {error}");
        }
    }
}
