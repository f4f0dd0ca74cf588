//! Small histories that are right or wrong for a reason that can be told in a sentence.

use checker::{
    Answer, Event, Exceeded, History, Item, Limits, Operation, Verdict, check, html, jsonl, shrink,
};
use std::time::Duration;

/// A history in short lines: `PROCESS OPERATION…` asks, `PROCESS = ANSWER…` answers, and each line ends at a
/// `;`.
///
/// Operations: `get`, `put V`, `append V`, `cas EXPECTED V`, `del`, `scan`, of the one key `k`. Answers:
/// `V@VERSION`, `V`, `none`, `done`, `@VERSION`, `not@VERSION`, `found`, `missing`, `fail`, `info`; a scan's
/// is `items V@VERSION`.
fn history(text: &str) -> History {
    let mut history = History::new();
    for (at, line) in text.split(';').map(str::trim).filter(|line| !line.is_empty()).enumerate() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let event = match words[1..] {
            ["=", "fail"] => Event::Fail,
            ["=", "info"] => Event::Info,
            ["=", "none"] => Event::Ok(Answer::Absent),
            ["=", "found"] => Event::Ok(Answer::deleted(true)),
            ["=", "missing"] => Event::Ok(Answer::deleted(false)),
            ["=", "gone"] => Event::Ok(Answer::deleted(None)),
            ["=", "done"] => Event::Ok(Answer::written(None)),
            ["=", "items", item] => Event::Ok(Answer::Items(vec![match value(item) {
                Answer::Value { value, version } => Item { key: b"k".to_vec(), value, version },
                _ => panic!("an item is a value: {line}"),
            }])),
            ["=", answer] => Event::Ok(match (answer.strip_prefix('@'), answer.strip_prefix("not@")) {
                (Some(version), _) => Answer::written(number(version)),
                (_, Some(version)) => Answer::mismatch(number(version)),
                _ => value(answer),
            }),
            ["get"] => Event::Invoke(Operation::get("k")),
            ["put", value] => Event::Invoke(Operation::put("k", value)),
            ["append", value] => Event::Invoke(Operation::append("k", value)),
            ["cas", expected, value] => {
                Event::Invoke(Operation::compare_and_set("k", number(expected), value))
            }
            ["del"] => Event::Invoke(Operation::delete("k")),
            ["scan"] => Event::Invoke(Operation::scan("")),
            _ => panic!("no such event: {line}"),
        };
        let entry = checker::Entry { process: number(words[0]), time_ns: at as u64, node: None, event };
        history.push(entry).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
    history
}

fn number(word: &str) -> u64 {
    word.parse().unwrap_or_else(|_| panic!("a number: {word}"))
}

fn value(word: &str) -> Answer {
    match word.split_once('@') {
        Some((value, version)) => Answer::value(value, number(version)),
        None => Answer::value(word, None),
    }
}

