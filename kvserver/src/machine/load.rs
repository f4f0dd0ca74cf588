//! Taking in a copy: a whole machine's, or one shard's on its way here.
//!
//! Owns the checks on what a copy says. Records come in the order in which they were handed out, so each one
//! simply replaces what was at its place; whatever cannot be the next record of such a copy is refused, for
//! it says that pieces were lost, swapped or damaged. It must never panic on bytes, nor allocate more than
//! they pay for. Everything derived (counters, the order of idleness) is kept up record by record.

use super::KvMachine;
use super::bounds::{COUNTER_MAX, KEY_BYTES_MAX, SHARDS_MAX, VALUE_BYTES_MAX};
use super::copy::{Copies, Part};
use super::events::Event;
use super::piece::{self, StateRecord};
use super::session::{Session, rebased_s};
use super::shard::{Entry, Shard};
use proto::{Revision, ShardId, ShardState, Version};
use raftstore::mutation::{Mutation, is_on};
use std::borrow::Cow;

impl KvMachine {
    /// Takes in all records of a piece of a copy of a whole machine.
    pub(super) fn load_piece(&mut self, piece: &[u8]) -> Result<(), String> {
        if !self.copies.is_empty() {
            return Err("the machine is itself being copied".into());
        }
        for record in piece::records(piece)? {
            let record = record?;
            if !self.leaves_out(&record) {
                self.load_record(record)?;
            }
        }
        Ok(())
    }

    fn load_record(&mut self, record: StateRecord<'_>) -> Result<(), String> {
        match record {
            StateRecord::Time { time_ms } if time_ms < self.time_ms => {
                Err(format!("time goes back from {} to {time_ms}", self.time_ms))
            }
            StateRecord::Time { time_ms } => {
                self.time_ms = time_ms;
                Ok(())
            }
            StateRecord::State { shard, state } => self.load_state(shard, state),
            StateRecord::Cleared { shard } => {
                self.known(shard)?;
                drop(self.change(shard, |shard, _| shard.take()));
                Ok(())
            }
            StateRecord::SessionGone { shard, client }
                if !self.known(shard)?.sessions.contains_key(&client) =>
            {
                Err("a session is gone that never was".into())
            }
            StateRecord::KeyAbsent { .. } => Err("the copy of a machine is made by one machine".into()),
            record => {
                let Some(shard) = record.shard() else { return Err("a record of no shard".into()) };
                self.known(shard)?;
                self.change(shard, |home, copies| load_into(shard, home, record, copies))
            }
        }
    }

    fn load_state(&mut self, id: ShardId, state: ShardState) -> Result<(), String> {
        if id.0 >= SHARDS_MAX {
            return Err(format!("shard is out of range: {id}"));
        }
        if matches!(state, ShardState::Absent) {
            return Err(format!("state of a shard that was never here: {id}"));
        }
        self.enter(id, state);
        Ok(())
    }

    fn known(&self, id: ShardId) -> Result<&Shard, String> {
        self.shards.get(&id).ok_or_else(|| format!("shard has no state: {id}"))
    }

    /// Takes in all records of a piece of a copy of shard `id`. Where the piece is none, some of them may
    /// have been taken in.
    ///
    /// A session stays as idle as it was: its last activity is told by the time of the group that handed it
    /// out, which the piece holds, and kept by this one's.
    pub(super) fn import_piece(&mut self, id: ShardId, piece: &[u8]) -> Result<(), String> {
        let (mut there_ms, here_ms) = (None, self.time_ms);
        for record in piece::records(piece)? {
            let record = match (record?, there_ms) {
                (StateRecord::Time { time_ms }, _) => {
                    there_ms = Some(time_ms);
                    continue;
                }
                (StateRecord::Session { .. }, _) if is_on(Mutation::ForgetSessionsInMove) => continue,
                (StateRecord::Session { shard, client, lowest, active_s, answers }, Some(there_ms)) => {
                    let active_s = rebased_s(active_s, there_ms, here_ms);
                    StateRecord::Session { shard, client, lowest, active_s, answers }
                }
                (StateRecord::Session { .. }, None) => return Err("a session without a time".into()),
                (StateRecord::State { .. } | StateRecord::Cleared { .. }, _) => {
                    return Err("a shard's copy says where the shard is in its life".into());
                }
                (record, _) => record,
            };
            if record.shard() != Some(id) {
                return Err(format!("a record of another shard than {id}"));
            }
            self.change(id, |shard, copies| load_into(id, shard, record, copies))?;
        }
        Ok(())
    }
}

