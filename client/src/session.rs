//! Exactly once, the client's half: hands out stamps and knows which writes are still open.
//!
//! For each shard there is one [`Session`], named by a client id of its own. It relies on the server's rules: a
//! stamp whose lowest open sequence is 1 creates the session there, any other stamp of an unknown session is
//! refused as expired, and answers are kept from the lowest open sequence up. It must never hand out a sequence
//! twice, nor close one that may still be sent again.
//!
//! A session is **confirmed** by the first answer that only the replicated machine can have given. Until then
//! the server may not know it, so a session that has closed sequences unconfirmed is superseded rather than
//! continued: its next stamp would be refused.

use crate::config::{ATTEMPT_TIMEOUT_MAX, DEADLINE_MAX};
use crate::lane::ON_THE_WAY_MAX;
use crate::random::Random;
use crate::sync::lock;
use proto::{ClientId, Sequence, ShardId, Stamp};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// How far a session's newest write may run ahead of its lowest open one; further callers wait. Servers accept
/// twice as much.
pub const WINDOW: u32 = 512;

/// A session that was not confirmed for so long is superseded. The last write under it ends within
/// [`DEADLINE_MAX`], and a server goes on with it for one attempt at most: before a server, even under pressure,
/// forgets what it knows of the session.
pub const IDLE_MAX: Duration = Duration::from_secs(3 * 60);

/// No server forgets a session that was idle for less than this, whatever the pressure: a part of the machine's
/// format (`kvserver::machine::bounds::SESSION_IDLE_MIN_MS`).
const FORGOTTEN_MIN: Duration = Duration::from_secs(10 * 60);

const _: () = assert!(
    IDLE_MAX.as_secs() + DEADLINE_MAX.as_secs() + ATTEMPT_TIMEOUT_MAX.as_secs() + ON_THE_WAY_MAX.as_secs()
        < FORGOTTEN_MIN.as_secs(),
    "no write may be sent, nor a session be continued, when the server may have forgotten it"
);

/// The sessions of one client, one for each shard.
#[derive(Debug)]
pub(crate) struct SessionTable(Vec<Mutex<Option<Arc<Session>>>>);

impl SessionTable {
    pub(crate) fn new(shards: u32) -> Self {
        Self((0..shards).map(|_| Mutex::new(None)).collect())
    }

    /// Opens a write on `shard`, waiting while the session's window is full. The write is open until the ticket
    /// is dropped.
    pub(crate) async fn open(&self, shard: ShardId, random: &Random) -> Ticket {
        loop {
            let session = self.current(shard, random);
            // A closed window means that the session was superseded while we waited.
            let begun = match session.window.acquire().await {
                Ok(place) => session.begin().inspect(|_| place.forget()),
                Err(_) => None,
            };
            if let Some((stamp, opened_at)) = begun {
                return Ticket { session, stamp, opened_at };
            }
        }
    }

    /// The shard's session that takes new writes.
    fn current(&self, shard: ShardId, random: &Random) -> Arc<Session> {
        let mut slot = lock(&self.0[shard.0 as usize]);
        match &*slot {
            Some(session) if session.continues() => session.clone(),
            _ => slot.insert(Arc::new(Session::new(random.client_id()))).clone(),
        }
    }
}

/// A client's numbering of its writes to one shard.
#[derive(Debug)]
struct Session {
    client: ClientId,
    /// One permit for each sequence that may still be handed out: `lowest_open + WINDOW - next` of them. Closed
    /// when the session takes no new writes.
    window: Semaphore,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The sequence of the next write; from 1, never goes back.
    next: u64,
    /// `1 <= lowest_open <= next`; every sequence below it is closed.
    lowest_open: u64,
    /// Closed sequences above `lowest_open`; at most [`WINDOW`].
    closed: BTreeSet<u64>,
    /// The latest opening of a write that the replicated machine answered: the server has heard of the session
    /// at that time or later.
    confirmed: Option<Instant>,
    /// The server has said that it does not know the session any more. What was sent under it must not be sent
    /// again: its record of what took effect is gone.
    lost: bool,
}

impl Session {
    fn new(client: ClientId) -> Self {
        let state = State { next: 1, lowest_open: 1, closed: BTreeSet::new(), confirmed: None, lost: false };
        Self { client, window: Semaphore::new(WINDOW as usize), state: Mutex::new(state) }
    }

    /// Whether new writes may be opened; once not, never again.
    fn continues(&self) -> bool {
        if lock(&self.state).would_be_known() && !self.window.is_closed() {
            return true;
        }
        self.window.close();
        false
    }

    /// The next stamp, unless the session was superseded since its window was entered.
    fn begin(&self) -> Option<(Stamp, Instant)> {
        let mut state = lock(&self.state);
        if !state.would_be_known() {
            return None;
        }
        let sequence = state.next;
        state.next += 1;
        assert!(
            state.next - state.lowest_open <= u64::from(WINDOW),
            "the window's permits bound the open writes"
        );
        let stamp = Stamp {
            client: self.client,
            sequence: Sequence(sequence),
            lowest_open: Sequence(state.lowest_open),
        };
        Some((stamp, Instant::now()))
    }

    fn close(&self, sequence: u64) {
        let advanced = lock(&self.state).close(sequence);
        self.window.add_permits(advanced);
    }
}

impl State {
    /// Whether the server would accept the next stamp: it creates the session, or was confirmed lately.
    fn would_be_known(&self) -> bool {
        let confirmed_lately = self.confirmed.is_some_and(|at| at.elapsed() < IDLE_MAX);
        !self.lost && (self.lowest_open == 1 || confirmed_lately)
    }

