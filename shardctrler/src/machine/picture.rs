//! Pictures of the state, in pieces.
//!
//! Owns the format of a piece; the picture itself is the controller in the encoding of [`proto::encode`].
//!
//! ```text
//! piece   version u8 (1) · offset u32 · length of the picture u32, little-endian · bytes from the offset on
//! ```
//!
//! A piece at offset 0 begins a new picture, and what was gathered of an older one is dropped.

use crate::controller::Controller;
use raftstore::{CopyId, CopyStep};
use std::collections::BTreeMap;

const VERSION: u8 = 1;

/// What a piece has beside the picture's bytes.
const HEAD_BYTES: usize = 9;

/// The most bytes of a picture in one piece, whatever is asked: well below what raftstore takes for one.
const PIECE_BYTES_MAX: usize = 1 << 20;

/// No picture may claim more than this, so that a damaged length cannot ask for all memory.
const PICTURE_BYTES_MAX: usize = 64 << 20;

/// The copies under way. Their number is bounded by whoever begins them.
#[derive(Debug, Default)]
pub(super) struct Album {
    /// How many were ever begun; ids are never used again.
    begun: u64,
    running: BTreeMap<CopyId, Option<Picture>>,
}

/// A state at one instant, and how much of it was handed out.
#[derive(Debug)]
struct Picture {
    bytes: Vec<u8>,
    handed: usize,
}

impl Album {
    pub(super) fn begin(&mut self) -> CopyId {
        self.begun += 1;
        let id = CopyId(self.begun);
        self.running.insert(id, None);
        id
    }

    pub(super) fn end(&mut self, id: CopyId) {
        self.running.remove(&id);
    }

    /// The state has changed: pictures of it are of no use any more.
    pub(super) fn outdate(&mut self) {
        self.running.values_mut().for_each(|picture| *picture = None);
    }

    /// The next piece of copy `id`, of the state as it is now.
    pub(super) fn step(&mut self, id: CopyId, controller: &Controller, bytes_max: usize) -> CopyStep {
        let picture = self.running.get_mut(&id).expect("a step is asked only of a copy that runs");
        let picture = picture.get_or_insert_with(|| Picture { bytes: proto::encode(controller), handed: 0 });
        picture.step(bytes_max)
    }
}

impl Picture {
    fn step(&mut self, bytes_max: usize) -> CopyStep {
        assert!(self.bytes.len() <= PICTURE_BYTES_MAX, "the controller's bounds bound its picture");
        let left = &self.bytes[self.handed..];
        if left.is_empty() {
            return CopyStep::default();
        }
        let length = left.len().min(bytes_max.saturating_sub(HEAD_BYTES).clamp(1, PIECE_BYTES_MAX));
        let (offset, whole) = (self.handed as u32, self.bytes.len() as u32);
        let piece = [&[VERSION][..], &offset.to_le_bytes(), &whole.to_le_bytes(), &left[..length]].concat();
        self.handed += length;
        CopyStep { bytes: piece, remaining: (self.bytes.len() - self.handed) as u64 }
    }
}

/// The pieces of a picture that has not come in whole yet.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    gathered: Vec<u8>,
    whole: usize,
}

impl Pieces {
    /// Adds a piece; the picture, once it is whole.
    pub(super) fn add(&mut self, piece: &[u8]) -> Result<Option<Vec<u8>>, String> {
        let Some((&[version, ref head @ ..], bytes)) = piece.split_first_chunk::<HEAD_BYTES>() else {
            return Err(format!("piece has {} bytes", piece.len()));
        };
        if version != VERSION {
            return Err(format!("piece has format version {version}, this build reads {VERSION}"));
        }
        let &[a, b, c, d, e, f, g, h] = head;
        let offset = u32::from_le_bytes([a, b, c, d]) as usize;
        let whole = u32::from_le_bytes([e, f, g, h]) as usize;
        if offset == 0 {
            self.gathered.clear();
            self.whole = whole;
        }
        if offset != self.gathered.len() || whole != self.whole {
            return Err(format!(
                "piece at {offset} of {whole} follows {} of {}",
                self.gathered.len(),
                self.whole
            ));
        }
        let end = offset + bytes.len();
        if bytes.is_empty() || end > whole || whole > PICTURE_BYTES_MAX {
            return Err(format!("piece with {} bytes at {offset} of {whole}", bytes.len()));
        }
        self.gathered.extend_from_slice(bytes);
        Ok((end == whole).then(|| std::mem::take(&mut self.gathered)))
    }
}