/// Takes one record into its shard.
fn load_into(
    id: ShardId,
    shard: &mut Shard,
    record: StateRecord<'_>,
    copies: &mut Copies,
) -> Result<(), String> {
    match record {
        StateRecord::Key { key, value, version, created, modified, .. } => {
            let existed = load_key(shard, key, Entry { value: value.into(), version, created, modified })?;
            copies.mark(id, &Part::Key(Cow::Borrowed(key)), existed, true);
        }
        StateRecord::KeyAbsent { key, .. } if !shard.data.contains_key(key) => check_key(key)?,
        StateRecord::KeyGone { key, .. } | StateRecord::KeyAbsent { key, .. } => {
            load_key_gone(shard, key)?;
            copies.mark(id, &Part::Key(Cow::Borrowed(key)), true, false);
        }
        StateRecord::Session { client, lowest, active_s, answers, .. } => {
            let existed = shard.put_session(client, Session::decode(lowest, active_s, answers)?);
            copies.mark(id, &Part::Session(client), existed, true);
        }
        StateRecord::SessionGone { client, .. } => {
            // One that comes in may have been forgotten here before it was there.
            if shard.remove_session(client) {
                copies.mark(id, &Part::Session(client), true, false);
            }
        }
        StateRecord::Event { revision, change, key, .. } => {
            check_key(key)?;
            shard.events.load(&Event { revision, change, key })?;
            copies.mark(id, &Part::Tail, true, true);
        }
        StateRecord::Tail { floor, revision, .. } => shard.events.load_end(floor, revision)?,
        StateRecord::Time { .. } | StateRecord::State { .. } | StateRecord::Cleared { .. } => {
            return Err("a record that is none of a shard's contents".into());
        }
    }
    Ok(())
}

/// Says whether the key was there.
fn load_key(shard: &mut Shard, key: &[u8], entry: Entry) -> Result<bool, String> {
    check_key(key)?;
    if entry.value.len() > VALUE_BYTES_MAX {
        return Err(format!("value is too long: {} bytes of {VALUE_BYTES_MAX}", entry.value.len()));
    }
    let Entry { version, created, modified, .. } = entry;
    if version < Version(1) || version > Version(COUNTER_MAX) || created < Revision(1) || modified < created {
        return Err(format!("key at version {version}, created at {created}, modified at {modified}"));
    }
    let bytes = entry.value.len() as u64;
    // A copy is handed out in the keys' order, so nearly every record is beyond all that are there, and the end is
    // at hand where any other place has to be looked for.
    let is_beyond_all = shard.data.last_key_value().is_none_or(|(last, _)| **last < *key);
    match if is_beyond_all { None } else { shard.data.get_mut(key) } {
        Some(present) => {
            if modified < present.modified {
                return Err(format!("key goes back from revision {} to {modified}", present.modified));
            }
            shard.usage.bytes -= present.value.len() as u64;
            shard.usage.bytes += bytes;
            *present = entry;
            Ok(true)
        }
        None => {
            shard.usage.keys += 1;
            shard.usage.bytes += key.len() as u64 + bytes;
            shard.data.insert(key.into(), entry);
            Ok(false)
        }
    }
}

fn load_key_gone(shard: &mut Shard, key: &[u8]) -> Result<(), String> {
    let removed = shard.data.remove(key).ok_or("a key is gone that never was")?;
    shard.usage.keys -= 1;
    shard.usage.bytes -= (key.len() + removed.value.len()) as u64;
    Ok(())
}

fn check_key(key: &[u8]) -> Result<(), String> {
    if key.len() > KEY_BYTES_MAX {
        return Err(format!("key is too long: {} bytes of {KEY_BYTES_MAX}", key.len()));
    }
    Ok(())
}
