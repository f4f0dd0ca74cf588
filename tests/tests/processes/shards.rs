//! Groups and shards as operators change them, with the binary's own commands, while the cluster is used.

use serde_json::Value;
use tests::{Cluster, Run, Shape, owner_and_target, run};

/// The list that Debian's package `wamerican` installs: about a hundred thousand lines, no two alike.
const WORDS: &str = "/usr/share/dict/words";

/// How often groups come and go at least while the words are imported.
const ROUNDS_MIN: u32 = 2;

/// A cluster with so many groups, and the `--nodes` of its commands.
async fn start(groups: u32) -> (Cluster, String) {
    let cluster = Cluster::start(Shape { groups, ..Shape::default() }).await;
    let nodes = cluster.seeds().join(",");
    (cluster, nodes)
}

async fn flotilla(nodes: &str, command: &[&str]) -> Run {
    run([command, &["--nodes", nodes]].concat()).await
}

/// Runs a command that is to be carried out, and returns its JSON.
async fn done(nodes: &str, command: &[&str]) -> Value {
    let done = flotilla(nodes, &[command, &["--output", "json"]].concat()).await;
    assert_eq!(done.code(), Some(0), "{command:?}: {}", done.stderr);
    serde_json::from_slice(&done.stdout).expect("JSON was asked for")
}

/// How many shards each group owns, by the map.
fn owned(map: &Value) -> std::collections::BTreeMap<u64, u64> {
    let mut owned = std::collections::BTreeMap::new();
    for run in map["shard_runs"].as_array().expect("runs") {
        let part = |at: usize| run[at].as_u64().expect("a number");
        *owned.entry(part(2)).or_default() += part(1) - part(0) + 1;
    }
    owned
}

async fn settle(nodes: &str) {
    let settled = flotilla(nodes, &["shard", "wait", "--for", "50s"]).await;
    assert_eq!(settled.code(), Some(0), "{}", settled.stderr);
}

/// What a plan announces is what a change then does: a fourth group takes 64 of 256 shards, none of them from one old
/// group to another, and its removal brings the same shards back to where they were.
#[tokio::test(flavor = "multi_thread")]
async fn a_fourth_group_comes_and_goes() {
    let (_cluster, nodes) = start(3).await;
    let before = done(&nodes, &["shard", "map"]).await;
    assert_eq!(owned(&before).values().sum::<u64>(), 256);
    let (plan, added) = planned_and_added(&nodes).await;
    let planned = plan["moves"].as_array().expect("moves").clone();
    assert_eq!(planned.len(), 64);
    assert!(planned.iter().all(|planned| planned["to"] == 4), "{plan}");
    assert_eq!(added["groups"], serde_json::json!([4]));
    settle(&nodes).await;
    let with = done(&nodes, &["shard", "map"]).await;
    assert_eq!(owned(&with), [(1, 64), (2, 64), (3, 64), (4, 64)].into());
    for planned in &planned {
        let shard = planned["shard"].as_u64().expect("a number");
        assert_eq!(owner(&with, shard), 4);
    }
    done(&nodes, &["group", "remove", "4"]).await;
    settle(&nodes).await;
    let after = done(&nodes, &["shard", "map"]).await;
    for shard in 0..256 {
        assert_eq!(owner(&after, shard), owner(&before, shard), "shard {shard}");
    }
}

/// What adding a group would do, and then does. The nodes of a young cluster still tell the controller about themselves,
/// and a plan is for one version of the map: where that is no longer the newest, it is made anew, as an operator would.
async fn planned_and_added(nodes: &str) -> (Value, Value) {
    for _ in 0..10 {
        let before = done(nodes, &["shard", "map"]).await;
        let plan = done(nodes, &["shard", "plan", "--add-groups", "1"]).await;
        let after = done(nodes, &["shard", "map"]).await;
        if before["epoch"] != plan["epoch"] || plan["epoch"] != after["epoch"] {
            continue;
        }
        assert_eq!(before, after, "a plan changes nothing");
        let expected = plan["epoch"].to_string();
        let added = flotilla(nodes, &["group", "add", "--expect", &expected, "--output", "json"]).await;
        if added.code() == Some(0) {
            return (plan, serde_json::from_slice(&added.stdout).expect("JSON was asked for"));
        }
        assert!(added.stderr.contains("epoch"), "{}", added.stderr);
    }
    panic!("the map changes with every plan");
}

