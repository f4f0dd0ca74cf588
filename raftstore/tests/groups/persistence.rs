//! Persistence: whatever crashes and however often, acknowledged commands stay where they were acknowledged.

use crate::cluster::{AGREEMENT, Cluster, MS, SECOND, Settings};
use crate::rounds;
use raftstore::{Link, random};
use rand::RngExt;
use rand::seq::IteratorRandom;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// Each message takes up to 26 ms, and one write in ten breaks its connection, with what is under way on it. That
/// is harder than losing single messages: a lost connection loses both directions and must be greeted again.
pub fn unreliable() -> Link {
    Link { delay_max: 26 * MS, reset_probability: 0.1, ..Link::default() }
}

/// As [`unreliable`], with messages up to 2.2 s late: later than an election takes.
fn long_delays() -> Link {
    Link { delay_max: 2_200 * MS, reset_probability: 0.1, ..Link::default() }
}

/// Every command survives crashes of all nodes, of the leader and of a follower.
#[tokio::test(start_paused = true)]
async fn persist_1() {
    let mut cluster = Cluster::start(Settings::new(3, 30)).await;
    cluster.write_all().await;
    cluster.kill_all();
    cluster.boot_all().await;
    cluster.write_all().await;

    let leader = cluster.leader().await;
    cluster.restart(leader).await;
    cluster.write_all().await;

    let leader = cluster.leader().await;
    cluster.kill(leader);
    cluster.write_all().await;
    cluster.boot(leader).await.unwrap();
    cluster.applied(&cluster.nodes(), 4, AGREEMENT).await;

    let follower = cluster.leader().await % 3 + 1;
    cluster.kill(follower);
    cluster.write_all().await;
    cluster.boot(follower).await.unwrap();
    cluster.write_all().await;
    assert_eq!(cluster.len(follower), 6);
    cluster.settle().await;
}

/// Crashes roll through five replicas for five rounds; with three of them up the group goes on each time.
#[tokio::test(start_paused = true)]
async fn persist_2() {
    let mut cluster = Cluster::start(Settings::new(5, 31)).await;
    for _ in 0..5 {
        cluster.write_all().await;
        let leader = cluster.leader().await;
        let next = |by: u64| (leader + by - 1) % 5 + 1;
        cluster.kill(next(1));
        cluster.kill(next(2));
        cluster.write_all().await;
        [leader, next(3), next(4)].into_iter().for_each(|node| cluster.kill(node));
        cluster.boot(next(1)).await.unwrap();
        cluster.boot(next(2)).await.unwrap();
        sleep(SECOND).await;
        cluster.boot(next(3)).await.unwrap();
        cluster.write_all().await;
        cluster.boot(next(4)).await.unwrap();
        cluster.boot(leader).await.unwrap();
    }
    cluster.write_all().await;
    cluster.settle().await;
}

/// A leader and a follower that are cut off together crash, and one comes back alone with the third node.
#[tokio::test(start_paused = true)]
async fn persist_3() {
    let mut cluster = Cluster::start(Settings::new(3, 32)).await;
    cluster.write_all().await;
    let leader = cluster.leader().await;
    let (second, third) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    cluster.isolate(third);
    cluster.write_all().await;
    cluster.kill(leader);
    cluster.kill(second);
    cluster.connect(third);
    cluster.boot(leader).await.unwrap();
    cluster.write_all().await;
    cluster.boot(second).await.unwrap();
    cluster.write_all().await;
    cluster.settle().await;
}

/// Leaders crash over and over, before or after they replicate (Raft §5.4.2, figure 8): nothing acknowledged is lost.
/// 300 rounds by default, 1,000 in full.
#[tokio::test(start_paused = true)]
async fn figure8() {
    let mut cluster = Cluster::start(Settings::new(5, 33)).await;
    cluster.write_all().await;
    for _ in 0..rounds(1_000, 300) {
        let leaders = cluster.leaders();
        for &node in &leaders {
            tokio::spawn(cluster.propose(node, cluster.fresh("f")));
        }
        let pause = match random().random_range(0..10) {
            0 => random().random_range(0..1_000),
            _ => random().random_range(0..13),
        };
        sleep(Duration::from_millis(pause)).await;
        if let Some(&leader) = leaders.first()
            && random().random_bool(0.5)
        {
            cluster.kill(leader);
        }
        if cluster.up().len() < 3 {
            revive(&mut cluster).await;
        }
    }
    cluster.boot_all().await;
    cluster.settle().await;
    assert!(cluster.truth().acknowledged() > 2);
}

