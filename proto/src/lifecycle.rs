//! The life of a shard in a group: born here or taken in, served, frozen, handed over.
//!
//! ```text
//!            Own                        Freeze                Drop
//!   Absent ───────▶ Serving ◀─────────▶ Frozen ─────────────▶ Dropped
//!     │                ▲        Thaw                             │ a later move
//!     │ ImportBegin    │ Activate, or the last piece             ▼
//!     └──────────▶ Importing ◀──────────────────────────── ImportBegin
//!                      └──────▶ Aborted ─── a later move ───────┘
//!                        Abort
//! ```
//!
//! Every step is a command in a group's log. It names the move by the [`Epoch`] under which the controller
//! started it, and a step of a move that is past changes nothing: any step may be proposed again, by anybody,
//! in any order. Kinds of steps, states and errors are only ever added at the end: their order is on disks.

use crate::{Epoch, GroupId, ShardId};
use bincode::{BorrowDecode, Decode, Encode};
use std::fmt;

/// One copy of a shard on its way to another group; never used again for another copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct CopyToken(pub u64);

impl fmt::Display for CopyToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What a group holds of a shard. Only in [`Serving`](Self::Serving) it answers reads and writes of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub enum ShardState {
    /// Nothing, and it never did.
    #[default]
    Absent,
    /// What has come in so far of a copy.
    Importing {
        /// The group that serves the shard meanwhile.
        from: GroupId,
        /// The move.
        epoch: Epoch,
        /// The copy that is taken in.
        copy: CopyToken,
        /// The number of the piece that comes next.
        next: u64,
        /// Whether the last piece is in.
        complete: bool,
    },
    /// The shard itself.
    Serving {
        /// Since when: a move, or the cluster's birth.
        epoch: Epoch,
        /// The latest move that was called off here, at least `epoch`: no step of it or of an earlier one
        /// takes effect any more.
        fence: Epoch,
    },
    /// The shard as it will arrive elsewhere: nothing of it changes.
    Frozen {
        /// Where it goes.
        to: GroupId,
        /// The move.
        epoch: Epoch,
        /// Since when it was served.
        since: Epoch,
    },
    /// Nothing any more.
    Dropped {
        /// Where it went.
        to: GroupId,
        /// The move.
        epoch: Epoch,
    },
    /// Nothing: the last move to here was called off.
    Aborted {
        /// The move.
        epoch: Epoch,
    },
}

impl ShardState {
    /// The latest move that is known here, or the birth; 0 where nothing is.
    pub fn epoch(&self) -> Epoch {
        match *self {
            Self::Absent => Epoch(0),
            Self::Serving { fence, .. } => fence,
            Self::Importing { epoch, .. }
            | Self::Frozen { epoch, .. }
            | Self::Dropped { epoch, .. }
            | Self::Aborted { epoch } => epoch,
        }
    }

    /// Where the shard goes or went, as far as the group knows.
    pub fn moved_to(&self) -> Option<GroupId> {
        match *self {
            Self::Frozen { to, .. } | Self::Dropped { to, .. } => Some(to),
            Self::Absent | Self::Importing { .. } | Self::Serving { .. } | Self::Aborted { .. } => None,
        }
    }

    /// Whether the shard arrived here with move `epoch`, whatever became of it since.
    pub fn arrived_with(&self, epoch: Epoch) -> bool {
        match *self {
            Self::Serving { epoch: since, .. } | Self::Frozen { since, .. } => since == epoch,
            Self::Absent | Self::Importing { .. } | Self::Dropped { .. } | Self::Aborted { .. } => false,
        }
    }
}

