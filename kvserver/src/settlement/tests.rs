//! What callers are told after scripted attempts: cases that a cluster cannot be brought to at will.

use super::*;
use crate::router::Routed;
use bytes::Bytes;
use proto::{Answer as Wire, Epoch, Expect, GroupId, Revision, Version};
use std::collections::VecDeque;
use std::sync::Mutex;
use std::task::Poll;

type Attempt = Vec<Wire<'static>>;

/// Answers attempt after attempt as told, the last one ever after, and remembers what it was sent.
struct Script {
    answers: Mutex<VecDeque<Attempt>>,
    sent: Mutex<Vec<Vec<Option<Stamp>>>>,
}

impl Script {
    fn new(answers: impl IntoIterator<Item = Attempt>) -> Self {
        Self { answers: Mutex::new(answers.into_iter().collect()), sent: Mutex::default() }
    }

    fn sent(&self) -> Vec<Vec<Option<Stamp>>> {
        self.sent.lock().unwrap().clone()
    }
}

impl Route for Script {
    async fn route(&self, items: &[Item<'_>], _terms: Terms) -> Routed {
        self.sent.lock().unwrap().push(items.iter().map(|item| item.stamp).collect());
        let mut answers = self.answers.lock().unwrap();
        let attempt = if answers.len() > 1 { answers.pop_front().unwrap() } else { answers[0].clone() };
        let answers = attempt.iter().map(Encoded::of).collect();
        Routed { answers, lag: Duration::ZERO }
    }
}

fn put(key: &'static str) -> Operation {
    Operation::Put { key: Bytes::from(key), value: Bytes::from("v"), expect: Expect::Any }
}

fn get(key: &'static str) -> Operation {
    Operation::Get { key: Bytes::from(key) }
}

fn call(operations: Vec<Operation>) -> Call {
    Call {
        operations,
        consistency: proto::Consistency::Linearizable,
        deadline: Instant::now() + Duration::from_secs(1),
        request_id: 7,
        idempotency_key: None,
        answer_bytes_max: 10,
    }
}

fn written() -> Wire<'static> {
    Ok(proto::Reply::Written { version: Version(1), revision: Revision(1), length: 1 })
}

fn value(value: &'static [u8]) -> Wire<'static> {
    Ok(proto::Reply::Value { value, version: Version(1), revision: Revision(1) })
}

fn none(code: Code) -> Wire<'static> {
    Err(Error::new(code, "scripted"))
}

fn unknown(code: Code) -> Wire<'static> {
    Err(Error::unknown(code, "scripted"))
}

async fn settled(script: &Script, call: &Call) -> Vec<Answer> {
    settle(script, &Stamps::default(), 256, call).await.0
}

/// The only answer's code and outcome.
async fn told(script: &Script, operation: Operation) -> Result<Reply, (Code, Outcome)> {
    let mut answers = settled(script, &call(vec![operation])).await;
    assert_eq!(answers.len(), 1);
    answers.remove(0).map_err(|error| (error.code, error.outcome))
}

/// A write goes on under one stamp through every kind of failed attempt, until the machine answers.
#[tokio::test(start_paused = true)]
async fn a_write_keeps_its_stamp() {
    let script = Script::new([
        vec![none(Code::NoLeader)],
        vec![unknown(Code::Unavailable)],
        vec![none(Code::Unavailable)],
        vec![unknown(Code::Timeout)],
        vec![written()],
    ]);
    assert!(told(&script, put("k")).await.is_ok());
    let sent = script.sent();
    assert_eq!(sent.len(), 5);
    assert!(sent[0][0].is_some() && sent.iter().all(|stamps| *stamps == sent[0]), "{sent:?}");
}

