//! The configuration of one node: one struct, read from a file, then the environment, then flags. This owns the
//! names of the settings, their defaults and what must hold between them; sample.toml and
//! docs/reference/configuration.md explain each, and tests hold both to this struct. It reads no environment
//! itself: `main` hands that in.

mod layers;
mod members;
mod schema;
mod sections;
mod seeds;

pub(crate) use layers::{Layers, load};
pub(crate) use members::Members;
pub(crate) use sections::{Http, Limits, Raft, Storage, Transport};
pub(crate) use seeds::Seeds;

use crate::error::Error;
use kvserver::{Join, NodeConfig};
use proto::{NodeId, SHARDS_MAX};
use raftstore::Address;
use serde::{Deserialize, Serialize};
use shardctrler::bounds::GROUPS_MAX;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

/// Every field documented, with its default: what `flotilla server --sample-config` prints.
pub(crate) const SAMPLE: &str = include_str!("config/sample.toml");

/// All settings of a node. Each field's meaning, unit and reason to change it stand in [`SAMPLE`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// The cluster's name; nodes and data directories of another are refused.
    pub(crate) cluster: String,
    /// This node's id, from 1. It belongs to the data directory and must never change.
    pub(crate) node: u64,
    /// The directory of this node's data; created where absent, never shared.
    pub(crate) data: PathBuf,
    /// `host:port` to take other nodes' connections on.
    pub(crate) peer_listen: String,
    /// `host:port` to take HTTP requests on.
    pub(crate) http_listen: String,
    /// Allows listening beyond loopback without encryption and without any check of who asks.
    pub(crate) insecure: bool,
    /// Peer addresses of nodes of a cluster that runs, which is joined. Empty: this node is among the first.
    pub(crate) join: Seeds,
    /// `host:port` by which other nodes reach this one, where `members` does not say. Empty: as it listens.
    pub(crate) peer_advertise: String,
    /// `host:port` by which clients reach this node, where `members` does not say. Empty: as it listens.
    pub(crate) http_advertise: String,
    /// What fails together with this node.
    pub(crate) zone: String,
    /// How much this node can carry, beside the others.
    pub(crate) weight: u32,
    /// How many data groups the cluster is born with; a data directory refuses another number later.
    pub(crate) groups: u32,
    /// How many shards keys are spread over; fixed when the cluster is born.
    pub(crate) shards: u32,
    /// How other nodes and clients reach each member, this node among them. Empty: a cluster of this node alone.
    pub(crate) members: Members,
    /// How large keys, values and batches may be.
    pub(crate) limits: Limits,
    /// Timing and bounds of the Raft groups.
    pub(crate) raft: Raft,
    /// The log and the snapshots on disk.
    pub(crate) storage: Storage,
    /// Timing and bounds of the connections between nodes.
    pub(crate) transport: Transport,
    /// Bounds of the HTTP front end.
    pub(crate) http: Http,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cluster: "flotilla".into(),
            node: 1,
            data: PathBuf::from("flotilla-data"),
            peer_listen: "127.0.0.1:7201".into(),
            http_listen: "127.0.0.1:7101".into(),
            insecure: false,
            join: Seeds::default(),
            peer_advertise: String::new(),
            http_advertise: String::new(),
            zone: String::new(),
            weight: 1,
            groups: 1,
            shards: proto::SHARDS_DEFAULT,
            members: Members::default(),
            limits: Limits::default(),
            raft: Raft::default(),
            storage: Storage::default(),
            transport: Transport::default(),
            http: Http::default(),
        }
    }
}

