//! Gathers the frames that wait into one write. No timer: what is there when the writer is free leaves together,
//! so a lone frame leaves at once and many cost one system call.

use super::frame::Kind;
use super::stats::{LaneCounters, add};
use bytes::{Buf, Bytes, BytesMut};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, OwnedSemaphorePermit};

/// Frames below this are copied next to each other; larger ones are written from where they are.
const COPIED_BYTES_MAX: usize = 4 << 10;

/// Room in some bounded budget, given back when the last holder drops it.
pub(crate) type Hold = Arc<OwnedSemaphorePermit>;

/// A frame on its way out.
pub(crate) struct Outgoing {
    pub(crate) kind: Kind,
    pub(crate) bytes: Bytes,
    /// Kept until the bytes are written.
    pub(crate) hold: Option<Hold>,
}

/// Frames that leave in one write.
pub(crate) struct Batch {
    /// In order; ends with what `small` collects.
    segments: VecDeque<Bytes>,
    small: BytesMut,
    holds: Vec<Hold>,
    bytes: usize,
    frames: u64,
    bytes_max: usize,
}

impl Batch {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            segments: VecDeque::new(),
            small: BytesMut::new(),
            holds: Vec::new(),
            bytes: 0,
            frames: 0,
            bytes_max,
        }
    }

    /// Whether nothing more should join. A first frame always fits.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes >= self.bytes_max
    }

    pub(crate) fn push(&mut self, frame: Outgoing) {
        self.bytes += frame.bytes.len();
        self.frames += 1;
        self.holds.extend(frame.hold);
        if frame.bytes.len() < COPIED_BYTES_MAX {
            self.small.extend_from_slice(&frame.bytes);
        } else {
            self.seal();
            self.segments.push_back(frame.bytes);
        }
    }

    fn seal(&mut self) {
        if !self.small.is_empty() {
            self.segments.push_back(self.small.split().freeze());
        }
    }
}

impl Buf for Batch {
    fn remaining(&self) -> usize {
        self.segments.iter().map(Bytes::len).sum()
    }

    fn chunk(&self) -> &[u8] {
        self.segments.front().map_or(&[], |segment| segment)
    }

    fn chunks_vectored<'a>(&'a self, into: &mut [IoSlice<'a>]) -> usize {
        let count = into.len().min(self.segments.len());
        for (slice, segment) in into.iter_mut().zip(&self.segments) {
            *slice = IoSlice::new(segment);
        }
        count
    }

    fn advance(&mut self, mut by: usize) {
        while by > 0 {
            let segment = self.segments.front_mut().expect("a writer never advances past what it was given");
            let taken = by.min(segment.len());
            segment.advance(taken);
            by -= taken;
            if segment.is_empty() {
                self.segments.pop_front();
            }
        }
    }
}

/// Writes what `take` puts into batches until the connection fails; `wake` says that there is something.
pub(crate) async fn write_all<W>(
    writer: &mut W,
    wake: &Notify,
    counters: &LaneCounters,
    bytes_max: usize,
    mut take: impl FnMut(&mut Batch),
) -> io::Error
where
    W: AsyncWrite + Unpin,
{
    loop {
        let mut batch = Batch::new(bytes_max);
        take(&mut batch);
        if batch.frames == 0 {
            wake.notified().await;
            // Whoever else is about to speak, does so before the write rather than into the next one.
            tokio::task::yield_now().await;
            continue;
        }
        batch.seal();
        let (frames, bytes) = (batch.frames, batch.bytes as u64);
        let holds = std::mem::take(&mut batch.holds);
        if let Err(error) = write(writer, &mut batch).await {
            return error;
        }
        drop(holds);
        add(&counters.frames_sent, frames);
        add(&counters.bytes_sent, bytes);
        add(&counters.writes, 1);
    }
}

async fn write<W: AsyncWrite + Unpin>(writer: &mut W, batch: &mut Batch) -> io::Result<()> {
    writer.write_all_buf(batch).await?;
    writer.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(bytes: Vec<u8>) -> Outgoing {
        Outgoing { kind: Kind::Reply, bytes: Bytes::from(bytes), hold: None }
    }

    /// Small and large frames leave in the order in which they came, whatever the writer takes at a time.
    #[tokio::test]
    async fn order_is_kept() {
        let frames = [vec![1; 10], vec![2; 20], vec![3; 5_000], vec![4; 7], vec![5; 4_096], vec![6; 1]];
        let mut batch = Batch::new(usize::MAX);
        frames.iter().for_each(|bytes| batch.push(frame(bytes.clone())));
        batch.seal();
        assert_eq!(batch.segments.len(), 5, "neighbours below the bound are one segment");
        let (mut near, mut far) = tokio::io::duplex(100);
        let written = async {
            write(&mut near, &mut batch).await.unwrap();
            drop(near);
        };
        let mut read = Vec::new();
        let (_, count) = tokio::join!(written, tokio::io::AsyncReadExt::read_to_end(&mut far, &mut read));
        assert_eq!(count.unwrap(), frames.concat().len());
        assert_eq!(read, frames.concat());
    }

    /// A batch takes what comes until it holds its bound, and its first frame whatever the size.
    #[test]
    fn a_batch_is_bounded() {
        let mut batch = Batch::new(100);
        assert!(!batch.is_full());
        batch.push(frame(vec![0; 60]));
        assert!(!batch.is_full());
        batch.push(frame(vec![0; 60]));
        assert!(batch.is_full());
    }
}
