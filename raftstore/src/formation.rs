//! How a cluster comes into being, and why a node that lost its disk does not vote as if nothing had happened.
//!
//! At its first start a node draws an *incarnation*. Before it votes for anything it asks every other first
//! member for theirs and writes them all down: the cluster is *formed*, as far as this node is concerned. A
//! node that has formed tells anyone who asks which incarnation it knows of him. So a node whose disk was lost
//! comes back under a new incarnation, meets at least one member that remembers the old one, and stays out:
//! its votes and acknowledged entries went with the disk, and voting anew could lose what others were told is
//! safe. Until a node has formed, its peers find no replica on it.
//!
//! ```text
//! cell "formation"   version u8 (1) · CRC-32 of what follows u32 · incarnation u64 · formed u8 (0 or 1) ·
//!                    members u16 · per member: node u64, incarnation u64
//! question           node u64 · incarnation u64
//! answer             incarnation u64 · remembered u8 · incarnation remembered of the asker u64
//! ```

use crate::codec::{Malformed, take_u8, take_u16, take_u32, take_u64};
use crate::disk::{Disk, offload};
use crate::error::Fatal;
use crate::runtime::random;
use bytes::{BufMut, Bytes, BytesMut};
use proto::NodeId;
use rand::Rng;
use std::collections::BTreeMap;
use std::sync::Arc;

const CELL: &str = "formation";
const VERSION: u8 = 1;

/// What a node's disk says of the cluster's beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Formation {
    /// Drawn once, when the disk was new.
    pub(crate) incarnation: u64,
    /// The first members' incarnations, once all were heard; never changed after that.
    pub(crate) members: Option<BTreeMap<NodeId, u64>>,
}

/// What a first member answers another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Acquaintance {
    /// The incarnation of the member that answers.
    pub(crate) incarnation: u64,
    /// The incarnation that it wrote down for the asker, where it has formed.
    pub(crate) remembered: Option<u64>,
}

impl Formation {
    /// Reads the disk's word, or begins a new incarnation on a disk that has none.
    pub(crate) async fn load(disk: &Arc<dyn Disk>) -> Result<Self, Fatal> {
        let storage = |why: String| Fatal::Storage(why);
        let cell = {
            let disk = disk.clone();
            let read = offload(&disk.clone(), async move { disk.read_cell(CELL) }).await;
            read.and_then(|cell| cell).map_err(|error| storage(error.to_string()))?
        };
        if let Some(cell) = cell {
            return Self::decode(cell).map_err(|error| storage(format!("cell {CELL} is damaged: {error}")));
        }
        let formation = Self { incarnation: random().next_u64(), members: None };
        formation.save(disk).await?;
        Ok(formation)
    }

    /// Makes this the disk's word.
    pub(crate) async fn save(&self, disk: &Arc<dyn Disk>) -> Result<(), Fatal> {
        let (cell, disk) = (self.encode(), disk.clone());
        let written = offload(&disk.clone(), async move { disk.write_cell(CELL, &cell) }).await;
        written.and_then(|written| written).map_err(|error| Fatal::Storage(error.to_string()))
    }

    fn encode(&self) -> Bytes {
        let mut rest = BytesMut::new();
        rest.put_u64_le(self.incarnation);
        rest.put_u8(u8::from(self.members.is_some()));
        let members = self.members.iter().flatten();
        let count = self.members.as_ref().map_or(0, BTreeMap::len);
        rest.put_u16_le(u16::try_from(count).expect("a cluster is born with fewer than 65,536 nodes"));
        for (node, incarnation) in members {
            rest.put_u64_le(node.0);
            rest.put_u64_le(*incarnation);
        }
        let mut cell = BytesMut::with_capacity(1 + 4 + rest.len());
        cell.put_u8(VERSION);
        cell.put_u32_le(crc32fast::hash(&rest));
        cell.put_slice(&rest);
        cell.freeze()
    }

    fn decode(mut cell: Bytes) -> Result<Self, Malformed> {
        let what = "formation";
        let refuse = |why| Err(Malformed { what, why });
        if take_u8(&mut cell, what)? != VERSION {
            return refuse("unknown version");
        }
        if take_u32(&mut cell, what)? != crc32fast::hash(&cell) {
            return refuse("checksum does not match");
        }
        let incarnation = take_u64(&mut cell, what)?;
        let formed = match take_u8(&mut cell, what)? {
            0 => false,
            1 => true,
            _ => return refuse("neither formed nor not"),
        };
        let mut members = BTreeMap::new();
        for _ in 0..take_u16(&mut cell, what)? {
            let node = take_u64(&mut cell, what)?;
            members.insert(NodeId(node), take_u64(&mut cell, what)?);
        }
        if !cell.is_empty() {
            return refuse("stray bytes follow");
        }
        Ok(Self { incarnation, members: formed.then_some(members) })
    }

