//! The key/value machine: what a group of replicas agrees on.
//!
//! Owns the shards of one group (keys, sessions, events), replicated time and the copies under way. It is
//! pure: commands come in with their time, answers go out, and every replica that applies the same commands
//! holds the same state. It must never see a clock, a socket or a setting: whatever its state depends on is a
//! constant of the format, see [`bounds`](mod@bounds), so that replicas of different configuration cannot
//! diverge. The leader's node enforces the configured [`proto::Limits`] before it proposes a command; what an
//! append *becomes* it can only judge by what it knows at that moment, so a value may end up above the
//! configured limit where leaders change, never above the format's.
//!
//! ```text
//!   Command ─▶ time, expiry ─▶ session: new? ─▶ shard: write ─▶ session: keep the outcome ─▶ Answer
//!                                  └─ answered before: the same answer again
//!   copies ◀─ every changed place that they have passed
//! ```
//!
//! A key costs about 125 to 145 bytes of memory beside its own bytes and its value's (measured: a million keys
//! of 16 bytes with values of 256, in order 145, at random 124): its slot in a B-tree that is half to three
//! quarters full (56 bytes: two lengths, two pointers, version, two revisions) and two allocations.

pub mod bounds;
mod copy;
mod digest;
mod events;
mod exactly_once;
mod load;
mod outcome;
mod piece;
mod scan;
mod session;
mod shard;
#[cfg(test)]
mod tests;
mod usage;

pub use events::{Change, Event};
pub use scan::ScanRange;
pub use usage::Usage;

use bounds::SHARDS_MAX;
use bytes::Bytes;
use copy::{Copies, Part};
use exactly_once::{Admission, Idleness, SessionBounds};
use outcome::Outcome;
use proto::{Answer, Code, Command, Error, Operation, Record, Reply, Revision, ShardId, Stamp};
use raftstore::{CopyId, CopyStep, LoadError, Machine, Moment};
use shard::Shard;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The state of one group, in memory.
///
/// Commands are [`Command`]s and answers [`Answer`]s, both in the encoding of [`proto::encode`]. Shards come
/// into being with their first write. The caller computes the shard of a key; the machine takes its word.
#[derive(Debug)]
pub struct KvMachine {
    /// The latest time of any command; never goes back.
    time_ms: u64,
    shards: BTreeMap<ShardId, Shard>,
    /// The sum over `shards`.
    total: Usage,
    /// Exactly one element for each session of each shard.
    idleness: Idleness,
    bounds: SessionBounds,
    copies: Copies,
}

impl Default for KvMachine {
    fn default() -> Self {
        Self::new()
    }
}

impl KvMachine {
    /// A machine that holds nothing.
    pub fn new() -> Self {
        Self::with_bounds(SessionBounds::FORMAT)
    }

    fn with_bounds(bounds: SessionBounds) -> Self {
        Self {
            time_ms: 0,
            shards: BTreeMap::new(),
            total: Usage::default(),
            idleness: Idleness::new(),
            bounds,
            copies: Copies::default(),
        }
    }

    /// How much it holds, without counting anew.
    pub fn usage(&self) -> Usage {
        self.total
    }

