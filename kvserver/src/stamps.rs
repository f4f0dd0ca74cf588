//! The front end's own sessions: what makes a curl request that the front end sends again take effect once.
//!
//! One session for each shard, counted from 1. A sequence is open from its stamp until its ticket is dropped;
//! once closed it is never sent again, and machines refuse it when a late copy arrives.
//!
//! Only a stamp whose lowest open sequence is 1 makes a session with a machine. That a machine knows a session is
//! certain once it has answered a stamp of it; until then every stamp says 1, whatever is closed.
//!
//! A session is replaced by a new one when no machine has answered in it for [`IDLE_MAX`], when all stamps that may
//! say 1 are given out and closed, and when a machine says that it has forgotten it. What is open in it by then goes
//! on under its stamps: nothing is sent for longer than [`TIMEOUT_MAX`], and no machine forgets in that time what it
//! has done.
//!
//! While too many sequences are open, whoever wants another waits for a turn. Turns come in the order in
//! which they were asked for, one sequence each, and nobody overtakes who waits: a call of many writes takes
//! turns with others. Where the session is replaced, who waits asks anew.

use crate::http::TIMEOUT_MAX;
use crate::machine::bounds::SESSION_IDLE_MIN_MS;
use proto::{ClientId, Sequence, ShardId, Stamp};
use raftstore::random;
use rand::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// How far a session's newest sequence may run ahead of its lowest open one; half of what machines accept.
const WINDOW: usize = 512;

/// A session in which no machine has answered for so long is replaced. The last write under it ends within
/// [`TIMEOUT_MAX`], before a machine, even under pressure, forgets the session.
const IDLE_MAX: Duration = Duration::from_secs(4 * 60);

const _: () = assert!(
    IDLE_MAX.as_millis() + TIMEOUT_MAX.as_millis() < SESSION_IDLE_MIN_MS as u128,
    "no write may be sent, nor a session be continued, when a machine may have forgotten it"
);

/// The sessions of one front end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stamps {
    sessions: Arc<Mutex<BTreeMap<ShardId, Session>>>,
}

#[derive(Debug)]
struct Session {
    client: ClientId,
    /// The next sequence to hand out; from 1, never goes back.
    next: u64,
    /// Sequences handed out whose tickets live.
    open: BTreeSet<u64>,
    /// The lowest open sequence as stamps say it: 1 until a machine has answered.
    lowest: u64,
    /// The latest opening of a sequence that a machine has answered: it has heard of the session then or later.
    confirmed: Option<Instant>,
    /// `lowest + WINDOW - next` permits, turns that came and were not yet taken among them. tokio gives
    /// them to waiters in their order, and leaves none to others while somebody waits. Closed when the
    /// session is replaced.
    window: Arc<Semaphore>,
}

impl Session {
    fn new() -> Self {
        let client = ClientId(u128::from(random().next_u64()) << 64 | u128::from(random().next_u64()));
        Self {
            client,
            next: 1,
            open: BTreeSet::new(),
            lowest: 1,
            confirmed: None,
            window: Arc::new(Semaphore::new(WINDOW)),
        }
    }

    /// Whether a machine would take the next stamp, if there is one or may be.
    fn continues(&self) -> bool {
        match self.confirmed {
            Some(at) => at.elapsed() < IDLE_MAX,
            None => self.next <= WINDOW as u64 || !self.open.is_empty(),
        }
    }

    fn begin(&mut self, turn: OwnedSemaphorePermit) -> Stamp {
        turn.forget();
        let sequence = self.next;
        self.next += 1;
        self.open.insert(sequence);
        Stamp { client: self.client, sequence: Sequence(sequence), lowest_open: Sequence(self.lowest) }
    }

    fn confirm(&mut self, opened_at: Instant) {
        self.confirmed = self.confirmed.max(Some(opened_at));
        self.advance();
    }

    fn end(&mut self, sequence: Sequence) {
        self.open.remove(&sequence.0);
        if self.confirmed.is_some() {
            self.advance();
        }
    }

