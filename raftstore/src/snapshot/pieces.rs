//! Pieces to values and back.
//!
//! ```text
//! stream   per piece: length u32 · bytes; piece after piece
//! value    version u8 (1) · CRC-32 u32 · up to 96 KiB less these five bytes of the stream
//! ```
//!
//! The CRC also covers the group, the snapshot's number and the value's number within the snapshot, so that a
//! value in another's place is as bad as a damaged one.

use crate::disk::VALUE_BYTES_MAX;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use proto::GroupId;
use std::collections::VecDeque;

const VERSION: u8 = 1;
const HEADER: usize = 1 + 4;
const STREAM_BYTES_MAX: usize = VALUE_BYTES_MAX - HEADER;

/// What distinguishes a value from all others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) group: GroupId,
    pub(super) snapshot: u64,
    pub(super) value: u64,
}

impl Place {
    fn crc(self, stream: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        for number in [self.group.0, self.snapshot, self.value] {
            hasher.update(&number.to_le_bytes());
        }
        hasher.update(stream);
        hasher.finalize()
    }

    fn next(&mut self) -> Self {
        let place = *self;
        self.value += 1;
        place
    }
}

fn put_value(place: Place, stream: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(HEADER + stream.len());
    value.put_u8(VERSION);
    value.put_u32_le(place.crc(stream));
    value.put_slice(stream);
    value
}

fn take_value(place: Place, mut value: Bytes) -> Result<Bytes, String> {
    let number = place.value;
    if value.len() < HEADER {
        return Err(format!("value {number} ends early"));
    }
    let (version, crc) = (value.get_u8(), value.get_u32_le());
    if version != VERSION {
        return Err(format!("value {number} has an unknown version: {version}"));
    }
    if crc != place.crc(&value) {
        return Err(format!("checksum of value {number} does not match"));
    }
    Ok(value)
}

/// Lays pieces end to end and cuts them into values.
#[derive(Debug)]
pub(super) struct Packer {
    next: Place,
    stream: BytesMut,
    pub(super) pieces: u64,
    pub(super) bytes: u64,
}

impl Packer {
    pub(super) fn new(group: GroupId, snapshot: u64) -> Self {
        let next = Place { group, snapshot, value: 0 };
        Self { next, stream: BytesMut::new(), pieces: 0, bytes: 0 }
    }

    pub(super) fn push(&mut self, piece: &[u8]) {
        let length = u32::try_from(piece.len()).expect("a piece is checked against its limit first");
        self.stream.put_u32_le(length);
        self.stream.put_slice(piece);
        self.pieces += 1;
        self.bytes += piece.len() as u64;
    }

    /// What waits to be cut.
    pub(super) fn waiting(&self) -> usize {
        self.stream.len()
    }

    /// The full values; at the `end`, all.
    pub(super) fn cut(&mut self, end: bool) -> Vec<(u64, Vec<u8>)> {
        let mut values = Vec::new();
        while self.stream.len() >= STREAM_BYTES_MAX || (end && !self.stream.is_empty()) {
            let stream = self.stream.split_to(self.stream.len().min(STREAM_BYTES_MAX));
            let place = self.next.next();
            values.push((place.value, put_value(place, &stream)));
        }
        values
    }

    /// How many values were cut.
    pub(super) fn values(&self) -> u64 {
        self.next.value
    }
}

/// Puts values together to pieces again.
#[derive(Debug)]
pub(super) struct Unpacker {
    next: Place,
    stream: BytesMut,
    whole: VecDeque<Bytes>,
}

impl Unpacker {
    pub(super) fn new(group: GroupId, snapshot: u64) -> Self {
        let next = Place { group, snapshot, value: 0 };
        Self { next, stream: BytesMut::new(), whole: VecDeque::new() }
    }

    /// Takes the value that follows.
    pub(super) fn push(&mut self, number: u64, value: Bytes) -> Result<(), String> {
        if number != self.next.value {
            return Err(format!("value {} is missing", self.next.value));
        }
        self.stream.extend_from_slice(&take_value(self.next.next(), value)?);
        while let Some((length, rest)) = self.stream.split_first_chunk::<4>() {
            let length = u32::from_le_bytes(*length) as usize;
            if length > super::PIECE_BYTES_MAX {
                return Err(format!("piece of {length} bytes exceeds the limit"));
            }
            if rest.len() < length {
                break;
            }
            self.stream.advance(4);
            self.whole.push_back(self.stream.split_to(length).freeze());
        }
        Ok(())
    }

    /// The next whole piece.
    pub(super) fn pop(&mut self) -> Option<Bytes> {
        self.whole.pop_front()
    }

    /// The number of the value that follows.
    pub(super) fn wanted(&self) -> u64 {
        self.next.value
    }

    /// Whether nothing is left over.
    pub(super) fn is_empty(&self) -> bool {
        self.stream.is_empty() && self.whole.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The layout does not drift.
    #[test]
    fn golden_bytes() {
        let mut packer = Packer::new(GroupId(1), 7);
        packer.push(b"ab");
        packer.push(b"");
        let values = packer.cut(true);
        let (number, value) = &values[0];
        assert_eq!((values.len(), *number), (1, 0));
        assert_eq!(value[0], VERSION);
        assert_eq!(value[5..], [2, 0, 0, 0, b'a', b'b', 0, 0, 0, 0]);
        let mut hashed = Vec::new();
        [1u64, 7, 0].iter().for_each(|number| hashed.extend(number.to_le_bytes()));
        hashed.extend(&value[5..]);
        assert_eq!(value[1..5], crc32fast::hash(&hashed).to_le_bytes());
    }

    proptest! {
        /// Pieces of any size come back as they went in, however they were cut.
        #[test]
        fn pieces_come_back(sizes in proptest::collection::vec(0usize..300_000, 0..6)) {
            let pieces: Vec<Vec<u8>> = sizes.iter().zip(1u8..).map(|(&size, byte)| vec![byte; size]).collect();
            let (mut packer, mut unpacker) = (Packer::new(GroupId(1), 2), Unpacker::new(GroupId(1), 2));
            let mut values = Vec::new();
            for piece in &pieces {
                packer.push(piece);
                values.extend(packer.cut(false));
            }
            values.extend(packer.cut(true));
            prop_assert_eq!(values.len() as u64, packer.values());
            let mut found = Vec::new();
            for (number, value) in values {
                prop_assert!(value.len() <= VALUE_BYTES_MAX);
                unpacker.push(number, value.into()).unwrap();
                found.extend(std::iter::from_fn(|| unpacker.pop()));
            }
            prop_assert!(unpacker.is_empty());
            prop_assert_eq!(found, pieces);
        }

        /// A flipped bit, a value left out and a value of another snapshot are all refused.
        #[test]
        fn damage_is_refused(bit in 0usize..80, snapshot in 0u64..2, left_out in any::<bool>()) {
            let mut packer = Packer::new(GroupId(1), 2);
            packer.push(b"hello");
            let (_, mut value) = packer.cut(true).remove(0);
            if snapshot == 0 && !left_out {
                let at = bit % (value.len() * 8);
                value[at / 8] ^= 1 << (at % 8);
                prop_assert!(Unpacker::new(GroupId(1), 2).push(0, value.into()).is_err());
            } else if left_out {
                prop_assert!(Unpacker::new(GroupId(1), 2).push(1, value.into()).is_err());
            } else {
                prop_assert!(Unpacker::new(GroupId(1), 2 + snapshot).push(0, value.into()).is_err());
            }
        }
    }
}
