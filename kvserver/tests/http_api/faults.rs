//! Requests that are slow, torn or strange.

use crate::Stand;
use crate::wire::Wire;
use kvserver::HttpConfig;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

fn hasty() -> HttpConfig {
    HttpConfig { header_read_timeout_ms: 50, body_read_timeout_ms: 50, ..HttpConfig::default() }
}

/// A head that is begun and not ended is answered 408 and the connection closed.
#[tokio::test]
async fn slow_head() {
    let stand = Stand::with(hasty()).await;
    let mut wire = Wire::connect(stand.address).await;
    wire.send("PUT /v1/kv/k HTTP/1.1\r\nhost:").await;
    let answer = wire.answer(false).await;
    assert_eq!((answer.status, &answer.code()[..]), (408, "request_timeout"));
    wire.closed().await;
    let page = stand.ask("GET /metrics", &[], b"").await;
    assert!(String::from_utf8(page.body).unwrap().contains("flotilla_http_heads_timed_out_total 1"));
}

/// A head that comes drop by drop is no better: each byte does not buy more time.
#[tokio::test]
async fn dripping_head() {
    let stand = Stand::with(hasty()).await;
    let mut wire = Wire::connect(stand.address).await;
    wire.send("GET /healthz HTTP/1.1\r\n").await;
    let (mut reader, mut writer) = wire.stream.split();
    let drip = async {
        // The loop ends by the other side closing, never by itself.
        while writer.write_all(b"x: y\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let answer = async {
        let mut text = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut reader, &mut text).await.map(|_| text)
    };
    let (text, ()) = crate::wire::patiently(async { tokio::join!(answer, drip) }).await;
    assert!(text.unwrap().starts_with(b"HTTP/1.1 408"));
}

