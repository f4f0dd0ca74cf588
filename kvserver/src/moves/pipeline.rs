//! The pieces of a copy on their way from its source into the destination's log.
//!
//! ```text
//!   ask ▶▶▶ (source hands out, in order) ▶▶▶ propose ▶▶▶ (destination commits, in order) ▶ taken
//!   └──────────────────── at most WINDOW_PIECES and WINDOW_BYTES ────────────────────────┘
//! ```
//!
//! Owns what is asked and what is proposed, and keeps both in order. Relies on the destination's machine,
//! which takes in no piece before the one ahead of it: one that is refused, or voided by a change of leaders,
//! has all behind it refused, and the window ends there. Must never ask for a piece that lies
//! [`WINDOW_PIECES`] or more beyond the last that is known to be taken: the source keeps no more of them to
//! be asked for again.

use super::source_link::Piece;
use super::take;
use crate::replica::Replica;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesOrdered, StreamExt};
use proto::{CopyToken, Epoch, LifecycleAnswer, MoveCommand, MoveStep, PieceEnd, ShardId};
use raftstore::ProposeError;
use std::sync::Arc;

/// The most pieces on their way: while some are committed, the next are fetched. Where processors are short,
/// more of them only have everybody else wait longer.
pub(super) const WINDOW_PIECES: u64 = 4;

/// About how many bytes are asked for at once: each node's machine is held for less than a millisecond to
/// hand them out or to take them in.
pub(super) const PIECE_BYTES: u32 = 128 << 10;

/// The most bytes of pieces on their way: what a move keeps in memory at its destination's leader, and as
/// much again at the node that hands the copy out, which must be able to repeat it. A record larger than a
/// piece travels alone; what is asked for while it is not known to be that large comes on top.
const WINDOW_BYTES: u64 = WINDOW_PIECES * PIECE_BYTES as u64;

/// The most bytes of pieces that are proposed and not taken in yet. What waits at the same time may be
/// gathered into one entry of the log, and a machine is held for a whole entry.
const PROPOSED_BYTES_MAX: u64 = 256 << 10;

type Asking = BoxFuture<'static, Option<Piece>>;
type Taking = BoxFuture<'static, Taken>;

/// What became of a piece that was proposed.
pub(super) struct Taken {
    pub(super) number: u64,
    pub(super) end: PieceEnd,
    /// How many bytes were left at the source after it.
    pub(super) remaining: u64,
    pub(super) answer: Result<LifecycleAnswer, ProposeError>,
    bytes: u64,
}

/// What comes next.
pub(super) enum Arrival {
    /// The source's answer to the first question without one; `None` where it has lost the copy.
    Handed(Option<Piece>),
    /// The first proposal without an answer has one.
    Taken(Taken),
}

/// See the [module](self).
pub(super) struct Pipeline {
    replica: Arc<Replica>,
    shard: ShardId,
    epoch: Epoch,
    copy: CopyToken,
    /// The piece that is asked for next.
    next: u64,
    asked: FuturesOrdered<Asking>,
    proposed: FuturesOrdered<Taking>,
    proposed_bytes: u64,
}

impl Pipeline {
    /// For the pieces of a copy from `next` on.
    pub(super) fn new(
        replica: Arc<Replica>,
        (shard, epoch): (ShardId, Epoch),
        copy: CopyToken,
        next: u64,
    ) -> Self {
        let (asked, proposed) = (FuturesOrdered::new(), FuturesOrdered::new());
        Self { replica, shard, epoch, copy, next, asked, proposed, proposed_bytes: 0 }
    }

    /// Whether nothing is on its way.
    pub(super) fn is_empty(&self) -> bool {
        self.asked.is_empty() && self.proposed.is_empty()
    }

    /// Whether another piece may be asked for: there is room, and of the `remaining` bytes some are not asked
    /// for yet. Where nobody knows what remains, one piece at a time.
    pub(super) fn has_room(&self, remaining: Option<u64>) -> bool {
        let (asked, proposed) = (self.asked.len() as u64, self.proposed.len() as u64);
        let asked_bytes = asked * u64::from(PIECE_BYTES);
        let fits = asked + proposed < WINDOW_PIECES && asked_bytes + self.proposed_bytes < WINDOW_BYTES;
        (asked == 0 || remaining.is_some_and(|remaining| asked_bytes < remaining)) && fits
    }

    /// Asks for the next piece.
    pub(super) fn ask(&mut self, asking: impl FnOnce(u64) -> Asking) {
        self.asked.push_back(asking(self.next));
        self.next += 1;
    }

    /// Whether another piece may be proposed.
    fn may_propose(&self) -> bool {
        self.proposed_bytes < PROPOSED_BYTES_MAX
    }

    /// Proposes the piece that was handed out last, `number`, which is taken in after all before it.
    pub(super) fn propose(&mut self, number: u64, piece: Piece, end: PieceEnd) {
        let (replica, shard, epoch, copy) = (self.replica.clone(), self.shard, self.epoch, self.copy);
        let Piece { bytes, remaining, .. } = piece;
        let length = bytes.len() as u64;
        let mut taking = async move {
            let step = MoveStep::ImportPiece { copy, number, end, bytes: &bytes };
            let answer = take(&replica, MoveCommand { shard, epoch, step }).await;
            Taken { number, end, remaining, answer, bytes: length }
        }
        .boxed();
        self.proposed_bytes += length;
        // A command queues up when it is first polled: at once, so that it stands behind the piece before it.
        match (&mut taking).now_or_never() {
            Some(taken) => self.proposed.push_back(async move { taken }.boxed()),
            None => self.proposed.push_back(taking),
        }
    }

    /// Nothing more is asked for: what was asked for beyond the last piece is not waited for.
    pub(super) fn end_asking(&mut self) {
        self.asked = FuturesOrdered::new();
    }

    /// What comes next; waits for ever where nothing is on its way.
    pub(super) async fn next(&mut self) -> Arrival {
        let may_propose = self.may_propose();
        tokio::select! {
            biased;
            Some(taken) = self.proposed.next() => {
                self.proposed_bytes -= taken.bytes;
                Arrival::Taken(taken)
            }
            Some(piece) = self.asked.next(), if may_propose => Arrival::Handed(piece),
            else => std::future::pending().await,
        }
    }
}
