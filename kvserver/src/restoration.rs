//! Whether the groups have got back the votes that they lack for this node's sake: the part of readiness by
//! which whoever exchanges disks may go.
//!
//! A group whose member lost its disk goes on with one voter less, and with one loss less that it survives,
//! until a replica has caught up and was given the vote. A node on a new disk is not ready before that,
//! however well it answers by asking others, nor is one that was started again meanwhile: its disk remembers
//! that it waits. Once nothing is lacking it stays so: replicas that come to a node in service catch up beside
//! it and take it out of nothing, those of other nodes' lost disks among them, or one lost disk would take
//! every node out of service at once. Must never hold a node up that has the votes itself: it is what the
//! group still has. Nor for a group that has lost the disks of its quorum: nothing gives it a voter back.
//!
//! ```text
//! cell "restoration"   version u8 (1) · "waits", from the first start on a disk that is new to its cluster;
//!                      or "over", since nothing was lacking. No cell is "over", too
//! ```

use crate::birth::offloaded;
use proto::{ClusterMap, GroupId, Incarnation, NodeId};
use raftstore::{DiskError, Fatal};
use shardctrler::{Disk, has_quorum};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const CELL: &str = "restoration";
const VERSION: u8 = 1;

/// What the cell says: words, so that no bit that is lost makes one of the other.
const WAITS: &[u8] = b"waits";
const OVER: &[u8] = b"over";

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Restoration {
    node: NodeId,
    disk: Incarnation,
    /// Whether the cluster did not know the disk when this process began, or the disk has waited since that
    /// was so. What was on a lost one may be rebuilt on any node, so every group counts then.
    is_new: bool,
    is_done: AtomicBool,
    /// Whether the disk remembers that it waits.
    is_noted: AtomicBool,
}

/// A group that has fewer voters than it is to have, and none here.
struct Lack {
    group: GroupId,
    voters: usize,
    wanted: usize,
    /// Whether a quorum of the voters still have their disks, so that the group can be given others.
    has_quorum: bool,
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} has {} of {} voters", self.group, self.voters, self.wanted)
    }
}

impl Restoration {
    pub(crate) fn new(node: NodeId, disk: Incarnation, is_new: bool) -> Self {
        Self { node, disk, is_new, is_done: AtomicBool::new(false), is_noted: AtomicBool::new(false) }
    }

    /// As this process begins: on a disk that no map has named before, where `is_new`, or that waits since one
    /// did.
    ///
    /// # Errors
    /// [`Fatal::Storage`] where the disk fails or its cell is damaged.
    pub(crate) async fn load(
        of: &Arc<dyn raftstore::Disk>,
        node: NodeId,
        disk: Incarnation,
        is_new: bool,
    ) -> Result<Self, Fatal> {
        let waits = offloaded(of, |of| of.read_cell(CELL)?.map(|cell| waits(&cell)).transpose()).await?;
        let waits = waits.unwrap_or(false);
        Ok(Self { is_noted: AtomicBool::new(waits), ..Self::new(node, disk, is_new || waits) })
    }

