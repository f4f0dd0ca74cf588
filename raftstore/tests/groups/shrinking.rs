//! A machine that loses most of what it held, as when a shard moves away: its disk shrinks with it, though hardly
//! anything is written.

use crate::cluster::{AGREEMENT, Cluster, ELECTION, Settings, address_of, eventually};
use bytes::Bytes;
use proto::{GroupId, NodeId};
use raftstore::{CopyId, CopyStep, Disk, LoadError, Machine, Moment};
use std::collections::BTreeMap;

const LADEN: GroupId = GroupId(8);

/// What each command adds, unless it is "drop": as much as it takes in the log.
const LOAD_BYTES: usize = COMMAND_BYTES;
const COMMAND_BYTES: usize = 1_000;

/// How many commands make a snapshot due that holds most of what is there then: while data grows, each snapshot is
/// three times the one before it.
const COMMANDS: usize = 200;

/// A machine that holds so many bytes of nothing. Its copies are short enough to be made in one go.
#[derive(Default)]
struct Ballast {
    bytes: usize,
    /// What each copy has handed out.
    copies: BTreeMap<CopyId, usize>,
}

impl Machine for Ballast {
    fn apply(&mut self, _: Moment, command: &[u8]) -> Bytes {
        self.bytes = if command == b"drop" { 0 } else { self.bytes + LOAD_BYTES };
        Bytes::new()
    }

    fn time_ms(&self) -> u64 {
        0
    }

    fn copy_bytes(&self) -> u64 {
        self.bytes as u64
    }

    fn copy_begin(&mut self) -> CopyId {
        let id = CopyId(self.copies.last_key_value().map_or(0, |(last, _)| last.0 + 1));
        self.copies.insert(id, 0);
        id
    }

    fn copy_next(&mut self, copy: CopyId, bytes_max: usize) -> CopyStep {
        let handed = self.copies.get_mut(&copy).unwrap();
        let bytes = vec![0; bytes_max.min(self.bytes - *handed)];
        *handed += bytes.len();
        CopyStep { bytes, remaining: (self.bytes - *handed) as u64 }
    }

    fn copy_end(&mut self, copy: CopyId) {
        self.copies.remove(&copy);
    }

    fn load(&mut self, piece: &[u8]) -> Result<(), LoadError> {
        self.bytes += piece.len();
        Ok(())
    }
}

/// Once a machine holds less than half of what its last snapshot takes, another is made, and the disk gets its space
/// back; the log alone would not have grown enough for one in a long time.
#[tokio::test(start_paused = true)]
async fn a_disk_shrinks_with_its_data() {
    let mut settings = Settings::new(1, 182);
    settings.raft.snapshot_log_bytes_min = 20_000;
    settings.raft.log_bytes_kept = 0;
    settings.storage.segment_bytes = 10_000;
    settings.storage.slack_bytes = 10_000;
    let cluster = Cluster::start(settings).await;
    cluster.leader().await;
    let group = cluster.node(1).host.open_group(LADEN, Ballast::default).await.unwrap();
    group.bootstrap(&BTreeMap::from([(NodeId(1), address_of(1))])).await.unwrap();
    group.wait_for_leader(ELECTION).await.unwrap();
    for _ in 0..COMMANDS {
        group.propose(Bytes::from(vec![b'x'; COMMAND_BYTES])).await.unwrap();
    }
    let large = || (group.status().snapshot_bytes >= 100_000).then_some(());
    eventually("a snapshot of most that is there", AGREEMENT, large).await;
    let disk = cluster.rack.disk(1);
    assert!(disk.bytes().unwrap() > 100_000);

    group.propose(Bytes::from_static(b"drop")).await.unwrap();
    let small = || (group.status().snapshot_bytes < 1_000).then_some(());
    eventually("a snapshot of the little that is left", AGREEMENT, small).await;
    let freed = || (disk.bytes().unwrap() < 80_000).then_some(());
    eventually("the disk has its space back", AGREEMENT, freed).await;
    drop(group);
    cluster.end().await;
}
