//! The crates' arrows, as drawn in docs/architecture: whatever is not allowed here is forbidden. And who may ask for
//! what only tests are to have.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Who may depend on whom among our own crates. The binary and the tests may see everything below them.
const ALLOWED: [(&str, &[&str]); 14] = [
    ("proto", &[]),
    ("raftstore", &["proto"]),
    ("flotilla-client", &["proto"]),
    ("shardctrler", &["raftstore", "proto"]),
    ("kvserver", &["raftstore", "shardctrler", "proto"]),
    ("flotilla", &["proto", "raftstore", "shardctrler", "flotilla-client", "kvserver", "bench"]),
    ("bench", &["flotilla-client"]),
    ("checker", &[]),
    ("simulated-http", &["raftstore", "flotilla-client"]),
    (
        "simulation",
        &["proto", "raftstore", "shardctrler", "flotilla-client", "kvserver", "checker", "simulated-http"],
    ),
    ("faults", &["flotilla-client", "checker", "tests"]),
    ("guard", &["proto", "raftstore", "flotilla-client", "kvserver", "simulated-http"]),
    (
        "failpoints",
        &["proto", "raftstore", "shardctrler", "flotilla-client", "kvserver", "bench", "checker", "tests"],
    ),
    ("tests", &["proto", "raftstore", "shardctrler", "flotilla-client", "kvserver", "flotilla", "checker"]),
];

/// What every crate's tests may use, and nothing that is built for use.
const FOR_TESTS: [&str; 1] = ["checker"];

/// What only one crate may know, so that it can be replaced there.
const ONE_DOOR: [(&str, &str); 4] = [
    ("openraft", "raftstore"),
    ("openraft-rt", "raftstore"),
    ("openraft-rt-tokio", "raftstore"),
    ("sled", "raftstore"),
];

/// Each of our crates with everything that it depends on, for building and for its tests.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let name = |dependency: &Value| dependency["name"].as_str().expect("packages have names").to_owned();
    let named = |(package, on): (String, Vec<Value>)| (package, on.iter().map(name).collect());
    declared().into_iter().map(named).collect()
}

/// Our crates as cargo describes them.
fn packages() -> Vec<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    metadata["packages"].as_array().expect("packages are a list").clone()
}

/// Each of our crates with its dependencies as cargo describes them.
fn declared() -> BTreeMap<String, Vec<Value>> {
    let of = |package: &Value| {
        let name = package["name"].as_str().expect("packages have names").to_owned();
        (name, package["dependencies"].as_array().expect("dependencies are a list").clone())
    };
    packages().iter().map(of).collect()
}

/// Whether `package` needs `other`, which is for tests, for its tests alone.
fn only_tests_use(package: &str, other: &str) -> bool {
    let is_dev = |it: &Value| it["name"] != other || it["kind"] == "dev";
    FOR_TESTS.contains(&other) && declared()[package].iter().all(is_dev)
}

/// Our crates depend on each other along the drawn arrows only, tests included, and every crate is drawn.
#[test]
fn only_drawn_arrows() {
    let dependencies = dependencies();
    let drawn: BTreeMap<&str, &[&str]> = ALLOWED.into_iter().collect();
    for (package, on) in &dependencies {
        let allowed = drawn.get(package.as_str());
        let allowed =
            allowed.unwrap_or_else(|| panic!("{package} is not drawn: docs/architecture/README.md and here"));
        // A crate's own tests may ask for features of it.
        for other in on.iter().filter(|name| *name != package && dependencies.contains_key(*name)) {
            let right = allowed.contains(&other.as_str()) || only_tests_use(package, other);
            assert!(right, "forbidden arrow: {package} → {other}");
        }
    }
    for package in drawn.keys() {
        assert!(dependencies.contains_key(*package), "{package} is drawn and does not exist");
    }
}

/// openraft and sled have one door each: no other crate can come to rely on them.
#[test]
fn consensus_and_disk_have_one_door() {
    let dependencies = dependencies();
    for (behind, door) in ONE_DOOR {
        let users: Vec<&String> =
            dependencies.iter().filter(|(_, on)| on.contains(behind)).map(|(name, _)| name).collect();
        assert_eq!(users, [door], "who depends on {behind}");
    }
}

