//! The front end's own sessions: what makes a curl request that the front end sends again take effect once.
//!
//! One session for each shard, counted from 1. A sequence is open from its stamp until its ticket is dropped;
//! once closed it is never sent again, and machines refuse it when a late copy arrives. A session that a
//! machine no longer knows is replaced by a new one.
//!
//! While too many sequences are open, whoever wants another waits for a turn. Turns come in the order in
//! which they were asked for, one sequence each, and nobody overtakes who waits: a call of many writes takes
//! turns with others.

use proto::{ClientId, Sequence, ShardId, Stamp};
use raftstore::random;
use rand::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How far a session's newest sequence may run ahead of its lowest open one; half of what machines accept.
const WINDOW: usize = 512;

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
    /// `lowest_open + WINDOW - next` permits, turns that came and were not yet taken among them. tokio gives
    /// them to waiters in their order, and leaves none to others while somebody waits. Closed when the
    /// session is replaced.
    window: Arc<Semaphore>,
}

impl Session {
    fn new() -> Self {
        let client = ClientId(u128::from(random().next_u64()) << 64 | u128::from(random().next_u64()));
        Self { client, next: 1, open: BTreeSet::new(), window: Arc::new(Semaphore::new(WINDOW)) }
    }

    fn begin(&mut self, turn: OwnedSemaphorePermit) -> Stamp {
        turn.forget();
        let sequence = self.next;
        self.next += 1;
        self.open.insert(sequence);
        let lowest_open = Sequence(self.lowest_open());
        Stamp { client: self.client, sequence: Sequence(sequence), lowest_open }
    }

    fn end(&mut self, sequence: Sequence) {
        let before = self.lowest_open();
        self.open.remove(&sequence.0);
        let moved = usize::try_from(self.lowest_open() - before).expect("the window is at most WINDOW long");
        self.window.add_permits(moved);
    }

    fn lowest_open(&self) -> u64 {
        self.open.first().copied().unwrap_or(self.next)
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
}

impl Stamps {
    /// Opens the next sequence with `shard`; `None` while too many are open, or others wait for their turn.
    pub(crate) fn open(&self, shard: ShardId) -> Option<Ticket> {
        let mut sessions = lock(&self.sessions);
        let session = sessions.entry(shard).or_insert_with(Session::new);
        let turn = session.window.clone().try_acquire_owned().ok()?;
        let stamp = session.begin(turn);
        drop(sessions);
        Some(Ticket { sessions: self.sessions.clone(), shard, stamp })
    }

    /// Waits for a turn with `shard`, behind all who wait since before the first poll.
    pub(crate) async fn turn(&self, shard: ShardId) -> Turn {
        loop {
            let (client, window) = {
                let mut sessions = lock(&self.sessions);
                let session = sessions.entry(shard).or_insert_with(Session::new);
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
        let session = sessions.get_mut(&shard).filter(|session| session.client == turn.client)?;
        let stamp = session.begin(turn.permit);
        drop(sessions);
        Some(Ticket { sessions: self.sessions.clone(), shard, stamp })
    }

    /// Puts a new session in the place of the one that `stamp` belongs to: a machine has forgotten it.
    pub(crate) fn replace(&self, shard: ShardId, stamp: Stamp) {
        let mut sessions = lock(&self.sessions);
        if let Some(session) = sessions.get_mut(&shard).filter(|session| session.client == stamp.client) {
            session.window.close();
            *session = Session::new();
        }
    }
}

impl Ticket {
    /// The stamp to send, the same at every attempt.
    pub(crate) fn stamp(&self) -> Stamp {
        self.stamp
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut sessions = lock(&self.sessions);
        // A replaced session's sequences are nobody's any more.
        if let Some(session) =
            sessions.get_mut(&self.shard).filter(|session| session.client == self.stamp.client)
        {
            session.end(self.stamp.sequence);
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
