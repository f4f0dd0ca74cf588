//! What clients asked and were answered, as a list of events in the order in which they happened.

use std::collections::BTreeMap;

/// What a client asks. Keys and values are any bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Reads a value.
    Get {
        /// The key.
        key: Vec<u8>,
    },
    /// Replaces a value, or creates it.
    Put {
        /// The key.
        key: Vec<u8>,
        /// The new value.
        value: Vec<u8>,
    },
    /// Adds to the end of a value; an absent key counts as empty.
    Append {
        /// The key.
        key: Vec<u8>,
        /// The bytes to add.
        value: Vec<u8>,
    },
    /// Replaces a value, or creates it, where the key is at a version.
    CompareAndSet {
        /// The key.
        key: Vec<u8>,
        /// The version that it must be at; 0 where it must be absent.
        expect: u64,
        /// The new value.
        value: Vec<u8>,
    },
    /// Removes a key.
    Delete {
        /// The key.
        key: Vec<u8>,
    },
    /// Lists keys with their values.
    Scan {
        /// Only keys that start so.
        prefix: Vec<u8>,
    },
}

impl Operation {
    /// Reads `key`.
    pub fn get(key: impl AsRef<[u8]>) -> Self {
        Self::Get { key: owned(key) }
    }

    /// Makes `value` the value of `key`.
    pub fn put(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        Self::Put { key: owned(key), value: owned(value) }
    }

    /// Adds `value` to the end of `key`'s.
    pub fn append(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        Self::Append { key: owned(key), value: owned(value) }
    }

    /// Makes `value` the value of `key` where that is at version `expect`; 0 where it is absent.
    pub fn compare_and_set(key: impl AsRef<[u8]>, expect: u64, value: impl AsRef<[u8]>) -> Self {
        Self::CompareAndSet { key: owned(key), expect, value: owned(value) }
    }

    /// Removes `key`.
    pub fn delete(key: impl AsRef<[u8]>) -> Self {
        Self::Delete { key: owned(key) }
    }

    /// Lists the keys that start with `prefix`.
    pub fn scan(prefix: impl AsRef<[u8]>) -> Self {
        Self::Scan { prefix: owned(prefix) }
    }

    /// The key that it concerns; `None` for a scan.
    pub fn key(&self) -> Option<&[u8]> {
        match self {
            Self::Get { key }
            | Self::Put { key, .. }
            | Self::Append { key, .. }
            | Self::CompareAndSet { key, .. }
            | Self::Delete { key } => Some(key),
            Self::Scan { .. } => None,
        }
    }

    /// Whether it changes nothing.
    pub fn is_read(&self) -> bool {
        matches!(self, Self::Get { .. } | Self::Scan { .. })
    }

    /// Whether `answer` is one that can be given to it at all.
    pub(crate) fn fits(&self, answer: &Answer) -> bool {
        match self {
            Self::Get { .. } => matches!(answer, Answer::Value { .. } | Answer::Absent),
            Self::Put { .. } | Self::Append { .. } => matches!(answer, Answer::Written { .. }),
            Self::CompareAndSet { .. } => {
                matches!(answer, Answer::Written { .. } | Answer::Mismatch { .. })
            }
            Self::Delete { .. } => matches!(answer, Answer::Deleted { .. }),
            Self::Scan { .. } => matches!(answer, Answer::Items(_)),
        }
    }
}

/// What the store answers. `None` stands for what an answer did not say; nothing is then claimed of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To a get: the value.
    Value {
        /// The value.
        value: Vec<u8>,
        /// The key's version, from 1.
        version: Option<u64>,
    },
    /// To a get: there is no such key.
    Absent,
    /// To a put, an append or a compare-and-set: done.
    Written {
        /// The key's version afterwards; 1 where it was created.
        version: Option<u64>,
    },
    /// To a compare-and-set: the key is at another version, and nothing was done.
    Mismatch {
        /// The key's version; 0 where it is absent.
        actual: Option<u64>,
    },
    /// To a delete: the key does not exist now.
    Deleted {
        /// Whether it existed before.
        found: Option<bool>,
    },
    /// To a scan.
    Items(Vec<Item>),
}

impl Answer {
    /// A value with its version.
    pub fn value(value: impl AsRef<[u8]>, version: impl Into<Option<u64>>) -> Self {
        Self::Value { value: owned(value), version: version.into() }
    }

    /// A write that made this version.
    pub fn written(version: impl Into<Option<u64>>) -> Self {
        Self::Written { version: version.into() }
    }

    /// A compare-and-set that found this version instead.
    pub fn mismatch(actual: impl Into<Option<u64>>) -> Self {
        Self::Mismatch { actual: actual.into() }
    }