/// Nobody asks for mutations but the simulator, no default feature has them, and the binary that people run says at
/// compile time that it does not.
#[test]
fn nobody_else_leaves_guarantees_out() {
    let asks = |feature: &Value| feature.as_str().is_some_and(|feature| feature.contains("mutations"));
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let asks_for = |on: &[Value]| on.iter().any(|dependency| list(&dependency["features"]).iter().any(asks));
    let asked_by: Vec<String> =
        declared().into_iter().filter(|(_, on)| asks_for(on)).map(|(name, _)| name).collect();
    assert_eq!(asked_by, ["simulation"]);
    let mut offered_by = BTreeSet::new();
    for package in packages() {
        let name = package["name"].as_str().expect("packages have names").to_owned();
        let features = package["features"].as_object().expect("features have names");
        assert!(!features.get("default").is_some_and(|default| list(default).iter().any(asks)), "{name}");
        if features.keys().any(|feature| feature == "mutations") {
            offered_by.insert(name);
        }
    }
    assert_eq!(offered_by, BTreeSet::from(["kvserver".to_owned(), "raftstore".to_owned()]));
    let main = include_str!("../../flotilla/src/main.rs");
    assert!(
        main.contains("assert!(!raftstore::mutation::COMPILED || cfg!(debug_assertions)"),
        "the binary's word"
    );
}

/// Nobody asks for failpoints, or for a look into a node's replicas, but tests: no default feature has them, and no
/// crate asks for them but those below `tests/`, and others for their own tests.
#[test]
fn failpoints_are_for_tests_alone() {
    let asks = |feature: &Value| {
        let name = feature.as_str().and_then(|feature| feature.rsplit('/').next());
        matches!(name, Some("failpoints" | "watch"))
    };
    let some = |features: &Value| features.as_array().is_some_and(|features| features.iter().any(asks));
    for package in packages() {
        assert!(!some(&package["features"]["default"]), "{}", package["name"]);
        let manifest = package["manifest_path"].as_str().expect("packages have manifests");
        let is_for_tests = manifest.contains("/tests/");
        let dependencies = package["dependencies"].as_array().expect("dependencies are a list");
        for on in dependencies.iter().filter(|on| some(&on["features"])) {
            assert!(is_for_tests || on["kind"] == "dev", "{} asks {} for them", package["name"], on["name"]);
        }
    }
}

/// The table in the architecture guide lists the arrows that are allowed here.
#[test]
fn the_guide_shows_the_same() {
    let guide = include_str!("../../docs/architecture/README.md");
    for (package, allowed) in ALLOWED {
        let package = package.trim_start_matches("flotilla-");
        let row = guide.lines().find(|line| line.starts_with(&format!("| `{package}` |")));
        let row = row.unwrap_or_else(|| panic!("the guide's table lacks {package}"));
        if package == "flotilla" || package == "tests" {
            continue;
        }
        let shown: BTreeSet<&str> = row.split('`').skip(3).step_by(2).collect();
        let allowed = allowed.iter().map(|name| name.trim_start_matches("flotilla-"));
        assert_eq!(shown, allowed.collect(), "the guide's row of {package}");
    }
}

/// Every decision stands in the index, under its own title and date, and nothing else does.
#[test]
fn decisions_are_listed() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/decisions");
    let read =
        |name: &str| std::fs::read_to_string(format!("{folder}/{name}")).expect("a page that can be read");
    let index = read("README.md");
    let entries = std::fs::read_dir(folder).expect("the folder of decisions");
    let names = entries.map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned());
    let pages: Vec<String> = names.filter(|name| name != "README.md").collect();
    for page in &pages {
        let text = read(page);
        let title = text.lines().next().and_then(|line| line.strip_prefix("# ")).expect("a title first");
        let row = format!("| {} | [{title}]({page}) | ", &page[..10]);
        assert!(index.contains(&row), "the index lacks {row}");
    }
    assert_eq!(index.lines().filter(|line| line.starts_with("| 20")).count(), pages.len());
}
