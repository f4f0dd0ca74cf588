//! Confirms leadership once for all reads that wait (ReadIndex, Raft §6.4): while a round is under way, reads
//! collect and share the next one. A read never joins a round that began before it.
//!
//! Owns the queue of waiting reads. Must never hand out an index for a read that came after the round began.

use crate::config::RaftConfig;
use crate::error::ReadError;
use crate::gathering::let_others_come;
use crate::mutation::{self, Mutation};
use crate::proposer::leader_of;
use crate::types::TypeConfig;
use openraft::ReadPolicy;
use openraft::errors::{LinearizableReadError, RaftError};
use openraft::raft::linearizable_read::LinearizerOption;
use openraft::storage::RaftStateMachine;
use proto::GroupId;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

type Waiting = oneshot::Sender<Result<u64, ReadError>>;

/// The handle through which reads are confirmed; cheap to clone.
#[derive(Clone)]
pub(crate) struct ReadIndexer {
    group: GroupId,
    queue: mpsc::Sender<Waiting>,
}

impl ReadIndexer {
    /// Starts a group's confirming task. It ends when the last handle is dropped.
    pub(crate) fn start<S>(group: GroupId, raft: openraft::Raft<TypeConfig, S>, config: &RaftConfig) -> Self
    where
        S: RaftStateMachine<TypeConfig>,
    {
        let (queue, waiting) = mpsc::channel(config.reads_waiting_max);
        tokio::spawn(run(group, raft, config.election_timeout_max(), config.reads_waiting_max, waiting));
        Self { group, queue }
    }

    /// The index that a machine must have applied for a read that began now. The leader alone can say it.
    pub(crate) async fn read_index(&self) -> Result<u64, ReadError> {
        if mutation::is_on(Mutation::ReadWithoutReadIndex) {
            return Ok(0);
        }
        let (reply, index) = oneshot::channel();
        self.queue.try_send(reply).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => ReadError::Overloaded(self.group),
            mpsc::error::TrySendError::Closed(_) => ReadError::Stopped(self.group),
        })?;
        index.await.unwrap_or(Err(ReadError::Stopped(self.group)))
    }
}

async fn run<S>(
    group: GroupId,
    raft: openraft::Raft<TypeConfig, S>,
    timeout: Duration,
    reads_max: usize,
    mut waiting: mpsc::Receiver<Waiting>,
) where
    S: RaftStateMachine<TypeConfig>,
{
    let option = || LinearizerOption::from(ReadPolicy::ReadIndex).with_wait_timeout(timeout);
    let mut round = Vec::new();
    while let Some(first) = waiting.recv().await {
        round.push(first);
        let_others_come(|| waiting.len()).await;
        while round.len() < reads_max
            && let Ok(next) = waiting.try_recv()
        {
            round.push(next);
        }
        let result = match raft.get_read_linearizer(option()).await {
            Ok(linearizer) => Ok(linearizer.read_log_id().index()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                Err(ReadError::NotLeader { group, leader: leader_of(&forward) })
            }
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => {
                Err(ReadError::NoQuorum(group))
            }
            Err(RaftError::Fatal(_)) => Err(ReadError::Stopped(group)),
        };
        for reply in round.drain(..) {
            if reply.send(result.clone()).is_err() {
                tracing::trace!(%group, "a reader left before its index came");
            }
        }
    }
}
