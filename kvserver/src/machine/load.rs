//! Taking in a copy.
//!
//! Owns the checks on what a copy says. Records come in the order in which they were handed out, so each one
//! simply replaces what was at its place; whatever cannot be the next record of such a copy is refused, for
//! it says that pieces were lost, swapped or damaged. It must never panic on bytes, nor allocate more than
//! they pay for. Everything derived (counters, the order of idleness) is kept up record by record.

use super::bounds::{COUNTER_MAX, KEY_BYTES_MAX, SHARDS_MAX, VALUE_BYTES_MAX};
use super::events::Event;
use super::piece::{self, StateRecord};
use super::session::Session;
use super::shard::{Entry, Shard};
use super::{KvMachine, shard_entry};
use proto::{ClientId, Revision, ShardId, Version};

impl KvMachine {
    /// Takes in all records of a piece.
    pub(super) fn load_piece(&mut self, piece: &[u8]) -> Result<(), String> {
        if !self.copies.is_empty() {
            return Err("the machine is itself being copied".into());
        }
        for record in piece::records(piece)? {
            self.load_record(record?)?;
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
            StateRecord::Key { shard, key, value, version, created, modified } => {
                let entry = Entry { value: value.into(), version, created, modified };
                self.load_into(shard, |shard| load_key(shard, key, entry))
            }
            StateRecord::KeyGone { shard, key } => self.load_into(shard, |shard| load_key_gone(shard, key)),
            StateRecord::Session { shard, client, lowest, active_s, answers } => {
                self.load_session(shard, client, Session::decode(lowest, active_s, answers)?)
            }
            StateRecord::SessionGone { shard, client } => self.load_session_gone(shard, client),
            StateRecord::Event { shard, revision, change, key } => {
                check_key(key)?;
                self.load_into(shard, |shard| shard.events.load(&Event { revision, change, key }))
            }
            StateRecord::Tail { shard, floor, revision } => {
                self.load_into(shard, |shard| shard.events.load_end(floor, revision))
            }
        }
    }

    /// Lets `load` change shard `id`, which it makes where it is new, and counts the change.
    fn load_into(
        &mut self,
        id: ShardId,
        load: impl FnOnce(&mut Shard) -> Result<(), String>,
    ) -> Result<(), String> {
        if id.0 >= SHARDS_MAX {
            return Err(format!("shard is out of range: {id}"));
        }
        let shard = shard_entry(&mut self.shards, &mut self.copies, id);
        let before = shard.usage;
        load(shard)?;
        self.total.exchange(before, shard.usage);
        Ok(())
    }

    fn load_session(&mut self, id: ShardId, client: ClientId, session: Session) -> Result<(), String> {
        let active_s = session.active_s();
        let mut replaced = None;
        self.load_into(id, |shard| {
            shard.usage.answers += session.answers();
            replaced = shard.sessions.insert(client, session);
            match &replaced {
                Some(replaced) => shard.usage.answers -= replaced.answers(),
                None => shard.usage.sessions += 1,
            }
            Ok(())
        })?;
        if let Some(replaced) = replaced {
            self.idleness.remove(&(replaced.active_s(), id, client));
        }
        self.idleness.insert((active_s, id, client));
        Ok(())
    }

    fn load_session_gone(&mut self, id: ShardId, client: ClientId) -> Result<(), String> {
        let mut removed_active_s = None;
        self.load_into(id, |shard| {
            let removed = shard.sessions.remove(&client).ok_or("a session is gone that never was")?;
            shard.usage.sessions -= 1;
            shard.usage.answers -= removed.answers();
            removed_active_s = Some(removed.active_s());
            Ok(())
        })?;
        if let Some(active_s) = removed_active_s {
            self.idleness.remove(&(active_s, id, client));
        }
        Ok(())
    }
}

fn load_key(shard: &mut Shard, key: &[u8], entry: Entry) -> Result<(), String> {
    check_key(key)?;
    if entry.value.len() > VALUE_BYTES_MAX {
        return Err(format!("value is too long: {} bytes of {VALUE_BYTES_MAX}", entry.value.len()));
    }
    let Entry { version, created, modified, .. } = entry;
    if version < Version(1) || version > Version(COUNTER_MAX) || created < Revision(1) || modified < created {
        return Err(format!("key at version {version}, created at {created}, modified at {modified}"));
    }
    shard.usage.bytes += entry.value.len() as u64;
    match shard.data.get_mut(key) {
        Some(present) => {
            if modified < present.modified {
                return Err(format!("key goes back from revision {} to {modified}", present.modified));
            }
            shard.usage.bytes -= present.value.len() as u64;
            *present = entry;
        }
        None => {
            shard.usage.keys += 1;
            shard.usage.bytes += key.len() as u64;
            shard.data.insert(key.into(), entry);
        }
    }
    Ok(())
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
