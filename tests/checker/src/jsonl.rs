//! Histories as files: JSON Lines, one event a line. The format is documented in
//! `docs/reference/histories.md`.

use crate::{Answer, Entry, Event, History, Item, Operation, OrderError};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, Read as _, Write};

/// The longest line that is read, in bytes: a scan's answer with many values.
const LINE_BYTES_MAX: u64 = 64 << 20;

/// Why a file is no history.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be read.
    #[error("line {line} cannot be read")]
    Io {
        /// The line, from 1.
        line: usize,
        /// Why.
        source: io::Error,
    },
    /// A line is not as documented.
    #[error("line {line}: {what}")]
    Line {
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
    /// An event cannot follow those before it.
    #[error("line {line}: {what}")]
    Order {
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        what: OrderError,
    },
}

/// Reads a history. Empty lines are passed over.
///
/// # Errors
/// At the first line that is not as documented, by its number.
pub fn read(mut input: impl BufRead) -> Result<History, ReadError> {
    let mut history = History::new();
    let mut text = Vec::new();
    for line in 1.. {
        text.clear();
        let wrong = |what: String| ReadError::Line { line, what };
        let count = (&mut input).take(LINE_BYTES_MAX).read_until(b'\n', &mut text);
        if count.map_err(|source| ReadError::Io { line, source })? == 0 {
            break;
        }
        if text.len() as u64 == LINE_BYTES_MAX {
            return Err(wrong(format!("longer than {LINE_BYTES_MAX} bytes")));
        }
        if text.trim_ascii().is_empty() {
            continue;
        }
        let row: Row = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
        let entry = row.entry(&history).map_err(wrong)?;
        history.push(entry).map_err(|what| ReadError::Order { line, what })?;
    }
    Ok(history)
}

/// Writes a whole history and flushes it.
///
/// # Errors
/// If `output` cannot be written.
pub fn write(output: impl Write, history: &History) -> io::Result<()> {
    let mut writer = Writer::new(output);
    for entry in history.entries() {
        writer.append(entry)?;
    }
    writer.flush()
}

/// Writes a history event by event, and knows what each completion answers.
#[derive(Debug)]
pub struct Writer<W> {
    output: W,
    history: History,
}

impl<W: Write> Writer<W> {
    /// Writes to `output`, which should be buffered where not every event is to be flushed.
    pub fn new(output: W) -> Self {
        Self { output, history: History::new() }
    }

    /// Writes one event as one line; call [`flush`](Self::flush) where it must be there.
    ///
    /// # Errors
    /// If `output` cannot be written, or with [`io::ErrorKind::InvalidInput`] if the event cannot follow
    /// those before.
    pub fn append(&mut self, entry: &Entry) -> io::Result<()> {
        let row = Row::of(entry, &self.history);
        let invalid = |error: OrderError| io::Error::new(io::ErrorKind::InvalidInput, error);
        self.history.push(entry.clone()).map_err(invalid)?;
        let mut line = serde_json::to_vec(&row)?;
        line.push(b'\n');
        self.output.write_all(&line)
    }

