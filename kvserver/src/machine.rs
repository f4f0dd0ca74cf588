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
//!   Command ─▶ time, expiry ─▶ shard served? ─▶ session: new? ─▶ write ─▶ session: keep the outcome ─▶ Answer
//!                   │             └─ wrong group    └─ answered before: the same answer again
//!                   └─▶ a step in a shard's life
//!   copies ◀─ every changed place that they have passed
//! ```
//!
//! A key costs about 125 to 145 bytes of memory beside its own bytes and its value's (measured: a million
//! keys of 16 bytes with values of 256, in order 145, at random 124): its slot in a B-tree that is half to
//! three quarters full (56 bytes: two lengths, two pointers, version, two revisions) and two allocations.

pub mod bounds;
mod copy;
mod digest;
mod events;
mod exactly_once;
mod idleness;
mod lifecycle;
mod load;
mod mutated;
mod outcome;
mod piece;
mod scan;
mod session;
mod shard;
mod shard_copy;
#[cfg(test)]
mod tests;
mod usage;

pub use events::{Change, Event};
pub use lifecycle::Garbage;
pub(crate) use piece::check as check_piece;
pub use scan::ScanRange;
pub use shard_copy::{
    EXPORT_BYTES_MAX, Held, SHARD_COPIES_MAX, ShardCopyEnded, ShardCopyRefused, ShardCopyStep,
};
pub use usage::Usage;

use bounds::SHARDS_MAX;
use bytes::Bytes;
use copy::{Copies, Part};
use exactly_once::SessionBounds;
use idleness::Idleness;
use outcome::Outcome;
use proto::{
    Answer, Code, Command, Error, LifecycleAnswer, MoveCommand, MoveStep, Operation, Record, Reply, Revision,
    ShardId, ShardSet, ShardState, Stamp, Write,
};
use raftstore::mutation::{Mutation, is_on};
use raftstore::{CopyId, CopyStep, LoadError, Machine, Moment};
use shard::Shard;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Mutex;

/// What is held of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardView {
    /// The shard.
    pub shard: ShardId,
    /// Where it stands in its life here.
    pub state: ShardState,
    /// Its own counter of changes.
    pub revision: Revision,
    /// How much is held of it.
    pub usage: Usage,
}

/// The state of one group, in memory.
///
/// Commands are [`Command`]s, in the encoding of [`proto::encode`]; answers are [`Answer`]s to writes and
/// [`LifecycleAnswer`]s to all else, in the same; at a command that this build cannot read the node
/// [stops](raftstore::unreadable). A machine answers only for the shards that it serves, and is born with
/// none. The caller computes the shard of a key; the machine takes its word.
#[derive(Debug)]
pub struct KvMachine {
    /// The latest time of any command; never goes back.
    time_ms: u64,
    shards: BTreeMap<ShardId, Shard>,
    /// The sum over `shards`.
    total: Usage,
    /// Derived from the sessions.
    idleness: Idleness,
    bounds: SessionBounds,
    copies: Copies,
    /// What was dropped and waits to be freed; no part of the state.
    garbage: Mutex<Garbage>,
    /// Where answers are encoded; no part of the state.
    answer: Vec<u8>,
}

