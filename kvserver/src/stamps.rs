//! The front end's own sessions: what makes a curl request that the front end sends again take effect once.
//!
//! One session for each shard, counted from 1. A sequence is open from its stamp until its ticket is dropped;
//! once closed it is never sent again, and machines refuse it when a late copy arrives. A session that a
//! machine no longer knows is replaced by a new one.

use proto::{ClientId, Sequence, ShardId, Stamp};
use raftstore::random;
use rand::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How far a session's newest sequence may run ahead of its lowest open one; half of what machines accept.
const WINDOW: u64 = 512;

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
}

impl Session {
    fn new() -> Self {
        let client = ClientId(u128::from(random().next_u64()) << 64 | u128::from(random().next_u64()));
        Self { client, next: 1, open: BTreeSet::new() }
    }

    fn lowest_open(&self) -> u64 {
        self.open.first().copied().unwrap_or(self.next)
    }
}

/// An open sequence; closed when dropped.
#[derive(Debug)]
pub(crate) struct Ticket {
    sessions: Arc<Mutex<BTreeMap<ShardId, Session>>>,
    shard: ShardId,
    stamp: Stamp,
}

impl Stamps {
    /// Opens the next sequence with `shard`; `None` while too many are open.
    pub(crate) fn open(&self, shard: ShardId) -> Option<Ticket> {
        let mut sessions = lock(&self.sessions);
        let session = sessions.entry(shard).or_insert_with(Session::new);
        if session.next - session.lowest_open() >= WINDOW {
            return None;
        }
        let sequence = session.next;
        session.next += 1;
        session.open.insert(sequence);
        let (client, lowest_open) = (session.client, session.lowest_open());
        let stamp = Stamp { client, sequence: Sequence(sequence), lowest_open: Sequence(lowest_open) };
        drop(sessions);
        Some(Ticket { sessions: self.sessions.clone(), shard, stamp })
    }

    /// Puts a new session in the place of the one that `stamp` belongs to: a machine has forgotten it.
    pub(crate) fn replace(&self, shard: ShardId, stamp: Stamp) {
        let mut sessions = lock(&self.sessions);
        if sessions.get(&shard).is_some_and(|session| session.client == stamp.client) {
            sessions.insert(shard, Session::new());
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
            session.open.remove(&self.stamp.sequence.0);
        }
    }
}

fn lock(sessions: &Mutex<BTreeMap<ShardId, Session>>) -> MutexGuard<'_, BTreeMap<ShardId, Session>> {
    sessions.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

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