/// What is right, each with its reason.
const RIGHT: [(&str, &str); 23] = [
    ("nothing happened", ""),
    ("a key is absent at first", "1 get; 1 = none"),
    ("a write is read", "1 put a; 1 = @1; 1 get; 1 = a@1"),
    (
        "concurrent writes are in either order",
        "1 put a; 2 put b; 1 = done; 2 = done; 1 get; 1 = a; 2 get; 2 = a",
    ),
    ("a read beside a write sees the old value", "1 put a; 2 get; 2 = none; 1 = @1"),
    ("a read beside a write sees the new value", "1 put a; 2 get; 2 = a@1; 1 = @1"),
    ("an unknown write is seen late", "1 put a; 1 = info; 2 get; 2 = none; 2 get; 2 = none; 2 get; 2 = a@1"),
    ("an unknown write is never seen", "1 put a; 1 = info; 2 get; 2 = none; 2 get; 2 = none"),
    ("an operation without an end is unknown", "1 put a; 2 get; 2 = a; 2 get; 2 = a"),
    ("an unknown write overtakes later ones", "1 put a; 1 = info; 2 put b; 2 = @1; 2 get; 2 = a@2"),
    ("an unknown write fills a gap of versions", "1 put a; 1 = info; 2 put b; 2 = @2"),
    (
        "an unknown append is in the middle",
        "1 append b; 1 = info; 2 append a; 2 = @1; 2 append c; 2 = @3; 2 get; 2 = abc",
    ),
    ("an unknown read says nothing", "1 get; 1 = info; 2 put a; 2 = @1"),
    ("an unknown delete takes effect", "1 put a; 1 = @1; 2 del; 2 = info; 1 get; 1 = a; 1 get; 1 = none"),
    ("an unknown comparison fails silently", "1 cas 7 b; 1 = info; 2 put a; 2 = @1; 2 get; 2 = a@1"),
    ("appends add up", "1 append a; 1 = @1; 2 append b; 2 = @2; 1 get; 1 = ab@2"),
    (
        "deleted and created anew, versions start again",
        "1 put a; 1 = @1; 1 del; 1 = found; 1 put b; 1 = @1; 1 get; 1 = b@1",
    ),
    ("a comparison finds its version", "1 put a; 1 = @1; 1 cas 1 b; 1 = @2; 1 get; 1 = b@2"),
    ("a comparison with absence creates", "1 cas 0 a; 1 = @1; 2 cas 0 b; 2 = not@1"),
    ("of two comparisons one succeeds", "1 cas 0 a; 2 cas 0 b; 1 = not@1; 2 = @1; 1 get; 1 = b@1"),
    ("a write that failed is not seen", "1 put a; 1 = fail; 2 get; 2 = none"),
    ("a scan's item was there during the scan", "1 put a; 1 = @1; 2 scan; 1 put b; 1 = @2; 2 = items a@1"),
    (
        "everything at once",
        "1 put a; 2 append b; 3 cas 0 c; 4 del; 5 get; 6 get; \
         5 = ab@2; 6 = none; 4 = found; 3 = @1; 2 = @2; 1 = @1",
    ),
];

/// What is wrong, each with its reason.
const WRONG: [(&str, &str); 22] = [
    ("a stale read", "1 put a; 1 = @1; 1 put b; 1 = @2; 2 get; 2 = a@1"),
    ("a write is not there", "1 put a; 1 = @1; 2 get; 2 = none"),
    ("a lost update", "1 put a; 1 = @1; 2 put b; 2 = @1"),
    ("a value that was never written", "1 put a; 1 = @1; 2 get; 2 = z"),
    ("a doubled append", "1 append a; 1 = done; 2 get; 2 = aa"),
    ("a lost append", "1 append a; 1 = done; 1 append b; 1 = done; 2 get; 2 = b"),
    ("appends in the wrong order", "1 append a; 1 = done; 2 append b; 2 = done; 1 get; 1 = ba"),
    (
        "two readers see another order",
        "1 append a; 2 append b; 1 = done; 2 = done; 3 get; 3 = ab; 4 get; 4 = ba",
    ),
    ("a value comes back", "1 put a; 2 put b; 1 = done; 2 = done; 3 get; 3 = a; 3 get; 3 = b; 3 get; 3 = a"),
    ("a comparison should have failed", "1 put a; 1 = @1; 2 put b; 2 = @2; 1 cas 1 c; 1 = @2"),
    ("a comparison should not have failed", "1 put a; 1 = @1; 1 cas 1 b; 1 = not@1"),
    ("both of two comparisons succeed", "1 cas 0 a; 2 cas 0 b; 1 = done; 2 = done"),
    ("a comparison reports a version that never was", "1 put a; 1 = @1; 1 cas 5 b; 1 = not@3"),
    ("a deleted value is read", "1 put a; 1 = @1; 1 del; 1 = found; 2 get; 2 = a@1"),
    ("a delete finds what is not there", "1 del; 1 = found"),
    ("a delete does not find what is there", "1 put a; 1 = @1; 2 del; 2 = missing; 2 get; 2 = a@1"),
    ("a version goes back", "1 put a; 1 = @1; 1 put a; 1 = @2; 2 get; 2 = a@2; 2 get; 2 = a@1"),
    ("a version skips one", "1 put a; 1 = @1; 1 put b; 1 = @3"),
    ("an unknown write takes effect twice", "1 append a; 1 = info; 2 get; 2 = a; 2 get; 2 = aa"),
    ("an unknown write is seen, then not", "1 put a; 1 = info; 2 get; 2 = a; 2 get; 2 = none"),
    ("a write is read before it was asked for", "2 get; 2 = a; 1 put a; 1 = @1"),
    ("a scan's item was gone before the scan", "1 put a; 1 = @1; 1 put b; 1 = @2; 2 scan; 2 = items a@1"),
];

