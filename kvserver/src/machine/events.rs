//! The last changes of a shard, by revision: what a watch resumes from.
//!
//! Owns the window and, with it, the shard's revision: every revision has exactly one event, so the window is
//! always the run of revisions `floor + 1 ..= revision`. It keeps keys and kinds, never values. How much it
//! forgets is a function of the events alone, so that replicas and copies forget alike.

use super::bounds::{COUNTER_MAX, EVENT_BYTES_MAX, EVENTS_MAX};
use bincode::{Decode, Encode};
use proto::Revision;
use std::collections::VecDeque;

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Change {
    /// It was created or got another value.
    Written,
    /// It was removed.
    Deleted,
}

/// One change of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// The shard's revision after the change.
    pub revision: Revision,
    /// What happened.
    pub change: Change,
    /// The key it happened to.
    pub key: &'a [u8],
}

/// The newest events of a shard that fit [`EVENTS_MAX`] and [`EVENT_BYTES_MAX`].
#[derive(Debug, Default)]
pub(super) struct Events {
    /// The newest revision whose event is forgotten; 0 before any was.
    floor: u64,
    /// Oldest first; the one at `i` has revision `floor + 1 + i`. Each with the length of its key.
    kept: VecDeque<(Change, u32)>,
    keys: Keys,
}

/// The keys of events, one behind the other: an event costs no allocation, and the next one's memory is near.
#[derive(Debug, Default)]
struct Keys {
    bytes: Vec<u8>,
    /// How many of them are forgotten.
    gone: usize,
}

impl Keys {
    fn kept(&self) -> &[u8] {
        &self.bytes[self.gone..]
    }

    fn push(&mut self, key: &[u8]) {
        self.bytes.extend_from_slice(key);
    }

    /// Forgets the first `length` bytes. For each byte that is forgotten, one of those that are kept moves at most.
    fn forget(&mut self, length: usize) {
        self.gone += length;
        if self.gone > self.bytes.len() - self.gone {
            self.bytes.drain(..self.gone);
            self.gone = 0;
            // Room that long keys took is given back once short ones have taken their place.
            if self.bytes.capacity() / 4 > self.bytes.len() {
                self.bytes.shrink_to(2 * self.bytes.len());
            }
        }
    }
}

impl Events {
    /// The shard's revision: 0 before its first change.
    pub(super) fn revision(&self) -> Revision {
        Revision(self.floor + self.kept.len() as u64)
    }

    /// The newest revision whose event is forgotten.
    pub(super) fn floor(&self) -> Revision {
        Revision(self.floor)
    }

    /// Takes in the event of the next revision.
    pub(super) fn push(&mut self, change: Change, key: &[u8]) {
        self.keys.push(key);
        self.kept.push_back((change, u32::try_from(key.len()).expect("keys are short")));
        while self.kept.len() > EVENTS_MAX || self.keys.kept().len() > EVENT_BYTES_MAX {
            self.forget_oldest();
        }
    }

    /// The events after `revision`, oldest first: all that are kept, where it lies below the floor.
    pub(super) fn after(&self, revision: Revision) -> impl Iterator<Item = Event<'_>> {
        let skipped = usize::try_from(revision.0.saturating_sub(self.floor)).unwrap_or(usize::MAX);
        let skipped = skipped.min(self.kept.len());
        let mut keys = self.keys.kept();
        keys = &keys[self.kept.range(..skipped).map(|(_, length)| *length as usize).sum()..];
        let revisions = self.floor + skipped as u64 + 1..;
        self.kept.range(skipped..).zip(revisions).map(move |((change, length), revision)| {
            let (key, rest) = keys.split_at(*length as usize);
            keys = rest;
            Event { revision: Revision(revision), change: *change, key }
        })
    }

    /// Takes in an event out of a copy. Events come in the order of their revisions; those that were
    /// forgotten before they could be copied leave a gap, behind which the window starts afresh.
    pub(super) fn load(&mut self, event: &Event<'_>) -> Result<(), String> {
        let Revision(revision) = event.revision;
        let Revision(known) = self.revision();
        if revision <= known || revision > COUNTER_MAX {
            return Err(format!("event of revision {revision} after revision {known}"));
        }
        if revision > known + 1 {
            *self = Self { floor: revision - 1, ..Self::default() };
        }
        self.push(event.change, event.key);
        Ok(())
    }

    /// Checks that all events of a copied shard came in: a copy forgets by the same rule as its original, so
    /// that its window must by now be the same.
    pub(super) fn load_end(&self, floor: Revision, revision: Revision) -> Result<(), String> {
        if (self.floor(), self.revision()) == (floor, revision) {
            return Ok(());
        }
        Err(format!("events reach from {} to {}, not {floor} to {revision}", self.floor, self.revision()))
    }

    fn forget_oldest(&mut self) {
        let (_, length) = self.kept.pop_front().expect("only a window that holds events is over its bounds");
        self.keys.forget(length as usize);
        self.floor += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A window keeps the newest events within both bounds, and its revision never goes back.
    #[test]
    fn bounds_hold() {
        let mut events = Events::default();
        for number in 1..=1000_u64 {
            let length = if number % 7 == 0 { EVENT_BYTES_MAX / 10 } else { 8 };
            events.push(Change::Written, &vec![0; length]);
            assert_eq!(events.revision(), Revision(number));
            let (keys, memory) = (events.keys.kept().len(), events.keys.bytes.len());
            assert!(events.kept.len() <= EVENTS_MAX && keys <= EVENT_BYTES_MAX && memory <= 2 * keys);
        }
        assert!(events.kept.len() > 40, "the window is used: {}", events.kept.len());
        let seen: Vec<_> = events.after(events.floor()).map(|event| event.revision.0).collect();
        assert_eq!(seen, (events.floor + 1..=1000).collect::<Vec<_>>());
        assert_eq!(events.after(Revision(998)).count(), 2);
        assert_eq!(events.after(Revision(u64::MAX)).count(), 0);
    }

    /// A window copied with a gap, because events were forgotten before they could be copied, ends up equal.
    #[test]
    fn gaps_heal() {
        let mut source = Events::default();
        let mut copy = Events::default();
        (0..10).for_each(|_| source.push(Change::Written, b"old"));
        source.after(Revision(0)).for_each(|event| copy.load(&event).unwrap());
        (0..2 * EVENTS_MAX).for_each(|_| source.push(Change::Deleted, b"a longer key"));
        source.after(Revision(10)).for_each(|event| copy.load(&event).unwrap());
        copy.load_end(source.floor(), source.revision()).unwrap();
        assert_eq!(copy.floor(), source.floor());
        assert!(copy.after(Revision(0)).eq(source.after(Revision(0))));
    }

    /// Events out of order, and ends that do not fit, are refused.
    #[test]
    fn disorder_is_refused() {
        let mut copy = Events::default();
        let event = Event { revision: Revision(5), change: Change::Written, key: b"k" };
        copy.load(&event).unwrap();
        assert!(copy.load(&event).is_err());
        assert!(copy.load_end(Revision(4), Revision(6)).is_err());
        assert!(copy.load_end(Revision(3), Revision(5)).is_err());
    }
}
