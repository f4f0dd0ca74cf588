//! Keys and values: any bytes, exactly as they are.

use crate::Stand;
use crate::wire::Wire;
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};

/// A key's life: created, read, replaced, appended to, deleted, with its version, revision and shard at each step.
#[tokio::test]
async fn a_life() {
    let stand = Stand::new().await;
    let mut wire = Wire::connect(stand.address).await;
    let path = "/v1/kv/notes/today";
    let created = wire.ask(&format!("PUT {path}"), &[], b"one").await;
    assert_eq!((created.status, created.header("etag")), (201, Some("\"1\"")), "{created:?}");
    let shard = proto::shard_of(b"notes/today", 256).0.to_string();
    assert_eq!(created.header("flotilla-shard"), Some(&shard[..]));
    assert_eq!(created.header("flotilla-revision"), Some("1"));
    assert_eq!(created.header("flotilla-length"), Some("3"));
    let replaced = wire.ask(&format!("PUT {path}"), &[], b"two").await;
    assert_eq!((replaced.status, replaced.header("etag")), (200, Some("\"2\"")));
    let appended = wire.ask(&format!("POST {path}"), &[], b" three").await;
    assert_eq!((appended.status, appended.header("etag")), (200, Some("\"3\"")));
    assert_eq!(appended.header("flotilla-length"), Some("9"));
    let read = wire.ask(&format!("GET {path}"), &[], b"").await;
    assert_eq!((read.status, &read.body[..]), (200, &b"two three"[..]));
    assert_eq!((read.header("etag"), read.header("flotilla-revision")), (Some("\"3\""), Some("3")));
    assert_eq!(read.header("flotilla-shard"), Some(&shard[..]));
    assert_eq!(read.header("content-type"), Some("application/octet-stream"));
    assert_eq!(read.header("flotilla-lag-ms"), None);
    let looked = wire.ask(&format!("HEAD {path}"), &[], b"").await;
    assert_eq!((looked.status, looked.header("content-length")), (200, Some("9")));
    assert_eq!(looked.header("etag"), Some("\"3\""));
    let deleted = wire.ask(&format!("DELETE {path}"), &[], b"").await;
    assert_eq!((deleted.status, deleted.header("flotilla-revision")), (204, Some("4")));
    for line in [format!("GET {path}"), format!("DELETE {path}")] {
        let gone = wire.ask(&line, &[], b"").await;
        assert_eq!((gone.status, gone.code()), (404, "not_found".into()), "{line}");
    }
    let gone = wire.ask(&format!("HEAD {path}"), &[], b"").await;
    assert_eq!((gone.status, gone.body.len()), (404, 0));
    let appended = wire.ask(&format!("POST {path}"), &[], b"new").await;
    assert_eq!((appended.status, appended.header("etag")), (201, Some("\"1\"")));
    let emptied = wire.ask(&format!("PUT {path}"), &[], b"").await;
    assert_eq!((emptied.status, stand.fake.value(b"notes/today").unwrap().len()), (200, 0));
}

/// Every byte can stand in a key and in a value, alone and together with all others.
#[tokio::test]
async fn every_byte() {
    let stand = Stand::new().await;
    let mut wire = Wire::connect(stand.address).await;
    let all: Vec<u8> = (0..=255).collect();
    let keys = all.iter().map(|byte| vec![*byte]).chain([all.clone()]);
    for key in keys {
        let path = format!("/v1/kv/{}", percent_encode(&key, NON_ALPHANUMERIC));
        let value = [&key[..], &all[..]].concat();
        assert_eq!(wire.ask(&format!("PUT {path}"), &[], &value).await.status, 201, "{path}");
        assert_eq!(stand.fake.value(&key).as_deref(), Some(&value[..]), "{path}");
        assert_eq!(wire.ask(&format!("GET {path}"), &[], b"").await.body, value, "{path}");
    }
    assert_eq!(stand.fake.keys().len(), 257);
}

/// No path is normalised: what looks like a way up, an empty part or another slash is a key of its own.
#[tokio::test]
async fn paths_are_not_normalised() {
    let stand = Stand::new().await;
    let mut wire = Wire::connect(stand.address).await;
    let paths: [(&str, &[u8]); 14] = [
        ("a/b", b"a/b"),
        ("a//b", b"a//b"),
        ("/a", b"/a"),
        ("a/", b"a/"),
        ("a%2Fb%2f", b"a/b/"),
        ("..", b".."),
        ("../../etc/passwd", b"../../etc/passwd"),
        ("%2e%2e/x", b"../x"),
        (".", b"."),
        ("a+b", b"a+b"),
        ("%00", b"\0"),
        ("{room1}/a", b"{room1}/a"),
        ("a;b=c,d:e@f!$&'()*~", b"a;b=c,d:e@f!$&'()*~"),
        ("%25", b"%"),
    ];
    for (path, key) in paths {
        let line = format!("PUT /v1/kv/{path}");
        assert_eq!(wire.ask(&line, &[], path.as_bytes()).await.status, 201, "{path}");
        assert_eq!(stand.fake.value(key).as_deref(), Some(path.as_bytes()), "{path}");
    }
    wire.send("PUT /v1/kv/ä HTTP/1.1\r\nhost: test\r\ncontent-length: 1\r\n\r\nx").await;
    assert_eq!(wire.answer(false).await.status, 201);
    assert!(stand.fake.value("ä".as_bytes()).is_some());
    let absolute = wire.ask("GET http://elsewhere/v1/kv/a//b", &[], b"").await;
    assert_eq!(absolute.body, b"a//b");
}

