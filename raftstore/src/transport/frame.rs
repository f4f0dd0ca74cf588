//! The unit of the wire: a fixed header, then a payload.
//!
//! ```text
//! length u32 · bytes after this field
//! crc    u32 · CRC-32 of all that follows it
//! version u8 · kind u8 · group u64 · id u64 · payload        (group: a replica's mailbox)
//! ```
//!
//! Integers are little-endian. TCP's own checksum lets about one damaged segment in 65,536 pass, and what a
//! follower takes in it writes under a checksum of its own: without the CRC here a bit flipped on the way would
//! be durable and look sound.
//!
//! A length is checked against the lane's bound before anything is allocated for it, and memory then grows only
//! with the bytes that really arrive. Bad bytes end the connection, never the process.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use proto::GroupId;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The version of this layout, and of the greetings (see [`super::handshake`]) for ever.
const VERSION: u8 = 1;

/// Length, CRC, version, kind, group and id.
pub(crate) const HEADER: usize = 4 + 4 + 1 + 1 + 8 + 8;

/// What the length counts beyond the payload.
const COUNTED: usize = HEADER - 4;

/// The most memory that a length alone, without its bytes, makes a reader reserve.
const RESERVE_BYTES: usize = 64 << 10;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $byte:literal,)*) => {
        /// What a frame says.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Kind { $($(#[$doc])* $name = $byte,)* }

        impl Kind {
            fn from_byte(byte: u8) -> Option<Self> {
                match byte { $($byte => Some(Self::$name),)* _ => None }
            }
        }
    };
}

kinds! {
    /// First on a connection, from its maker.
    Hello = 1,
    /// The answer: go on.
    Welcome = 2,
    /// The answer: not here, with the reason; the connection ends.
    Refused = 3,
    /// Is anybody there?
    Ping = 4,
    /// Yes. Also sent unasked while much is received and nothing answered.
    Pong = 5,
    /// One append of the stream `id`; the first opens it.
    Append = 16,
    /// The answer to one append of the stream `id`.
    Appended = 17,
    /// The stream `id` is over, with a reason where the receiver says so.
    End = 18,
    /// A lone append.
    Heartbeat = 32,
    /// A request for a vote.
    Vote = 33,
    /// A question whether a vote would be granted.
    PreVote = 34,
    /// A word that another shall lead.
    TransferLeader = 35,
    /// The snapshot transfer `id` begins: vote and meta.
    SnapshotBegin = 48,
    /// One piece of it.
    SnapshotPiece = 49,
    /// All pieces were sent: install.
    SnapshotEnd = 50,
    /// How much of it was taken, or that installing goes on.
    SnapshotProgress = 51,
    /// A request for a service.
    Request = 64,
    /// The answer to whatever `id` asked.
    Reply = 80,
    /// `id` was not carried out, with the reason.
    Failed = 81,
}

/// One past the highest kind, for tables of counters.
pub(crate) const KINDS: usize = 82;

/// A frame as received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    /// The mailbox of the replica that is meant (see [`crate::types::ReplicaId::mailbox`]), not the group's own id; 0
    /// for none.
    pub(crate) group: GroupId,
    /// The call, stream or transfer, chosen by the maker of the connection; 0 for none.
    pub(crate) id: u64,
    /// Shares memory with what arrived beside it.
    pub(crate) payload: Bytes,
}

/// The bytes of a frame whose payload `put` writes.
pub(crate) fn encode(
    kind: Kind,
    group: GroupId,
    id: u64,
    capacity: usize,
    put: impl FnOnce(&mut Vec<u8>),
) -> Bytes {
    let mut bytes = Vec::with_capacity(HEADER + capacity);
    bytes.put_u64_le(0);
    bytes.put_u8(VERSION);
    bytes.put_u8(kind as u8);
    bytes.put_u64_le(group.0);
    bytes.put_u64_le(id);
    put(&mut bytes);
    let length =
        u32::try_from(bytes.len() - 4).expect("senders hold frames below the lane's bound, far below 4 GiB");
    let crc = crc32fast::hash(&bytes[8..]);
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    Bytes::from(bytes)
}

/// Why a connection's bytes cannot be read on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("connection failed: {0}")]
    Io(#[from] io::Error),
    #[error("connection ended inside a frame")]
    Cut,
    #[error("frame is too large: {length} bytes, at most {max}")]
    TooLarge { length: usize, max: usize },
    #[error("frame is too short: {0} bytes")]
    TooShort(usize),
    #[error("frame does not match its checksum")]
    Checksum,
    #[error("frame has format version {0}, this build reads {VERSION}")]
    Version(u8),
    #[error("frame has unknown kind {0}")]
    Kind(u8),
}

/// Takes frames out of a stream of bytes.
pub(crate) struct FrameReader<R> {
    from: R,
    buffer: BytesMut,
    /// The largest frame to accept, header included.
    bytes_max: usize,
    /// All bytes ever read; shared with whoever watches for signs of life.
    received: Arc<AtomicU64>,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(crate) fn new(from: R, bytes_max: usize) -> Self {
        Self { from, buffer: BytesMut::new(), bytes_max, received: Arc::default() }
    }

    /// Counts the bytes read so far.
    pub(crate) fn received(&self) -> Arc<AtomicU64> {
        self.received.clone()
    }

    /// Accepts frames up to `bytes_max` from now on: small before the greeting, the lane's own after it.
    pub(crate) fn set_bytes_max(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
    }

