//! A cluster of one group of data whose network is cut in two, and whose nodes crash and start again, while clerks go
//! on.

use crate::birth;
use crate::clerk::Clerk;
use crate::door::Door;
use crate::fleet::host;
use crate::history::History;
pub(crate) use crate::rack::Shape;
use crate::rack::{Rack, SNAPSHOT_LOG_BYTES};
use crate::wait::eventually;
use kvserver::moves::watch::Watch;
use proto::GroupId;
use raftstore::{GroupStatus, Role};
use std::collections::BTreeSet;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The group of data.
const GROUP: GroupId = GroupId(1);

/// A log may be so many times as long as what makes a snapshot due.
const LOG_SHARE_MAX: u64 = 8;

impl Shape {
    /// With all shards in one group.
    pub(crate) fn new(nodes: u64, seed: u64) -> Self {
        Self::of(nodes, 1, seed)
    }
}

/// The cluster, as far as it is reached from some place.
pub(crate) struct Cluster {
    rack: Arc<Rack>,
    pub(crate) history: Arc<History>,
    clerks: Arc<AtomicU64>,
    /// The nodes that clerks reach from here.
    reached: BTreeSet<u64>,
}

/// Its nodes, and their power.
impl Deref for Cluster {
    type Target = Rack;

    fn deref(&self) -> &Rack {
        &self.rack
    }
}

/// Lets `test` run on a new cluster, then has every node run and reach every other, and looks whether all
/// that clerks were told holds together, whether all replicas hold the same, and whether logs are as short as
/// they must be.
pub(crate) async fn examine(shape: Shape, test: impl AsyncFnOnce(&Arc<Cluster>)) {
    let cluster = Cluster::prepare(shape).await;
    let history = cluster.history.clone();
    let examined = async {
        cluster.boot_all().await;
        cluster.ready().await;
        cluster.all_vote().await;
        test(&cluster).await;
        cluster.end().await;
    };
    history.kept(examined).await;
}

impl Cluster {
    async fn prepare(shape: Shape) -> Arc<Self> {
        let (history, reached) = (Arc::new(History::new(shape.seed)), shape.nodes().collect());
        let disks = birth::disks(shape.nodes).await;
        let rack = Arc::new(Rack::new(shape, disks));
        Arc::new(Self { rack, history, clerks: Arc::new(AtomicU64::new(1)), reached })
    }

    /// The same cluster, from where only these nodes are reached.
    pub(crate) fn seen_from(&self, nodes: &[u64]) -> Arc<Self> {
        let (rack, history, clerks) = (self.rack.clone(), self.history.clone(), self.clerks.clone());
        Arc::new(Self { rack, history, clerks, reached: nodes.iter().copied().collect() })
    }

    // Cables.

    /// Cuts the network into one side and the other; callers reach both.
    pub(crate) fn split(&self, side: &[u64]) {
        let (one, other): (Vec<u64>, Vec<u64>) = self.nodes().partition(|node| side.contains(node));
        let [one, other] = [one, other].map(|side| side.into_iter().map(host).collect::<Vec<_>>());
        let [one, other] = [&one, &other].map(|side| side.iter().map(String::as_str).collect::<Vec<_>>());
        self.network.heal();
        self.network.partition(&one, &other);
    }

    pub(crate) fn heal(&self) {
        self.network.heal();
    }

    // Ways in.

    /// The front ends of all nodes that run and are reached from here.
    pub(crate) fn doors(&self) -> Vec<Door> {
        self.doors_of(|node| self.reached.contains(node))
    }

    /// One more clerk, with its own name and choices.
    pub(crate) fn clerk(self: &Arc<Self>) -> Clerk {
        Clerk::new(self.clone(), self.clerks.fetch_add(1, Ordering::Relaxed), self.seed())
    }

    fn watches(&self) -> Vec<(u64, Watch)> {
        self.of_each(|node| node.watch().clone())
    }

    /// The replicas of the nodes that run, as far as they are open.
    pub(crate) fn replicas(&self) -> Vec<GroupStatus> {
        self.watches().into_iter().filter_map(|(_, watch)| watch.status(GROUP)).collect()
    }

    /// Who leads, as a quorum has just confirmed.
    pub(crate) async fn leader(&self) -> u64 {
        eventually("somebody leads", async || {
            for (node, watch) in self.watches() {
                if watch.confirmed(GROUP).await.is_some() {
                    return Some(node);
                }
            }
            None
        })
        .await
    }

    /// Waits until every node has a replica with a vote.
    async fn all_vote(&self) {
        let nodes = self.shape.nodes as usize;
        let votes = |status: &GroupStatus| {
            status.voters.len() == nodes && [Role::Leader, Role::Follower].contains(&status.role)
        };
        eventually("every node has a vote", async || {
            (self.replicas().iter().filter(|status| votes(status)).count() == nodes).then_some(())
        })
        .await;
    }

    // The end.

    async fn end(self: &Arc<Self>) {
        self.make_reliable();
        self.heal();
        self.boot_all().await;
        let mut reader = self.clerk();
        for key in self.history.keys() {
            reader.get(&key).await;
        }
        self.history.check();
        self.replicas_agree().await;
        match self.shape.has_snapshots {
            true => self.logs_are_short().await,
            false => self.no_snapshot_was_made(),
        }
        self.stop().await;
    }

    /// Every replica comes to have applied the same, and to hold the same.
    async fn replicas_agree(&self) {
        eventually("all replicas hold the same", async || {
            let held: Vec<_> =
                self.watches().into_iter().map(|(_, watch)| Some(watch.digest(GROUP)?.1)).collect();
            let nodes = self.shape.nodes as usize;
            (held.len() == nodes && held[0].is_some() && held.iter().all(|digest| *digest == held[0]))
                .then_some(())
        })
        .await;
    }

    /// Every replica has made a snapshot, or been sent one, and its log comes to be as short as it must: a
    /// snapshot is due after [`SNAPSHOT_LOG_BYTES`], or half of the last one where that is more.
    async fn logs_are_short(&self) {
        eventually("all logs are cut short", async || {
            let is_short = |status: &GroupStatus| {
                let due = SNAPSHOT_LOG_BYTES.max(status.snapshot_bytes / 2);
                status.snapshot_index.is_some() && status.log_bytes <= LOG_SHARE_MAX * due
            };
            self.replicas().iter().all(is_short).then_some(())
        })
        .await;
    }

    fn no_snapshot_was_made(&self) {
        for status in self.replicas() {
            assert_eq!(status.snapshot_index, None, "{status:?}");
        }
    }
}
