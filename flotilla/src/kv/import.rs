//! `flotilla kv import`: puts every line of a file, hundreds at a time.
//!
//! A thread reads and parses ahead within bounds; one task keeps the puts on their way. **The last of several
//! lines with one key wins**: a line waits until the answer for an earlier line with its key has come, so writes
//! to one key are made one after the other, in the file's order, while other keys go on.

use super::Failure;
use super::format::{Format, parse};
use super::progress::bar;
use crate::output::{OutputFormat, write_line};
use client::{Client, Error, Outcome, Written};
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use indicatif::ProgressBar;
use serde_json::json;
use std::collections::HashSet;
use std::fmt::Write;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use tokio::sync::mpsc;

pub(crate) const ABOUT: &str = "Put every line of a file

Many lines are on their way at once, each put exactly once. The last of several lines with one key wins: a line
waits for the answer to an earlier line with its key. Every line that was not confirmed counts as failed; the
first failed lines are named, and the exit code is not 0. After 100 failures the rest is not tried. Importing
the same file again is harmless.";

/// A longer line is refused: a value of the largest size fits in base64 and in JSON's escapes.
const LINE_BYTES_MAX: usize = 8 << 20;

/// Parsed lines are handed over in chunks of at most this many lines, or about this many bytes.
const CHUNK_LINES: usize = 256;
const CHUNK_BYTES: usize = 1 << 20;

/// Chunks that wait to be sent.
const CHUNKS_AHEAD: usize = 8;

/// After so many failures the rest is not tried.
const FAILURES_MAX: usize = 100;

/// So many failed lines are named.
const FAILURES_NAMED: usize = 10;

/// A line as it is to be put, or why it cannot be.
struct Line {
    number: u64,
    pair: Result<(Vec<u8>, Vec<u8>), String>,
}

/// A line's put that has ended.
struct Ended {
    number: u64,
    key: Vec<u8>,
    result: Result<Written, Error>,
}

pub(crate) async fn run(
    client: &Client,
    output: OutputFormat,
    file: PathBuf,
    format: Format,
    concurrency: usize,
) -> Result<(), Failure> {
    let (reader, bytes) = open(&file)?;
    let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
    let progress = bar(bytes, "bytes");
    let reading = tokio::task::spawn_blocking({
        let progress = progress.clone();
        move || read_lines(reader, format, &progress, &sender)
    });
    let mut import = Import::new(client, concurrency);
    import.put_all(receiver).await;
    let read = reading.await.map_err(|error| Failure::Failed(format!("reading stopped: {error}")))?;
    progress.finish_and_clear();
    if let Err(error) = read {
        import.fail(0, &format!("{}: {error}", file.display()));
    }
    import.report(output)
}

fn open(file: &PathBuf) -> Result<(Box<dyn Read + Send>, Option<u64>), Failure> {
    if file.as_os_str() == "-" {
        return Ok((Box::new(std::io::stdin()), None));
    }
    let failed = |error: std::io::Error| Failure::Failed(format!("{}: {error}", file.display()));
    let opened = File::open(file).map_err(failed)?;
    let about = opened.metadata().map_err(failed)?;
    Ok((Box::new(opened), about.is_file().then_some(about.len())))
}

/// Reads until the end or until nobody listens any more.
fn read_lines(
    reader: Box<dyn Read + Send>,
    format: Format,
    progress: &ProgressBar,
    sender: &mpsc::Sender<Vec<Line>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::with_capacity(256 << 10, reader);
    let mut number = 0;
    loop {
        let (mut chunk, mut bytes) = (Vec::new(), 0);
        while chunk.len() < CHUNK_LINES && bytes < CHUNK_BYTES {
            let mut line = Vec::new();
            let read = reader.by_ref().take(LINE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut line)?;
            if read == 0 {
                break;
            }
            bytes += read;
            number += 1;
            if line.last() == Some(&b'\n') {
                line.pop();
            } else if line.len() > LINE_BYTES_MAX {
                reader.skip_until(b'\n')?;
                let reason = format!("line is longer than {LINE_BYTES_MAX} bytes");
                chunk.push(Line { number, pair: Err(reason) });
                continue;
            }
            chunk.push(Line { number, pair: parse(format, number, &line) });
        }
        progress.inc(bytes as u64);
        if chunk.is_empty() || sender.blocking_send(chunk).is_err() {
            return Ok(());
        }
    }
}

