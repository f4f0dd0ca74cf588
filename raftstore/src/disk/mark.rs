//! The bytes of the mark: the sequence of the last record known to be durable, in two slots written in turn.
//!
//! A slot fits a sector and the slots lie in different pages, so that a write cut short spoils at most the
//! slot it was meant for. The greater of the whole slots counts.
//!
//! ```text
//! slot   mark u64 · magic u32 ("fmk1") · CRC-32 of the twelve bytes before it u32
//! file   slot at 0, slot at 4096
//! ```

pub(super) const SLOT_BYTES: usize = 16;
pub(super) const SLOT_OFFSETS: [u64; 2] = [0, 4096];
const MAGIC: [u8; 4] = *b"fmk1";

pub(super) fn put_slot(mark: u64) -> [u8; SLOT_BYTES] {
    let mut slot = [0; SLOT_BYTES];
    slot[..8].copy_from_slice(&mark.to_le_bytes());
    slot[8..12].copy_from_slice(&MAGIC);
    let crc = crc32fast::hash(&slot[..12]);
    slot[12..].copy_from_slice(&crc.to_le_bytes());
    slot
}

/// The mark in a slot, where it is whole.
pub(super) fn take_slot(slot: &[u8]) -> Option<u64> {
    let (mark, rest) = slot.split_first_chunk::<8>()?;
    let crc = crc32fast::hash(slot.get(..12)?).to_le_bytes();
    (rest.len() == 8 && rest[..4] == MAGIC && rest[4..] == crc).then(|| u64::from_le_bytes(*mark))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The layout does not drift.
    #[test]
    fn golden_bytes() {
        let want = [0x02, 0x01, 0, 0, 0, 0, 0, 0, b'f', b'm', b'k', b'1', 0xbb, 0x55, 0xea, 0x4b];
        let slot = put_slot(258);
        assert_eq!(slot[..12], want[..12]);
        assert_eq!(take_slot(&slot), Some(258));
    }

    /// No flipped bit and no cut goes unnoticed.
    #[test]
    fn damage_is_seen() {
        let slot = put_slot(0xdead_beef);
        for bit in 0..SLOT_BYTES * 8 {
            let mut damaged = slot;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(take_slot(&damaged), None, "bit {bit}");
        }
        for length in 0..SLOT_BYTES {
            assert_eq!(take_slot(&slot[..length]), None, "length {length}");
        }
    }
}
