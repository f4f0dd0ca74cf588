//! `flotilla kv import`: puts every line of a file, hundreds at a time.
//!
//! A thread reads and parses ahead within bounds; one task keeps the puts on their way. **The last of several
//! lines with one key wins**: a line waits until the answer for an earlier line with its key has come, so writes
//! to one key are made one after the other, in the file's order, while other keys go on.

use super::Failure;
use super::format::{Format, guess, parse};
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
use std::path::Path;
use tokio::sync::mpsc;

pub(crate) const ABOUT: &str = "Put every line of a file

Many lines are on their way at once, each put exactly once. The last of several lines with one key wins: a line
waits for the answer to an earlier line with its key. Empty lines are skipped and counted. Every line that was not
confirmed counts as failed; the first failed lines are named, and the exit code is not 0. After 100 failures the
rest is not tried. Importing the same file again is harmless.

With --format lines, equal lines are one key, which keeps the last one's number, and whether the last line ends in a
line break is not kept: an export of the same keys ends in one.";

/// A longer line is refused: a value of the largest size that can be configured, below 4 MiB, fits even where every
/// byte of it is one of JSON's escapes.
const LINE_BYTES_MAX: usize = 32 << 20;

/// Parsed lines are handed over in chunks of at most this many lines, or about this many bytes.
const CHUNK_LINES: usize = 256;
const CHUNK_BYTES: usize = 1 << 20;

/// Chunks that wait to be sent.
const CHUNKS_AHEAD: usize = 8;

/// No further line is put while keys and values of more bytes than this are on their way; one of any size may be.
const ON_THE_WAY_BYTES_MAX: usize = 64 << 20;

/// After so many failures the rest is not tried.
const FAILURES_MAX: usize = 100;

/// So many failed lines are named.
const FAILURES_NAMED: usize = 10;

struct Line {
    number: u64,
    content: Content,
}

enum Content {
    Pair(Vec<u8>, Vec<u8>),
    Empty,
    /// Why it cannot be put.
    Wrong(String),
}

impl Content {
    fn of(format: Format, number: u64, line: &[u8]) -> Self {
        if line.is_empty() {
            return Self::Empty;
        }
        match parse(format, number, line) {
            Ok((key, value)) => Self::Pair(key, value),
            Err(reason) => Self::Wrong(reason),
        }
    }
}

/// A line's put that has ended.
struct Ended {
    number: u64,
    key: Vec<u8>,
    /// Of the key and the value.
    bytes: usize,
    result: Result<Written, Error>,
}

pub(crate) async fn run(
    client: &Client,
    output: OutputFormat,
    file: &Path,
    format: Option<Format>,
    concurrency: usize,
) -> Result<(), Failure> {
    let (format, guessed) = match format {
        Some(format) => (format, None),
        None => {
            let (format, why) = guess(file);
            (format, Some(why))
        }
    };
    let (reader, bytes) = open(file)?;
    let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
    let progress = bar(bytes, "bytes");
    let reading = tokio::task::spawn_blocking({
        let progress = progress.clone();
        move || read_lines(reader, format, &progress, &sender)
    });
    let mut import = Import::new(client, concurrency, guessed);
    let read_to_the_end = import.put_all(receiver).await;
    progress.finish_and_clear();
    // Otherwise it may be waiting for input that never comes.
    if read_to_the_end {
        let read = reading.await.map_err(|error| Failure::Failed(format!("reading stopped: {error}")))?;
        if let Err(error) = read {
            import.fail(0, &format!("{}: {error}", file.display()));
        }
    }
    import.report(output)
}

fn open(file: &Path) -> Result<(Box<dyn Read + Send>, Option<u64>), Failure> {
    if file.as_os_str() == "-" {
        return Ok((Box::new(std::io::stdin()), None));
    }
    let failed = |error: std::io::Error| Failure::Failed(format!("{}: {error}", file.display()));
    let opened = File::open(file).map_err(failed)?;
    let about = opened.metadata().map_err(failed)?;
    Ok((Box::new(opened), about.is_file().then_some(about.len())))
}

