//! The search for an order: Wing and Gong's, with Lowe's memo ("Testing and proving linearizable", 1993;
//! "Testing for linearizability", 2017), without recursion.
//!
//! A configuration is what was linearized so far and the state that it leads to. From it, every operation may
//! come next that was invoked before the first answer among those that are left. The search goes depth first,
//! and never twice into the same configuration. Four observations keep it narrow; none of them changes a
//! verdict:
//!
//! - A read that fits comes next at once, without alternatives: whatever order there is, it can be moved to
//!   the front of it. That holds for what is a read in every state; a write that happens to leave this state
//!   as it is may be needed later, in another.
//! - An operation of unknown outcome is open to the end of time and need not be linearized at all. So it
//!   comes after the answered ones in turn, never where it would not change the state, and all are done once
//!   the answered are.
//! - Of equal operations of unknown outcome the one that was invoked first comes first.
//! - What leads nowhere after some operations of unknown outcome leads nowhere after more of them (see
//!   `memo`).

use crate::memo::{Bits, Memo, StateId};
use crate::stopwatch::Stopwatch;
use crate::{Exceeded, Limits, Model, Verdict};
use std::time::Duration;

/// How many steps pass between two looks at the clock.
const STEPS_PER_LOOK: u32 = 256;

/// How many different states of a dead end are reported.
const STATES_MAX: usize = 16;

/// An operation with the time that it took. Times are places in one order of all events: an operation
/// precedes another where its answer stands before the other's invocation. At the same place invocations come
/// first, so that the two are concurrent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interval<O, A> {
    /// What was asked.
    pub operation: O,
    /// When.
    pub invoked: u64,
    /// The answer and when it came; `None` where the outcome is unknown: it may take effect at any later
    /// time, or never. What certainly had no effect does not belong into a history.
    pub answered: Option<(u64, A)>,
}

/// How far one gets with a history that is not linearizable. Operations are named by their place in what was
/// given to [`search`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Core<S> {
    /// An order that is right as far as it goes, and leaves out the fewest answered operations.
    pub prefix: Vec<usize>,
    /// The operation whose answer no such order gets past.
    pub stuck: usize,
    /// Operations that could come next by their times; a correct object would have answered each of them
    /// otherwise.
    pub candidates: Vec<usize>,
    /// The states that such orders lead to, at most 16 of them.
    pub states: Vec<S>,
}

/// Looks for an order of all answered operations, and any of the others, that `model` could have followed and
/// that puts no operation before one that had been answered when it was invoked.
pub fn search<M: Model>(
    model: &M,
    intervals: &[Interval<M::Operation, M::Answer>],
    limits: &Limits,
) -> Verdict<Core<M::State>> {
    search_until(model, intervals, limits, Stopwatch::start())
}

/// The same, where the limit of time began to run at `started`.
pub(crate) fn search_until<M: Model>(
    model: &M,
    intervals: &[Interval<M::Operation, M::Answer>],
    limits: &Limits,
    started: Stopwatch,
) -> Verdict<Core<M::State>> {
    Search::new(model, intervals).run(limits, started)
}

/// An operation to linearize, by its number among its like, in the order of invocations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    Answered(usize),
    Open(usize),
}

/// A step of the search.
struct Step {
    choice: Choice,
    /// The state before it.
    from: StateId,
    /// It is a read, so nothing else need be tried in its place.
    forced: bool,
}

/// Where to look for the next choice.
#[derive(Clone, Copy)]
enum Cursor {
    /// At a configuration that is new.
    Start,
    /// Behind a choice that led nowhere.
    After(Choice),
}

/// One search. Answered and open operations are numbered apart, each in the order of their invocations.
struct Search<'m, M: Model> {
    model: &'m M,
    intervals: &'m [Interval<M::Operation, M::Answer>],
    /// Places in `intervals`, by number.
    answered: Vec<usize>,
    open: Vec<usize>,
    /// For each open operation the one before it that asks the same.
    twins: Vec<Option<usize>>,
    events: Events,
    answered_done: Bits,
    open_done: Bits,
    memo: Memo<'m, M>,
    state: StateId,
    steps: Vec<Step>,
    farthest: Farthest,
}

/// The dead ends with the most answered operations.
struct Farthest {
    /// How many those are.
    answered: usize,
    prefix: Vec<Choice>,
    stuck: usize,
    candidates: Vec<usize>,
    states: Vec<StateId>,
}

