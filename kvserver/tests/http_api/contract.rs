//! The API's description is exactly what is served.

use crate::Stand;
use crate::wire::{Answer, Wire};
use kvserver::{HttpConfig, Node, NodeConfig};
use proto::{Code, ControllerError, Epoch, Error, GroupId, NodeId};
use raftstore::{Address, SimulatedDisk, SimulatedNetwork, SystemClock};
use serde_json::Value;
use shardctrler::ExecuteError;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

type Served = BTreeSet<(String, String, u16)>;

fn route(path: &str) -> String {
    let path = path.split('?').next().unwrap();
    if let Some((_, described)) = crate::admin::REQUESTS
        .iter()
        .map(|(line, _)| (line.split_once(' ').unwrap().1, crate::admin::described(line)))
        .find(|(known, _)| *known == path)
    {
        return described;
    }
    if path.starts_with("/v1/kv/") { "/v1/kv/{key}".into() } else { path.into() }
}

/// Notes what was served, and checks the answer against what the document says of it.
fn note(document: &Value, served: &mut Served, line: &str, answer: &Answer) {
    let (method, path) = line.split_once(' ').unwrap();
    let (path, method) = (route(path), method.to_lowercase());
    let described =
        resolve(document, &document["paths"][&path][&method]["responses"][answer.status.to_string()]);
    assert!(described.is_object(), "not in the document: {line}: {answer:?}");
    let content = described.get("content").map(|content| content.as_object().unwrap());
    let bodiless = method == "head" || answer.body.is_empty();
    if !bodiless {
        let given = answer.header("content-type").unwrap().split(';').next().unwrap();
        assert!(content.is_some_and(|content| content.contains_key(given)), "{line}: {given}");
    }
    for (name, _) in &answer.headers {
        let transport = ["content-type", "content-length", "date", "connection"].contains(&name.as_str());
        let headers = described["headers"].as_object().unwrap();
        let known = headers.keys().any(|header| header.to_lowercase() == *name);
        assert!(transport || known, "header is not in the document: {line}: {name}");
    }
    served.insert((path, method, answer.status));
}

fn resolve<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value.get("$ref").and_then(Value::as_str) {
        Some(reference) => document.pointer(reference.strip_prefix('#').unwrap()).unwrap(),
        None => value,
    }
}

fn documented(document: &Value) -> Served {
    let mut all = Served::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in
            operations.as_object().unwrap().iter().filter(|(name, _)| *name != "parameters")
        {
            let statuses = operation["responses"].as_object().unwrap().keys();
            all.extend(statuses.map(|status| (path.clone(), method.clone(), status.parse().unwrap())));
        }
    }
    all
}

