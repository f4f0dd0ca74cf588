//! The commands that ask a cluster, against real processes: what they say of one that is whole, half dead or absent.

use serde_json::Value;
use tests::{Cluster, Ports, Run, Shape, eventually, run};

/// The text that `run` wrote.
fn stdout(run: &Run) -> String {
    String::from_utf8_lossy(&run.stdout).into_owned()
}

/// A leader that lost its quorum is shown not to serve, its dead followers are shown as unreachable though they
/// lack nothing, and the exit code says that the group does not serve; once they are back, it serves again.
#[tokio::test(flavor = "multi_thread")]
async fn status_without_a_quorum() {
    let mut cluster = Cluster::start(Shape::default().with_fast_elections()).await;
    let nodes = cluster.seeds().join(",");
    let status = async |more: &[&str]| run([&["status", "--nodes", &nodes], more].concat()).await;
    let whole = status(&[]).await;
    assert_eq!(whole.code(), Some(0), "{}", stdout(&whole));
    assert!(stdout(&whole).contains("serving"), "{}", stdout(&whole));
    let leader = cluster.leader(1).await;
    let followers: Vec<u64> = (1..=3).filter(|node| *node != leader).collect();
    for follower in &followers {
        cluster.node(*follower).kill().await;
    }
    let lost = eventually("the lost quorum is shown", || async {
        let status = status(&[]).await;
        // The controller's group, which may have had another leader, is shown as lost at a moment of its own.
        stdout(&status).contains(&format!("NOT SERVING  n{leader}")).then_some(status)
    })
    .await;
    let text = stdout(&lost);
    assert!(lost.code() == Some(1) && lost.stderr.is_empty(), "{text}");
    assert!(followers.iter().all(|node| text.contains(&format!("n{node} (unreachable)"))), "{text}");
    let lost = status(&["--output", "json"]).await;
    assert_eq!(lost.code(), Some(1));
    let json: Value = serde_json::from_slice(&lost.stdout).expect("JSON was asked for");
    let of_g1 = json["groups"].as_array().expect("a list").iter().find(|group| group["id"] == 1);
    assert_eq!(of_g1.expect("g1 is shown")["state"], "not_serving", "{json}");
    let cluster_view =
        cluster.node(leader).get_json("/v1/cluster").await.expect("a node alone still answers");
    assert_eq!(cluster_view["groups"][0]["serving"], false, "{cluster_view}");
    cluster.start_all().await;
    eventually("the group serves again", || async { (status(&[]).await.code() == Some(0)).then_some(()) })
        .await;
}

/// Where nobody answers, each command names the nodes that it tried and says what to do, in one line, with 1.
#[tokio::test]
async fn nobody_answers() {
    let ports = Ports::take(2);
    let nodes = format!("{},{}", ports.address(0), ports.address(1));
    for command in
        [&["status"][..], &["kv", "get", "k", "--timeout", "300ms"], &["kv", "scan", "--timeout", "300ms"]]
    {
        let refused = run([command, &["--nodes", &nodes]].concat()).await;
        assert_eq!((refused.code(), refused.stdout.len()), (Some(1), 0), "{}", refused.stderr);
        assert_eq!(refused.stderr.lines().count(), 1, "{}", refused.stderr);
        for part in
            [&ports.address(0), &ports.address(1), "Connection refused", "flotilla dev", "FLOTILLA_NODES"]
        {
            assert!(refused.stderr.contains(part), "should say \"{part}\": {}", refused.stderr);
        }
    }
}

/// The cluster's limits hold, not the defaults: a value beyond the default goes through where the limit was raised,
/// and one beyond the limit is refused by the limit's name and size.
#[tokio::test(flavor = "multi_thread")]
async fn limits_are_the_clusters() {
    const VALUE_BYTES_MAX: usize = 1_500_000;
    let settings = [("value", VALUE_BYTES_MAX), ("batch", 2_000_000)];
    let settings = settings.map(|(what, bytes)| format!("limits.{what}_bytes_max={bytes}"));
    let cluster = Cluster::start(Shape { nodes: 1, settings: settings.into(), ..Shape::default() }).await;
    let nodes = cluster.seeds().join(",");
    let file = cluster.directory().join("value");
    let put = async |bytes: usize| {
        std::fs::write(&file, vec![b'v'; bytes]).expect("the test's directory can be written");
        let file = file.to_str().expect("an ASCII path");
        run(["kv", "put", "large", "--file", file, "--nodes", &nodes]).await
    };
    let largest = put(VALUE_BYTES_MAX).await;
    assert_eq!(largest.code(), Some(0), "{}", largest.stderr);
    let larger = put(VALUE_BYTES_MAX + 7).await;
    assert_eq!(larger.code(), Some(1), "{}", larger.stderr);
    assert!(larger.stderr.contains("value is longer than 1500000 bytes: 1500007"), "{}", larger.stderr);
    let got = run(["kv", "get", "large", "--nodes", &nodes]).await;
    assert_eq!(got.stdout.len(), VALUE_BYTES_MAX, "{}", got.stderr);
}
