//! One key of the store: a value with a version that counts its changes.

use crate::{Answer, Model, Operation};
use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

/// What a key holds: nothing, at version 0, or a value at a version from 1. Deleted and created anew, it
/// counts from 1 again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// The key does not exist.
    Absent,
    /// It does.
    Present {
        /// Its value; `None` for one that nobody read, nor anything that became of it.
        value: Option<Arc<[u8]>>,
        /// How many changes made it so; 1 where nobody asked.
        version: u64,
    },
}

impl State {
    /// The version; 0 where the key is absent.
    pub fn version(&self) -> u64 {
        match self {
            Self::Absent => 0,
            Self::Present { version, .. } => *version,
        }
    }
}

/// An operation on a key that is understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access<'h> {
    /// Reads the value.
    Get,
    /// Replaces it.
    Put(&'h [u8]),
    /// Adds to its end.
    Append(&'h [u8]),
    /// Replaces it where the key is at this version.
    CompareAndSet(u64, &'h [u8]),
    /// Removes it.
    Delete,
    /// Replaces it, or adds to it; either way by a value that nobody read, nor anything that became of it.
    WriteUnread,
}

impl<'h> Access<'h> {
    /// The key of an operation, and what is asked of it; `None` for a scan.
    pub(crate) fn of(operation: &'h Operation) -> Option<(&'h [u8], Self)> {
        Some(match operation {
            Operation::Get { key } => (key, Self::Get),
            Operation::Put { key, value } => (key, Self::Put(value)),
            Operation::Append { key, value } => (key, Self::Append(value)),
            Operation::CompareAndSet { key, expect, value } => (key, Self::CompareAndSet(*expect, value)),
            Operation::Delete { key } => (key, Self::Delete),
            Operation::Scan { .. } => return None,
        })
    }
}

/// An answer about a key that is understood; `None` stands for what was not said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply<'h> {
    /// A value and its version.
    Value(&'h [u8], Option<u64>),
    /// No such key.
    Absent,
    /// Changed, to this version.
    Written(Option<u64>),
    /// Not changed, because the key is at this other version.
    Mismatch(Option<u64>),
    /// Removed, and whether there was something.
    Deleted(Option<bool>),
}

impl<'h> Reply<'h> {
    /// What `answer` says of the one key of its operation; `None` for a scan's.
    pub(crate) fn of(answer: &'h Answer) -> Option<Self> {
        Some(match answer {
            Answer::Value { value, version } => Self::Value(value, *version),
            Answer::Absent => Self::Absent,
            Answer::Written { version } => Self::Written(*version),
            Answer::Mismatch { actual } => Self::Mismatch(*actual),
            Answer::Deleted { found } => Self::Deleted(*found),
            Answer::Items(_) => return None,
        })
    }
}

/// The register with versions that each key of the store is; absent at the beginning.
///
/// It is made for the operations and answers that it will be asked about, and remembers no more than they can
/// tell apart, so that the search meets the same state more often.
#[derive(Clone, Debug, Default)]
pub struct Register<'h> {
    /// The values that were read; `None` where every value is kept.
    read: Option<BTreeSet<&'h [u8]>>,
    /// Those of them that no other one begins with.
    longest: Vec<&'h [u8]>,
    /// Whether anything depends on versions.
    versioned: bool,
    /// Where values only grow, the longest one that was read: what a correct register holds until then begins
    /// it, and what it holds afterwards begins with it.
    destination: Option<&'h [u8]>,
}

impl<'h> Register<'h> {
    /// The register that remembers every value and version.
    pub fn literal() -> Self {
        Self { versioned: true, ..Self::default() }
    }

    /// The register for these operations and answers.
    pub fn of(accesses: impl IntoIterator<Item = (Access<'h>, Option<Reply<'h>>)>) -> Self {
        let mut register = Self::default();
        let mut all_read = BTreeSet::new();
        let mut only_grows = true;
        for (access, reply) in accesses {
            if let Some(Reply::Value(value, _)) = reply {
                all_read.insert(value);
            }
            register.versioned |=
                matches!(access, Access::CompareAndSet(..)) || reply.is_some_and(tells_version);
            only_grows &= matches!(access, Access::Get | Access::Append(_));
        }
        let followers = all_read.iter().skip(1).map(Some).chain([None]);
        let pairs = all_read.iter().zip(followers);
        // What begins with a value follows it in order.
        let longest = pairs.filter(|(read, next)| next.is_none_or(|next| !next.starts_with(read)));
        register.longest = longest.map(|(read, _)| *read).collect();
        if only_grows {
            register.destination = all_read.iter().copied().max_by_key(|value| value.len());
        }
        register.read = Some(all_read);
        register
    }

    /// The state once `value` was written to a key in `state`; `None` where that cannot be.
    fn changed(&self, state: &State, value: &[u8]) -> Option<State> {
        if self.destination.is_some_and(|read| !read.starts_with(value) && !value.starts_with(read)) {
            return None;
        }
        let version = self.version_after(state);
        let value = self.may_be_read(value).then(|| value.into());
        Some(State::Present { value, version })
    }

    fn version_after(&self, state: &State) -> u64 {
        if self.versioned { state.version() + 1 } else { 1 }
    }

    /// Whether a key in `state` may come to a value that is not read: not before all that it will be read as,
    /// where values only grow.
    fn is_beyond_reads(&self, state: &State) -> bool {
        self.destination.is_none_or(|read| match state {
            State::Absent => read.is_empty(),
            State::Present { value: None, .. } => true,
            State::Present { value: Some(value), .. } => value.starts_with(read),
        })
    }

    /// Whether `value`, or what it becomes when more is added to it, is read anywhere.
    fn may_be_read(&self, value: &[u8]) -> bool {
        self.read.as_ref().is_none_or(|all| {
            let mut from = all.range::<[u8], _>((Bound::Included(value), Bound::Unbounded));
            from.next().is_some_and(|read| read.starts_with(value))
        })
    }

    /// The same operation for a search, without what nothing depends on: writes of unknown outcome that
    /// nobody can have read are all alike.
    pub fn simplified(&self, access: Access<'h>) -> Access<'h> {
        let unread = match access {
            Access::Put(value) => !self.may_be_read(value),
            Access::Append(value) => !self.may_be_part_of_a_read(value),
            Access::CompareAndSet(..) | Access::Get | Access::Delete | Access::WriteUnread => false,
        };
        if unread { Access::WriteUnread } else { access }
    }

    /// Whether `value` stands anywhere in a value that was read.
    fn may_be_part_of_a_read(&self, value: &[u8]) -> bool {
        let within = |read: &&[u8]| read.windows(value.len()).any(|part| part == value);
        value.is_empty() || self.read.is_none() || self.longest.iter().any(within)
    }

    fn appended(&self, state: &State, more: &[u8]) -> Option<State> {
        match state {
            State::Absent => self.changed(state, more),
            State::Present { value: Some(value), .. } => self.changed(state, &[value, more].concat()),
            State::Present { value: None, .. } => {
                Some(State::Present { value: None, version: self.version_after(state) })
            }
        }
    }
}

/// Whether an answer says something of a version.
fn tells_version(reply: Reply<'_>) -> bool {
    match reply {
        Reply::Value(_, version) | Reply::Written(version) => version.is_some(),
        Reply::Mismatch(_) => true,
        Reply::Absent | Reply::Deleted(_) => false,
    }
}

impl<'h> Model for Register<'h> {
    type Operation = Access<'h>;
    type Answer = Reply<'h>;
    type State = State;

    fn initial(&self) -> State {
        State::Absent
    }

    fn step(&self, state: &State, access: &Access<'h>, reply: Option<&Reply<'h>>) -> Option<State> {
        match access {
            Access::Get => reads(state, reply).then(|| state.clone()),
            Access::Put(value) => written(self.changed(state, value)?, reply),
            Access::Append(value) => written(self.appended(state, value)?, reply),
            Access::WriteUnread if !self.is_beyond_reads(state) => None,
            Access::WriteUnread => {
                written(State::Present { value: None, version: self.version_after(state) }, reply)
            }
            Access::CompareAndSet(expect, value) if *expect == state.version() => {
                written(self.changed(state, value)?, reply)
            }
            Access::CompareAndSet(..) => match reply {
                None => Some(state.clone()),
                Some(Reply::Mismatch(actual)) => agrees(*actual, state.version()).then(|| state.clone()),
                Some(_) => None,
            },
            Access::Delete => match reply {
                None => Some(State::Absent),
                Some(Reply::Deleted(found)) => {
                    agrees(*found, *state != State::Absent).then_some(State::Absent)
                }
                Some(_) => None,
            },
        }
    }

    /// A delete that does not say what it found may have found something at another place.
    fn is_read(&self, access: &Access<'h>, reply: &Reply<'h>) -> bool {
        matches!(access, Access::Get) || matches!(reply, Reply::Mismatch(_) | Reply::Deleted(Some(false)))
    }

    fn state_bytes(&self, state: &State) -> usize {
        let value = match state {
            State::Absent => None,
            State::Present { value, .. } => value.as_ref(),
        };
        size_of::<State>() + value.map_or(0, |value| value.len())
    }
}

/// Whether a get of `state` may be answered so.
fn reads(state: &State, reply: Option<&Reply<'_>>) -> bool {
    match (reply, state) {
        (None, _) | (Some(Reply::Absent), State::Absent) => true,
        (Some(Reply::Value(value, version)), State::Present { value: held, version: held_version }) => {
            held.as_deref() == Some(*value) && agrees(*version, *held_version)
        }
        (Some(_), _) => false,
    }
}

/// `next`, where a write that leads to it may be answered so.
fn written(next: State, reply: Option<&Reply<'_>>) -> Option<State> {
    let right = match reply {
        None => true,
        Some(Reply::Written(version)) => agrees(*version, next.version()),
        Some(_) => false,
    };
    right.then_some(next)
}

/// Whether what was said, if anything, is so.
fn agrees<T: PartialEq>(said: Option<T>, is: T) -> bool {
    said.is_none_or(|said| said == is)
}
