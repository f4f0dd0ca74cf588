//! The search is held against another judge that knows none of its shortcuts: it tries every order, and every
//! choice of the operations of unknown outcome, with a register of its own.

mod rng;

use checker::{Answer, Call, End, Entry, Event, History, Limits, Operation, Verdict, check};
use rng::Rng;

/// Whether some order of the calls is right: the slow judge.
fn has_an_order(calls: &[Call<'_>]) -> bool {
    let mut left: Vec<&Call<'_>> = calls.iter().filter(|call| call.end != End::Failed).collect();
    any_order(&mut left, &None)
}

/// What a key holds: a value and how often it was changed since it was created.
type Held = Option<(Vec<u8>, u64)>;

/// Whether `left` can be put into an order behind `held`, without those of unknown outcome that nobody needs.
fn any_order(left: &mut Vec<&Call<'_>>, held: &Held) -> bool {
    if left.iter().all(|call| call.end == End::Unknown) {
        return true;
    }
    for place in 0..left.len() {
        let call = left[place];
        let is_late = left.iter().any(|other| {
            other.end != End::Unknown && other.completed.is_some_and(|completed| completed < call.invoked)
        });
        if is_late {
            continue;
        }
        let (answer, next) = execute(call.operation, held);
        let right = match call.end {
            End::Answered(given) => agrees(given, &answer),
            End::Unknown => true,
            End::Failed => false,
        };
        if right {
            left.remove(place);
            let found = any_order(left, &next);
            left.insert(place, call);
            if found {
                return true;
            }
        }
    }
    false
}

/// A register, written down once more: the full answer and what is held afterwards.
fn execute(operation: &Operation, held: &Held) -> (Answer, Held) {
    let at = held.as_ref().map_or(0, |(_, version)| *version);
    let write = |value: Vec<u8>| (Answer::written(at + 1), Some((value, at + 1)));
    match operation {
        Operation::Get { .. } => match held {
            None => (Answer::Absent, None),
            Some((value, version)) => (Answer::value(value, *version), held.clone()),
        },
        Operation::Put { value, .. } => write(value.clone()),
        Operation::Append { value, .. } => {
            let mut longer = held.as_ref().map_or(Vec::new(), |(value, _)| value.clone());
            longer.extend(value);
            write(longer)
        }
        Operation::CompareAndSet { expect, value, .. } if *expect == at => write(value.clone()),
        Operation::CompareAndSet { .. } => (Answer::mismatch(at), held.clone()),
        Operation::Delete { .. } => (Answer::deleted(held.is_some()), None),
        Operation::Scan { .. } => panic!("one key is not scanned"),
    }
}

/// Whether the answer `given` says nothing else than the full one.
fn agrees(given: &Answer, full: &Answer) -> bool {
    let said = |given: &Option<u64>, full: &Option<u64>| given.is_none() || given == full;
    match (given, full) {
        (Answer::Value { value: a, version: given }, Answer::Value { value: b, version: full }) => {
            a == b && said(given, full)
        }
        (Answer::Written { version: given }, Answer::Written { version: full })
        | (Answer::Mismatch { actual: given }, Answer::Mismatch { actual: full }) => said(given, full),
        (Answer::Deleted { found: given }, Answer::Deleted { found: full }) => {
            given.is_none() || given == full
        }
        _ => given == full,
    }
}

/// What a random history is made of.
#[derive(Clone, Copy, Debug)]
struct Mix {
    calls: u64,
    /// Of a hundred writes, how many have an unknown outcome.
    unknown: u64,
    /// Of a hundred answers, how many say no version.
    silent: u64,
    /// How many different operations there are to draw from: gets, then appends, then the others.
    kinds: u64,
    /// How far apart operations are, at the most; the farther, the fewer are concurrent.
    spread: u64,
    /// Whether each write has a value of its own, as those of a careful test have.
    unique: bool,
}

/// An operation that took effect at `at`, asked before and answered after it.
struct Done {
    at: u64,
    invoked: u64,
    completed: u64,
    operation: Operation,
    event: Event,
}

/// A history of one key that a correct store had: operations carried out one after the other, each with its
/// answer, between an earlier moment at which it was asked and a later one at which it was answered.
fn correct(rng: &mut Rng, mix: Mix) -> History {
    let mut held: Held = None;
    let mut done = Vec::new();
    let mut at = 1_000;
    for number in 0..mix.calls {
        at += 1 + rng.below(mix.spread);
        let letter = char::from(b'a' + u8::try_from(rng.below(3)).expect("small"));
        let value = if mix.unique { format!("{number},") } else { letter.to_string() };
        let operation = match rng.below(mix.kinds) {
            0 | 1 => Operation::get("k"),
            2 | 3 => Operation::append("k", value),
            4 => Operation::put("k", value),
            5 => Operation::compare_and_set("k", rng.below(4), value),
            _ => Operation::delete("k"),
        };
        let unknown = !operation.is_read() && rng.below(100) < mix.unknown;
        let (mut answer, next) = execute(&operation, &held);
        // Of unknown outcome, it took effect at this moment or not at all.
        if !unknown || rng.below(2) == 0 {
            held = next;
        }
        if rng.below(100) < mix.silent {
            forget(&mut answer);
        }
        let event = if unknown { Event::Info } else { Event::Ok(answer) };
        let (invoked, completed) = (at - rng.below(30), at + rng.below(30));
        done.push(Done { at, invoked, completed, operation, event });
    }
    assert!(done.iter().all(|it| it.invoked <= it.at && it.at <= it.completed));
    history(done)
}

/// The entries of calls, in the order of their times, each by a process of its own.
fn history(calls: Vec<Done>) -> History {
    let mut entries = Vec::new();
    for (process, call) in (1..).zip(calls) {
        let entry = |time_ns, event| Entry { process, time_ns, node: None, event };
        entries.push(entry(2 * call.invoked, Event::Invoke(call.operation)));
        entries.push(entry(2 * call.completed + 1, call.event));
    }
    entries.sort_by_key(|entry| entry.time_ns);
    let mut history = History::new();
    for entry in entries {
        history.push(entry).expect("each process does one thing");
    }
    history
}

/// Leaves out what an answer need not say.
fn forget(answer: &mut Answer) {
    match answer {
        Answer::Value { version, .. } | Answer::Written { version } => *version = None,
        Answer::Mismatch { actual } => *actual = None,
        Answer::Deleted { found } => *found = None,
        Answer::Absent | Answer::Items(_) => {}
    }
}

/// The same history with one answer that says something else; `None` where there is no answer.
fn mutated(rng: &mut Rng, history: &History) -> Option<History> {
    let mut entries = history.entries().to_vec();
    let answers = entries.iter().enumerate().filter(|(_, entry)| matches!(entry.event, Event::Ok(_)));
    let places: Vec<usize> = answers.map(|(place, _)| place).collect();
    let place = *places.get(usize::try_from(rng.below(places.len().max(1) as u64)).expect("small"))?;
    let Event::Ok(answer) = &mut entries[place].event else { panic!("an answer was picked") };
    let other = 1 + rng.below(4);
    let value = ["a", "b", "ab", "ba", "abc", ""][usize::try_from(rng.below(6)).expect("small")];
    *answer = match answer.clone() {
        Answer::Value { version, .. } if rng.below(2) == 0 => Answer::value(value, version),
        Answer::Value { .. } if rng.below(3) == 0 => Answer::Absent,
        Answer::Value { value, .. } => Answer::value(value, other),
        Answer::Absent => Answer::value(value, None),
        Answer::Written { .. } => Answer::written(other),
        Answer::Mismatch { .. } if rng.below(2) == 0 => Answer::written(None),
        Answer::Mismatch { .. } => Answer::mismatch(other),
        Answer::Deleted { found } => Answer::deleted(found != Some(true)),
        Answer::Items(_) => panic!("one key is not scanned"),
    };
    let mut mutated = History::new();
    for entry in entries {
        mutated.push(entry).expect("only an answer is another one");
    }
    Some(mutated)
}

fn found(history: &History) -> bool {
    match check(history, &Limits::default()) {
        Verdict::Linearizable => true,
        Verdict::NotLinearizable(_) => false,
        Verdict::Unknown(exceeded) => panic!("{exceeded}"),
    }
}

/// What is drawn from: with and without versions, unknown outcomes, and anything but appends.
fn mix(rng: &mut Rng, calls: u64) -> Mix {
    Mix {
        calls,
        unknown: [0, 30, 60][usize::try_from(rng.below(3)).expect("small")],
        silent: [0, 50, 100][usize::try_from(rng.below(3)).expect("small")],
        kinds: [4, 7][usize::try_from(rng.below(2)).expect("small")],
        spread: [1, 8, 30][usize::try_from(rng.below(3)).expect("small")],
        unique: false,
    }
}

/// A history that a correct store had is linearizable, and the slow judge agrees; with one answer changed,
/// both agree again whether it still is.
#[test]
fn both_judges_agree() {
    let mut rng = Rng::announced("both_judges_agree");
    let (mut right, mut wrong) = (0, 0);
    for round in 0..20_000 {
        let calls = 1 + rng.below(7);
        let mix = mix(&mut rng, calls);
        let history = correct(&mut rng, mix);
        assert!(has_an_order(&history.calls()), "round {round}: {history:?}");
        assert!(found(&history), "round {round}: {history:?}");
        let Some(mutated) = mutated(&mut rng, &history) else { continue };
        let expected = has_an_order(&mutated.calls());
        assert_eq!(found(&mutated), expected, "round {round}: {mutated:?}");
        if expected {
            right += 1;
        } else {
            wrong += 1;
        }
    }
    assert!(right > 2_000 && wrong > 2_000, "{right} changed histories are right, {wrong} are wrong");
}

/// The prefix of a failure is an order that is right as far as it goes, and nothing that could come next fits
/// behind.
#[test]
fn a_failures_prefix_is_right() {
    let mut rng = Rng::announced("a_failures_prefix_is_right");
    let mut failures = 0;
    for round in 0..4_000 {
        let mix = mix(&mut rng, 7);
        let Some(history) = mutated_correct(&mut rng, mix) else { continue };
        let verdict = check(&history, &Limits::default());
        let Some(failure) = verdict.failure() else { continue };
        failures += 1;
        let calls = history.calls();
        let core = &failure.core;
        let mut held: Held = None;
        for (order, &place) in core.prefix.iter().enumerate() {
            let call = &calls[place];
            let (answer, next) = execute(call.operation, &held);
            if let End::Answered(given) = call.end {
                assert!(agrees(given, &answer), "round {round}: {history:?}");
            }
            held = next;
            let late = core.prefix[order + 1..].iter().any(|&later| {
                calls[later].completed.is_some_and(|it| it < call.invoked) && answered(&calls[later])
            });
            assert!(!late, "round {round}: {history:?}");
        }
        assert!(!core.prefix.contains(&core.stuck) && core.candidates.contains(&core.stuck), "round {round}");
        assert_eq!(core.states[0].version() == 0, held.is_none(), "round {round}: {history:?}");
    }
    assert!(failures > 500, "only {failures} failures");
}

fn answered(call: &Call<'_>) -> bool {
    matches!(call.end, End::Answered(_))
}

fn mutated_correct(rng: &mut Rng, mix: Mix) -> Option<History> {
    let history = correct(rng, mix);
    mutated(rng, &history)
}

/// Long histories of many clients are decided as well, and a wrong answer at the end of a thousand is found;
/// where outcomes are unknown, as long as values only grow.
#[test]
fn long_histories_are_decided() {
    let mut rng = Rng::announced("long_histories_are_decided");
    for (unknown, kinds) in [(0, 4), (0, 7), (3, 4), (3, 7)] {
        let mix = Mix { calls: 1_000, unknown, silent: 20, kinds, spread: 8, unique: true };
        let history = correct(&mut rng, mix);
        assert!(found(&history), "{mix:?}");
        if unknown > 0 && kinds > 4 {
            continue;
        }
        let mut entries = history.entries().to_vec();
        let is_read = |entry: &Entry| matches!(entry.event, Event::Ok(Answer::Value { .. } | Answer::Absent));
        let last = entries.iter().rposition(is_read).expect("some read was answered");
        entries[last].event = Event::Ok(Answer::value("never", None));
        let mut wrong = History::new();
        for entry in entries {
            wrong.push(entry).expect("only an answer is another one");
        }
        assert!(!found(&wrong), "{mix:?}");
    }
}
