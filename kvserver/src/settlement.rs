//! One call of a caller without a session, from its stamps to answers that will not change: what is not
//! settled is sent again, under the same stamp, until the deadline. Writes beyond what a session may have
//! open wait for their stamps meanwhile, for each shard in one place of its queue. A write that meets a full
//! queue is answered so at once: sent again, it would fill it further.
//!
//! Relies on the route telling of each attempt whether it may have taken effect, and on machines answering a stamp
//! that they have answered before as they did then. Must never send a write under another stamp once an attempt of
//! it may have taken effect, nor say "no effect" where any attempt may have had one.

use crate::encoded::Encoded;
use crate::router::{Route, Terms};
use crate::service::{Answer, Call, IdempotencyKey, Operation, Reply};
use crate::stamps::{Stamps, Ticket, Turn};
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::FuturesUnordered;
use proto::{ClientId, Code, Error, Item, Outcome, Sequence, ShardId, Stamp};
use raftstore::random;
use rand::RngExt;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::task::unconstrained;
use tokio::time::{Instant, timeout_at};

/// The first pause before a call is sent again; it doubles, with jitter, up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(5);

/// The longest such pause: a leader that is elected is found within this time.
const RETRY_MAX: Duration = Duration::from_millis(100);

/// Where a write's stamp comes from.
enum Stamped {
    /// Reads have none.
    Not,
    /// The front end's own session with this shard is to give one; no attempt so far took effect.
    Waiting(ShardId),
    /// The front end's own session; open until dropped.
    Own(ShardId, Ticket),
    /// A session of the caller's making that holds this one write.
    Keyed(Stamp),
}

impl Stamped {
    fn stamp(&self) -> Option<Stamp> {
        match self {
            Self::Not => None,
            Self::Waiting(shard) => unreachable!("a write to {shard} that waits for its stamp is not sent"),
            Self::Own(_, ticket) => Some(ticket.stamp()),
            Self::Keyed(stamp) => Some(*stamp),
        }
    }

    /// The machine has answered: it knows the session.
    fn confirm(&self) {
        if let Self::Own(_, ticket) = self {
            ticket.confirm();
        }
    }
}

/// One operation of a call, on its way to a final answer.
struct Pending {
    at: usize,
    stamped: Stamped,
    /// Whether any attempt so far may have taken effect; never cleared.
    unknown: bool,
    /// Whether the last attempt met a shard between two groups: the route has waited for it by then.
    moving: bool,
}

/// What is to be done about an error.
enum Verdict {
    /// The same again, as long as there is time.
    Again(Error),
    /// It stands.
    Final(Error),
}

struct Settlement<'a> {
    stamps: &'a Stamps,
    call: &'a Call,
    /// One for each shard in `turns` whose turn has not come.
    queue: FuturesUnordered<BoxFuture<'a, (ShardId, Turn)>>,
    /// The shards with which writes wait for their stamps, and the turn where it came.
    turns: BTreeMap<ShardId, Option<Turn>>,
    answers: Vec<Option<Answer>>,
    /// What values may still be answered; `None` once one did not fit: further reads would be read for nothing.
    bytes_left: Option<usize>,
}