    /// The shards that it holds, each with its revision and what it holds.
    pub fn shards(&self) -> impl Iterator<Item = (ShardId, Revision, Usage)> + '_ {
        self.shards.iter().map(|(id, shard)| (*id, shard.events.revision(), shard.usage))
    }

    /// A key with its value, where it is present.
    pub fn get<'a>(&'a self, shard: ShardId, key: &[u8]) -> Option<Record<'a>> {
        let (key, entry) = self.shards.get(&shard)?.data.get_key_value(key)?;
        Some(entry.record(key))
    }

    /// One page of keys over all shards in byte order, as a [`Reply::Page`].
    pub fn scan(&self, range: &ScanRange<'_>) -> Reply<'_> {
        scan::page(self.shards.values(), range)
    }

    /// Whether the write of `stamp` was carried out before, as far as its session remembers: sent again, it gets
    /// the same answer and changes nothing.
    pub fn has_answered(&self, shard: ShardId, stamp: &Stamp) -> bool {
        let session = self.shards.get(&shard).and_then(|shard| shard.sessions.get(&stamp.client));
        session.is_some_and(|session| session.answer(stamp.sequence).is_some())
    }

    /// Answers a read; `shards` is the number of shards that the cluster was born with. A write is answered
    /// with [`Code::BadRequest`].
    ///
    /// # Panics
    /// If `shards` is 0.
    pub fn query(&self, operation: &Operation<'_>, shards: u32) -> Answer<'_> {
        match *operation {
            Operation::Get { key } => match self.get(proto::shard_of(key, shards), key) {
                Some(Record { value, version, revision, .. }) => {
                    Ok(Reply::Value { value, version, revision })
                }
                None => Err(Error::new(Code::NotFound, "key does not exist")),
            },
            Operation::Scan { prefix, after, start, limit, bytes_max } => {
                let (limit, bytes_max) = (limit as usize, bytes_max as usize);
                let range = ScanRange { prefix, after, start, limit, bytes_max };
                match proto::shard_of_prefix(prefix, shards) {
                    Some(shard) => Ok(scan::page(self.shards.get(&shard).into_iter(), &range)),
                    None => Ok(self.scan(&range)),
                }
            }
            _ => Err(Error::new(Code::BadRequest, "a write goes through the log")),
        }
    }

    /// The changes of a shard after `revision`, oldest first; `None` where some of them are forgotten already,
    /// so that whoever follows the shard must read its keys afresh.
    ///
    /// Nothing in the node asks for them yet: watches will resume from here, and a shard that moves will be
    /// followed by it. They are kept from the start because they are a part of the state that replicas agree
    /// on.
    pub fn events_after(
        &self,
        shard: ShardId,
        revision: Revision,
    ) -> Option<impl Iterator<Item = Event<'_>> + '_> {
        let events = self.shards.get(&shard).map(|shard| &shard.events);
        let known = events.is_none_or(|events| events.floor() <= revision);
        known.then(|| events.into_iter().flat_map(move |events| events.after(revision)))
    }

    /// One number for the whole state, the same on every replica; for tests and for comparing replicas. Costs
    /// a walk over everything.
    pub fn digest(&self) -> u64 {
        digest::digest(self)
    }

    fn execute(&mut self, command: &Command<'_>) -> Answer<'static> {
        if command.shard.0 >= SHARDS_MAX {
            return Err(Error::new(Code::BadRequest, format!("shard is out of range: {}", command.shard)));
        }
        let Some(stamp) = &command.stamp else {
            return self.write(command.shard, &command.operation).answer();
        };
        match self.admit(command.shard, stamp) {
            Admission::Fresh => {
                let outcome = self.write(command.shard, &command.operation);
                self.settle(command.shard, stamp, outcome);
                outcome.answer()
            }
            Admission::Answered(outcome) => outcome.answer(),
            Admission::Refused(refusal) => Err(refusal),
        }
    }

    fn write(&mut self, id: ShardId, operation: &Operation<'_>) -> Outcome {
        let shard = shard_entry(&mut self.shards, &mut self.copies, id);
        let before = shard.usage;
        let outcome = shard.write(operation);
        self.total.exchange(before, shard.usage);
        if let (Some((existed, exists)), Some(key)) = (outcome.presence(), operation.key()) {
            self.copies.mark(id, &Part::Key(Cow::Borrowed(key)), existed, exists);
            self.copies.mark(id, &Part::Tail, true, true);
        }
        outcome
    }
}

impl Machine for KvMachine {
    fn apply(&mut self, at: Moment, command: &[u8]) -> Bytes {
        self.time_ms = self.time_ms.max(at.time_ms);
        self.expire_sessions();
        let answer = match proto::decode::<Command<'_>>(command) {
            Ok(command) => self.execute(&command),
            Err(error) => Err(Error::new(Code::BadRequest, error.to_string())),
        };
        Bytes::from(proto::encode(&answer))
    }

    fn time_ms(&self) -> u64 {
        self.time_ms
    }

    fn copy_begin(&mut self) -> CopyId {
        self.copies.begin()
    }

    fn copy_next(&mut self, copy: CopyId, bytes_max: usize) -> CopyStep {
        self.copies.step(copy, self.time_ms, &self.shards, bytes_max)
    }

    fn copy_end(&mut self, copy: CopyId) {
        self.copies.end(copy);
    }

    fn load(&mut self, piece: &[u8]) -> Result<(), LoadError> {
        self.load_piece(piece).map_err(LoadError)
    }
}

/// Shard `id`, made and announced to the copies where it is new.
fn shard_entry<'a>(
    shards: &'a mut BTreeMap<ShardId, Shard>,
    copies: &mut Copies,
    id: ShardId,
) -> &'a mut Shard {
    shards.entry(id).or_insert_with(|| {
        copies.mark(id, &Part::Tail, false, true);
        Shard::default()
    })
}
