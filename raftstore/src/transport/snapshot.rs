//! The sending side of a snapshot: pieces over the bulk lane, no more under way than the window, each
//! acknowledged once the receiver has taken it. While the receiver installs, it says so every now and then: a
//! snapshot of a gibibyte may take longer than any silence would be borne.

use super::config::TransportConfig;
use super::frame::{Frame, HEADER, Kind, encode};
use super::message::{put_snapshot_begin, take_count, take_lone_vote};
use super::queue::{Queue, StreamCall};
use super::raft_client::{reason, rpc_error, rpc_refusal};
use crate::snapshot::{Snapshot, SnapshotReader};
use crate::types::{SnapshotMeta, SnapshotResponse, TypeConfig, Vote};
use bytes::{BufMut, Bytes};
use futures_util::future::BoxFuture;
use openraft::StorageError;
use openraft::errors::{ErrorSource, NetworkError, RPCError, StreamingError};
use openraft::type_config::alias::ErrorSourceOf;
use proto::GroupId;
use std::io;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Something that a snapshot's pieces can be read from.
pub(crate) trait Pieces: Send + Sync + 'static {
    /// Starts to read from the first piece.
    fn pieces(&self) -> Box<dyn PieceReader>;
}

/// Reads a snapshot.
pub(crate) trait PieceReader: Send {
    /// The next piece, `None` after the last.
    fn next(&mut self) -> BoxFuture<'_, io::Result<Option<Bytes>>>;

    /// Resolves once the snapshot is not to be read any further: its sender needs the room for another.
    fn withdrawn(&self) -> BoxFuture<'static, ()>;
}

impl Pieces for Snapshot {
    fn pieces(&self) -> Box<dyn PieceReader> {
        Box::new(self.read())
    }
}

impl PieceReader for SnapshotReader {
    fn next(&mut self) -> BoxFuture<'_, io::Result<Option<Bytes>>> {
        Box::pin(async move { Ok(SnapshotReader::next(self).await?) })
    }

    fn withdrawn(&self) -> BoxFuture<'static, ()> {
        Box::pin(SnapshotReader::withdrawn(self))
    }
}

type Sent<T> = Result<T, StreamingError<TypeConfig>>;

/// What a transfer needs beside the snapshot.
pub(crate) struct Transfer {
    pub(crate) queue: Arc<Queue>,
    pub(crate) group: GroupId,
    pub(crate) config: Arc<TransportConfig>,
    /// Bounds the transfers to one peer.
    pub(crate) slots: Arc<Semaphore>,
}

/// A transfer under way.
struct Sending {
    transfer: Transfer,
    call: StreamCall,
    sent_bytes: u64,
    taken_bytes: u64,
}

impl Transfer {
    /// Sends the snapshot and waits until it is installed or refused. Dropping the future ends it at the
    /// receiver too.
    ///
    /// # Errors
    /// openraft's, by what it does next: a snapshot that cannot be read stops the node, the rest is tried again
    /// from the start.
    pub(crate) async fn send(
        self,
        vote: &Vote,
        meta: &SnapshotMeta,
        pieces: Box<dyn PieceReader>,
    ) -> Sent<SnapshotResponse> {
        let slots = self.slots.clone();
        let _slot = slots.acquire().await.expect("the slots are never closed");
        let call = self.queue.stream(self.group).map_err(|failure| rpc_error(&failure))?;
        let mut sending = Sending { transfer: self, call, sent_bytes: 0, taken_bytes: 0 };
        sending.put(Kind::SnapshotBegin, 128, |into| put_snapshot_begin(into, vote, meta))?;
        let withdrawn = pieces.withdrawn();
        // The snapshot is let go of with its last piece: installing it may take longer than sending it.
        let count = tokio::select! {
            biased;
            () = withdrawn => return Err(rpc_refusal("the snapshot was withdrawn for a newer one".into()).into()),
            count = sending.pieces(pieces) => count?,
        };
        sending.put(Kind::SnapshotEnd, 8, |into| into.put_u64_le(count))?;
        loop {
            let Frame { kind, payload, .. } = sending.answer().await?;
            if kind == Kind::Reply {
                let vote = take_lone_vote(payload).map_err(|error| wrong(error.to_string()))?;
                return Ok(SnapshotResponse::new(vote));
            }
            sending.progress(kind, payload)?;
        }
    }
}

impl Sending {
    fn put(&self, kind: Kind, capacity: usize, put: impl FnOnce(&mut Vec<u8>)) -> Sent<()> {
        let bytes = encode(kind, self.transfer.group, self.call.id(), capacity, put);
        self.call.send(kind, bytes, None).map_err(|failure| rpc_error(&failure).into())
    }

    /// Sends all pieces; returns how many there were.
    async fn pieces(&mut self, mut pieces: Box<dyn PieceReader>) -> Sent<u64> {
        let mut count = 0;
        while let Some(piece) = pieces.next().await.map_err(|error| unreadable(&error))? {
            self.piece(&piece).await?;
            count += 1;
        }
        Ok(count)
    }

    /// Sends a piece once the window has room. A piece larger than the window goes when nothing else is under
    /// way.
    async fn piece(&mut self, piece: &Bytes) -> Sent<()> {
        let (length, config) = (piece.len() as u64, self.transfer.config.clone());
        if piece.len() + HEADER > config.frame_bytes_max {
            let (group, max) = (self.transfer.group, config.frame_bytes_max);
            tracing::error!(%group, "a snapshot's piece is too large for a frame: {length} bytes, at most {max}");
            let why = format!("snapshot's piece is too large for a frame: {length} bytes, at most {max}");
            return Err(rpc_refusal(why).into());
        }
        while self.under_way() > 0 && self.under_way() + length > config.snapshot_window_bytes as u64 {
            let Frame { kind, payload, .. } = self.answer().await?;
            self.progress(kind, payload)?;
        }
        self.put(Kind::SnapshotPiece, piece.len(), |into| into.put_slice(piece))?;
        self.sent_bytes += length;
        Ok(())
    }

    fn under_way(&self) -> u64 {
        self.sent_bytes - self.taken_bytes
    }

    async fn answer(&mut self) -> Sent<Frame> {
        let patience = self.transfer.config.progress_timeout();
        match tokio::time::timeout(patience, self.call.answer()).await {
            Ok(answer) => answer.map_err(|failure| rpc_error(&failure).into()),
            Err(_) => Err(rpc_error(&self.call.give_up(patience)).into()),
        }
    }

    /// Reads how much was taken; any other frame says that the transfer is over before its time.
    fn progress(&mut self, kind: Kind, payload: Bytes) -> Sent<()> {
        if kind != Kind::SnapshotProgress {
            return Err(rpc_refusal(reason(payload)).into());
        }
        let taken = take_count(payload).map_err(|error| wrong(error.to_string()))?;
        if taken < self.taken_bytes || taken > self.sent_bytes {
            let (before, sent) = (self.taken_bytes, self.sent_bytes);
            return Err(wrong(format!("peer took {taken} bytes after {before}, of {sent} sent")));
        }
        self.taken_bytes = taken;
        Ok(())
    }
}

fn wrong(why: String) -> StreamingError<TypeConfig> {
    StreamingError::from(RPCError::Network(NetworkError::from_string(why)))
}

fn unreadable(error: &io::Error) -> StreamingError<TypeConfig> {
    StorageError::read_snapshot(None, ErrorSourceOf::<TypeConfig>::from_error(error)).into()
}
