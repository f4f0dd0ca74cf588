//! Append streams: order, windows, ends.

use super::*;
use crate::runtime::Moment;
use crate::transport::batch::Batch;
use crate::transport::frame::{Frame, Kind};
use crate::transport::lane::LaneKind;
use crate::transport::queue::Queue;
use openraft::async_runtime::Instant as _;

const OPTION_TTL: Duration = Duration::from_millis(100);

async fn ordered_and_pipelined(world: World) {
    let pair = Pair::start(world, TransportConfig::default(), FakeNode::default()).await;
    close_gate(&pair.node.replica.gate);
    let mut client = pair.client(GROUP);
    let (feed, input) = feed();
    let mut answers = client.stream_append(input, RPCOption::new(OPTION_TTL)).await.unwrap();
    (1..=200).for_each(|index| feed.send(append(index, 100)));
    drop(feed);
    let replica = pair.node.replica.clone();
    let opened = async {
        // None has been answered when all have arrived.
        assert_eq!(replica.wait_appended(200).await, (1..=200).collect::<Vec<_>>());
        open_gate(&replica.gate);
    };
    let answered = async {
        for index in 1..=200 {
            assert_eq!(answers.next().await.unwrap().unwrap(), Ok(Some(id(index))));
        }
        assert!(answers.next().await.is_none(), "the stream ends with its input");
    };
    tokio::join!(opened, answered);
}

/// Requests leave before earlier ones are answered, arrive in order, and are answered in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_are_ordered_and_pipelined_over_tcp() {
    ordered_and_pipelined(World::tcp()).await;
}

/// The same in the simulation.
#[tokio::test(start_paused = true)]
async fn appends_are_ordered_and_pipelined_when_simulated() {
    ordered_and_pipelined(World::simulated()).await;
}

/// A receiver that stands still stops the sender at the stream's window; what does not fit is not even read.
#[tokio::test(start_paused = true)]
async fn a_stalled_receiver_stops_the_sender() {
    let config = TransportConfig {
        window_bytes: 1_000_000,
        stream_window_bytes: 600_000,
        progress_timeout_ms: 60_000,
        ..TransportConfig::default()
    };
    let node = FakeNode { many: true, ..FakeNode::default() };
    let pair = Pair::start(World::simulated(), config, node).await;
    let replica = &pair.node.replica;
    close_gate(&replica.gate);
    let mut clients: Vec<_> = (1..=4).map(|group| pair.client(GroupId(group))).collect();
    let mut streams = Vec::new();
    let mut given = Vec::new();
    for client in &mut clients {
        let count = Arc::new(AtomicUsize::new(0));
        given.push(count.clone());
        let input = futures_util::stream::iter(1..=100_u64).map(move |index| {
            count.fetch_add(1, Ordering::SeqCst);
            append(index, 100_000)
        });
        streams.push(client.stream_append(input, RPCOption::new(OPTION_TTL)).await.unwrap());
    }
    let mut all = futures_util::stream::select_all(streams);
    assert!(tokio::time::timeout(10 * SECOND, all.next()).await.is_err(), "nothing is answered");
    let arrived = replica.bytes.load(Ordering::SeqCst);
    assert!((800_000..=1_000_000).contains(&arrived), "the shared window is used and kept: {arrived}");
    let read: usize = given.iter().map(|count| count.load(Ordering::SeqCst)).sum();
    assert!(read <= 10 + 4, "at most one request a stream is held back beside the window: {read}");
    assert!(
        given.iter().all(|count| count.load(Ordering::SeqCst) <= 7),
        "no stream takes more than its share"
    );
    open_gate(&replica.gate);
    for _ in 0..400 {
        assert!(all.next().await.unwrap().unwrap().is_ok());
    }
    assert_eq!(replica.bytes.load(Ordering::SeqCst), 40_000_000);
}

/// An append larger than a frame should be travels in parts, each answered; openraft sees the matching index grow.
#[tokio::test(start_paused = true)]
async fn large_appends_are_cut() {
    let pair = Pair::simulated().await;
    let mut client = pair.client(GROUP);
    let entries = (1..=40).flat_map(|index| append(index, 100_000).entries).collect();
    let request = AppendEntriesRequest { entries, ..append(1, 0) };
    let input = futures_util::stream::iter([request]);
    let answers = client.stream_append(input, RPCOption::new(OPTION_TTL)).await.unwrap();
    let matched: Vec<_> = answers.map(|answer| answer.unwrap().unwrap().unwrap().index()).collect().await;
    assert_eq!(matched, [10, 20, 30, 40]);
    assert_eq!(*pair.node.replica.appended.borrow(), matched);
}

/// A request without entries, which says that everything up to `index` precedes it and what of it is committed.
fn notice(index: u64, committed: u64) -> AppendEntriesRequest {
    let (prev_log_id, leader_commit) = (Some(id(index)), Some(id(committed)));
    AppendEntriesRequest { prev_log_id, leader_commit, entries: Vec::new(), ..append(index, 0) }
}

