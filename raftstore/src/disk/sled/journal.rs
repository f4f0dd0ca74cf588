//! The newest values of a table that is synced often, until sled has them.
//!
//! A flush of sled wakes every thread of its pool, writes, and waits for the device before our own sync does. Here a
//! sync is one write and one `fdatasync` of a file whose length and blocks never change. sled gets the values when they
//! fill the journal; the sync that follows is sled's, and the journal's next lap begins.
//!
//! ```text
//! file    "fjl1", the format · frames · what earlier laps left, or zeros; JOURNAL_BYTES in all
//! frame   CRC-32 of all that follows u32 · lap u32 · bytes of the value u32 · number u64 · value
//! ```
//!
//! Crash points. A lap begins anew once sled has all values of the one before, durably; until then they stand here.
//! So a crash finds each value whose sync has returned here, or in sled, or in both. A frame that was cut short ends
//! the lap, and so does one of an earlier lap; nobody was told that those values were durable. What was never synced
//! may be found all the same: as much as was written, from the first on. The file is durable before the table counts
//! as made, so one that does not begin as it should is damaged.
//!
//! A journal is removed by the process that wrote it, once it has closed the table and nothing has failed, or with its
//! table. Whoever opens the table after a kill leaves it where it is: a sync of sled's file that failed for the process
//! before would succeed for this one, and prove nothing.

use super::Root;
use crate::disk::{DiskError, VALUE_BYTES_MAX, up_to};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How much waits for sled at most, and what the file takes. As much of small values becomes less than one of sled's
/// segments, so that no more of its file is ever written between two syncs.
pub(super) const JOURNAL_BYTES: usize = 256 << 10;

const FORMAT: [u8; 4] = *b"fjl1";

const HEADER_BYTES: usize = 20;

const _: () =
    assert!(FORMAT.len() + HEADER_BYTES + VALUE_BYTES_MAX <= JOURNAL_BYTES, "the longest value fits");

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Journal {
    file: Arc<File>,
    path: PathBuf,
    lap: u32,
    /// The frames of this lap.
    frames: Vec<u8>,
    /// How many of their bytes are in the file.
    written: usize,
    /// Where the values of this lap stand in the frames.
    values: BTreeMap<u64, Range<usize>>,
}

impl Journal {
    /// Makes the file, with all its blocks, durably but for its name.
    pub(super) fn create(path: PathBuf, root: &Root) -> Result<Self, DiskError> {
        let file = super::open_file(&path)?;
        let mut blocks = vec![0; JOURNAL_BYTES];
        blocks[..FORMAT.len()].copy_from_slice(&FORMAT);
        file.write_all_at(&blocks, 0).map_err(super::failed("write", &path))?;
        root.sync_all(&file, &path)?;
        Ok(Self {
            file: Arc::new(file),
            path,
            lap: 1,
            frames: Vec::new(),
            written: 0,
            values: BTreeMap::new(),
        })
    }

    pub(super) fn has_room(&self, value: &[u8]) -> bool {
        FORMAT.len() + self.frames.len() + HEADER_BYTES + value.len() <= JOURNAL_BYTES
    }

    /// Adds a value, for which there is room, to what the next sync writes.
    pub(super) fn put(&mut self, key: u64, value: &[u8]) {
        let start = self.frames.len();
        self.frames.extend_from_slice(&[0; 4]);
        self.frames.extend_from_slice(&self.lap.to_le_bytes());
        let length = u32::try_from(value.len()).expect("a value is far shorter than 4 GiB");
        self.frames.extend_from_slice(&length.to_le_bytes());
        self.frames.extend_from_slice(&key.to_le_bytes());
        self.frames.extend_from_slice(value);
        let crc = crc32fast::hash(&self.frames[start + 4..]).to_le_bytes();
        self.frames[start..start + 4].copy_from_slice(&crc);
        self.values.insert(key, start + HEADER_BYTES..self.frames.len());
    }

    /// Writes all values of this lap. Returns the file, whose sync makes them durable.
    pub(super) fn write(&mut self) -> Result<(Arc<File>, PathBuf), DiskError> {
        let (fresh, at) = (&self.frames[self.written..], FORMAT.len() + self.written);
        self.file.write_all_at(fresh, at as u64).map_err(super::failed("write", &self.path))?;
        self.written = self.frames.len();
        Ok((Arc::clone(&self.file), self.path.clone()))
    }

