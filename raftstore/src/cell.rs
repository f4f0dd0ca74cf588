//! Small things that a node's disk remembers under a name, each written whole or not at all.
//!
//! ```text
//! version u8 · CRC-32 of what follows u32 · content
//! ```
//!
//! Owns what stands around the content; what that means is its owner's. Must never give out content that is damaged or
//! of another version.

use crate::codec::{Malformed, take_u8, take_u32};
use crate::disk::{Disk, offload};
use crate::error::Fatal;
use bytes::{BufMut, Bytes, BytesMut};
use std::sync::Arc;

/// The name of a cell, and the version of its content.
pub(crate) struct Cell {
    pub(crate) name: &'static str,
    pub(crate) version: u8,
}

impl Cell {
    /// The cell as the disk has it, where it has it, and what `decode` makes of it.
    ///
    /// # Errors
    /// [`Fatal::Storage`] where the disk fails or the cell is damaged.
    pub(crate) async fn load<T>(
        &self,
        disk: &Arc<dyn Disk>,
        decode: impl FnOnce(Bytes) -> Result<T, Malformed>,
    ) -> Result<Option<T>, Fatal> {
        let name = self.name;
        let reading = disk.clone();
        let read = offload(disk, async move { reading.read_cell(name) }).await;
        let cell = read.and_then(|cell| cell).map_err(|error| Fatal::Storage(error.to_string()))?;
        let damaged = |error| Fatal::Storage(format!("cell {name} is damaged: {error}"));
        cell.map(decode).transpose().map_err(damaged)
    }

    /// Makes a sealed `cell` what the disk has.
    ///
    /// # Errors
    /// [`Fatal::Storage`] where the disk fails.
    pub(crate) async fn save(&self, disk: &Arc<dyn Disk>, cell: Bytes) -> Result<(), Fatal> {
        let (name, writing) = (self.name, disk.clone());
        let written = offload(disk, async move { writing.write_cell(name, &cell) }).await;
        written.and_then(|written| written).map_err(|error| Fatal::Storage(error.to_string()))
    }

    pub(crate) fn seal(&self, content: &[u8]) -> Bytes {
        let mut cell = BytesMut::with_capacity(1 + 4 + content.len());
        cell.put_u8(self.version);
        cell.put_u32_le(crc32fast::hash(content));
        cell.put_slice(content);
        cell.freeze()
    }

    /// The content of a cell.
    ///
    /// # Errors
    /// [`Malformed`] where it is damaged or of another version.
    pub(crate) fn unseal(&self, mut cell: Bytes) -> Result<Bytes, Malformed> {
        let what = self.name;
        if take_u8(&mut cell, what)? != self.version {
            return Err(Malformed { what, why: "unknown version" });
        }
        if take_u32(&mut cell, what)? != crc32fast::hash(&cell) {
            return Err(Malformed { what, why: "checksum does not match" });
        }
        Ok(cell)
    }
}
