//! The command line that everybody has: curl against a real cluster.

use std::path::Path;
use tests::{Cluster, Dice, Shape};
use tokio::process::Command;

/// Runs curl and returns the status that it was answered and the body.
async fn curl(args: &[&str]) -> (u16, Vec<u8>) {
    let output = Command::new("curl")
        .args([
            "--silent",
            "--show-error",
            "--path-as-is",
            "--noproxy",
            "*",
            "--max-time",
            "60",
            "--write-out",
            "\n%{http_code}",
        ])
        .args(args)
        .output()
        .await
        .expect("curl is installed (Debian: apt-get install curl)");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    let cut = output.stdout.iter().rposition(|byte| *byte == b'\n').expect("the status follows a line break");
    let status = std::str::from_utf8(&output.stdout[cut + 1..]).expect("a status is digits");
    (status.parse().expect("a status is a number"), output.stdout[..cut].to_vec())
}

fn encoded(key: &[u8]) -> String {
    key.iter().map(|byte| format!("%{byte:02X}")).collect()
}

async fn put_and_get(nodes: &[String], file: &Path, key: &str, value: &[u8]) {
    tokio::fs::write(file, value).await.expect("the test's directory can be written");
    let file = file.to_str().expect("the test chose an ASCII path");
    let (status, body) = curl(&["-T", file, &format!("http://{}/v1/kv/{key}", nodes[0])]).await;
    assert!(matches!(status, 200 | 201), "PUT {key}: {status} {}", String::from_utf8_lossy(&body));
    for node in nodes {
        let (status, body) = curl(&[&format!("http://{node}/v1/kv/{key}")]).await;
        assert_eq!(status, 200, "GET {key} from {node}");
        assert!(body == value, "GET {key} from {node}: {} bytes instead of {}", body.len(), value.len());
    }
}

/// `curl -T file` brings any bytes to any node and back unchanged: empty, text, binary, and as large as allowed.
#[tokio::test(flavor = "multi_thread")]
async fn any_bytes_round_trip() {
    let cluster = Cluster::start(Shape::default()).await;
    let (nodes, file) = (cluster.seeds(), cluster.directory().join("upload"));
    let mut dice = Dice::roll("any_bytes_round_trip");
    let all: Vec<u8> = (0..=255).collect();
    let crlf = b"line\r\nline\n\n\0end\xff".to_vec();
    for (key, value) in [
        ("empty", Vec::new()),
        ("notes/today", b"write the chapter".to_vec()),
        ("all", all),
        ("crlf", crlf),
        ("big", dice.bytes(100_000)),
        ("largest", dice.bytes(1 << 20)),
    ] {
        put_and_get(&nodes, &file, key, &value).await;
    }
    tokio::fs::write(&file, dice.bytes((1 << 20) + 1)).await.expect("written");
    let path = file.to_str().expect("an ASCII path");
    let (status, _) = curl(&["-T", path, &format!("http://{}/v1/kv/too-large", nodes[0])]).await;
    assert_eq!(status, 413);
    let (status, _) = curl(&[&format!("http://{}/v1/kv/too-large", nodes[0])]).await;
    assert_eq!(status, 404, "what was refused had no effect");
}

/// Keys that a path could swallow stay what they are, each its own: slashes, dots, percents, every byte.
#[tokio::test(flavor = "multi_thread")]
async fn awkward_keys_stay_apart() {
    let cluster = Cluster::start(Shape { nodes: 1, ..Shape::default() }).await;
    let (nodes, file) = (cluster.seeds(), cluster.directory().join("upload"));
    // A last part that is empty or dots is encoded: curl -T would put the file's name in its place.
    let awkward = [
        "a/b",
        "a//b",
        "/a",
        "a%2F",
        "a/./b",
        "a/../b",
        "%2E%2E",
        "%2E",
        "a%2Fc",
        "%25",
        "%2525",
        "%00",
        "%0A",
        "+",
        "%20",
        "a;b",
        "a=b&c",
        "%3F",
        "%23",
        "%7Broom1%7D/a",
        "%C3%A4",
    ];
    let mut keys: Vec<String> = awkward.map(String::from).to_vec();
    keys.extend((0..=255).step_by(5).map(|byte: usize| encoded(&[b'k', byte as u8])));
    for (number, key) in keys.iter().enumerate() {
        tokio::fs::write(&file, number.to_string()).await.expect("written");
        let path = file.to_str().expect("an ASCII path");
        let (status, body) = curl(&["-T", path, &format!("http://{}/v1/kv/{key}", nodes[0])]).await;
        assert_eq!(status, 201, "PUT {key} creates: {}", String::from_utf8_lossy(&body));
    }
    for (number, key) in keys.iter().enumerate() {
        let (status, body) = curl(&[&format!("http://{}/v1/kv/{key}", nodes[0])]).await;
        assert_eq!(
            (status, String::from_utf8_lossy(&body).as_ref()),
            (200, number.to_string().as_str()),
            "GET {key}"
        );
    }
}
