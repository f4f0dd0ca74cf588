//! Batches, as JSON and as messages.

use crate::Stand;
use crate::wire::{Answer, Wire};
use proto::{BatchReply, BatchRequest, Consistency, Item, Operation};

const JSON: (&str, &str) = ("content-type", "application/json");
const BINARY: (&str, &str) = ("content-type", "application/vnd.flotilla.batch");

async fn json(stand: &Stand, body: &str) -> Answer {
    stand.ask("POST /v1/batch", &[JSON], body.as_bytes()).await
}

/// Each operation is answered as it would have been alone, in order, whatever became of the others.
#[tokio::test]
async fn item_by_item() {
    let stand = Stand::new().await;
    let body = r#"{"operations":[
        {"op":"put","key":"a","value":"1"},
        {"op":"append","key":"a","value":"2"},
        {"op":"cas","key":"a","value":"x","version":7},
        {"op":"cas","key":"b","value":"new","version":0},
        {"op":"get","key":"a"},
        {"op":"put","key":"/w==","value":"/w==","b64":true},
        {"op":"get","key":"/w==","b64":true},
        {"op":"delete","key":"a","version":2},
        {"op":"get","key":"a"}]}"#;
    let answer = json(&stand, body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let golden = serde_json::json!({"answers": [
        {"status": 201, "version": 1, "revision": 1, "length": 1},
        {"status": 200, "version": 2, "revision": 2, "length": 2},
        {"status": 412, "version": 2, "code": "version_mismatch", "retryable": false, "outcome": "none",
         "detail": "the condition does not hold, key is at version 2"},
        {"status": 201, "version": 1, "revision": 3, "length": 3},
        {"status": 200, "value": "12", "version": 2, "revision": 2},
        {"status": 201, "version": 1, "revision": 4, "length": 1},
        {"status": 200, "value": "/w==", "b64": true, "version": 1, "revision": 4},
        {"status": 204, "revision": 5},
        {"status": 404, "code": "not_found", "retryable": false, "outcome": "none",
         "detail": "key does not exist"},
    ]});
    assert_eq!(answer.json(), golden);
    assert_eq!(stand.fake.value(b"\xff").as_deref(), Some(&b"\xff"[..]));
    assert_eq!(json(&stand, r#"{"operations":[]}"#).await.json(), serde_json::json!({"answers": []}));
}

/// A batch that is wrong in any part is refused whole, names the place, and reaches nobody.
#[tokio::test]
async fn wrong_in_one_part() {
    let stand = Stand::new().await;
    let long = "k".repeat(4097);
    let large = "v".repeat((1 << 20) + 1);
    let bad = [
        (r#"{"operations":[{"op":"put","key":"a" "value":"1"}]}"#.to_owned(), 400, "line 1 column 38"),
        ("{\"operations\":[\n{\"op\":\"put\",\"key\":7}]}".into(), 400, "line 2 column"),
        (r#"{"operations":[{"op":"put","key":"a","value":"1","ttl":5}]}"#.into(), 400, "ttl"),
        (r#"{"operations":[],"atomic":true}"#.into(), 400, "atomic"),
        (r#"{"operations":[{"op":"increment","key":"a"}]}"#.into(), 400, "increment"),
        (r#"{"operations":[{"op":"get","key":"a"}]} x"#.into(), 400, "trailing"),
        (String::new(), 400, "line 1 column 0"),
        (r#"[[]]"#.into(), 400, "invalid type: sequence, expected an object at line 1 column"),
        (r#"[[["get","a",null,false,null]]]"#.into(), 400, "expected an object at line 1 column"),
        (
            "{\"operations\":[\n[\"put\",\"a\",\"1\",false,null]]}".into(),
            400,
            "invalid type: sequence, expected an object at line 2 column",
        ),
        (r#"{"operations":["get"]}"#.into(), 400, "invalid type: string \"get\", expected an object"),
        (r#"{"operations":[{"op":"get","key":"a","key":"b"}]}"#.into(), 400, "duplicate field `key`"),
        (
            r#"{"operations":[{"op":"get","key":"a"},{"op":"get","key":""}]}"#.into(),
            400,
            "operation 1: key is empty",
        ),
        (r#"{"operations":[{"op":"put","key":"a"}]}"#.into(), 400, "operation 0: value is missing"),
        (
            r#"{"operations":[{"op":"cas","key":"a","value":"b"}]}"#.into(),
            400,
            "operation 0: version is missing",
        ),
        (r#"{"operations":[{"op":"get","key":"a","version":1}]}"#.into(), 400, "neither value nor version"),
        (r#"{"operations":[{"op":"delete","key":"a","value":""}]}"#.into(), 400, "delete takes no value"),
        (r#"{"operations":[{"op":"get","key":"?","b64":true}]}"#.into(), 400, "key is not base64"),
        (format!(r#"{{"operations":[{{"op":"put","key":"{long}","value":""}}]}}"#), 400, "4097"),
        (format!(r#"{{"operations":[{{"op":"put","key":"a","value":"{large}"}}]}}"#), 413, "1048577"),
    ];
    for (body, status, named) in bad {
        let answer = json(&stand, &body).await;
        assert_eq!(answer.status, status, "{answer:?}");
        answer.code();
        assert!(answer.detail().contains(named), "{named}: {answer:?}");
    }
    assert_eq!(stand.fake.calls(), 0);
}

/// A batch of too many bytes or operations is 413, one of another type 415, and neither reaches anybody.
#[tokio::test]
async fn too_large_or_of_another_type() {
    let stand = Stand::new().await;
    let value = "v".repeat(1 << 20);
    let items = [
        format!(r#"{{"op":"put","key":"a","value":"{value}"}}"#),
        format!(r#"{{"op":"put","key":"b","value":"{value}"}}"#),
    ];
    let many = vec![r#"{"op":"get","key":"a"}"#; 1001].join(",");
    for operations in [items.join(","), many] {
        let answer = json(&stand, &format!(r#"{{"operations":[{operations}]}}"#)).await;
        assert_eq!((answer.status, &answer.code()[..]), (413, "batch_too_large"), "{answer:?}");
    }
    let message = vec![0; 2 << 20];
    let answer = stand.ask("POST /v1/batch", &[BINARY], &message).await;
    assert_eq!((answer.status, &answer.code()[..]), (413, "batch_too_large"));
    for headers in [&[][..], &[("content-type", "text/plain")], &[("content-type", "application/jsonx")]] {
        let answer = stand.ask("POST /v1/batch", headers, b"{}").await;
        assert_eq!((answer.status, &answer.code()[..]), (415, "unsupported_media_type"), "{headers:?}");
    }
    assert_eq!(stand.fake.calls(), 0);
    assert!(stand.fake.state.lock().unwrap().batches.is_empty());
    let charset = [("content-type", "Application/JSON; charset=utf-8")];
    assert_eq!(stand.ask("POST /v1/batch", &charset, br#"{"operations":[]}"#).await.status, 200);
}

/// Consistency, deadline and idempotency key of a JSON batch come with the request.
#[tokio::test]
async fn what_goes_with_a_batch() {
    let stand = Stand::new().await;
    stand.fake.state.lock().unwrap().lag_ms = 3;
    let headers = [JSON, ("idempotency-key", "import-1")];
    let body = br#"{"operations":[{"op":"get","key":"a"}]}"#;
    let answer = stand.ask("POST /v1/batch?consistency=stale&max-lag=9&timeout=500", &headers, body).await;
    assert_eq!((answer.status, answer.header("flotilla-lag-ms")), (200, Some("3")));
    let call = stand.fake.last_call();
    assert_eq!(call.consistency, Consistency::Stale { lag_ms_max: Some(9) });
    assert_eq!(call.idempotency_key.unwrap().as_str(), "import-1");
    assert_eq!(call.answer_bytes_max, kvserver::HttpConfig::default().answer_bytes_max);
}

/// A binary batch goes through byte for byte, and what the node refuses as a whole is a problem. The answer
/// tells the version of the map that the node knows, and how many operations it sent on, where it sent any.
#[tokio::test]
async fn binary() {
    let stand = Stand::new().await;
    let mut wire = Wire::connect(stand.address).await;
    let request = proto::encode(&BatchRequest {
        deadline_ms: 1000,
        consistency: Consistency::Linearizable,
        request_id: 7,
        items: vec![Item { stamp: None, operation: Operation::Get { key: b"a" } }],
    });
    let answer = wire.ask("POST /v1/batch", &[BINARY], &request).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some(BINARY.1)));
    let reply: BatchReply<'_> = proto::decode(&answer.body).unwrap();
    assert_eq!(reply.answers.len(), 1);
    assert_eq!((answer.header("flotilla-epoch"), answer.header("flotilla-forwarded")), (Some("7"), None));
    assert_eq!(stand.fake.state.lock().unwrap().batches, [request]);
    let get = Item { stamp: None, operation: Operation::Get { key: b"a" } };
    let (deadline_ms, consistency, request_id) = (1000, Consistency::Linearizable, 8);
    let four = BatchRequest { deadline_ms, consistency, request_id, items: vec![get; 4] };
    let answer = wire.ask("POST /v1/batch", &[BINARY], &proto::encode(&four)).await;
    assert_eq!(answer.header("flotilla-forwarded"), Some("2"));
    let garbage = wire.ask("POST /v1/batch", &[BINARY], b"\x09garbage").await;
    assert_eq!((garbage.status, &garbage.code()[..]), (400, "bad_request"));
    assert_eq!(wire.ask("POST /v1/batch?timeout=5", &[BINARY], &[]).await.status, 400);
    stand.fake.fail(proto::Error::new(proto::Code::Overloaded, "queue is full"));
    let refused = wire.ask("POST /v1/batch", &[BINARY], b"x").await;
    assert_eq!((refused.status, &refused.code()[..]), (429, "overloaded"));
}