    /// Has the disk remember whether it waits. To be called before the disk remembers that a map has named it:
    /// after that, nothing else tells that it was new.
    ///
    /// # Errors
    /// [`Fatal::Storage`] where the disk fails.
    pub(crate) async fn save(&self, to: &Arc<dyn raftstore::Disk>) -> Result<(), Fatal> {
        let waits = self.is_new && !self.is_done();
        if waits != self.is_noted.load(Ordering::Relaxed) {
            offloaded(to, move |to| to.write_cell(CELL, &cell(waits))).await?;
            self.is_noted.store(waits, Ordering::Relaxed);
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.is_done.load(Ordering::Relaxed)
    }

    /// Takes a map's word that nothing is lacking, for as long as this process lives. A map that does not
    /// know this disk yet has no word on it.
    pub(crate) fn follow(&self, map: &ClusterMap) {
        let is_known = disks(map).get(&self.node).is_some_and(|disk| disk.incarnation == self.disk);
        if !is_known || self.is_done() {
            return;
        }
        let lacking = self.lacking(map);
        if lacking.iter().any(|lack| lack.has_quorum) {
            return;
        }
        for lack in lacking {
            let node = self.node;
            tracing::warn!(%node, "{lack} left, no quorum: nothing gives it others, and nobody waits");
        }
        self.is_done.store(true, Ordering::Relaxed);
    }

    /// What is lacking by a map that knows this disk, group by group, for people. Of a group that has lost its
    /// quorum's disks nothing is said here: its voters that are left say that they do not serve.
    pub(crate) fn missing(&self, map: &ClusterMap) -> Vec<String> {
        if self.is_done() {
            return Vec::new();
        }
        let lacking = self.lacking(map).into_iter().filter(|lack| lack.has_quorum);
        lacking.map(|lack| lack.to_string()).collect()
    }

    fn lacking(&self, map: &ClusterMap) -> Vec<Lack> {
        let disks = disks(map);
        let spent: Vec<GroupId> = shardctrler::spent(map).collect();
        let groups = map.groups.iter().filter(|view| !spent.contains(&view.group));
        let lacking = groups.filter_map(|view| {
            let has_vote = view.voters.get(&self.node) == Some(&self.disk);
            // A vote under this number that is not this disk's is that of the one that was lost.
            let is_here = view.replicas.contains_key(&self.node) || view.voters.contains_key(&self.node);
            let is_kept = |(node, disk): &(&NodeId, &Incarnation)| {
                disks.get(node).is_some_and(|now| now.incarnation == **disk)
            };
            let voters = view.voters.iter().filter(is_kept).count();
            let wanted = view.replicas.len();
            let is_lacking = !has_vote && (self.is_new || is_here) && voters < wanted;
            let has_quorum = has_quorum(&view.voters, &disks);
            is_lacking.then_some(Lack { group: view.group, voters, wanted, has_quorum })
        });
        lacking.collect()
    }
}

/// The disk that each node is on. Whoever is dead for now has its disk still.
fn disks(map: &ClusterMap) -> BTreeMap<NodeId, Disk> {
    let disk = |incarnation| Disk { incarnation, live: true };
    map.nodes.iter().map(|view| (view.node, disk(view.spec.incarnation))).collect()
}

fn cell(waits: bool) -> Vec<u8> {
    [&[VERSION][..], if waits { WAITS } else { OVER }].concat()
}

fn waits(cell: &[u8]) -> Result<bool, DiskError> {
    let unread = |why: String| DiskError::Damaged { what: format!("cell {CELL}"), why };
    match cell.split_first() {
        Some((&VERSION, WAITS)) => Ok(true),
        Some((&VERSION, OVER)) => Ok(false),
        Some((&version, _)) if version > VERSION => {
            Err(unread(format!("it has format version {version}, this build reads {VERSION}")))
        }
        _ => Err(unread(format!("{cell:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::tests::Log;
    use proto::{ClusterSettings, Epoch, GroupState, GroupView, NodeSpec, NodeState, NodeView, ShardMap};
    use raftstore::SimulatedDisk;

    /// Members by node, each with the disk that it is on: the first, or the one after it.
    type Members<'a> = &'a [(u64, u128)];

    fn of(members: Members<'_>) -> BTreeMap<NodeId, Incarnation> {
        members.iter().map(|&(node, disk)| (NodeId(node), Incarnation(disk))).collect()
    }

    fn group(group: u64, replicas: Members<'_>, voters: Members<'_>) -> GroupView {
        GroupView {
            group: GroupId(group),
            state: GroupState::Serving,
            weight: 1,
            first: BTreeMap::new(),
            replicas: of(replicas),
            voters: of(voters),
            learners: BTreeMap::new(),
            leader: None,
            preferred: None,
        }
    }

    fn map(nodes: Members<'_>, groups: Vec<GroupView>) -> ClusterMap {
        let view = |&(node, disk): &(u64, u128)| NodeView {
            node: NodeId(node),
            spec: NodeSpec {
                peer: String::new(),
                http: String::new(),
                zone: String::new(),
                weight: 1,
                incarnation: Incarnation(disk),
            },
            // Who is dead for now has its disk still.
            state: if node == 9 { NodeState::Dead } else { NodeState::Up },
        };
        ClusterMap {
            shard_map: ShardMap { epoch: Epoch(1), shards: 1, runs: vec![] },
            settings: ClusterSettings {
                moves_paused: false,
                copy_bytes_per_second: None,
                moves_max: 1,
                replicas: 3,
                dead_after_ms: 1,
            },
            nodes: nodes.iter().map(view).collect(),
            groups,
            moves: vec![],
            setbacks: vec![],
            groups_at_birth: 1,
        }
    }

    fn node(node: u64, disk: u128, is_new: bool) -> Restoration {
        Restoration::new(NodeId(node), Incarnation(disk), is_new)
    }

    const BEFORE: Members<'_> = &[(1, 1), (2, 1), (3, 1)];
    const WIPED: Members<'_> = &[(1, 1), (2, 1), (3, 2)];

    /// A node on a new disk lacks its votes from the first map that knows the disk until the groups, the
    /// controller's among them, have all their voters again; also where it was started once more meanwhile.
    /// Those that have their votes lack nothing.
    #[test]
    fn a_wiped_node_lacks_its_votes() {
        let lost = map(WIPED, vec![group(0, WIPED, BEFORE), group(1, WIPED, WIPED)]);
        let removed = map(WIPED, vec![group(0, WIPED, &[(1, 1), (2, 1)]), group(1, WIPED, WIPED)]);
        for is_new in [true, false] {
            let wiped = node(3, 2, is_new);
            wiped.follow(&map(BEFORE, vec![group(0, BEFORE, BEFORE)]));
            for short in [&lost, &removed] {
                wiped.follow(short);
                assert_eq!(wiped.missing(short), ["g0 has 2 of 3 voters"]);
            }
        }
        assert!(node(1, 1, false).missing(&removed).is_empty());
        let wiped = node(3, 2, true);
        assert!(wiped.missing(&map(WIPED, vec![group(0, WIPED, WIPED)])).is_empty());
    }

    /// Where a lost replica is rebuilt on another node, the one that lost it waits for that too: by its word
    /// alone the next disk may be taken.
    #[test]
    fn a_wiped_node_waits_for_what_is_rebuilt_elsewhere() {
        let nodes: Members<'_> = &[(1, 1), (2, 1), (3, 2), (4, 1)];
        let elsewhere: Members<'_> = &[(1, 1), (2, 1), (4, 1)];
        let short = map(nodes, vec![group(1, elsewhere, &[(1, 1), (2, 1)])]);
        let whole = map(nodes, vec![group(1, elsewhere, elsewhere)]);
        assert_eq!(node(3, 2, true).missing(&short), ["g1 has 2 of 3 voters"]);
        assert!(node(3, 2, true).missing(&whole).is_empty());
        assert!(node(3, 2, false).missing(&short).is_empty(), "an old disk has no part in the group");
    }

    /// A node on a new disk that is started again goes on waiting for what is rebuilt elsewhere, as often as it is
    /// started, until nothing is lacking; from then on it waits for none of that any more.
    #[tokio::test]
    async fn a_wiped_node_that_is_started_again_waits() {
        let nodes: Members<'_> = &[(1, 1), (2, 1), (3, 2), (4, 1)];
        let elsewhere: Members<'_> = &[(1, 1), (2, 1), (4, 1)];
        let short = map(nodes, vec![group(1, elsewhere, &[(1, 1), (2, 1)])]);
        let whole = map(nodes, vec![group(1, elsewhere, elsewhere)]);
        let disk: Arc<dyn raftstore::Disk> = Arc::new(SimulatedDisk::new());
        let start = async |is_new| {
            Restoration::load(&disk, NodeId(3), Incarnation(2), is_new).await.expect("the disk is read")
        };
        for is_new in [true, false, false] {
            let waits = start(is_new).await;
            waits.follow(&short);
            waits.save(&disk).await.expect("the disk is written");
            assert_eq!(waits.missing(&short), ["g1 has 2 of 3 voters"]);
        }
        let waits = start(false).await;
        waits.follow(&whole);
        waits.save(&disk).await.expect("the disk is written");
        assert!(waits.missing(&short).is_empty(), "it is in service");
        assert!(start(false).await.missing(&short).is_empty(), "it was in service");
    }

    /// A node that finds nothing lacking leaves no cell: a disk is not written for every birth.
    #[tokio::test]
    async fn a_disk_that_never_waited_is_not_written() {
        let disk = SimulatedDisk::new();
        let of: Arc<dyn raftstore::Disk> = Arc::new(disk.clone());
        let comes = Restoration::load(&of, NodeId(1), Incarnation(1), true).await.expect("the disk is read");
        comes.follow(&map(BEFORE, vec![group(0, BEFORE, BEFORE)]));
        comes.save(&of).await.expect("nothing is written");
        assert_eq!(disk.counters().operations, 0);
    }

    /// The cell's layout does not drift, nothing else passes for it, and one of a later build is told from a damaged
    /// one.
    #[test]
    fn golden_cell() {
        for (is_waiting, golden) in [(true, &b"\x01waits"[..]), (false, b"\x01over")] {
            assert_eq!(cell(is_waiting), golden);
            assert_eq!(waits(golden).ok(), Some(is_waiting));
            for bit in 0..golden.len() * 8 {
                let mut flipped = golden.to_vec();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(waits(&flipped).is_err(), "bit {bit}");
            }
            for length in 0..golden.len() {
                assert!(waits(&golden[..length]).is_err(), "{length} bytes");
            }
        }
        let why = waits(b"\x02waits").expect_err("it is of a later build").to_string();
        assert!(why.contains("format version 2, this build reads 1"), "{why}");
    }

    /// A group that has lost the disks of its quorum gets no voter back, so no node waits for it, but says so; one
    /// whose voters are merely dead does, and every other group is waited for as ever.
    #[test]
    fn a_group_without_a_quorum_is_not_waited_for() {
        let nodes: Members<'_> = &[(1, 1), (2, 2), (3, 2), (4, 1), (9, 1)];
        let gone = group(1, &[(1, 1), (2, 2), (3, 2)], BEFORE);
        let halved = group(2, &[(1, 1), (3, 2), (4, 1)], &[(1, 1), (3, 1)]);
        let asleep = group(3, &[(3, 2), (4, 1), (9, 1)], &[(3, 1), (4, 1), (9, 1)]);
        for is_new in [true, false] {
            let wiped = node(3, 2, is_new);
            let short = map(nodes, vec![gone.clone(), halved.clone(), asleep.clone()]);
            wiped.follow(&short);
            assert_eq!(wiped.missing(&short), ["g3 has 2 of 3 voters"]);
            let lost = map(nodes, vec![gone.clone(), halved.clone()]);
            assert!(wiped.missing(&lost).is_empty());
            let (log, _ends) = Log::start();
            wiped.follow(&lost);
            let text = log.text();
            for left in ["g1 has 1 of 3 voters left, no quorum", "g2 has 1 of 3 voters left, no quorum"] {
                assert!(text.contains(left), "{text}");
            }
            assert!(wiped.missing(&short).is_empty(), "it is in service");
        }
    }

    /// A node in service stays in it, whatever is to be rebuilt on it; and one that comes while every group
    /// has its voters is in service at once, also where it is to take a replica over, or one of them is dead
    /// for now.
    #[test]
    fn catching_up_takes_nobody_out() {
        let nodes: Members<'_> = &[(1, 1), (2, 1), (4, 1), (9, 1)];
        let (old, new): (Members<'_>, Members<'_>) = (&[(1, 1), (2, 1), (9, 1)], &[(1, 1), (2, 1), (4, 1)]);
        let moving = map(nodes, vec![group(1, new, old)]);
        let comes = node(4, 1, true);
        assert!(comes.missing(&moving).is_empty());
        comes.follow(&moving);
        let short = map(nodes, vec![group(1, new, &[(1, 1), (2, 1)])]);
        assert!(comes.missing(&short).is_empty(), "it was in service before");
        assert_eq!(node(4, 1, false).missing(&short), ["g1 has 2 of 3 voters"], "it starts only now");
    }
}
