//! Clients that append under names of their own, over and over until they are answered, and what they must
//! read.
//!
//! Every append is a token that says whose it is and which: a key's value is then the log of all that took
//! effect, in order. An acknowledged token stands in it just once from then on; each client's stand in the
//! order in which it sent them.
//!
//! Two judges look at what they saw: this module at each read at once, by the tokens; and at the end the
//! checker, which knows nothing of tokens, at the whole history, with every answer's version.

use crate::door::{Answer, Door};
use checker::{Limits, Operation, Recorder, Verdict};
use rand::RngExt;
use reqwest::Method;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// How long a client waits for one answer before it asks another node.
const ANSWER_TIME: Duration = Duration::from_secs(3);

/// The pause between what a client does, so that the clients do not take all of the machine.
const PACE: Duration = Duration::from_millis(4);

/// Who reads everything once more at the end, as the history has it.
const LAST_READER: u64 = u64::MAX;

/// The nodes that can be asked.
pub(crate) type Doors = Arc<Mutex<BTreeMap<u64, Door>>>;

/// What was acknowledged, by key.
type Acknowledged = Arc<Mutex<BTreeMap<String, BTreeSet<String>>>>;

/// See the module.
pub(crate) struct Clients {
    acknowledged: Acknowledged,
    history: Recorder,
    doors: Doors,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

/// Asks whichever node answers, until one does.
async fn insist(doors: &Doors, method: &Method, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    loop {
        let door = {
            let doors = doors.lock().unwrap();
            let at = raftstore::random().random_range(0..doors.len());
            doors.values().nth(at).unwrap().clone()
        };
        let asking = door.try_ask(method.clone(), path, headers, body.to_owned());
        match timeout(ANSWER_TIME, asking).await {
            Ok(Ok(answer)) if answer.is_done() || answer.status == 404 => return answer,
            Ok(Ok(answer)) => {
                assert!(answer.status >= 500 || answer.status == 429, "{path}: {answer:?}");
                assert_eq!(answer.json()["retryable"], true, "{path}: {answer:?}");
            }
            // It died, or nobody heard it.
            Ok(Err(_)) | Err(_) => {}
        }
        sleep(PACE).await;
    }
}

/// The key's version, by the answer to a read or a write of it.
fn version(answer: &Answer) -> u64 {
    let tag = answer.header("etag").unwrap_or_else(|| panic!("{answer:?} tells no version"));
    tag.trim_matches('"').parse().unwrap_or_else(|error| panic!("{answer:?}: {error}"))
}

/// Reads a key for `process`; its value, empty where it is absent.
async fn read(process: u64, doors: &Doors, key: &str, history: &Recorder) -> String {
    let asked = history.invoke(process, Operation::get(key));
    let answer = insist(doors, &Method::GET, &format!("/v1/kv/{key}"), &[], "").await;
    if answer.status == 404 {
        asked.ok(checker::Answer::Absent);
        return String::new();
    }
    asked.ok(checker::Answer::value(&answer.body, version(&answer)));
    answer.text().to_owned()
}

/// Holds what a key was read as against what must stand in it.
fn check(key: &str, value: &str, must: &BTreeSet<String>) {
    let tokens: Vec<&str> = value.split_terminator(';').collect();
    let mut seen = BTreeSet::new();
    let mut last: BTreeMap<&str, u64> = BTreeMap::new();
    for token in &tokens {
        assert!(seen.insert(*token), "{key}: {token} took effect twice");
        let (client, number) = token.split_once('.').unwrap();
        let number: u64 = number.parse().unwrap();
        let before = last.insert(client, number);
        assert!(before.is_none_or(|before| before < number), "{key}: {token} after {before:?}");
    }
    for token in must {
        assert!(seen.contains(token.as_str()), "{key}: {token} was acknowledged and is lost");
    }
}

impl Clients {
    /// Starts `count` of them on `keys`.
    pub(crate) fn start(doors: &Doors, keys: &[String], count: usize) -> Self {
        let acknowledged: Acknowledged =
            Arc::new(Mutex::new(keys.iter().map(|key| (key.clone(), BTreeSet::new())).collect()));
        let (stop, stopped) = watch::channel(false);
        let (history, mut tasks) = (Recorder::new(), JoinSet::new());
        for client in 0..count {
            let (acknowledged, history) = (acknowledged.clone(), history.clone());
            let client = Client { number: client as u64, keys: keys.to_vec(), acknowledged, history };
            tasks.spawn(client.run(doors.clone(), stopped.clone()));
        }
        Self { acknowledged, history, doors: doors.clone(), stop, tasks }
    }

    /// How many appends were acknowledged so far.
    pub(crate) fn count(&self) -> usize {
        self.acknowledged.lock().unwrap().values().map(BTreeSet::len).sum()
    }

    /// Ends them, each after its present request, and reads everything once more.
    pub(crate) async fn finish(mut self) {
        self.stop.send_replace(true);
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
        let acknowledged = self.acknowledged.lock().unwrap().clone();
        for (key, must) in acknowledged {
            let value = read(LAST_READER, &self.doors, &key, &self.history).await;
            check(&key, &value, &must);
            // All that was sent was acknowledged in the end.
            assert_eq!(value.split_terminator(';').count(), must.len(), "{key}");
        }
        let history = self.history.history();
        match checker::check(&history, &Limits::default()) {
            Verdict::Linearizable => println!("{} calls are linearizable", history.calls().len()),
            Verdict::NotLinearizable(failure) => panic!("{failure:?}"),
            Verdict::Unknown(exceeded) => panic!("{exceeded}"),
        }
    }
}

/// One of them.
struct Client {
    number: u64,
    keys: Vec<String>,
    acknowledged: Acknowledged,
    history: Recorder,
}

impl Client {
    async fn run(self, doors: Doors, stopped: watch::Receiver<bool>) {
        let Self { number: client, keys, acknowledged, history } = self;
        for number in (0_u64..).take_while(|_| !*stopped.borrow()) {
            let key = &keys[raftstore::random().random_range(0..keys.len())];
            let (path, token) = (format!("/v1/kv/{key}"), format!("c{client}.{number}"));
            let (name, value) = ([("idempotency-key", token.as_str())], format!("{token};"));
            let asked = history.invoke(client, Operation::append(key, &value));
            let appended = insist(&doors, &Method::POST, &path, &name, &value).await;
            assert!(appended.is_done(), "{key}: {appended:?}");
            asked.ok(checker::Answer::written(version(&appended)));
            acknowledged.lock().unwrap().get_mut(key).unwrap().insert(token.clone());
            if number % 4 == 0 {
                let must = acknowledged.lock().unwrap()[key].clone();
                check(key, &read(client, &doors, key, &history).await, &must);
            }
            sleep(PACE).await;
        }
    }
}
