//! A shard: keys with their values and counters, its sessions, its last events, and where it stands in its
//! life.
//!
//! Owns what a write does to a key. It knows nothing of stamps, time or copies: the machine admits a write,
//! hands it here, and tells the copies what changed. Every write that takes effect raises the revision by
//! one.

use super::bounds::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use super::events::{Change, Events};
use super::idleness::{IdleSessions, Idlest};
use super::outcome::Outcome;
use super::session::Session;
use super::usage::Usage;
use proto::{ClientId, Expect, Operation, Record, Revision, ShardState, Version};
use std::collections::BTreeMap;

/// What a key holds. Keys and values are exact boxes: a machine lives in memory, so that every byte counts;
/// an append pays for it by moving the value where the allocator cannot grow it in place.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) value: Box<[u8]>,
    /// From 1 at creation.
    pub(super) version: Version,
    /// The shard's revision at the key's creation; `created <= modified`.
    pub(super) created: Revision,
    /// The shard's revision at the key's last change; at most the shard's.
    pub(super) modified: Revision,
}

impl Entry {
    pub(super) fn record<'a>(&'a self, key: &'a [u8]) -> Record<'a> {
        Record { key, value: &self.value, version: self.version, revision: self.modified }
    }
}

/// A shard that is known: all that moves when it moves, and its state, which does not. What is not here holds
/// nothing.
#[derive(Debug, Default)]
pub(super) struct Shard {
    /// Never [`ShardState::Absent`] in a machine.
    pub(super) state: ShardState,
    pub(super) data: BTreeMap<Box<[u8]>, Entry>,
    pub(super) sessions: BTreeMap<ClientId, Session>,
    /// Just one element for each of `sessions`.
    pub(super) idle: IdleSessions,
    pub(super) events: Events,
    /// Counts `data` and `sessions`.
    pub(super) usage: Usage,
}

impl Shard {
    /// A shard that holds nothing.
    pub(super) fn new(state: ShardState) -> Self {
        Self { state, ..Self::default() }
    }

    /// Moves all that it holds aside, in no time however much it is; its state stays.
    pub(super) fn take(&mut self) -> Self {
        std::mem::replace(self, Self::new(self.state))
    }

    /// When its idlest sessions were active last, of those that may be forgotten: nothing of a frozen shard
    /// changes.
    pub(super) fn idlest(&self) -> Idlest {
        match self.state {
            ShardState::Frozen { .. } => Idlest::default(),
            _ => self.idle.idlest(),
        }
    }

    /// Puts `session` where the one of `client` was, if there was one; says whether there was.
    pub(super) fn put_session(&mut self, client: ClientId, session: Session) -> bool {
        let existed = self.remove_session(client);
        self.usage.sessions += 1;
        self.usage.named_sessions += u64::from(client.is_named());
        self.usage.answers += session.answers();
        self.idle.of(client).insert((session.active_s(), client));
        self.sessions.insert(client, session);
        existed
    }

    /// Forgets the session of `client`; says whether there was one.
    pub(super) fn remove_session(&mut self, client: ClientId) -> bool {
        let Some(session) = self.sessions.remove(&client) else { return false };
        self.usage.sessions -= 1;
        self.usage.named_sessions -= u64::from(client.is_named());
        self.usage.answers -= session.answers();
        self.idle.of(client).remove(&(session.active_s(), client));
        true
    }

    /// Carries out one write.
    pub(super) fn write(&mut self, operation: &Operation<'_>) -> Outcome {
        match *operation {
            Operation::Put { key, value, expect } => {
                self.store(key, expect, value.len(), |before| replaced(before, value))
            }
            Operation::Append { key, value, expect } => {
                let length = self.data.get(key).map_or(0, |entry| entry.value.len()) + value.len();
                self.store(key, expect, length, |before| extended(before, value))
            }
            Operation::Delete { key, expect } => self.delete(key, expect),
            Operation::Get { .. } | Operation::Scan { .. } => Outcome::NotAWrite,
        }
    }

    /// Gives `key` the value that `change` makes of the one before, `length` bytes long.
    fn store(
        &mut self,
        key: &[u8],
        expect: Expect,
        length: usize,
        change: impl FnOnce(Box<[u8]>) -> Box<[u8]>,
    ) -> Outcome {
        if key.len() > KEY_BYTES_MAX {
            return Outcome::KeyTooLarge { length: key.len() as u64 };
        }
        if length > VALUE_BYTES_MAX {
            return Outcome::ValueTooLarge { length: length as u64 };
        }
        let revision = Revision(self.events.revision().0 + 1);
        let version = match self.data.get_mut(key) {
            Some(entry) => {
                if !holds(expect, entry.version) {
                    return Outcome::VersionMismatch { current: entry.version };
                }
                self.usage.bytes -= entry.value.len() as u64;
                entry.value = change(std::mem::take(&mut entry.value));
                entry.version.0 += 1;
                entry.modified = revision;
                entry.version
            }
            None => {
                if !holds(expect, Version(0)) {
                    return Outcome::VersionMismatch { current: Version(0) };
                }
                let version = Version(1);
                let value = change(Box::default());
                self.data.insert(key.into(), Entry { value, version, created: revision, modified: revision });
                self.usage.keys += 1;
                self.usage.bytes += key.len() as u64;
                version
            }
        };
        self.usage.bytes += length as u64;
        self.events.push(Change::Written, key);
        Outcome::Written { version, revision, length: length as u64 }
    }

    /// The condition is judged before the key's absence: `If-Match` on an absent key is a mismatch.
    fn delete(&mut self, key: &[u8], expect: Expect) -> Outcome {
        let current = self.data.get(key).map_or(Version(0), |entry| entry.version);
        if !holds(expect, current) {
            return Outcome::VersionMismatch { current };
        }
        let Some(entry) = self.data.remove(key) else { return Outcome::NotFound };
        self.usage.keys -= 1;
        self.usage.bytes -= (key.len() + entry.value.len()) as u64;
        self.events.push(Change::Deleted, key);
        Outcome::Deleted { revision: self.events.revision() }
    }
}

/// Whether a key at `current` (0: absent) meets the condition.
fn holds(expect: Expect, current: Version) -> bool {
    match expect {
        Expect::Any => true,
        Expect::Absent => current == Version(0),
        Expect::Present => current > Version(0),
        Expect::Version(version) => current == version,
    }
}

/// `value`, where the one before it was if it is as long.
fn replaced(mut before: Box<[u8]>, value: &[u8]) -> Box<[u8]> {
    if before.len() != value.len() {
        return Box::from(value);
    }
    before.copy_from_slice(value);
    before
}

fn extended(before: Box<[u8]>, more: &[u8]) -> Box<[u8]> {
    let mut bytes = before.into_vec();
    bytes.reserve_exact(more.len());
    bytes.extend_from_slice(more);
    bytes.into_boxed_slice()
}
