//! Copies of a machine, or of one of its shards, made while it goes on working.
//!
//! Owns, for each copy under way, how far the first pass has come and which records changed behind it. The
//! state is an ordered set of places: for each shard its state, then its keys, then its sessions, then its
//! tail (the events and with them the revision). The first pass hands all of them out in order; a change
//! ahead of it needs no note, a change behind it makes its place dirty, and sweeps hand dirty places out
//! again, round and round, until none is left. Time is handed out at the start of every step in which it has
//! changed.
//!
//! A dirty place remembers whether the loader holds its record. One that the loader does not hold and that is
//! gone again is forgotten, hence a place is dirty only if its record exists or was handed out: the memory of
//! a copy is bounded by the keys (not values) and sessions that exist or did when they were handed out,
//! however many come and go meanwhile. Events need no dirty places at all: a copy remembers for each shard
//! the revision up to which it has handed them out. A shard that is emptied at once needs none either: one
//! record tells the loader to do the same, before anything else of that shard is handed out.
//!
//! What changes in a shard that is exported is noted by every replica from the same place of the log on,
//! whether it hands a copy out or not: one that takes over hands out what lies ahead of what the loader
//! holds, and what was noted behind it. It cannot know which of these places the loader holds, so it tells it
//! of keys that are absent whether or not the loader ever had them.
//!
//! A copy of one shard is the same without the shard's state, which is the group's and stays, and with the
//! time in every piece: whoever takes it in lives by another clock. It ends when its shard is emptied.

use super::bounds::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use super::piece::{Piece, RECORD_OVERHEAD_BYTES, StateRecord};
use super::session::Session;
use super::shard::{Entry, Shard};
use super::shard_copy::{EXPORT_BYTES_MAX, EXPORT_PLACE_BYTES, Held};
use super::usage::Usage;
use proto::{ClientId, CopyToken, Epoch, Revision, ShardId};
use raftstore::{CopyId, CopyStep};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

type Shards = BTreeMap<ShardId, Shard>;

/// Up to how many bytes the dirty records are summed one by one, once the first pass is over; beyond, what
/// remains is a mere estimate above this. As much as raftstore copies in one hold of its lock, and no more:
/// all of them are looked up at every step.
const EXACT_BYTES_MAX: u64 = raftstore::COPY_LAST_BYTES;

/// A key with the longest value must travel in one piece: a copy that is refused stops every replica.
const _: () =
    assert!(KEY_BYTES_MAX + VALUE_BYTES_MAX + 2 * RECORD_OVERHEAD_BYTES <= raftstore::PIECE_BYTES_MAX);

/// A part of a shard's state, in the order of a copy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part<'a> {
    State,
    Key(Cow<'a, [u8]>),
    Session(ClientId),
    Tail,
}

impl Part<'_> {
    fn into_owned(self) -> Part<'static> {
        match self {
            Part::State => Part::State,
            Part::Key(key) => Part::Key(Cow::Owned(key.into_owned())),
            Part::Session(client) => Part::Session(client),
            Part::Tail => Part::Tail,
        }
    }
}

/// Where a record belongs in the order of a copy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place<'a> {
    shard: ShardId,
    part: Part<'a>,
}

/// The dirty parts of one shard, at least one: `true` where the loader holds a record there, `false` only
/// where the record exists.
pub(super) type Dirty = BTreeMap<Part<'static>, bool>;

/// The copies under way. Their number is bounded by whoever begins them.
#[derive(Debug, Default)]
pub(super) struct Copies {
    /// How many were ever begun of the whole machine; ids are never used again.
    begun: u64,
    running: BTreeMap<CopyId, Copy>,
    /// Copies of one shard each. Their steps change nothing but themselves, so they are made through shared
    /// references.
    of_shards: Mutex<BTreeMap<CopyToken, Copy>>,
    /// What changed in each shard since it was exported. No part of the state that replicas agree on: one
    /// that was loaded meanwhile has none.
    exports: Mutex<BTreeMap<ShardId, Export>>,
}

/// What changed in a shard since it was exported.
#[derive(Debug)]
struct Export {
    epoch: Epoch,
    copy: CopyToken,
    /// As the dirty places of a copy that has handed out everything. The tail is not among them.
    places: Dirty,
    /// About how many bytes they take.
    bytes: usize,
}

