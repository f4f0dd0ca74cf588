//! A model of the replicated machine: keys, values and the session rules, with nothing replicated. Every write
//! that takes effect here takes effect "for ever", so appended tokens can be counted afterwards.

use proto::{
    Answer, ClientId, Code, Error, Expect, Item, Operation, Record, Reply, Revision, ShardId, Stamp, Version,
};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Duration;
use tokio::time::Instant;

/// As real servers: sessions idle for longer are forgotten.
pub const SESSION_TTL: Duration = Duration::from_secs(3600);

/// As real servers: how far a sequence may run ahead of the lowest open one.
const WINDOW: u64 = 1024;

#[derive(Clone, Debug)]
enum Stored {
    Written { version: u64, length: u64 },
    Deleted,
    Refused(Error),
}

impl Stored {
    fn answer(&self) -> Answer<'static> {
        let revision = Revision(1);
        match self {
            Self::Written { version, length } => {
                Ok(Reply::Written { version: Version(*version), revision, length: *length })
            }
            Self::Deleted => Ok(Reply::Deleted { revision }),
            Self::Refused(error) => Err(error.clone()),
        }
    }
}

#[derive(Debug)]
struct Session {
    lowest: u64,
    answers: BTreeMap<u64, Stored>,
    active_at: Instant,
}

#[derive(Debug, Default)]
pub struct Machine {
    pub data: BTreeMap<Vec<u8>, (Vec<u8>, u64)>,
    sessions: BTreeMap<(ClientId, ShardId), Session>,
    /// Every stamp that was applied for the first time, in order.
    pub applied: Vec<Stamp>,
}

impl Machine {
    pub fn forget_sessions(&mut self) {
        self.sessions.clear();
    }

    /// Takes all sequences of all sessions for closed, as if their clients had said so.
    pub fn close_windows(&mut self) {
        self.sessions.values_mut().for_each(|session| session.lowest = u64::MAX);
    }

    pub fn write(&mut self, shard: ShardId, item: &Item<'_>) -> Answer<'static> {
        let stamp = item.stamp.expect("the client stamps every write");
        let (sequence, lowest) = (stamp.sequence.0, stamp.lowest_open.0);
        assert!(1 <= lowest && lowest <= sequence, "stamps are well formed: {stamp:?}");
        if sequence - lowest > WINDOW {
            return Err(Error::new(Code::SequenceOutOfWindow, "sequence is too far ahead"));
        }
        self.sessions.retain(|_, session| session.active_at.elapsed() < SESSION_TTL);
        let session = match self.sessions.entry((stamp.client, shard)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(_) if lowest != 1 => {
                return Err(Error::unknown(Code::SessionExpired, "session is unknown"));
            }
            Entry::Vacant(place) => {
                place.insert(Session { lowest: 1, answers: BTreeMap::new(), active_at: Instant::now() })
            }
        };
        session.active_at = Instant::now();
        session.lowest = session.lowest.max(lowest);
        let session_lowest = session.lowest;
        session.answers.retain(|&answered, _| answered >= session_lowest);
        if sequence < session.lowest {
            return Err(Error::unknown(Code::SequenceOutOfWindow, "sequence is closed"));
        }
        if let Some(stored) = session.answers.get(&sequence) {
            return stored.answer();
        }
        let stored = Self::apply(&mut self.data, &item.operation);
        self.applied.push(stamp);
        session.answers.insert(sequence, stored.clone());
        stored.answer()
    }

    fn apply(data: &mut BTreeMap<Vec<u8>, (Vec<u8>, u64)>, operation: &Operation<'_>) -> Stored {
        let (key, expect) = match *operation {
            Operation::Put { key, expect, .. }
            | Operation::Append { key, expect, .. }
            | Operation::Delete { key, expect } => (key, expect),
            _ => panic!("reads carry no stamp"),
        };
        let current = data.get(key).map_or(0, |(_, version)| *version);
        let holds = match expect {
            Expect::Any => true,
            Expect::Absent => current == 0,
            Expect::Present => current > 0,
            Expect::Version(version) => current == version.0,
        };
        if !holds {
            return Stored::Refused(Error::new(Code::VersionMismatch { current: Version(current) }, ""));
        }
        if let Operation::Delete { .. } = operation {
            return match data.remove(key) {
                Some(_) => Stored::Deleted,
                None => Stored::Refused(Error::new(Code::NotFound, "")),
            };
        }
        let (value, version) = data.entry(key.to_vec()).or_default();
        match *operation {
            Operation::Put { value: new, .. } => *value = new.to_vec(),
            Operation::Append { value: more, .. } => value.extend_from_slice(more),
            _ => {}
        }
        *version += 1;
        Stored::Written { version: *version, length: value.len() as u64 }
    }

    pub fn read(&self, operation: &Operation<'_>) -> Answer<'_> {
        let revision = Revision(1);
        match *operation {
            Operation::Get { key } => match self.data.get(key) {
                Some((value, version)) => Ok(Reply::Value { value, version: Version(*version), revision }),
                None => Err(Error::new(Code::NotFound, "")),
            },
            Operation::Scan { prefix, after, start, limit, bytes_max } => {
                let mut left = bytes_max as usize;
                let mut records = Vec::new();
                let mut matching = self.data.iter().filter(|(key, _)| {
                    key.starts_with(prefix)
                        && key.as_slice() >= start
                        && after.is_none_or(|after| key.as_slice() > after)
                });
                for (key, (value, version)) in matching.by_ref() {
                    let bytes = key.len() + value.len();
                    if !records.is_empty() && (records.len() == limit as usize || bytes > left) {
                        return Ok(Reply::Page { records, more: true });
                    }
                    left = left.saturating_sub(bytes);
                    records.push(Record { key, value, version: Version(*version), revision });
                }
                Ok(Reply::Page { records, more: false })
            }
            _ => panic!("writes are stamped"),
        }
    }
}