/// After an attempt of unknown outcome, no later refusal makes it "none": not one that ends the call at once, and
/// not the deadline.
#[tokio::test(start_paused = true)]
async fn unknown_stays_unknown() {
    for code in [Code::ValueTooLarge, Code::BatchTooLarge, Code::BadRequest, Code::SequenceOutOfWindow] {
        let script = Script::new([vec![unknown(Code::Unavailable)], vec![none(code.clone())]]);
        assert_eq!(told(&script, put("k")).await, Err((code, Outcome::Unknown)));
        assert_eq!(script.sent().len(), 2);
    }
    let script = Script::new([vec![unknown(Code::Unavailable)], vec![none(Code::NoLeader)]]);
    assert_eq!(told(&script, put("k")).await, Err((Code::NoLeader, Outcome::Unknown)));
}

/// What the machine says of the write itself holds, whatever became of the attempts before.
#[tokio::test(start_paused = true)]
async fn the_machines_word_is_final() {
    for code in [Code::NotFound, Code::VersionMismatch { current: Version(3) }] {
        let script = Script::new([vec![unknown(Code::Unavailable)], vec![none(code.clone())]]);
        assert_eq!(told(&script, put("k")).await, Err((code, Outcome::None)));
    }
}

/// A write that no attempt can have carried out is said to have had no effect, and a read never has one.
#[tokio::test(start_paused = true)]
async fn none_is_told_where_it_is_true() {
    let script = Script::new([vec![none(Code::NoLeader)], vec![none(Code::Overloaded)]]);
    assert_eq!(told(&script, put("k")).await, Err((Code::Overloaded, Outcome::None)));
    let script = Script::new([vec![unknown(Code::Unavailable)], vec![unknown(Code::Timeout)]]);
    assert_eq!(told(&script, get("k")).await, Err((Code::Timeout, Outcome::None)));
}

/// A write that meets a full queue is not sent again, and its caller hears of it at once; a read is.
#[tokio::test(start_paused = true)]
async fn overloaded_is_final_for_writes() {
    let started = Instant::now();
    let script = Script::new([vec![none(Code::Overloaded)]]);
    assert_eq!(told(&script, put("k")).await, Err((Code::Overloaded, Outcome::None)));
    assert_eq!((script.sent().len(), started.elapsed()), (1, Duration::ZERO));
    let script = Script::new([vec![unknown(Code::Timeout)], vec![none(Code::Overloaded)]]);
    assert_eq!(told(&script, put("k")).await, Err((Code::Overloaded, Outcome::Unknown)));
    assert_eq!(script.sent().len(), 2);
    let script = Script::new([vec![none(Code::Overloaded)], vec![value(b"v")]]);
    assert!(told(&script, get("k")).await.is_ok());
}

/// More writes to one shard than its session may have open all take effect, in rounds without a pause, each under
/// a stamp of its own.
#[tokio::test(start_paused = true)]
async fn writes_wait_for_their_stamps() {
    let started = Instant::now();
    let script = Script::new([vec![written(); 512], vec![written(); 488]]);
    let answers = settled(&script, &call(vec![put("{room1}/k"); 1_000])).await;
    assert!(answers.iter().all(Result::is_ok));
    let sent = script.sent();
    assert_eq!(sent.iter().map(Vec::len).collect::<Vec<_>>(), [512, 488]);
    let mut sequences: Vec<u64> = sent.concat().into_iter().map(|stamp| stamp.unwrap().sequence.0).collect();
    sequences.sort_unstable();
    assert_eq!(sequences, (1..=1_000).collect::<Vec<_>>());
    assert_eq!(started.elapsed(), Duration::ZERO);
}

