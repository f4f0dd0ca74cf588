//! Whose data a directory holds.
//!
//! ```text
//! cell "identity"   version u8 (1) · CRC-32 of what follows u32 · node u64 · cluster: UTF-8 until the end
//! ```

use super::StorageError;
use crate::codec::{Malformed, take_u8, take_u32, take_u64};
use crate::disk::{Disk, DiskError};
use bytes::{BufMut, Bytes};
use proto::NodeId;
use std::fmt;

/// The newest format of a data directory as a whole that this build reads, and the one that it writes.
const VERSION: u8 = 1;
const CELL: &str = "identity";

/// Whose data a directory holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's name.
    pub cluster: String,
    /// The node.
    pub node: NodeId,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of cluster {:?}", self.node, self.cluster)
    }
}

impl Identity {
    /// Compares this identity with the disk's; writes it where the disk is empty.
    pub(super) fn establish(&self, disk: &dyn Disk) -> Result<(), StorageError> {
        if let Some(cell) = disk.read_cell(CELL)? {
            let found = Self::take(cell)?;
            if found != *self {
                return Err(StorageError::Foreign { found: found.to_string(), wanted: self.to_string() });
            }
            return Ok(());
        }
        let missing = |beside: String| {
            let why = format!("it is missing, though there is {beside}");
            Err(DiskError::damaged(format!("cell {CELL}"), why).into())
        };
        if let Some(table) = disk.tables()?.first() {
            return missing(format!("table {table}"));
        }
        if let Some(mark) = disk.read_mark()?.filter(|mark| *mark > 0) {
            return missing(format!("a mark at record {mark}"));
        }
        // The mark comes first: an identity without a mark, once there are tables, is a loss.
        disk.write_mark(0)?;
        disk.sync_mark()?;
        Ok(disk.write_cell(CELL, &self.put())?)
    }

    fn put(&self) -> Vec<u8> {
        let mut rest = Vec::new();
        rest.put_u64_le(self.node.0);
        rest.put_slice(self.cluster.as_bytes());
        let mut cell = vec![VERSION];
        cell.put_u32_le(crc32fast::hash(&rest));
        cell.put_slice(&rest);
        cell
    }

    fn take(mut cell: Bytes) -> Result<Self, StorageError> {
        let damaged = |why: String| StorageError::from(DiskError::damaged(format!("cell {CELL}"), why));
        let malformed = |error: Malformed| damaged(error.to_string());
        let found = take_u8(&mut cell, CELL).map_err(malformed)?;
        if found > VERSION {
            return Err(StorageError::Version { found, known: VERSION });
        }
        if take_u32(&mut cell, CELL).map_err(malformed)? != crc32fast::hash(&cell) {
            return Err(damaged("checksum does not match".into()));
        }
        let node = NodeId(take_u64(&mut cell, CELL).map_err(malformed)?);
        let cluster = String::from_utf8(cell.to_vec()).map_err(|error| damaged(error.to_string()))?;
        Ok(Self { cluster, node })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The layout does not drift, and what is written is read back.
    #[test]
    fn golden_bytes() {
        let identity = Identity { cluster: "c".into(), node: NodeId(2) };
        let cell = identity.put();
        let rest = [2, 0, 0, 0, 0, 0, 0, 0, b'c'];
        assert_eq!(cell[0], 1);
        assert_eq!(cell[1..5], crc32fast::hash(&rest).to_le_bytes());
        assert_eq!(cell[5..], rest);
        assert_eq!(Identity::take(cell.into()).unwrap(), identity);
    }

    /// A newer format and a damaged cell are told apart.
    #[test]
    fn refusals() {
        let mut cell = Identity { cluster: "c".into(), node: NodeId(2) }.put();
        cell[0] = 2;
        let newer = Identity::take(cell.clone().into()).unwrap_err();
        assert!(matches!(newer, StorageError::Version { found: 2, known: 1 }), "{newer}");
        cell[0] = 1;
        cell[9] ^= 1;
        let damaged = Identity::take(cell.into()).unwrap_err();
        assert!(matches!(damaged, StorageError::Disk(DiskError::Damaged { .. })), "{damaged}");
    }
}