    /// Closes a sequence and returns by how much the lowest open one advanced.
    fn close(&mut self, sequence: u64) -> usize {
        assert!(sequence >= self.lowest_open && sequence < self.next, "only an open write is closed");
        self.closed.insert(sequence);
        let before = self.lowest_open;
        while self.closed.remove(&self.lowest_open) {
            self.lowest_open += 1;
        }
        usize::try_from(self.lowest_open - before).expect("the window fits a usize")
    }
}

/// One open write. Dropping it says that its answer is no longer awaited and that it will not be sent again:
/// only then may the lowest open sequence pass it.
#[derive(Debug)]
pub(crate) struct Ticket {
    session: Arc<Session>,
    stamp: Stamp,
    opened_at: Instant,
}

impl Ticket {
    /// The same for every attempt, so that a retry is the same write.
    pub(crate) fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// The replicated machine has answered this write: the server knows the session.
    pub(crate) fn confirm(&self) {
        let mut state = lock(&self.session.state);
        state.confirmed = state.confirmed.max(Some(self.opened_at));
    }

    /// The server does not know the session any more: new writes begin a new one, and open ones see
    /// [`is_lost`](Self::is_lost).
    pub(crate) fn lose(&self) {
        lock(&self.session.state).lost = true;
        self.session.window.close();
    }

    /// Whether the server was found not to know this write's session any more.
    pub(crate) fn is_lost(&self) -> bool {
        lock(&self.session.state).lost
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.session.close(self.stamp.sequence.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: ShardId = ShardId(0);

    fn table() -> (SessionTable, Random) {
        (SessionTable::new(1), Random::new(Some(1)))
    }

    fn numbers(ticket: &Ticket) -> (u64, u64) {
        (ticket.stamp.sequence.0, ticket.stamp.lowest_open.0)
    }

    /// Sequences count from 1, and the lowest open one passes only what is closed.
    #[tokio::test]
    async fn lowest_open_follows_the_oldest_open_write() {
        let (table, random) = table();
        let first = table.open(SHARD, &random).await;
        let second = table.open(SHARD, &random).await;
        assert_eq!((numbers(&first), numbers(&second)), ((1, 1), (2, 1)));
        second.confirm();
        drop(second);
        let third = table.open(SHARD, &random).await;
        assert_eq!(numbers(&third), (3, 1));
        drop(first);
        assert_eq!(numbers(&table.open(SHARD, &random).await), (4, 3));
    }

    /// At most a window of writes runs ahead of the lowest open one; the next caller waits for it to close.
    #[tokio::test(start_paused = true)]
    async fn a_full_window_makes_callers_wait() {
        let (table, random) = table();
        let next = || tokio::time::timeout(Duration::from_secs(1), table.open(SHARD, &random));
        let mut open = Vec::new();
        for _ in 0..WINDOW {
            open.push(table.open(SHARD, &random).await);
        }
        open[0].confirm();
        assert!(next().await.is_err());
        open.remove(5);
        assert!(next().await.is_err(), "the window starts at the lowest open write");
        open.remove(0);
        let next = next().await.expect("one place is free");
        assert_eq!(numbers(&next), (u64::from(WINDOW) + 1, 2));
    }

    /// A session that was never confirmed is not continued once a write of it was given up.
    #[tokio::test]
    async fn an_unconfirmed_session_is_superseded() {
        let (table, random) = table();
        let first = table.open(SHARD, &random).await;
        let second = table.open(SHARD, &random).await;
        drop(first);
        let third = table.open(SHARD, &random).await;
        assert_ne!(third.stamp.client, second.stamp.client);
        assert_eq!(numbers(&third), (1, 1));
        assert!(!second.is_lost(), "what is under way in the old session may still be retried");
    }

    /// A long time without confirmation starts a new session, before servers forget the old one.
    #[tokio::test(start_paused = true)]
    async fn an_idle_session_is_superseded() {
        let (table, random) = table();
        let stamp = |ticket: Ticket| {
            ticket.confirm();
            ticket.stamp
        };
        let first = stamp(table.open(SHARD, &random).await);
        tokio::time::advance(IDLE_MAX - Duration::from_secs(1)).await;
        let second = stamp(table.open(SHARD, &random).await);
        assert_eq!((second.client, second.sequence.0, second.lowest_open.0), (first.client, 2, 2));
        tokio::time::advance(IDLE_MAX).await;
        let third = stamp(table.open(SHARD, &random).await);
        assert_ne!(third.client, first.client);
        assert_eq!((third.sequence.0, third.lowest_open.0), (1, 1));
    }

    /// Losing a session moves those who wait at its window to a new one and marks those inside.
    #[tokio::test(start_paused = true)]
    async fn a_lost_session_lets_its_waiters_go() {
        let (table, random) = table();
        let mut open = Vec::new();
        for _ in 0..WINDOW {
            open.push(table.open(SHARD, &random).await);
        }
        let waiter = table.open(SHARD, &random);
        tokio::pin!(waiter);
        assert!(tokio::time::timeout(Duration::from_secs(1), waiter.as_mut()).await.is_err());
        open[7].lose();
        assert!(open.iter().all(Ticket::is_lost));
        let moved = waiter.await;
        assert_eq!(numbers(&moved), (1, 1));
        assert_ne!(moved.stamp.client, open[0].stamp.client);
    }
}
