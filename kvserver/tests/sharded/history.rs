//! What clerks asked and were told, and whether it can have happened one after the other.
//!
//! Two judges look at every history: the checker, which searches for an order and knows nothing of this service; and
//! this module, which needs no search. Every answer tells the key's version, and no key is ever deleted: so versions
//! put the writes of a key in order, and a history is linearizable if and only if
//!
//! - the writes of a key have the versions 1, 2, 3 …: each took effect once, and nothing else did;
//! - a read shows the value that the writes up to its version make;
//! - whatever was answered before something else was asked stands before it in that order.

use crate::request::{Seen, What};
use checker::{Limits, Recorder, Ticket, Verdict};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::time::Instant;

#[derive(Clone)]
struct Event {
    clerk: u64,
    what: What,
    invoked: u64,
    completed: u64,
    seen: Seen,
}

impl Event {
    /// Its place among the events of its key: a read comes behind the write whose version it saw.
    fn place(&self) -> u64 {
        2 * self.seen.version + u64::from(self.what == What::Get)
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { clerk, what, invoked, completed, seen } = self;
        write!(f, "clerk {clerk}, {invoked}-{completed} ns: {what:?} at version {}", seen.version)?;
        seen.value.as_ref().map_or(Ok(()), |value| write!(f, " shows {value:?}"))
    }
}

/// A request under way. One that is dropped is a read that was given up, and claims nothing; writes are never given up.
pub(crate) struct Asked {
    clerk: u64,
    key: String,
    what: What,
    invoked: u64,
    ticket: Ticket,
}

/// See the module.
pub(crate) struct History {
    born: Instant,
    recorder: Recorder,
    events: Mutex<BTreeMap<String, Vec<Event>>>,
}

impl History {
    pub(crate) fn new() -> Self {
        let born = Instant::now();
        let recorder = Recorder::with_clock(move || nanoseconds_since(born));
        Self { born, recorder, events: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Vec<Event>>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a request before it is sent.
    pub(crate) fn invoke(&self, clerk: u64, key: &str, what: What) -> Asked {
        let ticket = self.recorder.invoke(clerk, what.operation(key));
        Asked { clerk, key: key.to_owned(), what, invoked: nanoseconds_since(self.born), ticket }
    }

    /// Notes its answer.
    pub(crate) fn complete(&self, asked: Asked, seen: Seen) {
        let Asked { clerk, key, what, invoked, ticket } = asked;
        ticket.ok(seen.answer(&what));
        let event = Event { clerk, what, invoked, completed: nanoseconds_since(self.born), seen };
        self.lock().entry(key).or_default().push(event);
    }

    /// The keys that were asked for.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    /// How many answers there are.
    pub(crate) fn len(&self) -> usize {
        self.lock().values().map(Vec::len).sum()
    }

    /// Holds all answers against each other. Nobody may be waiting for the answer to a write.
    pub(crate) fn check(&self) {
        for (key, events) in self.lock().iter() {
            if let Err(why) = check(events) {
                panic!("history of {key} is not linearizable: {why}");
            }
        }
        match checker::check(&self.recorder.history(), &Limits::default()) {
            Verdict::Linearizable => println!("{} answers are linearizable", self.len()),
            Verdict::NotLinearizable(failure) => panic!("{failure:?}"),
            Verdict::Unknown(exceeded) => panic!("{exceeded}"),
        }
    }
}

fn nanoseconds_since(born: Instant) -> u64 {
    born.elapsed().as_nanos() as u64
}

fn check(events: &[Event]) -> Result<(), String> {
    let values = values(events)?;
    for event in events.iter().filter(|event| event.what == What::Get) {
        let shown = values.get(event.seen.version as usize);
        if shown != Some(&event.seen.value) {
            return Err(format!("{event:?} shows what never was, the value then was {shown:?}"));
        }
    }
    let mut invoked: Vec<&Event> = events.iter().collect();
    invoked.sort_by_key(|event| event.invoked);
    let mut completed = invoked.clone();
    completed.sort_by_key(|event| event.completed);
    let mut completed = completed.into_iter().peekable();
    let mut last: Option<&Event> = None;
    for event in invoked {
        while let Some(earlier) = completed.next_if(|earlier| earlier.completed < event.invoked) {
            last = last.filter(|last| last.place() > earlier.place()).or(Some(earlier));
        }
        if let Some(last) = last.filter(|last| last.place() > event.place()) {
            return Err(format!("{event:?} goes back behind {last:?}"));
        }
    }
    Ok(())
}

/// The key's value at each version, from 0, by the writes that were answered.
fn values(events: &[Event]) -> Result<Vec<Option<String>>, String> {
    let mut writes: Vec<&Event> = events.iter().filter(|event| event.what != What::Get).collect();
    writes.sort_by_key(|event| event.seen.version);
    let mut values = vec![None];
    for (count, write) in writes.into_iter().enumerate() {
        if write.seen.version != count as u64 + 1 {
            return Err(format!("{write:?} is the write number {} of those that were answered", count + 1));
        }
        let before: &Option<String> = &values[count];
        let value = match &write.what {
            What::Append(value) => before.as_deref().unwrap_or_default().to_owned() + value,
            What::Put(value) => value.clone(),
            What::Get => unreachable!("a read is no write"),
        };
        values.push(Some(value));
    }
    Ok(values)
}

/// The order of one clerk's own appends follows from what is checked; this shows that the check is not blind: histories
/// with one fault each are refused, and for that fault.
#[test]
fn faulty_histories_are_refused() {
    let event = |clerk, what: What, (invoked, completed), version, value: Option<&str>| {
        let seen = Seen { version, value: value.map(str::to_owned) };
        Event { clerk, what, invoked, completed, seen }
    };
    let append = |value: &str| What::Append(value.to_owned());
    let good = [
        event(1, What::Get, (0, 1), 0, None),
        event(1, append("a"), (2, 5), 1, None),
        event(2, append("b"), (3, 6), 2, None),
        event(3, What::Get, (4, 7), 1, Some("a")),
        event(3, What::Get, (8, 9), 2, Some("ab")),
        event(1, What::Put("c".to_owned()), (10, 11), 3, None),
        event(2, What::Get, (12, 13), 3, Some("c")),
    ];
    assert_eq!(check(&good), Ok(()));
    type Fault = &'static dyn Fn(&mut [Event]);
    let faults: [(&str, Fault); 7] = [
        ("a doubled append", &|events| events[5].seen.version = 4),
        ("a lost append", &|events| events[2].seen.version = 1),
        ("a stale read", &|events| events[4].seen = Seen { version: 1, value: Some("a".to_owned()) }),
        ("a value that never was", &|events| events[4].seen.value = Some("ba".to_owned())),
        ("a read of the future", &|events| events[0].seen = Seen { version: 1, value: Some("a".to_owned()) }),
        ("a lost value", &|events| events[6].seen = Seen { version: 0, value: None }),
        ("a write before its time", &|events| (events[5].invoked, events[5].completed) = (0, 1)),
    ];
    for (what, fault) in faults {
        let mut events = good.clone();
        fault(&mut events);
        assert!(check(&events).is_err(), "{what} is found");
    }
}
