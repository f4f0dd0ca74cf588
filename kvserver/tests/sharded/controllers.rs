//! The controller while its leader is cut off and operators contradict each other: of rivals one wins, and a change
//! that began is finished by whoever leads next.
//!
//! The examination's controllers are processes of their own. Here the leader of group 0 is the one controller that
//! counts, and operators decide by the epoch of a map that they read: cutting off the leader makes a superseded
//! controller, a second operator makes a rival one.

use crate::churn::Clerks;
use crate::cluster::{Cluster, Shape};
use crate::map::{Map, Operator, ask};
use crate::serving::{append_all, keys, write_all};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use reqwest::Method;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::task::JoinSet;

const RIVALS: u64 = 4;

/// RecoverController: the controller's leader is cut off five times, each time in the midst of a change; a successor
/// finishes it while the old leader is still away, and the old one does no harm when it is back.
#[tokio::test(flavor = "multi_thread")]
async fn recover_controller() {
    let cluster = Cluster::start(Shape::new(1, 60).on_few_nodes()).await;
    let (keys, mut clerk, mut operator) = (keys(), cluster.clerk(), Operator::new(&cluster));
    write_all(&mut clerk, &keys).await;
    for round in 0..crate::rounds(5, 2) {
        let leader = cluster.controller().await;
        let joined = operator.join(2).await;
        cluster.isolate(leader);
        append_all(&mut clerk, &keys).await;
        Map::settled(&cluster).await.check_balance();
        assert_ne!(cluster.controller().await, leader, "round {round}");
        cluster.connect(leader);
        for group in joined {
            operator.leave(group).await;
        }
        append_all(&mut clerk, &keys).await;
        assert_eq!(Map::settled(&cluster).await.groups("serving"), [1].into());
    }
    cluster.end().await;
}

/// What became of one operator's change.
#[derive(Debug)]
enum Outcome {
    Joined(Vec<u64>),
    Left(u64),
    Refused,
    Unknown,
}

/// An operator who decides by what one node knows, and says each change once.
async fn rival(cluster: Arc<Cluster>, number: u64) -> Vec<(u64, Outcome)> {
    let mut dice = StdRng::seed_from_u64(cluster.seed() ^ (number << 16));
    let mut outcomes = Vec::new();
    for _ in 0..crate::rounds(30, 8) {
        let node = dice.random_range(cluster.nodes());
        let door = cluster.door(node).unwrap();
        let map = Map(door.get("/v1/cluster/map").await.json());
        let groups: Vec<u64> = map.groups("serving").into_iter().collect();
        let group = groups[dice.random_range(0..groups.len())];
        let path = format!("/v1/cluster/groups/{group}");
        let joins = groups.len() < 2 || groups.len() < 5 && dice.random_bool(0.5);
        let change = match joins {
            true => (Method::POST, "/v1/cluster/groups", r#"{"count":1}"#),
            false => (Method::DELETE, path.as_str(), ""),
        };
        let outcome = match ask(&cluster, node, Some(map.epoch()), change).await {
            Some(answer) if answer.status == 200 && joins => {
                let groups = answer.json()["groups"].clone();
                Outcome::Joined(groups.as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect())
            }
            Some(answer) if answer.status == 200 => Outcome::Left(group),
            Some(answer) if answer.said().2 == "none" => Outcome::Refused,
            Some(_) | None => Outcome::Unknown,
        };
        outcomes.push((map.epoch(), outcome));
    }
    outcomes
}

/// Four rivals change the map at the same time, by epochs that they read; of those that decided by the same epoch at
/// most one is heard, and what is on the map in the end is what those were told.
async fn concurrent_controllers(cluster: Arc<Cluster>) {
    let (keys, mut clerk) = (keys(), cluster.clerk());
    write_all(&mut clerk, &keys).await;
    let clerks = Clerks::begin(&cluster, 2);
    let mut rivals = JoinSet::new();
    (0..RIVALS).for_each(|number| drop(rivals.spawn(rival(cluster.clone(), number))));
    let mut outcomes: Vec<(u64, Outcome)> = rivals.join_all().await.into_iter().flatten().collect();
    outcomes.sort_by_key(|(epoch, _)| *epoch);
    let map = Map::settled(&cluster).await;

    let (mut winners, mut expected) = (BTreeMap::new(), map.groups("serving"));
    let mut unknown = 0;
    for (epoch, outcome) in &outcomes {
        match outcome {
            Outcome::Joined(_) | Outcome::Left(_) => {
                let other = winners.insert(epoch, outcome);
                assert!(other.is_none(), "two rivals won at epoch {epoch}: {other:?}, {outcome:?}");
            }
            Outcome::Refused => {}
            Outcome::Unknown => unknown += 1,
        }
        if let Outcome::Left(group) = outcome {
            assert!(!expected.contains(group), "g{group} left, and is there");
        }
    }
    if unknown == 0 {
        expected = [1].into();
        for outcome in winners.values() {
            match outcome {
                Outcome::Joined(groups) => expected.extend(groups),
                Outcome::Left(group) => assert!(expected.remove(group), "g{group} left, and was not there"),
                Outcome::Refused | Outcome::Unknown => unreachable!("nobody won so"),
            }
        }
    }
    println!("{} of {} changes won, {unknown} unknown", winners.len(), outcomes.len());
    assert_eq!(map.groups("serving"), expected);
    assert!(!winners.is_empty(), "nobody won at all");
    clerks.end().await;
    append_all(&mut clerk, &keys).await;
    cluster.end().await;
}

/// ConcurrentControllers, reliable.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_controllers_reliable() {
    concurrent_controllers(Cluster::start(Shape::new(1, 61).on_few_nodes()).await).await;
}

/// ConcurrentControllers, unreliable.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_controllers_unreliable() {
    let cluster = Cluster::start(Shape::new(1, 62).on_few_nodes()).await;
    cluster.make_unreliable();
    concurrent_controllers(cluster).await;
}

/// PartitionControllerJoin: a leader of the controller that is cut off is asked to let groups join, and cannot; its
/// successor lets another join. When the old one is back, its change has not happened and never does, and the same
/// change by the same epoch is refused.
#[tokio::test(flavor = "multi_thread")]
async fn partition_controller_join() {
    let cluster = Cluster::start(Shape::new(1, 63).on_few_nodes()).await;
    let (keys, mut clerk, mut operator) = (keys(), cluster.clerk(), Operator::new(&cluster));
    write_all(&mut clerk, &keys).await;
    let leader = cluster.controller().await;
    let epoch = Some(Map::settled(&cluster).await.epoch());
    cluster.isolate(leader);
    let three = (Method::POST, "/v1/cluster/groups", r#"{"count":3}"#);
    let superseded = ask(&cluster, leader, epoch, three.clone()).await.unwrap();
    assert!([503, 504].contains(&superseded.status), "{superseded:?}");
    let joined = operator.join(1).await;
    append_all(&mut clerk, &keys).await;
    cluster.connect(leader);
    let map = Map::settled(&cluster).await;
    assert_eq!(map.groups("serving"), [1, joined[0]].into());
    let again = ask(&cluster, leader, epoch, three).await.unwrap();
    assert_eq!(again.said(), (409, "epoch_mismatch".into(), "none".into()));
    append_all(&mut clerk, &keys).await;
    cluster.end().await;
}
