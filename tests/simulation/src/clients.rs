//! The clients: each a session of the client crate's, with several calls under way, on a few keys that all
//! share.

use crate::fleet::{Fleet, http_address};
use crate::http::Http;
use crate::plan::{Stream, seed_of};
use checker::{Answer, Operation, Recorder};
use client::{Client, Config, Error, Version};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::sleep;

/// The time of one call.
const DEADLINE: Duration = Duration::from_secs(6);

/// The processes of the last reads, beyond those of all callers.
const LAST_PROCESS: u64 = 1_000_000;

/// What callers share.
pub struct Workload {
    fleet: Arc<Fleet>,
    recorder: Recorder,
    ends: AtomicBool,
    /// Numbers what is written, so that every value is another.
    next: AtomicU64,
    processes: AtomicU64,
    called: AtomicU64,
    answered: AtomicU64,
}

impl Workload {
    /// Nothing was called yet.
    pub fn new(fleet: &Arc<Fleet>) -> Arc<Self> {
        let trace = fleet.trace.clone();
        Arc::new(Self {
            fleet: fleet.clone(),
            recorder: Recorder::with_clock(move || trace.now_ns()),
            ends: AtomicBool::new(false),
            next: AtomicU64::new(0),
            processes: AtomicU64::new(0),
            called: AtomicU64::new(0),
            answered: AtomicU64::new(0),
        })
    }

    /// What was called and answered.
    pub fn history(&self) -> checker::History {
        self.recorder.history()
    }

    /// How many operations were called, and how many of them answered.
    pub fn counts(&self) -> (u64, u64) {
        (self.called.load(Ordering::Relaxed), self.answered.load(Ordering::Relaxed))
    }

    /// Lets callers end after the call that they are at.
    pub fn end(&self) {
        self.ends.store(true, Ordering::Relaxed);
    }

    /// A client, connected; it tries until it is.
    pub async fn connect(&self, number: u64, http: Http) -> Client {
        let seeds = self.fleet.nodes().into_iter().map(http_address);
        let seed = Some(seed_of(self.fleet.plan.seed, Stream::Clients, number << 16));
        let config = Config { seeds: seeds.collect(), deadline: DEADLINE, seed, ..Config::default() };
        loop {
            let builder = Client::builder().config(config.clone()).transport(Arc::new(http.clone()));
            match builder.connect().await {
                Ok(client) => return client,
                Err(error) => {
                    self.fleet.trace.note(format_args!("c{number} is not connected: {error}"));
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// Calls, one after the other, until told to end.
    pub async fn call_on(self: Arc<Self>, client: Client, number: u64, caller: u64) {
        let mut rng = StdRng::seed_from_u64(seed_of(
            self.fleet.plan.seed,
            Stream::Clients,
            (number << 16) + 1 + caller,
        ));
        let mut process = self.process();
        // The version of each key that this caller saw last.
        let mut seen = vec![0; usize::try_from(self.fleet.plan.keys).unwrap_or(1)];
        while !self.ends.load(Ordering::Relaxed) {
            let place = rng.random_range(0..seen.len());
            let key = key(place);
            let value =
                format!("{number}.{caller}.{} ", self.next.fetch_add(1, Ordering::Relaxed)).into_bytes();
            let operation = match rng.random_range(0..20) {
                0..=7 => Operation::get(&key),
                8..=10 => Operation::put(&key, &value),
                11..=15 => Operation::append(&key, &value),
                16..=18 => Operation::compare_and_set(&key, seen[place], &value),
                _ => Operation::delete(&key),
            };
            if !self.call(&client, process, operation, &mut seen[place]).await {
                // Its last call may still take effect: whoever goes on is somebody else.
                process = self.process();
            }
            sleep(Duration::from_millis(rng.random_range(0..=self.fleet.plan.pause_ms_max))).await;
        }
    }

    /// Reads every key once more.
    pub async fn read_all(&self, client: &Client) -> bool {
        let mut all = true;
        for place in 0..usize::try_from(self.fleet.plan.keys).unwrap_or(1) {
            let mut seen = 0;
            let before = self.counts().1;
            self.call(client, LAST_PROCESS, Operation::get(key(place)), &mut seen).await;
            all &= self.counts().1 > before;
        }
        all
    }

    fn process(&self) -> u64 {
        self.processes.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether the outcome is known.
    async fn call(&self, client: &Client, process: u64, operation: Operation, seen: &mut u64) -> bool {
        self.called.fetch_add(1, Ordering::Relaxed);
        self.fleet.trace.note(format_args!("p{process} calls {}", shown(&operation)));
        let ticket = self.recorder.invoke(process, operation.clone());
        let answer = ask(client, &operation).await;
        match &answer {
            Ok(answer) => self.fleet.trace.note(format_args!("p{process} is told {}", told(answer))),
            Err(error) => self.fleet.trace.note(format_args!("p{process} fails: {error}")),
        }
        match answer {
            Ok(answer) => {
                self.answered.fetch_add(1, Ordering::Relaxed);
                match &answer {
                    Answer::Value { version: Some(version), .. }
                    | Answer::Written { version: Some(version) }
                    | Answer::Mismatch { actual: Some(version) } => *seen = *version,
                    Answer::Absent | Answer::Deleted { .. } => *seen = 0,
                    _ => {}
                }
                ticket.ok(answer);
                true
            }
            Err(Error::Indeterminate { .. }) => {
                ticket.info();
                false
            }
            Err(error) => {
                if !matches!(error, Error::Unavailable { .. }) {
                    self.fleet
                        .violations
                        .add(format!("p{process} is refused {}: {error}", shown(&operation)));
                }
                ticket.fail();
                true
            }
        }
    }
}

fn key(place: usize) -> Vec<u8> {
    format!("key{place}").into_bytes()
}

/// An operation for people: values here are text.
fn shown(operation: &Operation) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match operation {
        Operation::Get { key } => format!("get {}", text(key)),
        Operation::Put { key, value } => format!("put {} {}", text(key), text(value)),
        Operation::Append { key, value } => format!("append {} {}", text(key), text(value)),
        Operation::CompareAndSet { key, expect, value } => {
            format!("compare-and-set {} at {expect} {}", text(key), text(value))
        }
        Operation::Delete { key } => format!("delete {}", text(key)),
        Operation::Scan { prefix } => format!("scan {}", text(prefix)),
    }
}

/// An answer for people.
fn told(answer: &Answer) -> String {
    match answer {
        Answer::Value { value, version } => format!("{version:?} {}", String::from_utf8_lossy(value)),
        other => format!("{other:?}"),
    }
}

async fn ask(client: &Client, operation: &Operation) -> Result<Answer, Error> {
    let written = |written: client::Written| Answer::written(written.version.0);
    match operation {
        Operation::Get { key } => Ok(match client.get(key).await? {
            Some(value) => Answer::value(&value.bytes, value.version.0),
            None => Answer::Absent,
        }),
        Operation::Put { key, value } => client.put(key, value).await.map(written),
        Operation::Append { key, value } => client.append(key, value).await.map(written),
        Operation::CompareAndSet { key, expect, value } => {
            match client.compare_and_set(key, Version(*expect), value).await {
                Err(Error::VersionMismatch { current }) => Ok(Answer::mismatch(current.0)),
                other => other.map(written),
            }
        }
        Operation::Delete { key } => match client.delete(key).await {
            Ok(_) => Ok(Answer::deleted(true)),
            Err(Error::NotFound) => Ok(Answer::deleted(false)),
            Err(error) => Err(error),
        },
        Operation::Scan { .. } => Ok(Answer::Items(Vec::new())),
    }
}
