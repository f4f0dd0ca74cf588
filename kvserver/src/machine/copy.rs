//! Copies of a machine made while it goes on working.
//!
//! Owns, for each copy under way, how far the first pass has come and which records changed behind it. The
//! state is an ordered set of places: for each shard its keys, then its sessions, then its tail (the events
//! and with them the revision). The first pass hands all of them out in order; a change ahead of it needs no
//! note, a change behind it makes its place dirty, and sweeps hand dirty places out again, round and round,
//! until none is left. Time is handed out at the start of every step in which it has changed.
//!
//! A dirty place remembers whether the loader holds its record. One that the loader does not hold and that is
//! gone again is forgotten, hence a place is dirty only if its record exists or was handed out: the memory of
//! a copy is bounded by the keys (not values) and sessions that exist or did when they were handed out,
//! however many come and go meanwhile. Events need no dirty places at all: a copy remembers for each shard the
//! revision up to which it has handed them out.

use super::piece::{Piece, RECORD_OVERHEAD_BYTES, StateRecord};
use super::session::Session;
use super::shard::{Entry, Shard};
use super::usage::Usage;
use proto::{ClientId, Revision, ShardId};
use raftstore::{CopyId, CopyStep};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Bound;

type Shards = BTreeMap<ShardId, Shard>;

/// Up to how many bytes the dirty records are summed one by one; beyond, what remains is a mere estimate above
/// this. Well more than raftstore copies in one hold of its lock, and few enough records to look up at every step.
const EXACT_BYTES_MAX: u64 = 1 << 20;

const _: () = assert!(EXACT_BYTES_MAX >= raftstore::COPY_LAST_BYTES);

/// A part of a shard's state, in the order of a copy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part<'a> {
    Key(Cow<'a, [u8]>),
    Session(ClientId),
    Tail,
}

/// Where a record belongs in the order of a copy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place<'a> {
    shard: ShardId,
    part: Part<'a>,
}

impl Place<'_> {
    fn into_owned(self) -> Place<'static> {
        let part = match self.part {
            Part::Key(key) => Part::Key(Cow::Owned(key.into_owned())),
            Part::Session(client) => Part::Session(client),
            Part::Tail => Part::Tail,
        };
        Place { shard: self.shard, part }
    }
}

/// The copies under way. Their number is bounded by whoever begins them.
#[derive(Debug, Default)]
pub(super) struct Copies {
    /// How many were ever begun; ids are never used again.
    begun: u64,
    running: BTreeMap<CopyId, Copy>,
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

    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// The next piece of copy `id`, out of the state as it is now.
    pub(super) fn step(&mut self, id: CopyId, time_ms: u64, shards: &Shards, bytes_max: usize) -> CopyStep {
        let copy = self.running.get_mut(&id).expect("a step is asked only of a copy that runs");
        copy.step(time_ms, shards, bytes_max)
    }

