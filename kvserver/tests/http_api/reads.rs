//! Consistency, deadlines, ids: what goes with a request besides its key and value.

use crate::Stand;
use crate::wire::Wire;
use proto::{Code, Consistency, Error};
use tokio::time::{Duration, Instant};

/// Each consistency reaches the node as what it means, and answers that may be old say how old and from where,
/// those that find nothing included.
#[tokio::test]
async fn consistency() {
    let stand = Stand::new().await;
    stand.fake.state.lock().unwrap().lag_ms = 12;
    let mut wire = Wire::connect(stand.address).await;
    let cases = [
        ("", Consistency::Linearizable),
        ("?consistency=linearizable", Consistency::Linearizable),
        ("?consistency=lease", Consistency::Linearizable),
        ("?consistency=follower", Consistency::Follower),
        ("?consistency=stale", Consistency::Stale { lag_ms_max: None }),
        ("?consistency=stale&max-lag=250", Consistency::Stale { lag_ms_max: Some(250) }),
    ];
    for (query, expected) in cases {
        for path in ["/v1/kv/k", "/v1/kv"] {
            let answer = wire.ask(&format!("GET {path}{query}"), &[], b"").await;
            assert_eq!(answer.status, if path == "/v1/kv" { 200 } else { 404 });
            assert_eq!(stand.fake.last_call().consistency, expected, "{query}");
            let told = (expected != Consistency::Linearizable).then_some(("12", "7"));
            assert_eq!(answer.header("flotilla-lag-ms").zip(answer.header("flotilla-node")), told, "{query}");
        }
    }
}

/// Query parameters that are unknown, repeated, malformed or out of place are refused by name.
#[tokio::test]
async fn bad_queries() {
    let stand = Stand::new().await;
    let mut wire = Wire::connect(stand.address).await;
    let bad = [
        ("GET /v1/kv/k?consistency=strong", "strong"),
        ("GET /v1/kv/k?consistancy=stale", "consistancy"),
        ("GET /v1/kv/k?max-lag=5", "max-lag"),
        ("GET /v1/kv/k?consistency=follower&max-lag=5", "max-lag"),
        ("GET /v1/kv/k?consistency=stale&max-lag=x", "max-lag"),
        ("GET /v1/kv/k?timeout=0", "timeout"),
        ("GET /v1/kv/k?timeout=60001", "timeout"),
        ("GET /v1/kv/k?timeout=1&timeout=2", "timeout"),
        ("PUT /v1/kv/k?consistency=stale", "consistency"),
        ("PUT /v1/kv/k?timeout=1s", "timeout"),
        ("DELETE /v1/kv/k?x", "x"),
        ("GET /v1/kv?keys-only=maybe", "keys-only"),
        ("GET /v1/kv?limit=1001", "limit"),
        ("GET /v1/kv?prefix=%4", "prefix=%4"),
        ("GET /healthz?verbose", "verbose"),
    ];
    for (line, named) in bad {
        let answer = wire.ask(line, &[], b"").await;
        assert_eq!((answer.status, &answer.code()[..]), (400, "bad_request"), "{line}");
        assert!(answer.detail().contains(named), "{line}: {answer:?}");
    }
    assert_eq!(stand.fake.calls(), 0);
}

/// The deadline that the node is given is the caller's, or the default.
#[tokio::test]
async fn deadlines() {
    let stand = Stand::new().await;
    let before = Instant::now();
    for (query, ms) in [("", 10_000), ("?timeout=60000", 60_000), ("?timeout=20000", 20_000)] {
        stand.ask(&format!("PUT /v1/kv/k{query}"), &[], b"x").await;
        let span = stand.fake.last_call().deadline - before;
        assert!(span >= Duration::from_millis(ms), "{query}: {span:?}");
        assert!(span < Duration::from_millis(ms) + before.elapsed() + Duration::from_millis(1), "{query}");
    }
}

/// A node that never answers is given up soon after the deadline, and a write's outcome is then unknown.
#[tokio::test]
async fn a_silent_node() {
    let stand = Stand::new().await;
    stand.fake.hold();
    for (line, outcome) in
        [("GET /v1/kv/k", "none"), ("PUT /v1/kv/k", "unknown"), ("DELETE /v1/kv/k", "unknown")]
    {
        let answer = stand.ask(&format!("{line}?timeout=1"), &[], b"").await;
        assert_eq!((answer.status, &answer.code()[..]), (504, "timeout"), "{line}");
        assert_eq!(answer.json()["outcome"], outcome, "{line}");
        assert_eq!(answer.json()["retryable"], true);
    }
}