/// Reads until the end, until reading fails or until nobody listens any more. What was read is always handed over,
/// also before waiting for input that pauses.
fn read_lines(
    reader: impl Read,
    format: Format,
    progress: &ProgressBar,
    sender: &mpsc::Sender<Vec<Line>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::with_capacity(256 << 10, reader);
    let mut number = 0;
    loop {
        let (mut chunk, mut bytes, mut failed) = (Vec::new(), 0, None);
        while chunk.is_empty()
            || (chunk.len() < CHUNK_LINES && bytes < CHUNK_BYTES && !reader.buffer().is_empty())
        {
            number += 1;
            match read_line(&mut reader, format, number) {
                Ok(None) => break,
                Ok(Some((content, read))) => {
                    bytes += read;
                    chunk.push(Line { number, content });
                }
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        progress.inc(bytes as u64);
        let is_over = chunk.is_empty() || sender.blocking_send(chunk).is_err();
        match failed {
            Some(error) => return Err(error),
            None if is_over => return Ok(()),
            None => {}
        }
    }
}

/// The next line and the bytes that it took, `None` at the end.
fn read_line(
    reader: &mut impl BufRead,
    format: Format,
    number: u64,
) -> std::io::Result<Option<(Content, usize)>> {
    let mut line = Vec::new();
    let read = reader.by_ref().take(LINE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut line)?;
    if read == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    } else if read > LINE_BYTES_MAX {
        let skipped = reader.skip_until(b'\n')?;
        let reason = format!("line is longer than {LINE_BYTES_MAX} bytes");
        return Ok(Some((Content::Wrong(reason), read + skipped)));
    }
    Ok(Some((Content::of(format, number, &line), read)))
}

/// What is on its way, and what may join it.
struct Window {
    /// How many puts may be on their way at once.
    concurrency: usize,
    /// No key twice.
    keys: HashSet<Vec<u8>>,
    /// Of the keys and values.
    bytes: usize,
}

impl Window {
    /// Whether a put of `key` may start now. Always so while nothing is on its way.
    fn has_room(&self, key: &[u8], bytes: usize) -> bool {
        self.keys.is_empty()
            || (!self.keys.contains(key)
                && self.keys.len() < self.concurrency
                && self.bytes + bytes <= ON_THE_WAY_BYTES_MAX)
    }
}

/// An import under way.
struct Import<'c> {
    client: &'c Client,
    /// Why the format is what it is, where nobody gave one.
    guessed: Option<String>,
    /// Whether some line was not what the format wants.
    malformed: bool,
    on_the_way: FuturesUnordered<BoxFuture<'c, Ended>>,
    /// Of `on_the_way`.
    window: Window,
    created: u64,
    replaced: u64,
    /// Empty lines.
    skipped: u64,
    failures: usize,
    unknown: bool,
    /// The first [`FAILURES_NAMED`], by line.
    named: Vec<(u64, String)>,
}

impl<'c> Import<'c> {
    fn new(client: &'c Client, concurrency: usize, guessed: Option<String>) -> Self {
        Self {
            client,
            guessed,
            malformed: false,
            on_the_way: FuturesUnordered::new(),
            window: Window { concurrency, keys: HashSet::new(), bytes: 0 },
            created: 0,
            replaced: 0,
            skipped: 0,
            failures: 0,
            unknown: false,
            named: Vec::new(),
        }
    }

    /// Puts what comes, until the end, which it says, or until too much has failed. What is on its way is always
    /// awaited.
    async fn put_all(&mut self, mut lines: mpsc::Receiver<Vec<Line>>) -> bool {
        let mut at_end = false;
        while !at_end && self.failures < FAILURES_MAX {
            tokio::select! {
                chunk = lines.recv() => match chunk {
                    Some(chunk) => self.put_chunk(chunk).await,
                    None => at_end = true,
                },
                Some(ended) = self.on_the_way.next() => self.settle(ended),
            }
        }
        drop(lines);
        while let Some(ended) = self.on_the_way.next().await {
            self.settle(ended);
        }
        at_end
    }

    async fn put_chunk(&mut self, chunk: Vec<Line>) {
        for Line { number, content } in chunk {
            let (key, value) = match content {
                Content::Pair(key, value) => (key, value),
                Content::Empty => {
                    self.skipped += 1;
                    continue;
                }
                Content::Wrong(reason) => {
                    self.malformed = true;
                    self.fail(number, &reason);
                    continue;
                }
            };
            let bytes = key.len() + value.len();
            while !self.window.has_room(&key, bytes) {
                if let Some(ended) = self.on_the_way.next().await {
                    self.settle(ended);
                }
            }
            if self.failures >= FAILURES_MAX {
                return;
            }
            self.window.keys.insert(key.clone());
            self.window.bytes += bytes;
            let client = self.client;
            self.on_the_way.push(Box::pin(async move {
                let result = client.put(&key, value).await;
                Ended { number, key, bytes, result }
            }));
        }
    }

