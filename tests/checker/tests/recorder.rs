//! Histories are taken down as they happen, from many threads at once.

use checker::{Answer, Event, History, Limits, Operation, OrderError, Recorder, Verdict, check};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

fn events(history: &History) -> Vec<(u64, &Event)> {
    history.entries().iter().map(|entry| (entry.process, &entry.event)).collect()
}

/// A recorded run is the history of what was asked and answered, in its order, and can be checked.
#[test]
fn a_run_is_recorded_and_checked() {
    let recorder = Recorder::new();
    let put = recorder.invoke(1, Operation::put("a", "x"));
    let get = recorder.invoke(2, Operation::get("a")).at_node("n2");
    put.ok(Answer::written(1));
    get.ok(Answer::value("x", 1));
    let history = recorder.history();
    assert_eq!(history.entries()[3].node.as_deref(), Some("n2"));
    assert_eq!(check(&history, &Limits::default()), Verdict::Linearizable);

    recorder.invoke(2, Operation::get("a")).ok(Answer::Absent);
    let verdict = check(&recorder.history(), &Limits::default());
    assert_eq!(verdict.failure().expect("the value is gone").key, b"a");
}

/// A ticket whose task was dropped says that the outcome is unknown, once.
#[test]
fn a_dropped_ticket_is_info() {
    let recorder = Recorder::new();
    drop(recorder.invoke(1, Operation::put("a", "x")));
    recorder.invoke(1, Operation::put("a", "y")).fail();
    let put = |value| Event::Invoke(Operation::put("a", value));
    let history = recorder.history();
    assert_eq!(events(&history), [(1, &put("x")), (1, &Event::Info), (1, &put("y")), (1, &Event::Fail)]);
}

/// Times come from the caller's clock, and stand still where it goes back.
#[test]
fn the_clock_is_the_callers() {
    let clock = Arc::new(AtomicU64::new(5));
    let recorder = Recorder::with_clock({
        let clock = clock.clone();
        move || clock.load(Ordering::Relaxed)
    });
    let ticket = recorder.invoke(1, Operation::get("a"));
    clock.store(3, Ordering::Relaxed);
    ticket.info();
    clock.store(9, Ordering::Relaxed);
    recorder.invoke(1, Operation::get("a")).info();
    let history = recorder.history();
    let times: Vec<u64> = history.entries().iter().map(|entry| entry.time_ns).collect();
    assert_eq!(times, [5, 5, 9, 9]);
}

/// Threads that record at the same time leave a history in which each process has one operation after the
/// other.
#[test]
fn threads_share_a_recorder() {
    let recorder = Recorder::new();
    std::thread::scope(|scope| {
        for process in 0..8 {
            let recorder = &recorder;
            scope.spawn(move || {
                for _ in 0..100 {
                    recorder
                        .invoke(process, Operation::append(format!("{process}"), "x"))
                        .ok(Answer::written(None));
                }
            });
        }
    });
    let history = recorder.history();
    assert_eq!(history.calls().len(), 800);
    assert_eq!(check(&history, &Limits::default()), Verdict::Linearizable);
}

/// A client that asks twice at a time is a mistake of the test, and said so at once.
#[test]
#[should_panic(expected = "process 1 invokes an operation while another one is under way")]
fn a_process_does_one_thing_at_a_time() {
    let recorder = Recorder::new();
    let _first = recorder.invoke(1, Operation::get("a"));
    let _second = recorder.invoke(1, Operation::get("b"));
}

/// A history refuses answers that nobody asked for, and those that do not fit.
#[test]
fn a_history_makes_sense() {
    let entry = |time_ns, event| checker::Entry { process: 4, time_ns, node: None, event };
    let mut history = History::new();
    assert_eq!(history.push(entry(0, Event::Info)), Err(OrderError::NotInvoked(4)));
    history.push(entry(7, Event::Invoke(Operation::get("a")))).expect("nothing is under way");
    assert_eq!(history.push(entry(7, Event::Ok(Answer::written(1)))), Err(OrderError::Unfitting(4)));
    let back = OrderError::TimeGoesBack { before_ns: 7, time_ns: 6 };
    assert_eq!(history.push(entry(6, Event::Fail)), Err(back));
    assert_eq!(history.entries().len(), 1);
}