impl Export {
    /// Its places, to look up one that is borrowed.
    fn noted(&self) -> &BTreeMap<Part<'_>, bool> {
        &self.places
    }
}

impl Copies {
    pub(super) fn begin(&mut self) -> CopyId {
        self.begun += 1;
        let id = CopyId(self.begun);
        self.running.insert(id, Copy::default());
        id
    }

    pub(super) fn end(&mut self, id: CopyId) {
        self.running.remove(&id);
    }

    pub(super) fn is_empty(&mut self) -> bool {
        self.running.is_empty() && self.of_shards.get_mut().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// The next piece of copy `id`, out of the state as it is now.
    pub(super) fn step(&mut self, id: CopyId, time_ms: u64, shards: &Shards, bytes_max: usize) -> CopyStep {
        let copy = self.running.get_mut(&id).expect("a step is asked only of a copy that runs");
        copy.step(time_ms, shards, bytes_max)
    }

    /// The copies of single shards.
    pub(super) fn of_shards(&self) -> MutexGuard<'_, BTreeMap<CopyToken, Copy>> {
        self.of_shards.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a change: whether its record existed before it, and whether it does now.
    pub(super) fn mark(&mut self, shard: ShardId, part: &Part<'_>, existed: bool, exists: bool) {
        let of_shards = self.of_shards.get_mut().unwrap_or_else(PoisonError::into_inner);
        for copy in self.running.values_mut().chain(of_shards.values_mut()) {
            copy.mark(shard, part, existed, exists);
        }
        self.note(shard, part);
    }

    /// Notes a change for whoever may take a copy over. Where too much has changed, nobody can any more.
    fn note(&mut self, shard: ShardId, part: &Part<'_>) {
        let exports = self.exports.get_mut().unwrap_or_else(PoisonError::into_inner);
        let Some(export) = exports.get_mut(&shard) else { return };
        if matches!(part, Part::State | Part::Tail) || export.noted().contains_key(part) {
            return;
        }
        let key_bytes = if let Part::Key(key) = part { key.len() } else { 0 };
        export.bytes += key_bytes + EXPORT_PLACE_BYTES;
        export.places.insert(part.clone().into_owned(), true);
        if export.bytes > EXPORT_BYTES_MAX {
            // Freed at once: it is bounded.
            exports.remove(&shard);
        }
    }

    /// Notes from now on what changes in a shard; gives back what was noted before.
    pub(super) fn export(&mut self, shard: ShardId, epoch: Epoch, copy: CopyToken) -> Option<Dirty> {
        let exports = self.exports.get_mut().unwrap_or_else(PoisonError::into_inner);
        // Two steps of one entry of the log: the earlier one has noted more.
        if exports.get(&shard).is_some_and(|export| export.copy == copy) {
            return None;
        }
        let export = Export { epoch, copy, places: Dirty::new(), bytes: 0 };
        exports.insert(shard, export).map(|export| export.places)
    }

    /// Notes nothing more of a shard for a move up to `epoch`; gives back what was noted.
    pub(super) fn export_end(&self, shard: ShardId, epoch: Epoch) -> Option<Dirty> {
        let mut exports = self.exports.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = exports.get(&shard).is_some_and(|export| export.epoch <= epoch);
        if ended { exports.remove(&shard).map(|export| export.places) } else { None }
    }

    /// The shards that are exported, the moves, and the copies.
    pub(super) fn exports(&self) -> Vec<(ShardId, Epoch, CopyToken)> {
        let exports = self.exports.lock().unwrap_or_else(PoisonError::into_inner);
        exports.iter().map(|(shard, export)| (*shard, export.epoch, export.copy)).collect()
    }

    /// A copy that goes on behind what its loader holds, where all that has changed since its beginning was
    /// noted.
    pub(super) fn resumed(&self, shard: ShardId, copy: CopyToken, held: &Held) -> Option<Copy> {
        let exports = self.exports.lock().unwrap_or_else(PoisonError::into_inner);
        let export = exports.get(&shard).filter(|export| export.copy == copy)?;
        let last = match (&held.session, &held.key) {
            (Some(client), _) => Some(Part::Session(*client)),
            (None, Some(key)) => Some(Part::Key(Cow::Owned(key.clone()))),
            (None, None) => None,
        };
        let mut resumed = Copy::of(shard);
        if let Some(last) = last {
            let places: Dirty =
                export.places.range(..=last.clone()).map(|(part, held)| (part.clone(), *held)).collect();
            if !places.is_empty() {
                resumed.dirty.insert(shard, places);
            }
            resumed.reach = Reach::UpTo(Place { shard, part: last });
        }
        resumed.reached_bytes = held.bytes;
        resumed.resumed = true;
        resumed.events.insert(shard, held.revision);
        Some(resumed)
    }

    /// Notes that a shard has been emptied at once; gives back what is now known for nothing, and may take a
    /// while to free.
    pub(super) fn clear(&mut self, shard: ShardId) -> Vec<Dirty> {
        let of_shards = self.of_shards.get_mut().unwrap_or_else(PoisonError::into_inner);
        let ended = of_shards.extract_if(.., |_, copy| copy.only == Some(shard));
        let mut places: Vec<Dirty> = ended.flat_map(|(_, copy)| copy.dirty.into_values()).collect();
        places.extend(self.running.values_mut().filter_map(|copy| copy.clear(shard)));
        let exports = self.exports.get_mut().unwrap_or_else(PoisonError::into_inner);
        places.extend(exports.remove(&shard).map(|export| export.places));
        places
    }
}

/// How far the first pass has come.
#[derive(Debug, Default)]
enum Reach {
    #[default]
    Nothing,
    /// All places up to this one, inclusive.
    UpTo(Place<'static>),
    Everything,
}

#[derive(Debug, Default)]
pub(super) struct Copy {
    /// The one shard that is copied; `None` for the whole machine.
    only: Option<ShardId>,
    reach: Reach,
    /// Bytes handed out by the first pass of the shard that it is in.
    reached_bytes: u64,
    /// Shards that were emptied since something of them was handed out, of which the loader is still to hear.
    cleared: BTreeSet<ShardId>,
    /// Places that changed since they were handed out, none ahead of `reach`.
    dirty: BTreeMap<ShardId, Dirty>,
    /// The place at which the present sweep stands, so that a hot place is not handed out again before the
    /// others had their turn.
    swept: Option<Place<'static>>,
    /// The revision up to which each shard's events were handed out.
    events: BTreeMap<ShardId, Revision>,
    /// The time that was handed out last.
    time_ms: Option<u64>,
    /// Whether another replica has begun it, so that a dirty place says nothing of what the loader holds
    /// there.
    resumed: bool,
}

impl Copy {
    /// A copy of one shard.
    pub(super) fn of(shard: ShardId) -> Self {
        Self { only: Some(shard), ..Self::default() }
    }