/// Every error of the node has its status, its code and its outcome, for the call as a whole and for one item.
#[tokio::test]
async fn every_code() {
    use proto::{Epoch, GroupId, NodeId, ShardId, Version};
    let codes = [
        (Code::BadRequest, 400, "bad_request", false),
        (Code::NotFound, 404, "not_found", false),
        (Code::VersionMismatch { current: Version(3) }, 412, "version_mismatch", false),
        (Code::KeyTooLarge, 400, "key_too_large", false),
        (Code::ValueTooLarge, 413, "value_too_large", false),
        (Code::BatchTooLarge, 413, "batch_too_large", false),
        (Code::SessionExpired, 409, "session_expired", false),
        (Code::SequenceOutOfWindow, 409, "sequence_out_of_window", false),
        (Code::NotLeader { group: GroupId(1), leader: Some(NodeId(2)) }, 503, "not_leader", true),
        (Code::NoLeader, 503, "no_leader", true),
        (Code::Timeout, 504, "timeout", true),
        (Code::Overloaded, 429, "overloaded", true),
        (Code::TooStale, 503, "too_stale", true),
        (Code::Unavailable, 503, "unavailable", true),
        (Code::Internal, 500, "internal", true),
        (Code::IdempotencyKeyReused, 422, "idempotency_key_reused", false),
        (Code::WrongGroup { shard: ShardId(3), to: None, epoch: Epoch(1) }, 503, "wrong_group", true),
    ];
    let stand = Stand::new().await;
    let mut wire = Wire::connect(stand.address).await;
    for (code, status, name, retryable) in codes {
        for (error, outcome) in [
            (Error::new(code.clone(), "as asked"), "none"),
            (Error::unknown(code.clone(), "as asked"), "unknown"),
        ] {
            stand.fake.fail(error);
            let answer = wire.ask("PUT /v1/kv/k", &[], b"x").await;
            assert_eq!((answer.status, &answer.code()[..]), (status, name));
            assert_eq!(answer.json()["outcome"], outcome);
            assert_eq!(answer.json()["retryable"], retryable);
            assert_eq!(answer.detail(), "as asked");
        }
    }
}

/// An id of the right form goes to the node and comes back; any other is replaced; every answer has one.
#[tokio::test]
async fn request_ids() {
    let stand = Stand::new().await;
    let mut wire = Wire::connect(stand.address).await;
    let id = "000102030405060708090a0b0c0d0e0f";
    for header in ["Flotilla-Request-Id", "X-Request-Id"] {
        let answer = wire.ask("PUT /v1/kv/k", &[(header, id)], b"x").await;
        assert_eq!(answer.header("flotilla-request-id"), Some(id), "{header}");
        assert_eq!(stand.fake.last_call().request_id, 0x0001_0203_0405_0607_0809_0a0b_0c0d_0e0f);
    }
    let refused = wire.ask("GET /v1/kv/", &[("flotilla-request-id", id)], b"").await;
    assert_eq!((refused.code(), refused.header("flotilla-request-id")), ("bad_request".into(), Some(id)));
    let mut seen = std::collections::BTreeSet::new();
    for line in ["GET /v1/kv/k", "GET /nowhere", "GET /healthz", "PATCH /v1/kv/k", "GET /v1/kv"] {
        let answer = wire.ask(line, &[("flotilla-request-id", "not an id")], b"").await;
        let made = answer.header("flotilla-request-id").unwrap().to_owned();
        assert!(made.len() == 32 && made.bytes().all(|digit| digit.is_ascii_hexdigit()), "{line}: {made}");
        assert!(seen.insert(made), "{line}");
    }
}

/// An idempotency key reaches the node as it is; one of another form is refused before anything is done.
#[tokio::test]
async fn idempotency_keys() {
    let stand = Stand::new().await;
    let mut wire = Wire::connect(stand.address).await;
    wire.ask("POST /v1/kv/k", &[("idempotency-key", "order-17")], b"x").await;
    assert_eq!(stand.fake.last_call().idempotency_key.unwrap().as_str(), "order-17");
    wire.ask("POST /v1/kv/k", &[], b"x").await;
    assert_eq!(stand.fake.last_call().idempotency_key, None);
    let long = "k".repeat(129);
    for bad in ["", "two words", &long] {
        let answer = wire.ask("POST /v1/kv/k", &[("idempotency-key", bad)], b"x").await;
        assert_eq!((answer.status, &answer.code()[..]), (400, "bad_request"), "{bad}");
    }
    let twice = [("idempotency-key", "a"), ("idempotency-key", "a")];
    assert_eq!(wire.ask("DELETE /v1/kv/k", &twice, b"").await.status, 400);
    assert_eq!(stand.fake.calls(), 2);
}
