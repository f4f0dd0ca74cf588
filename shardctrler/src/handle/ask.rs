//! Asking whoever leads the controller, and answering as that.
//!
//! Owns who is thought to lead, and with whom a search begins. Must never send a command again of which it does not know
//! the outcome; whatever else is asked goes to the next node where one does not answer.

use super::{ADMISSIONS_MAX, ATTEMPT_PACE, ATTEMPT_TIME_MAX, ControllerHandle, ExecuteError, is_in_touch};
use crate::Controller;
use crate::api::{CONTROLLER_SERVICE, Plan, Question, Word};
use crate::failpoint::{Failpoint, reach};
use crate::liveness::Liveness;
use crate::machine::ControllerMachine;
use bytes::Bytes;
use proto::{ControllerAnswer, ControllerChange, ControllerCommand, ControllerError, NodeId, NodeState};
use raftstore::{CallError, Group, ProposeError, ReadError};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// How long a node waits with a sign of life for one that does not answer: another is asked in the same turn.
const SIGN_TIME_MAX: Duration = Duration::from_millis(500);

impl ControllerHandle {
    /// Answers what only the leader may.
    pub(super) async fn answer(&self, question: &Question) -> Word {
        let Some(group) = self.group() else { return Word::NotLeader(self.leader()) };
        let leader = || Word::NotLeader(group.leader().filter(|leader| *leader != self.host.node()));
        // It does not know yet that it was superseded, or it has no successor either.
        if group.leads() && !is_in_touch(&group) {
            return Word::Busy("a quorum is out of the leader's reach".to_owned());
        }
        match question {
            Question::Execute(command) => self.carry_out(&group, command).await,
            Question::History(epoch) => {
                match group.read(|machine| machine.controller().shard_map(*epoch)).await {
                    Ok(map) => Word::History(map),
                    Err(error) => unread(error),
                }
            }
            Question::Plan(command) => {
                let plan = |machine: &ControllerMachine| {
                    let controller = machine.controller();
                    controller.plan(command).map(|moves| Plan { epoch: controller.epoch(), moves })
                };
                match group.read(plan).await {
                    Ok(plan) => Word::Planned(plan),
                    Err(error) => unread(error),
                }
            }
            Question::Alive(sign) => match self.lock_liveness().as_mut() {
                Some(liveness) => {
                    liveness.hear(Instant::now(), sign.clone());
                    Word::Heard
                }
                None => leader(),
            },
            Question::Silence { node, incarnation, .. } => match self.lock_liveness().as_ref() {
                Some(liveness) => {
                    let silence = liveness.silence(Instant::now(), *node, *incarnation);
                    Word::Silent(
                        silence.map(|silence| u64::try_from(silence.as_millis()).unwrap_or(u64::MAX)),
                    )
                }
                None => leader(),
            },
            Question::Follow { .. } | Question::Member { .. } => {
                unreachable!("not for the controller's leader alone")
            }
        }
    }

    /// Has the group carry a command out, where this node leads it.
    async fn carry_out(&self, group: &Group<ControllerMachine>, command: &ControllerCommand) -> Word {
        let (node, change) = (self.host.node(), &command.change);
        if group.leads() {
            reach(node, change, Failpoint::Asked).await;
        }
        let word = match change {
            // The machine does not look at that, see `check_http`. Of two newcomers with one address the second finds the
            // first there.
            ControllerChange::NodeJoin { node: newcomer, spec } => {
                let admit = |controller: &Controller| {
                    controller.check_http(*newcomer, spec).map_err(|refused| Word::Executed(Err(refused)))
                };
                propose_fenced(group, command, admit).await
            }
            ControllerChange::NodeRemove { node: leaver } => {
                propose_fenced(group, command, |controller| self.lets_go(controller, *leaver)).await
            }
            _ => propose(group, command).await,
        };
        if matches!(word, Word::Executed(_)) {
            reach(node, change, Failpoint::Committed).await;
        }
        word
    }

    /// Whether a node can be removed that will not come back by itself: it has given a sign of life, and does so only
    /// once its disk remembers that it is a member. Of one that is dead nothing better will be known.
    fn lets_go(&self, controller: &Controller, node: NodeId) -> Result<(), Word> {
        let map = controller.cluster_map().map_err(|refused| Word::Executed(Err(refused)))?;
        let Some(view) = map.nodes.iter().find(|view| view.node == node) else { return Ok(()) };
        let silence = |liveness: &Liveness| liveness.silence(Instant::now(), node, view.spec.incarnation);
        let is_known = self.lock_liveness().as_ref().and_then(silence).is_some();
        if is_known || view.state == NodeState::Dead {
            return Ok(());
        }
        Err(Word::Busy(format!("{node} may not know yet that it is a member, and would join again")))
    }