    /// The one shard that is copied.
    pub(super) fn shard(&self) -> Option<ShardId> {
        self.only
    }

    /// Whether the first pass has handed out what was at this place, or knew that nothing was.
    fn has_passed(&self, shard: ShardId, part: &Part<'_>) -> bool {
        match &self.reach {
            Reach::Nothing => false,
            Reach::UpTo(reach) => (shard, part) <= (reach.shard, &reach.part),
            Reach::Everything => true,
        }
    }

    fn mark(&mut self, shard: ShardId, part: &Part<'_>, existed: bool, exists: bool) {
        if self.only.is_some_and(|only| only != shard || *part == Part::State)
            || !self.has_passed(shard, part)
        {
            return;
        }
        let dirty: Option<&BTreeMap<Part<'_>, bool>> = self.dirty.get(&shard);
        match dirty.and_then(|dirty| dirty.get(part)) {
            // Behind the first pass and not dirty: the loader holds just what was here before the change.
            None => {
                if existed || exists {
                    self.dirty.entry(shard).or_default().insert(part.clone().into_owned(), existed);
                }
            }
            Some(true) => (),
            Some(false) => {
                if !exists {
                    self.clean(shard, &part.clone().into_owned());
                }
            }
        }
    }

    /// Forgets that a place is dirty.
    fn clean(&mut self, shard: ShardId, part: &Part<'static>) {
        if let Some(dirty) = self.dirty.get_mut(&shard) {
            dirty.remove(part);
            if dirty.is_empty() {
                self.dirty.remove(&shard);
            }
        }
    }

