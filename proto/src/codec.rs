//! The one way in which messages become bytes: a version byte, then bincode 2 (little-endian, variable-length
//! integers). A reader refuses versions that it does not know, trailing bytes, and lengths that the bytes it
//! was given cannot pay for: it reserves at most [`CLAIM_BYTES_EACH`] for each of them, and [`BYTES_MAX`] in
//! all.

use bincode::de::BorrowDecoder;
use bincode::{BorrowDecode, Encode};

/// The version that this build writes and the only one that it reads: the first byte of every message.
pub const VERSION: u8 = 1;

/// No message may claim more than this, so that a damaged length cannot ask for all memory.
const BYTES_MAX: usize = 64 << 20;

/// What a message may claim for each byte that it has, in bytes of memory: bincode reserves for a whole list
/// once it has read its length. No list whose items are there takes as much: the densest is a batch, whose
/// smallest item has three bytes. An integer claims 16 for a byte, at most.
const CLAIM_BYTES_EACH: usize = 64;

const _: () =
    assert!(size_of::<crate::Item<'_>>() <= 3 * CLAIM_BYTES_EACH, "a batch of the smallest items is read");

const CONFIG: bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<BYTES_MAX>,
> = bincode::config::standard().with_limit::<BYTES_MAX>();

/// Why bytes from disk or wire are not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// There was nothing at all.
    #[error("message is empty")]
    Empty,
    /// The first byte names a format that this build does not read.
    #[error("message has format version {0}, this build reads {VERSION}")]
    Version(u8),
    /// bincode refused the rest.
    #[error("message is malformed: {0}")]
    Malformed(String),
    /// The message ended before its bytes did.
    #[error("message is followed by {0} stray bytes")]
    Trailing(usize),
}

/// The bytes of `message`, version first.
pub fn encode<M: Encode>(message: &M) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64);
    encode_into(message, &mut bytes);
    bytes
}

/// Appends the bytes of `message`, version first.
pub fn encode_into<M: Encode>(message: &M, bytes: &mut Vec<u8>) {
    bytes.push(VERSION);
    bincode::encode_into_std_write(message, bytes, CONFIG)
        .expect("a message of ours encodes: writing to memory has no other way to fail below the limit");
}

/// The message in `bytes`; byte strings inside it borrow from them.
///
/// # Errors
/// [`DecodeError`] where the bytes are not exactly one message of a known version.
pub fn decode<'a, M: BorrowDecode<'a, ()>>(bytes: &'a [u8]) -> Result<M, DecodeError> {
    let (&version, rest) = bytes.split_first().ok_or(DecodeError::Empty)?;
    if version != VERSION {
        return Err(DecodeError::Version(version));
    }
    let (message, used) = decode_part(rest)?;
    match rest.len() - used {
        0 => Ok(message),
        stray => Err(DecodeError::Trailing(stray)),
    }
}

/// The part of a message that `bytes` begin with, behind the version or another part, and how many of them it
/// takes. A part is encoded as [`encode`] does, without the version.
///
/// # Errors
/// [`DecodeError::Malformed`] where they begin with no such part.
pub fn decode_part<'a, M: BorrowDecode<'a, ()>>(bytes: &'a [u8]) -> Result<(M, usize), DecodeError> {
    let claim_bytes_max = bytes.len().saturating_mul(CLAIM_BYTES_EACH).min(BYTES_MAX);
    bincode::borrow_decode_from_slice_with_context(bytes, CONFIG, claim_bytes_max)
        .map(|(Paid(message), used)| (message, used))
        .map_err(|error| DecodeError::Malformed(error.to_string()))
}

/// A message that claims no more bytes of memory than its context says.
struct Paid<M>(M);

impl<'de, M: BorrowDecode<'de, ()>> BorrowDecode<'de, usize> for Paid<M> {
    fn borrow_decode<D: BorrowDecoder<'de, Context = usize>>(
        decoder: &mut D,
    ) -> Result<Self, bincode::error::DecodeError> {
        let claim_bytes_max = *decoder.context();
        decoder.claim_bytes_read(BYTES_MAX - claim_bytes_max)?;
        M::borrow_decode(&mut decoder.with_context(())).map(Self)
    }
}