    /// Who leads as this node's replica knows, or as others said: one that is out of touch may know a leader
    /// of old, which may be itself.
    fn leader(&self) -> Option<NodeId> {
        let own = self.group().filter(is_in_touch);
        let own = own.and_then(|group| group.leader());
        own.or_else(|| *self.leader.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes what another said. That this node leads, it is told by its own replica alone: whoever says so
    /// speaks of old, and a node without a replica would ask itself from then on.
    pub(super) fn note_leader(&self, leader: Option<NodeId>) {
        let leader = leader.filter(|leader| *leader != self.host.node());
        *self.leader.lock().unwrap_or_else(PoisonError::into_inner) = leader;
    }

    /// Asks whoever leads, and where that is not known, everybody in turn, until somebody answers. What may be
    /// carried out once only is asked again as long as nothing can have happened.
    pub(super) async fn ask_leader(
        &self,
        question: &Question,
        deadline: Duration,
    ) -> Result<Word, ExecuteError> {
        let until = Instant::now() + deadline;
        let mut turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut why = "there was no time".to_owned();
        while Instant::now() < until {
            let whom = self.whom(turn);
            turn = turn.wrapping_add(1);
            let word = match &whom {
                None => self.ask_self(question, until).await,
                Some((node, address)) => self.ask(*node, address, question, until).await,
            };
            let mut leader = None;
            why = match word {
                Ok(Word::NotLeader(other)) => {
                    leader = other;
                    "nobody leads it".to_owned()
                }
                Ok(Word::Busy(why)) => why,
                Ok(Word::Unknown(why)) => return Err(ExecuteError::Unknown(why)),
                Ok(word) => {
                    self.note_leader(whom.map(|(node, _)| node));
                    return Ok(word);
                }
                Err(error) if error.may_have_happened() && is_once(question) => {
                    self.note_leader(None);
                    return Err(ExecuteError::Unknown(error.to_string()));
                }
                Err(error) => error.to_string(),
            };
            self.note_leader(leader);
            sleep(ATTEMPT_PACE.min(until.saturating_duration_since(Instant::now()))).await;
        }
        Err(ExecuteError::Unreached(why))
    }

    /// Has this node's own replica answer.
    async fn ask_self(&self, question: &Question, until: Instant) -> Result<Word, CallError> {
        let answer = timeout_at(attempt_end(question, until), self.answer(question)).await;
        answer.map_err(|_| CallError::MaybeDelivered("the time ran out".to_owned()))
    }

    /// Whom to ask: who leads, as far as is known, or everybody in turn; `None` for this node itself.
    pub(super) fn whom(&self, turn: usize) -> Option<(NodeId, String)> {
        let others = self.others();
        let leader = self.leader();
        if leader == Some(self.host.node()) || (others.is_empty() && self.group.borrow().is_some()) {
            return None;
        }
        if let Some((node, address)) = leader.and_then(|leader| others.get_key_value(&leader)) {
            return Some((*node, address.clone()));
        }
        let at = turn % others.len().max(1);
        others.into_iter().nth(at)
    }

    pub(super) async fn ask(
        &self,
        node: NodeId,
        address: &str,
        question: &Question,
        until: Instant,
    ) -> Result<Word, CallError> {
        let left = attempt_end(question, until).saturating_duration_since(Instant::now());
        let body = Bytes::from(proto::encode(question));
        let answer = self.host.call(node, address, CONTROLLER_SERVICE, body, left).await?;
        proto::decode(&answer).map_err(|error| CallError::MaybeDelivered(error.to_string()))
    }
}

/// Has a command carried out at the version of the map at which `check` lets it, or not at all.
async fn propose_fenced(
    group: &Group<ControllerMachine>,
    command: &ControllerCommand,
    check: impl Fn(&Controller) -> Result<(), Word>,
) -> Word {
    for _ in 0..ADMISSIONS_MAX {
        let look = |machine: &ControllerMachine| {
            let controller = machine.controller();
            (controller.epoch(), check(controller))
        };
        let current = match group.read(look).await {
            Ok((current, Ok(()))) => current,
            Ok((_, Err(refused))) => return refused,
            Err(error) => return unread(error),
        };
        if command.expect.is_some_and(|expect| expect != current) {
            return Word::Executed(Err(ControllerError::EpochMismatch { current }));
        }
        let fenced = ControllerCommand { expect: Some(current), change: command.change.clone() };
        match propose(group, &fenced).await {
            Word::Executed(Err(ControllerError::EpochMismatch { .. })) => {}
            word => return word,
        }
    }
    Word::Busy("the map changes all the time".to_owned())
}

async fn propose(group: &Group<ControllerMachine>, command: &ControllerCommand) -> Word {
    match group.propose(Bytes::from(proto::encode(command))).await {
        Ok(answer) => match proto::decode::<ControllerAnswer>(&answer) {
            Ok(answer) => Word::Executed(answer),
            Err(error) => Word::Unknown(error.to_string()),
        },
        Err(ProposeError::NotLeader { leader, .. }) => Word::NotLeader(leader),
        Err(ProposeError::Unknown { why, .. }) => Word::Unknown(why.to_owned()),
        Err(refused) => Word::Busy(refused.to_string()),
    }
}

/// What is answered where the machine could not be read.
fn unread(error: ReadError) -> Word {
    match error {
        ReadError::NotLeader { leader, .. } => Word::NotLeader(leader),
        error => Word::Busy(error.to_string()),
    }
}

/// When one node has been asked for long enough.
fn attempt_end(question: &Question, until: Instant) -> Instant {
    attempt_time_max(question).map_or(until, |time| until.min(Instant::now() + time))
}

/// How long one node may take to answer a question; `None` where it has all the time that there is, because
/// nobody else can be asked once it was sent.
fn attempt_time_max(question: &Question) -> Option<Duration> {
    match question {
        Question::Execute(_) => None,
        Question::Alive(_) => Some(SIGN_TIME_MAX),
        Question::Follow { wait_ms, .. } => {
            Some(Duration::from_millis(u64::from(*wait_ms)) + ATTEMPT_TIME_MAX)
        }
        Question::History(_) | Question::Member { .. } | Question::Plan(_) | Question::Silence { .. } => {
            Some(ATTEMPT_TIME_MAX)
        }
    }
}

/// Whether asking twice may be one time too many.
fn is_once(question: &Question) -> bool {
    matches!(question, Question::Execute(_))
}