    /// Of a shard that is emptied, the loader is to forget all; gives back the places that were dirty.
    fn clear(&mut self, shard: ShardId) -> Option<Dirty> {
        if !self.has_passed(shard, &Part::State) {
            return None;
        }
        if matches!(&self.reach, Reach::UpTo(reach) if reach.shard == shard) {
            self.reached_bytes = 0;
        }
        let places = self.dirty.remove(&shard);
        let is_new = places.as_ref().is_some_and(|places| places.get(&Part::State) == Some(&false));
        if !is_new {
            self.cleared.insert(shard);
        }
        self.events.remove(&shard);
        self.mark(shard, &Part::State, !is_new, true);
        self.mark(shard, &Part::Tail, !is_new, true);
        places
    }

    pub(super) fn step(&mut self, time_ms: u64, shards: &Shards, bytes_max: usize) -> CopyStep {
        let mut piece = Piece::new(bytes_max);
        if self.time_ms != Some(time_ms) || self.only.is_some() {
            piece.push_time(time_ms);
            self.time_ms = Some(time_ms);
        }
        if self.hand_cleared(&mut piece) && self.first_pass(shards, &mut piece) {
            self.sweep(shards, &mut piece);
        }
        // Time is no part of a shard.
        let bytes = if self.only.is_some() && !piece.has_begun() { Vec::new() } else { piece.into_bytes() };
        CopyStep { bytes, remaining: self.remaining(shards) }
    }

    /// Tells of shards that were emptied; says whether all are told of.
    fn hand_cleared(&mut self, piece: &mut Piece) -> bool {
        while let Some(&shard) = self.cleared.first() {
            if !piece.has_room(0) {
                return false;
            }
            piece.push(&StateRecord::Cleared { shard });
            self.cleared.remove(&shard);
        }
        true
    }

    /// The first and the last shard that are copied.
    fn bounds(&self) -> (ShardId, ShardId) {
        (self.only.unwrap_or(ShardId(0)), self.only.unwrap_or(ShardId(u32::MAX)))
    }

    /// Goes on with the first pass until the piece is full; says whether the pass is over.
    fn first_pass(&mut self, shards: &Shards, piece: &mut Piece) -> bool {
        let (least, last) = self.bounds();
        let first = match &self.reach {
            Reach::Nothing => least,
            Reach::UpTo(place) => place.shard,
            Reach::Everything => return true,
        };
        for (&id, shard) in shards.range(first..=last) {
            let before = piece.len();
            let done = self.first_pass_shard(id, shard, piece);
            self.reached_bytes += (piece.len() - before) as u64;
            if !done {
                return false;
            }
            self.reached_bytes = 0;
        }
        self.reach = Reach::Everything;
        true
    }

    /// Hands out what of shard `id` lies ahead; says whether nothing of it is left.
    fn first_pass_shard(&mut self, id: ShardId, shard: &Shard, piece: &mut Piece) -> bool {
        let reached = match &self.reach {
            Reach::UpTo(place) if place.shard == id => Some(&place.part),
            _ => None,
        };
        let (keys, sessions) = match reached {
            None | Some(Part::State) => (Some(Bound::Unbounded), Bound::Unbounded),
            Some(Part::Key(key)) => (Some(Bound::Excluded(key.to_vec())), Bound::Unbounded),
            Some(Part::Session(client)) => (None, Bound::Excluded(*client)),
            Some(Part::Tail) => return true,
        };
        if reached.is_none() && self.only.is_none() {
            if !piece.has_room(0) {
                return false;
            }
            piece.push(&StateRecord::State { shard: id, state: shard.state });
            self.reach_to(id, Some(Part::State));
        }
        if let Some(from) = keys {
            let from = from.as_ref().map(Vec::as_slice);
            let (last, done) = hand_keys(id, shard, from, piece);
            self.reach_to(id, last.map(|key| Part::Key(Cow::Owned(key.to_vec()))));
            if !done {
                return false;
            }
        }
        let (last, done) = hand_sessions(id, shard, sessions, piece);
        self.reach_to(id, last.map(Part::Session));
        if !done || !self.hand_tail(id, shard, piece) {
            return false;
        }
        self.reach_to(id, Some(Part::Tail));
        true
    }

