//! What is fixed when a cluster is born, kept on every node's disk: a node that is told otherwise later would
//! look for keys in groups that never had them, and find nothing. A node that joined later has it from the
//! others and is told nothing of it.
//!
//! ```text
//! cell "shard_map"   version u8 (1) · shards u32 · groups u32, 0 on a node that joined; little-endian
//! ```

use crate::node::StartError;
use raftstore::{Disk, DiskError, Fatal};
use std::sync::Arc;
use tokio::sync::oneshot;

const CELL: &str = "shard_map";
const VERSION: u8 = 1;

/// With what a cluster was born.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BornWith {
    /// How many shards there are; from 1.
    pub(crate) shards: u32,
    /// How many groups held data, numbered from 1; at most one for each shard. 0 on a node that joined the cluster, for
    /// whom all of them were born long ago.
    pub(crate) groups: u32,
}

/// Holds `told` against what the disk remembers, or has a new disk remember it.
///
/// # Errors
/// [`StartError::Config`] that names the field where they differ; [`StartError::Host`] where the disk fails.
pub(crate) async fn remember(disk: &Arc<dyn Disk>, told: BornWith) -> Result<(), StartError> {
    compare(offloaded(disk, move |disk| remembered(disk, told)).await?, told)
}

/// What the disk remembers, where it does.
///
/// # Errors
/// [`Fatal::Storage`] where the disk fails or its cell is damaged.
pub(crate) async fn recall(disk: &Arc<dyn Disk>) -> Result<Option<BornWith>, Fatal> {
    offloaded(disk, |disk| disk.read_cell(CELL)?.map(|cell| read(&cell)).transpose()).await
}

/// What `work` comes to, done where the disk may block.
pub(crate) async fn offloaded<T: Send + 'static>(
    disk: &Arc<dyn Disk>,
    work: impl FnOnce(&dyn Disk) -> Result<T, DiskError> + Send + 'static,
) -> Result<T, Fatal> {
    let (done, outcome) = oneshot::channel();
    let of = disk.clone();
    disk.offload(Box::pin(async move { drop(done.send(work(&*of))) })).await;
    let gone = Err(DiskError::Gone("the thread that worked on it was lost"));
    outcome.await.unwrap_or(gone).map_err(|error| Fatal::Storage(error.to_string()))
}

/// What the disk remembers, `told` itself where it was new.
fn remembered(disk: &dyn Disk, told: BornWith) -> Result<BornWith, DiskError> {
    match disk.read_cell(CELL)? {
        None => disk.write_cell(CELL, &encode(told)).map(|()| told),
        Some(cell) => read(&cell),
    }
}

fn read(cell: &[u8]) -> Result<BornWith, DiskError> {
    let unread = |why: String| DiskError::Damaged { what: format!("cell {CELL}"), why };
    match cell.first() {
        Some(&version) if version > VERSION => {
            Err(unread(format!("it has format version {version}, this build reads {VERSION}")))
        }
        _ => decode(cell).ok_or_else(|| unread(format!("{cell:?}"))),
    }
}

fn compare(born: BornWith, told: BornWith) -> Result<(), StartError> {
    for (field, born, told) in [("shards", born.shards, told.shards), ("groups", born.groups, told.groups)] {
        if born != told {
            let why =
                format!("{field} was fixed at {born} when the cluster was born and cannot become {told}");
            return Err(StartError::Config(why));
        }
    }
    Ok(())
}

fn encode(born: BornWith) -> Vec<u8> {
    let (shards, groups) = (born.shards.to_le_bytes(), born.groups.to_le_bytes());
    [&[VERSION][..], &shards, &groups].concat()
}

fn decode(cell: &[u8]) -> Option<BornWith> {
    let (&[VERSION, a, b, c, d], groups) = cell.split_first_chunk()? else { return None };
    let groups = u32::from_le_bytes(groups.try_into().ok()?);
    Some(BornWith { shards: u32::from_le_bytes([a, b, c, d]), groups })
}

#[cfg(test)]
mod tests {
    use super::*;
    use raftstore::SimulatedDisk;

    /// The cell's layout does not drift, and nothing else passes for it.
    #[test]
    fn golden_cell() {
        let born = BornWith { shards: 256, groups: 3 };
        assert_eq!(encode(born), [1, 0, 1, 0, 0, 3, 0, 0, 0]);
        assert_eq!(read(&encode(born)).unwrap(), born);
        for bad in [&[][..], &[1, 0, 1, 0, 0, 3, 0, 0], &[0, 0, 1, 0, 0, 3, 0, 0, 0]] {
            assert_eq!(decode(bad), None);
        }
    }

    /// A cell that a later build wrote is told from a damaged one.
    #[test]
    fn a_later_format_is_named() {
        let why = read(&[2, 0, 1, 0, 0, 3, 0, 0, 0, 7]).unwrap_err().to_string();
        assert!(why.contains("format version 2, this build reads 1"), "{why}");
    }

    /// A disk holds a node to the numbers with which its cluster was born.
    #[tokio::test]
    async fn a_disk_remembers() {
        let disk: Arc<dyn Disk> = Arc::new(SimulatedDisk::new());
        let born = BornWith { shards: 16, groups: 2 };
        remember(&disk, born).await.unwrap();
        remember(&disk, born).await.unwrap();
        for (told, field) in
            [(BornWith { shards: 32, ..born }, "shards"), (BornWith { groups: 3, ..born }, "groups")]
        {
            let error = remember(&disk, told).await.unwrap_err().to_string();
            assert!(error.contains(field), "{error}");
        }
    }
}
