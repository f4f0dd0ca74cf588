//! The binary batch, byte by byte: what clients send, and what nobody should.

use crate::door::{Answer, Door};
use crate::fleet::{Fleet, Settings, eventually, keys_of_groups, others};
use proto::{
    BatchReply, BatchRequest, ClientId, Code, Consistency, Expect, Item, Operation, Outcome, Reply, Sequence,
    Stamp,
};
use reqwest::Method;

async fn send(door: &Door, body: Vec<u8>) -> Answer {
    let headers = [("content-type", "application/vnd.flotilla.batch")];
    door.ask(Method::POST, "/v1/batch", &headers, body).await
}

fn request(deadline_ms: u32, items: Vec<Item<'_>>) -> Vec<u8> {
    let consistency = Consistency::Linearizable;
    proto::encode(&BatchRequest { deadline_ms, consistency, request_id: 7, items })
}

fn scan(limit: u32) -> Item<'static> {
    let operation = Operation::Scan { prefix: b"", after: None, start: b"", limit, bytes_max: u32::MAX };
    Item { stamp: None, operation }
}

/// A stamped append over three groups takes effect once, though the same batch comes through every node.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_sent_again_takes_effect_once() {
    let fleet = Fleet::start(Settings::groups(3)).await;
    let keys: Vec<String> = keys_of_groups("k", 3, 2).into_values().flatten().collect();
    let item = |(number, key)| Item {
        stamp: Some(Stamp {
            client: ClientId(number as u128),
            sequence: Sequence(1),
            lowest_open: Sequence(1),
        }),
        operation: Operation::Append { key: String::as_bytes(key), value: b"once", expect: Expect::Any },
    };
    let body = request(5_000, keys.iter().enumerate().map(item).collect());
    let mut replies = Vec::new();
    for node in [1, 2, 3, 1] {
        // A group may be between two leaders: the same bytes are sent again, as a client would.
        let whole = async || {
            let answer = send(fleet.door(node), body.clone()).await;
            let reply: BatchReply<'_> = proto::decode(&answer.body).unwrap();
            reply.answers.iter().all(Result::is_ok).then_some(answer.body)
        };
        replies.push(eventually("all groups answer", whole).await);
    }
    let reply: BatchReply<'_> = proto::decode(&replies[0]).unwrap();
    let once = |answer: &proto::Answer<'_>| matches!(answer, Ok(Reply::Written { length: 4, .. }));
    assert!(reply.answers.iter().all(once), "{reply:?}");
    assert!(replies.iter().all(|again| *again == replies[0]), "{replies:?}");
}

/// What is wrong with a batch is said, of the whole or of the item; nothing is done of it and nothing breaks.
#[tokio::test(flavor = "multi_thread")]
async fn hostile_batches_are_refused() {
    let fleet = Fleet::start(Settings::groups(2)).await;
    let door = fleet.door(others(&[fleet.leader(1).await])[0]);
    for body in [vec![], vec![1], vec![9; 40], request(1_000, vec![scan(1)])[..10].to_vec()] {
        let answer = send(door, body).await;
        assert_eq!(answer.said(), (400, "bad_request".into(), "none".into()));
    }
    let many = vec![Item { stamp: None, operation: Operation::Get { key: b"k" } }; (16 << 10) + 1];
    assert_eq!(send(door, request(1_000, many)).await.said().1, "batch_too_large");
    let long = [b'k'; (16 << 10) + 1];
    // No such key can be written, but one may be there from when it could: it is looked for.
    let older = &long[..5_000];
    let items = vec![
        Item { stamp: None, operation: Operation::Get { key: b"" } },
        Item { stamp: None, operation: Operation::Get { key: &long } },
        Item { stamp: None, operation: Operation::Delete { key: &long, expect: Expect::Any } },
        scan(0),
        Item { stamp: None, operation: Operation::Put { key: older, value: b"", expect: Expect::Any } },
        Item { stamp: None, operation: Operation::Get { key: older } },
        Item { stamp: None, operation: Operation::Delete { key: older, expect: Expect::Any } },
    ];
    let answer = send(door, request(5_000, items)).await;
    let reply: BatchReply<'_> = proto::decode(&answer.body).unwrap();
    let codes: Vec<(Code, Outcome)> =
        reply.answers.into_iter().map(|answer| answer.unwrap_err()).map(|e| (e.code, e.outcome)).collect();
    let expected = [
        Code::BadRequest,
        Code::KeyTooLarge,
        Code::KeyTooLarge,
        Code::BadRequest,
        Code::KeyTooLarge,
        Code::NotFound,
        Code::NotFound,
    ];
    assert_eq!(codes, expected.map(|code| (code, Outcome::None)));
}

/// A batch whose time has passed by the time it is proposed has had no effect, and says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_without_time_has_no_effect() {
    let fleet = Fleet::start(Settings::default()).await;
    let door = fleet.door(fleet.leader(1).await);
    let put = Operation::Put { key: b"late", value: b"v", expect: Expect::Any };
    let answer = send(door, request(0, vec![Item { stamp: None, operation: put }])).await;
    let reply: BatchReply<'_> = proto::decode(&answer.body).unwrap();
    let error = reply.answers[0].clone().unwrap_err();
    assert_eq!((error.code, error.outcome), (Code::Timeout, Outcome::None));
    assert_eq!(door.value("late").await, None);
}

/// Many scans in one batch are answered as far as one reply has room, and the rest is to be asked again: the answer
/// is bounded whatever is asked.
#[tokio::test(flavor = "multi_thread")]
async fn many_scans_share_one_answer() {
    let fleet = Fleet::start(Settings::groups(2)).await;
    for number in 0..4 {
        assert!(fleet.door(1).put(&format!("k{number}"), vec![b'v'; 1 << 19]).await.is_done());
    }
    for node in [1, 2, 3] {
        let answer = send(fleet.door(node), request(20_000, vec![scan(u32::MAX); 200])).await;
        assert!(answer.body.len() < 4 << 20, "{} bytes", answer.body.len());
        let reply: BatchReply<'_> = proto::decode(&answer.body).unwrap();
        let pages = reply.answers.iter().filter(|answer| matches!(answer, Ok(Reply::Page { .. }))).count();
        let again = |answer: &&proto::Answer<'_>| matches!(answer, Err(error) if error.code == Code::Overloaded && error.retryable());
        assert!(pages >= 1 && pages + reply.answers.iter().filter(again).count() == 200, "{pages} pages");
    }
}

/// As many stale scans as a batch may hold keep to its deadline: those that are not made in time are refused so.
#[tokio::test(flavor = "multi_thread")]
async fn stale_scans_keep_to_the_deadline() {
    let fleet = Fleet::start(Settings::groups(2)).await;
    let door = fleet.door(1);
    assert!(door.put("k", "v").await.is_done());
    let body = |deadline_ms| {
        let items = vec![scan(1); 16 << 10];
        let consistency = Consistency::Stale { lag_ms_max: None };
        proto::encode(&BatchRequest { deadline_ms, consistency, request_id: 7, items })
    };
    for deadline_ms in [0, 2] {
        let answer = send(door, body(deadline_ms)).await;
        let reply: BatchReply<'_> = proto::decode(&answer.body).unwrap();
        let late = reply.answers.iter().filter_map(|answer| answer.as_ref().err());
        let late: Vec<(Code, Outcome)> = late.map(|error| (error.code.clone(), error.outcome)).collect();
        assert!(!late.is_empty(), "16,384 scans in {deadline_ms} ms");
        assert!(late.iter().all(|late| *late == (Code::Timeout, Outcome::None)), "{late:?}");
    }
}
