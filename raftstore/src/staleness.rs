//! How far a replica's machine is behind its leader, in time: what a stale read states.
//!
//! Every message from a leader names the index it has committed. Once this replica has applied that index, it
//! is as fresh as the leader was when the message arrived. The message's own way is not counted, so the lag is
//! a lower bound, short by one message delay.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// What a follower has heard of its leader's progress.
#[derive(Debug)]
pub(crate) struct Staleness {
    heard: Mutex<Heard>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Heard {
    /// The highest term whose leader was heard; older leaders say nothing.
    term: u64,
    /// When this replica was last known to hold all that its leader had committed.
    fresh_at: Option<Instant>,
    /// The oldest message whose index is not applied yet: its time becomes `fresh_at` when it is.
    pending: Option<(Instant, u64)>,
}

impl Heard {
    fn settle(&mut self, applied: u64) {
        if let Some((at, _)) = self.pending.filter(|&(_, committed)| committed <= applied) {
            self.fresh_at = Some(at);
            self.pending = None;
        }
    }
}

impl Staleness {
    pub(crate) fn new() -> Self {
        Self { heard: Mutex::default() }
    }

    /// A leader of `term` says that it has committed `committed`, while `applied` is applied here.
    pub(crate) fn heard(&self, term: u64, committed: u64, applied: u64) {
        let now = Instant::now();
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        if term < heard.term {
            return;
        }
        heard.term = term;
        heard.settle(applied);
        if committed <= applied {
            heard.fresh_at = Some(now);
            heard.pending = None;
        } else if heard.pending.is_none() {
            heard.pending = Some((now, committed));
        }
    }

    /// The lag with `applied` applied; `None` where no leader was heard since the start.
    pub(crate) fn lag(&self, applied: u64) -> Option<Duration> {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.settle(applied);
        heard.fresh_at.map(|at| at.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn pass(ms: u64) {
        tokio::time::advance(Duration::from_millis(ms)).await;
    }

    /// The lag counts from the last message whose index is applied, not from the last message.
    #[tokio::test(start_paused = true)]
    async fn counts_from_what_was_applied() {
        let staleness = Staleness::new();
        assert_eq!(staleness.lag(0), None);
        staleness.heard(1, 5, 5);
        pass(10).await;
        assert_eq!(staleness.lag(5), Some(Duration::from_millis(10)));
        staleness.heard(1, 8, 5);
        pass(10).await;
        staleness.heard(1, 9, 5);
        assert_eq!(staleness.lag(7), Some(Duration::from_millis(20)));
        assert_eq!(staleness.lag(8), Some(Duration::from_millis(10)));
    }

    /// A deposed leader's word does not make a replica look fresh.
    #[tokio::test(start_paused = true)]
    async fn a_deposed_leader_says_nothing() {
        let staleness = Staleness::new();
        staleness.heard(2, 5, 5);
        pass(10).await;
        staleness.heard(1, 5, 5);
        assert_eq!(staleness.lag(5), Some(Duration::from_millis(10)));
    }
}
