//! Makes a failing history small enough to be read, without making up a failure that was not there.
//!
//! Leaving a write out would: a value that was read would then have come from nowhere. So a step is taken
//! only where a failure of the smaller history is one of the larger too: reads are left out, as are other
//! keys and everything behind some moment; and what a write answered is forgotten, after which it may have
//! happened or not. A history that is shrunk and fails all the same proves that the first one is wrong.
//!
//! The steps are those of delta debugging (Zeller and Hildebrandt, 2002): whole processes first, then ever
//! smaller runs of operations.

use crate::stopwatch::Stopwatch;
use crate::{Answer, End, Entry, Event, Failure, History, Item, Limits, Verdict, check};
use std::collections::BTreeSet;
use std::time::Duration;

/// How many attempts there is time for at least: one may take so great a part of all the time.
const ATTEMPTS_MIN: u32 = 20;

/// What a call becomes in the smaller history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keep {
    /// It stays as it was.
    Whole,
    /// It says less: a read nothing, a write only that it was asked.
    Weakened,
}

/// A smaller history that fails as well, with its failure. It takes about as long as `limits` allow at the
/// most, and leaves the history as it is where nothing smaller was found in that time.
pub fn shrink(history: &History, failure: &Failure, limits: &Limits) -> (History, Failure) {
    let started = Stopwatch::start();
    let attempt = Limits { time: limits.time / ATTEMPTS_MIN, ..*limits };
    let mut shrinking = Shrinking {
        found: (history.clone(), failure.clone()),
        keep: Vec::new(),
        source: history.clone(),
        attempt,
        started,
        time: limits.time,
    };
    shrinking.only_key(&failure.key);
    shrinking.only_beginning();
    shrinking.processes();
    shrinking.runs();
    shrinking.found
}

struct Shrinking {
    /// The smallest so far.
    found: (History, Failure),
    /// What `source` is made smaller from.
    source: History,
    /// For each of the source's calls what is kept of it in `found`.
    keep: Vec<Keep>,
    attempt: Limits,
    started: Stopwatch,
    time: Duration,
}

impl Shrinking {
    /// Leaves out all other keys, and of scans the items of others.
    fn only_key(&mut self, key: &[u8]) {
        let mut smaller = History::new();
        for entry in self.source.entries() {
            let concerns = match &entry.event {
                Event::Invoke(operation) => operation.key().is_none_or(|its| its == key),
                Event::Ok(_) | Event::Fail | Event::Info => smaller.pending(entry.process).is_some(),
            };
            if !concerns {
                continue;
            }
            let mut entry = entry.clone();
            if let Event::Ok(Answer::Items(items)) = &mut entry.event {
                items.retain(|item: &Item| item.key == key);
            }
            smaller.push(entry).expect("an operation is kept with its end or not at all");
        }
        self.adopt_source(smaller);
    }

    /// Leaves out everything behind the answer that nothing gets past.
    fn only_beginning(&mut self) {
        let (history, failure) = &self.found;
        let calls = history.calls();
        let Some(end) = calls[failure.core.stuck].completed else { return };
        let mut smaller = History::new();
        for entry in &history.entries()[..=end] {
            smaller.push(entry.clone()).expect("a beginning of a history is one");
        }
        self.adopt_source(smaller);
    }

    /// Goes on from `smaller`, if it fails in time.
    fn adopt_source(&mut self, smaller: History) {
        if let Verdict::NotLinearizable(failure) = check(&smaller, &self.attempt) {
            self.found = (smaller, failure);
        }
        self.source = self.found.0.clone();
        self.keep = vec![Keep::Whole; self.source.calls().len()];
    }

    /// Weakens all that a process did, one after the other.
    fn processes(&mut self) {
        let calls = self.source.calls();
        let process = |place: usize| self.source.entries()[calls[place].invoked].process;
        let of: Vec<u64> = (0..calls.len()).map(process).collect();
        for process in of.iter().copied().collect::<BTreeSet<u64>>() {
            let places: Vec<usize> = (0..of.len()).filter(|&place| of[place] == process).collect();
            self.weaken(&places);
        }
    }

    /// Weakens runs of operations, half of all at first, at last single ones.
    fn runs(&mut self) {
        let mut length = self.keep.len().div_ceil(2);
        while length > 0 {
            let whole: Vec<usize> =
                (0..self.keep.len()).filter(|&place| self.keep[place] == Keep::Whole).collect();
            let before = whole.len();
            for run in whole.chunks(length) {
                self.weaken(run);
            }
            let after = self.keep.iter().filter(|&&keep| keep == Keep::Whole).count();
            // Single ones are tried again as long as that helps: one may have depended on another.
            if length > 1 {
                length = length.div_ceil(2).min(after.max(1));
            } else if after == before || self.is_late() {
                length = 0;
            }
        }
    }

    fn is_late(&self) -> bool {
        self.started.elapsed() >= self.time
    }

    /// Weakens these calls, if what is left fails in time.
    fn weaken(&mut self, places: &[usize]) {
        if self.is_late() || places.iter().all(|&place| self.keep[place] == Keep::Weakened) {
            return;
        }
        let mut keep = self.keep.clone();
        for &place in places {
            keep[place] = Keep::Weakened;
        }
        let smaller = weakened(&self.source, &keep);
        if let Verdict::NotLinearizable(failure) = check(&smaller, &self.attempt) {
            self.found = (smaller, failure);
            self.keep = keep;
        }
    }
}

/// The history in which weakened reads are left out, and weakened writes have an unknown outcome.
fn weakened(history: &History, keep: &[Keep]) -> History {
    let calls = history.calls();
    let mut entries: Vec<Option<Entry>> = history.entries().iter().cloned().map(Some).collect();
    for (call, keep) in calls.iter().zip(keep) {
        if *keep == Keep::Whole {
            continue;
        }
        let had_no_effect = matches!(call.end, End::Failed | End::Answered(Answer::Mismatch { .. }));
        if call.operation.is_read() || had_no_effect {
            entries[call.invoked] = None;
            if let Some(completed) = call.completed {
                entries[completed] = None;
            }
        } else if let Some(entry) = call.completed.and_then(|place| entries[place].as_mut()) {
            entry.event = Event::Info;
        }
    }
    let mut smaller = History::new();
    for entry in entries.into_iter().flatten() {
        smaller.push(entry).expect("an operation is kept with its end or not at all");
    }
    smaller
}