    /// The next frame; `None` where the stream ended between frames. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        loop {
            let missing = match self.buffered()? {
                Ok(frame) => return Ok(Some(frame)),
                Err(missing) => missing,
            };
            let reserve = missing.min(self.buffer.len().max(RESERVE_BYTES));
            self.buffer.reserve(reserve);
            let read = self.from.read_buf(&mut self.buffer).await?;
            self.received.fetch_add(read as u64, Ordering::Relaxed);
            if read == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(FrameError::Cut) };
            }
        }
    }

    /// A frame that has arrived whole, or how many bytes to make room for.
    fn buffered(&mut self) -> Result<Result<Frame, usize>, FrameError> {
        let Some(length) = self.buffer.first_chunk::<4>() else {
            return Ok(Err(RESERVE_BYTES));
        };
        let length = u32::from_le_bytes(*length) as usize;
        if length > self.bytes_max - 4 {
            return Err(FrameError::TooLarge { length: length.saturating_add(4), max: self.bytes_max });
        }
        if length < COUNTED {
            return Err(FrameError::TooShort(length + 4));
        }
        if self.buffer.len() < 4 + length {
            // Room for what is missing and for what usually follows at once.
            return Ok(Err((4 + length - self.buffer.len()).max(RESERVE_BYTES)));
        }
        self.buffer.advance(4);
        decode(self.buffer.split_to(length).freeze()).map(Ok)
    }
}

/// A frame without its length.
fn decode(mut bytes: Bytes) -> Result<Frame, FrameError> {
    let crc = bytes.get_u32_le();
    if crc32fast::hash(&bytes) != crc {
        return Err(FrameError::Checksum);
    }
    let version = bytes.get_u8();
    if version != VERSION {
        return Err(FrameError::Version(version));
    }
    let kind = bytes.get_u8();
    let kind = Kind::from_byte(kind).ok_or(FrameError::Kind(kind))?;
    let group = GroupId(bytes.get_u64_le());
    let id = bytes.get_u64_le();
    Ok(Frame { kind, group, id, payload: bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    async fn read_all(bytes: &[u8], bytes_max: usize) -> Result<Vec<Frame>, FrameError> {
        let mut reader = FrameReader::new(bytes, bytes_max);
        let mut frames = Vec::new();
        while let Some(frame) = reader.next().await? {
            frames.push(frame);
        }
        Ok(frames)
    }

    fn abc() -> Bytes {
        encode(Kind::Append, GroupId(3), 258, 3, |into| into.put_slice(b"abc"))
    }

    /// The layout does not drift.
    #[test]
    fn golden_bytes() {
        let want: &[u8] = &[
            25, 0, 0, 0, 182, 33, 133, 224, 1, 16, 3, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, b'a',
            b'b', b'c',
        ];
        assert_eq!(&abc()[8..], &want[8..]);
        assert_eq!(crc32fast::hash(&want[8..]).to_le_bytes(), want[4..8]);
        assert_eq!(&abc()[..], want);
    }

    /// Frames that arrive together come out one by one, and what follows a cut is an error.
    #[tokio::test]
    async fn frames_come_back() {
        let frame =
            Frame { kind: Kind::Append, group: GroupId(3), id: 258, payload: Bytes::from_static(b"abc") };
        let twice = [abc(), abc()].concat();
        assert_eq!(read_all(&twice, 64).await.unwrap(), [frame.clone(), frame]);
        for cut in 1..abc().len() {
            assert!(matches!(read_all(&abc()[..cut], 64).await, Err(FrameError::Cut)), "cut at {cut}");
        }
    }

    /// A length beyond the bound is refused although none of its bytes has come, and one within the bound
    /// reserves no more than a small part of what it claims.
    #[tokio::test]
    async fn lengths_do_not_allocate() {
        let claims = |length: u32| length.to_le_bytes();
        assert!(matches!(
            read_all(&claims(u32::MAX), 1 << 20).await,
            Err(FrameError::TooLarge { max: 0x10_0000, .. })
        ));
        let claim = claims(8 << 20);
        let mut reader = FrameReader::new(&claim[..], 16 << 20);
        assert!(matches!(reader.next().await, Err(FrameError::Cut)));
        assert!(reader.buffer.capacity() <= 3 * RESERVE_BYTES, "{}", reader.buffer.capacity());
    }

    /// Each damaged field is told apart.
    #[tokio::test]
    async fn damage_is_named() {
        let with = |at: usize, byte: u8, reseal: bool| {
            let mut bytes = abc().to_vec();
            bytes[at] = byte;
            if reseal {
                let crc = crc32fast::hash(&bytes[8..]);
                bytes[4..8].copy_from_slice(&crc.to_le_bytes());
            }
            bytes
        };
        assert!(matches!(read_all(&with(0, 3, false), 64).await, Err(FrameError::TooShort(7))));
        assert!(matches!(read_all(&with(28, b'x', false), 64).await, Err(FrameError::Checksum)));
        assert!(matches!(read_all(&with(8, 9, true), 64).await, Err(FrameError::Version(9))));
        assert!(matches!(read_all(&with(9, 255, true), 64).await, Err(FrameError::Kind(255))));
    }

    proptest! {
        /// Hostile bytes give frames that encode back to themselves, or an error; never a panic.
        #[test]
        fn arbitrary_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            if let Ok(frames) = runtime.block_on(read_all(&bytes, 100)) {
                let again: Vec<Bytes> = frames
                    .iter()
                    .map(|frame| encode(frame.kind, frame.group, frame.id, 0, |into| into.put_slice(&frame.payload)))
                    .collect();
                prop_assert_eq!(again.concat(), bytes);
            }
        }
    }
}
