//! What was acknowledged survives the death of all nodes at once, at any instant.

use client::{Client, Range};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tests::{Cluster, Dice, Shape, eventually};
use tokio::task::JoinSet;

/// How often everything is killed.
const ROUNDS: u64 = 50;

/// Writers in each round; each puts fresh keys and appends to one key of its own by turns.
const WRITERS: u64 = 16;

/// Segments and snapshots so small that each round begins several: the deaths fall into rotations, snapshots and purges
/// as well as into plain appends.
const SMALL: [&str; 4] = [
    "storage.segment_bytes=65536",
    "storage.slack_bytes=65536",
    "raft.snapshot_log_bytes_min=32768",
    "raft.log_bytes_kept=8192",
];

/// The instants of death after the round's first writes were acknowledged, in milliseconds.
const KILL_AFTER_MS: std::ops::Range<u64> = 0..250;

/// What one write could have done, and whether it was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Tried,
    Acknowledged,
}

/// Everything that was ever tried: what each fresh key was to hold, and the tokens appended by each writer in order.
#[derive(Debug, Default)]
struct Ledger {
    puts: BTreeMap<String, (String, Known)>,
    appends: BTreeMap<String, Vec<(String, Known)>>,
    acknowledged: Acknowledged,
}

/// How many writes were acknowledged.
#[derive(Clone, Copy, Debug, Default)]
struct Acknowledged {
    puts: u64,
    appends: u64,
}

type Shared = Arc<Mutex<Ledger>>;

fn with<T>(ledger: &Shared, change: impl FnOnce(&mut Ledger) -> T) -> T {
    change(&mut ledger.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Values of many lengths, each its own.
fn value_of(round: u64, writer: u64, number: u64) -> String {
    let filling = (round * 7 + writer * 131 + number * 977) % 2_000;
    format!("{round} {writer} {number} {}", "x".repeat(filling as usize))
}

/// Writes until it is aborted. Every write is noted as tried before it is sent and as acknowledged after.
async fn write(client: Client, ledger: Shared, round: u64, writer: u64) {
    for number in 0.. {
        let (key, value) = (format!("put/{round:02}/{writer}/{number:06}"), value_of(round, writer, number));
        with(&ledger, |ledger| ledger.puts.insert(key.clone(), (value.clone(), Known::Tried)));
        if client.put(&key, &value).await.is_ok() {
            with(&ledger, |ledger| {
                ledger.puts.insert(key, (value, Known::Acknowledged));
                ledger.acknowledged.puts += 1;
            });
        }
        let (key, token) = (format!("append/{writer}"), format!("{round}.{number},"));
        let place = with(&ledger, |ledger| {
            let tokens = ledger.appends.entry(key.clone()).or_default();
            tokens.push((token.clone(), Known::Tried));
            tokens.len() - 1
        });
        if client.append(&key, &token).await.is_ok() {
            with(&ledger, |ledger| {
                ledger.appends.get_mut(&key).expect("noted above")[place].1 = Known::Acknowledged;
                ledger.acknowledged.appends += 1;
            });
        }
    }
}

/// Ends the writers. One that has ended by itself has failed.
async fn end(mut writers: JoinSet<()>) {
    writers.abort_all();
    while let Some(ended) = writers.join_next().await {
        let error = ended.expect_err("writers write until they are aborted");
        assert!(error.is_cancelled(), "a writer failed: {error}");
    }
}

/// Compares all that is stored with all that was tried.
fn compare(stored: &BTreeMap<String, String>, ledger: &Ledger) {
    for (key, (value, known)) in &ledger.puts {
        match (stored.get(key), known) {
            (Some(found), _) => assert_eq!(found, value, "{key} holds what nobody put there"),
            (None, Known::Tried) => {}
            (None, Known::Acknowledged) => panic!("{key} was acknowledged and is lost"),
        }
    }
    for (key, tokens) in &ledger.appends {
        let found = stored.get(key).map_or("", String::as_str);
        let mut rest = found;
        for (token, known) in tokens {
            match (rest.strip_prefix(token.as_str()), known) {
                (Some(after), _) => rest = after,
                (None, Known::Tried) => {}
                (None, Known::Acknowledged) => panic!("{key} lacks {token} in its place: {found}"),
            }
        }
        assert_eq!(rest, "", "{key} holds more than was appended, or twice, or out of order: {found}");
    }
    let known = |key: &&String| ledger.puts.contains_key(*key) || ledger.appends.contains_key(*key);
    assert_eq!(stored.keys().find(|key| !known(key)), None, "a key that nobody wrote");
}

async fn stored(client: &Client) -> BTreeMap<String, String> {
    let mut stored = BTreeMap::new();
    let mut scan = client.scan(Range::prefix(""));
    while let Some(page) = scan.next_page().await.expect("a cluster that is ready answers") {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("the writers write text");
        stored.extend(page.records.iter().map(|record| (text(&record.key), text(&record.value))));
    }
    stored
}

async fn connect(cluster: &Cluster) -> Client {
    let client = Client::builder().seeds(cluster.seeds()).deadline(Duration::from_secs(60));
    client.connect().await.expect("a cluster that is ready")
}

/// All three processes are killed at fifty random instants under load; after each, every acknowledged write is there
/// with its value, every append is there once and in order, and nothing is there that nobody wrote.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost() {
    let mut dice = Dice::roll("nothing_acknowledged_is_lost");
    let shape = Shape { settings: SMALL.map(String::from).to_vec(), ..Shape::default() };
    let mut cluster = Cluster::start(shape.with_fast_elections()).await;
    let ledger = Shared::default();
    for round in 0..ROUNDS {
        let client = connect(&cluster).await;
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            writers.spawn(write(client.clone(), ledger.clone(), round, writer));
        }
        // Every other round proves something: for each writer a put, and some appends. The others may die before
        // anything is acknowledged, or while the nodes still recover.
        let acknowledged = || with(&ledger, |ledger| ledger.acknowledged);
        let before = acknowledged();
        let enough = || {
            let now = acknowledged();
            let enough = now.puts >= before.puts + WRITERS && now.appends > before.appends;
            std::future::ready(enough.then_some(()))
        };
        if round % 2 == 0 {
            eventually("writes of this round are acknowledged", enough).await;
        }
        // An instant of death, not a wait for something: whatever the writers have done by then is right.
        tokio::time::sleep(Duration::from_millis(dice.within(KILL_AFTER_MS))).await;
        cluster.kill_all().await;
        end(writers).await;
        cluster.start_all().await;
        let stored = stored(&connect(&cluster).await).await;
        with(&ledger, |ledger| compare(&stored, ledger));
        println!("round {round}: {} keys are as they should be", stored.len());
    }
    let status = cluster.nodes()[0].get_json("/v1/status").await.expect("a node that is ready answers");
    let replicas = status["groups"].as_array().expect("a node tells its replicas");
    let data = replicas.iter().find(|replica| replica["id"] == 1).expect("it has one of the first group");
    assert!(data["snapshot"].is_object(), "no snapshot was ever made: {status}");
    println!("acknowledged in all: {:?}", with(&ledger, |ledger| ledger.acknowledged));
}