    fn reach_to(&mut self, shard: ShardId, part: Option<Part<'static>>) {
        if let Some(part) = part {
            self.reach = Reach::UpTo(Place { shard, part });
        }
    }

    /// Hands out the shard's events that were not yet, then their end; says whether the end is reached.
    fn hand_tail(&mut self, id: ShardId, shard: &Shard, piece: &mut Piece) -> bool {
        let handed = self.events.entry(id).or_default();
        for event in shard.events.after(*handed) {
            if !piece.has_room(event.key.len()) {
                return false;
            }
            let (revision, change, key) = (event.revision, event.change, event.key);
            piece.push(&StateRecord::Event { shard: id, revision, change, key });
            *handed = revision;
        }
        if !piece.has_room(0) {
            return false;
        }
        let (floor, revision) = (shard.events.floor(), shard.events.revision());
        piece.push(&StateRecord::Tail { shard: id, floor, revision });
        true
    }

    /// Hands out dirty places, each once before any again, until none is left or the piece is full.
    fn sweep(&mut self, shards: &Shards, piece: &mut Piece) {
        while let Some(place) = self.next_dirty() {
            if !self.hand_again(&place, shards, piece) {
                return;
            }
            self.clean(place.shard, &place.part);
            self.swept = Some(place);
        }
        self.swept = None;
    }

    /// The first dirty place behind the last one that was swept, or else of all. Within a shard that the
    /// loader does not know its state is the first, and no place of it was swept before.
    fn next_dirty(&self) -> Option<Place<'static>> {
        let ahead = self.swept.as_ref().and_then(|swept| {
            let rest = self.dirty.get(&swept.shard);
            let rest =
                rest.and_then(|rest| rest.range((Bound::Excluded(&swept.part), Bound::Unbounded)).next());
            let of = |shard: ShardId, part: &Part<'static>| Place { shard, part: part.clone() };
            rest.map(|(part, _)| of(swept.shard, part)).or_else(|| {
                let mut beyond = self.dirty.range((Bound::Excluded(swept.shard), Bound::Unbounded));
                beyond.find_map(|(&shard, dirty)| dirty.keys().next().map(|part| of(shard, part)))
            })
        });
        ahead.or_else(|| {
            let (&shard, dirty) = self.dirty.first_key_value()?;
            dirty.keys().next().map(|part| Place { shard, part: part.clone() })
        })
    }

    /// Hands out what is at `place` now; says whether it fitted.
    fn hand_again(&mut self, place: &Place<'static>, shards: &Shards, piece: &mut Piece) -> bool {
        let id = place.shard;
        let shard = shards.get(&id).expect("only places of present shards are marked");
        let record = match &place.part {
            Part::State => StateRecord::State { shard: id, state: shard.state },
            Part::Tail => return self.hand_tail(id, shard, piece),
            Part::Key(key) => match shard.data.get(&**key) {
                Some(entry) => key_record(id, key, entry),
                None if self.resumed => StateRecord::KeyAbsent { shard: id, key },
                None => StateRecord::KeyGone { shard: id, key },
            },
            Part::Session(client) => match shard.sessions.get(client) {
                Some(_) => {
                    let only = Bound::Included(*client);
                    return hand_sessions_between(id, shard, (only, only), piece).1;
                }
                None => StateRecord::SessionGone { shard: id, client: *client },
            },
        };
        let length = match &record {
            StateRecord::Key { key, value, .. } => key.len() + value.len(),
            StateRecord::KeyGone { key, .. } | StateRecord::KeyAbsent { key, .. } => key.len(),
            _ => 0,
        };
        let fits = piece.has_room(length);
        if fits {
            piece.push(&record);
        }
        fits
    }

