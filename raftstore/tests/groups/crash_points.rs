//! The power goes at every sync there is, once at each: of the whole cluster at once, and of each node alone.

use crate::cluster::{Cluster, MS, SECOND, Settings};
use crate::rounds;
use proto::NodeId;
use raftstore::Effect;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// How long a step of the script may take before it is given up: nothing waits for the dead.
const PATIENCE: Duration = Duration::from_secs(3);

/// A short life of a cluster: born, writes, a change of leaders, snapshots, a purge, more writes. Ends early where
/// `over` says so.
async fn script(cluster: &Cluster, over: impl Fn() -> bool) {
    let steps = async {
        write(cluster, 4, &over).await;
        sleep(300 * MS).await;
        hand_over(cluster).await;
        write(cluster, 10, &over).await;
        sleep(300 * MS).await;
        write(cluster, 10, &over).await;
        sleep(500 * MS).await;
        hand_over(cluster).await;
        write(cluster, 3, &over).await;
    };
    let ends = async {
        while !over() {
            sleep(MS).await;
        }
    };
    tokio::select! {
        () = steps => {}
        () = ends => {}
    }
}

async fn hand_over(cluster: &Cluster) {
    if let Some(&leader) = cluster.leaders().first() {
        cluster.group(leader).hand_over(None, PATIENCE).await.ok();
    }
}

/// Proposes to whoever leads, and goes on whatever the answer.
async fn write(cluster: &Cluster, count: u64, over: &impl Fn() -> bool) {
    for _ in 0..count {
        for _ in 0..1_000 {
            let leaders = cluster.leaders();
            if over() || !leaders.is_empty() {
                break;
            }
            sleep(5 * MS).await;
        }
        if let Some(&leader) = cluster.leaders().first() {
            timeout(PATIENCE, cluster.propose(leader, cluster.fresh("s"))).await.ok();
        }
    }
}

fn settings(seed: u64) -> Settings {
    Settings::new(3, seed).with_snapshots()
}

/// How many sync points the script passes, over `counted`, when nothing fails.
async fn points(counted: &[u64]) -> u64 {
    let mut cluster = Cluster::prepare(settings(60));
    cluster.rack.count(counted);
    cluster.boot_all().await;
    script(&cluster, || false).await;
    let points = cluster.rack.points();
    cluster.settle().await;
    assert!(cluster.nodes().iter().all(|&node| cluster.status(node).purged_index.is_some()), "it has purged");
    cluster.end().await;
    points
}

/// All nodes lose power at the same sync, whichever: after a restart every acknowledged write is there, in order and
/// once, and nothing is that was refused. By default the sync is lost at every other point and done at the rest; in
/// full, both at each.
#[tokio::test(start_paused = true)]
async fn all_lose_power_at_every_sync() {
    let all = [1, 2, 3];
    let points = points(&all).await;
    assert!(points > 50, "the script passes {points} sync points");
    for at in 0..points {
        let both = [Effect::Lost, Effect::Done];
        let effects = rounds(2, 1) as usize;
        for effect in both.into_iter().cycle().skip(at as usize % 2).take(effects) {
            let mut cluster = Cluster::prepare(settings(60));
            cluster.rack.arm(at, effect, &all, &all, at);
            boot_what_boots(&mut cluster).await;
            script(&cluster, || cluster.rack.blown()).await;
            cluster.kill_all();
            cluster.rack.disarm();
            // The power is hardly back when it goes again, now and then.
            if at % 4 == 3 {
                cluster.rack.arm(at / 4 % 12, effect, &all, &all, at + 1);
                boot_what_boots(&mut cluster).await;
                timeout(SECOND, async {
                    while !cluster.rack.blown() {
                        sleep(MS).await;
                    }
                })
                .await
                .ok();
                cluster.kill_all();
                cluster.rack.disarm();
            }
            cluster.boot_all().await;
            cluster.settle().await;
            cluster.end().await;
        }
    }
}

/// Starts all nodes; those whose power goes meanwhile do not start, and nothing else may keep one from it.
async fn boot_what_boots(cluster: &mut Cluster) {
    for node in cluster.nodes() {
        if let Err(fatal) = cluster.boot(node).await {
            assert!(cluster.rack.blown(), "n{node} does not start: {fatal}");
        }
    }
}

/// One node loses power at a sync of its own, whichever, while the others go on; it comes back and loses nothing.
#[tokio::test(start_paused = true)]
async fn one_loses_power_at_every_sync_of_its_own() {
    for node in [1, 2, 3] {
        let points = points(&[node]).await;
        assert!(points > 15, "n{node} passes {points} sync points");
        for at in 0..points {
            let effect = if at % 2 == 0 { Effect::Lost } else { Effect::Done };
            let mut cluster = Cluster::prepare(settings(60));
            cluster.rack.arm(at, effect, &[node], &[node], at / 2);
            boot_what_boots(&mut cluster).await;
            let mut rest = Box::pin(script(&cluster, || false));
            // The others go through the script with or without it, once the cluster has formed.
            timeout(20 * SECOND, &mut rest).await.ok();
            drop(rest);
            assert!(cluster.rack.blown(), "n{node} passes its sync point {at}");
            cluster.lay_out(node);
            cluster.rack.disarm();
            cluster.boot_all().await;
            cluster.settle().await;
            assert!(cluster.status(node).members.contains_key(&NodeId(node)));
            cluster.end().await;
        }
    }
}
