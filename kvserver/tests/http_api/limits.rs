//! What is too large or too many.

use crate::Stand;
use crate::wire::Wire;
use kvserver::HttpConfig;

const TOO_LARGE: usize = (1 << 20) + 1;

/// A caller that asks before it sends is told 100 and then served, or refused without having sent anything.
#[tokio::test]
async fn expect_continue() {
    let stand = Stand::new().await;
    let head = |length: usize, key: &str| {
        format!(
            "PUT /v1/kv/{key} HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\ncontent-length: {length}\r\n\r\n"
        )
    };
    let mut wire = Wire::connect(stand.address).await;
    wire.send(head(1 << 20, "k")).await;
    assert_eq!(wire.answer(false).await.status, 100);
    wire.send(vec![7; 1 << 20]).await;
    assert_eq!(wire.answer(false).await.status, 201);
    assert_eq!(stand.fake.value(b"k").unwrap().len(), 1 << 20);
    for (head, status, code) in
        [(head(TOO_LARGE, "k"), 413, "value_too_large"), (head(5, "%"), 400, "bad_request")]
    {
        let mut wire = Wire::connect(stand.address).await;
        wire.send(head).await;
        let refused = wire.answer(false).await;
        assert_eq!((refused.status, &refused.code()[..]), (status, code));
        assert_eq!(refused.header("connection"), Some("close"));
        wire.closed().await;
    }
    assert_eq!(stand.fake.calls(), 1);
}

/// A body that is too large is refused, and its sender, who goes on sending, still gets to read why.
#[tokio::test]
async fn too_large_and_sent_all_the_same() {
    let stand = Stand::new().await;
    let body = vec![7; 8 << 20];
    let mut wire = Wire::connect(stand.address).await;
    let answer = wire.ask("PUT /v1/kv/k", &[], &body).await;
    assert_eq!((answer.status, &answer.code()[..]), (413, "value_too_large"));
    wire.closed().await;
    let mut wire = Wire::connect(stand.address).await;
    wire.send("PUT /v1/kv/k HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n800000\r\n").await;
    wire.send(&body).await;
    let answer = wire.answer(false).await;
    assert_eq!((answer.status, &answer.code()[..]), (413, "value_too_large"));
    wire.closed().await;
    assert_eq!(stand.fake.calls(), 0);
}

/// A small request that is refused before its body was looked at does not cost the connection.
#[tokio::test]
async fn refusals_keep_the_connection() {
    let stand = Stand::new().await;
    let mut wire = Wire::connect(stand.address).await;
    for _ in 0..3 {
        assert_eq!(wire.ask("PUT /v1/kv/k?x", &[], &[7; 10_000]).await.status, 400);
    }
    assert_eq!(wire.ask("PUT /v1/kv/k", &[], b"x").await.status, 201);
}

/// Beyond the limit of requests in flight the answer is 429, health and metrics excepted; then there is room again.
#[tokio::test]
async fn requests_in_flight() {
    let stand = Stand::with(HttpConfig { requests_in_flight_max: 1, ..HttpConfig::default() }).await;
    stand.fake.hold();
    let mut first = Wire::connect(stand.address).await;
    first.send(Wire::request("PUT /v1/kv/first", &[], b"x")).await;
    stand.fake.holds(1).await;
    for line in ["PUT /v1/kv/k", "GET /v1/kv/k", "GET /v1/kv"] {
        let answer = stand.ask(line, &[], b"").await;
        assert_eq!((answer.status, &answer.code()[..]), (429, "overloaded"), "{line}");
    }
    for line in ["GET /healthz", "GET /readyz", "GET /metrics", "GET /v1/status", "GET /v1/cluster"] {
        assert_eq!(stand.ask(line, &[], b"").await.status, 200, "{line}");
    }
    stand.fake.release();
    assert_eq!(first.answer(false).await.status, 201);
    assert_eq!(stand.ask("GET /v1/kv/first", &[], b"").await.body, b"x");
    assert_eq!(stand.fake.keys(), ["first"]);
}

