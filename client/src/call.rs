//! One call, from its first attempt to its answer: which node, when again, and what may be said about it in the
//! end.
//!
//! The caller's own future drives the call, so dropping it ends the call: an attempt that still waits is
//! withdrawn, and the write's sequence is closed, because nobody will send it again. A copy that is still on the
//! network may then take effect once, or be refused as out of the window by later writes; never twice.
//!
//! What a failed write is reported as follows from one bit, `unsettled`: whether some attempt of it may have
//! taken effect without our knowing. A later answer of the replicated machine under the same stamp settles it.
//! A write that is unsettled is never sent under another stamp.

use crate::directory::{Aim, Directory, Tried};
use crate::fault::Fault;
use crate::lane::{Attempt, Carried, Lane, Shared};
use crate::operation::{Answered, Kind, Operation};
use crate::session::{SessionTable, Ticket};
use crate::{Error, Reply};
use proto::{Code, Consistency, Outcome, shard_of};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// How often one call begins anew under a fresh session before it gives up.
const RESTAMPS_MAX: u32 = 3;

/// What all calls of a client share.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) shared: Arc<Shared>,
    pub(crate) directory: Arc<Directory>,
    sessions: SessionTable,
    /// One permit for each call on its way.
    calls: Semaphore,
    /// One permit for each byte of the calls on their way.
    bytes: Semaphore,
}

impl Core {
    pub(crate) fn new(shared: Arc<Shared>, directory: Directory) -> Self {
        Self {
            sessions: SessionTable::new(directory.cluster().shards),
            calls: Semaphore::new(shared.config.in_flight_max),
            bytes: Semaphore::new(shared.config.in_flight_bytes_max),
            directory: Arc::new(directory),
            shared,
        }
    }

    /// Carries `operation` out, whatever it takes within `time`.
    pub(crate) async fn call(
        &self,
        operation: Operation,
        consistency: Consistency,
        time: Duration,
    ) -> Result<Answered, Error> {
        let deadline = Instant::now() + time;
        self.check(&operation, deadline).await?;
        let mut call = Call::new(self, operation, consistency, deadline);
        match tokio::time::timeout_at(deadline, call.run()).await {
            Ok(result) => result,
            Err(_) => Err(call.give_up()),
        }
    }

    /// Refuses what is too large for the cluster. Limits may have been raised since they were heard of: what seems
    /// too large is measured once more by fresh ones, where somebody tells them in time.
    async fn check(&self, operation: &Operation, deadline: Instant) -> Result<(), Error> {
        let Err(refused) = self.shared.check(operation) else { return Ok(()) };
        match tokio::time::timeout_at(deadline, self.directory.freshen()).await {
            Ok(()) => self.shared.check(operation),
            Err(_) => Err(refused),
        }
    }

    /// [`call`](Self::call), with the reply as batches give it.
    pub(crate) async fn reply(
        &self,
        operation: Operation,
        consistency: Consistency,
        time: Duration,
    ) -> Result<Reply, Error> {
        let is_get = matches!(operation.0, Kind::Get { .. });
        match self.call(operation, consistency, time).await {
            Ok(Answered::Value(value)) => Ok(Reply::Value(Some(value))),
            Ok(Answered::Written(written)) => Ok(Reply::Written(written)),
            Ok(Answered::Deleted(deleted)) => Ok(Reply::Deleted(deleted)),
            Ok(Answered::Page { .. }) => unreachable!("a scan is not offered in batches"),
            Err(Error::NotFound) if is_get => Ok(Reply::Value(None)),
            Err(error) => Err(error),
        }
    }
}

/// What to do after a turn of attempts under one stamp.
enum Turn {
    Ended(Result<Answered, Error>),
    /// The session is gone and the write certainly took no effect under it: a fresh stamp is safe.
    Restamp,
}

struct Call<'c> {
    core: &'c Core,
    operation: Operation,
    consistency: Consistency,
    deadline: Instant,
    /// Where this call's choices among equals begin.
    spin: usize,
    tried: Tried,
    attempts: u32,
    /// Some attempt may have taken effect without our knowing. Never cleared.
    unsettled: bool,
    /// The attempt that is queued or on its way.
    current: Option<Arc<Attempt>>,
    last: Option<Fault>,
}

impl<'c> Call<'c> {
    fn new(core: &'c Core, operation: Operation, consistency: Consistency, deadline: Instant) -> Self {
        Self {
            core,
            operation,
            consistency,
            deadline,
            spin: core.shared.random.spin(),
            tried: Tried::default(),
            attempts: 0,
            unsettled: false,
            current: None,
            last: None,
        }
    }

    fn is_write(&self) -> bool {
        !self.operation.wire().is_read()
    }

    /// Tickets come before permits, and both are given back before a new stamp is drawn: whoever holds a permit
    /// therefore waits for no ticket, and the call cannot deadlock with its like.
    async fn run(&mut self) -> Result<Answered, Error> {
        let core = self.core;
        for _ in 0..=RESTAMPS_MAX {
            let ticket = self.ticket().await;
            let call_permit = core.calls.acquire().await;
            let weight = self.operation.weight().min(core.shared.config.in_flight_bytes_max);
            let byte_permit = core.bytes.acquire_many(u32::try_from(weight).unwrap_or(u32::MAX)).await;
            let turn = self.turn(ticket.as_ref()).await;
            drop((byte_permit, call_permit, ticket));
            match turn {
                Turn::Ended(result) => return result,
                Turn::Restamp => self.pause(None).await,
            }
        }
        Err(self.failure())
    }