    /// Moves the window up to the oldest sequence that is open.
    fn advance(&mut self) {
        let lowest = self.open.first().copied().unwrap_or(self.next);
        let moved = usize::try_from(lowest - self.lowest).expect("the window is at most WINDOW long");
        self.lowest = lowest;
        self.window.add_permits(moved);
    }

    fn replace_if_past(&mut self) {
        if !self.continues() {
            self.replace();
        }
    }

    /// Makes this a new session; who waits for a turn with the old one waits in the new one's queue.
    fn replace(&mut self) {
        self.window.close();
        *self = Self::new();
    }
}

/// The right to open one sequence of a session; given back when dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    client: ClientId,
    permit: OwnedSemaphorePermit,
}

/// An open sequence; closed when dropped.
#[derive(Debug)]
pub(crate) struct Ticket {
    sessions: Arc<Mutex<BTreeMap<ShardId, Session>>>,
    shard: ShardId,
    stamp: Stamp,
    opened_at: Instant,
}

impl Stamps {
    /// Opens the next sequence with `shard`; `None` while too many are open, or others wait for their turn.
    pub(crate) fn open(&self, shard: ShardId) -> Option<Ticket> {
        let mut sessions = lock(&self.sessions);
        let session = continuing(&mut sessions, shard);
        let turn = session.window.clone().try_acquire_owned().ok()?;
        let stamp = session.begin(turn);
        drop(sessions);
        Some(self.ticket(shard, stamp))
    }

    /// Waits for a turn with `shard`, behind all who wait since before the first poll.
    pub(crate) async fn turn(&self, shard: ShardId) -> Turn {
        loop {
            let (client, window) = {
                let mut sessions = lock(&self.sessions);
                let session = continuing(&mut sessions, shard);
                (session.client, session.window.clone())
            };
            // An error says that the session was replaced: the new one has a queue of its own.
            if let Ok(permit) = window.acquire_owned().await {
                return Turn { client, permit };
            }
        }
    }

    /// Opens the sequence that `turn` is for; `None` where its session was replaced meanwhile.
    pub(crate) fn take(&self, shard: ShardId, turn: Turn) -> Option<Ticket> {
        let mut sessions = lock(&self.sessions);
        let session =
            Some(continuing(&mut sessions, shard)).filter(|session| session.client == turn.client)?;
        let stamp = session.begin(turn.permit);
        drop(sessions);
        Some(self.ticket(shard, stamp))
    }

    fn ticket(&self, shard: ShardId, stamp: Stamp) -> Ticket {
        Ticket { sessions: self.sessions.clone(), shard, stamp, opened_at: Instant::now() }
    }

    /// Puts a new session in the place of the one that `stamp` belongs to: a machine has forgotten it.
    pub(crate) fn replace(&self, shard: ShardId, stamp: Stamp) {
        let mut sessions = lock(&self.sessions);
        if let Some(session) = sessions.get_mut(&shard).filter(|session| session.client == stamp.client) {
            session.replace();
        }
    }
}

/// The session that takes the next stamps.
fn continuing(sessions: &mut BTreeMap<ShardId, Session>, shard: ShardId) -> &mut Session {
    let session = sessions.entry(shard).or_insert_with(Session::new);
    session.replace_if_past();
    session
}

impl Ticket {
    /// The stamp to send, the same at every attempt.
    pub(crate) fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// A machine has answered the stamp: it knows the session.
    pub(crate) fn confirm(&self) {
        let mut sessions = lock(&self.sessions);
        if let Some(session) = self.session(&mut sessions) {
            session.confirm(self.opened_at);
        }
    }

    /// The session that it belongs to; a replaced session's sequences are nobody's any more.
    fn session<'a>(&self, sessions: &'a mut BTreeMap<ShardId, Session>) -> Option<&'a mut Session> {
        sessions.get_mut(&self.shard).filter(|session| session.client == self.stamp.client)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut sessions = lock(&self.sessions);
        if let Some(session) = self.session(&mut sessions) {
            session.end(self.stamp.sequence);
            // Who waits for a turn of the old session would wait for nothing.
            session.replace_if_past();
        }
    }
}

