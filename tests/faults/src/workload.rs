//! What clients ask for: a few dozen keys at a time, of which each is followed by a new one before its
//! history grows too long to be judged.

use crate::calls::{Caller, Reads};
use crate::journal::Journal;
use anyhow::Result;
use checker::{Answer, Event, Operation};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// How many keys are worked on at a time.
const SLOTS: usize = 24;

/// A key is followed by the next after so many operations, or so many of unknown outcome: these make judging
/// hard.
const OPERATIONS_MAX: u32 = 120;
const UNKNOWN_MAX: u32 = 10;

/// The times that calls are given, in milliseconds.
const DEADLINES_MS: [u64; 4] = [500, 2_000, 5_000, 10_000];

/// How long a client rests between two calls at most, in milliseconds.
const REST_MS_MAX: u64 = 40;

/// What the keys of appends begin with: nobody replaces or deletes those.
pub(crate) const LOGS: &str = "log";

/// The keys that are worked on, shared by all clients.
#[derive(Clone, Debug)]
pub(crate) struct Keys(Arc<Mutex<Vec<Slot>>>);

#[derive(Clone, Debug)]
struct Slot {
    number: usize,
    generation: u32,
    operations: u32,
    unknown: u32,
    /// The version that was heard of last, by whomever.
    version: u64,
}

impl Slot {
    /// One slot in three takes appends alone.
    fn is_log(&self) -> bool {
        self.number.is_multiple_of(3)
    }

    fn key(&self) -> String {
        let kind = if self.is_log() { LOGS } else { "register" };
        format!("{kind}/{:02}/{:05}", self.number, self.generation)
    }

    fn turn(&mut self) {
        *self = Self { number: self.number, generation: self.generation + 1, ..Self::first(self.number) };
    }

    fn first(number: usize) -> Self {
        Self { number, generation: 0, operations: 0, unknown: 0, version: 0 }
    }
}

impl Keys {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new((0..SLOTS).map(Slot::first).collect())))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Slot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A key to work on, as it is known now.
    fn draw(&self, chance: &mut StdRng) -> Slot {
        let mut slots = self.lock();
        let slot = &mut slots[chance.random_range(0..SLOTS)];
        if slot.operations >= OPERATIONS_MAX || slot.unknown >= UNKNOWN_MAX {
            slot.turn();
        }
        slot.operations += 1;
        slot.clone()
    }

    /// What came of an operation on the key that was drawn.
    fn learn(&self, drawn: &Slot, event: &Event) {
        let mut slots = self.lock();
        let slot = &mut slots[drawn.number];
        if slot.generation != drawn.generation {
            return;
        }
        match event {
            Event::Info => slot.unknown += 1,
            Event::Ok(Answer::Value { version, .. } | Answer::Written { version }) => {
                slot.version = version.unwrap_or(slot.version);
            }
            Event::Ok(Answer::Mismatch { actual }) => slot.version = actual.unwrap_or(slot.version),
            Event::Ok(Answer::Absent | Answer::Deleted { .. }) => slot.version = 0,
            Event::Ok(Answer::Items(_)) | Event::Fail | Event::Invoke(_) => {}
        }
    }
}

/// One client.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) process: u64,
    pub(crate) caller: Caller,
    pub(crate) reads: Reads,
    pub(crate) keys: Keys,
    pub(crate) journal: Journal,
    pub(crate) seed: u64,
}

impl Worker {
    /// Calls until `stop` says so.
    pub(crate) async fn work(mut self, stop: watch::Receiver<bool>) -> Result<()> {
        let mut chance = StdRng::seed_from_u64(self.seed);
        for count in 0_u64.. {
            if *stop.borrow() {
                break;
            }
            let slot = self.keys.draw(&mut chance);
            let operation = draw(&slot, format!("{}.{count},", self.process), &mut chance);
            let deadline = DEADLINES_MS[chance.random_range(0..DEADLINES_MS.len())];
            self.journal.invoke(self.process, operation.clone())?;
            let event = self
                .caller
                .call(&operation, self.reads, Duration::from_millis(deadline), &mut chance)
                .await?;
            self.keys.learn(&slot, &event);
            self.journal.complete(self.process, event)?;
            tokio::time::sleep(Duration::from_millis(chance.random_range(0..=REST_MS_MAX))).await;
        }
        Ok(())
    }
}

/// An operation for a key; whatever it writes, nobody else writes.
fn draw(slot: &Slot, value: String, chance: &mut StdRng) -> Operation {
    let key = slot.key();
    let of_a_hundred = chance.random_range(0..100);
    if slot.is_log() {
        return if of_a_hundred < 60 { Operation::append(key, value) } else { Operation::get(key) };
    }
    match of_a_hundred {
        0..40 => Operation::get(key),
        40..58 => Operation::put(key, value),
        58..68 => Operation::append(key, value),
        68..93 => Operation::compare_and_set(key, slot.version, value),
        _ => Operation::delete(key),
    }
}