    /// The write's place in its session; `None` for reads.
    async fn ticket(&self) -> Option<Ticket> {
        let wire = self.operation.wire();
        let key = wire.key().filter(|_| !wire.is_read())?;
        let shard = shard_of(key, self.core.directory.cluster().shards);
        Some(self.core.sessions.open(shard, &self.core.shared.random).await)
    }

    /// Attempt after attempt under one stamp.
    async fn turn(&mut self, ticket: Option<&Ticket>) -> Turn {
        loop {
            if ticket.is_some_and(Ticket::is_lost) {
                return if self.unsettled { Turn::Ended(Err(self.failure())) } else { Turn::Restamp };
            }
            let aim = self.aim();
            let lane = self.core.directory.pick(aim, &self.tried, self.spin);
            let fault = match self.attempt(&lane, ticket).await {
                Ok(Carried { answered, forwarded }) => {
                    ticket.inspect(|ticket| ticket.confirm());
                    if forwarded {
                        self.core.directory.learn_detour(aim, &lane);
                    } else if self.attempts > 1 {
                        self.core.directory.learn_success(aim, &lane);
                    }
                    return Turn::Ended(Ok(answered));
                }
                Err(fault) => fault,
            };
            // The machine refused this attempt by its stamp, so this one was certainly not carried out. Where it
            // says "unknown" it speaks of the stamp: only an earlier attempt can have been, and `unsettled` knows.
            if let (Code::SessionExpired | Code::SequenceOutOfWindow, Some(ticket)) = (&fault.code, ticket) {
                tracing::warn!(stamp = ?ticket.stamp(), code = %fault.code, "session is lost");
                ticket.lose();
                self.last = Some(fault);
                continue;
            }
            self.unsettled |= self.is_write() && fault.outcome == Outcome::Unknown;
            if fault.is_final_answer() {
                ticket.inspect(|ticket| ticket.confirm());
                return Turn::Ended(Err(answer_of(fault)));
            }
            if !fault.retryable {
                return Turn::Ended(Err(if self.unsettled {
                    self.failed_by(fault)
                } else {
                    answer_of(fault)
                }));
            }
            // A leader that is merely busy stays the right one to ask, as others would only ask it too, and
            // any node follows a shard between two groups.
            let directory = &self.core.directory;
            let others_may_help = match fault.code {
                Code::Overloaded => !directory.leads(aim, &lane),
                Code::WrongGroup { .. } => false,
                _ => true,
            };
            if others_may_help {
                self.tried.add(&lane);
            }
            let named = directory.learn(aim, &lane, &fault);
            let unsent = fault.node_failed && fault.outcome == Outcome::None;
            let at_once = (named || unsent) && directory.has_untried(&self.tried);
            let retry_after = fault.retry_after;
            self.last = Some(fault);
            if !at_once {
                self.pause(retry_after).await;
            }
        }
    }

    /// Writes and linearizable reads want the leader; other reads any replica, unless one was too far behind.
    fn aim(&self) -> Aim {
        let wire = self.operation.wire();
        let Some(key) = wire.key() else { return Aim::Any };
        let cluster = self.core.directory.cluster();
        let group = cluster.group_of(cluster.shard_of(key));
        let too_stale = self.last.as_ref().is_some_and(|fault| fault.code == Code::TooStale);
        let leader = self.is_write() || self.consistency == Consistency::Linearizable || too_stale;
        if leader { Aim::Leader(group) } else { Aim::Replica(group) }
    }

    async fn attempt(&mut self, lane: &Arc<Lane>, ticket: Option<&Ticket>) -> Result<Carried, Fault> {
        self.attempts += 1;
        let consistency = (!self.is_write()).then_some(self.consistency);
        let stamp = ticket.map(Ticket::stamp);
        let attempt = Arc::new(Attempt::new(self.operation.clone(), stamp, consistency, self.deadline));
        self.current = Some(attempt.clone());
        let verdict = lane.submit(attempt.clone()).await;
        self.current = None;
        match verdict {
            Ok(verdict) => verdict,
            Err(_) if attempt.withdraw() => Err(Fault::not_sent("sending stopped")),
            Err(_) => Err(Fault::no_answer("sending stopped")),
        }
    }

    async fn pause(&self, retry_after: Option<Duration>) {
        let Shared { config, random, .. } = &*self.core.shared;
        let wait = random.backoff(self.attempts, config.backoff_min, config.backoff_max);
        tokio::time::sleep(wait.max(retry_after.unwrap_or_default())).await;
    }

    /// The deadline has passed.
    fn give_up(&mut self) -> Error {
        if let Some(attempt) = self.current.take() {
            let sent = !attempt.withdraw();
            self.unsettled |= sent && self.is_write();
        }
        self.failure()
    }

    fn failed_by(&mut self, fault: Fault) -> Error {
        self.last = Some(fault);
        self.failure()
    }

    fn failure(&self) -> Error {
        let attempts = self.attempts;
        let last = self.last.as_ref().map_or_else(|| "deadline passed".to_owned(), Fault::describe);
        if self.unsettled {
            Error::Indeterminate { attempts, last }
        } else {
            Error::Unavailable { attempts, last }
        }
    }
}

/// A caller that goes away withdraws what still waits.
impl Drop for Call<'_> {
    fn drop(&mut self) {
        if let Some(attempt) = self.current.take() {
            attempt.withdraw();
        }
    }
}

/// The error for a fault that needs no further attempt.
fn answer_of(fault: Fault) -> Error {
    match fault.code {
        Code::NotFound => Error::NotFound,
        Code::VersionMismatch { current } => Error::VersionMismatch { current },
        code => Error::Rejected { code, message: fault.message },
    }
}