impl Config {
    /// Checks what the types cannot say. The message starts with the path of the offending field.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        self.check().map_err(Error::Usage)
    }

    fn check(&self) -> Result<(), String> {
        let name_fits = (1..=64).contains(&self.cluster.len())
            && self.cluster.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        ensure(name_fits, "cluster", || {
            format!("must be 1 to 64 letters, digits, '-', '_' or '.', not \"{}\"", self.cluster)
        })?;
        ensure(self.node > 0, "node", || "must be at least 1, not 0".into())?;
        ensure(!self.data.as_os_str().is_empty(), "data", || "must name a directory, not \"\"".into())?;
        ensure((1..=GROUPS_MAX).contains(&(self.groups as usize)), "groups", || {
            format!("must be 1 to {GROUPS_MAX}, not {}", self.groups)
        })?;
        ensure((1..=SHARDS_MAX).contains(&self.shards), "shards", || {
            format!("must be 1 to {SHARDS_MAX}, not {}", self.shards)
        })?;
        ensure(self.shards >= self.groups, "shards", || {
            format!("must be at least groups, which is {}, not {}", self.groups, self.shards)
        })?;
        ensure(self.zone.len() <= 64, "zone", || {
            format!("must have at most 64 bytes, not {}", self.zone.len())
        })?;
        ensure(self.weight > 0, "weight", || "must be at least 1, not 0".into())?;
        self.check_addresses()?;
        self.check_join()?;
        sections::check(self)
    }

    fn check_addresses(&self) -> Result<(), String> {
        for (field, address) in [("peer_listen", &self.peer_listen), ("http_listen", &self.http_listen)] {
            let (host, port) = split(address).map_err(|why| format!("{field} {why}"))?;
            ensure(port > 0, field, || "needs a port that others know, not 0".into())?;
            ensure(self.insecure || is_loopback(host), field, || {
                format!(
                    "is {address}, which other machines may reach, and this build has neither encryption nor a \
                     check of who asks: whoever reaches it may read and change everything. Listen on 127.0.0.1, \
                     or say insecure = true (--insecure) if the network keeps strangers out"
                )
            })?;
        }
        let mut seen: BTreeMap<&str, NodeId> = BTreeMap::new();
        for (id, Address { peer, http }) in &self.members.0 {
            for (field, address) in [("peer", peer), ("http", http)] {
                let path = format!("members.{}.{field}", id.0);
                let (_, port) = split(address).map_err(|why| format!("{path} {why}"))?;
                ensure(port > 0, &path, || "needs a port that others can connect to, not 0".into())?;
                if let Some(other) = seen.insert(address, *id) {
                    return Err(format!("{path} is {address}, which is already an address of {other}"));
                }
            }
        }
        let named = self.members.0.is_empty() || self.members.0.contains_key(&NodeId(self.node));
        ensure(named, "members", || format!("must name this node too, which is node {}", self.node))
    }
}

impl Config {
    /// A node is among the first or joins them later, and in either case others must be able to reach it.
    fn check_join(&self) -> Result<(), String> {
        let (joins, is_first) = (!self.join.0.is_empty(), !self.members.0.is_empty());
        ensure(!(joins && is_first), "join", || {
            "and members exclude each other: members are those that the cluster is born with, join is for a node that \
             comes later"
                .into()
        })?;
        for seed in &self.join.0 {
            let (_, port) = split(seed).map_err(|why| format!("join {why}"))?;
            ensure(port > 0, "join", || format!("needs a port to connect to, not 0: \"{seed}\""))?;
        }
        for (field, told, listen) in [
            ("peer_advertise", &self.peer_advertise, &self.peer_listen),
            ("http_advertise", &self.http_advertise, &self.http_listen),
        ] {
            if !told.is_empty() {
                ensure(!is_first, field, || "must be left out where members say it".into())?;
                let (_, port) = split(told).map_err(|why| format!("{field} {why}"))?;
                ensure(port > 0, field, || "needs a port that others can connect to, not 0".into())?;
            } else if !is_first {
                let (host, _) = split(listen)?;
                ensure(!is_unspecified(host), field, || {
                    format!("must be said: nobody can reach this node at {listen}, where it listens")
                })?;
            }
        }
        self.check_reach()
    }

    /// A node that others on the network would look for on their own machines never hears from them: it would join, be
    /// given replicas, and be found dead.
    fn check_reach(&self) -> Result<(), String> {
        let own = match self.members.0.get(&NodeId(self.node)) {
            Some(address) => address.clone(),
            None => self.advertised(),
        };
        let others = self.members.0.iter().filter(|(id, _)| id.0 != self.node);
        let mut others = others.map(|(_, address)| &address.peer).chain(&self.join.0);
        let elsewhere = others.find(|peer| split(peer).is_ok_and(|(host, _)| !is_loopback(host)));
        let Some(other) = elsewhere else { return Ok(()) };
        let (peer, http) = match self.members.0.is_empty() {
            true => ("peer_advertise".to_owned(), "http_advertise".to_owned()),
            false => (format!("members.{}.peer", self.node), format!("members.{}.http", self.node)),
        };
        for (field, address, listen) in [(peer, &own.peer, "peer_listen"), (http, &own.http, "http_listen")] {
            let (host, _) = split(address)?;
            ensure(!is_loopback(host) && !is_unspecified(host), &field, || {
                format!(
                    "must be an address of this node that others reach, not {address}: they are on other machines, \
                     as {other} is. Listen where they can connect to ({listen}), and say here by what address"
                )
            })?;
        }
        Ok(())
    }

