//! How a cluster comes into being, and why a node that lost its disk does not vote as if nothing had happened.
//!
//! At its first start a node draws an *incarnation*: what its disk is, for as long as the disk lives. The first
//! members learn each other's before any of them votes: the one with the lowest id asks all the others and writes
//! down what it heard, and every other takes that over, from it or from one that has it already. So there is one
//! list, the first membership of every group is made of it, and a node that has it is *formed*.
//!
//! A first member gives its groups their members, and so begins to vote, only once it has formed. A node whose disk
//! was lost comes back under a new incarnation, finds the old one in the list of whoever has formed, and knows that
//! it is no first member any more: its votes and acknowledged entries went with the disk. What it was in its
//! groups, nobody is now; it may join them as somebody new (see the membership module).
//!
//! ```text
//! cell "formation", version 2   acquaintance
//! question                      empty
//! answer                        acquaintance
//! acquaintance                  incarnation u128 · formed u8 (0 or 1) · members u16 ·
//!                               per member: node u64, incarnation u128
//! ```

use crate::cell::Cell;
use crate::codec::{Malformed, take_u8, take_u16, take_u64, take_u128};
use crate::disk::Disk;
use crate::error::Fatal;
use crate::runtime::random;
use bytes::{BufMut, Bytes, BytesMut};
use proto::{Incarnation, NodeId};
use rand::Rng;
use std::collections::BTreeMap;
use std::sync::Arc;

const CELL: Cell = Cell { name: "formation", version: 2 };

/// What a node's disk says of itself and of the cluster's beginning, and what it tells other first members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Formation {
    /// Drawn once, when the disk was new.
    pub(crate) incarnation: Incarnation,
    /// The first members' incarnations, once they are settled; never changed after that, and the same on every
    /// node that has them.
    pub(crate) members: Option<BTreeMap<NodeId, Incarnation>>,
}

impl Formation {
    /// Reads the disk's word, or begins a new incarnation on a disk that has none.
    pub(crate) async fn load(disk: &Arc<dyn Disk>) -> Result<Self, Fatal> {
        if let Some(formation) = CELL.load(disk, Self::decode).await? {
            return Ok(formation);
        }
        let formation = Self { incarnation: draw(), members: None };
        formation.save(disk).await?;
        Ok(formation)
    }

    /// Makes this the disk's word.
    pub(crate) async fn save(&self, disk: &Arc<dyn Disk>) -> Result<(), Fatal> {
        CELL.save(disk, self.encode()).await
    }

    fn encode(&self) -> Bytes {
        CELL.seal(&self.tell())
    }

    fn decode(cell: Bytes) -> Result<Self, Malformed> {
        Self::heard(CELL.unseal(cell)?)
    }

    /// The answer to another first member's question.
    pub(crate) fn tell(&self) -> Bytes {
        let mut bytes = BytesMut::new();
        bytes.put_u128_le(self.incarnation.0);
        bytes.put_u8(u8::from(self.members.is_some()));
        let count = self.members.as_ref().map_or(0, BTreeMap::len);
        bytes.put_u16_le(u16::try_from(count).expect("a cluster is born with fewer than 65,536 nodes"));
        for (node, incarnation) in self.members.iter().flatten() {
            bytes.put_u64_le(node.0);
            bytes.put_u128_le(incarnation.0);
        }
        bytes.freeze()
    }

    /// Reads such an answer.
    pub(crate) fn heard(mut answer: Bytes) -> Result<Self, Malformed> {
        let what = "formation";
        let incarnation = Incarnation(take_u128(&mut answer, what)?);
        let formed = match take_u8(&mut answer, what)? {
            0 => false,
            1 => true,
            _ => return Err(Malformed { what, why: "neither formed nor not" }),
        };
        let mut members = BTreeMap::new();
        for _ in 0..take_u16(&mut answer, what)? {
            let node = NodeId(take_u64(&mut answer, what)?);
            members.insert(node, Incarnation(take_u128(&mut answer, what)?));
        }
        if !answer.is_empty() {
            return Err(Malformed { what, why: "stray bytes follow" });
        }
        Ok(Self { incarnation, members: formed.then_some(members) })
    }
}

fn draw() -> Incarnation {
    let half = || u128::from(random().next_u64());
    Incarnation(half() << 64 | half())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SimulatedDisk;

    fn formed() -> Formation {
        let members = BTreeMap::from([(NodeId(1), Incarnation(11)), (NodeId(2), Incarnation(22 << 100))]);
        Formation { incarnation: Incarnation(11), members: Some(members) }
    }

    /// The cell's layout does not drift, and comes back as it was.
    #[test]
    fn golden_cell() {
        let members = BTreeMap::from([(NodeId(1), Incarnation(7))]);
        let cell = Formation { incarnation: Incarnation(258 | 3 << 120), members: Some(members) }.encode();
        let own = [2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 1, 1, 0];
        let member = [1, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(cell[0], 2);
        assert_eq!(cell[1..5], [0x8a, 0xe5, 0x04, 0x20]);
        assert_eq!(cell[5..], [&own[..], &member[..]].concat());
        for formation in [formed(), Formation { incarnation: Incarnation(5), members: None }] {
            assert_eq!(Formation::decode(formation.encode()), Ok(formation.clone()));
            assert_eq!(Formation::heard(formation.tell()), Ok(formation));
        }
        assert!(Formation::heard(Bytes::from_static(b"short")).is_err());
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
            disk.write_cell(CELL.name, &cell).unwrap();
            let fatal = Formation::load(&disk).await.unwrap_err();
            assert!(
                matches!(&fatal, Fatal::Storage(why) if why.contains("cell formation is damaged")),
                "{cell:?}: {fatal}"
            );
        }
        let disk: Arc<dyn Disk> = Arc::new(SimulatedDisk::new());
        disk.write_cell(CELL.name, &whole).unwrap();
        assert_eq!(Formation::load(&disk).await.unwrap(), formed());
    }
}
