//! Each write takes effect as often as the client says: once where it succeeded, never where it failed without
//! effect, at most once where the outcome is unknown.

use crate::machine::SESSION_TTL;
use crate::network::{Faults, Network};
use flotilla_client::{Client, Config, Error, Expect, IDLE_MAX, Outcome, Version};
use futures_util::future::join_all;
use std::collections::BTreeSet;
use std::future::Future;
use std::time::Duration;

const LATE_MAX: Duration = Duration::from_secs(8);

fn run<F: Future<Output = ()>>(test: F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime of one thread").block_on(test);
}

/// A network that does everything wrong, each thing more or less as the seed says.
fn stormy(seed: u64) -> Network {
    let level = |shift: u32| ((seed >> shift) % 4) as f64 / 3.0;
    let faults = Faults {
        refuse_connection: 0.1 * level(0),
        drop_request: 0.1 * level(2),
        drop_reply: 0.15 * level(4),
        duplicate: 0.3 * level(1),
        late_max: LATE_MAX,
        delay_max: Duration::from_millis(26),
        bytes_per_second: None,
        item_refused: 0.1 * level(3),
        item_forgotten: 0.1 * level(5),
        change_leader: 0.05,
    };
    Network::new(seed, faults)
}

#[derive(Default)]
struct Tally {
    done: usize,
    none: usize,
    unknown: usize,
}

/// Appends `count` tokens to `key`, one after the other, and returns each with what the client said.
async fn append_tokens(
    client: &Client,
    key: &str,
    writer: usize,
    count: usize,
) -> Vec<(String, Option<Outcome>)> {
    let mut said = Vec::new();
    for number in 0..count {
        let token = format!("<{writer}:{number}>");
        let result = client.append(key, &token).await;
        said.push((token, result.err().map(|error| error.outcome())));
    }
    said
}

/// Compares what writers were told with what is there.
fn check(seed: u64, value: &str, said: &[(String, Option<Outcome>)], tally: &mut Tally) {
    for (token, outcome) in said {
        let times = value.matches(token.as_str()).count();
        let (counter, allowed) = match outcome {
            None => (&mut tally.done, 1..=1),
            Some(Outcome::None) => (&mut tally.none, 0..=0),
            Some(Outcome::Unknown) => (&mut tally.unknown, 0..=1),
        };
        *counter += 1;
        assert!(allowed.contains(&times), "seed {seed}: {token} said {outcome:?}, found {times} times");
    }
    let places: Vec<usize> = said
        .iter()
        .filter(|(_, outcome)| outcome.is_none())
        .map(|(token, _)| value.find(token.as_str()).expect("just counted"))
        .collect();
    assert!(places.is_sorted(), "seed {seed}: a writer's appends are out of order: {value}");
}

/// Under lost, repeated, late and reordered messages, wandering leaders and forgetful nodes, in hundreds of
/// different runs, every append takes effect as often as its caller was told, and in its caller's order.
#[test]
fn storms_do_not_repeat_or_lose_writes() {
    let mut tally = Tally::default();
    for seed in 0..800 {
        run(async {
            let network = stormy(seed);
            let config = Config { seed: Some(seed), deadline: Duration::from_secs(4), ..Config::default() };
            let Ok(client) = network.builder(config).connect().await else { return };
            let writers = (0..6).map(|writer| {
                let client = client.clone();
                async move { append_tokens(&client, ["a", "b", "c"][writer % 3], writer, 6).await }
            });
            let said = join_all(writers).await;
            tokio::time::sleep(LATE_MAX * 2).await;
            for (writer, said) in said.iter().enumerate() {
                check(seed, &network.value(["a", "b", "c"][writer % 3]), said, &mut tally);
            }
        });
    }
    // The storm must have been one, and not so strong that nothing was left to prove.
    assert!(tally.done > 10_000, "writes that succeeded: {}", tally.done);
    assert!(tally.unknown > 20, "writes with unknown outcome: {}", tally.unknown);
    assert!(tally.none > 20, "writes without effect: {}", tally.none);
}

/// The same holds when the server forgets its sessions between one storm and the next, as it does with those
/// that idle for long.
#[test]
fn storms_with_forgotten_sessions() {
    let mut tally = Tally::default();
    let mut sessions = BTreeSet::new();
    for seed in 0..200 {
        run(async {
            let network = stormy(seed);
            let config = Config { seed: Some(seed), deadline: Duration::from_secs(4), ..Config::default() };
            let Ok(client) = network.builder(config).connect().await else { return };
            for round in 0..4 {
                let writers = (0..4).map(|writer| {
                    let client = client.clone();
                    async move { append_tokens(&client, "k", round * 10 + writer, 4).await }
                });
                let said = join_all(writers).await;
                // All late copies have arrived by then. Every other pause is a long one.
                tokio::time::sleep(if round % 2 == 0 { LATE_MAX * 2 } else { SESSION_TTL }).await;
                network.state().machine.forget_sessions();
                let value = network.value("k");
                said.iter().for_each(|said| check(seed, &value, said, &mut tally));
            }
            sessions.extend(network.state().machine.applied.iter().map(|stamp| stamp.client));
        });
    }
    assert!(tally.done > 10_000, "writes that succeeded: {}", tally.done);
    assert!(sessions.len() > 600, "sessions that took over: {}", sessions.len());
}

