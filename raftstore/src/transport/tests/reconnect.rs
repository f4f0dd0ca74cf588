//! Peers that go away and come back.

use super::*;
use crate::network::Link;
use tokio::time::Instant;

async fn restarted(world: World) {
    let mut pair = Pair::start(world, TransportConfig::default(), FakeNode::default()).await;
    let mut client = pair.client(GROUP);
    let (feed_one, input) = feed();
    let mut answers = client.stream_append(input, RPCOption::new(SECOND)).await.unwrap();
    feed_one.send(append(1, 10));
    assert_eq!(answers.next().await.unwrap().unwrap(), Ok(Some(id(1))));
    pair.server.shutdown().await;
    feed_one.send(append(2, 10));
    let error = answers.next().await.unwrap().unwrap_err();
    assert!(matches!(error, RPCError::Network(_)), "a lost connection is tried again at once: {error:?}");
    drop(answers);
    let (feed_two, input) = feed();
    let mut answers = client.stream_append(input, RPCOption::new(SECOND)).await.unwrap();
    feed_two.send(append(2, 10));
    let stays_down = tokio::time::timeout(SECOND / 2, answers.next()).await;
    assert!(stays_down.is_err(), "the retry waits in the lane: {stays_down:?}");
    pair.restart().await;
    assert_eq!(answers.next().await.unwrap().unwrap(), Ok(Some(id(2))));
}

/// When a peer is back, what waits goes out with the next connection.
#[tokio::test]
async fn replication_resumes_over_tcp() {
    restarted(World::tcp()).await;
}

/// In the simulation it is seen that this takes no longer than the longest pause.
#[tokio::test(start_paused = true)]
async fn replication_resumes_when_simulated() {
    restarted(World::simulated()).await;

    let mut pair = Pair::simulated().await;
    pair.server.shutdown().await;
    let mut client = pair.client(GROUP);
    let (feed, input) = feed();
    let mut answers = client.stream_append(input, RPCOption::new(SECOND)).await.unwrap();
    feed.send(append(1, 10));
    assert!(tokio::time::timeout(3 * SECOND, answers.next()).await.is_err());
    pair.restart().await;
    let back = Instant::now();
    assert!(answers.next().await.unwrap().unwrap().is_ok());
    assert!(back.elapsed() <= 200 * MS, "{:?}", back.elapsed());
}

/// A peer that is gone costs a bounded number of attempts, and is `Unreachable` in the end.
#[tokio::test(start_paused = true)]
async fn a_dead_peer_costs_little() {
    let pair = Pair::simulated().await;
    pair.server.shutdown().await;
    let mut client = pair.client(GROUP);
    let start = Instant::now();
    let (feed, input) = feed();
    let mut answers = client.stream_append(input, RPCOption::new(SECOND)).await.unwrap();
    feed.send(append(1, 10));
    let error = answers.next().await.unwrap().unwrap_err();
    assert_eq!(start.elapsed(), 5 * SECOND);
    assert!(matches!(error, RPCError::Unreachable(_)), "{error:?}");
    assert!(error.to_string().contains("connection refused"), "the reason is named: {error}");
    let failures = pair.one.stats().entries.connect_failures;
    assert!((25..=60).contains(&failures), "{failures}");
    drop(answers);
    let before = pair.one.stats().entries.connect_failures;
    tokio::time::sleep(60 * SECOND).await;
    assert!(
        pair.one.stats().entries.connect_failures <= before + 1,
        "with nothing to send, nothing is tried"
    );
}

/// A peer that vanishes without a word is given up within the silence timeout and a quarter, and found again soon
/// after the partition heals, whatever TCP would still wait for.
#[tokio::test(start_paused = true)]
async fn a_partition_is_noticed_and_its_end_too() {
    let pair = Pair::simulated().await;
    let mut client = pair.client(GROUP);
    let (feed_one, input) = feed();
    let mut answers = client.stream_append(input, RPCOption::new(SECOND)).await.unwrap();
    feed_one.send(append(1, 10));
    assert!(answers.next().await.unwrap().is_ok());
    pair.world.network().partition(&["a"], &["b"]);
    let cut = Instant::now();
    feed_one.send(append(2, 10));
    let error = answers.next().await.unwrap().unwrap_err();
    assert!(matches!(error, RPCError::Network(_)), "{error:?}");
    assert!(cut.elapsed() <= 2_500 * MS, "{:?}", cut.elapsed());
    drop(answers);
    let (feed_two, input) = feed();
    let mut answers = client.stream_append(input, RPCOption::new(SECOND)).await.unwrap();
    feed_two.send(append(2, 10));
    assert!(tokio::time::timeout(3 * SECOND, answers.next()).await.is_err());
    pair.world.network().heal();
    let healed = Instant::now();
    assert!(answers.next().await.unwrap().unwrap().is_ok());
    assert!(healed.elapsed() <= 1_200 * MS, "{:?}", healed.elapsed());
}

/// A peer that only reads, and whose answers vanish, is given up as well.
#[tokio::test(start_paused = true)]
async fn a_one_way_cut_is_noticed() {
    let pair = Pair::simulated().await;
    let mut heartbeats = pair.heartbeat_client(GROUP).await;
    beat(&mut heartbeats).await.unwrap().unwrap();
    pair.world.network().cut("b", "a");
    for _ in 0..3 {
        assert!(beat(&mut heartbeats).await.is_err());
    }
    pair.world.network().heal();
    until(|| pair.one.stats().heartbeat.connections_lost > 0).await;
    beat(&mut heartbeats).await.unwrap().unwrap();
}

/// On a link slower than its data takes the silence timeout to carry, the receiver's signs of life keep the
/// connection, and everything arrives.
#[tokio::test(start_paused = true)]
async fn a_slow_link_is_not_a_dead_one() {
    let pair = Pair::simulated().await;
    let link = Link { bytes_per_second: Some(100_000), ..Link::default() };
    pair.world.network().set_link("a", "b", link);
    let mut client = pair.client(GROUP);
    let input = futures_util::stream::iter((1..=2).map(|index| append(index, 900_000)));
    let config_patience = RPCOption::new(60 * SECOND);
    let answers = client.stream_append(input, config_patience).await.unwrap();
    let answers: Vec<_> = answers.map(|answer| answer.unwrap().unwrap().unwrap().index()).collect().await;
    assert_eq!(answers, [1, 2]);
    assert_eq!(pair.one.stats().entries.connects, 1);
}

/// With one write in ten breaking its connection, every append still gets through, in order, to the end.
#[tokio::test(start_paused = true)]
async fn breaks_are_survived() {
    for seed in 0..20 {
        crate::seed(seed);
        let pair = Pair::simulated().await;
        let link = Link { delay_max: 26 * MS, reset_probability: 0.1, ..Link::default() };
        pair.world.network().set_default_link(link);
        let mut client = pair.client(GROUP);
        let mut matched = 0;
        while matched < 100 {
            let input = futures_util::stream::iter((matched + 1..=100).map(|index| append(index, 10)));
            let mut answers = client.stream_append(input, RPCOption::new(SECOND)).await.unwrap();
            while let Some(Ok(answer)) = answers.next().await {
                assert_eq!(answer, Ok(Some(id(matched + 1))), "seed {seed}");
                matched += 1;
            }
        }
    }
}