    /// The question that this node asks, as `node`.
    pub(crate) fn question(&self, node: NodeId) -> Bytes {
        let mut bytes = BytesMut::with_capacity(16);
        bytes.put_u64_le(node.0);
        bytes.put_u64_le(self.incarnation);
        bytes.freeze()
    }

    /// Answers another member's question.
    pub(crate) fn answer(&self, mut question: Bytes) -> Result<Bytes, Malformed> {
        let asker = NodeId(take_u64(&mut question, "question")?);
        take_u64(&mut question, "question")?;
        let remembered = self.members.as_ref().and_then(|members| members.get(&asker).copied());
        let mut bytes = BytesMut::with_capacity(17);
        bytes.put_u64_le(self.incarnation);
        bytes.put_u8(u8::from(remembered.is_some()));
        bytes.put_u64_le(remembered.unwrap_or(0));
        Ok(bytes.freeze())
    }
}

impl Acquaintance {
    pub(crate) fn decode(mut answer: Bytes) -> Result<Self, Malformed> {
        let incarnation = take_u64(&mut answer, "acquaintance")?;
        let remembered = take_u8(&mut answer, "acquaintance")? == 1;
        let value = take_u64(&mut answer, "acquaintance")?;
        Ok(Self { incarnation, remembered: remembered.then_some(value) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SimulatedDisk;

    fn formed() -> Formation {
        let members = BTreeMap::from([(NodeId(1), 11), (NodeId(2), 22)]);
        Formation { incarnation: 11, members: Some(members) }
    }

    /// The cell's layout does not drift, and comes back as it was.
    #[test]
    fn golden_cell() {
        let cell = Formation { incarnation: 258, members: Some(BTreeMap::from([(NodeId(1), 7)])) }.encode();
        let rest = [2, 1, 0, 0, 0, 0, 0, 0, 1, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(cell[0], 1);
        assert_eq!(cell[1..5], [0x97, 0x6c, 0x62, 0xbc]);
        assert_eq!(cell[5..], rest);
        for formation in [formed(), Formation { incarnation: 5, members: None }] {
            assert_eq!(Formation::decode(formation.encode()), Ok(formation));
        }
    }

    /// A damaged cell keeps the node from starting, and says why: no flipped bit and no cut passes for
    /// another incarnation or another first member, nor for a node that has not formed yet.
    #[tokio::test]
    async fn a_damaged_cell_stops_the_node() {
        let whole = formed().encode();
        let flipped = (0..whole.len() * 8).map(|bit| {
            let mut cell = whole.to_vec();
            cell[bit / 8] ^= 1 << (bit % 8);
            cell
        });
        let cut = (0..whole.len()).map(|length| whole[..length].to_vec());
        let stray = std::iter::once([&whole[..], &[0]].concat());
        for cell in flipped.chain(cut).chain(stray) {
            let disk: Arc<dyn Disk> = Arc::new(SimulatedDisk::new());
            disk.write_cell(CELL, &cell).unwrap();
            let fatal = Formation::load(&disk).await.unwrap_err();
            assert!(
                matches!(&fatal, Fatal::Storage(why) if why.contains("cell formation is damaged")),
                "{cell:?}: {fatal}"
            );
        }
        let disk: Arc<dyn Disk> = Arc::new(SimulatedDisk::new());
        disk.write_cell(CELL, &whole).unwrap();
        assert_eq!(Formation::load(&disk).await.unwrap(), formed());
    }

    /// A member that has formed remembers whom it formed with; one that has not remembers nobody.
    #[test]
    fn remembers_whom_it_formed_with() {
        let ask = |of: &Formation, node| {
            let asker = Formation { incarnation: 99, members: None };
            Acquaintance::decode(of.answer(asker.question(NodeId(node))).unwrap()).unwrap()
        };
        assert_eq!(ask(&formed(), 2), Acquaintance { incarnation: 11, remembered: Some(22) });
        assert_eq!(ask(&formed(), 3), Acquaintance { incarnation: 11, remembered: None });
        let fresh = Formation { incarnation: 8, members: None };
        assert_eq!(ask(&fresh, 2), Acquaintance { incarnation: 8, remembered: None });
        assert!(fresh.answer(Bytes::from_static(b"short")).is_err());
    }
}
