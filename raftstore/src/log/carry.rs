//! Empties an old segment, so that it can be removed: what is still needed in it is written again, into the
//! current one.
//!
//! This only reads, and queues what it read as carry operations. The log writer, the only one to know the log
//! as it stands, leaves out what was purged, truncated or moved meanwhile. On disk a carry means "these entries
//! stand here as well", so a crash between the carry and the removal leaves two copies of the same entries, and
//! recovery takes the later one.

use super::index::Run;
use super::queue::{Done, Item};
use super::record::Operation;
use super::segment::{RecordReader, segment_name};
use super::state::Group;
use crate::disk::DiskError;
use crate::storage::{Shared, StorageError};
use std::sync::Arc;

/// Queues everything in `segment` that is still needed. Blocks.
///
/// # Errors
/// Where the segment cannot be read, or the storage has stopped.
pub(super) async fn carry(shared: Arc<Shared>, segment: u64) -> Result<(), StorageError> {
    let mut runs = runs_in(&shared, segment);
    // In the order in which they stand on disk.
    runs.sort_by_key(|(group, run)| (run.sequence, group.id, run.first));
    let mut reader = match shared.disk.open(&segment_name(segment)) {
        Ok(table) => RecordReader::new(table),
        // Purges were faster: nothing was needed any more, and the segment is gone.
        Err(DiskError::Missing(_)) if runs_in(&shared, segment).is_empty() => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    for (group, run) in runs {
        if group.state().durable.index.standing(&run).is_empty() {
            continue;
        }
        let entries = reader.entries(group.id, &run).map_err(|error| error.at(segment))?;
        let item = Item::new(&group, Operation::Carry(entries), Done::Nobody);
        shared.submit(Item { origin: Some(Box::new(run)), ..item }, |_| Ok(())).await?;
    }
    Ok(())
}

/// What all groups need of a segment.
fn runs_in(shared: &Shared, segment: u64) -> Vec<(Arc<Group>, Run)> {
    let mut runs = Vec::new();
    for group in shared.all_groups() {
        let state = group.state();
        runs.extend(state.durable.index.in_segment(segment).map(|run| (Arc::clone(&group), run)));
    }
    runs
}