impl<'m, M: Model> Search<'m, M> {
    fn new(model: &'m M, intervals: &'m [Interval<M::Operation, M::Answer>]) -> Self {
        let mut order: Vec<usize> = (0..intervals.len()).collect();
        order.sort_by_key(|&place| intervals[place].invoked);
        let (answered, open): (Vec<usize>, Vec<usize>) =
            order.into_iter().partition(|&place| intervals[place].answered.is_some());
        let twin = |number: usize| {
            let same = |&other: &usize| intervals[open[other]].operation == intervals[open[number]].operation;
            (0..number).rev().find(same)
        };
        let twins = (0..open.len()).map(twin).collect();
        let spans = answered.iter().map(|&place| {
            let interval = &intervals[place];
            let end = interval.answered.as_ref().map_or(u64::MAX, |(at, _)| *at);
            (interval.invoked, end)
        });
        let events = Events::of(&spans.collect::<Vec<_>>());
        let mut memo = Memo::new(model);
        let state = memo.id_of(model.initial());
        Self {
            model,
            intervals,
            events,
            answered_done: Bits::new(answered.len()),
            open_done: Bits::new(open.len()),
            answered,
            open,
            twins,
            memo,
            state,
            steps: Vec::new(),
            farthest: Farthest {
                answered: 0,
                prefix: Vec::new(),
                stuck: 0,
                candidates: Vec::new(),
                states: Vec::new(),
            },
        }
    }

    fn run(mut self, limits: &Limits, started: Stopwatch) -> Verdict<Core<M::State>> {
        let mut cursor = Cursor::Start;
        let mut until_look = 0;
        while self.answered_done.count() < self.answered.len() {
            if until_look == 0 {
                if let Some(exceeded) = self.exceeded(limits, started.elapsed()) {
                    return Verdict::Unknown(exceeded);
                }
                until_look = STEPS_PER_LOOK;
            }
            until_look -= 1;
            if self.advance(cursor) {
                cursor = Cursor::Start;
                continue;
            }
            match self.back() {
                Some(choice) => cursor = Cursor::After(choice),
                None => return Verdict::NotLinearizable(self.core()),
            }
        }
        Verdict::Linearizable
    }

    fn exceeded(&self, limits: &Limits, elapsed: Duration) -> Option<Exceeded> {
        if elapsed >= limits.time {
            Some(Exceeded::Time)
        } else if self.memo.bytes() > limits.memo_bytes {
            Some(Exceeded::Memory)
        } else {
            None
        }
    }

    /// Goes on into a configuration that was not met yet; whether there is one behind the cursor.
    fn advance(&mut self, cursor: Cursor) -> bool {
        let first_open = match cursor {
            Cursor::Start => {
                if let Some(number) = self.fitting_read() {
                    return self.take(Choice::Answered(number), self.state, true);
                }
                if self.advance_answered(self.events.first()) {
                    return true;
                }
                self.note_dead_end();
                0
            }
            Cursor::After(Choice::Answered(number)) => {
                if self.advance_answered(self.events.after_invocation(number)) {
                    return true;
                }
                0
            }
            Cursor::After(Choice::Open(number)) => number + 1,
        };
        self.advance_open(first_open)
    }

    /// A read that may come next.
    fn fitting_read(&self) -> Option<usize> {
        self.events.invocations(self.events.first()).find(|&number| {
            let place = self.answered[number];
            let interval = &self.intervals[place];
            let answer = interval.answered.as_ref().map(|(_, answer)| answer);
            answer.is_some_and(|answer| self.model.is_read(&interval.operation, answer))
                && self.step(place).is_some()
        })
    }

    /// Tries answered operations from `event` on.
    fn advance_answered(&mut self, event: usize) -> bool {
        let mut event = event;
        while let Some(number) = self.events.invocation(event) {
            // Whatever leads nowhere is put back, so the events behind it are the same afterwards.
            event = self.events.after_invocation(number);
            if let Some(next) = self.step(self.answered[number]) {
                let next = self.memo.id_of(next);
                if self.take(Choice::Answered(number), next, false) {
                    return true;
                }
            }
        }
        false
    }

    /// Tries operations of unknown outcome from `number` on.
    fn advance_open(&mut self, number: usize) -> bool {
        let Some(deadline) = self.events.first_answer() else { return false };
        for number in number..self.open.len() {
            let place = self.open[number];
            if self.intervals[place].invoked > deadline {
                break;
            }
            let twin_waits = self.twins[number].is_some_and(|twin| !self.open_done.contains(twin));
            if self.open_done.contains(number) || twin_waits {
                continue;
            }
            let Some(next) = self.step(place) else { continue };
            let next = self.memo.id_of(next);
            if next != self.state && self.take(Choice::Open(number), next, false) {
                return true;
            }
        }
        false
    }

    /// The state after the operation at `place` of what was given, with its own answer.
    fn step(&self, place: usize) -> Option<M::State> {
        let interval = &self.intervals[place];
        let answer = interval.answered.as_ref().map(|(_, answer)| answer);
        self.model.step(self.memo.state(self.state), &interval.operation, answer)
    }

    /// Linearizes `choice`, where that leads into a new configuration.
    fn take(&mut self, choice: Choice, next: StateId, forced: bool) -> bool {
        self.mark(choice);
        let lowest_absent = self.events.lowest().unwrap_or(self.answered.len());
        if !self.memo.insert(&self.open_done, &self.answered_done, lowest_absent, next) {
            self.unmark(choice);
            return false;
        }
        self.steps.push(Step { choice, from: self.state, forced });
        self.state = next;
        true
    }