/// A write goes on once others leave it room; where they never do, its deadline ends it without effect.
#[tokio::test(start_paused = true)]
async fn waiting_for_a_stamp_ends() {
    let stamps = Stamps::default();
    let shard = proto::shard_of(b"k", 256);
    let full: Vec<Ticket> = std::iter::from_fn(|| stamps.open(shard)).collect();
    let script = Script::new([vec![written()]]);
    let mut answers = settle(&script, &stamps, 256, &call(vec![put("k")])).await.0;
    let refused = answers.remove(0).unwrap_err();
    assert_eq!((refused.code, refused.outcome), (Code::Overloaded, Outcome::None));
    assert_eq!(script.sent().len(), 0);
    let leaving = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        drop(full);
    };
    let call = call(vec![put("k")]);
    let ((answers, _), ()) = tokio::join!(settle(&script, &stamps, 256, &call), leaving);
    assert!(answers[0].is_ok());
    assert_eq!(script.sent().len(), 1);
}

/// Calls that wait for stamps of one session take turns, one write each, in the order in which they came:
/// neither does one of many writes keep small ones waiting for all of them, nor is it overtaken by who comes
/// later.
#[tokio::test(start_paused = true)]
async fn calls_take_turns() {
    let stamps = Stamps::default();
    let shard = proto::shard_of(b"k", 256);
    let mut full: VecDeque<Ticket> = std::iter::from_fn(|| stamps.open(shard)).collect();
    full[0].confirm();
    let scripts = [(); 3].map(|()| Script::new([vec![written()]]));
    let calls = [3, 1, 1].map(|writes| call(vec![put("k"); writes]));
    let settle = |(script, call)| settle(script, &stamps, 256, call).boxed().fuse();
    let mut settling: Vec<_> = scripts.iter().zip(&calls).map(settle).collect();
    for settling in &mut settling {
        assert!(futures_util::poll!(settling).is_pending());
    }
    for expected in [[1, 0, 0], [1, 1, 0], [1, 1, 1], [2, 1, 1], [3, 1, 1]] {
        full.pop_front();
        assert!(stamps.open(shard).is_none(), "who comes later waits");
        for settling in settling.iter_mut().rev() {
            if let Poll::Ready((answers, _)) = futures_util::poll!(settling) {
                assert!(answers.iter().all(Result::is_ok));
            }
        }
        assert_eq!(scripts.each_ref().map(|script| script.sent().len()), expected);
    }
    full.pop_front();
    assert!(stamps.open(shard).is_some(), "nobody waits any more");
}

/// A write whose turn came while it was put to wait goes on with it, and does not wait for the turn of another
/// shard first, whose writes may never leave room.
#[tokio::test(start_paused = true)]
async fn a_turn_that_came_is_taken_first() {
    let stamps = Stamps::default();
    let keys = ["{a}/k", "{b}/k"];
    let [a, b] = keys.map(|key| proto::shard_of(key.as_bytes(), 256));
    assert_ne!(a, b);
    let [mut full, _never_leaves] =
        [a, b].map(|shard| std::iter::from_fn(|| stamps.open(shard)).collect::<Vec<Ticket>>());
    full[0].confirm();
    let call = call(keys.map(put).into());
    let (mut settlement, pending) = Settlement::begin(&stamps, 256, &call);
    let (ready, waiting) = settlement.stamped(pending);
    assert_eq!((ready.len(), waiting.len()), (0, 2));
    // Another call ends between two looks at the queue, as it may on another thread.
    full.remove(0);
    settlement.note_turns();
    assert!(settlement.wait_for_turn(call.deadline).now_or_never().is_some(), "a turn has come");
    let (ready, waiting) = settlement.stamped(waiting);
    assert_eq!(ready.iter().map(|open| open.at).collect::<Vec<_>>(), [0]);
    assert_eq!(waiting.len(), 1);
    assert!(settlement.wait_for_turn(call.deadline).now_or_never().is_none(), "the other has not");
}

/// A forgotten session is replaced by a new one, under which a write that took no effect goes on.
#[tokio::test(start_paused = true)]
async fn a_forgotten_session_is_renewed() {
    let script = Script::new([
        vec![none(Code::NoLeader)],
        vec![unknown(Code::SessionExpired)],
        vec![none(Code::NoLeader)],
        vec![written()],
    ]);
    assert!(told(&script, put("k")).await.is_ok());
    let clients: Vec<ClientId> = script.sent().iter().map(|stamps| stamps[0].unwrap().client).collect();
    assert_eq!(clients[0], clients[1]);
    assert_ne!(clients[1], clients[2]);
    assert_eq!(clients[2], clients[3]);
}

