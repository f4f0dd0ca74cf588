//! Listings: order, pages, cursors.

use crate::Stand;
use crate::wire::Wire;
use bytes::Bytes;

async fn filled(keys: &[(&'static [u8], &'static [u8])]) -> (Stand, Wire) {
    let stand = Stand::new().await;
    let entries = keys.iter().map(|(key, value)| {
        let value = Bytes::from_static(value);
        (Bytes::from_static(key), crate::fake::Entry { value, version: 1, revision: 5 })
    });
    stand.fake.state.lock().unwrap().keys.extend(entries);
    let wire = Wire::connect(stand.address).await;
    (stand, wire)
}

/// A listing is in byte order, and what is not UTF-8 comes as base64, key and value alike.
#[tokio::test]
async fn one_page() {
    let (_stand, mut wire) = filled(&[(b"a", b"1"), (b"b", b"\xff"), (b"\xff", b"2")]).await;
    let page = wire.ask("GET /v1/kv", &[], b"").await;
    assert_eq!(page.header("content-type"), Some("application/json"));
    let golden = concat!(
        r#"{"keys":[{"key":"a","value":"1","version":1,"revision":5},"#,
        r#"{"key":"Yg==","value":"/w==","version":1,"revision":5,"b64":true},"#,
        r#"{"key":"/w==","value":"Mg==","version":1,"revision":5,"b64":true}],"cursor":null}"#
    );
    assert_eq!(String::from_utf8(page.body).unwrap(), golden);
    let page = wire.ask("GET /v1/kv?keys-only=&prefix=b", &[], b"").await;
    let golden = r#"{"keys":[{"key":"b","version":1,"revision":5}],"cursor":null}"#;
    assert_eq!(String::from_utf8(page.body).unwrap(), golden);
}

/// Pages follow each other without a gap or a repeat, from a start and within a prefix of any bytes.
#[tokio::test]
async fn pages() {
    let (_stand, mut wire) =
        filled(&[(b"a", b""), (b"p\xff/1", b""), (b"p\xff/2", b""), (b"p\xff/3", b""), (b"z", b"")]).await;
    let listings = [("", 5), ("&prefix=p%ff%2F", 3), ("&start=p%FF/2", 3), ("&prefix=p%ff/&start=p%ff/2", 2)];
    for (query, count) in listings {
        let (mut found, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = wire.ask(&format!("GET /v1/kv?limit=1{query}{cursor}"), &[], b"").await.json();
            let keys = page["keys"].as_array().unwrap();
            assert_eq!(keys.len(), 1, "{page}");
            found.push(keys[0]["key"].as_str().unwrap().to_owned());
            match page["cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        assert_eq!(found.len(), count, "{query}: {found:?}");
        let distinct: std::collections::BTreeSet<_> = found.iter().collect();
        assert_eq!(distinct.len(), count, "{query}: {found:?}");
    }
}

/// A cursor that is damaged, foreign or of another listing is refused instead of skipping keys.
#[tokio::test]
async fn bad_cursors() {
    let (stand, mut wire) = filled(&[(b"a1", b""), (b"a2", b""), (b"b", b"")]).await;
    let page = wire.ask("GET /v1/kv?limit=1&prefix=a", &[], b"").await.json();
    let cursor = page["cursor"].as_str().unwrap().to_owned();
    let calls = stand.fake.calls();
    let damaged = format!("{}{}", &cursor[..cursor.len() - 1], if cursor.ends_with('A') { 'Q' } else { 'A' });
    let bad = [
        format!("cursor={damaged}&prefix=a"),
        format!("cursor={}&prefix=a", &cursor[..4]),
        "cursor=&prefix=a".into(),
        "cursor=bm90IG91cnM&prefix=a".into(),
        "cursor=%ff&prefix=a".into(),
        format!("cursor={cursor}"),
        format!("cursor={cursor}&prefix=a&start=a"),
    ];
    for query in bad {
        let answer = wire.ask(&format!("GET /v1/kv?limit=1&{query}"), &[], b"").await;
        assert_eq!((answer.status, &answer.code()[..]), (400, "bad_cursor"), "{query}");
    }
    assert_eq!(stand.fake.calls(), calls);
    let next = wire.ask(&format!("GET /v1/kv?limit=9&prefix=a&cursor={cursor}"), &[], b"").await.json();
    assert_eq!(next["keys"][0]["key"], "a2");
}