fn owner(map: &Value, shard: u64) -> u64 {
    owner_and_target(shard, map).expect("every shard is on the map").0
}

fn target(map: &Value, shard: u64) -> u64 {
    owner_and_target(shard, map).expect("every shard is on the map").1
}

/// What cannot be is refused with the reason and 1, a wrong command line with 2, and the map is what it was.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused() {
    let (_cluster, nodes) = start(1).await;
    let before = done(&nodes, &["shard", "map"]).await;
    for (command, code, reason) in [
        (&["shard", "move", "0", "--to", "1"][..], 1, "already: s0"),
        (&["shard", "move", "0", "--to", "9"], 1, "g9"),
        (&["shard", "move", "256", "--to", "1"], 1, "s256"),
        (&["shard", "cancel", "0"], 1, "s0"),
        (&["group", "remove", "1"], 1, "the last that serves: g1"),
        (&["group", "remove", "9"], 1, "g9"),
        (&["group", "add", "--expect", "999"], 1, "has changed meanwhile"),
        (&["group", "add", "--count", "0"], 2, "0"),
        (&["group", "add", "--ids", "1"], 1, "g1"),
        (&["group", "weight", "9", "2"], 1, "g9"),
        (&["group", "weight", "1", "0"], 2, "0"),
        (&["shard", "wait", "--for", "100000000000000000m"], 2, "at most 1440m"),
        (&["node", "drain", "1"], 1, "live"),
        (&["node", "remove", "1"], 1, "n1"),
        (&["node", "remove", "9"], 1, "n9"),
        (&["shard", "throttle", "--moves-max", "0"], 2, "moves_max"),
        (&["shard", "map", "--epoch", "999"], 1, "has not come to that epoch"),
        (&["shard", "map", "--expect", "1"], 2, "--expect"),
    ] {
        let refused = flotilla(&nodes, command).await;
        assert_eq!(refused.code(), Some(code), "{command:?}: {}", refused.stderr);
        assert!(refused.stderr.contains(reason), "{command:?} should say {reason}: {}", refused.stderr);
    }
    // What the groups' leaders reported meanwhile may have raised the epoch.
    let after = done(&nodes, &["shard", "map"]).await;
    for part in ["shard_runs", "settings", "nodes", "moves", "setbacks"] {
        assert_eq!(after[part], before[part]);
    }
    assert_eq!(after["groups"].as_array().map(Vec::len), Some(1));
}

/// Moves rest, go on, are limited; and a shard that was moved by hand stays until shards are balanced.
#[tokio::test(flavor = "multi_thread")]
async fn moves_are_directed() {
    let (_cluster, nodes) = start(2).await;
    done(&nodes, &["shard", "pause"]).await;
    done(&nodes, &["shard", "throttle", "--moves-max", "3", "--copy-bytes-per-second", "1000000"]).await;
    let from = owner(&done(&nodes, &["shard", "map"]).await, 7);
    let to = 3 - from;
    done(&nodes, &["shard", "move", "7", "--to", &to.to_string()]).await;
    let map = done(&nodes, &["shard", "map"]).await;
    assert_eq!(map["settings"]["moves_paused"], true);
    assert_eq!(
        (&map["settings"]["moves_max"], &map["settings"]["copy_bytes_per_second"]),
        (&3.into(), &1_000_000.into())
    );
    assert!(target(&map, 7) == to && map["moves"] == serde_json::json!([]), "it waits: {map}");
    done(&nodes, &["shard", "resume"]).await;
    settle(&nodes).await;
    assert_eq!(owner(&done(&nodes, &["shard", "map"]).await, 7), to);
    let epoch = map["epoch"].to_string();
    let then = done(&nodes, &["shard", "map", "--epoch", &epoch]).await;
    assert_eq!(owner(&then, 7), from);
    done(&nodes, &["shard", "rebalance"]).await;
    settle(&nodes).await;
    assert_eq!(owned(&done(&nodes, &["shard", "map"]).await), [(1, 128), (2, 128)].into());
}

