//! Looks at all replicas, all the while: what must hold at every moment, whoever has crashed.
//!
//! - A group has one leader a term.
//! - Replicas that have applied the same entries are the same; none goes back while it runs.
//! - A map of one epoch is one map.
//! - A read that a quorum confirmed shows what any replica had applied before it began.
//! - A shard is served by one group: once any replica has applied that its group serves it since move `e`, no leader
//!   is confirmed by a quorum later that serves it since an earlier one.

use crate::fleet::Fleet;
use crate::lock;
use crate::report::Check;
use kvserver::moves::watch::Watch;
use proto::{Epoch, GroupId, NodeId, ShardId, ShardMap, ShardState};
use raftstore::{GroupStatus, Role};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// How often everything is looked at.
const PACE: Duration = Duration::from_millis(50);

/// How often leaders are asked to be confirmed, in looks.
const CONFIRM_EVERY: u64 = 4;

/// How long a leader may take to be confirmed.
const CONFIRM_TIME: Duration = Duration::from_millis(500);

/// How many digests of a group are remembered: replicas further behind are compared once they have caught up.
const DIGESTS_MAX: usize = 4_000;

#[derive(Default)]
struct Seen {
    leaders: BTreeMap<(GroupId, u64), NodeId>,
    digests: BTreeMap<GroupId, BTreeMap<u64, (u64, u64)>>,
    maps: BTreeMap<Epoch, ShardMap>,
    /// The latest move with which each shard is known to have arrived, and where.
    served: BTreeMap<ShardId, (Epoch, GroupId)>,
    /// The last entry that any replica was seen to have applied.
    applied: BTreeMap<GroupId, u64>,
}

/// See the module; clones are the same sentinel.
#[derive(Clone)]
pub struct Sentinel {
    fleet: Arc<Fleet>,
    seen: Arc<Mutex<Seen>>,
}

impl Sentinel {
    /// It has seen nothing yet.
    pub fn new(fleet: &Arc<Fleet>) -> Self {
        Self { fleet: fleet.clone(), seen: Arc::default() }
    }

    /// Looks on and on.
    pub async fn run(self) {
        for look in 0_u64.. {
            let watches = self.fleet.watches();
            for (node, watch) in &watches {
                self.look(*node, watch);
            }
            if look % CONFIRM_EVERY == 0 {
                for watch in watches.into_values() {
                    let sentinel = self.clone();
                    tokio::spawn(async move { sentinel.confirm(&watch).await });
                }
            }
            sleep(PACE).await;
        }
    }

    fn look(&self, node: u64, watch: &Watch) {
        let violations = &self.fleet.violations;
        let mut seen = lock(&self.seen);
        if let Some(map) = watch.map() {
            let known = seen.maps.entry(map.shard_map.epoch).or_insert_with(|| map.shard_map.clone());
            if *known != map.shard_map {
                violations.add(
                    Check::OneMap,
                    format!("n{node} has another map of {:?} than another node", known.epoch),
                );
            }
        }
        if let Some(status) = watch.controller() {
            self.leads(&mut seen, node, &status);
            let GroupStatus { role, term, applied_index, voters, .. } = status;
            let applied = applied_index.unwrap_or_default();
            self.fleet.trace.note(format_args!("n{node} g0 t{term} {role:?} applied {applied} {voters:?}"));
        }
        for group in watch.groups() {
            let (Some(status), Some((applied, digest))) = (watch.status(group), watch.digest(group)) else {
                continue;
            };
            self.leads(&mut seen, node, &status);
            let digests = seen.digests.entry(group).or_default();
            let (other, known) = *digests.entry(applied).or_insert((node, digest));
            if digests.len() > DIGESTS_MAX {
                digests.pop_first();
            }
            if known != digest {
                violations.add(
                    Check::EvenReplicas,
                    format!("{group} differs on n{other} and n{node} after entry {applied}"),
                );
            }
            let last = seen.applied.entry(group).or_default();
            *last = applied.max(*last);
            self.fleet.trace.note(format_args!(
                "n{node} {group} t{} {:?} applied {applied} {digest:016x}",
                status.term, status.role
            ));
        }
        for replica in watch.replicas() {
            for view in &replica.shards {
                self.serves(&mut seen, view.shard, view.state, replica.group);
            }
        }
    }

    fn leads(&self, seen: &mut Seen, node: u64, status: &GroupStatus) {
        let GroupStatus { group, term, .. } = *status;
        if status.role == Role::Leader {
            let leader = *seen.leaders.entry((group, term)).or_insert(NodeId(node));
            if leader != NodeId(node) {
                self.fleet.violations.add(
                    Check::OneLeader,
                    format!("{group} has two leaders in term {term}: {leader} and n{node}"),
                );
            }
        }
    }

    fn serves(&self, seen: &mut Seen, shard: ShardId, state: ShardState, group: GroupId) {
        let ShardState::Serving { epoch, .. } = state else { return };
        let known = seen.served.entry(shard).or_insert((epoch, group));
        if epoch > known.0 {
            *known = (epoch, group);
        }
        if epoch == known.0 && known.1 != group {
            let other = known.1;
            self.fleet
                .violations
                .add(Check::OneGroup, format!("{shard} is served since {epoch:?} by {group} and {other}"));
        }
    }

    async fn confirm(&self, watch: &Watch) {
        for group in watch.replicas().into_iter().filter(|replica| replica.leads).map(|replica| replica.group)
        {
            let (served, last) = {
                let seen = lock(&self.seen);
                (seen.served.clone(), seen.applied.get(&group).copied().unwrap_or_default())
            };
            let Ok(Some(shards)) = timeout(CONFIRM_TIME, watch.confirmed(group)).await else { continue };
            if let Some((shown, _)) = watch.digest(group).filter(|(shown, _)| *shown < last) {
                self.fleet.violations.add(
                    Check::FreshReads,
                    format!("a read of {group} shows entries up to {shown}, {last} was applied before it"),
                );
            }
            for view in shards {
                let ShardState::Serving { epoch, .. } = view.state else { continue };
                if let Some((since, by)) = served.get(&view.shard).filter(|(since, _)| epoch < *since) {
                    let shard = view.shard;
                    self.fleet.violations.add(Check::OneGroup, format!(
                        "{group} is confirmed to serve {shard} since {epoch:?}, {by} serves it since {since:?}"
                    ));
                }
                self.serves(&mut lock(&self.seen), view.shard, view.state, group);
            }
        }
    }

    /// What keeps the replicas from being at rest: all of a group's at its last entry, and no entry lost that
    /// any has ever applied.
    pub fn unrest(&self) -> Option<String> {
        let watches = self.fleet.watches();
        let mut at: BTreeMap<GroupId, BTreeMap<u64, (u64, u64)>> = BTreeMap::new();
        for (node, watch) in &watches {
            for group in watch.groups() {
                if let Some(digest) = watch.digest(group) {
                    at.entry(group).or_default().insert(*node, digest);
                }
            }
        }
        let seen = lock(&self.seen);
        for (group, replicas) in &at {
            let last = seen.applied.get(group).copied().unwrap_or_default();
            if let Some((node, (applied, _))) = replicas.iter().find(|(_, (applied, _))| *applied < last) {
                return Some(format!("{group} on n{node} has applied {applied} of {last}"));
            }
        }
        None
    }
}
