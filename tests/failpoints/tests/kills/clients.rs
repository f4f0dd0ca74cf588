//! Clients that append and read without a pause, in the shard that moves and elsewhere, and the history of
//! what they were answered.
//!
//! Every append is a token that says whose it is and which. At the end each key must hold each of its tokens
//! once; the checker, which knows nothing of tokens, judges the whole history.

use checker::{Limits, Operation, Recorder, Verdict};
use client::Client;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tests::{Cluster, eventually};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How many there are.
const CLIENTS: u64 = 4;

/// A call may sit out an election and the end of a move.
const DEADLINE: Duration = Duration::from_secs(60);

/// The pause between what a client does, so that the clients do not take all of the machine.
const PACE: Duration = Duration::from_millis(4);

/// Who reads everything once more at the end, as the history has it.
const LAST_READER: u64 = CLIENTS;

/// The tokens that were acknowledged, by key.
type Acknowledged = Arc<Mutex<BTreeMap<String, BTreeSet<String>>>>;

/// See the module.
pub(crate) struct Clients {
    acknowledged: Acknowledged,
    history: Recorder,
    /// Keys are of a round, so that none grows for ever; `None` ends the clients.
    round: watch::Sender<Option<usize>>,
    tasks: JoinSet<()>,
}

pub(crate) async fn connect(cluster: &Cluster) -> Client {
    let connecting = Client::builder().seeds(cluster.seeds()).deadline(DEADLINE).connect();
    connecting.await.expect("a cluster that is ready")
}

fn lock(acknowledged: &Acknowledged) -> MutexGuard<'_, BTreeMap<String, BTreeSet<String>>> {
    acknowledged.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn append(process: u64, client: &Client, key: &str, token: &str, history: &Recorder) {
    let asked = history.invoke(process, Operation::append(key, token));
    let written = client.append(key, token).await.expect("a majority lives on");
    asked.ok(checker::Answer::written(written.version.0));
}

/// A key's value, empty where it is absent.
async fn read(process: u64, client: &Client, key: &str, history: &Recorder) -> String {
    let asked = history.invoke(process, Operation::get(key));
    let Some(value) = client.get(key).await.expect("a majority lives on") else {
        asked.ok(checker::Answer::Absent);
        return String::new();
    };
    asked.ok(checker::Answer::value(&value.bytes, value.version.0));
    String::from_utf8(value.bytes.to_vec()).expect("tokens are text")
}

impl Clients {
    pub(crate) async fn start(cluster: &Cluster) -> Self {
        let (acknowledged, history) = (Acknowledged::default(), Recorder::new());
        let (round, rounds) = watch::channel(Some(0));
        let mut tasks = JoinSet::new();
        for number in 0..CLIENTS {
            let (acknowledged, history) = (acknowledged.clone(), history.clone());
            let (client, mut rounds) = (connect(cluster).await, rounds.clone());
            tasks.spawn(async move {
                for count in 0_u64.. {
                    let Some(round) = *rounds.borrow_and_update() else { return };
                    // Most clients meet at the keys of the shard that moves.
                    let key = match count % 3 {
                        2 => format!("client/{number}/{round}"),
                        at => format!("{{moving}}/{round}/{at}"),
                    };
                    let token = format!("c{number}.{count};");
                    append(number, &client, &key, &token, &history).await;
                    lock(&acknowledged).entry(key.clone()).or_default().insert(token);
                    if count % 4 == 0 {
                        read(number, &client, &key, &history).await;
                    }
                    tokio::time::sleep(PACE).await;
                }
            });
        }
        Self { acknowledged, history, round, tasks }
    }

    /// Clients use other keys from now on.
    pub(crate) fn begin_round(&self, round: usize) {
        self.round.send_replace(Some(round));
    }

    fn count(&self) -> usize {
        lock(&self.acknowledged).values().map(BTreeSet::len).sum()
    }

    /// Waits until `count` more appends were acknowledged.
    pub(crate) async fn served(&self, count: usize) {
        let before = self.count();
        let is_served = || std::future::ready((self.count() >= before + count).then_some(()));
        eventually("clients are answered", is_served).await;
    }

    /// Ends them, reads everything once more, and judges.
    pub(crate) async fn finish(self, client: &Client) {
        self.round.send_replace(None);
        self.tasks.join_all().await;
        let acknowledged = lock(&self.acknowledged).clone();
        for (key, tokens) in &acknowledged {
            let value = read(LAST_READER, client, key, &self.history).await;
            let there: Vec<&str> = value.split_inclusive(';').collect();
            assert_eq!(there.len(), tokens.len(), "{key} holds each append once: {value}");
            assert_eq!(
                there.into_iter().collect::<BTreeSet<_>>(),
                tokens.iter().map(String::as_str).collect()
            );
        }
        let history = self.history.history();
        match checker::check(&history, &Limits::default()) {
            Verdict::Linearizable => println!("{} calls are linearizable", history.calls().len()),
            Verdict::NotLinearizable(failure) => panic!("{failure:?}"),
            Verdict::Unknown(exceeded) => panic!("{exceeded}"),
        }
    }
}