/// A connection between requests may rest for longer than a head may take, and closes once it has been idle for too
/// long, without a word.
#[tokio::test]
async fn idle_connections() {
    let config = HttpConfig { header_read_timeout_ms: 1, idle_timeout_ms: 1_500, ..HttpConfig::default() };
    let stand = Stand::with(config).await;
    let mut wire = Wire::connect(stand.address).await;
    for _ in 0..2 {
        assert_eq!(wire.ask("GET /healthz", &[], b"").await.status, 200);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    wire.closed().await;
    let mut silent = Wire::connect(stand.address).await;
    silent.closed().await;
}

/// A caller that asks and never reads the answers loses its connection once nothing has moved for too long.
#[tokio::test]
async fn a_caller_that_never_reads() {
    let stand = Stand::with(HttpConfig { idle_timeout_ms: 300, ..HttpConfig::default() }).await;
    stand.ask("PUT /v1/kv/k", &[], &[7; 1 << 20]).await;
    let mut deaf = Wire::connect(stand.address).await;
    deaf.send(Wire::request("GET /v1/kv/k", &[], b"").repeat(100)).await;
    let answered = |page: &str| -> u64 {
        let line = r#"flotilla_http_requests_total{route="/v1/kv/{key}",method="GET",status="200"} "#;
        page.lines().find_map(|found| found.strip_prefix(line)).map_or(0, |count| count.parse().unwrap())
    };
    let gone = async {
        loop {
            let page = String::from_utf8(stand.ask("GET /metrics", &[], b"").await.body).unwrap();
            if answered(&page) > 0 && page.contains("flotilla_http_connections 1\n") {
                break answered(&page);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let answered = crate::wire::patiently(gone).await;
    assert!(answered < 100, "all {answered} answers fitted into the sockets: the test proves nothing");
}

/// A body that does not come is answered 408; nothing was done and the connection closes.
#[tokio::test]
async fn slow_body() {
    let stand = Stand::with(hasty()).await;
    for path in ["/v1/kv/k", "/v1/batch"] {
        let mut wire = Wire::connect(stand.address).await;
        let head = "host: test\r\ncontent-type: application/json\r\ncontent-length: 10";
        wire.send(format!("POST {path} HTTP/1.1\r\n{head}\r\n\r\nhalf")).await;
        let answer = wire.answer(false).await;
        assert_eq!((answer.status, &answer.code()[..]), (408, "request_timeout"));
        assert_eq!(answer.header("connection"), Some("close"));
        wire.closed().await;
    }
    assert_eq!(stand.fake.calls(), 0);
}

/// A sender that closes half-way, with a declared length or within chunks, has done nothing.
#[tokio::test]
async fn torn_body() {
    let stand = Stand::new().await;
    let torn = [
        "content-length: 10\r\n\r\nhalf",
        "transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "transfer-encoding: chunked\r\n\r\nzz\r\n",
    ];
    for rest in torn {
        let mut wire = Wire::connect(stand.address).await;
        wire.send(format!("PUT /v1/kv/k HTTP/1.1\r\nhost: test\r\n{rest}")).await;
        wire.stream.shutdown().await.unwrap();
        let answer = wire.answer(false).await;
        assert_eq!((answer.status, &answer.code()[..]), (400, "bad_request"), "{rest}");
        wire.closed().await;
    }
    assert_eq!(stand.fake.calls(), 0);
}

/// A caller that has said everything and closes its side still gets its answer.
#[tokio::test]
async fn half_closed_caller() {
    let stand = Stand::new().await;
    stand.fake.hold();
    let mut wire = Wire::connect(stand.address).await;
    wire.send(Wire::request("PUT /v1/kv/k", &[], b"x")).await;
    wire.stream.shutdown().await.unwrap();
    stand.fake.holds(1).await;
    stand.fake.release();
    assert_eq!(wire.answer(false).await.status, 201);
    wire.closed().await;
}

/// Requests sent without waiting are answered in order.
#[tokio::test]
async fn pipelined() {
    let stand = Stand::new().await;
    let mut wire = Wire::connect(stand.address).await;
    let mut all = Vec::new();
    for place in 0..50 {
        all.extend(Wire::request(&format!("PUT /v1/kv/{place}"), &[], format!("v{place}").as_bytes()));
        all.extend(Wire::request(&format!("GET /v1/kv/{place}"), &[], b""));
    }
    wire.send(&all).await;
    for place in 0..50 {
        assert_eq!(wire.answer(false).await.status, 201);
        assert_eq!(wire.answer(false).await.body, format!("v{place}").as_bytes());
    }
}

/// A body in chunks, with trailers even, is a body like any other.
#[tokio::test]
async fn chunked() {
    let stand = Stand::new().await;
    let mut wire = Wire::connect(stand.address).await;
    let chunks = "transfer-encoding: chunked\r\n\r\n3\r\none\r\n4;x=y\r\n two\r\n0\r\ntrailer: x\r\n\r\n";
    wire.send(format!("PUT /v1/kv/k HTTP/1.1\r\nhost: test\r\n{chunks}")).await;
    assert_eq!(wire.answer(false).await.status, 201);
    assert_eq!(stand.fake.value(b"k").as_deref(), Some(&b"one two"[..]));
    assert_eq!(wire.ask("GET /v1/kv/k", &[], b"").await.body, b"one two");
}

/// What is no HTTP, has too large a head, or frames its body ambiguously is refused and does nothing.
#[tokio::test]
async fn not_http() {
    let stand = Stand::new().await;
    let large = format!("GET /v1/kv/k HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(64 << 10));
    let many = format!("GET /v1/kv/k HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(200));
    let bad = [
        ("hello\r\n\r\n", 400),
        ("GET /v1/kv/a b HTTP/1.1\r\n\r\n", 400),
        ("PUT /v1/kv/k HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx", 400),
        ("PUT /v1/kv/k HTTP/1.1\r\ncontent-length: -1\r\n\r\nx", 400),
        ("PUT /v1/kv/k HTTP/1.1\r\ntransfer-encoding: gzip\r\n\r\nx", 400),
        (&large, 431),
        (&many, 431),
    ];
    for (text, status) in bad {
        let mut wire = Wire::connect(stand.address).await;
        wire.send(text).await;
        assert_eq!(wire.answer(false).await.status, status, "{text:.60}");
        wire.closed().await;
    }
    assert_eq!(stand.fake.calls(), 0);
}

/// A path that is not served is 404, a method that a path does not have is 405 with those it has.
#[tokio::test]
async fn wrong_ways() {
    let stand = Stand::new().await;
    let mut wire = Wire::connect(stand.address).await;
    for path in ["/", "/v1", "/v1/keys/a", "/V1/kv/a", "*"] {
        let answer = wire.ask(&format!("OPTIONS {path}"), &[], b"").await;
        assert_eq!((answer.status, &answer.code()[..]), (404, "unknown_path"), "{path}");
    }
    let wrong = [
        ("PATCH /v1/kv/k", "GET, HEAD, PUT, POST, DELETE"),
        ("PUT /v1/kv", "GET"),
        ("GET /v1/batch", "POST"),
        ("POST /healthz", "GET, HEAD"),
        ("DELETE /v1/cluster", "GET"),
    ];
    for (line, allow) in wrong {
        let answer = wire.ask(line, &[], b"x").await;
        assert_eq!((answer.status, &answer.code()[..]), (405, "method_not_allowed"), "{line}");
        assert_eq!(answer.header("allow"), Some(allow));
    }
    assert_eq!(stand.fake.calls(), 0);
}

/// A request that brings the node's code down takes its own connection with it and no other.
#[tokio::test]
async fn a_panic_is_contained() {
    let stand = Stand::new().await;
    let mut other = Wire::connect(stand.address).await;
    assert_eq!(other.ask("GET /healthz", &[], b"").await.status, 200);
    let mut wire = Wire::connect(stand.address).await;
    wire.send(Wire::request("GET /v1/kv/panic", &[], b"")).await;
    wire.closed().await;
    let page = other.ask("GET /metrics", &[], b"").await;
    let page = String::from_utf8(page.body).unwrap();
    assert!(page.contains("flotilla_http_requests_in_flight 0\n"), "{page}");
}

/// A caller that takes an answer too slowly is cut off, however steadily it reads; one that is just slow gets it all.
#[tokio::test(start_paused = true)]
async fn a_caller_that_trickles() {
    // Long enough for what the kernel takes at once to be read at the trickle's pace.
    let stand = Stand::with(HttpConfig { idle_timeout_ms: 150_000, ..HttpConfig::default() }).await;
    stand.fake.store(b"k", vec![7; 16 << 20]);
    for (pause_ms, whole) in [(1_000, false), (100, true)] {
        let mut wire = Wire::connect(stand.address).await;
        wire.send(Wire::request("GET /v1/kv/k", &[], b"")).await;
        let mut scratch = vec![0; 16 << 10];
        let mut read = 0;
        while read < 16 << 20 {
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
            match tokio::io::AsyncReadExt::read(&mut wire.stream, &mut scratch).await {
                Ok(0) | Err(_) => break,
                Ok(bytes) => read += bytes,
            }
        }
        assert_eq!(read >= 16 << 20, whole, "a pause of {pause_ms} ms after each 16 KiB: {read} bytes");
    }
    let page = stand.ask("GET /metrics", &[], b"").await;
    assert!(String::from_utf8(page.body).unwrap().contains("flotilla_http_answers_timed_out_total 1\n"));
}
