//! Segments: the tables that hold the log, `log-00000001` and so on, and how records are read from them.

use super::index::Run;
use super::record::{Operations, part_key, take_part};
use crate::disk::{Disk, DiskError, Table, lock};
use crate::storage::StorageError;
use crate::types::Entry;
use bytes::{Bytes, BytesMut};
use proto::GroupId;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// How much is read ahead: records that follow one another are mostly wanted together.
const READ_AHEAD_BYTES: usize = 256 << 10;

/// Old segments that are kept open for readers: one for those who catch up, one for those who restart.
const SHELF_MAX: usize = 2;

/// A segment that nobody read for this long is closed.
const SHELF_IDLE: Duration = Duration::from_secs(10);

pub(crate) fn segment_name(number: u64) -> String {
    format!("log-{number:08}")
}

pub(crate) fn parse_segment_name(name: &str) -> Option<u64> {
    name.strip_prefix("log-")?.parse().ok()
}

/// Why a record cannot be read.
#[derive(Clone, Debug)]
pub(crate) enum Unreadable {
    Disk(DiskError),
    /// The record of this sequence is not whole.
    Damaged {
        sequence: u64,
        why: String,
    },
}

/// A record, whole.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) sequence: u64,
    pub(crate) body: Bytes,
    /// What it takes in the table.
    pub(crate) bytes: u64,
}

/// Reads the records of one segment.
#[derive(Debug)]
pub(crate) struct RecordReader {
    table: Arc<dyn Table>,
    /// Parts read ahead.
    ahead: VecDeque<(u64, Bytes)>,
    /// The number from which to read on.
    next_key: u64,
}

impl RecordReader {
    pub(crate) fn new(table: Arc<dyn Table>) -> Self {
        Self { table, ahead: VecDeque::new(), next_key: 0 }
    }