    /// Notes a change: whether its record existed before it, and whether it does now.
    pub(super) fn mark(&mut self, shard: ShardId, part: &Part<'_>, existed: bool, exists: bool) {
        for copy in self.running.values_mut() {
            copy.mark(&Place { shard, part: part.clone() }, existed, exists);
        }
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
struct Copy {
    reach: Reach,
    /// Bytes handed out by the first pass of the shard that it is in.
    reached_bytes: u64,
    /// Places that changed since they were handed out, none ahead of `reach`; `true` where the loader holds
    /// a record there, `false` only where the record exists.
    dirty: BTreeMap<Place<'static>, bool>,
    /// The place at which the present sweep stands, so that a hot place is not handed out again before the
    /// others had their turn.
    swept: Option<Place<'static>>,
    /// The revision up to which each shard's events were handed out.
    events: BTreeMap<ShardId, Revision>,
    /// The time that was handed out last.
    time_ms: Option<u64>,
}

impl Copy {
    fn mark(&mut self, place: &Place<'_>, existed: bool, exists: bool) {
        let passed = match &self.reach {
            Reach::Nothing => false,
            Reach::UpTo(reach) => place <= reach,
            Reach::Everything => true,
        };
        if !passed {
            return;
        }
        let dirty: &BTreeMap<Place<'_>, bool> = &self.dirty;
        match dirty.get(place) {
            // Behind the first pass and not dirty: the loader holds just what was here before the change.
            None => {
                if existed || exists {
                    self.dirty.insert(place.clone().into_owned(), existed);
                }
            }
            Some(true) => (),
            Some(false) => {
                if !exists {
                    self.dirty.remove(&place.clone().into_owned());
                }
            }
        }
    }

    fn step(&mut self, time_ms: u64, shards: &Shards, bytes_max: usize) -> CopyStep {
        let mut piece = Piece::new(bytes_max);
        if self.time_ms != Some(time_ms) {
            piece.push_time(time_ms);
            self.time_ms = Some(time_ms);
        }
        if self.first_pass(shards, &mut piece) {
            self.sweep(shards, &mut piece);
        }
        CopyStep { bytes: piece.into_bytes(), remaining: self.remaining(shards) }
    }

    /// Goes on with the first pass until the piece is full; says whether the pass is over.
    fn first_pass(&mut self, shards: &Shards, piece: &mut Piece) -> bool {
        let first = match &self.reach {
            Reach::Nothing => ShardId(0),
            Reach::UpTo(place) => place.shard,
            Reach::Everything => return true,
        };
        for (&id, shard) in shards.range(first..) {
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
        let (keys, sessions) = match &self.reach {
            Reach::UpTo(Place { shard, part }) if *shard == id => match part {
                Part::Key(key) => (Some(Bound::Excluded(key.to_vec())), Bound::Unbounded),
                Part::Session(client) => (None, Bound::Excluded(*client)),
                Part::Tail => return true,
            },
            _ => (Some(Bound::Unbounded), Bound::Unbounded),
        };
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
            self.dirty.remove(&place);
            self.swept = Some(place);
        }
        self.swept = None;
    }

    fn next_dirty(&self) -> Option<Place<'static>> {
        let ahead = self.swept.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.dirty.range((ahead, Bound::Unbounded)).next();
        next.or_else(|| self.dirty.first_key_value()).map(|(place, _)| place.clone())
    }

    /// Hands out what is at `place` now; says whether it fitted.
    fn hand_again(&mut self, place: &Place<'static>, shards: &Shards, piece: &mut Piece) -> bool {
        let id = place.shard;
        let shard = shards.get(&id).expect("only places of present shards are marked");
        let record = match &place.part {
            Part::Tail => return self.hand_tail(id, shard, piece),
            Part::Key(key) => match shard.data.get(&**key) {
                Some(entry) => key_record(id, key, entry),
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
            StateRecord::KeyGone { key, .. } => key.len(),
            _ => 0,
        };
        let fits = piece.has_room(length);
        if fits {
            piece.push(&record);
        }
        fits
    }

    /// About how many bytes are still to be handed out, 0 if and only if nothing is. Once the first pass is over,
    /// never less than there are, as long as they are at most [`EXACT_BYTES_MAX`].
    fn remaining(&self, shards: &Shards) -> u64 {
        let ahead = match &self.reach {
            Reach::Nothing => Bound::Unbounded,
            Reach::UpTo(Place { shard, part: Part::Tail }) => Bound::Excluded(*shard),
            Reach::UpTo(Place { shard, .. }) => Bound::Included(*shard),
            Reach::Everything if self.dirty.is_empty() => return 0,
            Reach::Everything => return self.dirty_bytes(shards),
        };
        let ahead = shards.range((ahead, Bound::Unbounded));
        let ahead: u64 = ahead.map(|(_, shard)| shard.usage.copy_bytes()).sum();
        (ahead.saturating_sub(self.reached_bytes) + self.dirty_bytes(shards)).max(1)
    }

    /// The sizes of the dirty records, as long as they are few; the average of all records says nothing of them
    /// where a few large ones are written all the time.
    fn dirty_bytes(&self, shards: &Shards) -> u64 {
        let mut bytes = RECORD_OVERHEAD_BYTES as u64 * self.dirty.len() as u64;
        let mut places = self.dirty.keys();
        while bytes <= EXACT_BYTES_MAX {
            let Some(place) = places.next() else { return bytes };
            bytes += self.payload_bytes(place, shards);
        }
        let mut total = Usage::default();
        shards.values().for_each(|shard| total.exchange(Usage::default(), shard.usage));
        bytes.max(total.record_bytes() * self.dirty.len() as u64)
    }

    /// What the records of a dirty place take beside the overhead of one record, in bytes.
    fn payload_bytes(&self, place: &Place<'_>, shards: &Shards) -> u64 {
        let shard = shards.get(&place.shard).expect("only places of present shards are marked");
        match &place.part {
            Part::Key(key) => {
                let value = shard.data.get(&**key).map_or(0, |entry| entry.value.len());
                (key.len() + value) as u64
            }
            Part::Session(client) => shard.sessions.get(client).map_or(0, Session::answer_bytes),
            Part::Tail => {
                let handed = self.events.get(&place.shard).copied().unwrap_or_default();
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
