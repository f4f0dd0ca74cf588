//! A node's disk as somebody else has written it: that of a node that ran, with bytes replaced, cut off and
//! added, under checksums that fit or do not. Also what fuzzing runs.

use crate::log::Log;
use crate::panics;
use bytes::Bytes;
use proto::{GroupId, NodeId};
use raftstore::{
    Address, Disk, Fatal, Host, HostConfig, RaftConfig, ReadError, SimulatedClock, SimulatedDisk,
    SimulatedNetwork, StorageConfig, TransportConfig,
};
use std::cell::LazyCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

const GROUP: GroupId = GroupId(1);
const NODE: NodeId = NodeId(1);
const AT: &str = "10.0.0.1:1";

/// What the node was given to keep, all of it acknowledged.
const COMMANDS: u8 = 40;
const COMMAND_BYTES: usize = 60;
const WRITTEN_BYTES: usize = COMMANDS as usize * COMMAND_BYTES;

/// Small things that a disk keeps by name.
const CELLS: [&str; 3] = ["identity", "formation", "lives"];

/// Longer than a node that is alone takes to lead.
const ELECTION: Duration = Duration::from_secs(10);

/// The longest table that is read at once here: the whole of it.
const TABLE_BYTES_MAX: usize = 64 << 20;

thread_local! {
    /// The disk of a node that has run, with segments, a snapshot and a log behind it.
    static WHOLE: LazyCell<SimulatedDisk> = LazyCell::new(|| runtime().block_on(lived()));
}

fn runtime() -> Runtime {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime can be had")
}

/// What a node does on a disk that somebody else has written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It leads its group, whose machine holds so many bytes.
    Serves(usize),
    /// It says why it does not start, or has stopped.
    Refuses(String),
    /// It runs, and waits for others that it believes to be there.
    Waits,
}

/// What changes to a disk excuse.
#[derive(Clone, Copy, Debug, Default)]
struct Damage {
    /// Something was changed under a checksum that fits: no node can tell that from what it wrote itself.
    sealed: bool,
    /// The last record of the log was changed: no node can tell that from a write that was cut short.
    last: bool,
}

/// Something on the disk that can be changed: where it is, and what stands there.
struct Place {
    table: String,
    /// `None` for a cell.
    key: Option<u64>,
    value: Vec<u8>,
}

fn places(disk: &SimulatedDisk) -> Vec<Place> {
    let mut places = Vec::new();
    for name in CELLS {
        if let Some(value) = disk.read_cell(name).expect("a disk in memory reads") {
            places.push(Place { table: name.into(), key: None, value: value.to_vec() });
        }
    }
    for name in disk.tables().expect("a disk in memory reads") {
        let table = disk.open(&name).expect("it is there");
        for (key, value) in table.scan(0, TABLE_BYTES_MAX).expect("a disk in memory reads") {
            places.push(Place { table: name.clone(), key: Some(key), value: value.to_vec() });
        }
    }
    places
}

/// The last record of the log: its table and its sequence. The values of a record have the same key but for
/// the last two bytes.
fn last_record(places: &[Place]) -> Option<(String, u64)> {
    let logs = places.iter().filter(|place| place.table.starts_with("log-"));
    logs.filter_map(|place| Some((place.table.clone(), place.key? >> 16))).max()
}

impl Place {
    fn write(&self, disk: &SimulatedDisk) {
        let written = match self.key {
            None => disk.write_cell(&self.table, &self.value),
            Some(key) => disk.open(&self.table).and_then(|table| table.put(key, &self.value)),
        };
        written.expect("a disk in memory takes what fits");
    }

    /// Makes the checksum fit what stands there now.
    fn seal(&mut self) {
        let mut hasher = crc32fast::Hasher::new();
        // Where the checksum stands, and what it covers beside all that follows it.
        let at = match (self.key, self.table.strip_prefix("snap-g")) {
            (Some(key), Some(rest)) => {
                let numbers = rest.split(['-', 'p']).filter_map(|number| number.parse::<u64>().ok());
                numbers.take(2).chain([key]).for_each(|number| hasher.update(&number.to_le_bytes()));
                1
            }
            (Some(_), None) => {
                hasher.update(self.value.get(..13).unwrap_or_default());
                13
            }
            (None, _) => 1,
        };
        hasher.update(self.value.get(at + 4..).unwrap_or_default());
        if let Some(crc) = self.value.get_mut(at..at + 4) {
            crc.copy_from_slice(&hasher.finalize().to_le_bytes());
        }
    }