/// That something was committed is said by the next entries, where they come soon; by itself where none do, and at
/// once where the stream ends.
#[tokio::test(start_paused = true)]
async fn notices_travel_with_entries() {
    let pair = Pair::simulated().await;
    let replica = &pair.node.replica;
    let mut client = pair.client(GROUP);
    let (feed, input) = feed();
    let mut answers = client.stream_append(input, RPCOption::new(OPTION_TTL)).await.unwrap();
    feed.send(append(1, 10));
    assert_eq!(answers.next().await.unwrap().unwrap(), Ok(Some(id(1))));
    feed.send(notice(1, 1));
    assert!(tokio::time::timeout(MS, answers.next()).await.is_err(), "it waits");
    feed.send(append(2, 10));
    assert_eq!(answers.next().await.unwrap().unwrap(), Ok(Some(id(2))));
    assert_eq!(*replica.appended.borrow(), [1, 2]);
    feed.send(notice(2, 2));
    assert_eq!(answers.next().await.unwrap().unwrap(), Ok(Some(id(2))));
    assert_eq!(*replica.appended.borrow(), [1, 2, 2]);
    feed.send(notice(2, 2));
    drop(feed);
    let began = tokio::time::Instant::now();
    assert_eq!(answers.next().await.unwrap().unwrap(), Ok(Some(id(2))));
    assert_eq!((answers.next().await.is_none(), began.elapsed()), (true, Duration::ZERO));
    assert_eq!(*replica.appended.borrow(), [1, 2, 2, 2]);
}

/// What openraft makes while answers are due is dated back to the oldest request that waits for one: it would take the
/// answer to that for one to a notice, too.
#[tokio::test(start_paused = true)]
async fn requests_are_dated_back_to_the_oldest_unanswered() {
    let pair = Pair::simulated().await;
    let replica = pair.node.replica.clone();
    close_gate(&replica.gate);
    let mut client = pair.client(GROUP);
    let (feed, input) = feed();
    let made = Arc::new(Mutex::new(Vec::new()));
    let dates = made.clone();
    let input = input.map(move |request| {
        dates.lock().unwrap().push(Moment::now());
        request
    });
    let mut answers = client.stream_append(input.boxed(), RPCOption::new(OPTION_TTL)).await.unwrap();
    let began = Moment::now();
    for request in [append(1, 10), append(2, 10), notice(2, 1)] {
        feed.send(request);
        assert!(tokio::time::timeout(10 * MS, answers.next()).await.is_err(), "nothing is answered");
    }
    assert_eq!(*made.lock().unwrap(), [began; 3]);
    open_gate(&replica.gate);
    for index in [1, 2, 2] {
        assert_eq!(answers.next().await.unwrap().unwrap(), Ok(Some(id(index))));
    }
    feed.send(append(3, 10));
    let now = Moment::now();
    assert_eq!(answers.next().await.unwrap().unwrap(), Ok(Some(id(3))));
    assert_eq!(made.lock().unwrap().last(), Some(&now));
}

/// After a conflict the stream is over on both sides: what was sent behind it is dropped, and a new stream on the
/// same connection starts afresh.
#[tokio::test(start_paused = true)]
async fn a_conflict_ends_the_stream() {
    let pair = Pair::simulated().await;
    let replica = &pair.node.replica;
    *replica.conflict_at.lock().unwrap() = Some(2);
    let mut client = pair.client(GROUP);
    let input = futures_util::stream::iter((1..=3).map(|index| append(index, 10)));
    let answers = client.stream_append(input, RPCOption::new(OPTION_TTL)).await.unwrap();
    let answers: Vec<_> = answers.map(Result::unwrap).collect().await;
    assert_eq!(answers, [Ok(Some(id(1))), Err(StreamAppendError::Conflict(id(2)))]);

    *replica.conflict_at.lock().unwrap() = None;
    let input = futures_util::stream::iter((2..=4).map(|index| append(index, 10)));
    let answers = client.stream_append(input, RPCOption::new(OPTION_TTL)).await.unwrap();
    let answers: Vec<_> = answers.map(Result::unwrap).collect().await;
    assert_eq!(answers, [Ok(Some(id(2))), Ok(Some(id(3))), Ok(Some(id(4)))]);
    assert_eq!(pair.one.stats().entries.connects, 1);
    assert_eq!(pair.one.stats().entries.in_flight, 0);
}

