//! A shard: keys with their values and counters, its sessions, its last events.
//!
//! Owns what a write does to a key. It knows nothing of stamps, time or copies: the machine admits a write,
//! hands it here, and tells the copies what changed. Every write that takes effect raises the revision by one.

use super::bounds::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use super::events::{Change, Events};
use super::outcome::Outcome;
use super::session::Session;
use super::usage::Usage;
use proto::{ClientId, Expect, Operation, Record, Revision, Version};
use std::collections::BTreeMap;

/// What a key holds. Keys and values are exact boxes: a machine lives in memory, so that every byte counts; an
/// append pays for it by moving the value where the allocator cannot grow it in place.
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

/// All that moves when a shard moves.
#[derive(Debug, Default)]
pub(super) struct Shard {
    pub(super) data: BTreeMap<Box<[u8]>, Entry>,
    pub(super) sessions: BTreeMap<ClientId, Session>,
    pub(super) events: Events,
    /// Counts `data` and `sessions`.
    pub(super) usage: Usage,
}

impl Shard {
    /// Carries out one write.
    pub(super) fn write(&mut self, operation: &Operation<'_>) -> Outcome {
        match *operation {
            Operation::Put { key, value, expect } => {
                self.store(key, expect, value.len(), |_| Box::from(value))
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

fn extended(before: Box<[u8]>, more: &[u8]) -> Box<[u8]> {
    let mut bytes = before.into_vec();
    bytes.reserve_exact(more.len());
    bytes.extend_from_slice(more);
    bytes.into_boxed_slice()
}
