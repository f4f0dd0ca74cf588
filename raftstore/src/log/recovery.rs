//! Reads the log when a node starts, and says whether it is all there.
//!
//! Segments are read in order, record by record, and nothing is held but the indexes and the tail. A node
//! starts only if
//! - the sequences of the records rise by one, over all segments;
//! - each segment's first record names the segment, and its checkpoints agree with what was read before;
//! - in each group the entries follow one another up to the last that is known;
//! - the mark, the last record known to have been durable, is among the records.
//!
//! The one thing that may be damaged is the last record, if it lies beyond the mark: a write that was cut short
//! and never acknowledged. The writer begins a new segment after every start, at the sequence of the record
//! that was cut; so such damage may also stand at the end of an older segment, and is recognised by what
//! follows.

use super::index::Ledger;
use super::record::{Operation, Operations};
use super::segment::{Record, RecordReader, Unreadable, parse_segment_name, segment_name};
use super::state::{Durable, Group, State, View, next_index};
use super::tail::level_tails;
use crate::disk::Disk;
use crate::snapshot::{Bin, Snapshot, Tables, parse_table_name};
use crate::storage::{StorageConfig, StorageError};
use proto::GroupId;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// What was found.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) groups: BTreeMap<GroupId, Arc<Group>>,
    pub(crate) next_snapshot: u64,
    pub(crate) log: LogEnd,
}

/// Where the log writer goes on.
#[derive(Debug, Default)]
pub(crate) struct LogEnd {
    /// The sequence of the last record.
    pub(crate) sequence: u64,
    pub(crate) segments: VecDeque<Segment>,
    pub(crate) ledger: Ledger,
}

/// A segment on disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub(crate) number: u64,
    /// What its records take.
    pub(crate) bytes: u64,
}

/// Reads everything; changes nothing but to remove leftovers, at the very end.
pub(crate) fn recover(
    disk: &Arc<dyn Disk>,
    bin: &Arc<Bin>,
    config: &StorageConfig,
) -> Result<Recovered, StorageError> {
    let tables = disk.tables()?;
    let mut segments: Vec<u64> = tables.iter().filter_map(|name| parse_segment_name(name)).collect();
    segments.sort_unstable();
    let mut replay = Replay { tail_bytes_max: config.tail_bytes_max, ..Replay::default() };
    for &segment in &segments {
        let reader = RecordReader::new(disk.open(&segment_name(segment))?);
        replay.segment(segment, reader)?;
    }
    replay.check_mark(disk.read_mark()?)?;
    replay.check_groups()?;
    replay.finish(disk, bin, &tables)
}

#[derive(Debug, Default)]
struct Replay {
    groups: BTreeMap<GroupId, Arc<Group>>,
    end: LogEnd,
    /// The sequence that comes next, once one is known.
    expected: Option<u64>,
    /// Whether a whole record was read: from then on the records say what a checkpoint must say.
    based: bool,
    /// The damage at the end of the last segment that was read.
    damage: Option<StorageError>,
    tail_bytes_max: usize,
    /// Bytes of entries read since the tails were last levelled.
    fresh: usize,
}

impl Replay {
    fn segment(&mut self, segment: u64, mut reader: RecordReader) -> Result<(), StorageError> {
        self.end.segments.push_back(Segment { number: segment, bytes: 0 });
        let mut first = true;
        loop {
            match reader.next() {
                Ok(None) => return Ok(()),
                Ok(Some(record)) => self.record(segment, record, first)?,
                Err(Unreadable::Damaged { sequence, why }) => {
                    let damage = Unreadable::Damaged { sequence, why }.at(segment);
                    return self.damaged(sequence, damage, &mut reader, segment);
                }
                Err(error) => return Err(error.at(segment)),
            }
            first = false;
        }
    }

    /// A damaged record is borne with only where nothing follows it in its segment.
    fn damaged(
        &mut self,
        sequence: u64,
        damage: StorageError,
        reader: &mut RecordReader,
        segment: u64,
    ) -> Result<(), StorageError> {
        let in_turn = *self.expected.get_or_insert(sequence) == sequence;
        if !in_turn || reader.goes_on_after(sequence).map_err(|error| error.at(segment))? {
            return Err(damage);
        }
        tracing::warn!(%damage, "the last record was cut short");
        self.damage = Some(damage);
        Ok(())
    }