/// Until a machine has answered, each write's stamp is one that makes a session: no machine need know of another. What
/// the machine says of a write's condition is an answer like any other.
#[tokio::test(start_paused = true)]
async fn what_was_not_answered_makes_no_session() {
    let mismatch = || none(Code::VersionMismatch { current: Version(3) });
    for answer in [written(), none(Code::NotFound), mismatch()] {
        let stamps = Stamps::default();
        let first_sent = async |answer: Wire<'static>| {
            let script = Script::new([vec![answer]]);
            settle(&script, &stamps, 256, &call(vec![put("k")])).await;
            let stamp = script.sent()[0][0].unwrap();
            (stamp.sequence.0, stamp.lowest_open.0)
        };
        assert_eq!(first_sent(unknown(Code::Timeout)).await, (1, 1));
        assert_eq!(first_sent(none(Code::Overloaded)).await, (2, 1));
        assert_eq!(first_sent(answer).await, (3, 1));
        assert_eq!(first_sent(written()).await, (4, 4));
    }
}

/// Once an attempt may have taken effect, a forgotten session ends the call as unknown: a new stamp could make the
/// write take effect twice.
#[tokio::test(start_paused = true)]
async fn an_unknown_write_is_never_stamped_anew() {
    let script =
        Script::new([vec![unknown(Code::Timeout)], vec![unknown(Code::SessionExpired)], vec![written()]]);
    assert_eq!(told(&script, put("k")).await, Err((Code::Unavailable, Outcome::Unknown)));
    assert_eq!(script.sent().len(), 2);
}

/// Where the machine never ceases to forget, the deadline ends the call, with the truth that nothing happened.
#[tokio::test(start_paused = true)]
async fn renewing_ends_with_the_deadline() {
    let script = Script::new([vec![unknown(Code::SessionExpired)]]);
    assert_eq!(told(&script, put("k")).await, Err((Code::Unavailable, Outcome::None)));
}

/// Only what is not answered is sent again, and answers stand in the order of the operations.
#[tokio::test(start_paused = true)]
async fn answered_operations_are_not_sent_again() {
    let script = Script::new([
        vec![none(Code::NoLeader), value(b"b"), unknown(Code::Unavailable)],
        vec![written(), none(Code::NoLeader)],
        vec![written()],
    ]);
    let answers = settled(&script, &call(vec![put("a"), get("b"), put("c")])).await;
    assert!(matches!(
        &answers[..],
        [Ok(Reply::Written { .. }), Ok(Reply::Value { .. }), Ok(Reply::Written { .. })]
    ));
    assert_eq!(script.sent().iter().map(Vec::len).collect::<Vec<_>>(), [3, 2, 1]);
}

/// Reads beyond what an answer may hold are refused, and those not read by then are not read at all; writes beside
/// them go on.
#[tokio::test(start_paused = true)]
async fn answers_are_bounded() {
    let script = Script::new([
        vec![value(b"123456"), value(b"789012"), none(Code::Overloaded), none(Code::NoLeader)],
        vec![written()],
    ]);
    let answers = settled(&script, &call(vec![get("a"), get("b"), get("c"), put("d")])).await;
    let codes: Vec<Option<Code>> =
        answers.into_iter().map(|answer| answer.err().map(|error| error.code)).collect();
    assert_eq!(codes, [None, Some(Code::BatchTooLarge), Some(Code::BatchTooLarge), None]);
    assert_eq!(script.sent().len(), 2);
}

