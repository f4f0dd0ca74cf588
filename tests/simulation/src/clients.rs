//! The clients: each a session of the client crate's, with several calls under way (single ones, batches and
//! scans, by turns slowly and in bursts) on a few keys that all share.

use crate::fleet::{Fleet, http_address};
use crate::http::Http;
use crate::plan::{Stream, seed_of};
use crate::report::Check;
use crate::walkers::Told;
use checker::{Answer, Item, Operation, Recorder, Ticket};
use client::{Client, Config, Error, Expect, Range, Reply, Version};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep;

/// The time of one call.
const DEADLINE: Duration = Duration::from_secs(6);

/// The processes of the last reads, beyond those of all callers.
const LAST_PROCESS: u64 = 1_000_000;

/// What keys begin with that are anywhere, and those that are all on one shard.
const PREFIX: &str = "key";
const HEAVY_PREFIX: &str = "{heavy}/key";

/// The size of a value that only takes room, and the pause before the next.
const HEAVY_VALUE_BYTES: usize = 24 << 10;
const HEAVY_PAUSE: Duration = Duration::from_millis(400);

/// How likely a caller stops pausing after a call, and for how many calls.
const BURST_PROBABILITY: f64 = 0.02;
const BURST: std::ops::Range<u32> = 5..40;

/// How likely a caller reads what somebody else has written, as soon as that is known to be written.
const LOOKS_PROBABILITY: f64 = 0.2;

/// A client, and the network that it has.
#[derive(Clone, Debug)]
pub struct Connected {
    client: Client,
    http: Http,
}