/// Every route with every method gives every status that the document lists, and no other.
#[tokio::test]
async fn every_status_of_every_route() {
    let config = HttpConfig { body_read_timeout_ms: 50, requests_in_flight_max: 2, ..HttpConfig::default() };
    let stand = Stand::with(config).await;
    let document = stand.ask("GET /openapi.json", &[], b"").await.json();
    let mut served = Served::new();
    let binary = ("content-type", "application/vnd.flotilla.batch");
    let json = ("content-type", "application/json");
    let batch: &[u8] = br#"{"operations":[{"op":"get","key":"k"}]}"#;
    let failures = [
        Code::NotFound,
        Code::Overloaded,
        Code::Internal,
        Code::NoLeader,
        Code::Timeout,
        Code::IdempotencyKeyReused,
    ];
    let writes = ["PUT /v1/kv/k", "POST /v1/kv/k", "DELETE /v1/kv/k"];
    let reads = ["GET /v1/kv/k", "HEAD /v1/kv/k"];
    for line in reads.into_iter().chain(writes).chain(["GET /v1/kv", "POST /v1/batch"]) {
        let headers: &[_] = if line == "POST /v1/batch" { &[json] } else { &[] };
        let body: &[u8] = if line == "POST /v1/batch" { batch } else { b"" };
        for code in &failures {
            let keyed = line.ends_with("/k");
            let written = matches!(line, "PUT /v1/kv/k" | "POST /v1/kv/k");
            let possible = match code {
                Code::NotFound => keyed && !written,
                Code::IdempotencyKeyReused => writes.contains(&line),
                _ => true,
            };
            if possible {
                stand.fake.fail(Error::new(code.clone(), "as asked"));
                note(&document, &mut served, line, &stand.ask(line, headers, body).await);
            }
        }
        stand.fake.fail(None);
        let refused = stand.ask(&format!("{line}?x"), headers, body).await;
        note(&document, &mut served, line, &refused);
        if line.ends_with("/k") {
            note(&document, &mut served, line, &stand.ask(line, &[("if-match", "\"9\"")], body).await);
        }
    }
    for line in ["PUT /v1/kv/k", "POST /v1/kv/other"] {
        for _ in 0..2 {
            note(&document, &mut served, line, &stand.ask(line, &[], b"x").await);
        }
        note(&document, &mut served, line, &stand.ask(line, &[], &vec![7; 2 << 20]).await);
    }
    for line in reads {
        note(&document, &mut served, line, &stand.ask(line, &[], b"").await);
        note(&document, &mut served, line, &stand.ask(line, &[("if-none-match", "*")], b"").await);
        let stale = format!("{line}?consistency=stale");
        note(&document, &mut served, line, &stand.ask(&stale, &[], b"").await);
    }
    note(&document, &mut served, "DELETE /v1/kv/k", &stand.ask("DELETE /v1/kv/k", &[], b"").await);
    note(&document, &mut served, "GET /v1/kv", &stand.ask("GET /v1/kv?consistency=follower", &[], b"").await);
    let line = "POST /v1/batch";
    note(&document, &mut served, line, &stand.ask(line, &[json], batch).await);
    note(&document, &mut served, line, &stand.ask(line, &[("content-type", "text/plain")], batch).await);
    note(&document, &mut served, line, &stand.ask(line, &[binary], &vec![7; 4 << 20]).await);
    for line in ["PUT /v1/kv/k", "POST /v1/kv/k", "POST /v1/batch"] {
        let mut wire = Wire::connect(stand.address).await;
        let head = "host: test\r\ncontent-type: application/json\r\ncontent-length: 9";
        wire.send(format!("{line} HTTP/1.1\r\n{head}\r\n\r\n")).await;
        note(&document, &mut served, line, &wire.answer(false).await);
    }
    administer(&stand, &document, &mut served).await;
    for path in ["/v1/cluster", "/v1/status", "/healthz", "/readyz", "/metrics", "/openapi.json"] {
        let methods: &[&str] = if path.ends_with('z') { &["GET", "HEAD"] } else { &["GET"] };
        for method in methods {
            let line = format!("{method} {path}");
            note(&document, &mut served, &line, &stand.ask(&line, &[], b"").await);
            note(&document, &mut served, &line, &stand.ask(&format!("{line}?x"), &[], b"").await);
        }
    }
    stand.fake.state.lock().unwrap().not_ready = Some("group 1 has no leader".into());
    for line in ["GET /readyz", "HEAD /readyz"] {
        note(&document, &mut served, line, &stand.ask(line, &[], b"").await);
    }
    let documented = documented(&document);
    let unseen: Vec<_> = documented.difference(&served).collect();
    assert!(unseen.is_empty(), "documented, never served: {unseen:?}");
    assert_eq!(served, documented);
}

