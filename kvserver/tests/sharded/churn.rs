//! Many clerks at work while groups join and leave and nodes crash.

use crate::cluster::{Cluster, Shape};
use crate::map::Operator;
use crate::serving::{append_all, keys, write_all};
use crate::{rounds, seconds};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

/// How many groups there are at least and at most while they come and go.
const GROUPS: std::ops::RangeInclusive<usize> = 1..=5;

/// Clerks that go on until they are told to stop.
pub(crate) struct Clerks {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl Clerks {
    /// Each with random requests for keys that it shares with the others, at a pace that leaves the machine time for
    /// everything else.
    pub(crate) fn begin(cluster: &Arc<Cluster>, count: u64) -> Self {
        let (stop, mut tasks) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
        for _ in 0..count {
            let (stop, mut clerk, keys) = (stop.clone(), cluster.clerk(), keys());
            tasks.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    clerk.anything(&keys).await;
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            });
        }
        Self { stop, tasks }
    }

    /// Waits until each has the answer to its last request.
    pub(crate) async fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }
}

/// One operator who lets random groups join and leave.
pub(crate) struct Churn {
    operator: Operator,
    pub(crate) groups: Vec<u64>,
    dice: StdRng,
}

impl Churn {
    /// Of a cluster that was born with one group.
    pub(crate) fn new(cluster: &Arc<Cluster>) -> Self {
        let dice = StdRng::seed_from_u64(cluster.seed());
        Self { operator: Operator::new(cluster), groups: vec![1], dice }
    }

    /// Lets a group join, or one leave; shards need not have come to rest since the last change.
    pub(crate) async fn change(&mut self) {
        let (few, many) = (self.groups.len() <= *GROUPS.start(), self.groups.len() >= *GROUPS.end());
        if few || !many && self.dice.random_bool(0.5) {
            self.groups.extend(self.operator.join(1).await);
        } else {
            let at = self.dice.random_range(0..self.groups.len());
            self.operator.leave(self.groups.remove(at)).await;
        }
    }

    /// A random node.
    fn node(&mut self) -> u64 {
        self.dice.random_range(self.operator.cluster.nodes())
    }
}

/// Concurrent1: groups come and go a hundred times while clerks are at work, and after each change a node crashes and
/// starts again.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_1() {
    let cluster = Cluster::start(Shape::new(1, 20).on_few_nodes()).await;
    write_all(&mut cluster.clerk(), &keys()).await;
    let (clerks, mut churn) = (Clerks::begin(&cluster, 5), Churn::new(&cluster));
    for _ in 0..rounds(100, 8) {
        churn.change().await;
        let node = churn.node();
        cluster.restart(node).await;
    }
    clerks.end().await;
    cluster.end().await;
}

/// Concurrent2: each node restarts right after changes that concern it, so that it finds out anew who serves what,
/// while clerks are at work.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_2() {
    let cluster = Cluster::start(Shape::new(1, 21).on_few_nodes()).await;
    write_all(&mut cluster.clerk(), &keys()).await;
    let (clerks, mut churn) = (Clerks::begin(&cluster, 5), Churn::new(&cluster));
    for _ in 0..rounds(10, 2) {
        churn.change().await;
        churn.change().await;
        for node in cluster.up() {
            cluster.restart(node).await;
        }
    }
    clerks.end().await;
    cluster.end().await;
}

/// Concurrent3: for twelve seconds, and three hundred changes at most, all nodes restart at once again and again while
/// groups come and go and clerks are at work.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_3() {
    let cluster = Cluster::start(Shape::new(1, 22).on_few_nodes()).await;
    write_all(&mut cluster.clerk(), &keys()).await;
    let (clerks, mut churn) = (Clerks::begin(&cluster, 5), Churn::new(&cluster));
    let until = tokio::time::Instant::now() + seconds(12, 4);
    let mut changes = 0;
    while tokio::time::Instant::now() < until && changes < 300 {
        cluster.crash_all(&cluster.up());
        cluster.boot_all().await;
        churn.change().await;
        changes += 1;
    }
    clerks.end().await;
    cluster.end().await;
}

/// Clerks at work for twenty seconds on the same keys, while groups come and go.
async fn concurrent_clerks(cluster: Arc<Cluster>, count: u64) {
    let (clerks, mut churn) = (Clerks::begin(&cluster, count), Churn::new(&cluster));
    let until = tokio::time::Instant::now() + seconds(20, 3);
    while tokio::time::Instant::now() < until {
        churn.change().await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    clerks.end().await;
    append_all(&mut cluster.clerk(), &keys()).await;
    cluster.end().await;
}

/// OneConcurrentClerk, reliable.
#[tokio::test(flavor = "multi_thread")]
async fn one_concurrent_clerk_reliable() {
    concurrent_clerks(Cluster::start(Shape::new(1, 23).on_few_nodes()).await, 1).await;
}

/// ManyConcurrentClerks, reliable: ten of them.
#[tokio::test(flavor = "multi_thread")]
async fn many_concurrent_clerks_reliable() {
    concurrent_clerks(Cluster::start(Shape::new(1, 24).on_few_nodes()).await, 10).await;
}

/// OneConcurrentClerk, unreliable.
#[tokio::test(flavor = "multi_thread")]
async fn one_concurrent_clerk_unreliable() {
    let cluster = Cluster::start(Shape::new(1, 25).on_few_nodes()).await;
    cluster.make_unreliable();
    concurrent_clerks(cluster, 1).await;
}

/// ManyConcurrentClerks, unreliable: ten of them.
#[tokio::test(flavor = "multi_thread")]
async fn many_concurrent_clerks_unreliable() {
    let cluster = Cluster::start(Shape::new(1, 26).on_few_nodes()).await;
    cluster.make_unreliable();
    concurrent_clerks(cluster, 10).await;
}
