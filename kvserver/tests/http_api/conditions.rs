//! Compare-and-set by `If-Match` and `If-None-Match`.

use crate::Stand;
use crate::wire::Wire;

/// The matrix: each condition with each method, on a key at version 1 and on an absent one.
#[tokio::test]
async fn matrix() {
    let held = ("if-match", "\"1\"");
    let other = ("if-match", "\"2\"");
    let absent_tag = ("if-match", "\"0\"");
    let any = ("if-match", "*");
    let none = ("if-none-match", "*");
    // Condition; then PUT, POST, DELETE, GET on the key at version 1; then the same on an absent key.
    let matrix = [
        (held, [200, 200, 204, 200], [412, 412, 412, 412]),
        (other, [412, 412, 412, 412], [412, 412, 412, 412]),
        (absent_tag, [412, 412, 412, 412], [201, 201, 404, 404]),
        (any, [200, 200, 204, 200], [412, 412, 412, 412]),
        (none, [412, 412, 412, 304], [201, 201, 404, 404]),
    ];
    for (condition, present, absent) in matrix {
        for (place, method) in ["PUT", "POST", "DELETE", "GET"].into_iter().enumerate() {
            for (exists, expected) in [(true, present[place]), (false, absent[place])] {
                let stand = Stand::new().await;
                let mut wire = Wire::connect(stand.address).await;
                if exists {
                    assert_eq!(wire.ask("PUT /v1/kv/k", &[], b"old").await.status, 201);
                }
                let body: &[u8] = if method.starts_with('P') { b"new" } else { b"" };
                let answer = wire.ask(&format!("{method} /v1/kv/k"), &[condition], body).await;
                assert_eq!(answer.status, expected, "{method} {condition:?} {exists}");
                if expected == 412 {
                    assert_eq!(answer.code(), "version_mismatch");
                    let current = u64::from(exists);
                    assert_eq!(answer.header("etag"), Some(&format!("\"{current}\"")[..]));
                    assert_eq!(answer.json()["version"], current);
                    assert_eq!(stand.fake.value(b"k").as_deref(), exists.then_some(&b"old"[..]));
                }
            }
        }
    }
}

/// A reader that has the version already is told so without the value.
#[tokio::test]
async fn not_modified() {
    let stand = Stand::new().await;
    let mut wire = Wire::connect(stand.address).await;
    wire.ask("PUT /v1/kv/k", &[], b"value").await;
    for (tags, status) in [("\"1\"", 304), ("\"7\", W/\"1\"", 304), ("\"2\"", 200)] {
        for method in ["GET", "HEAD"] {
            let answer = wire.ask(&format!("{method} /v1/kv/k"), &[("if-none-match", tags)], b"").await;
            assert_eq!((answer.status, answer.header("etag")), (status, Some("\"1\"")), "{method} {tags}");
            assert_eq!(answer.header("flotilla-revision"), Some("1"));
        }
    }
}

/// A condition that is not understood refuses the request; it is never dropped.
#[tokio::test]
async fn bad_conditions() {
    let stand = Stand::new().await;
    let mut wire = Wire::connect(stand.address).await;
    let bad: [&[(&str, &str)]; 7] = [
        &[("if-match", "1")],
        &[("if-match", "W/\"1\"")],
        &[("if-match", "\"1\", \"2\"")],
        &[("if-match", "\"abc\"")],
        &[("if-match", "\"1\""), ("if-match", "\"1\"")],
        &[("if-match", "*"), ("if-none-match", "*")],
        &[("if-none-match", "\"1\"")],
    ];
    for condition in bad {
        for method in ["PUT", "POST", "DELETE"] {
            let answer = wire.ask(&format!("{method} /v1/kv/k"), condition, b"x").await;
            assert_eq!((answer.status, &answer.code()[..]), (400, "bad_request"), "{method} {condition:?}");
        }
    }
    assert_eq!(wire.ask("GET /v1/kv/k", &[("if-none-match", "1")], b"").await.status, 400);
    assert_eq!(stand.fake.calls(), 0);
}

/// What would make a write one of a part, or one that depends on a time, refuses it; a read has no use for them.
#[tokio::test]
async fn parts_and_times() {
    let stand = Stand::new().await;
    let mut wire = Wire::connect(stand.address).await;
    let time = "Sat, 29 Oct 1994 19:43:31 GMT";
    for header in
        [("content-range", "bytes 2-3/4"), ("if-unmodified-since", time), ("if-modified-since", time)]
    {
        for method in ["PUT", "POST", "DELETE"] {
            let answer = wire.ask(&format!("{method} /v1/kv/k"), &[header], b"x").await;
            assert_eq!((answer.status, &answer.code()[..]), (400, "bad_request"), "{method} {header:?}");
            assert!(answer.detail().contains(header.0), "{answer:?}");
        }
    }
    assert_eq!(stand.fake.calls(), 0);
    assert_eq!(wire.ask("GET /v1/kv/k", &[("if-modified-since", time)], b"").await.status, 404);
}
