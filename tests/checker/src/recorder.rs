//! Takes a history down while it happens, from many threads or tasks.

use crate::stopwatch::Stopwatch;
use crate::{Answer, Entry, Event, History, Operation};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A history that is being written. Clones write the same one.
///
/// The order of the calls is the history's order, so call [`invoke`](Self::invoke) before the operation is
/// sent and end the [`Ticket`] after its answer came.
#[derive(Clone)]
pub struct Recorder(Arc<Shared>);

struct Shared {
    /// Nanoseconds since some beginning.
    now_ns: Box<dyn Fn() -> u64 + Send + Sync>,
    history: Mutex<History>,
}

impl Recorder {
    /// A recorder whose times are those since now.
    pub fn new() -> Self {
        let stopwatch = Stopwatch::start();
        Self::with_clock(move || stopwatch.elapsed_ns())
    }

    /// A recorder with another clock, such as a simulation's; it is asked for nanoseconds at each event, and
    /// must not use the recorder.
    pub fn with_clock(now_ns: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(Shared { now_ns: Box::new(now_ns), history: Mutex::default() }))
    }

    /// Notes that `process` asks `operation`, now.
    ///
    /// # Panics
    /// If that process has an operation under way: a client that asks several things at a time is several
    /// processes.
    pub fn invoke(&self, process: u64, operation: Operation) -> Ticket {
        self.note(process, None, Event::Invoke(operation));
        Ticket { recorder: self.clone(), process, node: None, ended: false }
    }

    /// What was taken down so far.
    pub fn history(&self) -> History {
        self.lock().clone()
    }

    fn note(&self, process: u64, node: Option<String>, event: Event) {
        let mut history = self.lock();
        // Read under the lock, so that times stand in order; a clock that goes back stands still here.
        let last_ns = history.entries().last().map_or(0, |entry| entry.time_ns);
        let time_ns = (self.0.now_ns)().max(last_ns);
        if let Err(error) = history.push(Entry { process, time_ns, node, event }) {
            drop(history);
            panic!("a test records what cannot be: {error}");
        }
    }

    fn lock(&self) -> MutexGuard<'_, History> {
        // A panic while it was locked came from the clock or before the entry was added: the history is
        // whole.
        self.0.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Recorder {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("entries", &self.lock().entries().len()).finish_non_exhaustive()
    }
}

/// An operation under way. One that is dropped, because its task was, ends with an unknown outcome.
#[derive(Debug)]
#[must_use = "a ticket that is dropped says that the outcome is unknown"]
pub struct Ticket {
    recorder: Recorder,
    process: u64,
    node: Option<String>,
    ended: bool,
}

impl Ticket {
    /// Names the node that answers.
    pub fn at_node(mut self, node: impl Into<String>) -> Self {
        self.node = Some(node.into());
        self
    }

    /// Notes the answer, now.
    ///
    /// # Panics
    /// If the operation cannot have such an answer.
    pub fn ok(self, answer: Answer) {
        self.end(Event::Ok(answer));
    }

    /// Notes that nothing was done and nothing will be.
    pub fn fail(self) {
        self.end(Event::Fail);
    }

    /// Notes that nobody knows whether it took effect, or will.
    pub fn info(self) {
        self.end(Event::Info);
    }

    fn end(mut self, event: Event) {
        self.ended = true;
        let node = self.node.take();
        self.recorder.note(self.process, node, event);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.ended {
            self.recorder.note(self.process, self.node.take(), Event::Info);
        }
    }
}