/// A writer that panics fails the test.
#[tokio::test]
#[should_panic(expected = "a writer failed")]
async fn failed_writers_are_noticed() {
    let mut writers = JoinSet::new();
    writers.spawn(async { panic!("a token is out of place") });
    tokio::task::yield_now().await;
    end(writers).await;
}

/// One acknowledged put and two appends, of which the first was acknowledged.
fn example() -> Ledger {
    let mut ledger = Ledger::default();
    ledger.puts.insert("put".into(), ("value".into(), Known::Acknowledged));
    ledger
        .appends
        .insert("append".into(), vec![("1,".into(), Known::Acknowledged), ("2,".into(), Known::Tried)]);
    ledger
}

fn holding(append: &str, put: Option<&str>) -> BTreeMap<String, String> {
    let put = put.map(|value| ("put".into(), value.into()));
    put.into_iter().chain([("append".into(), append.into())]).collect()
}

/// The comparison takes what may be, with and without the write that nobody acknowledged.
#[test]
fn comparison_takes_what_may_be() {
    compare(&holding("1,", Some("value")), &example());
    compare(&holding("1,2,", Some("value")), &example());
}

/// The comparison notices a lost or changed value, and an append that is lost, doubled or out of order.
#[test]
fn comparison_notices_what_may_not_be() {
    for (append, put) in [
        ("1,", None),
        ("1,", Some("other")),
        ("2,", Some("value")),
        ("1,1,", Some("value")),
        ("2,1,", Some("value")),
        ("1,2,2,", Some("value")),
        ("1,3,", Some("value")),
    ] {
        let outcome = std::panic::catch_unwind(|| compare(&holding(append, put), &example()));
        assert!(outcome.is_err(), "{append} {put:?} went unnoticed");
    }
}