/// A group that was removed stays after all, and one that weighs more than another has more shards.
#[tokio::test(flavor = "multi_thread")]
async fn groups_stay_and_are_weighed() {
    let (_cluster, nodes) = start(2).await;
    done(&nodes, &["shard", "pause"]).await;
    done(&nodes, &["group", "remove", "2"]).await;
    let wait = flotilla(&nodes, &["shard", "wait", "--for", "1s"]).await;
    assert_eq!(wait.code(), Some(1));
    for said in ["moves are paused; 128 shards are not where they are to be", "g2 is leaving"] {
        assert!(wait.stderr.contains(said), "{}", wait.stderr);
    }
    assert_eq!(done(&nodes, &["group", "add", "--ids", "2"]).await["groups"], serde_json::json!([2]));
    done(&nodes, &["shard", "resume"]).await;
    done(&nodes, &["group", "weight", "1", "3"]).await;
    let settled = done(&nodes, &["shard", "wait", "--for", "50s"]).await;
    let map = done(&nodes, &["shard", "map"]).await;
    assert!(settled["epoch"].as_u64() <= map["epoch"].as_u64(), "{settled} {map}");
    assert_eq!(owned(&map), [(1, 192), (2, 64)].into());
}

/// A word list that is imported while groups come and go is exported again as it was, byte for byte.
#[tokio::test(flavor = "multi_thread")]
async fn words_are_imported_while_groups_come_and_go() {
    let words = std::fs::read(WORDS).unwrap_or_else(|error| {
        panic!("this test imports {WORDS} (Debian: apt-get install wamerican): {error}")
    });
    let (cluster, nodes) = start(2).await;
    let import = tokio::spawn({
        let nodes = nodes.clone();
        async move { flotilla(&nodes, &["kv", "--timeout", "60s", "import", "--format", "lines", WORDS]).await }
    });
    let mut rounds = 0;
    while rounds < ROUNDS_MIN || !import.is_finished() {
        let added = done(&nodes, &["group", "add"]).await["groups"][0].to_string();
        settle(&nodes).await;
        done(&nodes, &["group", "remove", &added]).await;
        settle(&nodes).await;
        rounds += 1;
    }
    println!("{rounds} groups came and went");
    let import = import.await.expect("the import's task ends");
    assert_eq!(import.code(), Some(0), "{}", import.stderr);
    let exported = cluster.directory().join("exported");
    let path = exported.to_str().expect("an ASCII path");
    let export = flotilla(&nodes, &["kv", "--timeout", "60s", "export", "--format", "lines", path]).await;
    assert_eq!(export.code(), Some(0), "{}", export.stderr);
    let exported = std::fs::read(&exported).expect("the export wrote its file");
    assert!(exported == words, "export differs: {} bytes instead of {}", exported.len(), words.len());
}

/// A move is measured under load: nobody's operation fails, and the figures are printed.
#[tokio::test(flavor = "multi_thread")]
async fn moves_are_measured() {
    let (_cluster, nodes) = start(2).await;
    let bench = ["bench", "move", "--shard-mib", "1", "--clients", "4", "--others", "2", "--moves", "2"];
    let measured = flotilla(&nodes, &[&bench[..], &["--rest-seconds", "1"]].concat()).await;
    let text = String::from_utf8_lossy(&measured.stdout);
    assert_eq!(measured.code(), Some(0), "{}{text}", measured.stderr);
    for line in ["pause: asked to freeze", "gap between writes at the switch", "reads of other shards, p99"] {
        assert!(text.contains(line), "{text}");
    }
}
