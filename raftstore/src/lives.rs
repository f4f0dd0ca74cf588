//! How many replicas of a group this disk has dropped, durably: what tells a replica from its predecessors, whose
//! votes and entries the node has forgotten.
//!
//! A replica that is dropped is counted before anything of it is forgotten. From that moment nobody reaches what is
//! left of it, whatever a crash leaves; what the crash left is forgotten before the group is opened again.
//!
//! ```text
//! cell "lives", version 1   groups u32 ·
//!                           per group: group u64, life u64 (from 1), forgotten u8 (0 or 1)
//! ```

use crate::cell::Cell;
use crate::codec::{Malformed, take_u8, take_u32, take_u64};
use crate::disk::Disk;
use crate::error::Fatal;
use bytes::{BufMut, Bytes, BytesMut};
use proto::GroupId;
use std::collections::BTreeMap;
use std::sync::Arc;

const CELL: Cell = Cell { name: "lives", version: 1 };

/// Of a group that this disk has dropped before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Life {
    /// The number of replicas that were dropped.
    pub(crate) number: u64,
    /// Whether nothing of them is left.
    pub(crate) forgotten: bool,
}

/// See the module. Groups that were never dropped are not in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lives(BTreeMap<GroupId, Life>);

impl Lives {
    /// Reads the disk's word; a disk that has none has dropped nothing.
    pub(crate) async fn load(disk: &Arc<dyn Disk>) -> Result<Self, Fatal> {
        Ok(CELL.load(disk, Self::decode).await?.unwrap_or_default())
    }

    /// The life that a replica of the group has, or would have if it were opened now.
    pub(crate) fn of(&self, group: GroupId) -> Life {
        self.0.get(&group).copied().unwrap_or(Life { number: 0, forgotten: true })
    }

    /// Notes how far a group has come. Whoever gives up waiting cannot know what the disk holds; so the memory is
    /// ahead of it, never behind.
    pub(crate) async fn set(
        &mut self,
        disk: &Arc<dyn Disk>,
        group: GroupId,
        life: Life,
    ) -> Result<(), Fatal> {
        self.0.insert(group, life);
        CELL.save(disk, self.encode()).await
    }

    fn encode(&self) -> Bytes {
        let mut rest = BytesMut::new();
        rest.put_u32_le(u32::try_from(self.0.len()).expect("a disk has seen fewer than 4 Gi groups"));
        for (group, life) in &self.0 {
            rest.put_u64_le(group.0);
            rest.put_u64_le(life.number);
            rest.put_u8(u8::from(life.forgotten));
        }
        CELL.seal(&rest)
    }

    fn decode(cell: Bytes) -> Result<Self, Malformed> {
        let what = CELL.name;
        let refuse = |why| Err(Malformed { what, why });
        let mut rest = CELL.unseal(cell)?;
        let mut lives = BTreeMap::new();
        for _ in 0..take_u32(&mut rest, what)? {
            let group = GroupId(take_u64(&mut rest, what)?);
            let number = take_u64(&mut rest, what)?;
            let forgotten = match take_u8(&mut rest, what)? {
                0 => false,
                1 => true,
                _ => return refuse("neither forgotten nor not"),
            };
            lives.insert(group, Life { number, forgotten });
        }
        if !rest.is_empty() {
            return refuse("stray bytes follow");
        }
        Ok(Self(lives))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SimulatedDisk;

    /// The cell's layout does not drift; a damaged one is refused, and so passes for no other life.
    #[tokio::test]
    async fn golden_cell() {
        let lives = Lives(BTreeMap::from([(GroupId(3), Life { number: 2, forgotten: true })]));
        let cell = lives.encode();
        assert_eq!(cell[0], 1);
        assert_eq!(cell[5..], [1, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(Lives::decode(cell.clone()), Ok(lives));
        for bit in 0..cell.len() * 8 {
            let mut flipped = cell.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Lives::decode(flipped.into()).is_err());
        }
        for length in 0..cell.len() {
            assert!(Lives::decode(cell.slice(..length)).is_err());
        }
    }

    /// What was set is on the disk; a group that was never dropped lives for the first time.
    #[tokio::test]
    async fn lives_outlast_the_process() {
        let disk: Arc<dyn Disk> = Arc::new(SimulatedDisk::new());
        let mut lives = Lives::load(&disk).await.unwrap();
        assert_eq!(lives.of(GroupId(1)), Life { number: 0, forgotten: true });
        let ended = Life { number: 1, forgotten: false };
        lives.set(&disk, GroupId(1), ended).await.unwrap();
        let again = Lives::load(&disk).await.unwrap();
        assert_eq!((again.of(GroupId(1)), again.of(GroupId(2)).number), (ended, 0));
        assert_eq!(again, lives);
    }
}
