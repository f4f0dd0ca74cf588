//! A node's disk as somebody else has written it: that of a node that ran, with bytes replaced, cut off and
//! added, under checksums that fit or do not. Also what fuzzing runs.

use crate::log::Log;
use crate::panics;
use bytes::Bytes;
use proto::{GroupId, NodeId};
use raftstore::{
    Address, Disk, Fatal, Host, HostConfig, RaftConfig, SimulatedClock, SimulatedDisk, SimulatedNetwork,
    StorageConfig, TransportConfig,
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
    for number in 0..40_u8 {
        group.propose(Bytes::from(vec![number; 60])).await.expect("it is alone");
    }
    host.shutdown().await.expect("nothing has failed");
    disk
}

/// Starts a node on the disk that `input` makes: five bytes each for a change, of which place, how and where.
/// What the node says where it does not start, and otherwise how many bytes its machine holds. Nothing may
/// panic.
pub fn start(input: &[u8]) -> Result<usize, String> {
    let disk = WHOLE.with(|whole| whole.duplicate());
    let mut all = places(&disk);
    let count = all.len();
    for [place, how, at @ .., byte] in input.as_chunks::<5>().0 {
        let place = &mut all[usize::from(*place) % count];
        place.damage(*how, u16::from_le_bytes(*at), *byte);
        if how & 0x80 != 0 {
            place.seal();
        }
        place.write(&disk);
    }
    panics::none_in(|| runtime().block_on(restart(&disk)))
}

async fn restart(disk: &SimulatedDisk) -> Result<usize, String> {
    raftstore::seed(2);
    let host = host(disk).await.map_err(|fatal| fatal.to_string())?;
    let group = host.open_group(GROUP, Log::default).await.map_err(|fatal| fatal.to_string())?;
    let led = tokio::select! {
        led = timeout(ELECTION, group.wait_for_leader(ELECTION)) => {
            led.map_or(Err("no leader".into()), |led| led.map_err(|error| error.to_string()))
        }
        fatal = host.failed() => Err(fatal.to_string()),
    };
    let held = group.read_stale(|log| log.0.len());
    match timeout(ELECTION, host.shutdown()).await {
        Ok(Ok(())) | Err(_) => {}
        Ok(Err(fatal)) => return Err(fatal.to_string()),
    }
    led.map(|_| held)
}