/// Starts one of the nodes that are down.
async fn revive(cluster: &mut Cluster) {
    let (nodes, up) = (cluster.nodes(), cluster.up());
    let down = nodes.into_iter().filter(|node| !up.contains(node)).choose(&mut random());
    if let Some(node) = down {
        cluster.boot(node).await.unwrap();
    }
}

/// On an unreliable network, 49 rounds of five commands at once are all agreed on.
#[tokio::test(start_paused = true)]
async fn unreliable_agree() {
    let cluster = Cluster::start(Settings::new(5, 34)).await;
    cluster.leader().await;
    cluster.rack.network.set_default_link(unreliable());
    for _ in 0..rounds(49, 49) {
        let writes = (0..4).map(|_| cluster.write());
        futures_util::future::join_all(writes).await;
        cluster.write().await;
    }
    cluster.rack.network.set_default_link(Link::default());
    cluster.settle().await;
    assert!(cluster.truth().acknowledged() >= 245);
}

/// As [`figure8`], on a network that delays and loses, with leaders cut off rather than crashed. 300 rounds by
/// default, 1,000 in full.
#[tokio::test(start_paused = true)]
async fn figure8_unreliable() {
    let cluster = Cluster::start(Settings::new(5, 35)).await;
    cluster.write_all().await;
    cluster.rack.network.set_default_link(unreliable());
    let full = rounds(1_000, 300);
    let mut isolated = Vec::new();
    for round in 0..full {
        if round == full / 5 {
            cluster.rack.network.set_default_link(long_delays());
        }
        let leaders = cluster.leaders();
        for &node in &leaders {
            tokio::spawn(cluster.propose(node, cluster.fresh("f")));
        }
        let pause = match random().random_range(0..10) {
            0 => random().random_range(0..1_000),
            _ => random().random_range(0..13),
        };
        sleep(Duration::from_millis(pause)).await;
        if let Some(&leader) = leaders.first()
            && random().random_bool(0.5)
            && !isolated.contains(&leader)
        {
            cluster.isolate(leader);
            isolated.push(leader);
        }
        if isolated.len() > 2 {
            let back = random().random_range(0..isolated.len());
            cluster.connect(isolated.swap_remove(back));
        }
    }
    cluster.rack.network.set_default_link(Link::default());
    cluster.heal();
    cluster.settle().await;
}

/// Three clients write while nodes are cut off, crash and return, on a network that loses nothing: every command
/// that was ever acknowledged stays.
#[tokio::test(start_paused = true)]
async fn reliable_churn() {
    churn(Settings::new(5, 36), Link::default()).await;
}

/// As [`reliable_churn`], on an unreliable network.
#[tokio::test(start_paused = true)]
async fn unreliable_churn() {
    churn(Settings::new(5, 37), unreliable()).await;
}

/// 60 rounds of churn.
pub async fn churn(settings: Settings, link: Link) {
    let mut cluster = Cluster::start(settings).await;
    cluster.leader().await;
    cluster.rack.network.set_default_link(link);
    for _ in 0..60 {
        if random().random_bool(0.2) {
            let node = random().random_range(1..=5);
            cluster.isolate(node);
        }
        if random().random_bool(0.5) {
            let node = random().random_range(1..=5);
            match cluster.up().contains(&node) {
                true => cluster.connect(node),
                false => {
                    cluster.boot(node).await.unwrap();
                    cluster.connect(node);
                }
            }
        }
        if random().random_bool(0.2)
            && let Some(node) = cluster.up().into_iter().choose(&mut random())
        {
            cluster.kill(node);
        }
        // Each client tries everyone, as one that knows no leader does.
        let mut clients = Vec::new();
        for client in 0..3 {
            for node in cluster.up() {
                clients.push(tokio::spawn(cluster.propose(node, cluster.fresh(&format!("c{client}")))));
            }
        }
        let patience = Duration::from_millis(random().random_range(100..1_000));
        timeout(patience, futures_util::future::join_all(clients)).await.ok();
    }
    cluster.rack.network.set_default_link(Link::default());
    cluster.heal();
    cluster.boot_all().await;
    cluster.settle().await;
    assert!(cluster.truth().acknowledged() > 0, "clients got something done meanwhile");
}
