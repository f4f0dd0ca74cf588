//! Whom a node knows of its cluster, kept on its disk: so that it finds the others again when its seeds are
//! gone, and knows that it was a member once, should it be one no more.
//!
//! ```text
//! cell "acquaintance"   CRC-32 of what follows u32, little-endian · in the encoding of `proto::encode`: the epoch of a
//!                       map that named this node, 0 where none did · other nodes by id, each with its peer address
//! ```

use crate::birth::offloaded;
use bincode::{Decode, Encode};
use proto::{ClusterMap, Epoch, NodeId};
use raftstore::{Disk, DiskError, Fatal};
use std::collections::BTreeMap;
use std::sync::Arc;

const CELL: &str = "acquaintance";

/// See the [module](self).
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Acquaintance {
    /// The epoch of a map that named this node; it need not be the latest, only earlier than its removal.
    pub(crate) named: Epoch,
    /// Where the other nodes were reached last.
    pub(crate) peers: BTreeMap<NodeId, String>,
}

impl Acquaintance {
    /// What the disk remembers; `None` where it never knew of a cluster that was born.
    ///
    /// # Errors
    /// [`Fatal::Storage`] where the disk fails or its cell is damaged.
    pub(crate) async fn load(disk: &Arc<dyn Disk>) -> Result<Option<Self>, Fatal> {
        offloaded(disk, |disk| disk.read_cell(CELL)?.map(|cell| Self::decode(&cell)).transpose()).await
    }

    /// Makes this what the disk remembers.
    ///
    /// # Errors
    /// [`Fatal::Storage`] where the disk fails.
    pub(crate) async fn save(&self, disk: &Arc<dyn Disk>) -> Result<(), Fatal> {
        let cell = self.encode();
        offloaded(disk, move |disk| disk.write_cell(CELL, &cell)).await
    }

    /// What is known once `map` is, which names `node` where `named` says so. Equal to what was known before
    /// wherever nobody came, went or moved: maps change often, and a disk is not written for each.
    pub(crate) fn after(&self, map: &ClusterMap, node: NodeId, named: Epoch) -> Self {
        let others = map.nodes.iter().filter(|view| view.node != node);
        let peers = others.map(|view| (view.node, view.spec.peer.clone())).collect();
        let first = self.named == Epoch(0);
        Self { named: if first { named } else { self.named }, peers }
    }

    fn encode(&self) -> Vec<u8> {
        let known = proto::encode(self);
        [&crc32fast::hash(&known).to_le_bytes()[..], &known].concat()
    }

    fn decode(cell: &[u8]) -> Result<Self, DiskError> {
        let damaged = |why: String| DiskError::Damaged { what: format!("cell {CELL}"), why };
        let (crc, known) = cell.split_first_chunk().ok_or_else(|| damaged("it is too short".into()))?;
        if u32::from_le_bytes(*crc) != crc32fast::hash(known) {
            return Err(damaged("checksum does not match".into()));
        }
        proto::decode(known).map_err(|error| damaged(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raftstore::SimulatedDisk;

    fn known() -> Acquaintance {
        Acquaintance { named: Epoch(7), peers: BTreeMap::from([(NodeId(2), "a:1".into())]) }
    }

    /// The cell's layout does not drift, and nothing else passes for it.
    #[test]
    fn golden_cell() {
        let cell = known().encode();
        assert_eq!(cell[4..], [1, 7, 1, 2, 3, b'a', b':', b'1']);
        assert_eq!(Acquaintance::decode(&cell).unwrap(), known());
        for bit in 0..cell.len() * 8 {
            let mut flipped = cell.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Acquaintance::decode(&flipped).is_err());
        }
        for length in 0..cell.len() {
            assert!(Acquaintance::decode(&cell[..length]).is_err());
        }
    }

    /// What was saved is there again after a restart, and a new disk knows nobody.
    #[tokio::test]
    async fn a_disk_remembers() {
        let disk: Arc<dyn Disk> = Arc::new(SimulatedDisk::new());
        assert_eq!(Acquaintance::load(&disk).await.unwrap(), None);
        known().save(&disk).await.unwrap();
        assert_eq!(Acquaintance::load(&disk).await.unwrap(), Some(known()));
    }
}