    /// Where others reach this node, where `members` does not say.
    fn advertised(&self) -> Address {
        let or = |told: &String, listen: &String| if told.is_empty() { listen } else { told }.clone();
        Address {
            peer: or(&self.peer_advertise, &self.peer_listen),
            http: or(&self.http_advertise, &self.http_listen),
        }
    }
}

impl From<&Config> for NodeConfig {
    fn from(config: &Config) -> Self {
        let node = NodeId(config.node);
        let mut members = config.members.0.clone();
        let seeds = config.join.0.clone();
        let join = (!seeds.is_empty()).then(|| Join { seeds, address: config.advertised() });
        if members.is_empty() && join.is_none() {
            members.insert(node, config.advertised());
        }
        Self {
            cluster: config.cluster.clone(),
            node,
            data: config.data.clone(),
            peer_listen: config.peer_listen.clone(),
            http_listen: config.http_listen.clone(),
            members,
            join,
            zone: config.zone.clone(),
            weight: config.weight,
            groups: config.groups,
            shards: config.shards,
            limits: (&config.limits).into(),
            raft: (&config.raft).into(),
            transport: (&config.transport).into(),
            storage: (&config.storage).into(),
            http: (&config.http).into(),
        }
    }
}

/// `field` and `what` where `holds` does not.
fn ensure(holds: bool, field: &str, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(format!("{field} {}", what())) }
}

/// Host and port of `host:port`, an IPv6 host in brackets.
fn split(address: &str) -> Result<(&str, u16), String> {
    proto::split_address(address).ok_or_else(|| format!("must be host:port, not \"{address}\""))
}

/// Whether `host` is no address but stands for all of a machine's.
fn is_unspecified(host: &str) -> bool {
    host.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified())
}

