//! `flotilla bench growth` with clusters of its own, small and brief: what is measured is told, nothing of it is judged.

use serde_json::Value;
use std::process::Command;

/// A point is measured, killed, found again and told, one that memory does not allow is told as well, the page has plots
/// with sentences, and nothing but the page is left.
#[test]
fn clusters_are_measured_and_gone() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let page = dir.path().join("growth.html");
    let output = Command::new(env!("CARGO_BIN_EXE_flotilla"))
        .args(["bench", "growth", "--series", "data-set", "--keys", "300,1000000000", "--seconds", "1"])
        .args(["--output", "json", "--dir"])
        .arg(dir.path())
        .arg("--html")
        .arg(&page)
        .output()
        .expect("the binary can be started");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let stdout = String::from_utf8(output.stdout).expect("text");
    let objects: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let of = |kind: &str| objects.iter().filter(|object| object["kind"] == kind).collect::<Vec<_>>();
    let [row] = of("row")[..] else { panic!("one row: {stdout}") };
    let figures = ["/puts/ops_per_s", "/gets/ops_per_s", "/memory_peak_bytes", "/recovery/answers_s"];
    for figure in figures.map(|path| row.pointer(path).expect(path).as_f64().expect(path)) {
        assert!(figure > 0.0, "{row}");
    }
    let [left_out] = of("left-out")[..] else { panic!("one is left out: {stdout}") };
    assert_eq!((&left_out["series"], &left_out["at"]), (&"data-set".into(), &1_000_000_000.into()));
    assert!(
        of("shape").iter().any(|shape| shape["plot"] == "data set: memory of all nodes, MiB"),
        "{stdout}"
    );
    let html = std::fs::read_to_string(&page).expect("the page was written");
    assert!(html.contains("<svg") && html.contains("<p>At 300 keys, puts came to "), "{html}");
    assert_eq!(std::fs::read_dir(dir.path()).expect("the directory").count(), 1, "only the page is left");
}