/// Each right history is found right, and each wrong one wrong.
#[test]
fn known_histories_get_their_verdicts() {
    for (reason, text) in RIGHT {
        assert_eq!(check(&history(text), &Limits::default()), Verdict::Linearizable, "{reason}");
    }
    for (reason, text) in WRONG {
        assert!(check(&history(text), &Limits::default()).failure().is_some(), "{reason}");
    }
    // What failed for certain cannot be seen, although it was asked for.
    let seen = history("1 put a; 1 = fail; 2 get; 2 = a");
    assert!(check(&seen, &Limits::default()).failure().is_some());
}

/// A failing history, shrunk, is still a failing one, and still without the failed history's reads and other
/// clients that had no part in it.
#[test]
fn a_shrunk_history_fails_for_the_same_reason() {
    for (reason, text) in WRONG {
        let whole = history(text);
        let verdict = check(&whole, &Limits::default());
        let failure = verdict.failure().expect("it is wrong");
        let (small, again) = shrink(&whole, failure, &Limits::default());
        assert_eq!(check(&small, &Limits::default()).failure(), Some(&again), "{reason}");
        assert!(small.entries().len() <= whole.entries().len(), "{reason}");
    }
    let noisy = history(
        "1 put a; 1 = @1; 3 get; 3 = a@1; 4 get; 4 = a@1; \
         1 put b; 1 = @2; 3 get; 3 = b@2; 2 get; 2 = a@1; 3 get; 3 = b@2",
    );
    let verdict = check(&noisy, &Limits::default());
    let (small, _) = shrink(&noisy, verdict.failure().expect("a stale read"), &Limits::default());
    let processes: Vec<u64> = small.entries().iter().map(|entry| entry.process).collect();
    assert!(!processes.contains(&4), "{small:?}");
    assert!(small.calls().len() <= 4, "{small:?}");
}

/// Keys are judged apart, and the failing one is named; a scan speaks for each of its items, and for nothing
/// else.
#[test]
fn the_failing_key_is_named() {
    let recorder = checker::Recorder::new();
    recorder.invoke(1, Operation::put("good", "a")).ok(Answer::written(1));
    recorder.invoke(1, Operation::put("bad", "a")).ok(Answer::written(1));
    let item = |key: &str, value: &str| Item { key: key.into(), value: value.into(), version: Some(1) };
    // That "bad" is not listed is not held against the scan.
    recorder.invoke(2, Operation::scan("")).ok(Answer::Items(vec![item("good", "a")]));
    assert!(check(&recorder.history(), &Limits::default()).is_linearizable());
    recorder.invoke(2, Operation::scan("")).ok(Answer::Items(vec![item("good", "a"), item("bad", "b")]));
    let history = recorder.history();
    let verdict = check(&history, &Limits::default());
    let failure = verdict.failure().expect("bad never was b");
    assert_eq!((failure.key.as_slice(), failure.core.stuck), (&b"bad"[..], 3));
}

/// What is not decided within its limits is unknown, never a verdict.
#[test]
fn limits_yield_unknown() {
    let history = history(WRONG[0].1);
    let no_time = Limits { time: Duration::ZERO, ..Limits::default() };
    assert_eq!(check(&history, &no_time), Verdict::Unknown(Exceeded::Time));
    let no_memory = Limits { memo_bytes: 0, ..Limits::default() };
    assert_eq!(check(&history, &no_memory), Verdict::Unknown(Exceeded::Memory));
}

/// Every history comes back from its file as it was, times and nodes and any bytes included.
#[test]
fn files_hold_histories() {
    let mut histories: Vec<History> = RIGHT.iter().chain(&WRONG).map(|(_, text)| history(text)).collect();
    let recorder = checker::Recorder::new();
    recorder.invoke(9, Operation::put(b"\xff", "a")).at_node("n3").ok(Answer::written(None));
    recorder.invoke(9, Operation::get("k")).ok(Answer::value(b"\x80\n\"", 4));
    recorder.invoke(9, Operation::get("k")).ok(Answer::value("", None));
    histories.push(recorder.history());
    for history in histories {
        let mut file = Vec::new();
        jsonl::write(&mut file, &history).expect("memory can be written");
        assert_eq!(file.split(|byte| *byte == b'\n').count(), history.entries().len() + 1);
        assert_eq!(jsonl::read(file.as_slice()).expect("what was written"), history);
    }
}