/// Answers to a stream that was given up do not reach the one that took its place.
#[tokio::test(start_paused = true)]
async fn stale_answers_find_nobody() {
    let pair = Pair::simulated().await;
    let replica = &pair.node.replica;
    close_gate(&replica.gate);
    let mut client = pair.client(GROUP);
    let (old, input) = feed();
    let mut answers = client.stream_append(input, RPCOption::new(OPTION_TTL)).await.unwrap();
    (1..=5).for_each(|index| old.send(append(index, 10)));
    tokio::select! {
        answer = answers.next() => panic!("nothing may be answered: {answer:?}"),
        _ = replica.wait_appended(5) => {}
    }
    drop(answers);
    let (new, input) = feed();
    let mut answers = client.stream_append(input, RPCOption::new(OPTION_TTL)).await.unwrap();
    new.send(append(9, 10));
    tokio::select! {
        answer = answers.next() => panic!("nothing may be answered: {answer:?}"),
        _ = replica.wait_appended(6) => {}
    }
    open_gate(&replica.gate);
    assert_eq!(answers.next().await.unwrap().unwrap(), Ok(Some(id(9))));
}

/// A group that the peer does not have is `Unreachable`, with the reason, and so is one whose replica stopped.
#[tokio::test(start_paused = true)]
async fn unknown_groups_and_stopped_replicas_back_off() {
    let pair = Pair::simulated().await;
    for (group, why) in [(GroupId(8), "n2 has no replica of g8"), (GROUP, "replica stopped: told so")] {
        *pair.node.replica.stopped.lock().unwrap() = true;
        let mut client = pair.client(group);
        let input = futures_util::stream::iter((1..=3).map(|index| append(index, 10)));
        let mut answers = client.stream_append(input, RPCOption::new(OPTION_TTL)).await.unwrap();
        let error = answers.next().await.unwrap().unwrap_err();
        assert!(matches!(error, RPCError::Unreachable(_)), "{error:?}");
        assert!(error.to_string().contains(why), "{error}");
        assert!(answers.next().await.is_none());
    }
    let mut stranger = pair.heartbeat_client(GroupId(8)).await;
    assert!(matches!(beat(&mut stranger).await, Err(RPCError::Unreachable(_))));
}

/// What a stream still had to write when its receiver ended it is not written any more, and is taken for nothing else:
/// the lane goes on to ping its peer and to end its streams.
#[tokio::test(start_paused = true)]
async fn a_stream_that_was_ended_leaves_nothing_in_its_lane() {
    let (config, kind) = (TransportConfig::default(), LaneKind::Entries);
    let queue = Queue::new(kind, "n2 entries".into(), &config, Arc::default(), Arc::default());
    let queue = Arc::new(queue);
    let stream = queue.stream(GROUP).unwrap();
    for _ in 0..3 {
        stream.send(Kind::Append, Bytes::from_static(b"waits"), None).unwrap();
    }
    let end = Frame { kind: Kind::End, group: GROUP, id: stream.id(), payload: Bytes::new() };
    queue.deliver(end).unwrap();
    queue.take(&mut Batch::new(1_000));
    for _ in 0..2 {
        queue.control(Kind::Ping, GroupId(0), 0);
        assert!(queue.has_frames(), "a ping still goes out");
        queue.take(&mut Batch::new(1_000));
    }
}

/// A replica that stands still while its node lives ends the stream after the progress timeout and not before; the
/// connection stays.
#[tokio::test(start_paused = true)]
async fn no_progress_ends_the_stream() {
    let pair = Pair::simulated().await;
    close_gate(&pair.node.replica.gate);
    let mut client = pair.client(GROUP);
    let start = tokio::time::Instant::now();
    let (feed, input) = feed();
    let mut answers = client.stream_append(input, RPCOption::new(OPTION_TTL)).await.unwrap();
    feed.send(append(1, 10));
    let error = answers.next().await.unwrap().unwrap_err();
    assert_eq!(start.elapsed(), 5 * SECOND);
    assert!(matches!(error, RPCError::Network(_)), "{error:?}");
    assert!(answers.next().await.is_none());
    let stats = pair.one.stats().entries;
    assert_eq!((stats.connects, stats.connections_lost, stats.timeouts), (1, 0, 1));
}

/// Votes, pre-votes and transfers are asked and answered as they are; a pre-vote is never granted by default.
#[tokio::test(start_paused = true)]
async fn votes_cross() {
    use openraft::network::{NetTransferLeader, NetVote};
    let pair = Pair::simulated().await;
    let mut client = pair.client(GROUP);
    let request = VoteRequest::new(Vote::new(5, 1), Some(id(3)));
    let option = RPCOption::new(SECOND);
    let vote = client.vote(request.clone(), option.clone()).await.unwrap();
    assert_eq!((vote.vote_granted, vote.vote, vote.last_log_id), (true, Vote::new(5, 1), Some(id(3))));
    let pre_vote = client.pre_vote(request.clone(), option.clone()).await.unwrap();
    assert!(!pre_vote.vote_granted);
    let transfer = TransferLeaderRequest::new(Vote::new_committed(5, 1), 2, None);
    assert_eq!(client.transfer_leader(transfer, option.clone()).await.unwrap(), Ok(()));
    pair.server.shutdown().await;
    let error = client.pre_vote(request, option).await.unwrap_err();
    assert!(matches!(error, RPCError::Unreachable(_)), "{error:?}");
}