/// What a command came to.
enum Applied {
    Write(Answer<'static>),
    Lifecycle(LifecycleAnswer),
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
            idleness: Idleness::default(),
            bounds,
            copies: Copies::default(),
            garbage: Mutex::default(),
            answer: Vec::new(),
        }
    }

    /// How much it holds, without counting anew.
    pub fn usage(&self) -> Usage {
        self.total
    }

    /// A key with its value, where it is present in a shard that is served here.
    pub fn get<'a>(&'a self, shard: ShardId, key: &[u8]) -> Option<Record<'a>> {
        let (key, entry) = self.served(shard).ok()?.data.get_key_value(key)?;
        Some(entry.record(key))
    }

    /// One page of keys over all shards that are served here, in byte order, as a [`Reply::Share`].
    pub fn scan(&self, range: &ScanRange<'_>) -> Reply<'_> {
        let is_served = |shard: &Shard| matches!(shard.state, ShardState::Serving { .. });
        let served = || self.shards.iter().filter(|(_, shard)| is_served(shard));
        let (records, more) = scan::page(served().map(|(_, shard)| shard), range);
        Reply::Share { shards: served().map(|(id, _)| *id).collect::<ShardSet>(), records, more }
    }

    /// Whether the write of `stamp` was carried out before, as far as its session remembers: sent again, it
    /// gets the same answer and changes nothing.
    pub fn has_answered(&self, shard: ShardId, stamp: &Stamp) -> bool {
        let session = self.shards.get(&shard).and_then(|shard| shard.sessions.get(&stamp.client));
        session.is_some_and(|session| session.answer(stamp.sequence).is_some())
    }

    /// Answers a read; `shards` is the number of shards that the cluster was born with. A scan of one shard,
    /// by its prefix, is answered with a [`Reply::Page`], any other with this group's [`Reply::Share`]. A
    /// shard that is not served here is answered with [`Code::WrongGroup`], a write with
    /// [`Code::BadRequest`].
    ///
    /// # Panics
    /// If `shards` is 0.
    pub fn query(&self, operation: &Operation<'_>, shards: u32) -> Answer<'_> {
        match *operation {
            Operation::Get { key } => match self.readable(proto::shard_of(key, shards))?.data.get(key) {
                Some(entry) => {
                    Ok(Reply::Value { value: &entry.value, version: entry.version, revision: entry.modified })
                }
                None => Err(Error::new(Code::NotFound, "key does not exist")),
            },
            Operation::Scan { prefix, after, start, limit, bytes_max } => {
                let (limit, bytes_max) = (limit as usize, bytes_max as usize);
                let range = ScanRange { prefix, after, start, limit, bytes_max };
                match proto::shard_of_prefix(prefix, shards) {
                    Some(shard) => {
                        let (records, more) = scan::page([self.served(shard)?].into_iter(), &range);
                        Ok(Reply::Page { records, more })
                    }
                    None => Ok(self.scan(&range)),
                }
            }
            _ => Err(Error::new(Code::BadRequest, "a write goes through the log")),
        }
    }

    /// The changes of a shard after `revision`, oldest first; `None` where some of them are forgotten
    /// already, so that whoever follows the shard must read its keys afresh.
    ///
    /// Nothing in the node asks for them yet: watches will resume from here, wherever the shard has moved
    /// meanwhile. They are kept from the start because they are a part of the state that replicas agree on.
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

    /// Carries out a write, or answers it as it was answered before.
    fn execute(&mut self, write: &Write<'_>) -> Answer<'static> {
        if write.shard.0 >= SHARDS_MAX {
            return Err(Error::new(Code::BadRequest, format!("shard is out of range: {}", write.shard)));
        }
        match write.stamp.as_ref().filter(|_| !is_on(Mutation::SkipSessionTable)) {
            Some(stamp) => self.execute_once(write.shard, stamp, &write.operation),
            None => self.execute_unstamped(write.shard, &write.operation),
        }
    }

    fn carry_out_command(&mut self, at: Moment, command: &[u8]) -> Applied {
        let command = read(command).unwrap_or_else(|why| raftstore::unreadable(at, &why));
        self.time_ms = self.time_ms.max(at.time_ms);
        self.expire_sessions();
        match command {
            Command::Write(write) => Applied::Write(self.execute(&write)),
            Command::Own { shards, epoch } => Applied::Lifecycle(self.own(&shards, epoch)),
            Command::Move(command) => Applied::Lifecycle(self.step(at.index, &command)),
        }
    }

    fn execute_unstamped(&mut self, id: ShardId, operation: &Operation<'_>) -> Answer<'static> {
        self.served(id)?;
        self.change(id, |shard, copies| carry_out(id, shard, operation, copies)).answer()
    }

    /// Lets `change` have shard `id`, which is known, and keeps up what is derived from shards.
    fn change<T>(&mut self, id: ShardId, change: impl FnOnce(&mut Shard, &mut Copies) -> T) -> T {
        let shard = self.shards.get_mut(&id).expect("only shards that are known are changed");
        let (usage, idlest) = (shard.usage, shard.idlest());
        let changed = change(shard, &mut self.copies);
        self.total.exchange(usage, shard.usage);
        self.idleness.exchange(id, idlest, shard.idlest());
        changed
    }
}

/// Carries out a write in its shard, and tells the copies of it.
fn carry_out(id: ShardId, shard: &mut Shard, operation: &Operation<'_>, copies: &mut Copies) -> Outcome {
    let outcome = shard.write(operation);
    if let (Some((existed, exists)), Some(key)) = (outcome.presence(), operation.key()) {
        copies.mark(id, &Part::Key(Cow::Borrowed(key)), existed, exists);
        copies.mark(id, &Part::Tail, true, true);
    }
    outcome
}

/// A command, where this build can read it and the piece of a copy that it may carry.
fn read(command: &[u8]) -> Result<Command<'_>, String> {
    let command = proto::decode(command).map_err(|error| error.to_string())?;
    if let Command::Move(MoveCommand { step: MoveStep::ImportPiece { bytes, .. }, .. }) = &command {
        piece::check_version(bytes)?;
    }
    Ok(command)
}

impl Machine for KvMachine {
    fn apply(&mut self, at: Moment, command: &[u8]) -> Bytes {
        let result = self.carry_out_command(at, command);
        self.answer.clear();
        match result {
            Applied::Write(answer) => proto::encode_into(&answer, &mut self.answer),
            Applied::Lifecycle(answer) => proto::encode_into(&answer, &mut self.answer),
        }
        Bytes::copy_from_slice(&self.answer)
    }

    fn apply_unanswered(&mut self, at: Moment, command: &[u8]) {
        self.carry_out_command(at, command);
    }

    fn time_ms(&self) -> u64 {
        self.time_ms
    }

    fn copy_bytes(&self) -> u64 {
        self.total.copy_bytes()
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
