//! Gathers the commands that wait into log entries: while entries are under way, commands collect, and leave
//! together as the next one. A lone command leaves at once; there is no timer.
//!
//! Owns the queue of a group's proposals. Relies on openraft calling back for every entry
//! it took, or dropping the callback. Must never answer a proposal that may be in the log with "no effect".

use crate::commands::{self, COMMAND_OVERHEAD};
use crate::config::RaftConfig;
use crate::error::ProposeError;
use crate::flow_control::FlowControl;
use crate::gathering::let_others_come;
use crate::replicated_time::ReplicatedTime;
use crate::types::{Callback, Data, TypeConfig};
use bytes::Bytes;
use futures_util::stream::{self, FuturesUnordered};
use futures_util::{Stream, StreamExt};
use openraft::errors::{ClientWriteError, ForwardToLeader};
use openraft::raft::ClientWriteResult;
use openraft::storage::RaftStateMachine;
use proto::{GroupId, NodeId};
use std::mem;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

type Reply = oneshot::Sender<Result<Vec<Bytes>, ProposeError>>;

/// Commands that wait to be proposed in one entry, and who waits for their answers.
struct Proposal {
    commands: Commands,
    /// A permit to wait for each command.
    permits: OwnedSemaphorePermit,
    reply: Reply,
}

/// Commands that one entry can carry.
#[derive(Default)]
struct Commands {
    commands: Vec<Bytes>,
    /// What they take in an entry.
    bytes: usize,
}

/// How much one entry may carry.
#[derive(Clone, Copy)]
struct Room {
    commands_max: usize,
    bytes_max: usize,
}

impl Room {
    /// Whether `more` may join `commands`, of which there are some.
    fn takes(&self, (commands, bytes): (usize, usize), more: (usize, usize)) -> bool {
        commands + more.0 <= self.commands_max && bytes + more.1 <= self.bytes_max
    }
}

impl Commands {
    fn size(&self) -> (usize, usize) {
        (self.commands.len(), self.bytes)
    }

    fn push(&mut self, command: Bytes) {
        self.bytes += size(&command).1;
        self.commands.push(command);
    }
}

/// What one command takes of an entry's room.
fn size(command: &Bytes) -> (usize, usize) {
    (1, command.len() + COMMAND_OVERHEAD)
}

