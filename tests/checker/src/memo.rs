//! Lowe's memo: which configurations, a set of linearized operations with the state that they lead to, were
//! met.
//!
//! The answered operations of a set are kept without their beginning, where everything is linearized, and
//! without their end, where nothing is. What remains is about as wide as operations were concurrent, so an
//! entry does not grow with the history.
//!
//! Operations of unknown outcome stand apart. They need not be linearized, so whatever can be reached after
//! more of them can be reached after fewer: of two configurations that differ in nothing else, the one with
//! fewer counts.

use crate::Model;
use std::collections::HashMap;

/// What an entry takes beside its words: its pointers and lengths, and the table's and the allocator's share.
const ENTRY_BYTES: usize = 96;

/// What a further set of operations of unknown outcome takes beside its words.
const SET_BYTES: usize = 32;

/// A set of operations, by number.
#[derive(Clone, Debug)]
pub(crate) struct Bits {
    words: Vec<u64>,
    count: usize,
}

impl Bits {
    pub(crate) fn new(members_max: usize) -> Self {
        Self { words: vec![0; members_max.div_ceil(64)], count: 0 }
    }

    pub(crate) fn insert(&mut self, member: usize) {
        assert!(!self.contains(member), "an operation is linearized once");
        self.words[member / 64] |= 1 << (member % 64);
        self.count += 1;
    }

    pub(crate) fn remove(&mut self, member: usize) {
        assert!(self.contains(member), "only what was linearized is taken back");
        self.words[member / 64] &= !(1 << (member % 64));
        self.count -= 1;
    }

    pub(crate) fn contains(&self, member: usize) -> bool {
        self.words[member / 64] & (1 << (member % 64)) != 0
    }

    /// How many members it has.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Appends the words from the first that lacks a member up to the last that has one, behind the first's
    /// number. `lowest_absent` is the lowest number that is not a member.
    fn write_window(&self, lowest_absent: usize, key: &mut Vec<u64>) {
        let first = lowest_absent / 64;
        let mut outstanding = self.count - first * 64;
        key.push(first as u64);
        for word in self.words.iter().skip(first) {
            if outstanding == 0 {
                break;
            }
            key.push(*word);
            outstanding -= word.count_ones() as usize;
        }
    }
}

/// A state's number in the memo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StateId(u32);

/// The configurations that were met, and each of their states once.
pub(crate) struct Memo<'m, M: Model> {
    model: &'m M,
    states: Vec<M::State>,
    ids: HashMap<M::State, StateId>,
    /// For each state with a set of answered operations the sets of others with which it was met, none of
    /// which contains another one.
    met: HashMap<Box<[u64]>, Vec<Box<[u64]>>>,
    /// The key that is looked up, to be used again.
    key: Vec<u64>,
    /// About how much memory all of it takes.
    bytes: usize,
}

impl<'m, M: Model> Memo<'m, M> {
    pub(crate) fn new(model: &'m M) -> Self {
        let (states, ids) = (Vec::new(), HashMap::new());
        Self { model, states, ids, met: HashMap::new(), key: Vec::new(), bytes: 0 }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn state(&self, id: StateId) -> &M::State {
        &self.states[id.0 as usize]
    }

    /// The state's number, a new one where it was not met yet.
    pub(crate) fn id_of(&mut self, state: M::State) -> StateId {
        if let Some(id) = self.ids.get(&state) {
            return *id;
        }
        let id = StateId(u32::try_from(self.states.len()).expect("the memory's bound is below 2^32 states"));
        self.bytes += 2 * ENTRY_BYTES + self.model.state_bytes(&state);
        self.states.push(state.clone());
        self.ids.insert(state, id);
        id
    }

    /// Notes a configuration; whether it is new. `lowest_absent` is the lowest operation not among
    /// `answered`.
    pub(crate) fn insert(
        &mut self,
        open: &Bits,
        answered: &Bits,
        lowest_absent: usize,
        state: StateId,
    ) -> bool {
        self.key.clear();
        self.key.push(u64::from(state.0));
        answered.write_window(lowest_absent, &mut self.key);
        let set_bytes = SET_BYTES + size_of_val(open.words.as_slice());
        let Some(sets) = self.met.get_mut(self.key.as_slice()) else {
            self.bytes += ENTRY_BYTES + size_of_val(self.key.as_slice()) + set_bytes;
            self.met.insert(self.key.as_slice().into(), vec![open.words.as_slice().into()]);
            return true;
        };
        if sets.iter().any(|set| is_subset(set, &open.words)) {
            return false;
        }
        self.bytes -= set_bytes * sets.len();
        sets.retain(|set| !is_subset(&open.words, set));
        sets.push(open.words.as_slice().into());
        self.bytes += set_bytes * sets.len();
        true
    }
}

fn is_subset(some: &[u64], all: &[u64]) -> bool {
    some.iter().zip(all).all(|(some, all)| some & !all == 0)
}
