//! How a cluster comes into being, and who is kept out of it.

use crate::cluster::{Cluster, ELECTION, G, SECOND, Settings};
use crate::power::Death;
use proto::NodeId;
use raftstore::{Fatal, HostConfig, SimulatedDisk};
use tokio::time::sleep;

/// A node that comes back with an empty disk under its old id is told so and stops, whichever of the others is there
/// to tell it. It never votes: with one of the other two down as well, nobody leads.
#[tokio::test(start_paused = true)]
async fn a_wiped_disk_does_not_vote() {
    for (leader, wiped, down) in [(1, 2, 3), (2, 3, 1), (3, 1, 2), (3, 2, 1)] {
        one_is_wiped(leader, wiped, down).await;
    }
}

async fn one_is_wiped(leader: u64, wiped: u64, down: u64) {
    let mut cluster = Cluster::start(Settings::new(3, 90)).await;
    cluster.write_all().await;
    let first = cluster.leader().await;
    cluster.group(first).hand_over(Some(NodeId(leader)), SECOND).await.unwrap();
    cluster.leader().await;
    cluster.kill(wiped);
    cluster.write_all().await;
    cluster.kill(down);
    cluster.kill(leader);
    cluster.rack.replace_disk(wiped, SimulatedDisk::new());
    cluster.boot(leader).await.unwrap();
    cluster.boot(wiped).await.unwrap();
    let fatal = cluster.node(wiped).failure(ELECTION).await.expect("a wiped node stops");
    assert!(matches!(fatal, Fatal::Amnesia { node, .. } if node == NodeId(wiped)), "{fatal}");
    // Its process may linger.
    sleep(2 * ELECTION).await;
    assert_eq!(cluster.leaders(), []);
    assert_eq!(cluster.truth().len(), 2);
    cluster.kill(wiped);
    cluster.boot(down).await.unwrap();
    cluster.leader().await;
    cluster.settle().await;
    cluster.end().await;
}

/// A new cluster waits for all of its first members, and needs no more than a quorum of them ever after.
#[tokio::test(start_paused = true)]
async fn the_first_start_needs_all_and_later_ones_a_quorum() {
    let mut cluster = Cluster::prepare(Settings::new(3, 91));
    cluster.boot(1).await.unwrap();
    cluster.boot(2).await.unwrap();
    sleep(2 * ELECTION).await;
    assert_eq!(cluster.leaders(), []);
    cluster.boot(3).await.unwrap();
    cluster.leader().await;
    cluster.write_all().await;
    for missing in 1..=3 {
        cluster.kill_all();
        for node in cluster.nodes().into_iter().filter(|&node| node != missing) {
            cluster.boot(node).await.unwrap();
        }
        cluster.leader().await;
        cluster.write_all().await;
    }
    cluster.boot_all().await;
    cluster.settle().await;
}

/// A member that loses its power before the cluster has formed comes back and forms with the others.
#[tokio::test(start_paused = true)]
async fn a_member_may_crash_before_the_cluster_has_formed() {
    let mut cluster = Cluster::prepare(Settings::new(3, 92));
    for _ in 0..3 {
        cluster.boot(1).await.unwrap();
        cluster.boot(2).await.unwrap();
        sleep(SECOND).await;
        cluster.kill_by(1, Death::Abrupt);
        cluster.kill_by(2, Death::Silent);
    }
    cluster.boot_all().await;
    cluster.leader().await;
    cluster.settle().await;
}

/// A node of another cluster is not let in, by the network or onto the disk.
#[tokio::test(start_paused = true)]
async fn another_clusters_node_is_turned_away() {
    let mut cluster = Cluster::prepare(Settings::new(3, 93));
    cluster.boot(1).await.unwrap();
    cluster.boot(2).await.unwrap();
    let stranger = HostConfig { cluster: "another".into(), ..cluster.config(3) };
    cluster.boot_as(3, stranger.clone()).await.unwrap();
    sleep(2 * ELECTION).await;
    assert_eq!(cluster.leaders(), []);
    cluster.kill(3);
    cluster.rack.replace_disk(3, SimulatedDisk::new());
    cluster.boot(3).await.unwrap();
    cluster.leader().await;
    cluster.write_all().await;

    cluster.kill(3);
    let fatal = cluster.boot_as(3, stranger).await.expect_err("the disk belongs to a cluster");
    assert!(matches!(&fatal, Fatal::Storage(why) if why.contains("another")), "{fatal}");
    let impostor = HostConfig { node: NodeId(2), ..cluster.config(3) };
    let fatal = cluster.boot_as(3, impostor).await.expect_err("the disk belongs to a node");
    assert!(matches!(&fatal, Fatal::Storage(why) if why.contains("n2")), "{fatal}");
    cluster.boot(3).await.unwrap();
    cluster.settle().await;
}

/// A replica that belongs to no group answers nothing, and a group that runs already is not opened twice.
#[tokio::test(start_paused = true)]
async fn a_group_runs_once_on_a_node() {
    let cluster = Cluster::start(Settings::new(3, 94)).await;
    cluster.leader().await;
    let truth = cluster.truth().clone();
    let again = cluster.node(1).host.open_group(G, move || crate::journal::Journal::new(truth.clone())).await;
    let fatal = again.err().expect("the group runs already");
    assert!(matches!(fatal, Fatal::Group { group, .. } if group == G), "{fatal}");
    cluster.settle().await;
}
