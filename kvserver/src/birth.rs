//! What is fixed when a cluster is born, kept on every node's disk: a node that is told otherwise later would
//! look for keys in groups that never had them, and find nothing. A node that joined later has it from the
//! others and is told nothing of it.
//!
//! ```text
//! cell "shard_map"   version u8 (1) · shards u32 · groups u32, 0 on a node that joined; little-endian
//! ```

use crate::node::StartError;
use crate::shard_map::ShardMap;
use raftstore::{Disk, DiskError, Fatal};
use std::sync::Arc;
use tokio::sync::oneshot;

const CELL: &str = "shard_map";
const VERSION: u8 = 1;

/// Holds `map` against what the disk remembers, or has a new disk remember it.
///
/// # Errors
/// [`StartError::Config`] that names the field where they differ; [`StartError::Host`] where the disk fails.
pub(crate) async fn remember(disk: &Arc<dyn Disk>, map: ShardMap) -> Result<(), StartError> {
    compare(offloaded(disk, move |disk| remembered(disk, map)).await?, map)
}

/// What the disk remembers, where it does.
///
/// # Errors
/// [`Fatal::Storage`] where the disk fails or its cell is damaged.
pub(crate) async fn recall(disk: &Arc<dyn Disk>) -> Result<Option<ShardMap>, Fatal> {
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

/// What the disk remembers, `map` itself where it was new.
fn remembered(disk: &dyn Disk, map: ShardMap) -> Result<ShardMap, DiskError> {
    match disk.read_cell(CELL)? {
        None => disk.write_cell(CELL, &encode(map)).map(|()| map),
        Some(cell) => read(&cell),
    }
}

fn read(cell: &[u8]) -> Result<ShardMap, DiskError> {
    let damaged = || DiskError::Damaged { what: format!("cell {CELL}"), why: format!("{cell:?}") };
    decode(cell).ok_or_else(damaged)
}

fn compare(born: ShardMap, told: ShardMap) -> Result<(), StartError> {
    for (field, born, told) in [("shards", born.shards, told.shards), ("groups", born.groups, told.groups)] {
        if born != told {
            let why =
                format!("{field} was fixed at {born} when the cluster was born and cannot become {told}");
            return Err(StartError::Config(why));
        }
    }
    Ok(())
}

fn encode(map: ShardMap) -> Vec<u8> {
    let (shards, groups) = (map.shards.to_le_bytes(), map.groups.to_le_bytes());
    [&[VERSION][..], &shards, &groups].concat()
}

fn decode(cell: &[u8]) -> Option<ShardMap> {
    let (&[VERSION, a, b, c, d], groups) = cell.split_first_chunk()? else { return None };
    let groups = u32::from_le_bytes(groups.try_into().ok()?);
    Some(ShardMap { shards: u32::from_le_bytes([a, b, c, d]), groups })
}

#[cfg(test)]
mod tests {
    use super::*;
    use raftstore::SimulatedDisk;

    /// The cell's layout does not drift, and nothing else passes for it.
    #[test]
    fn golden_cell() {
        let map = ShardMap { shards: 256, groups: 3 };
        assert_eq!(encode(map), [1, 0, 1, 0, 0, 3, 0, 0, 0]);
        assert_eq!(decode(&encode(map)), Some(map));
        for bad in [&[][..], &[1, 0, 1, 0, 0, 3, 0, 0], &[2, 0, 1, 0, 0, 3, 0, 0, 0]] {
            assert_eq!(decode(bad), None);
        }
    }

    /// A disk holds a node to the numbers with which its cluster was born.
    #[tokio::test]
    async fn a_disk_remembers() {
        let disk: Arc<dyn Disk> = Arc::new(SimulatedDisk::new());
        let born = ShardMap { shards: 16, groups: 2 };
        remember(&disk, born).await.unwrap();
        remember(&disk, born).await.unwrap();
        for (told, field) in
            [(ShardMap { shards: 32, ..born }, "shards"), (ShardMap { groups: 3, ..born }, "groups")]
        {
            let error = remember(&disk, told).await.unwrap_err().to_string();
            assert!(error.contains(field), "{error}");
        }
    }
}
