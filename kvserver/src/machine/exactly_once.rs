//! How a stamped write takes effect once, however often it arrives.
//!
//! Owns admission by sessions, and when sessions are forgotten. Relies on time that never goes back. It must
//! never let a write through whose session may have carried it out already.
//!
//! A session is opened only by a stamp whose lowest open sequence is 1: by a client that has seen no answer
//! yet. Any other stamp without a session once had one, and is refused with `session_expired`, outcome
//! unknown. What remains is a late duplicate of a client's *first* requests, arriving after the session was
//! forgotten: it would open another session and take effect again. Sessions are therefore forgotten only when
//! nobody may send that request any more: after an idle [`SESSION_TTL_MS`], or, when there are too many or
//! they keep too many answers, the idlest first but none before an idle [`SESSION_IDLE_MIN_MS`]. Where even
//! that does not make room, the newcomer is refused with `overloaded`, not the old one evicted: exactly-once
//! wins over availability for new writes. Of the places for sessions, [`SESSIONS_MAX_FOR_NAMED`] can be taken
//! by requests that are named one by one. Where they hold that many, a new one takes the place of one of its
//! own kind or none: whoever names many requests shuts out others of their kind and nobody else.
//!
//! A *named* session ([`ClientId::is_named`]) holds one write under one sequence, a digest of what is asked.
//! Any stamp opens it, and another sequence in it says that the name was given to two requests: the second is
//! refused.
//!
//! Work per command is bounded and depends on nothing but the state: a replica that was restored from a copy
//! forgets the same sessions at the same commands as one that never stopped.
//!
//! Sessions travel with their shard. Only a shard that is served is asked; one that is frozen forgets none,
//! one that comes in may: what counts is how long a session was idle, wherever its shard was. What comes in
//! is taken beyond all bounds: to refuse it would be to forget it.

use super::bounds::{
    ANSWERS_MAX, EVICTED_PER_COMMAND_MAX, EXPIRED_PER_COMMAND_MAX, SESSION_IDLE_MIN_MS, SESSION_TTL_MS,
    SESSIONS_MAX, SESSIONS_MAX_FOR_NAMED, WINDOW,
};
use super::copy::Part;
use super::idleness::Order;
use super::outcome::Outcome;
use super::session::{Session, is_expired, is_idle};
use super::shard::Shard;
use super::{KvMachine, carry_out};
use proto::{Answer, ClientId, Code, Error, Operation, Sequence, ShardId, Stamp};

/// How many sessions and answers a machine holds: [`FORMAT`](Self::FORMAT) everywhere but in tests.
#[derive(Clone, Copy, Debug)]
pub(super) struct SessionBounds {
    pub(super) sessions_max: u64,
    pub(super) sessions_max_for_named: u64,
    pub(super) answers_max: u64,
}

impl SessionBounds {
    pub(super) const FORMAT: Self = Self {
        sessions_max: SESSIONS_MAX,
        sessions_max_for_named: SESSIONS_MAX_FOR_NAMED,
        answers_max: ANSWERS_MAX,
    };
}

/// Which sessions may have to make room.
#[derive(Clone, Copy)]
enum Among {
    All,
    Named,
}

/// How far a stamped write has come.
enum Progress {
    /// This is what it came to, now or when it was carried out before.
    Done(Outcome),
    /// Its client has no session.
    NoSession,
    /// It is new, and there is no room for its answer.
    NoRoom,
}