    /// The values of this lap, from a number on, in order.
    pub(super) fn values(&self, from: u64) -> impl Iterator<Item = (u64, &[u8])> {
        self.values.range(from..).map(|(&key, at)| (key, &self.frames[at.clone()]))
    }

    /// Copies of as many of them as [`Table::scan`](crate::Table::scan) returns.
    pub(super) fn newest(&self, from: u64, bytes_max: usize) -> Vec<(u64, Bytes)> {
        up_to(bytes_max, self.values(from)).map(|(key, value)| (key, Bytes::copy_from_slice(value))).collect()
    }

    /// Sled has the values of this lap, durably.
    pub(super) fn begin_lap(&mut self) {
        self.lap += 1;
        self.frames.clear();
        self.written = 0;
        self.values.clear();
    }

    /// What the journal of an earlier process holds, by number; `None` where there is none.
    pub(super) fn read(path: &Path) -> Result<Option<BTreeMap<u64, Vec<u8>>>, DiskError> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(super::failed("read", path)(error)),
        };
        let mut bytes = Vec::new();
        let most = JOURNAL_BYTES as u64 + 1;
        file.take(most).read_to_end(&mut bytes).map_err(super::failed("read", path))?;
        let frames = bytes.strip_prefix(&FORMAT).filter(|_| bytes.len() == JOURNAL_BYTES);
        let why = "it has not the beginning and the length of a journal that this build knows";
        let frames = frames.ok_or_else(|| DiskError::damaged(path.display().to_string(), why))?;
        Ok(Some(values_in(frames)))
    }
}

/// The values of the lap whose frames `bytes` begin with, as far as they are whole.
fn values_in(mut bytes: &[u8]) -> BTreeMap<u64, Vec<u8>> {
    let mut values = BTreeMap::new();
    let mut lap = None;
    while let Some((frame, rest)) = split_frame(bytes)
        && *lap.get_or_insert(frame.lap) == frame.lap
    {
        values.insert(frame.key, frame.value.to_vec());
        bytes = rest;
    }
    values
}

struct Frame<'a> {
    lap: u32,
    key: u64,
    value: &'a [u8],
}

