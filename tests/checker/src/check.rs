//! Holds a history of the store against what is promised of it, key by key: an object is linearizable where
//! each of its parts is (Herlihy and Wing, 1990).

use crate::register::{Access, Register, Reply, State};
use crate::search::search_until;
use crate::stopwatch::Stopwatch;
use crate::{Answer, Call, Core, End, History, Interval, Limits, Verdict};
use std::collections::BTreeMap;

/// What is wrong with a history: the first key, in the order of how much was asked of them, that has no
/// order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The key.
    pub key: Vec<u8>,
    /// How far one gets with it. Operations are named by their places in [`History::calls`]; a scan stands
    /// there for the item that it found of this key.
    pub core: Core<State>,
}

/// What a key's register was asked, with the places in [`History::calls`].
#[derive(Default)]
struct Part<'h> {
    calls: Vec<usize>,
    intervals: Vec<Interval<Access<'h>, Reply<'h>>>,
}

/// Whether `history` is one that the store may have: each key a register with versions, absent at the
/// beginning, whose operations took effect at one moment each between invocation and answer.
///
/// A scan is a weak read: each item was the key's value and version at some moment while the scan was under
/// way. Nothing is claimed of two items together, nor of keys that it did not list.
pub fn check(history: &History, limits: &Limits) -> Verdict<Failure> {
    let started = Stopwatch::start();
    let calls = history.calls();
    let mut parts: Vec<(&[u8], Part<'_>)> = parts(&calls).into_iter().collect();
    // The easy ones first, so that one hard key does not hide what is certain about another.
    parts.sort_by_key(|(_, part)| part.intervals.len());
    let mut unknown = None;
    for (key, mut part) in parts {
        let accesses =
            part.intervals.iter().map(|it| (it.operation, it.answered.as_ref().map(|(_, reply)| *reply)));
        let register = Register::of(accesses);
        for interval in &mut part.intervals {
            if interval.answered.is_none() {
                interval.operation = register.simplified(interval.operation);
            }
        }
        match search_until(&register, &part.intervals, limits, started) {
            Verdict::Linearizable => {}
            Verdict::Unknown(exceeded) => {
                unknown.get_or_insert(exceeded);
            }
            Verdict::NotLinearizable(core) => {
                let failure = Failure { key: key.to_vec(), core: renamed(core, &part.calls) };
                return Verdict::NotLinearizable(failure);
            }
        }
    }
    unknown.map_or(Verdict::Linearizable, Verdict::Unknown)
}

/// Each key's share of the calls.
fn parts<'h>(calls: &[Call<'h>]) -> BTreeMap<&'h [u8], Part<'h>> {
    let mut parts: BTreeMap<&[u8], Part<'_>> = BTreeMap::new();
    for (place, call) in calls.iter().enumerate() {
        for (key, interval) in intervals(call) {
            let part = parts.entry(key).or_default();
            part.calls.push(place);
            part.intervals.push(interval);
        }
    }
    parts
}

/// What a call says of the keys that it concerns. What had no effect and no answer, or would have had none,
/// says nothing.
fn intervals<'h>(call: &Call<'h>) -> Vec<(&'h [u8], Interval<Access<'h>, Reply<'h>>)> {
    let invoked = call.invoked as u64;
    let answered_at = call.completed.map_or(u64::MAX, |place| place as u64);
    let Some((key, operation)) = Access::of(call.operation) else {
        let End::Answered(Answer::Items(items)) = call.end else { return Vec::new() };
        let found = items.iter().map(|item| {
            let answered = Some((answered_at, Reply::Value(&item.value, item.version)));
            (&item.key[..], Interval { operation: Access::Get, invoked, answered })
        });
        return found.collect();
    };
    let answered = match call.end {
        End::Answered(answer) => Reply::of(answer).map(|reply| (answered_at, reply)),
        End::Failed => return Vec::new(),
        End::Unknown if call.operation.is_read() => return Vec::new(),
        End::Unknown => None,
    };
    vec![(key, Interval { operation, invoked, answered })]
}

/// The core with its operations named by their calls.
fn renamed(core: Core<State>, calls: &[usize]) -> Core<State> {
    let named = |places: Vec<usize>| places.into_iter().map(|place| calls[place]).collect();
    Core {
        prefix: named(core.prefix),
        stuck: calls[core.stuck],
        candidates: named(core.candidates),
        states: core.states,
    }
}