/// The format's bytes are those in docs/reference/histories.md: its example is read, and written as it is.
#[test]
fn the_documented_example_is_the_format() {
    let page = include_str!("../../../docs/reference/histories.md");
    let (_, behind) = page.split_once("```jsonl\n").expect("the page has an example");
    let (example, _) = behind.split_once("```").expect("the example ends");
    let history = jsonl::read(example.as_bytes()).expect("the example is right");
    let mut file = Vec::new();
    jsonl::write(&mut file, &history).expect("memory can be written");
    assert_eq!(String::from_utf8_lossy(&file), example);
    assert!(check(&history, &Limits::default()).is_linearizable());
}

/// A file that is no history is refused with the line and the reason.
#[test]
fn files_are_refused_with_a_reason() {
    let invoke = r#"{"process":3,"type":"invoke","f":"put","key":"a","value":"x","time_ns":5}"#;
    let cases = [
        ("nonsense", "line 1: expected"),
        (
            r#"{"process":3,"type":"ok","f":"put","time_ns":5}"#,
            "process 3 completes an operation that it did not",
        ),
        (
            &format!("{invoke}\n\n{invoke}"),
            "line 3: process 3 invokes an operation while another one is under way",
        ),
        (
            &format!("{invoke}\n{}", r#"{"process":3,"type":"ok","f":"put","time_ns":4}"#),
            "line 2: time goes back from 5 ns to 4 ns",
        ),
        (
            &format!("{invoke}\n{}", r#"{"process":3,"type":"ok","f":"get","time_ns":6}"#),
            "line 2: process 3 completes another operation than it invoked",
        ),
        (
            &format!("{invoke}\n{}", r#"{"process":3,"type":"ok","f":"put","key":"b","time_ns":6}"#),
            "line 2: process 3 completes its operation with another key",
        ),
        (
            &format!("{invoke}\n{}", r#"{"process":3,"type":"fail","f":"put","version":2,"time_ns":6}"#),
            "line 2: version has no meaning in this event of a put",
        ),
        (r#"{"process":3,"type":"invoke","f":"put","key":"a","time_ns":5}"#, "put is invoked with a value"),
        (r#"{"process":3,"type":"invoke","f":"get","time_ns":5}"#, "an invocation has a key"),
        (
            r#"{"process":3,"type":"invoke","f":"cas","key":"a","value":"x","time_ns":5}"#,
            "cas is invoked with the version",
        ),
        (r#"{"process":3,"type":"invoke","f":"get","key":"?","b64":true,"time_ns":5}"#, "key is not base64"),
        (r#"{"process":3,"type":"invoke","f":"get","key":"a","tiem":5,"time_ns":5}"#, "unknown field `tiem`"),
    ];
    for (file, reason) in cases {
        let error = jsonl::read(file.as_bytes()).expect_err(file).to_string();
        assert!(error.contains(reason), "{error}, not {reason}");
    }
}

/// A failure's page shows each client and each operation, marks where it breaks, and loads nothing from
/// elsewhere; what stands in keys and values stays text.
#[test]
fn a_page_shows_the_failure() {
    let history = history("1 put <b>; 1 = @1; 2 append &\"; 2 = info; 1 put y; 1 = @2; 3 get; 3 = <b>@1");
    let verdict = check(&history, &Limits::default());
    let page = html::page(&history, verdict.failure().expect("a stale read"));
    assert!(page.starts_with("<!DOCTYPE html>"));
    for shown in [
        "client 1",
        "client 2",
        "client 3",
        "put &lt;b&gt;",
        "&amp;&quot;",
        "class=\"bar stuck\"",
        "version 2",
    ] {
        assert!(page.contains(shown), "{shown} is missing in {page}");
    }
    for foreign in ["<b>", "http:", "https:", "<script", "src=", "url("] {
        assert!(!page.contains(foreign), "{foreign} in {page}");
    }
    assert_eq!(page.matches("class=\"bar ").count(), 4);
}
