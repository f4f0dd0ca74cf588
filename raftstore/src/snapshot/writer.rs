//! Writes a snapshot: pieces in, a finished snapshot out.

use super::pieces::Packer;
use super::{Manifest, PIECE_BYTES_MAX, Snapshot, SnapshotStore, Tables};
use crate::disk::{OpenTable, offload};
use crate::storage::StorageError;
use crate::types::SnapshotMeta;
use std::sync::Arc;

/// Pieces gather to this before they are written: 1 MiB for each trip to the disk's thread.
const GATHER_BYTES: usize = 1 << 20;

/// A snapshot being written. Memory is bounded by what gathers, and one piece.
#[derive(Debug)]
pub(crate) struct SnapshotWriter {
    store: SnapshotStore,
    tables: Arc<Tables>,
    packer: Packer,
    /// The part that takes the next value, and the bytes in it. Away while a piece is being written: a call
    /// that was given up half-way leaves the snapshot unusable.
    part: Option<Part>,
}

#[derive(Debug, Default)]
struct Part {
    table: Option<OpenTable>,
    bytes: usize,
}

impl SnapshotWriter {
    pub(super) fn new(store: SnapshotStore) -> Self {
        let (shared, group) = (&store.handle.shared, store.group.id);
        let number = shared.next_snapshot();
        let tables = Tables::new(Arc::clone(&shared.disk), Arc::clone(&shared.bin), group, number, 0);
        tables.doom(true);
        let packer = Packer::new(group, number);
        Self { store, tables: Arc::new(tables), packer, part: Some(Part::default()) }
    }

    /// Adds a piece of up to [`PIECE_BYTES_MAX`].
    ///
    /// # Errors
    /// Where the piece is too large, the disk fails, the storage has stopped or the group was forgotten. The
    /// writer is of no use then.
    pub(crate) async fn append(&mut self, piece: impl AsRef<[u8]> + Send) -> Result<(), StorageError> {
        let piece = piece.as_ref();
        if piece.len() > PIECE_BYTES_MAX {
            return Err(StorageError::Refused(format!(
                "snapshot piece exceeds the limit of {PIECE_BYTES_MAX} bytes: {}",
                piece.len()
            )));
        }
        self.packer.push(piece);
        if self.packer.waiting() < GATHER_BYTES { Ok(()) } else { self.write(false).await }
    }

    /// Makes the snapshot durable, beside the current one. Until [`SnapshotStore::install`] makes it current,
    /// dropping its last handle removes it.
    ///
    /// [`SnapshotStore::install`]: super::SnapshotStore::install
    ///
    /// # Errors
    /// Where the disk fails, the storage has stopped or the group was forgotten.
    pub(crate) async fn finish(mut self, meta: SnapshotMeta) -> Result<Snapshot, StorageError> {
        self.write(true).await?;
        let manifest = Manifest {
            number: self.tables.number,
            meta,
            parts: self.tables.made(),
            values: self.packer.values(),
            pieces: self.packer.pieces,
            bytes: self.packer.bytes,
        };
        Ok(Snapshot::new(manifest, self.tables))
    }

    /// Writes what gathered; at the `end`, all of it, and syncs.
    async fn write(&mut self, end: bool) -> Result<(), StorageError> {
        self.store.alive()?;
        let shared = &self.store.handle.shared;
        let broken = || StorageError::Refused("an earlier piece of the snapshot was not written".into());
        let mut part = self.part.take().ok_or_else(broken)?;
        let values = self.packer.cut(end);
        // The work holds the tables, so that they outlive it, should this call be given up.
        let (tables, part_bytes_max) = (Arc::clone(&self.tables), shared.config.snapshot_part_bytes);
        let work = async move {
            for (number, value) in values {
                if part.bytes > 0 && part.bytes + value.len() > part_bytes_max {
                    part.close().await?;
                }
                part.put(&tables, number, &value)?;
            }
            if end {
                part.close().await?;
            } else if let Some(table) = &part.table {
                // Synced as it grows: at the end of a part, tens of megabytes at once would hold up the log's
                // syncs.
                table.sync().await?;
            }
            drop(tables);
            Ok::<_, StorageError>(part)
        };
        let written = offload(&shared.disk, work).await.map_err(StorageError::from).flatten();
        // A disk that fails here fails for the log as well, sooner or later: better now, and with the reason.
        self.part = Some(written.inspect_err(|error| shared.fail(error.clone()))?);
        Ok(())
    }
}

impl Part {
    fn put(&mut self, tables: &Tables, number: u64, value: &[u8]) -> Result<(), StorageError> {
        let table = match &self.table {
            Some(table) => table,
            None => self.table.insert(tables.make()?),
        };
        self.bytes += value.len();
        Ok(table.put(number, value)?)
    }

    /// Syncs the part; the next value begins another.
    async fn close(&mut self) -> Result<(), StorageError> {
        if let Some(table) = self.table.take() {
            table.sync().await?;
            table.close();
        }
        self.bytes = 0;
        Ok(())
    }
}
