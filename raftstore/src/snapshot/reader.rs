//! Reads a snapshot's pieces in order.

use super::Snapshot;
use super::pieces::Unpacker;
use crate::disk::{OpenTable, offload};
use crate::storage::StorageError;
use bytes::Bytes;

/// How much is read ahead in one trip to the disk's thread.
const READ_BYTES: usize = 1 << 20;

/// Reads pieces in order; memory is bounded by what is read ahead, and one piece.
#[derive(Debug)]
pub(crate) struct SnapshotReader {
    snapshot: Snapshot,
    /// Away while it is being used: a call that was given up half-way leaves the reader unusable.
    progress: Option<Progress>,
}

#[derive(Debug)]
struct Progress {
    unpacker: Unpacker,
    pieces: u64,
    part: u32,
    table: Option<OpenTable>,
}

impl SnapshotReader {
    pub(super) fn new(snapshot: Snapshot) -> Self {
        let unpacker = Unpacker::new(snapshot.stored.tables.group, snapshot.stored.manifest.number);
        Self { snapshot, progress: Some(Progress { unpacker, pieces: 0, part: 0, table: None }) }
    }

    /// The next piece; `None` after the last, once everything was found to be there.
    ///
    /// # Errors
    /// [`StorageError::Snapshot`] where a piece is damaged or missing, or where the disk fails.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, StorageError> {
        let given_up = || StorageError::Refused("an earlier read of the snapshot was given up".into());
        let mut progress = self.progress.take().ok_or_else(given_up)?;
        let piece = loop {
            if let Some(piece) = progress.unpacker.pop() {
                progress.pieces += 1;
                break Some(piece);
            }
            if progress.unpacker.wanted() == self.snapshot.manifest().values {
                self.check_end(&progress)?;
                break None;
            }
            let snapshot = self.snapshot.clone();
            let work = async move {
                progress.read(&snapshot)?;
                Ok::<_, StorageError>(progress)
            };
            progress = offload(&self.snapshot.stored.tables.disk, work)
                .await
                .map_err(StorageError::from)
                .flatten()?;
        };
        self.progress = Some(progress);
        Ok(piece)
    }

    /// See [`Snapshot::withdrawn`].
    pub(crate) fn withdrawn(&self) -> impl Future<Output = ()> + Send + use<> {
        self.snapshot.withdrawn()
    }

    fn check_end(&self, progress: &Progress) -> Result<(), StorageError> {
        let wanted = self.snapshot.manifest().pieces;
        if progress.pieces == wanted && progress.unpacker.is_empty() {
            return Ok(());
        }
        Err(damaged(&self.snapshot, format!("{} pieces of {wanted} are there", progress.pieces)))
    }
}

impl Progress {
    /// Reads at least one value.
    fn read(&mut self, snapshot: &Snapshot) -> Result<(), StorageError> {
        let tables = &snapshot.stored.tables;
        loop {
            if self.part == snapshot.manifest().parts {
                return Err(damaged(snapshot, format!("value {} is missing", self.unpacker.wanted())));
            }
            let table = match &self.table {
                Some(table) => table,
                None => self.table.insert(tables.open(self.part)?),
            };
            let values = table.scan(self.unpacker.wanted(), READ_BYTES)?;
            let ended = values.is_empty();
            for (number, value) in values {
                self.unpacker.push(number, value).map_err(|why| damaged(snapshot, why))?;
            }
            let last = self.unpacker.wanted() == snapshot.manifest().values;
            if (ended || last)
                && let Some(table) = self.table.take()
            {
                table.close();
            }
            if !ended {
                return Ok(());
            }
            self.part += 1;
        }
    }
}

fn damaged(snapshot: &Snapshot, why: String) -> StorageError {
    StorageError::Snapshot { snapshot: format!("{:?}", snapshot.stored.tables), why }
}