/// Callers that give up in the middle leave at most one copy of their write, and later writes are not held up.
#[test]
fn dropped_calls_take_effect_at_most_once() {
    let mut abandoned = 0;
    for seed in 0..200 {
        run(async {
            let network = stormy(seed);
            let config = Config { seed: Some(seed), ..Config::default() };
            let client = network.builder(config).connect().await.unwrap();
            let writers = (0..20u64).map(|writer| {
                let client = client.clone();
                async move {
                    let token = format!("<{writer}>");
                    let patience = Duration::from_millis(writer * (seed % 7));
                    let ended = tokio::time::timeout(patience, client.append("k", &token)).await;
                    (token, ended.is_err())
                }
            });
            let tokens = join_all(writers).await;
            let last = client.append("k", "<last>").await;
            tokio::time::sleep(LATE_MAX * 2).await;
            let value = network.value("k");
            for (token, dropped) in &tokens {
                abandoned += usize::from(*dropped);
                assert!(value.matches(token.as_str()).count() <= 1, "seed {seed}: {token} in {value}");
            }
            assert!(last.is_err() || value.matches("<last>").count() == 1, "seed {seed}: {value}");
        });
    }
    assert!(abandoned > 500, "calls that were dropped: {abandoned}");
}

/// A session that the server forgot while nothing was under way is replaced without anybody noticing.
#[test]
fn a_forgotten_session_is_replaced() {
    run(async {
        let network = Network::calm();
        let client = network.client().await;
        for round in 1..=5u64 {
            let written = client.append("k", "x").await.unwrap();
            assert_eq!((written.version, written.length), (Version(round), round));
            network.state().machine.forget_sessions();
        }
        let clients: BTreeSet<_> = network.state().machine.applied.iter().map(|stamp| stamp.client).collect();
        assert_eq!(clients.len(), 5, "each time under a session of its own");
    });
}

/// A write whose sequence the server takes for closed had no effect: it is sent again under a new session.
#[test]
fn a_closed_window_is_replaced() {
    run(async {
        let network = Network::calm();
        let client = network.client().await;
        client.append("k", "x").await.unwrap();
        network.state().machine.close_windows();
        assert_eq!(client.append("k", "y").await.unwrap().length, 2);
        let applied = network.state().machine.applied.clone();
        assert_ne!(applied[0].client, applied[1].client);
        assert_eq!((network.value("k"), applied.len()), ("xy".into(), 2));
    });
}

/// A write that may have taken effect under a session that is gone is reported as unknown, never sent again
/// under another stamp.
#[test]
fn an_unsettled_write_is_never_restamped() {
    run(async {
        let network = Network::calm();
        let client = network.client().await;
        client.append("k", "first").await.unwrap();
        network.state().faults.drop_reply = 1.0;
        let call = tokio::spawn({
            let client = client.clone();
            async move { client.append("k", "<second>").await }
        });
        while !network.value("k").contains("<second>") {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        network.state().faults.drop_reply = 0.0;
        network.state().machine.forget_sessions();
        let error = call.await.unwrap().unwrap_err();
        assert!(matches!(error, Error::Indeterminate { .. }), "{error}");
        assert_eq!((error.outcome(), error.retryable()), (Outcome::Unknown, false));
        assert_eq!(network.value("k"), "first<second>");
        client.append("k", "<third>").await.unwrap();
        assert_eq!(network.value("k"), "first<second><third>");
    });
}

/// A retry that finds its answer kept gets the first attempt's answer, refusals included.
#[test]
fn a_later_answer_settles_an_earlier_silence() {
    run(async {
        let network = Network::calm();
        let client = network.client().await;
        client.put("k", "v").await.unwrap();
        network.state().faults.drop_reply = 1.0;
        let healed = network.clone();
        tokio::spawn(async move {
            while healed.state().machine.applied.len() < 3 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            healed.state().faults.drop_reply = 0.0;
        });
        let calls =
            (client.put_if("k", "w", Expect::Version(Version(1))), client.put_if("l", "w", Expect::Present));
        let (done, refused) = tokio::join!(calls.0, calls.1);
        assert_eq!(done.unwrap().version, Version(2));
        assert_eq!(refused.unwrap_err(), Error::VersionMismatch { current: Version(0) });
        assert_eq!(network.state().machine.applied.len(), 3, "each was applied once");
    });
}

/// After some minutes of silence a new session begins, before servers would have forgotten the old one.
#[test]
fn an_idle_client_begins_a_new_session() {
    run(async {
        let network = Network::calm();
        let client = network.client().await;
        client.append("k", "x").await.unwrap();
        client.append("k", "x").await.unwrap();
        tokio::time::sleep(IDLE_MAX).await;
        client.append("k", "x").await.unwrap();
        let applied = network.state().machine.applied.clone();
        assert_eq!(applied[0].client, applied[1].client);
        assert_ne!(applied[1].client, applied[2].client);
        assert_eq!(network.value("k"), "xxx");
    });
}

/// An abandoned write does not hold back the lowest open sequence: servers may free what they keep for it.
#[test]
fn abandoned_writes_are_closed() {
    run(async {
        let network = Network::calm();
        let client = network.client().await;
        client.append("k", "x").await.unwrap();
        network.state().hung.insert(1);
        let abandoned = tokio::time::timeout(Duration::from_millis(50), client.append("k", "lost")).await;
        assert!(abandoned.is_err());
        network.state().hung.clear();
        client.append("k", "y").await.unwrap();
        client.append("k", "z").await.unwrap();
        let last = *network.state().machine.applied.last().unwrap();
        assert_eq!((last.sequence.0, last.lowest_open.0), (4, 4));
        assert_eq!(network.value("k"), "xyz");
    });
}
