//! Moving shards: what a destination's leader does to bring a shard in, and what a source answers it.
//!
//! ```text
//!   controller: a move starts
//!   source:      Export; a copy begins
//!   destination: ImportBegin ─▶ pieces, while the source serves ─▶ little is left ─▶ ask it to freeze
//!   source:      Freeze; from here it answers nothing of the shard but where it goes
//!   destination: the last piece and Activate, in one command; serves ─▶ tells the controller
//!   source:      sees on the map that the shard is elsewhere ─▶ Drop; or that the move was given up ─▶ Thaw
//! ```
//!
//! Every step stands in a log before anything vouches for it, and may be taken again; so nothing is kept here
//! that a successor would need: a destination's new leader goes on with the copy that its machine knows. What
//! a copy hands out is kept by the node that serves it and is gone with it; the source's other replicas have
//! noted what changed since the copy began (`Export`), so that its new leader goes on with it. Only where
//! that one was loaded from a snapshot meanwhile another copy begins.

mod copying;
mod destination;
pub mod failpoint;
mod message;
mod pipeline;
pub mod progress;
mod source;
mod source_link;
#[cfg(feature = "watch")]
pub mod watch;

pub(crate) use destination::Moves;
pub(crate) use message::MOVE_SERVICE;
pub(crate) use progress::{EndedMove, MoveProgress, Progress};
pub(crate) use source::Source;

use crate::replica::Replica;
use bytes::Bytes;
use proto::{Command, LifecycleAnswer, MoveCommand};
use raftstore::ProposeError;

/// Takes a step in a replica's group.
async fn take(replica: &Replica, step: MoveCommand<'_>) -> Result<LifecycleAnswer, ProposeError> {
    let group = replica.group.id();
    let answer = replica.group.propose(Bytes::from(proto::encode(&Command::Move(step)))).await?;
    // The machine answers every step; anything else would be a machine of another build.
    proto::decode(&answer).map_err(|_| ProposeError::Unknown { group, why: "its answer is malformed" })
}