/// Too stale is for the caller to decide about: asking this replica again at once helps nobody.
#[tokio::test(start_paused = true)]
async fn too_stale_is_told_at_once() {
    let script = Script::new([vec![none(Code::TooStale)]]);
    assert_eq!(told(&script, get("k")).await, Err((Code::TooStale, Outcome::None)));
    assert_eq!(script.sent().len(), 1);
}

/// What a group does not serve is asked for again, a write under its stamp, until whoever serves it answers.
#[tokio::test(start_paused = true)]
async fn a_shard_that_moves_is_asked_for_again() {
    let wrong = Code::WrongGroup { shard: ShardId(3), to: Some(GroupId(2)), epoch: Epoch(9) };
    for operation in [put("k"), get("k")] {
        let answer = if operation.is_read() { value(b"v") } else { written() };
        let script = Script::new([vec![none(wrong.clone())], vec![none(wrong.clone())], vec![answer]]);
        assert!(told(&script, operation).await.is_ok());
        let sent = script.sent();
        assert!(sent.len() == 3 && sent.iter().all(|attempt| *attempt == sent[0]), "{sent:?}");
    }
}

/// A shard between two groups is asked for again after ever the same short pause, for the route waits for it; what has
/// no leader is asked for ever less often.
#[tokio::test(start_paused = true)]
async fn shards_on_their_way_are_asked_for_without_long_pauses() {
    let attempts = async |code: Code| {
        let script = Script::new([vec![none(code.clone())]]);
        assert_eq!(told(&script, get("k")).await, Err((code, Outcome::None)));
        script.sent().len()
    };
    let moving = attempts(Code::WrongGroup { shard: ShardId(3), to: None, epoch: Epoch(9) }).await;
    let leaderless = attempts(Code::NoLeader).await;
    assert!(moving >= 100 && leaderless <= 40, "{moving} and {leaderless} in a second");
}

/// A caller's name gives one stamp to one operation wherever it is sent. Another operation on the same key
/// has another sequence in the same session, so that it is found out; another key or place has a session of
/// its own.
#[tokio::test(start_paused = true)]
async fn keyed_stamps_name_the_request() {
    let key = IdempotencyKey::new(b"order-17").unwrap();
    let stamps = |operations: Vec<Operation>| {
        let key = key.clone();
        async move {
            let script = Script::new([vec![written(); operations.len()]]);
            settled(&script, &Call { idempotency_key: Some(key), ..call(operations) }).await;
            script.sent().remove(0).into_iter().map(Option::unwrap).collect::<Vec<Stamp>>()
        }
    };
    let once = stamps(vec![put("a"), put("a")]).await;
    assert_eq!(once, stamps(vec![put("a"), put("a")]).await);
    assert_ne!(once[0].client, once[1].client);
    assert_ne!(once[0].client, stamps(vec![put("b")]).await[0].client);
    let (key, value) = (Bytes::from("a"), Bytes::from("v"));
    for other in [
        Operation::Append { key: key.clone(), value: value.clone(), expect: Expect::Any },
        Operation::Put { key: key.clone(), value: value.clone(), expect: Expect::Absent },
        Operation::Put { key: key.clone(), value: Bytes::from("w"), expect: Expect::Any },
        Operation::Delete { key, expect: Expect::Any },
    ] {
        let stamp = stamps(vec![other]).await[0];
        assert_eq!(stamp.client, once[0].client);
        assert_ne!(stamp.sequence, once[0].sequence);
    }
    assert!(once[0].client.is_named());
    assert!(once[0].sequence >= Sequence(1) && once[0].lowest_open == once[0].sequence);
}

/// A call holds its place in the session only until it is answered.
#[tokio::test(start_paused = true)]
async fn tickets_are_given_back() {
    let stamps = Stamps::default();
    for round in 1..4 {
        let script = Script::new([vec![written()]]);
        settle(&script, &stamps, 256, &call(vec![put("k")])).await;
        let stamp = script.sent()[0][0].unwrap();
        assert_eq!((stamp.sequence, stamp.lowest_open), (Sequence(round), Sequence(round)));
    }
}