impl KvMachine {
    /// Carries out a stamped write, opening its session where it is the client's first, or answers it as it was
    /// answered before.
    pub(super) fn execute_once(
        &mut self,
        id: ShardId,
        stamp: &Stamp,
        operation: &Operation<'_>,
    ) -> Answer<'static> {
        self.served(id)?;
        check(stamp)?;
        // Three turns at most: each but the last provides what the one before lacked, and neither a session that was
        // opened now nor room that was made now is taken back by what this does.
        loop {
            match self.attempt(id, stamp, operation)? {
                Progress::Done(outcome) => return outcome.answer(),
                Progress::NoSession => self.open_session(id, stamp)?,
                Progress::NoRoom => self.make_room_for_answer()?,
            }
        }
    }

    /// Notes the stamp's arrival in its session, frees the answers that nobody waits for any more, and carries the
    /// write out where nothing is lacking.
    fn attempt(&mut self, id: ShardId, stamp: &Stamp, operation: &Operation<'_>) -> Result<Progress, Error> {
        let (client, now_s) = (stamp.client, self.time_ms / 1000);
        let has_room = self.total.answers < self.bounds.answers_max;
        self.change(id, |shard, copies| {
            let Some(session) = shard.sessions.get_mut(&client) else { return Ok(Progress::NoSession) };
            check_name(stamp, session)?;
            let (active_s, answers) = (session.active_s(), session.answers());
            if session.touch(now_s, stamp.lowest_open) {
                copies.mark(id, &Part::Session(client), true, true);
            }
            if session.active_s() != active_s {
                let order = shard.idle.of(client);
                order.remove(&(active_s, client));
                order.insert((session.active_s(), client));
            }
            shard.usage.answers -= answers - session.answers();
            let lowest = session.lowest();
            if stamp.sequence < lowest {
                let message = format!("sequence {} is below {lowest}", stamp.sequence);
                return Err(Error::unknown(Code::SequenceOutOfWindow, message));
            }
            if let Some(outcome) = session.answer(stamp.sequence) {
                return Ok(Progress::Done(outcome));
            }
            if !has_room {
                return Ok(Progress::NoRoom);
            }
            let outcome = carry_out(id, shard, operation, copies);
            let session = shard.sessions.get_mut(&client).expect("a write forgets no session");
            session.settle(stamp.sequence, outcome);
            shard.usage.answers += 1;
            copies.mark(id, &Part::Session(client), true, true);
            Ok(Progress::Done(outcome))
        })
    }

    /// Forgets sessions that have been idle for too long, the idlest first, a bounded number at a time.
    pub(super) fn expire_sessions(&mut self) {
        let mut left = EXPIRED_PER_COMMAND_MAX;
        while left > 0 && self.idleness.idlest_s().is_some_and(|active_s| is_expired(active_s, self.time_ms))
        {
            let (_, shard, client) = self.idlest(Among::All).expect("the idlest is one of all");
            self.forget_session(shard, client);
            left -= 1;
        }
    }

    /// Opens the session of a stamp that has none, or says why it cannot be.
    fn open_session(&mut self, shard: ShardId, stamp: &Stamp) -> Result<(), Error> {
        let client = stamp.client;
        if stamp.lowest_open > Sequence(1) && !client.is_named() {
            let message =
                format!("session is unknown or was idle for more than {SESSION_TTL_MS} ms: {client}");
            return Err(Error::unknown(Code::SessionExpired, message));
        }
        self.make_room_for_answer()?;
        self.make_room_for_session(client)?;
        let active_s = self.time_ms / 1000;
        self.change(shard, |home, copies| {
            home.put_session(client, Session::new(active_s, stamp.lowest_open));
            copies.mark(shard, &Part::Session(client), false, true);
        });
        Ok(())
    }

    /// The idlest session of those that may be forgotten, and when it was active last.
    fn idlest(&self, among: Among) -> Option<(u64, ShardId, ClientId)> {
        let first = |shards: &Order<ShardId>, sessions: fn(&Shard) -> &Order<ClientId>| {
            let &(active_s, id) = shards.first()?;
            let idlest = self.shards.get(&id).and_then(|shard| sessions(shard).first());
            let (_, client) = *idlest.expect("the order of idleness names shards with sessions");
            Some((active_s, id, client))
        };
        let named = first(&self.idleness.named, |shard| &shard.idle.named);
        let others = match among {
            Among::All => first(&self.idleness.others, |shard| &shard.idle.others),
            Among::Named => None,
        };
        named.into_iter().chain(others).min()
    }

    /// Forgets the idlest session, unless it may still be in use; says whether it did.
    fn evict_idlest(&mut self, among: Among) -> bool {
        match self.idlest(among) {
            Some((active_s, shard, client)) if is_idle(active_s, self.time_ms, SESSION_IDLE_MIN_MS) => {
                self.forget_session(shard, client);
                true
            }
            _ => false,
        }
    }

    /// Makes sure that `client` may open one more session. Where names hold their share, only another name can
    /// make room for one, and that is room enough in a full house, too.
    fn make_room_for_session(&mut self, client: ClientId) -> Result<(), Error> {
        let (held, bounds) = (self.total, self.bounds);
        if client.is_named() && held.named_sessions >= bounds.sessions_max_for_named {
            if !self.evict_idlest(Among::Named) {
                let message = format!("too many sessions of named requests: {}", held.named_sessions);
                return Err(Error::new(Code::Overloaded, message));
            }
        } else if held.sessions >= bounds.sessions_max && !self.evict_idlest(Among::All) {
            let message = format!("too many sessions: {}", held.sessions);
            return Err(Error::new(Code::Overloaded, message));
        }
        Ok(())
    }

    /// Makes sure that one more answer may be kept. Never evicts the session that asks: it is active now.
    fn make_room_for_answer(&mut self) -> Result<(), Error> {
        let full = |machine: &Self| machine.total.answers >= machine.bounds.answers_max;
        let mut left = EVICTED_PER_COMMAND_MAX;
        while full(self) && left > 0 && self.evict_idlest(Among::All) {
            left -= 1;
        }
        if full(self) {
            let message = format!("too many answers are kept: {}", self.total.answers);
            return Err(Error::new(Code::Overloaded, message));
        }
        Ok(())
    }

    fn forget_session(&mut self, id: ShardId, client: ClientId) {
        self.change(id, |shard, copies| {
            assert!(shard.remove_session(client), "the order of idleness names present sessions");
            copies.mark(id, &Part::Session(client), true, false);
        });
    }
}

/// Whether a stamp makes sense in itself.
fn check(stamp: &Stamp) -> Result<(), Error> {
    let Stamp { sequence, lowest_open, .. } = *stamp;
    if lowest_open < Sequence(1) || sequence < lowest_open {
        let message = format!("stamp breaks 1 <= lowest_open <= sequence: {lowest_open}, {sequence}");
        return Err(Error::new(Code::BadRequest, message));
    }
    if stamp.client.is_named() && sequence != lowest_open {
        let message = format!("stamp of a named request has two sequences: {lowest_open}, {sequence}");
        return Err(Error::new(Code::BadRequest, message));
    }
    if sequence.0 - lowest_open.0 > WINDOW {
        let message = format!("sequence {sequence} is more than {WINDOW} above {lowest_open}");
        return Err(Error::new(Code::SequenceOutOfWindow, message));
    }
    Ok(())
}

/// Whether a stamp asks for what its session was opened for, where that was one request.
fn check_name(stamp: &Stamp, session: &Session) -> Result<(), Error> {
    if stamp.client.is_named() && stamp.sequence != session.lowest() {
        let message = "idempotency key was given to another request for this key before";
        return Err(Error::new(Code::IdempotencyKeyReused, message));
    }
    Ok(())
}