    /// A delete that found the key, or did not.
    pub fn deleted(found: impl Into<Option<bool>>) -> Self {
        Self::Deleted { found: found.into() }
    }
}

/// A key as a scan finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The key.
    pub key: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
    /// Its version, from 1.
    pub version: Option<u64>,
}

/// Something that happened at a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It asked.
    Invoke(Operation),
    /// It was answered.
    Ok(Answer),
    /// It knows that nothing was done, nor will be, and nothing else.
    Fail,
    /// It does not know whether its operation took effect, or will.
    Info,
}

/// An event with who, when and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The client. It has one operation under way at a time.
    pub process: u64,
    /// When, in nanoseconds since some beginning; never before the entry in front of it.
    pub time_ns: u64,
    /// The node that was asked, or that answered, where known.
    pub node: Option<String>,
    /// What.
    pub event: Event,
}

/// Why an entry cannot follow those before it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// A process has one operation at a time.
    #[error("process {0} invokes an operation while another one is under way")]
    InvokedTwice(u64),
    /// Nothing was asked.
    #[error("process {0} completes an operation that it did not invoke")]
    NotInvoked(u64),
    /// Entries stand in the order of their times.
    #[error("time goes back from {before_ns} ns to {time_ns} ns")]
    TimeGoesBack {
        /// The entry before.
        before_ns: u64,
        /// This one.
        time_ns: u64,
    },
    /// For example a value for a put.
    #[error("process {0} has an answer that its operation cannot have")]
    Unfitting(u64),
}

/// Entries in the order in which they happened, which is what decides: an operation precedes another where
/// its completion stands before the other's invocation. Times are for the reader's eye.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    entries: Vec<Entry>,
    /// Where each process's operation that is under way was invoked.
    pending: BTreeMap<u64, usize>,
}

impl History {
    /// A history without entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// The entries.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The operation that a process has under way.
    pub fn pending(&self, process: u64) -> Option<&Operation> {
        match &self.entries[*self.pending.get(&process)?].event {
            Event::Invoke(operation) => Some(operation),
            Event::Ok(_) | Event::Fail | Event::Info => None,
        }
    }

    /// Adds an entry.
    ///
    /// # Errors
    /// If it cannot follow those before it; the history is then as it was.
    pub fn push(&mut self, entry: Entry) -> Result<(), OrderError> {
        let process = entry.process;
        if let Some(last) = self.entries.last()
            && entry.time_ns < last.time_ns
        {
            return Err(OrderError::TimeGoesBack { before_ns: last.time_ns, time_ns: entry.time_ns });
        }
        let pending = self.pending(process);
        match (&entry.event, pending) {
            (Event::Invoke(_), Some(_)) => return Err(OrderError::InvokedTwice(process)),
            (Event::Ok(_) | Event::Fail | Event::Info, None) => return Err(OrderError::NotInvoked(process)),
            (Event::Ok(answer), Some(operation)) if !operation.fits(answer) => {
                return Err(OrderError::Unfitting(process));
            }
            (Event::Invoke(_), None) => {
                self.pending.insert(process, self.entries.len());
            }
            (Event::Ok(_) | Event::Fail | Event::Info, Some(_)) => {
                self.pending.remove(&process);
            }
        }
        self.entries.push(entry);
        Ok(())
    }

    /// The operations in the order of their invocations, each with its end.
    pub fn calls(&self) -> Vec<Call<'_>> {
        let mut calls = Vec::new();
        let mut under_way = BTreeMap::new();
        for (place, entry) in self.entries.iter().enumerate() {
            let call: &mut Call<'_> = match &entry.event {
                Event::Invoke(operation) => {
                    under_way.insert(entry.process, calls.len());
                    calls.push(Call { operation, invoked: place, completed: None, end: End::Unknown });
                    continue;
                }
                Event::Ok(_) | Event::Fail | Event::Info => {
                    let call = under_way.remove(&entry.process);
                    &mut calls[call.expect("push refuses completions without an invocation")]
                }
            };
            call.completed = Some(place);
            call.end = match &entry.event {
                Event::Ok(answer) => End::Answered(answer),
                Event::Fail => End::Failed,
                Event::Info | Event::Invoke(_) => End::Unknown,
            };
        }
        calls
    }
}

/// An operation of a history from its invocation to its end. Times are places among the entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call<'h> {
    /// What was asked.
    pub operation: &'h Operation,
    /// The entry that says so.
    pub invoked: usize,
    /// The entry with its end; `None` where the history ends before.
    pub completed: Option<usize>,
    /// How it ended.
    pub end: End<'h>,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End<'h> {
    /// With an answer.
    Answered(&'h Answer),
    /// With nothing done.
    Failed,
    /// Nobody knows: it may take effect at any later time, or never.
    Unknown,
}

fn owned(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    bytes.as_ref().to_vec()
}