/// The frame at the beginning of `bytes`, where it is whole, and what follows it.
fn split_frame(bytes: &[u8]) -> Option<(Frame<'_>, &[u8])> {
    let (crc, covered) = bytes.split_first_chunk()?;
    let (lap, rest) = covered.split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    let (key, rest) = rest.split_first_chunk()?;
    let (value, rest) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    let whole = crc32fast::hash(&covered[..covered.len() - rest.len()]) == u32::from_le_bytes(*crc);
    whole.then(|| (Frame { lap: u32::from_le_bytes(*lap), key: u64::from_le_bytes(*key), value }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sled::syncer::SystemSyncer;
    use proptest::collection::vec;
    use proptest::prelude::*;
    fn root(folder: &Path) -> Root {
        let lock = super::super::open_file(&folder.join("lock")).unwrap();
        Root { path: folder.to_path_buf(), syncer: Arc::new(SystemSyncer), _lock: lock }
    }

    fn sync(journal: &mut Journal) {
        let (file, _) = journal.write().unwrap();
        file.sync_data().unwrap();
    }

    fn numbered(values: &[(u64, &str)]) -> BTreeMap<u64, Vec<u8>> {
        values.iter().map(|(key, value)| (*key, value.as_bytes().to_vec())).collect()
    }

    /// The layout does not drift.
    #[test]
    fn golden_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let root = root(folder.path());
        let path = folder.path().join("journal");
        let mut journal = Journal::create(path.clone(), &root).unwrap();
        journal.put(258, b"ab");
        sync(&mut journal);
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes.len(), JOURNAL_BYTES);
        let covered = [1, 0, 0, 0, 2, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, b'a', b'b'];
        assert_eq!(bytes[..4], *b"fjl1");
        assert_eq!(bytes[4..8], crc32fast::hash(&covered).to_le_bytes());
        assert_eq!(bytes[8..26], covered);
        assert!(bytes[26..].iter().all(|&byte| byte == 0));
        assert_eq!(Journal::read(&path).unwrap().unwrap(), numbered(&[(258, "ab")]));
        for other in
            [[b"fjl2", &bytes[4..]].concat(), bytes[1..].to_vec(), [&bytes[..], b"x"].concat(), Vec::new()]
        {
            std::fs::write(&path, other).unwrap();
            let error = Journal::read(&path).unwrap_err().to_string();
            assert!(error.contains("journal is damaged"), "{error}");
        }
    }

    /// Of a lap that is shorter than the one before nothing is read but its own values, and the newest of each number.
    #[test]
    fn a_lap_ends_where_an_earlier_one_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let root = root(folder.path());
        let path = folder.path().join("journal");
        let read = || Journal::read(&path).unwrap().unwrap();
        assert_eq!(Journal::read(&path).unwrap(), None);
        let mut journal = Journal::create(path.clone(), &root).unwrap();
        assert_eq!(read(), BTreeMap::new());
        for (key, value) in [(1, "one"), (2, "two"), (2, "zwo")] {
            journal.put(key, value.as_bytes());
        }
        assert_eq!(read(), BTreeMap::new());
        sync(&mut journal);
        journal.put(3, b"not synced, not written");
        assert_eq!(read(), numbered(&[(1, "one"), (2, "zwo")]));
        journal.begin_lap();
        assert_eq!(journal.values(0).count(), 0);
        journal.put(4, b"for");
        sync(&mut journal);
        assert_eq!(read(), numbered(&[(4, "for")]));
    }

    proptest! {
        /// Whatever stands in the file, what is read of it was whole: frames of one lap, one after another from the
        /// beginning.
        #[test]
        fn any_bytes_are_read(frames in vec((0..3_u32, any::<u64>(), vec(any::<u8>(), 0..40), any::<bool>()), 0..8)) {
            let mut bytes = Vec::new();
            let (mut want, mut ended) = (BTreeMap::new(), false);
            for (lap, key, value, whole) in &frames {
                let mut covered = lap.to_le_bytes().to_vec();
                covered.extend((value.len() as u32).to_le_bytes());
                covered.extend(key.to_le_bytes());
                covered.extend(value);
                bytes.extend((crc32fast::hash(&covered) ^ u32::from(!whole)).to_le_bytes());
                bytes.extend(covered);
                ended |= !whole || *lap != frames[0].0;
                if !ended {
                    want.insert(*key, value.clone());
                }
            }
            prop_assert_eq!(values_in(&bytes), want);
        }

        /// No bytes make it fail, or read more than there is.
        #[test]
        fn hostile_bytes_are_read(bytes in vec(any::<u8>(), 0..200)) {
            let read: usize = values_in(&bytes).values().map(|value| HEADER_BYTES + value.len()).sum();
            prop_assert!(read <= bytes.len());
        }
    }

    /// Wherever a frame is cut off or has a bit flipped, what comes before it is read, and
    /// neither it nor anything behind it.
    #[test]
    fn a_damaged_frame_ends_the_lap() {
        let folder = tempfile::tempdir().unwrap();
        let root = root(folder.path());
        let path = folder.path().join("journal");
        let mut journal = Journal::create(path.clone(), &root).unwrap();
        for (key, value) in [(1, "one"), (2, "two"), (3, "three")] {
            journal.put(key, value.as_bytes());
        }
        sync(&mut journal);
        let whole = std::fs::read(&path).unwrap()[FORMAT.len()..].to_vec();
        let (first, second) = (HEADER_BYTES + 3, 2 * (HEADER_BYTES + 3));
        for at in first..second {
            assert_eq!(values_in(&whole[..at]), numbered(&[(1, "one")]), "cut at {at}");
            for bit in 0..8 {
                let mut damaged = whole.clone();
                damaged[at] ^= 1 << bit;
                assert_eq!(values_in(&damaged), numbered(&[(1, "one")]), "bit {bit} of {at}");
            }
        }
        assert_eq!(values_in(&whole[..second]), numbered(&[(1, "one"), (2, "two")]));
    }
}
