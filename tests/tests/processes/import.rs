//! A whole word list in and out again, across the death of the leader.

use std::path::Path;
use tests::{Cluster, Shape, eventually, run};
use tokio::time::Instant;

/// The list that Debian's package `wamerican` installs: about a hundred thousand lines, no two alike.
const WORDS: &str = "/usr/share/dict/words";

/// An import of the word list goes on when the leader is killed half-way, confirms every line, and an export gives the
/// same file again, byte for byte.
#[tokio::test(flavor = "multi_thread")]
async fn word_list_survives_its_leader() {
    let words = std::fs::read(WORDS).unwrap_or_else(|error| {
        panic!("this test imports {WORDS} (Debian: apt-get install wamerican): {error}")
    });
    let lines = words.iter().filter(|byte| **byte == b'\n').count() as u64;
    let mut cluster = Cluster::start(Shape::default()).await;
    let nodes = cluster.seeds().join(",");
    let import = tokio::spawn({
        let nodes = nodes.clone();
        async move {
            run(["kv", "--nodes", &nodes, "--timeout", "60s", "import", "--format", "lines", WORDS]).await
        }
    });
    let halfway = format!("half of {lines} lines are imported");
    eventually(&halfway, || async {
        assert!(!import.is_finished(), "the import was over before the leader could be killed");
        let status = cluster.nodes()[0].get_json("/v1/status").await?;
        let replica = status["groups"].as_array()?.iter().find(|replica| replica["id"] == 1)?;
        (replica["keys"].as_u64()? >= lines / 2).then_some(())
    })
    .await;
    cluster.kill_leader(1).await;
    let killed = Instant::now();
    assert!(!import.is_finished(), "the import was over before the leader was killed");
    let import = import.await.expect("the import's task ends");
    println!("the rest of the import took {:?} after the leader's death", killed.elapsed());
    assert_eq!(import.code(), Some(0), "{}", import.stderr);
    cluster.start_all().await;
    println!("all nodes were ready {:?} after it", killed.elapsed());
    let exported = cluster.directory().join("exported");
    export(&nodes, &exported).await;
    let exported = std::fs::read(exported).expect("the export wrote its file");
    assert!(exported == words, "export differs: {} bytes instead of {}", exported.len(), words.len());
}

async fn export(nodes: &str, to: &Path) {
    let to = to.to_str().expect("an ASCII path");
    let export = run(["kv", "--nodes", nodes, "--timeout", "60s", "export", "--format", "lines", to]).await;
    assert_eq!(export.code(), Some(0), "{}", export.stderr);
}