    /// Takes back the last step that has alternatives; `None` where there is none left.
    fn back(&mut self) -> Option<Choice> {
        loop {
            let step = self.steps.pop()?;
            self.unmark(step.choice);
            self.state = step.from;
            if !step.forced {
                return Some(step.choice);
            }
        }
    }

    fn mark(&mut self, choice: Choice) {
        match choice {
            Choice::Answered(number) => {
                self.answered_done.insert(number);
                self.events.lift(number);
            }
            Choice::Open(number) => self.open_done.insert(number),
        }
    }

    fn unmark(&mut self, choice: Choice) {
        match choice {
            Choice::Answered(number) => {
                self.events.unlift(number);
                self.answered_done.remove(number);
            }
            Choice::Open(number) => self.open_done.remove(number),
        }
    }

    /// Remembers where the search stands, where no answered operation can come next, if it never got farther.
    fn note_dead_end(&mut self) {
        let done = self.answered_done.count();
        let farthest = &mut self.farthest;
        if done > farthest.answered || farthest.states.is_empty() {
            farthest.answered = done;
            farthest.prefix = self.steps.iter().map(|step| step.choice).collect();
            farthest.candidates = self.events.invocations(self.events.first()).collect();
            farthest.stuck = self.events.first_answered().expect("a dead end has something left to answer");
            farthest.states.clear();
        }
        let known = farthest.states.contains(&self.state);
        if done == farthest.answered && !known && farthest.states.len() < STATES_MAX {
            farthest.states.push(self.state);
        }
    }

    fn core(&self) -> Core<M::State> {
        let place = |choice: &Choice| match *choice {
            Choice::Answered(number) => self.answered[number],
            Choice::Open(number) => self.open[number],
        };
        let farthest = &self.farthest;
        Core {
            prefix: farthest.prefix.iter().map(place).collect(),
            stuck: self.answered[farthest.stuck],
            candidates: farthest.candidates.iter().map(|&number| self.answered[number]).collect(),
            states: farthest.states.iter().map(|&id| self.memo.state(id).clone()).collect(),
        }
    }
}

/// The invocations and answers of the answered operations that are left, in order: a doubly linked list, so
/// that an operation is taken out and put back in no time. Event `2n` is the invocation of operation `n`, `2n
/// + 1` its answer.
struct Events {
    /// The event behind each, and in the last place the first of all, which may be that place itself.
    next: Vec<usize>,
    /// The event before each.
    previous: Vec<usize>,
    /// The time of each.
    times: Vec<u64>,
}

impl Events {
    /// The events of operations that were invoked in this order.
    fn of(spans: &[(u64, u64)]) -> Self {
        let times: Vec<u64> = spans.iter().flat_map(|&(invoked, answered)| [invoked, answered]).collect();
        let mut order: Vec<usize> = (0..times.len()).collect();
        // Invocations first where times are equal, and in their own order.
        order.sort_by_key(|&event| (times[event], event % 2, event));
        let head = times.len();
        let (mut next, mut previous) = (vec![head; head + 1], vec![head; head + 1]);
        let mut last = head;
        for event in order {
            next[last] = event;
            previous[event] = last;
            last = event;
        }
        next[last] = head;
        previous[head] = last;
        Self { next, previous, times }
    }

    fn head(&self) -> usize {
        self.times.len()
    }

    /// The first event that is left, or the head.
    fn first(&self) -> usize {
        self.next[self.head()]
    }

    /// The operation that is invoked at `event`; `None` for an answer and for the head.
    fn invocation(&self, event: usize) -> Option<usize> {
        (event != self.head() && event.is_multiple_of(2)).then_some(event / 2)
    }

    /// The event behind an invocation that is left.
    fn after_invocation(&self, number: usize) -> usize {
        self.next[2 * number]
    }

    /// The operations invoked from `event` on, before the next answer.
    fn invocations(&self, event: usize) -> impl Iterator<Item = usize> + '_ {
        std::iter::successors(self.invocation(event), |&number| {
            self.invocation(self.after_invocation(number))
        })
    }

    /// The operation whose answer is the first that is left.
    fn first_answered(&self) -> Option<usize> {
        let last = self.invocations(self.first()).last()?;
        Some(self.after_invocation(last) / 2)
    }

    /// The time of the first answer that is left.
    fn first_answer(&self) -> Option<u64> {
        self.first_answered().map(|number| self.times[2 * number + 1])
    }

    /// The lowest operation that is left: what comes first is its invocation, for answers follow theirs.
    fn lowest(&self) -> Option<usize> {
        self.invocation(self.first())
    }

    /// Takes an operation out.
    fn lift(&mut self, number: usize) {
        for event in [2 * number, 2 * number + 1] {
            let (before, behind) = (self.previous[event], self.next[event]);
            self.next[before] = behind;
            self.previous[behind] = before;
        }
    }

    /// Puts the operation that was taken out last back.
    fn unlift(&mut self, number: usize) {
        for event in [2 * number + 1, 2 * number] {
            let (before, behind) = (self.previous[event], self.next[event]);
            self.next[before] = event;
            self.previous[behind] = event;
        }
    }
}
