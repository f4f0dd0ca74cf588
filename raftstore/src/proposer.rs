//! Gathers the commands that wait into log entries: while entries are under way, commands collect, and leave
//! together as the next one. A lone command leaves at once; there is no timer.
//!
//! Owns the queue of a group's proposals. Relies on openraft calling back for every entry
//! it took, or dropping the callback. Must never answer a proposal that may be in the log with "no effect".

use crate::commands::{self, COMMAND_OVERHEAD};
use crate::config::RaftConfig;
use crate::error::ProposeError;
use crate::flow_control::FlowControl;
use crate::replicated_time::ReplicatedTime;
use crate::types::{Callback, Data, TypeConfig};
use bytes::Bytes;
use openraft::errors::{ClientWriteError, ForwardToLeader};
use openraft::raft::ClientWriteResult;
use openraft::storage::RaftStateMachine;
use proto::{GroupId, NodeId};
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::yield_now;

type Reply = oneshot::Sender<Result<Bytes, ProposeError>>;

/// A command that waits to be proposed, and who waits for its answer.
struct Proposal {
    command: Bytes,
    reply: Reply,
}

/// The handle through which commands are proposed; cheap to clone.
#[derive(Clone)]
pub(crate) struct Proposer {
    group: GroupId,
    queue: mpsc::Sender<Proposal>,
    command_bytes_max: usize,
}

impl Proposer {
    /// Starts the gathering task of a group. It ends when the last handle is dropped or the group stops.
    pub(crate) fn start<S>(
        group: GroupId,
        raft: openraft::Raft<TypeConfig, S>,
        config: &RaftConfig,
        time: Arc<ReplicatedTime>,
        flow: Arc<FlowControl>,
    ) -> Self
    where
        S: RaftStateMachine<TypeConfig>,
    {
        let (queue, proposals) = mpsc::channel(config.proposals_waiting_max);
        let gatherer = Gatherer {
            group,
            raft,
            time,
            flow,
            in_flight: Arc::new(Semaphore::new(config.entries_in_flight_max)),
            commands_max: config.entry_commands_max,
            bytes_max: config.entry_bytes_max,
            carried: None,
            proposals,
        };
        tokio::spawn(gatherer.run());
        Self { group, queue, command_bytes_max: config.command_bytes_max }
    }

    /// Proposes `command` and waits for its answer.
    pub(crate) async fn propose(&self, command: Bytes) -> Result<Bytes, ProposeError> {
        if command.len() > self.command_bytes_max {
            return Err(ProposeError::TooLarge { bytes: command.len(), bytes_max: self.command_bytes_max });
        }
        let (reply, answer) = oneshot::channel();
        self.queue.try_send(Proposal { command, reply }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => ProposeError::Overloaded(self.group),
            mpsc::error::TrySendError::Closed(_) => {
                ProposeError::NotLeader { group: self.group, leader: None }
            }
        })?;
        answer.await.unwrap_or(Err(ProposeError::Unknown { group: self.group, why: "the group stopped" }))
    }
}

/// The task behind a [`Proposer`].
struct Gatherer<S: RaftStateMachine<TypeConfig>> {
    group: GroupId,
    raft: openraft::Raft<TypeConfig, S>,
    time: Arc<ReplicatedTime>,
    flow: Arc<FlowControl>,
    /// A permit for each entry under way.
    in_flight: Arc<Semaphore>,
    commands_max: usize,
    bytes_max: usize,
    /// A proposal that did not fit the entry before; goes first into the next.
    carried: Option<Proposal>,
    proposals: mpsc::Receiver<Proposal>,
}

impl<S: RaftStateMachine<TypeConfig>> Gatherer<S> {
    async fn run(mut self) {
        loop {
            // The first command is awaited before the place in flight: an idle group holds none. What comes
            // while the place is awaited is gathered after it.
            let Some(first) = self.first().await else { return };
            let Ok(permit) = self.in_flight.clone().acquire_owned().await else { return };
            self.flow.admit().await;
            // Under overload most of what waited may have been given up: it must not take the place of what has not.
            if first.reply.is_closed() {
                continue;
            }
            // The scheduler has run this task before others that are ready to propose, because one has just woken it.
            yield_now().await;
            let proposals = self.gather(first);
            let data = commands::pack(self.time.now_ms(), proposals.iter().map(|proposal| &proposal.command));
            let replies: Vec<Reply> = proposals.into_iter().map(|proposal| proposal.reply).collect();
            let group = self.group;
            let callback = Callback::new(move |result| {
                drop(permit);
                answer(group, result, replies);
            });
            // An error means that the group stopped and dropped the callback, which answers all as unknown.
            if let Err(fatal) = self.raft.write(Data(data)).responder(callback).await {
                tracing::debug!(%group, %fatal, "proposals end with the group");
                return;
            }
        }
    }

    async fn first(&mut self) -> Option<Proposal> {
        match self.carried.take() {
            Some(proposal) => Some(proposal),
            None => self.proposals.recv().await,
        }
    }

    fn gather(&mut self, first: Proposal) -> Vec<Proposal> {
        let mut bytes = first.command.len() + COMMAND_OVERHEAD;
        let mut gathered = vec![first];
        while gathered.len() < self.commands_max {
            let Ok(next) = self.proposals.try_recv() else { break };
            if next.reply.is_closed() {
                continue;
            }
            if bytes + next.command.len() + COMMAND_OVERHEAD > self.bytes_max {
                self.carried = Some(next);
                break;
            }
            bytes += next.command.len() + COMMAND_OVERHEAD;
            gathered.push(next);
        }
        gathered
    }
}

/// Who is said to lead, by a refusal.
pub(crate) fn leader_of(forward: &ForwardToLeader<TypeConfig>) -> Option<NodeId> {
    forward.leader_id.map(NodeId)
}

fn answer(group: GroupId, result: ClientWriteResult<TypeConfig>, replies: Vec<Reply>) {
    let error = match result {
        Ok(response) => {
            let answers = response.data.0;
            assert_eq!(answers.len(), replies.len(), "a machine answers every command of an entry");
            for (reply, answer) in replies.into_iter().zip(answers) {
                send(reply, Ok(answer));
            }
            return;
        }
        Err(ClientWriteError::ForwardToLeader(forward)) => {
            ProposeError::NotLeader { group, leader: leader_of(&forward) }
        }
        Err(ClientWriteError::LogEntryDiscarded(_)) => {
            ProposeError::Unknown { group, why: "leadership changed while it was in the log" }
        }
        Err(ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_)) => {
            unreachable!("a proposal of commands changes no members and has no precondition")
        }
    };
    replies.into_iter().for_each(|reply| send(reply, Err(error.clone())));
}

fn send(reply: Reply, answer: Result<Bytes, ProposeError>) {
    if reply.send(answer).is_err() {
        tracing::trace!("a proposer left before its answer came");
    }
}