/// Every operators' path, done, refused in every way, and on a node that is full.
async fn administer(stand: &Stand, document: &Value, served: &mut Served) {
    for (line, body) in crate::admin::REQUESTS {
        let (method, path) = line.split_once(' ').unwrap();
        for failure in [
            ExecuteError::Refused(ControllerError::UnknownGroup { group: GroupId(9) }),
            ExecuteError::Refused(ControllerError::EpochMismatch { current: Epoch(9) }),
            ExecuteError::Unreached("as asked".into()),
            ExecuteError::Unknown("as asked".into()),
        ] {
            // No question of an epoch depends on another.
            if method == "GET"
                && matches!(failure, ExecuteError::Refused(ControllerError::EpochMismatch { .. }))
            {
                continue;
            }
            stand.fake.fail_controller(failure);
            let asked = if method == "GET" { format!("{line}?epoch=1") } else { (*line).to_owned() };
            note(document, served, line, &stand.ask(&asked, &[], body).await);
        }
        stand.fake.fail_controller(None);
        stand.fake.bear();
        stand.ask("POST /v1/cluster/shards/3/move", &[], br#"{"to":2}"#).await;
        note(document, served, line, &stand.ask(line, &[], body).await);
        note(document, served, line, &stand.ask(&format!("{line}?x"), &[], body).await);
        if !body.is_empty() {
            note(document, served, line, &stand.ask(line, &[], &[b' '; 5_000]).await);
            let mut wire = Wire::connect(stand.address).await;
            wire.send(format!("{method} {path} HTTP/1.1\r\nhost: test\r\ncontent-length: 9\r\n\r\n")).await;
            note(document, served, line, &wire.answer(false).await);
        }
    }
    stand.fake.hold();
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut wire = Wire::connect(stand.address).await;
        wire.send(Wire::request("GET /v1/kv/k", &[], b"")).await;
        held.push(wire);
    }
    stand.fake.holds(2).await;
    for (line, body) in crate::admin::REQUESTS {
        note(document, served, line, &stand.ask(line, &[], body).await);
    }
    stand.fake.release();
    for mut wire in held {
        wire.answer(false).await;
    }
}