    /// The record that follows, `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Record>, Unreadable> {
        let Some((key, value)) = self.next_part()? else { return Ok(None) };
        let sequence = key >> 16;
        let damaged = |why: String| Unreadable::Damaged { sequence, why };
        let mut bytes = value.len() as u64;
        let first = take_part(key, value).map_err(|error| damaged(error.to_string()))?;
        if first.part != 0 {
            return Err(damaged(format!("it begins with part {}", first.part)));
        }
        if first.parts == 1 {
            return Ok(Some(Record { sequence, body: first.body, bytes }));
        }
        let mut body = BytesMut::from(&first.body[..]);
        for number in 1..first.parts {
            let missing = || damaged(format!("part {number} of {} is missing", first.parts));
            let (key, value) = self.next_part()?.ok_or_else(missing)?;
            if key != part_key(sequence, number) {
                self.ahead.push_front((key, value));
                return Err(missing());
            }
            bytes += value.len() as u64;
            let part = take_part(key, value).map_err(|error| damaged(error.to_string()))?;
            if part.parts != first.parts {
                return Err(damaged(format!("part {number} belongs to another record")));
            }
            body.extend_from_slice(&part.body);
        }
        Ok(Some(Record { sequence, body: body.freeze(), bytes }))
    }

    /// Whether a part of a later record than `sequence` is there.
    pub(crate) fn goes_on_after(&mut self, sequence: u64) -> Result<bool, Unreadable> {
        while let Some((key, _)) = self.next_part()? {
            if key >> 16 > sequence {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// One group's entries of a run.
    pub(crate) fn entries(&mut self, group: GroupId, run: &Run) -> Result<Vec<Entry>, Unreadable> {
        let damaged = |why: String| Unreadable::Damaged { sequence: run.sequence, why };
        self.seek(part_key(run.sequence, 0));
        let record = self.next()?.filter(|record| record.sequence == run.sequence);
        let record = record.ok_or_else(|| damaged("it is missing".into()))?;
        let mut entries =
            Operations::new(record.body).entries_of(group).map_err(|error| damaged(error.to_string()))?;
        // A record may hold entries that it takes back itself, but never two of one term and index.
        entries.retain(|entry| {
            let (term, index) = (entry.log_id.committed_leader_id().term, entry.log_id.index());
            term == run.term && (run.first..=run.last).contains(&index)
        });
        entries.sort_by_key(|entry| entry.log_id.index());
        entries.dedup_by_key(|entry| entry.log_id.index());
        if entries.len() as u64 != run.last - run.first + 1 {
            return Err(damaged(format!(
                "entries {} to {} of {group} are not all there",
                run.first, run.last
            )));
        }
        Ok(entries)
    }

    fn seek(&mut self, key: u64) {
        while self.ahead.front().is_some_and(|(ahead, _)| *ahead < key) {
            self.ahead.pop_front();
        }
        if self.ahead.front().is_none_or(|(ahead, _)| *ahead != key) {
            self.ahead.clear();
            self.next_key = key;
        }
    }

    fn next_part(&mut self) -> Result<Option<(u64, Bytes)>, Unreadable> {
        if self.ahead.is_empty() {
            self.ahead.extend(self.table.scan(self.next_key, READ_AHEAD_BYTES).map_err(Unreadable::Disk)?);
            if let Some((key, _)) = self.ahead.back() {
                self.next_key = key + 1;
            }
        }
        Ok(self.ahead.pop_front())
    }
}

impl Unreadable {
    /// The same, with the place where it happened.
    pub(crate) fn at(self, segment: u64) -> StorageError {
        match self {
            Self::Disk(error) => error.into(),
            Self::Damaged { sequence, why } => StorageError::Damaged {
                place: format!("{} at record {sequence}", segment_name(segment)),
                why,
            },
        }
    }
}

/// The old segments that readers have open.
#[derive(Debug)]
pub(crate) struct Shelf {
    disk: Arc<dyn Disk>,
    /// The one used last comes last.
    open: Mutex<VecDeque<Shelved>>,
}

#[derive(Debug)]
struct Shelved {
    segment: u64,
    table: Arc<dyn Table>,
    used: Instant,
}

impl Shelf {
    pub(crate) fn new(disk: Arc<dyn Disk>) -> Self {
        Self { disk, open: Mutex::default() }
    }

    /// The entries of consecutive runs of one group. Blocks.
    pub(crate) fn entries(&self, group: GroupId, runs: &[Run]) -> Result<Vec<Entry>, StorageError> {
        let mut entries = Vec::new();
        let mut reader: Option<(u64, RecordReader)> = None;
        for run in runs {
            let (_, reader) = match &mut reader {
                Some(reader) if reader.0 == run.segment => reader,
                reader => reader.insert((run.segment, RecordReader::new(self.table(run.segment)?))),
            };
            entries.append(&mut reader.entries(group, run).map_err(|error| error.at(run.segment))?);
        }
        Ok(entries)
    }

    fn table(&self, segment: u64) -> Result<Arc<dyn Table>, DiskError> {
        let used = Instant::now();
        let mut open = lock(&self.open);
        if let Some(at) = open.iter().position(|shelved| shelved.segment == segment)
            && let Some(shelved) = open.remove(at)
        {
            let table = Arc::clone(&shelved.table);
            open.push_back(Shelved { used, ..shelved });
            return Ok(table);
        }
        // Opening takes a while: others may go on meanwhile.
        drop(open);
        let table = self.disk.open(&segment_name(segment))?;
        let mut open = lock(&self.open);
        open.push_back(Shelved { segment, table: Arc::clone(&table), used });
        let closed = if open.len() > SHELF_MAX { open.pop_front() } else { None };
        drop(open);
        drop(closed);
        Ok(table)
    }

    /// Takes out the segments before `oldest` and those that nobody used for a while. To be dropped where
    /// that may block: it closes them.
    pub(crate) fn tidy(&self, oldest: u64) -> Vec<Arc<dyn Table>> {
        let now = Instant::now();
        let stale = |shelved: &mut Shelved| shelved.segment < oldest || now - shelved.used > SHELF_IDLE;
        let mut open = lock(&self.open);
        let mut taken = Vec::new();
        while let Some(at) = open.iter_mut().position(stale)
            && let Some(shelved) = open.remove(at)
        {
            taken.push(shelved.table);
        }
        taken
    }

    pub(crate) fn clear(&self) {
        let closed = std::mem::take(&mut *lock(&self.open));
        drop(closed);
    }
}

impl Drop for Shelf {
    /// Who still read when the log writer had ended may have opened segments again.
    fn drop(&mut self) {
        let open = std::mem::take(&mut *lock(&self.open));
        open.into_iter().for_each(|shelved| self.disk.release(shelved.table));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{SimulatedDisk, Syncs};

    /// Segments that nobody needs are handed to whoever tidies up, who may drop them where that may block;
    /// the others stay open.
    #[tokio::test(start_paused = true)]
    async fn tidying_closes_nothing_itself() {
        let disk: Arc<dyn Disk> = Arc::new(SimulatedDisk::new());
        for segment in 1..=3 {
            drop(disk.create(&segment_name(segment), Syncs::Often).unwrap());
        }
        let shelf = Shelf::new(Arc::clone(&disk));
        let (first, second) = (shelf.table(1).unwrap(), shelf.table(2).unwrap());
        assert!(shelf.tidy(1).is_empty());
        let taken = shelf.tidy(2);
        assert!(taken.len() == 1 && Arc::ptr_eq(&taken[0], &first));
        assert!(Arc::ptr_eq(&shelf.table(2).unwrap(), &second));
        tokio::time::advance(SHELF_IDLE).await;
        let third = shelf.table(3).unwrap();
        tokio::time::advance(Duration::from_millis(1)).await;
        let taken = shelf.tidy(2);
        assert!(taken.len() == 1 && Arc::ptr_eq(&taken[0], &second));
        assert!(Arc::ptr_eq(&shelf.table(3).unwrap(), &third));
    }
}