/// A key that is empty, too long or half encoded is refused and nothing reaches the node; the longest is taken.
#[tokio::test]
async fn bad_keys() {
    let stand = Stand::new().await;
    let mut wire = Wire::connect(stand.address).await;
    let longest = "%ff".repeat(4096);
    let endless = "k".repeat((16 << 10) + 1);
    let bad = |too_long, why| {
        [
            ("", "bad_request", "key is empty"),
            ("%", "bad_request", "at byte 0"),
            ("ab%zz", "bad_request", "at byte 2"),
            (too_long, "key_too_large", why),
        ]
    };
    let beyond = format!("{longest}x");
    for method in ["PUT", "GET", "POST", "DELETE"] {
        let bad = match method.starts_with('P') {
            true => bad(&beyond, "4097 bytes exceeds the limit of 4096"),
            false => bad(&endless, "16385 bytes exceeds the limit of 16384"),
        };
        for (key, code, detail) in bad {
            let body: &[u8] = if method.starts_with('P') { b"value" } else { b"" };
            let answer = wire.ask(&format!("{method} /v1/kv/{key}"), &[], body).await;
            assert_eq!((answer.status, &answer.code()[..]), (400, code));
            assert!(answer.detail().contains(detail), "{answer:?}");
        }
    }
    assert_eq!(stand.fake.calls(), 0);
    assert_eq!(wire.ask(&format!("PUT /v1/kv/{longest}"), &[], b"x").await.status, 201);
}

/// A value that is longer than what may be written now, as one that was written under another limit, is read.
#[tokio::test]
async fn values_beyond_the_limit_are_read() {
    let stand = Stand::new().await;
    stand.fake.store(b"k", vec![7; 16 << 20]);
    let answer = stand.ask("GET /v1/kv/k", &[], b"").await;
    assert_eq!((answer.status, answer.body.len()), (200, 16 << 20));
    assert_eq!(stand.ask("HEAD /v1/kv/k", &[], b"").await.status, 200);
}

/// A key that is longer than what may be written now, as one that was written under another limit, is read, listed
/// and deleted, alone and in a batch; only what adds to it is refused.
#[tokio::test]
async fn keys_beyond_the_limit_are_read_and_deleted() {
    const KEY: &[u8] = &[b'k'; 4097];
    let stand = Stand::new().await;
    let key = std::str::from_utf8(KEY).unwrap();
    let batch = async |operation: String| {
        let json = [("content-type", "application/json")];
        let body = format!(r#"{{"operations":[{operation}]}}"#);
        stand.ask("POST /v1/batch", &json, body.as_bytes()).await
    };
    for in_batch in [false, true] {
        stand.fake.store(KEY, b"v".to_vec());
        assert_eq!(stand.ask(&format!("GET /v1/kv/{key}"), &[], b"").await.body, b"v");
        let listed = stand.ask(&format!("GET /v1/kv?prefix={key}"), &[], b"").await;
        assert_eq!(listed.json()["keys"][0]["value"], "v", "{listed:?}");
        let read = batch(format!(r#"{{"op":"get","key":"{key}"}}"#)).await;
        assert_eq!(read.json()["answers"][0]["value"], "v", "{read:?}");
        for line in ["PUT", "POST"] {
            let refused = stand.ask(&format!("{line} /v1/kv/{key}"), &[], b"w").await;
            assert_eq!((refused.status, refused.code()), (400, "key_too_large".into()), "{line}");
        }
        for op in ["put", "append", "cas"] {
            let version = if op == "cas" { r#","version":1"# } else { "" };
            let refused = batch(format!(r#"{{"op":"{op}","key":"{key}","value":"w"{version}}}"#)).await;
            assert_eq!((refused.status, refused.code()), (400, "key_too_large".into()), "{op}");
        }
        if in_batch {
            let deleted = batch(format!(r#"{{"op":"delete","key":"{key}"}}"#)).await;
            assert_eq!(deleted.json()["answers"][0]["status"], 204, "{deleted:?}");
        } else {
            assert_eq!(stand.ask(&format!("DELETE /v1/kv/{key}"), &[], b"").await.status, 204);
        }
        assert_eq!(stand.fake.value(KEY), None);
    }
}