/// The observing paths answer what the node says.
#[tokio::test]
async fn observing() {
    let stand = Stand::new().await;
    assert_eq!(stand.ask("GET /v1/cluster", &[], b"").await.json()["cluster"], "test");
    assert_eq!(stand.ask("GET /v1/status", &[], b"").await.json()["id"], 7);
    assert_eq!(stand.ask("GET /healthz", &[], b"").await.body, b"ok\n");
    assert_eq!(stand.ask("GET /readyz", &[], b"").await.body, b"ready\n");
    stand.fake.state.lock().unwrap().not_ready = Some("group 1 has no leader".into());
    let waiting = stand.ask("GET /readyz", &[], b"").await;
    assert_eq!((waiting.status, &waiting.code()[..]), (503, "unavailable"));
    assert_eq!(waiting.detail(), "group 1 has no leader");
    stand.ask("PUT /v1/kv/k", &[], b"x").await;
    let page = stand.ask("GET /metrics", &[], b"").await;
    assert!(page.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    let page = String::from_utf8(page.body).unwrap();
    for line in [
        r#"flotilla_http_requests_total{route="/v1/kv/{key}",method="PUT",status="201"} 1"#,
        r#"flotilla_http_requests_total{route="/readyz",method="GET",status="503"} 1"#,
        r#"flotilla_http_request_seconds_count{route="/v1/kv/{key}"} 1"#,
        "fake_keys 1",
    ] {
        assert!(page.lines().any(|found| found == line), "{line}\n{page}");
    }
    let count = |name: &str| -> u64 {
        let line = page.lines().find(|line| line.starts_with(name)).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert!(count("flotilla_http_received_bytes_total ") > 100, "{page}");
    assert!(count("flotilla_http_sent_bytes_total ") > 100, "{page}");
}

/// Looks at a node whose locks are held block, and hold up nothing else.
#[tokio::test]
async fn looks_hold_nobody_up() {
    let stand = Stand::new().await;
    stand.fake.blind(true);
    let mut looks = Vec::new();
    for line in ["GET /v1/status", "GET /metrics", "GET /readyz", "GET /v1/cluster"] {
        let mut wire = Wire::connect(stand.address).await;
        wire.send(Wire::request(line, &[], b"")).await;
        looks.push(wire);
    }
    assert_eq!(stand.ask("GET /healthz", &[], b"").await.status, 200);
    assert_eq!(stand.ask("PUT /v1/kv/k", &[], b"x").await.status, 201);
    stand.fake.blind(false);
    for mut look in looks {
        assert_eq!(look.answer(false).await.status, 200);
    }
}

/// Every histogram of a whole node has, for each of its label sets, a bucket without an end, a sum and a count.
#[tokio::test]
async fn histograms() {
    let address = Address { peer: "n1:1".into(), http: "n1:2".into() };
    let config = NodeConfig {
        http_listen: "127.0.0.1:0".into(),
        shards: 16,
        ..NodeConfig::founder("test", NodeId(1), [(NodeId(1), address)].into())
    };
    let (disk, network) = (Arc::new(SimulatedDisk::new()), SimulatedNetwork::new().host("n1"));
    let node = Node::start_on(config, disk, network, Arc::new(SystemClock)).await.unwrap();
    node.ready(Duration::from_secs(30)).await.unwrap();
    let mut wire = Wire::connect(node.http_address()).await;
    let page = String::from_utf8(wire.ask("GET /metrics", &[], b"").await.body).unwrap();
    let named = |line: &str| -> Option<String> {
        Some(line.strip_prefix("# TYPE ")?.strip_suffix(" histogram")?.to_owned())
    };
    let names: Vec<String> = page.lines().filter_map(named).collect();
    assert!(names.len() >= 2, "{page}");
    for name in names {
        let samples = |suffix: &str, part: &str| -> Vec<&str> {
            let of = format!("{name}{suffix}");
            let is = |line: &&str| {
                line.strip_prefix(&of).is_some_and(|rest| rest.starts_with(['{', ' '])) && line.contains(part)
            };
            page.lines().filter(is).map(|line| line.rsplit(' ').next().unwrap()).collect()
        };
        let (all, counts) = (samples("_bucket", r#"le="+Inf""#), samples("_count", ""));
        assert_eq!(all, counts, "{name}");
        assert!(!counts.is_empty(), "{name}");
        assert_eq!(samples("_sum", "").len(), counts.len(), "{name}");
        assert!(samples("_sum", "").iter().all(|sum| sum.parse::<f64>().is_ok()), "{name}");
    }
    node.shutdown(Duration::from_secs(5)).await.unwrap();
}

/// Two calls with curl's own ways: a file put with `-T`, asked for first because it is large, and read back.
#[tokio::test]
async fn curl() {
    let stand = Stand::new().await;
    let folder = tempfile::tempdir().unwrap();
    let value: Vec<u8> = (0..(1 << 20)).map(|place: u32| (place * 7 % 251) as u8).collect();
    let file = folder.path().join("value");
    std::fs::write(&file, &value).unwrap();
    let url = |key: &str| format!("http://{}/v1/kv/{key}", stand.address);
    let run = async |arguments: Vec<String>| {
        let run = move || std::process::Command::new("curl").args(["-sS", "-f"]).args(arguments).output();
        let output = tokio::task::spawn_blocking(run).await.unwrap().expect("curl is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let put = ["-T".into(), file.display().to_string(), url("notes/today")];
    run(put.into()).await;
    assert_eq!(stand.fake.value(b"notes/today").as_deref(), Some(&value[..]));
    assert_eq!(run([url("notes/today")].into()).await, value);
    let expect = ["-H".into(), "Expect: 100-continue".into(), "--path-as-is".into()];
    let put = ["-T".into(), file.display().to_string(), url("a/../b%2f")];
    run(expect.into_iter().chain(put).collect()).await;
    assert!(stand.fake.value(b"a/../b/").is_some());
}