impl fmt::Display for ShardState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => write!(f, "absent"),
            Self::Importing { from, epoch, next, complete: false, .. } => {
                write!(f, "importing from {from} since {epoch}, at piece {next}")
            }
            Self::Importing { from, epoch, .. } => write!(f, "imported from {from} since {epoch}"),
            Self::Serving { epoch, .. } => write!(f, "serving since {epoch}"),
            Self::Frozen { to, epoch, .. } => write!(f, "frozen for {to} since {epoch}"),
            Self::Dropped { to, epoch } => write!(f, "dropped for {to} at {epoch}"),
            Self::Aborted { epoch } => write!(f, "aborted at {epoch}"),
        }
    }
}

/// A step of one move of one shard.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
pub struct MoveCommand<'a> {
    /// The shard.
    pub shard: ShardId,
    /// The move.
    pub epoch: Epoch,
    /// The step.
    pub step: MoveStep<'a>,
}

/// The steps of a move, each in the log of the destination or of the source.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
pub enum MoveStep<'a> {
    /// Destination: gets ready to take the shard in. Under another copy than before it forgets what has come
    /// in.
    ImportBegin {
        /// The source.
        from: GroupId,
        /// Which copy.
        copy: CopyToken,
    },
    /// Destination: takes in a piece of the copy.
    ImportPiece {
        /// Which copy.
        copy: CopyToken,
        /// Which piece of it, from 0 without a gap.
        number: u64,
        /// Whether it is the last one: handed out when the source was frozen for this move, with nothing
        /// left.
        end: PieceEnd,
        /// The piece as the source's machine handed it out; empty where there was nothing left.
        bytes: &'a [u8],
    },
    /// Destination: serves the shard from now on. Only after the last piece of the copy.
    Activate {
        /// Which copy.
        copy: CopyToken,
    },
    /// Source: answers nothing of the shard any more and lets nothing of it change.
    Freeze {
        /// The destination.
        to: GroupId,
    },
    /// Source: forgets the shard. Only once the destination is known to serve it.
    Drop,
    /// Destination: forgets what has come in, and that this move ever takes effect.
    Abort,
    /// Source: serves the shard again, and does not freeze it for this move any more. Only once the
    /// destination is known to have aborted.
    Thaw,
    /// Source: every replica notes from here on what changes in the shard, so that whichever leads can go on with a copy
    /// that another has begun. What an earlier one noted is forgotten.
    Export,
}

/// What follows a piece of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum PieceEnd {
    /// Another piece.
    More,
    /// None: it was the last one. The shard is served after [`MoveStep::Activate`].
    Last,
    /// None: it was the last one, and the shard is served with it.
    Activate,
}

/// Why a step was not taken, by what its driver does next. Nothing was changed, but by
/// [`Piece`](Self::Piece).
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, thiserror::Error)]
pub enum LifecycleError {
    /// Forget the move: another one, or the end of this one, is known here.
    #[error("the move is past, the shard is at {epoch}")]
    Stale {
        /// The latest move that is known here.
        epoch: Epoch,
    },
    /// Tell the controller: the move has succeeded, it can be neither begun again nor aborted.
    #[error("active: the shard has arrived")]
    Active,
    /// Look again, and at the move before this one: the shard is not in a state for this step.
    #[error("the shard is not in the state for this step: {state}")]
    State {
        /// What it is.
        state: ShardState,
    },
    /// Go on with this piece of this copy, or begin another copy.
    #[error("piece {next} of copy {copy} comes next")]
    Copy {
        /// The copy that is taken in.
        copy: CopyToken,
        /// The number of the piece that comes next; one past the last where all are in.
        next: u64,
    },
    /// Begin another copy, or abort: the piece is none. What has come in is forgotten.
    #[error("the piece is malformed: {why}")]
    Piece {
        /// What is wrong with it.
        why: String,
    },
    /// Correct the command: there can be no such shard.
    #[error("shard is out of range: {shard}")]
    Invalid {
        /// The shard.
        shard: ShardId,
    },
}

/// What comes back for [`Command::Own`](crate::Command::Own) and [`Command::Move`](crate::Command::Move): the
/// step is taken, now or before.
pub type LifecycleAnswer = Result<(), LifecycleError>;