    fn record(&mut self, segment: u64, record: Record, first: bool) -> Result<(), StorageError> {
        let Record { sequence, body, bytes } = record;
        let refuse = |why: String| Unreadable::Damaged { sequence, why }.at(segment);
        if let Some(expected) = self.expected.filter(|expected| *expected != sequence) {
            // Damage at the end of the segment before was not the end of the log.
            return Err(self
                .damage
                .take()
                .unwrap_or_else(|| refuse(format!("record {expected} is missing"))));
        }
        self.damage = None;
        let mut operations = Operations::new(body);
        if first && !matches!(operations.next(), Some(Ok((_, Operation::Begin(named)))) if named == segment) {
            return Err(refuse("it does not begin the segment".into()));
        }
        for operation in operations {
            let (group, operation) = operation.map_err(|error| refuse(error.to_string()))?;
            self.operation(segment, sequence, group, operation).map_err(refuse)?;
        }
        self.expected = Some(sequence + 1);
        self.based = true;
        self.end.sequence = sequence;
        if let Some(last) = self.end.segments.back_mut() {
            last.bytes += bytes;
        }
        if self.fresh > self.tail_bytes_max / 16 {
            self.fresh = 0;
            level_tails(self.groups.values(), self.tail_bytes_max);
        }
        Ok(())
    }

    fn operation(
        &mut self,
        segment: u64,
        sequence: u64,
        group: GroupId,
        operation: Operation,
    ) -> Result<(), String> {
        let group = self.groups.entry(group).or_insert_with(|| Arc::new(Group::new(group)));
        let mut state = group.state();
        let State { view, durable, .. } = &mut *state;
        if let Operation::Checkpoint(checkpoint) = &operation
            && self.based
            && **checkpoint != durable.checkpoint
        {
            return Err(format!("checkpoint of {} contradicts the records before it", group.id));
        }
        durable.apply(&operation, segment, sequence, &mut self.end.ledger);
        self.fresh += follow(view, operation);
        Ok(())
    }

    fn check_mark(&self, mark: Option<u64>) -> Result<(), StorageError> {
        let last = self.end.sequence;
        match mark {
            Some(mark) if last < mark => {
                let why =
                    self.damage.as_ref().map_or_else(|| "no trace of them".to_owned(), ToString::to_string);
                Err(StorageError::Lost { last, mark, why })
            }
            None if !self.end.segments.is_empty() => {
                Err(StorageError::Damaged { place: "the mark".into(), why: "it is missing".into() })
            }
            _ => Ok(()),
        }
    }

    fn check_groups(&self) -> Result<(), StorageError> {
        for group in self.groups.values() {
            if let Some(why) = group.state().durable.gap() {
                return Err(StorageError::Damaged { place: group.id.to_string(), why });
            }
        }
        Ok(())
    }

    fn finish(
        self,
        disk: &Arc<dyn Disk>,
        bin: &Arc<Bin>,
        tables: &[String],
    ) -> Result<Recovered, StorageError> {
        level_tails(self.groups.values(), self.tail_bytes_max);
        let (mut current, mut next_snapshot) = (BTreeSet::new(), 1);
        for group in self.groups.values() {
            let mut state = group.state();
            let State { view, durable, .. } = &mut *state;
            show(view, durable);
            if let Some(manifest) = &durable.checkpoint.snapshot {
                let owned =
                    Tables::new(Arc::clone(disk), Arc::clone(bin), group.id, manifest.number, manifest.parts);
                let snapshot = Snapshot::new(manifest.clone(), Arc::new(owned));
                snapshot.check_tables(tables)?;
                current.insert((group.id, manifest.number));
                // An empty snapshot has no tables that would tell.
                next_snapshot = next_snapshot.max(manifest.number + 1);
                durable.snapshot = Some(snapshot);
            }
        }
        disk.remove_leftovers()?;
        for name in tables {
            let Some((group, number, _)) = parse_table_name(name) else { continue };
            next_snapshot = next_snapshot.max(number + 1);
            if !current.contains(&(group, number)) {
                tracing::info!(table = name, "removing what is left of an old or unfinished snapshot");
                disk.remove(name)?;
            }
        }
        Ok(Recovered { groups: self.groups, next_snapshot, log: self.end })
    }
}

/// Lets the tail follow an operation. Returns the bytes of new entries.
fn follow(view: &mut View, operation: Operation) -> usize {
    match operation {
        Operation::Append(entries) => {
            let before = view.tail.bytes();
            for entry in entries {
                let index = entry.log_id.index();
                view.tail.truncate(index);
                if view.tail.last().is_some_and(|last| last.log_id.index() + 1 != index) {
                    view.tail.clear();
                }
                view.tail.push(entry);
                view.tail.set_durable(index + 1);
            }
            return view.tail.bytes().saturating_sub(before);
        }
        Operation::Truncate(after) => view.tail.truncate(next_index(after.as_ref())),
        Operation::Purge(upto) => view.tail.purge(upto.index() + 1),
        Operation::Forget => view.tail.clear(),
        _ => {}
    }
    0
}

/// Shows the replica what the disk has.
fn show(view: &mut View, durable: &Durable) {
    let checkpoint = &durable.checkpoint;
    view.vote = checkpoint.vote;
    view.purged = checkpoint.purged;
    view.last = checkpoint.last;
    view.log_bytes = durable.index.bytes();
    // A mark is queued after the entries that it covers, so it can only exceed the log where these were
    // replaced by a snapshot that did not come to be.
    view.committed = checkpoint.committed.min(checkpoint.last);
}