/// Whether nobody but this machine can connect to `host`. Names other than `localhost` count as reachable: what
/// they resolve to is not this file's to promise.
fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn refused(change: impl FnOnce(&mut Config)) -> String {
        let mut config = Config::default();
        change(&mut config);
        config.validate().expect_err("a bad setting").to_string()
    }

    /// The defaults hold together.
    #[test]
    fn defaults_are_valid() {
        Config::default().validate().expect("valid defaults");
    }

    /// The printed sample says exactly what the struct says: the same values for all fields.
    #[test]
    fn sample_equals_defaults() {
        let sample: Config = toml::from_str(SAMPLE).expect("the sample parses");
        assert_eq!(sample, Config::default());
    }

    /// No field is missing from the sample: leaving one out there would be noticed here, not by a reader.
    #[test]
    fn sample_holds_every_field() {
        let sample: toml::Table = SAMPLE.parse().expect("the sample parses");
        for field in schema::fields() {
            let mut at = Some(&toml::Value::Table(sample.clone())).cloned();
            for name in field.path.split('.') {
                at = at.and_then(|value| value.get(name).cloned());
            }
            assert!(at.is_some(), "sample.toml lacks {}", field.path);
        }
    }

    /// Every field has its comment in the sample right above it.
    #[test]
    fn sample_explains_every_field() {
        let lines: Vec<&str> = SAMPLE.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let is_field = line.contains(" = ") && !line.starts_with('#');
            assert!(
                !is_field || lines[at - 1].starts_with("# "),
                "line {} has no explanation: {line}",
                at + 1
            );
        }
    }

    /// The reference page names every field, with its default, and nothing that is no field.
    #[test]
    fn reference_lists_every_field() {
        let page = include_str!("../../docs/reference/configuration.md");
        let rows: BTreeSet<&str> =
            page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
        let fields = schema::fields();
        for field in &fields {
            assert!(rows.contains(field.path.as_str()), "configuration.md lacks {}", field.path);
            let default = format!("`{}` | `{}` |", field.path, field.default);
            assert!(
                field.path == "members" || page.contains(&default),
                "configuration.md should have {default}"
            );
        }
        assert_eq!(rows.len(), fields.len(), "configuration.md has rows that are no fields");
    }

    /// A bad value is refused by the path of its field.
    #[test]
    fn validation_names_the_field() {
        let cases = [
            ("cluster ", refused(|c| c.cluster = "two words".into())),
            ("node ", refused(|c| c.node = 0)),
            ("data ", refused(|c| c.data = PathBuf::new())),
            ("groups ", refused(|c| c.groups = 0)),
            ("groups must be 1 to 1024,", refused(|c| c.groups = 1_025)),
            ("shards ", refused(|c| c.shards = 1 << 20)),
            ("shards ", refused(|c| (c.groups, c.shards) = (8, 4))),
            ("peer_listen ", refused(|c| c.peer_listen = "7201".into())),
            ("http_listen ", refused(|c| c.http_listen = "127.0.0.1:99999".into())),
            ("raft.heartbeat_interval_ms", refused(|c| c.raft.heartbeat_interval_ms = 0)),
            ("limits.batch_bytes_max", refused(|c| c.limits.batch_bytes_max = 10)),
            ("weight ", refused(|c| c.weight = 0)),
            ("zone ", refused(|c| c.zone = "z".repeat(65))),
            ("join ", refused(|c| c.join = "nowhere".parse().expect("seeds"))),
            ("join ", refused(|c| c.join = "a:0".parse().expect("seeds"))),
            (
                "join and members ",
                refused(|c| {
                    c.join = "a:1".parse().expect("seeds");
                    c.members = "1=a:1/a:2".parse().expect("members");
                }),
            ),
            ("http_advertise ", refused(|c| c.http_advertise = "here".into())),
            (
                "peer_advertise ",
                refused(|c| {
                    (c.insecure, c.peer_listen) = (true, "0.0.0.0:7201".into());
                    c.join = "a:1".parse().expect("seeds");
                }),
            ),
            (
                "peer_advertise ",
                refused(|c| {
                    c.peer_advertise = "a:1".into();
                    c.members = "1=a:1/a:2".parse().expect("members");
                }),
            ),
            ("members ", refused(|c| c.members = "2=a:1/a:2".parse().expect("members"))),
            ("members.1.http ", refused(|c| c.members = "1=a:1/a".parse().expect("members"))),
            ("members.2.peer ", refused(|c| c.members = "1=a:1/a:2,2=a:1/a:4".parse().expect("members"))),
            ("members.1.peer ", refused(|c| c.members = "1=a:0/a:2".parse().expect("members"))),
        ];
        for (field, message) in cases {
            assert!(message.starts_with(field), "{field}: {message}");
        }
    }

    /// A node that would tell others an address that is nobody's, or that each takes for itself, is refused with what to
    /// say instead, whether it is alone, among the first, or joins; on one machine loopback is as good as any.
    #[test]
    fn others_can_reach_a_node() {
        let with = |change: &dyn Fn(&mut Config)| {
            let mut config = Config { insecure: true, ..Config::default() };
            change(&mut config);
            config.validate().map_err(|error| error.to_string())
        };
        let far = |c: &mut Config| c.join = "10.0.0.1:7201".parse().expect("seeds");
        let near = |c: &mut Config| c.join = "127.0.0.1:7209".parse().expect("seeds");
        let advertise = |c: &mut Config, peer: &str, http: &str| {
            (c.peer_advertise, c.http_advertise) = (peer.into(), http.into());
        };
        let members = |c: &mut Config, text: &str| c.members = text.parse().expect("members");
        for (field, refused) in [
            ("peer_advertise must be said", with(&|c| c.peer_listen = "0.0.0.0:7201".into())),
            ("http_advertise must be said", with(&|c| c.http_listen = "[::]:7101".into())),
            ("peer_advertise must be an address", with(&far)),
            (
                "http_advertise must be an address",
                with(&|c| {
                    far(c);
                    advertise(c, "10.0.0.4:7201", "localhost:7101");
                }),
            ),
            ("members.1.peer must be", with(&|c| members(c, "1=127.0.0.1:1/a:2,2=b:1/b:2"))),
            ("members.1.http must be", with(&|c| members(c, "1=a:1/0.0.0.0:2,2=b:1/b:2"))),
        ] {
            let why = refused.expect_err(field);
            assert!(why.starts_with(field), "{field}: {why}");
        }
        with(&near).expect("all on this machine");
        with(&|c| members(c, "1=127.0.0.1:1/127.0.0.1:2,2=127.0.0.1:3/127.0.0.1:4")).expect("so are they");
        with(&|c| {
            far(c);
            advertise(c, "10.0.0.4:7201", "10.0.0.4:7101");
        })
        .expect("others reach it");
    }

    /// Beyond loopback a node listens only where it was told so in so many words.
    #[test]
    fn open_addresses_need_insecure() {
        for open in ["0.0.0.0:7101", "[::]:7101", "10.0.0.7:7101", "db.example:7101"] {
            let message = refused(|c| c.http_listen = open.into());
            assert!(message.contains("insecure = true"), "{message}");
            let (http_listen, http_advertise) = (open.into(), "db.example:7101".into());
            let config = Config { http_listen, http_advertise, insecure: true, ..Config::default() };
            config.validate().expect("allowed in so many words");
        }
        for closed in ["127.0.0.1:1", "127.8.8.8:1", "[::1]:1", "localhost:1"] {
            Config { http_listen: closed.into(), ..Config::default() }.validate().expect(closed);
        }
    }
}