/// An import under way.
struct Import<'c> {
    client: &'c Client,
    concurrency: usize,
    /// At most `concurrency`.
    on_the_way: FuturesUnordered<BoxFuture<'c, Ended>>,
    /// The keys of `on_the_way`; no key twice.
    keys: HashSet<Vec<u8>>,
    created: u64,
    replaced: u64,
    failures: usize,
    unknown: bool,
    /// The first [`FAILURES_NAMED`], by line.
    named: Vec<(u64, String)>,
}

impl<'c> Import<'c> {
    fn new(client: &'c Client, concurrency: usize) -> Self {
        Self {
            client,
            concurrency,
            on_the_way: FuturesUnordered::new(),
            keys: HashSet::new(),
            created: 0,
            replaced: 0,
            failures: 0,
            unknown: false,
            named: Vec::new(),
        }
    }

    /// Puts what comes, until the end or until too much has failed. What is on its way is always awaited.
    async fn put_all(&mut self, mut lines: mpsc::Receiver<Vec<Line>>) {
        while self.failures < FAILURES_MAX {
            tokio::select! {
                chunk = lines.recv() => match chunk {
                    Some(chunk) => self.put_chunk(chunk).await,
                    None => break,
                },
                Some(ended) = self.on_the_way.next() => self.settle(ended),
            }
        }
        drop(lines);
        while let Some(ended) = self.on_the_way.next().await {
            self.settle(ended);
        }
    }

    async fn put_chunk(&mut self, chunk: Vec<Line>) {
        for Line { number, pair } in chunk {
            let (key, value) = match pair {
                Ok(pair) => pair,
                Err(reason) => {
                    self.fail(number, &reason);
                    continue;
                }
            };
            while self.keys.contains(&key) || self.on_the_way.len() >= self.concurrency {
                if let Some(ended) = self.on_the_way.next().await {
                    self.settle(ended);
                }
            }
            if self.failures >= FAILURES_MAX {
                return;
            }
            self.keys.insert(key.clone());
            let client = self.client;
            self.on_the_way.push(Box::pin(async move {
                let result = client.put(&key, value).await;
                Ended { number, key, result }
            }));
        }
    }

    fn settle(&mut self, ended: Ended) {
        self.keys.remove(&ended.key);
        match ended.result {
            Ok(written) if written.version.0 == 1 => self.created += 1,
            Ok(_) => self.replaced += 1,
            Err(error) => {
                self.unknown |= error.outcome() == Outcome::Unknown;
                self.fail(ended.number, &error.to_string());
            }
        }
    }

    /// Notes a failed line; 0 stands for the file itself.
    fn fail(&mut self, number: u64, reason: &str) {
        self.failures += 1;
        self.named.push((number, reason.to_owned()));
        self.named.sort();
        self.named.truncate(FAILURES_NAMED);
    }

    fn report(self, output: OutputFormat) -> Result<(), Failure> {
        let Self { created, replaced, failures, .. } = self;
        let confirmed = created + replaced;
        match output {
            OutputFormat::Text => {
                write_line(&format!(
                    "{confirmed} lines confirmed: {created} keys created, {replaced} replaced"
                ))?;
            }
            OutputFormat::Json => {
                let line = json!({"confirmed": confirmed, "created": created, "replaced": replaced, "failed": failures});
                write_line(&line.to_string())?;
            }
        }
        if failures == 0 {
            return Ok(());
        }
        let mut message = format!("import is incomplete, {failures} failed");
        if failures >= FAILURES_MAX {
            message.push_str(", the rest was not tried");
        }
        for (number, reason) in &self.named {
            match number {
                0 => write!(message, "\n  {reason}"),
                _ => write!(message, "\n  line {number}: {reason}"),
            }
            .expect("writing to a string cannot fail");
        }
        Err(if self.unknown { Failure::Unknown(message) } else { Failure::Failed(message) })
    }
}