/// Beyond the memory for bodies the answer is 429, and the memory is given back.
#[tokio::test]
async fn body_bytes_in_flight() {
    let bytes_max = (3 << 20) + (64 << 10);
    let stand =
        Stand::with(HttpConfig { body_bytes_in_flight_max: bytes_max, ..HttpConfig::default() }).await;
    stand.fake.hold();
    let megabyte = vec![7; 1 << 20];
    let mut senders = Vec::new();
    for place in 0..3 {
        let mut wire = Wire::connect(stand.address).await;
        wire.send(Wire::request(&format!("PUT /v1/kv/{place}"), &[], &megabyte)).await;
        senders.push(wire);
    }
    stand.fake.holds(3).await;
    let refused = stand.ask("PUT /v1/kv/more", &[], &megabyte).await;
    assert_eq!((refused.status, &refused.code()[..]), (429, "overloaded"));
    stand.fake.release();
    for wire in &mut senders {
        assert_eq!(wire.answer(false).await.status, 201);
    }
    assert_eq!(stand.ask("PUT /v1/kv/more", &[], &megabyte).await.status, 201);
}

/// Beyond the limit of connections the answer is 503, and a connection that ends makes room.
#[tokio::test]
async fn connections() {
    let stand = Stand::with(HttpConfig { connections_max: 2, ..HttpConfig::default() }).await;
    let mut first = Wire::connect(stand.address).await;
    let mut second = Wire::connect(stand.address).await;
    for wire in [&mut first, &mut second] {
        assert_eq!(wire.ask("GET /healthz", &[], b"").await.status, 200);
    }
    let mut third = Wire::connect(stand.address).await;
    let refused = third.ask("PUT /v1/kv/k", &[], &[7; 100_000]).await;
    assert_eq!((refused.status, &refused.code()[..]), (503, "unavailable"));
    third.closed().await;
    let page = first.ask("GET /metrics", &[], b"").await;
    let page = String::from_utf8(page.body).unwrap();
    assert!(page.contains("flotilla_http_connections_refused_total 1\n"), "{page}");
    assert!(page.contains("flotilla_http_connections 2\n"), "{page}");
    drop(second);
    let served = async {
        while stand.ask("PUT /v1/kv/k", &[], b"x").await.status == 503 {
            tokio::task::yield_now().await;
        }
    };
    crate::wire::patiently(served).await;
    assert_eq!(stand.fake.keys(), ["k"]);
}

/// Beyond the memory for answers that are not sent yet the answer is 429, and says of a write that it may have
/// happened; small answers always fit, and who reads or leaves makes room.
#[tokio::test]
async fn answer_bytes_in_flight() {
    let stand = Stand::new().await;
    stand.fake.store(b"large", vec![7; 16 << 20]);
    stand.fake.store(b"medium", vec![7; 1 << 20]);
    stand.fake.store(b"small", vec![7; 64 << 10]);
    let holds = async |bytes: usize| {
        let line = format!("flotilla_http_answer_bytes_in_flight {bytes}\n");
        let held = async {
            while !String::from_utf8(stand.ask("GET /metrics", &[], b"").await.body).unwrap().contains(&line)
            {
                tokio::task::yield_now().await;
            }
        };
        crate::wire::patiently(held).await;
    };
    let mut deaf = Vec::new();
    for _ in 0..16 {
        let mut wire = Wire::connect(stand.address).await;
        wire.send(Wire::request("GET /v1/kv/large", &[], b"")).await;
        deaf.push(wire);
    }
    holds(256 << 20).await;
    let read: &[u8] = br#"{"operations":[{"op":"get","key":"medium"}]}"#;
    let written: &[u8] = br#"{"operations":[{"op":"put","key":"k","value":""},{"op":"get","key":"medium"}]}"#;
    let json: &[_] = &[("content-type", "application/json")];
    for (line, headers, body, outcome) in [
        ("GET /v1/kv/medium", &[][..], &b""[..], "none"),
        ("GET /v1/kv?prefix=medium", &[], b"", "none"),
        ("POST /v1/batch", json, read, "none"),
        ("POST /v1/batch", json, written, "unknown"),
    ] {
        let refused = stand.ask(line, headers, body).await;
        assert_eq!((refused.status, &refused.code()[..]), (429, "overloaded"), "{line}");
        assert_eq!(refused.json()["outcome"], outcome, "{line}");
    }
    assert_eq!(stand.ask("GET /v1/kv/small", &[], b"").await.status, 200);
    assert_eq!(deaf.pop().unwrap().answer(false).await.body.len(), 16 << 20);
    assert_eq!(stand.ask("GET /v1/kv/large", &[], b"").await.status, 200);
    drop(deaf);
    holds(0).await;
}
