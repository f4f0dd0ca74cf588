//! The history while it happens: every event goes to the file at once, so that a run that ends badly has its
//! history all the same.

use anyhow::{Context, Result};
use checker::{Entry, Event, Operation, jsonl};
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::time::Instant;

/// A history that is being written. Clones write the same one.
#[derive(Clone, Debug)]
pub(crate) struct Journal(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    started: Instant,
    writing: Mutex<Writing>,
}

#[derive(Debug)]
struct Writing {
    writer: jsonl::Writer<BufWriter<File>>,
    last_ns: u64,
    answered: u64,
}

impl Journal {
    /// Begins a history in the file at `path`, with times since `started`.
    pub(crate) fn begin(path: &Path, started: Instant) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("{}", path.display()))?;
        let writer = jsonl::Writer::new(BufWriter::new(file));
        let writing = Mutex::new(Writing { writer, last_ns: 0, answered: 0 });
        Ok(Self(Arc::new(Shared { started, writing })))
    }

    /// Notes that `process` is about to ask.
    pub(crate) fn invoke(&self, process: u64, operation: Operation) -> Result<()> {
        self.note(process, Event::Invoke(operation))
    }

    /// Notes how that ended.
    pub(crate) fn complete(&self, process: u64, event: Event) -> Result<()> {
        self.note(process, event)
    }

    /// How many operations were answered so far.
    pub(crate) fn answered(&self) -> u64 {
        self.lock().answered
    }

    /// Hands everything to the system.
    pub(crate) fn flush(&self) -> Result<()> {
        self.lock().writer.flush().context("the history cannot be written")
    }

    fn note(&self, process: u64, event: Event) -> Result<()> {
        let mut writing = self.lock();
        // Read under the lock, so that times stand in the order of the lines.
        let elapsed = u64::try_from(self.0.started.elapsed().as_nanos()).context("a run of centuries")?;
        let time_ns = elapsed.max(writing.last_ns);
        writing.last_ns = time_ns;
        writing.answered += u64::from(matches!(event, Event::Ok(_)));
        let entry = Entry { process, time_ns, node: None, event };
        writing.writer.append(&entry).context("the history cannot be written")
    }

    fn lock(&self) -> MutexGuard<'_, Writing> {
        self.0.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