    fn settle(&mut self, ended: Ended) {
        self.window.keys.remove(&ended.key);
        self.window.bytes -= ended.bytes;
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

    /// Says what was done. What failed is built first: a reader that went away hides the summary, not the failure.
    fn report(self, output: OutputFormat) -> Result<(), Failure> {
        let failure = self.failure();
        let said = write_line(&self.summary(output));
        match failure {
            Some(failure) => Err(failure),
            None => Ok(said?),
        }
    }

    fn summary(&self, output: OutputFormat) -> String {
        let Self { created, replaced, skipped, failures, .. } = self;
        let confirmed = created + replaced;
        match output {
            OutputFormat::Text => {
                let skipped =
                    if *skipped == 0 { String::new() } else { format!(", {skipped} empty lines skipped") };
                format!("{confirmed} lines confirmed: {created} keys created, {replaced} replaced{skipped}")
            }
            OutputFormat::Json => {
                json!({"confirmed": confirmed, "created": created, "replaced": replaced, "skipped": skipped, "failed": failures})
                    .to_string()
            }
        }
    }

    fn failure(&self) -> Option<Failure> {
        if self.failures == 0 {
            return None;
        }
        let mut message = format!("import is incomplete, {} failed", self.failures);
        if self.failures >= FAILURES_MAX {
            message.push_str(", the rest was not tried");
        }
        for (number, reason) in &self.named {
            match number {
                0 => write!(message, "\n  {reason}"),
                _ => write!(message, "\n  line {number}: {reason}"),
            }
            .expect("writing to a string cannot fail");
        }
        if let Some(guessed) = self.guessed.as_ref().filter(|_| self.malformed) {
            write!(message, "\n  {guessed}").expect("writing to a string cannot fail");
        }
        Some(if self.unknown { Failure::Unknown(message) } else { Failure::Failed(message) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    fn read(reader: impl Read) -> (io::Result<()>, Vec<usize>) {
        let (sender, mut receiver) = mpsc::channel(CHUNKS_AHEAD);
        let result = read_lines(reader, Format::Lines, &ProgressBar::hidden(), &sender);
        let chunks = std::iter::from_fn(|| receiver.try_recv().ok());
        (result, chunks.map(|chunk| chunk.len()).collect())
    }

    /// Hands out one text at a time and fails at the end.
    struct Broken(Vec<&'static str>);

    impl Read for Broken {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Err(io::Error::other("pulled out"));
            }
            self.0.remove(0).as_bytes().read(buffer)
        }
    }

    /// Lines that were read before reading failed are handed over, and those before a pause without waiting.
    #[test]
    fn read_errors_and_pauses_drop_nothing() {
        let (result, chunks) = read(Broken(vec!["a\nb\n", "c\n", "d\ne"]));
        assert_eq!(result.unwrap_err().to_string(), "pulled out");
        assert_eq!(chunks, [2, 1, 1], "the line that was cut short is not handed over");
        let (result, chunks) = read(&b"a\n\nb"[..]);
        assert!(result.is_ok());
        assert_eq!(chunks, [3]);
    }

    /// Puts are bounded by number and by bytes, one key is never on its way twice, and one put always may be.
    #[test]
    fn what_is_on_its_way_is_bounded() {
        let mut window = Window { concurrency: 2, keys: HashSet::new(), bytes: 0 };
        assert!(window.has_room(b"a", 2 * ON_THE_WAY_BYTES_MAX));
        window.keys.insert(b"a".to_vec());
        window.bytes = ON_THE_WAY_BYTES_MAX - 5;
        assert!(window.has_room(b"b", 5));
        assert!(!window.has_room(b"b", 6));
        assert!(!window.has_room(b"a", 1));
        window.keys.insert(b"b".to_vec());
        assert!(!window.has_room(b"c", 1));
    }

    /// Empty lines are no keys in any format, and a last line may lack its break.
    #[test]
    fn empty_lines_are_told_apart() {
        for format in [Format::Lines, Format::Tsv, Format::Jsonl] {
            assert!(matches!(Content::of(format, 1, b""), Content::Empty));
        }
        assert!(matches!(Content::of(Format::Lines, 2, b" "), Content::Pair(..)));
        assert!(matches!(Content::of(Format::Tsv, 2, b" "), Content::Wrong(_)));
    }
}