    /// Replaces a byte, cuts the value off there, or adds to its end.
    fn damage(&mut self, how: u8, at: u16, byte: u8) {
        let at = usize::from(at) % (self.value.len() + 1);
        match how % 4 {
            0 => self.value.truncate(at),
            1 => self.value.push(byte),
            _ if at == self.value.len() => {}
            _ => self.value[at] = byte,
        }
    }
}

fn config(at: &str) -> HostConfig {
    let raft = RaftConfig { snapshot_log_bytes_min: 500, log_bytes_kept: 0, ..RaftConfig::default() };
    let storage = StorageConfig { segment_bytes: 2_000, slack_bytes: 4_000, ..StorageConfig::default() };
    let (cluster, transport) = ("c".into(), TransportConfig::default());
    HostConfig { cluster, node: NODE, listen: at.into(), raft, storage, transport }
}

async fn host(disk: &SimulatedDisk) -> Result<Arc<Host>, Fatal> {
    let network = SimulatedNetwork::new().host("10.0.0.1");
    let clock = Arc::new(SimulatedClock::starting_at(1));
    Host::start(config(AT), Arc::new(disk.clone()), network, clock).await
}

async fn lived() -> SimulatedDisk {
    raftstore::seed(1);
    let disk = SimulatedDisk::new();
    let host = host(&disk).await.expect("a new node starts");
    let members = BTreeMap::from([(NODE, Address { peer: AT.into(), http: String::new() })]);
    host.form(&members).await.expect("it is alone");
    let group = host.open_group(GROUP, Log::default).await.expect("a group opens");
    group.bootstrap(&members).await.expect("it is alone");
    for number in 0..COMMANDS {
        group.propose(Bytes::from(vec![number; COMMAND_BYTES])).await.expect("it is alone");
    }
    host.shutdown().await.expect("nothing has failed");
    disk
}

/// Starts a node on the disk that `input` makes: five bytes each for a change, of which place, how and where.
///
/// Nothing may panic or hang, and what the node had acknowledged must be there where it serves, unless the
/// changes are such as it cannot tell from its own.
pub fn start(input: &[u8]) -> Outcome {
    let disk = WHOLE.with(|whole| whole.duplicate());
    let mut all = places(&disk);
    let (count, last) = (all.len(), last_record(&all));
    let mut damage = Damage::default();
    for [place, how, at @ .., byte] in input.as_chunks::<5>().0 {
        let place = &mut all[usize::from(*place) % count];
        place.damage(*how, u16::from_le_bytes(*at), *byte);
        damage.last |= last == place.key.map(|key| (place.table.clone(), key >> 16));
        if how & 0x80 != 0 {
            place.seal();
            damage.sealed = true;
        }
        place.write(&disk);
    }
    let outcome = panics::none_in(|| runtime().block_on(restart(&disk)));
    let lost = if damage.last { COMMAND_BYTES } else { 0 };
    match &outcome {
        _ if damage.sealed => {}
        Outcome::Serves(held) => assert!(
            (WRITTEN_BYTES - lost..=WRITTEN_BYTES).contains(held),
            "{held} bytes of {WRITTEN_BYTES} are there, {damage:?}"
        ),
        Outcome::Refuses(why) => assert!(!why.is_empty()),
        Outcome::Waits => panic!("it neither serves nor says why it does not, {damage:?}"),
    }
    outcome
}

async fn restart(disk: &SimulatedDisk) -> Outcome {
    raftstore::seed(2);
    let refuses = |fatal: Fatal| Outcome::Refuses(fatal.to_string());
    let host = match host(disk).await {
        Ok(host) => host,
        Err(fatal) => return refuses(fatal),
    };
    let group = match host.open_group(GROUP, Log::default).await {
        Ok(group) => group,
        Err(fatal) => return refuses(fatal),
    };
    let served = async {
        group.wait_for_leader(ELECTION).await?;
        let held = timeout(ELECTION, group.read(|log| log.0.len()));
        held.await.unwrap_or(Err(ReadError::NoQuorum(GROUP)))
    };
    let outcome = tokio::select! {
        biased;
        fatal = host.failed() => refuses(fatal),
        served = served => match served {
            Ok(held) => Outcome::Serves(held),
            Err(ReadError::Stopped(_)) => refuses(host.failed().await),
            Err(_) => Outcome::Waits,
        },
    };
    match timeout(ELECTION, host.shutdown()).await.expect("a node shuts down, whatever it has read") {
        Ok(()) => outcome,
        Err(fatal) => refuses(fatal),
    }
}
