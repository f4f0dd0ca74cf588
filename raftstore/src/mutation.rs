//! Faults put into the product on purpose, each a guarantee that it then lacks: whether the simulator notices is
//! a test of the simulator.
//!
//! Nothing without the feature `mutations`: [`is_on`] is then a constant. With it, [`turn_on`] chooses one for the
//! whole process before anything else runs. The feature is the simulator's alone; the binary that people run
//! refuses to be built with it in release (see [`COMPILED`]).

use crate::disk::{DiskError, Table};
use std::fmt;
use std::sync::Arc;

/// Whether mutations were built in. Whatever is released asserts at compile time that they were not.
pub const COMPILED: bool = cfg!(feature = "mutations");

/// A guarantee that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mutation {
    /// The log writer says that a record is durable while it is still being synced.
    AcknowledgeBeforeSync = 1,
    /// The log writer never syncs.
    SkipSync,
    /// A write that was carried out before is carried out again.
    SkipSessionTable,
    /// Whoever believes to lead answers reads without asking a quorum, from whatever it has applied.
    ReadWithoutReadIndex,
    /// A leader counts one of its followers' votes for an entry when it asks for it.
    CommitOneVoteTooFew,
    /// A shard is served at its new group without what changed since the piece before the last.
    ActivateBeforeLastTail,
    /// A shard's former group goes on answering reads of it until it is dropped.
    ServeReadsAfterFreeze,
    /// A shard arrives without its sessions.
    ForgetSessionsInMove,
    /// A machine is restored from the first pass of a copy, without what changed behind it.
    RestoreSnapshotWithoutTail,
    /// A frozen shard's source judges how the move has ended by a map that is older than the move.
    IgnoreEpoch,
    /// A leader takes an answer to entries for one to whatever it sent since without any.
    BelieveOldAnswers,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::AcknowledgeBeforeSync,
        Self::SkipSync,
        Self::SkipSessionTable,
        Self::ReadWithoutReadIndex,
        Self::CommitOneVoteTooFew,
        Self::ActivateBeforeLastTail,
        Self::ServeReadsAfterFreeze,
        Self::ForgetSessionsInMove,
        Self::RestoreSnapshotWithoutTail,
        Self::IgnoreEpoch,
        Self::BelieveOldAnswers,
    ];

    /// Its name on the simulator's command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::AcknowledgeBeforeSync => "acknowledge-before-sync",
            Self::SkipSync => "skip-sync",
            Self::SkipSessionTable => "skip-session-table",
            Self::ReadWithoutReadIndex => "read-without-read-index",
            Self::CommitOneVoteTooFew => "commit-one-vote-too-few",
            Self::ActivateBeforeLastTail => "activate-before-last-tail",
            Self::ServeReadsAfterFreeze => "serve-reads-after-freeze",
            Self::ForgetSessionsInMove => "forget-sessions-in-move",
            Self::RestoreSnapshotWithoutTail => "restore-snapshot-without-tail",
            Self::IgnoreEpoch => "ignore-epoch",
            Self::BelieveOldAnswers => "believe-old-answers",
        }
    }
}

impl fmt::Display for Mutation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(feature = "mutations")]
pub use enabled::{is_on, turn_on};

#[cfg(feature = "mutations")]
pub(crate) use enabled::{granted, grants};

/// Whether the product lacks this guarantee: never.
#[cfg(not(feature = "mutations"))]
#[inline(always)]
pub const fn is_on(_: Mutation) -> bool {
    false
}

/// Syncs a table of the log, for as long as the log writer waits for that.
pub(crate) async fn sync(table: &Arc<dyn Table>) -> Result<(), DiskError> {
    if is_on(Mutation::SkipSync) {
        return Ok(());
    }
    if is_on(Mutation::AcknowledgeBeforeSync) {
        let table = Arc::clone(table);
        tokio::spawn(async move { drop(table.sync().await) });
        return Ok(());
    }
    table.sync().await
}

#[cfg(feature = "mutations")]
mod enabled {
    use super::Mutation;
    use crate::transport::append::{self, AppendItem, Appender};
    use crate::types::{AppendEntriesRequest, LogId, TypeConfig};
    use futures_util::{Stream, StreamExt, stream};
    use openraft::base::BoxStream;
    use openraft::errors::RPCError;
    use proto::NodeId;
    use std::sync::atomic::{AtomicU8, Ordering};
    use std::time::Duration;
    use tokio::sync::mpsc;

    /// The number of the one that is on; 0 for none.
    static ON: AtomicU8 = AtomicU8::new(0);

    /// Has the whole process lack a guarantee from here on.
    pub fn turn_on(mutation: Mutation) {
        ON.store(mutation as u8, Ordering::Relaxed);
    }

    /// Whether the product lacks this guarantee.
    pub fn is_on(mutation: Mutation) -> bool {
        ON.load(Ordering::Relaxed) == mutation as u8
    }

    /// Whether `node`, where it leads, takes the vote of `peer` for an entry for granted: of one peer alone, so
    /// that a quorum lacks just one vote.
    pub(crate) fn grants(node: NodeId, peer: NodeId) -> bool {
        is_on(Mutation::CommitOneVoteTooFew) && peer.0 == if node.0 == 1 { 2 } else { 1 }
    }

    /// As [`append::stream`], with every request answered as accepted once it is read from the log. What the peer
    /// says itself is heard only where it is no acceptance.
    pub(crate) fn granted<'s, S>(
        appender: Appender,
        input: S,
        patience: Duration,
    ) -> Result<BoxStream<'s, AppendItem>, RPCError<TypeConfig>>
    where
        S: Stream<Item = AppendEntriesRequest> + Send + Unpin + 'static,
    {
        let (tell, granted) = mpsc::unbounded_channel::<Option<LogId>>();
        let input = input.inspect(move |request| {
            let last = request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id);
            if tell.send(last).is_err() {
                tracing::trace!("a stream has ended before its request was granted");
            }
        });
        let said = append::stream(appender, input, patience)?;
        let answers = stream::unfold((said, granted), |(mut said, mut granted)| async move {
            loop {
                tokio::select! {
                    biased;
                    Some(last) = granted.recv() => return Some((Ok(Ok(last)), (said, granted))),
                    answer = said.next() => match answer? {
                        Ok(Ok(_)) => {}
                        refused => return Some((refused, (said, granted))),
                    },
                }
            }
        });
        Ok(Box::pin(answers))
    }
}