/// Answers each operation of `call`, in their order, and the largest lag of a replica that was read.
pub(crate) async fn settle(
    route: &impl Route,
    stamps: &Stamps,
    shards: u32,
    call: &Call,
) -> (Vec<Answer>, Duration) {
    let terms = Terms {
        deadline: call.deadline,
        consistency: call.consistency,
        request_id: call.request_id,
        forward: true,
    };
    let (mut settlement, mut pending) = Settlement::begin(stamps, shards, call);
    let (mut lag, mut pause) = (Duration::ZERO, RETRY_MIN);
    while !pending.is_empty() {
        let (ready, waiting) = settlement.stamped(pending);
        if ready.is_empty() {
            settlement.wait_for_turn(terms.deadline).await;
        }
        let (mut again, of) = settlement.attempt(route, ready, terms, pause).await;
        lag = lag.max(of);
        // Where all that was sent is answered, writes that wait may find room for their stamps at once.
        let at_once = again.is_empty();
        again.extend(settlement.go_on_waiting(waiting, terms.left() <= pause));
        pending = again;
        if !pending.is_empty() && !at_once {
            if pending.iter().all(|open| open.moving) {
                pause = RETRY_MIN;
            }
            tokio::time::sleep(jittered(pause)).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }
    let answer = |answer: Option<Answer>| answer.expect("the loop ends when every operation is answered");
    (settlement.answers.into_iter().map(answer).collect(), lag)
}

impl<'a> Settlement<'a> {
    /// Nothing is answered, and writes under the front end's own sessions wait for their stamps.
    fn begin(stamps: &'a Stamps, shards: u32, call: &'a Call) -> (Self, Vec<Pending>) {
        let stamped = |at: usize, operation: &Operation| match (operation.wire().key(), &call.idempotency_key)
        {
            (Some(_), Some(key)) if !operation.is_read() => Stamped::Keyed(keyed(key, at, operation)),
            (Some(key), None) if !operation.is_read() => Stamped::Waiting(proto::shard_of(key, shards)),
            _ => Stamped::Not,
        };
        let pending = call.operations.iter().enumerate();
        let pending = pending.map(|(at, operation)| Pending {
            at,
            stamped: stamped(at, operation),
            unknown: false,
            moving: false,
        });
        let answers = vec![None; call.operations.len()];
        let (queue, turns, bytes_left) =
            (FuturesUnordered::new(), BTreeMap::new(), Some(call.answer_bytes_max));
        (Self { stamps, call, queue, turns, answers, bytes_left }, pending.collect())
    }

    /// Gives stamps to writes that wait for one, as far as there is room: what can be sent, and what goes on waiting.
    fn stamped(&mut self, pending: Vec<Pending>) -> (Vec<Pending>, Vec<Pending>) {
        self.note_turns();
        let (mut ready, mut waiting) = (Vec::with_capacity(pending.len()), Vec::new());
        for mut open in pending {
            if let Stamped::Waiting(shard) = open.stamped {
                let Some(ticket) = self.ticket(shard) else {
                    waiting.push(open);
                    continue;
                };
                open.stamped = Stamped::Own(shard, ticket);
            }
            ready.push(open);
        }
        (ready, waiting)
    }

    /// A stamp from the session with `shard`, or a place in its queue.
    fn ticket(&mut self, shard: ShardId) -> Option<Ticket> {
        let turn = match self.turns.get_mut(&shard) {
            Some(turn) => Some(turn.take()?),
            None => None,
        };
        self.turns.remove(&shard);
        let ticket = turn.and_then(|turn| self.stamps.take(shard, turn));
        let ticket = ticket.or_else(|| self.stamps.open(shard));
        if ticket.is_none() {
            let stamps = self.stamps;
            // A task that has done much is put off by tokio, and would not even stand in the queue.
            let turn = unconstrained(async move { (shard, stamps.turn(shard).await) });
            self.queue.push(turn.boxed());
            self.turns.insert(shard, None);
            self.note_turns();
        }
        ticket
    }

    /// Notes the turns that have come, and takes a place in each queue that is new.
    fn note_turns(&mut self) {
        while let Some(Some((shard, turn))) = self.queue.next().now_or_never() {
            self.turns.insert(shard, Some(turn));
        }
    }

    /// Waits until a turn has come, or until `deadline`. One may have come since the writes that are for it were
    /// put to wait: it is taken before the next is waited for, because it keeps others out until it is.
    async fn wait_for_turn(&mut self, deadline: Instant) {
        if self.turns.values().any(Option::is_some) {
            return;
        }
        if let Ok(Some((shard, turn))) = timeout_at(deadline, self.queue.next()).await {
            self.turns.insert(shard, Some(turn));
        }
    }

    /// Sends all of `ready` once; what is to be sent again, and the largest lag.
    async fn attempt(
        &mut self,
        route: &impl Route,
        ready: Vec<Pending>,
        terms: Terms,
        pause: Duration,
    ) -> (Vec<Pending>, Duration) {
        if ready.is_empty() {
            return (ready, Duration::ZERO);
        }
        let operations = &self.call.operations;
        let items: Vec<Item<'_>> = ready
            .iter()
            .map(|open| Item { stamp: open.stamped.stamp(), operation: operations[open.at].wire() })
            .collect();
        let routed = route.route(&items, terms).await;
        assert_eq!(routed.answers.len(), ready.len(), "every item is answered");
        let last = terms.left() <= pause;
        let judged = ready.into_iter().zip(routed.answers);
        let mut again = judged.filter_map(|(open, answer)| self.judge(open, &answer, last)).collect();
        self.give_up_reads(&mut again);
        (again, routed.lag)
    }

    /// Writes without a stamp, unless it is too late for one: nothing was done of them.
    fn go_on_waiting(&mut self, waiting: Vec<Pending>, last: bool) -> Vec<Pending> {
        if !last {
            return waiting;
        }
        for open in waiting {
            let error = Error::new(Code::Overloaded, "writes to the shard under way reached their limit");
            self.answers[open.at] = Some(Err(error));
        }
        Vec::new()
    }

    /// Takes an answer that will not change; gives back what is to be sent again.
    fn judge(&mut self, mut open: Pending, encoded: &Encoded, last: bool) -> Option<Pending> {
        let answer = match encoded.answer() {
            Ok(reply) => {
                open.stamped.confirm();
                self.bounded(Reply::sharing(encoded.bytes(), &reply))
            }
            Err(error) => match self.verdict(&mut open, error) {
                Verdict::Again(_) if !last => return Some(open),
                Verdict::Again(error) | Verdict::Final(error) => Err(error),
            },
        };
        self.answers[open.at] = Some(answer);
        None
    }

    /// What an error of one attempt means for the operation, all its attempts taken together.
    fn verdict(&self, open: &mut Pending, error: Error) -> Verdict {
        let is_read = self.call.operations[open.at].is_read();
        open.moving = matches!(error.code, Code::WrongGroup { .. });
        match error.code {
            // Only the machine says these, and says of this stamp what it said the first time: whatever became of
            // earlier attempts, this is what the write came to.
            Code::NotFound | Code::VersionMismatch { .. } if error.outcome == Outcome::None => {
                open.stamped.confirm();
                Verdict::Final(error)
            }
            Code::SessionExpired if !is_read => self.renew(open),
            _ => {
                open.unknown |= !is_read && error.outcome == Outcome::Unknown;
                // No effect of the last attempt says nothing of those before it.
                let outcome = if open.unknown { Outcome::Unknown } else { Outcome::None };
                let again = match error.code {
                    Code::TooStale => false,
                    // A write that is sent again takes up what is short, and its caller can wait as well.
                    Code::Overloaded => is_read,
                    _ => error.retryable(),
                };
                let error = Error { outcome, ..error };
                if again { Verdict::Again(error) } else { Verdict::Final(error) }
            }
        }
    }

    /// Opens a new session in the place of one that the machine has forgotten: this attempt had no effect. One
    /// under the old session that may have had one cannot be told from one that had none any more, so such a write
    /// is not sent again.
    fn renew(&self, open: &mut Pending) -> Verdict {
        let forgotten = "the session that the write was sent under is forgotten";
        if open.unknown {
            let why = format!("{forgotten}, and an earlier attempt was not answered");
            return Verdict::Final(Error::unknown(Code::Unavailable, why));
        }
        let Stamped::Own(shard, ticket) = &open.stamped else {
            return Verdict::Final(Error::new(Code::SessionExpired, forgotten));
        };
        let shard = *shard;
        self.stamps.replace(shard, ticket.stamp());
        open.stamped = Stamped::Waiting(shard);
        Verdict::Again(Error::new(Code::Unavailable, forgotten))
    }

    /// `reply`, unless its value no longer fits what may be answered.
    fn bounded(&mut self, reply: Reply) -> Answer {
        let Reply::Value { value, .. } = &reply else { return Ok(reply) };
        let left = self.bytes_left.and_then(|left| left.checked_sub(value.len()));
        self.bytes_left = left;
        match left {
            Some(_) => Ok(reply),
            None => Err(self.too_large()),
        }
    }

    fn too_large(&self) -> Error {
        let most = self.call.answer_bytes_max;
        Error::new(Code::BatchTooLarge, format!("values of the answer exceed its limit of {most} bytes"))
    }

    /// Once the answer is full, reads that wait are not asked again.
    fn give_up_reads(&mut self, pending: &mut Vec<Pending>) {
        if self.bytes_left.is_some() {
            return;
        }
        let error = self.too_large();
        pending.retain(|open| {
            let give_up = self.call.operations[open.at].is_read();
            if give_up {
                self.answers[open.at] = Some(Err(error.clone()));
            }
            !give_up
        });
    }
}

/// The one stamp of a session that a caller's name makes, whichever node it is sent to. The session is that
/// of the name, the place in the request and the key that is written, the sequence that of the whole
/// operation. The key has its part in the session because another key may live in another group, where nobody
/// knows of this one.
fn keyed(name: &IdempotencyKey, at: usize, operation: &Operation) -> Stamp {
    let operation = operation.wire();
    let named =
        Sha256::new().chain_update(name.as_str()).chain_update([0]).chain_update((at as u64).to_le_bytes());
    let named = named.chain_update(operation.key().unwrap_or_default()).finalize();
    let asked = Sha256::digest(proto::encode(&operation));
    let enough = "a sha256 digest has 32 bytes";
    let client = u128::from_le_bytes(*named.first_chunk().expect(enough));
    let sequence = Sequence(u64::from_le_bytes(*asked.first_chunk().expect(enough)).max(1));
    Stamp { client: ClientId::named(client), sequence, lowest_open: sequence }
}

fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(random().random_range(0.5..1.0))
}

#[cfg(test)]
mod tests;