/// The handle through which commands are proposed; cheap to clone.
#[derive(Clone)]
pub(crate) struct Proposer {
    group: GroupId,
    queue: mpsc::UnboundedSender<Proposal>,
    /// A permit for each command that may wait: what bounds the queue.
    permits: Arc<Semaphore>,
    room: Room,
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
        let (queue, proposals) = mpsc::unbounded_channel();
        let room = Room { commands_max: config.entry_commands_max, bytes_max: config.entry_bytes_max };
        let gatherer = Gatherer {
            group,
            raft,
            time,
            flow,
            in_flight: Arc::new(Semaphore::new(config.entries_in_flight_max)),
            room,
            carried: None,
            proposals,
        };
        tokio::spawn(gatherer.run());
        let permits = Arc::new(Semaphore::new(config.proposals_waiting_max));
        Self { group, queue, permits, room, command_bytes_max: config.command_bytes_max }
    }

    /// Proposes `command` and waits for its answer.
    pub(crate) async fn propose(&self, command: Bytes) -> Result<Bytes, ProposeError> {
        self.check(&command)?;
        let mut commands = Commands::default();
        commands.push(command);
        let mut answers = self.submit(commands).await?;
        Ok(answers.pop().expect("a machine answers every command"))
    }

    /// Proposes `commands`, as many as there is room for in one entry together, and gives each one's answer with its
    /// place among them, as they come.
    pub(crate) fn propose_all(
        &self,
        commands: impl IntoIterator<Item = Bytes>,
    ) -> impl Stream<Item = (usize, Result<Bytes, ProposeError>)> {
        // No more together than may wait by now: what is proposed together is refused together.
        let commands_max = self.room.commands_max.min(self.permits.available_permits());
        let room = Room { commands_max, ..self.room };
        let (mut refused, under_way) = (Vec::new(), FuturesUnordered::new());
        let (mut together, mut places) = (Commands::default(), Vec::new());
        for (place, command) in commands.into_iter().enumerate() {
            if let Err(error) = self.check(&command) {
                refused.push((place, Err(error)));
                continue;
            }
            if !places.is_empty() && !room.takes(together.size(), size(&command)) {
                under_way.push(self.submit_at(mem::take(&mut places), mem::take(&mut together)));
            }
            together.push(command);
            places.push(place);
        }
        if !places.is_empty() {
            under_way.push(self.submit_at(places, together));
        }
        stream::iter(refused).chain(under_way.flat_map(stream::iter))
    }

    fn check(&self, command: &Bytes) -> Result<(), ProposeError> {
        let (bytes, bytes_max) = (command.len(), self.command_bytes_max);
        if bytes > bytes_max { Err(ProposeError::TooLarge { bytes, bytes_max }) } else { Ok(()) }
    }

    /// The answers of commands that have these places.
    async fn submit_at(
        &self,
        places: Vec<usize>,
        commands: Commands,
    ) -> Vec<(usize, Result<Bytes, ProposeError>)> {
        match self.submit(commands).await {
            Ok(answers) => places.into_iter().zip(answers.into_iter().map(Ok)).collect(),
            Err(error) => places.into_iter().map(|place| (place, Err(error.clone()))).collect(),
        }
    }

    async fn submit(&self, commands: Commands) -> Result<Vec<Bytes>, ProposeError> {
        let group = self.group;
        let count = u32::try_from(commands.commands.len()).unwrap_or(u32::MAX);
        let Ok(permits) = self.permits.clone().try_acquire_many_owned(count) else {
            return Err(ProposeError::Overloaded(group));
        };
        let (reply, answers) = oneshot::channel();
        if self.queue.send(Proposal { commands, permits, reply }).is_err() {
            return Err(ProposeError::NotLeader { group, leader: None });
        }
        answers.await.unwrap_or(Err(ProposeError::Unknown { group, why: "the group stopped" }))
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
    room: Room,
    /// A proposal that did not fit the entry before; goes first into the next.
    carried: Option<Proposal>,
    proposals: mpsc::UnboundedReceiver<Proposal>,
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
            let_others_come(|| self.proposals.len()).await;
            let proposals = self.gather(first);
            let commands =
                proposals.iter().flat_map(|proposal| &proposal.commands.commands).map(|command| &command[..]);
            let data = commands::pack(self.time.now_ms(), &commands.collect::<Vec<_>>());
            let leave = |Proposal { commands, permits, reply }| {
                drop(permits);
                (commands.commands.len(), reply)
            };
            let replies: Vec<(usize, Reply)> = proposals.into_iter().map(leave).collect();
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
        let (mut count, mut bytes) = first.commands.size();
        let mut gathered = vec![first];
        while let Ok(next) = self.proposals.try_recv() {
            if next.reply.is_closed() {
                continue;
            }
            let more = next.commands.size();
            if !self.room.takes((count, bytes), more) {
                self.carried = Some(next);
                break;
            }
            count += more.0;
            bytes += more.1;
            gathered.push(next);
        }
        gathered
    }
}

/// Who is said to lead, by a refusal.
pub(crate) fn leader_of(forward: &ForwardToLeader<TypeConfig>) -> Option<NodeId> {
    forward.leader_id.map(NodeId)
}

/// Tells each what came of its commands, as many as it has.
fn answer(group: GroupId, result: ClientWriteResult<TypeConfig>, replies: Vec<(usize, Reply)>) {
    let error = match result {
        Ok(response) => {
            let mut answers = response.data.0.into_iter();
            let commands = replies.iter().map(|(count, _)| count).sum();
            assert_eq!(answers.len(), commands, "a machine answers every command of an entry");
            for (count, reply) in replies {
                send(reply, Ok(answers.by_ref().take(count).collect()));
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
    replies.into_iter().for_each(|(_, reply)| send(reply, Err(error.clone())));
}

fn send(reply: Reply, answers: Result<Vec<Bytes>, ProposeError>) {
    if reply.send(answers).is_err() {
        tracing::trace!("a proposer left before its answers came");
    }
}