    /// Hands everything on.
    ///
    /// # Errors
    /// If `output` cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Invoke,
    Ok,
    Fail,
    Info,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Function {
    Get,
    Put,
    Append,
    Cas,
    Delete,
    Scan,
}

impl Function {
    fn of(operation: &Operation) -> Self {
        match operation {
            Operation::Get { .. } => Self::Get,
            Operation::Put { .. } => Self::Put,
            Operation::Append { .. } => Self::Append,
            Operation::CompareAndSet { .. } => Self::Cas,
            Operation::Delete { .. } => Self::Delete,
            Operation::Scan { .. } => Self::Scan,
        }
    }
}

/// A line, field by field.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    process: u64,
    #[serde(rename = "type")]
    kind: Kind,
    f: Function,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    found: Option<bool>,
    #[serde(default, skip_serializing_if = "is_false")]
    mismatch: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    items: Option<Vec<ItemRow>>,
    #[serde(default, skip_serializing_if = "is_false")]
    b64: bool,
    time_ns: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    /// For the reader's eye, such as an error's text.
    #[serde(default, skip_serializing)]
    #[expect(dead_code, reason = "it is allowed in a file, and means nothing to the checker")]
    note: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ItemRow {
    key: String,
    value: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

impl Row {
    /// The line of an entry that follows `history`.
    fn of(entry: &Entry, history: &History) -> Self {
        let operation = match &entry.event {
            Event::Invoke(operation) => Some(operation),
            Event::Ok(_) | Event::Fail | Event::Info => history.pending(entry.process),
        };
        let b64 = !texts(operation, &entry.event).iter().all(|text| std::str::from_utf8(text).is_ok());
        let text = |bytes: &Vec<u8>| {
            if b64 { STANDARD.encode(bytes) } else { String::from_utf8_lossy(bytes).into_owned() }
        };
        let mut row = Self {
            process: entry.process,
            kind: kind(&entry.event),
            // Without an operation under way the entry is refused, whatever its line.
            f: operation.map_or(Function::Get, Function::of),
            key: operation.map(|operation| text(key_or_prefix(operation))),
            value: None,
            version: None,
            found: None,
            mismatch: false,
            items: None,
            b64,
            time_ns: entry.time_ns,
            node: entry.node.clone(),
            note: None,
        };
        match &entry.event {
            Event::Invoke(Operation::Put { value, .. } | Operation::Append { value, .. }) => {
                row.value = Some(text(value));
            }
            Event::Invoke(Operation::CompareAndSet { expect, value, .. }) => {
                (row.value, row.version) = (Some(text(value)), Some(*expect));
            }
            Event::Ok(Answer::Value { value, version }) => {
                (row.value, row.version) = (Some(text(value)), *version);
            }
            Event::Ok(Answer::Written { version }) => row.version = *version,
            Event::Ok(Answer::Mismatch { actual }) => (row.mismatch, row.version) = (true, *actual),
            Event::Ok(Answer::Deleted { found }) => row.found = *found,
            Event::Ok(Answer::Items(items)) => {
                let item = |item: &Item| ItemRow {
                    key: text(&item.key),
                    value: text(&item.value),
                    version: item.version,
                };
                row.items = Some(items.iter().map(item).collect());
            }
            Event::Invoke(_) | Event::Ok(Answer::Absent) | Event::Fail | Event::Info => {}
        }
        row
    }

    /// The entry of a line that follows `history`.
    fn entry(self, history: &History) -> Result<Entry, String> {
        let (process, time_ns) = (self.process, self.time_ns);
        let key = self.key.as_deref().map(|key| self.bytes("key", key)).transpose()?;
        let value = self.value.as_deref().map(|value| self.bytes("value", value)).transpose()?;
        let event = match self.kind {
            Kind::Invoke => Event::Invoke(self.operation(key, value)?),
            Kind::Ok | Kind::Fail | Kind::Info => {
                if let Some(operation) = history.pending(process) {
                    self.completes(operation, key.as_ref())?;
                }
                self.end(value)?
            }
        };
        Ok(Entry { process, time_ns, node: self.node, event })
    }

    fn operation(&self, key: Option<Vec<u8>>, value: Option<Vec<u8>>) -> Result<Operation, String> {
        let writes = matches!(self.f, Function::Put | Function::Append | Function::Cas);
        self.only(writes, self.f == Function::Cas)?;
        let key = key.ok_or("an invocation has a key")?;
        let value = || value.ok_or_else(|| format!("{} is invoked with a value", self.name()));
        Ok(match self.f {
            Function::Get => Operation::Get { key },
            Function::Put => Operation::Put { key, value: value()? },
            Function::Append => Operation::Append { key, value: value()? },
            Function::Cas => {
                let expect = self.version.ok_or("cas is invoked with the version that it expects")?;
                Operation::CompareAndSet { key, expect, value: value()? }
            }
            Function::Delete => Operation::Delete { key },
            Function::Scan => Operation::Scan { prefix: key },
        })
    }

    /// Refuses a completion that says that it is another operation's.
    fn completes(&self, operation: &Operation, key: Option<&Vec<u8>>) -> Result<(), String> {
        if Function::of(operation) != self.f {
            return Err(format!("process {} completes another operation than it invoked", self.process));
        }
        if key.is_some_and(|key| key != key_or_prefix(operation)) {
            return Err(format!("process {} completes its operation with another key", self.process));
        }
        Ok(())
    }

    fn end(&self, value: Option<Vec<u8>>) -> Result<Event, String> {
        let gets = self.kind == Kind::Ok && self.f == Function::Get;
        let versions = gets || self.mismatch || (self.kind == Kind::Ok && self.f != Function::Scan);
        self.only(gets, versions && self.f != Function::Delete)?;
        let version = self.version;
        Ok(match (self.kind, self.f) {
            (Kind::Info, _) => Event::Info,
            (Kind::Invoke, _) => return Err("an invocation completes nothing".to_owned()),
            (Kind::Fail, _) if self.mismatch => Event::Ok(Answer::Mismatch { actual: version }),
            (Kind::Fail, _) => Event::Fail,
            (Kind::Ok, Function::Get) => Event::Ok(match (value, version) {
                (Some(value), version) => Answer::Value { value, version },
                (None, None | Some(0)) => Answer::Absent,
                (None, Some(version)) => return Err(format!("version {version} has no value")),
            }),
            (Kind::Ok, Function::Put | Function::Append | Function::Cas) => {
                Event::Ok(Answer::Written { version })
            }
            (Kind::Ok, Function::Delete) => Event::Ok(Answer::Deleted { found: self.found }),
            (Kind::Ok, Function::Scan) => {
                let rows = self.items.as_ref().ok_or("a scan is answered with items")?;
                let item = |row: &ItemRow| -> Result<Item, String> {
                    let (key, value) = (self.bytes("key", &row.key)?, self.bytes("value", &row.value)?);
                    Ok(Item { key, value, version: row.version })
                };
                Event::Ok(Answer::Items(rows.iter().map(item).collect::<Result<_, _>>()?))
            }
        })
    }

    /// Refuses fields that have no meaning in this line: what is written there would not be checked.
    fn only(&self, value: bool, version: bool) -> Result<(), String> {
        let answered = self.kind == Kind::Ok;
        let strange = [
            ("value", self.value.is_some() && !value),
            ("version", self.version.is_some() && !version),
            ("found", self.found.is_some() && !(answered && self.f == Function::Delete)),
            ("mismatch", self.mismatch && !(self.kind == Kind::Fail && self.f == Function::Cas)),
            ("items", self.items.is_some() && !(answered && self.f == Function::Scan)),
        ];
        match strange.into_iter().find(|(_, strange)| *strange) {
            Some((field, _)) => Err(format!("{field} has no meaning in this event of a {}", self.name())),
            None => Ok(()),
        }
    }

    fn name(&self) -> &'static str {
        match self.f {
            Function::Get => "get",
            Function::Put => "put",
            Function::Append => "append",
            Function::Cas => "cas",
            Function::Delete => "delete",
            Function::Scan => "scan",
        }
    }

    fn bytes(&self, field: &str, text: &str) -> Result<Vec<u8>, String> {
        if self.b64 {
            STANDARD.decode(text).map_err(|error| format!("{field} is not base64: {error}"))
        } else {
            Ok(text.as_bytes().to_vec())
        }
    }
}

/// How an event is called. A comparison that failed had no effect.
fn kind(event: &Event) -> Kind {
    match event {
        Event::Invoke(_) => Kind::Invoke,
        Event::Ok(Answer::Mismatch { .. }) | Event::Fail => Kind::Fail,
        Event::Ok(_) => Kind::Ok,
        Event::Info => Kind::Info,
    }
}

fn key_or_prefix(operation: &Operation) -> &Vec<u8> {
    match operation {
        Operation::Get { key }
        | Operation::Put { key, .. }
        | Operation::Append { key, .. }
        | Operation::CompareAndSet { key, .. }
        | Operation::Delete { key } => key,
        Operation::Scan { prefix } => prefix,
    }
}

/// All keys and values of a line.
fn texts<'e>(operation: Option<&'e Operation>, event: &'e Event) -> Vec<&'e Vec<u8>> {
    let mut texts: Vec<&Vec<u8>> = operation.map(key_or_prefix).into_iter().collect();
    match event {
        Event::Invoke(
            Operation::Put { value, .. }
            | Operation::Append { value, .. }
            | Operation::CompareAndSet { value, .. },
        )
        | Event::Ok(Answer::Value { value, .. }) => texts.push(value),
        Event::Ok(Answer::Items(items)) => {
            texts.extend(items.iter().flat_map(|item| [&item.key, &item.value]))
        }
        Event::Invoke(_) | Event::Ok(_) | Event::Fail | Event::Info => {}
    }
    texts
}