fn lock(sessions: &Mutex<BTreeMap<ShardId, Session>>) -> MutexGuard<'_, BTreeMap<ShardId, Session>> {
    sessions.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::poll;
    use std::collections::VecDeque;

    /// The lowest open sequence follows the oldest ticket that lives.
    #[test]
    fn lowest_open_follows_the_tickets() {
        let stamps = Stamps::default();
        let open = || stamps.open(ShardId(1)).unwrap();
        let (first, second) = (open(), open());
        assert_eq!((first.stamp().sequence.0, second.stamp().lowest_open.0), (1, 1));
        second.confirm();
        drop(second);
        assert_eq!(open().stamp().lowest_open.0, 1);
        drop(first);
        let last = open();
        assert_eq!((last.stamp().sequence.0, last.stamp().lowest_open.0), (4, 4));
    }

    /// Other shards count for themselves, under another client id.
    #[test]
    fn shards_have_sessions_of_their_own() {
        let stamps = Stamps::default();
        let (one, two) = (stamps.open(ShardId(1)).unwrap(), stamps.open(ShardId(2)).unwrap());
        assert_eq!(two.stamp().sequence.0, 1);
        assert_ne!(one.stamp().client, two.stamp().client);
    }

    /// The window is bounded by the oldest open ticket, and moves with it.
    #[test]
    fn the_window_is_bounded() {
        let stamps = Stamps::default();
        let mut tickets: Vec<_> = (0..WINDOW).map(|_| stamps.open(ShardId(1)).unwrap()).collect();
        tickets[1].confirm();
        assert!(stamps.open(ShardId(1)).is_none());
        tickets.remove(1);
        assert!(stamps.open(ShardId(1)).is_none());
        tickets.remove(0);
        assert!(stamps.open(ShardId(1)).is_some());
    }

    /// Turns come in the order in which they were asked for, whoever looks first; who does not wait takes
    /// what waiters leave, and one that is given up is the next one's.
    #[tokio::test]
    async fn turns_come_in_order() {
        let stamps = Stamps::default();
        let mut open: VecDeque<_> = std::iter::from_fn(|| stamps.open(ShardId(1))).collect();
        let mut turns: Vec<_> = (0..4).map(|_| Box::pin(stamps.turn(ShardId(1)))).collect();
        for turn in &mut turns {
            assert!(poll!(turn).is_pending());
        }
        open[0].confirm();
        let [first, mut second, third, mut fourth] = turns.try_into().ok().unwrap();
        open.pop_front();
        assert!(stamps.open(ShardId(1)).is_none(), "who waits is not overtaken");
        assert!(poll!(&mut fourth).is_pending() && poll!(&mut second).is_pending());
        let turn = first.await;
        let sequence = |ticket: Ticket| ticket.stamp().sequence.0;
        assert_eq!(stamps.take(ShardId(1), turn).map(sequence), Some(WINDOW as u64 + 1));
        assert!(poll!(&mut second).is_pending(), "the window follows the oldest");
        open.pop_front();
        drop(second);
        assert!(poll!(&mut fourth).is_pending());
        drop(third.await);
        open.drain(..3);
        drop(fourth.await);
        assert!(stamps.open(ShardId(1)).is_some(), "all who waited have had their turn");
        assert!(poll!(&mut Box::pin(stamps.turn(ShardId(2)))).is_ready(), "other shards have other queues");
    }

    /// Who waits for a turn with a session that is replaced gets one with the next, and a turn that came
    /// before is worth nothing any more.
    #[tokio::test]
    async fn turns_outlive_a_session() {
        let stamps = Stamps::default();
        let mut open: Vec<_> = std::iter::from_fn(|| stamps.open(ShardId(1))).collect();
        open[0].confirm();
        let old = open[0].stamp();
        let (mut came, mut waits) = (Box::pin(stamps.turn(ShardId(1))), Box::pin(stamps.turn(ShardId(1))));
        assert!(poll!(&mut came).is_pending() && poll!(&mut waits).is_pending());
        drop(open.remove(0));
        let came = came.await;
        stamps.replace(ShardId(1), old);
        assert!(stamps.take(ShardId(1), came).is_none());
        let next = stamps.take(ShardId(1), waits.await).unwrap();
        assert_ne!(next.stamp().client, old.client);
        assert_eq!(next.stamp().sequence, Sequence(1));
    }

    /// Until a machine has answered, every stamp may be the first that it sees of the session.
    #[test]
    fn unconfirmed_stamps_begin_a_session() {
        let stamps = Stamps::default();
        let open = || stamps.open(ShardId(1)).unwrap();
        let numbers = |ticket: &Ticket| (ticket.stamp().sequence.0, ticket.stamp().lowest_open.0);
        drop(open());
        let (second, third) = (open(), open());
        assert_eq!((numbers(&second), numbers(&third)), ((2, 1), (3, 1)));
        third.confirm();
        assert_eq!(numbers(&open()), (4, 2));
    }

    /// Where all stamps that could begin a session are used up unanswered, another session follows once none of them
    /// is sent any more, and who waits for a turn gets one with it.
    #[tokio::test]
    async fn an_unconfirmed_session_is_replaced() {
        let stamps = Stamps::default();
        let mut open: Vec<_> = std::iter::from_fn(|| stamps.open(ShardId(1))).collect();
        let (old, mut waits) = (open[0].stamp(), Box::pin(stamps.turn(ShardId(1))));
        open.truncate(1);
        assert!(poll!(&mut waits).is_pending() && stamps.open(ShardId(1)).is_none());
        open.clear();
        let next = stamps.take(ShardId(1), waits.await).unwrap();
        assert_ne!(next.stamp().client, old.client);
        assert_eq!((next.stamp().sequence.0, next.stamp().lowest_open.0), (1, 1));
    }

    /// An answer to the last stamp that is open gives all places back.
    #[test]
    fn a_late_answer_confirms() {
        let stamps = Stamps::default();
        let mut open: Vec<_> = std::iter::from_fn(|| stamps.open(ShardId(1))).collect();
        let last = open.pop().unwrap();
        drop(open);
        assert!(stamps.open(ShardId(1)).is_none());
        last.confirm();
        let next = stamps.open(ShardId(1)).unwrap();
        assert_eq!(next.stamp().client, last.stamp().client);
        assert_eq!((next.stamp().sequence.0, next.stamp().lowest_open.0), (WINDOW as u64 + 1, WINDOW as u64));
    }

    /// A session in which nobody has answered for long is replaced before machines forget it.
    #[tokio::test(start_paused = true)]
    async fn an_idle_session_is_replaced() {
        let stamps = Stamps::default();
        let answered = || {
            let ticket = stamps.open(ShardId(1)).unwrap();
            ticket.confirm();
            ticket.stamp()
        };
        let first = answered();
        tokio::time::advance(IDLE_MAX - Duration::from_secs(1)).await;
        let second = answered();
        assert_eq!((second.client, second.sequence.0, second.lowest_open.0), (first.client, 2, 2));
        tokio::time::advance(IDLE_MAX).await;
        let third = answered();
        assert_ne!(third.client, first.client);
        assert_eq!((third.sequence.0, third.lowest_open.0), (1, 1));
    }

    /// A forgotten session is replaced once, however many of its writes hear of it.
    #[test]
    fn a_forgotten_session_is_replaced() {
        let stamps = Stamps::default();
        let old = stamps.open(ShardId(1)).unwrap();
        stamps.replace(ShardId(1), old.stamp());
        let new = stamps.open(ShardId(1)).unwrap();
        stamps.replace(ShardId(1), old.stamp());
        drop(old);
        let next = stamps.open(ShardId(1)).unwrap();
        assert_eq!(next.stamp().client, new.stamp().client);
        assert_eq!((next.stamp().sequence.0, next.stamp().lowest_open.0), (2, 1));
    }
}