    /// About how many bytes are still to be handed out, 0 if and only if nothing is. Once the first pass is
    /// over, never less than there are, as long as they are at most [`EXACT_BYTES_MAX`].
    fn remaining(&self, shards: &Shards) -> u64 {
        let (least, last) = self.bounds();
        let again = self.dirty_bytes(shards) + (self.cleared.len() * RECORD_OVERHEAD_BYTES) as u64;
        let ahead = match &self.reach {
            Reach::Nothing => Bound::Included(least),
            Reach::UpTo(Place { shard, part: Part::Tail }) => Bound::Excluded(*shard),
            Reach::UpTo(Place { shard, .. }) => Bound::Included(*shard),
            Reach::Everything => return again,
        };
        let ahead = shards.range((ahead, Bound::Included(last)));
        let ahead: u64 = ahead.map(|(_, shard)| shard.usage.copy_bytes()).sum();
        (ahead.saturating_sub(self.reached_bytes) + again).max(1)
    }

    /// The sizes of the dirty records, as long as they are few and nothing else is left; the average of all
    /// records says nothing of them where a few large ones are written all the time.
    fn dirty_bytes(&self, shards: &Shards) -> u64 {
        let count: usize = self.dirty.values().map(BTreeMap::len).sum();
        let mut bytes = (RECORD_OVERHEAD_BYTES * count) as u64;
        let mut places = self.dirty.iter().flat_map(|(&id, dirty)| dirty.keys().map(move |part| (id, part)));
        while bytes <= EXACT_BYTES_MAX && matches!(self.reach, Reach::Everything) {
            let Some((id, part)) = places.next() else { return bytes };
            bytes += self.payload_bytes(id, part, shards);
        }
        let mut total = Usage::default();
        shards.values().for_each(|shard| total.exchange(Usage::default(), shard.usage));
        bytes.max(total.record_bytes() * count as u64)
    }

    /// What the records of a dirty place take beside the overhead of one record, in bytes.
    fn payload_bytes(&self, id: ShardId, part: &Part<'_>, shards: &Shards) -> u64 {
        let shard = shards.get(&id).expect("only places of present shards are marked");
        match part {
            Part::State => 0,
            Part::Key(key) => {
                let value = shard.data.get(&**key).map_or(0, |entry| entry.value.len());
                (key.len() + value) as u64
            }
            Part::Session(client) => shard.sessions.get(client).map_or(0, Session::answer_bytes),
            Part::Tail => {
                let handed = self.events.get(&id).copied().unwrap_or_default();
                let events = shard.events.after(handed);
                events.map(|event| (event.key.len() + RECORD_OVERHEAD_BYTES) as u64).sum()
            }
        }
    }
}

/// Hands out keys in order; the last one handed out, and whether none is left.
fn hand_keys<'a>(
    id: ShardId,
    shard: &'a Shard,
    from: Bound<&[u8]>,
    piece: &mut Piece,
) -> (Option<&'a [u8]>, bool) {
    let mut last = None;
    for (key, entry) in shard.data.range::<[u8], _>((from, Bound::Unbounded)) {
        if !piece.has_room(key.len() + entry.value.len()) {
            return (last, false);
        }
        piece.push(&key_record(id, key, entry));
        last = Some(&**key);
    }
    (last, true)
}

/// Hands out sessions in order; the last one handed out, and whether none is left.
fn hand_sessions(
    id: ShardId,
    shard: &Shard,
    from: Bound<ClientId>,
    piece: &mut Piece,
) -> (Option<ClientId>, bool) {
    hand_sessions_between(id, shard, (from, Bound::Unbounded), piece)
}

fn hand_sessions_between(
    id: ShardId,
    shard: &Shard,
    bounds: (Bound<ClientId>, Bound<ClientId>),
    piece: &mut Piece,
) -> (Option<ClientId>, bool) {
    let mut last = None;
    for (&client, session) in shard.sessions.range(bounds) {
        let answers = session.encode_answers();
        if !piece.has_room(answers.len()) {
            return (last, false);
        }
        let (lowest, active_s) = (session.lowest(), session.active_s());
        piece.push(&StateRecord::Session { shard: id, client, lowest, active_s, answers: &answers });
        last = Some(client);
    }
    (last, true)
}

/// The record of a key that is present.
pub(super) fn key_record<'a>(shard: ShardId, key: &'a [u8], entry: &'a Entry) -> StateRecord<'a> {
    let Entry { value, version, created, modified } = entry;
    StateRecord::Key { shard, key, value, version: *version, created: *created, modified: *modified }
}