impl Connected {
    /// What is known of a call that began when so many requests had been delivered once more: where others were since,
    /// one that was refused may have been carried out after all. TCP does no such thing, and HTTP's proxies must not.
    fn since(&self, repeated: u64, answer: Result<Answer, Error>) -> Result<Answer, Error> {
        match answer {
            Err(Error::Unavailable { attempts, last }) if self.http.repeated() > repeated => {
                Err(Error::Indeterminate { attempts, last })
            }
            known => known,
        }
    }
}

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
    /// The key that was written last, as far as somebody was told.
    written: watch::Sender<Vec<u8>>,
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
            written: watch::Sender::new(Vec::new()),
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

    /// Lets callers end after the call that they are at, or the next where they are at none.
    pub fn end(&self) {
        self.ends.store(true, Ordering::Relaxed);
    }

    /// A client, connected; it tries until it is.
    pub async fn connect(&self, number: u64, http: Http) -> Connected {
        let seeds = self.fleet.nodes().into_iter().map(http_address);
        let seed = Some(seed_of(self.fleet.plan.seed, Stream::Clients, number << 16));
        let config = Config { seeds: seeds.collect(), deadline: DEADLINE, seed, ..Config::default() };
        loop {
            let builder = Client::builder().config(config.clone()).transport(Arc::new(http.clone()));
            match builder.connect().await {
                Ok(client) => return Connected { client, http },
                Err(error) => {
                    self.fleet.trace.note(format_args!("c{number} is not connected: {error}"));
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// Calls, one after the other, until told to end.
    pub async fn call_on(self: Arc<Self>, client: Connected, number: u64, caller: u64) {
        let mut rng = StdRng::seed_from_u64(seed_of(
            self.fleet.plan.seed,
            Stream::Clients,
            (number << 16) + 1 + caller,
        ));
        let keys = self.fleet.plan.keys;
        let mut process = self.process();
        // The version of each key that this caller saw last.
        let mut seen = vec![0; keys];
        // How many calls follow each other without a pause.
        let mut burst = 0_u32;
        while !self.has_ended() {
            let written = match burst {
                0 => self.pause(&mut rng, self.fleet.plan.pause_ms_max, LOOKS_PROBABILITY).await,
                _ => None,
            };
            if let Some(written) = written {
                if !self.call(&client, process, Operation::get(written), &mut 0).await {
                    process = self.process();
                }
                continue;
            }
            match rng.random_range(0..40) {
                0 => self.scan(&client, &mut rng).await,
                1..=3 => {
                    let mut places: Vec<usize> = (0..keys).collect();
                    places.shuffle(&mut rng);
                    places.truncate(rng.random_range(2..=4));
                    let operations = places
                        .into_iter()
                        .map(|place| self.draw(&mut rng, (number, caller), place, seen[place]));
                    self.batch(&client, operations.collect()).await;
                }
                _ => {
                    let place = rng.random_range(0..keys);
                    let operation = self.draw(&mut rng, (number, caller), place, seen[place]);
                    if !self.call(&client, process, operation, &mut seen[place]).await {
                        // Its last call may still take effect: whoever goes on is somebody else.
                        process = self.process();
                    }
                }
            }
            if burst == 0 && rng.random_bool(BURST_PROBABILITY) {
                burst = rng.random_range(BURST);
            }
            burst = burst.saturating_sub(1);
        }
    }

    /// Waits a while; with the probability `looks` no longer than until somebody is told of a write: the key that it
    /// wrote, then.
    ///
    /// What is stale somewhere is stale for moments mostly, which are just after a write was told to be done.
    pub async fn pause(&self, rng: &mut StdRng, ms_max: u64, looks: f64) -> Option<Vec<u8>> {
        let pause = sleep(Duration::from_millis(rng.random_range(0..=ms_max)));
        if !rng.random_bool(looks) {
            pause.await;
            return None;
        }
        let mut writes = self.written.subscribe();
        tokio::select! {
            biased;
            Ok(()) = writes.changed() => Some(writes.borrow_and_update().clone()),
            () = pause => None,
        }
    }

    /// Lets those know who wait for a write.
    fn note_written(&self, operation: &Operation, answer: &Answer) {
        if let (Some(key), Answer::Written { .. } | Answer::Deleted { .. }) = (operation.key(), answer) {
            self.written.send_replace(key.to_vec());
        }
    }

    /// What a caller asks next of a key that it last saw at version `seen`.
    fn draw(&self, rng: &mut StdRng, caller: (u64, u64), place: usize, seen: u64) -> Operation {
        let (number, caller) = caller;
        let key = key(place);
        let value = self.value(number, caller);
        match rng.random_range(0..20) {
            0..=7 => Operation::get(&key),
            8..=10 => Operation::put(&key, value),
            11..=15 => Operation::append(&key, value),
            16..=18 => Operation::compare_and_set(&key, seen, value),
            _ => Operation::delete(&key),
        }
    }

    /// Asks for several things at once; each is a process of its own, for they are at work at the same time.
    async fn batch(&self, client: &Connected, operations: Vec<Operation>) {
        let calls: Vec<(u64, Operation)> =
            operations.into_iter().map(|operation| (self.process(), operation)).collect();
        let tickets: Vec<Ticket> =
            calls.iter().map(|(process, operation)| self.begin(*process, operation)).collect();
        let asked = calls.iter().filter_map(|(_, operation)| part(operation));
        let repeated = client.http.repeated();
        let answers = client.client.batch(asked).await;
        for (((process, operation), ticket), answer) in calls.iter().zip(tickets).zip(answers) {
            let answer = client.since(repeated, answered(answer));
            self.end_call(*process, operation, ticket, answer, &mut 0);
        }
    }

    /// Lists keys, a few on each page.
    async fn scan(&self, client: &Connected, rng: &mut StdRng) {
        let process = self.process();
        let prefix = if rng.random_bool(0.5) { PREFIX } else { HEAVY_PREFIX };
        let operation = Operation::scan(prefix);
        let range = Range { page_records: rng.random_range(1..=8), ..Range::prefix(prefix) };
        let ticket = self.begin(process, &operation);
        let mut pages = client.client.scan(range);
        let listed = async {
            let mut items = Vec::new();
            while let Some(page) = pages.next_page().await? {
                items.extend(page.records.into_iter().map(|record| Item {
                    key: record.key.to_vec(),
                    value: record.value.to_vec(),
                    version: Some(record.version.0),
                }));
            }
            Ok(Answer::Items(items))
        };
        let answer = listed.await;
        self.end_call(process, &operation, ticket, answer, &mut 0);
    }

    /// Makes the shard of the heavy keys heavy, where the plan wants that, so that its copies take a while: by
    /// writing values that nobody looks at, over and over.
    pub async fn weigh_down(self: Arc<Self>, client: Connected) {
        let values = self.fleet.plan.heavy_values;
        for number in (0..values).cycle() {
            if self.has_ended() {
                return;
            }
            // Last in its shard: what is changed there most is what a copy has passed.
            let key = format!("{{heavy}}/z{number}");
            let value = vec![u8::try_from(number).unwrap_or(0); HEAVY_VALUE_BYTES];
            if let Err(error) = client.client.put(key, value).await {
                self.fleet.trace.note(format_args!("the heavy shard does not grow: {error}"));
            }
            sleep(HEAVY_PAUSE).await;
        }
    }

    /// Reads every key once more.
    pub async fn read_all(&self, client: &Connected) -> bool {
        let mut all = true;
        for place in 0..self.fleet.plan.keys {
            let mut seen = 0;
            let before = self.counts().1;
            self.call(client, LAST_PROCESS, Operation::get(key(place)), &mut seen).await;
            all &= self.counts().1 > before;
        }
        all
    }

    /// Whether callers are to end.
    pub fn has_ended(&self) -> bool {
        self.ends.load(Ordering::Relaxed)
    }

    /// A value that nobody else writes.
    pub fn value(&self, who: impl Display, caller: u64) -> String {
        format!("{who}.{caller}.{} ", self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Another process.
    pub fn process(&self) -> u64 {
        self.processes.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether the outcome is known.
    async fn call(&self, client: &Connected, process: u64, operation: Operation, seen: &mut u64) -> bool {
        let ticket = self.begin(process, &operation);
        let repeated = client.http.repeated();
        let answer = client.since(repeated, ask(&client.client, &operation).await);
        self.end_call(process, &operation, ticket, answer, seen)
    }

    /// Notes that `process` asks for something.
    pub fn begin(&self, process: u64, operation: &Operation) -> Ticket {
        self.called.fetch_add(1, Ordering::Relaxed);
        self.fleet.trace.note(format_args!("p{process} calls {}", shown(operation)));
        self.recorder.invoke(process, operation.clone())
    }

    /// Notes what a walker was told; whether the outcome is known.
    pub fn end_walk(&self, process: u64, operation: &Operation, ticket: Ticket, what: Told) -> bool {
        match what {
            Told::Answer(answer) => {
                self.fleet.trace.note(format_args!("p{process} is told {}", told(&answer)));
                self.answered.fetch_add(1, Ordering::Relaxed);
                self.note_written(operation, &answer);
                ticket.ok(answer);
                true
            }
            Told::Nothing => {
                self.fleet.trace.note(format_args!("p{process} is told that nothing was done"));
                ticket.fail();
                true
            }
            Told::Unknown => {
                self.fleet.trace.note(format_args!("p{process} is told nothing"));
                ticket.info();
                false
            }
        }
    }

    /// Whether the outcome is known.
    fn end_call(
        &self,
        process: u64,
        operation: &Operation,
        ticket: Ticket,
        answer: Result<Answer, Error>,
        seen: &mut u64,
    ) -> bool {
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
                self.note_written(operation, &answer);
                ticket.ok(answer);
                true
            }
            Err(Error::Indeterminate { .. }) => {
                ticket.info();
                false
            }
            Err(error) => {
                if !matches!(error, Error::Unavailable { .. }) {
                    let what = format!("p{process} is refused {}: {error}", shown(operation));
                    self.fleet.violations.add(Check::Refusals, what);
                }
                ticket.fail();
                true
            }
        }
    }
}

/// The keys that callers share: every third is on one shard with all others of these, the rest are anywhere.
pub fn key(place: usize) -> Vec<u8> {
    let prefix = if place.is_multiple_of(3) { HEAVY_PREFIX } else { PREFIX };
    format!("{prefix}{place}").into_bytes()
}

/// An operation as a part of a batch; `None` for a scan.
fn part(operation: &Operation) -> Option<client::Operation> {
    let at = |expect: u64| if expect == 0 { Expect::Absent } else { Expect::Version(Version(expect)) };
    Some(match operation {
        Operation::Get { key } => client::Operation::get(key),
        Operation::Put { key, value } => client::Operation::put(key, value, Expect::Any),
        Operation::Append { key, value } => client::Operation::append(key, value, Expect::Any),
        Operation::CompareAndSet { key, expect, value } => client::Operation::put(key, value, at(*expect)),
        Operation::Delete { key } => client::Operation::delete(key, Expect::Any),
        Operation::Scan { .. } => return None,
    })
}

/// What a part of a batch was answered.
fn answered(reply: Result<Reply, Error>) -> Result<Answer, Error> {
    match reply {
        Ok(Reply::Value(Some(value))) => Ok(Answer::value(&value.bytes, value.version.0)),
        Ok(Reply::Value(None)) => Ok(Answer::Absent),
        Ok(Reply::Written(written)) => Ok(Answer::written(written.version.0)),
        Ok(Reply::Deleted(_)) => Ok(Answer::deleted(true)),
        Err(Error::NotFound) => Ok(Answer::deleted(false)),
        Err(Error::VersionMismatch { current }) => Ok(Answer::mismatch(current.0)),
        Err(error) => Err(error),
    }
}

/// An operation for people: values here are text.
pub fn shown(operation: &Operation) -> String {
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
pub fn told(answer: &Answer) -> String {
    match answer {
        Answer::Value { value, version } => format!("{version:?} {}", String::from_utf8_lossy(value)),
        Answer::Items(items) => format!("{} items", items.len()),
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
