//! Following the map: from this node's own replica while it is in touch, from other nodes otherwise.
//!
//! Owns the latest map that the node knows, which never goes back.

use super::{ATTEMPT_TIME_MAX, ControllerHandle, LIFE_PACE, is_in_touch};
use crate::api::{Question, Word};
use crate::machine::ControllerMachine;
use proto::{ClusterMap, Epoch, NodeId, NodeView};
use raftstore::{CallError, Group};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// How long a node lets another wait with the map.
pub(super) const FOLLOW_TIME: Duration = Duration::from_secs(5);

impl ControllerHandle {
    /// Takes a map, unless a later one is known.
    pub fn learn(&self, map: ClusterMap) {
        let epoch = map.shard_map.epoch;
        if self.view_in(&map).is_some_and(|view| view.spec.incarnation == self.host.incarnation()) {
            let mut standing = self.lock_standing();
            standing.named = standing.named.max(epoch);
        }
        self.map.send_if_modified(|known| {
            let later = known.as_ref().is_none_or(|known| known.shard_map.epoch < epoch);
            if later {
                self.locate(known.as_deref(), &map);
                *known = Some(Arc::new(map));
            }
            later
        });
    }

    /// Nodes are looked for first where a map says that they have come to be.
    fn locate(&self, before: Option<&ClusterMap>, map: &ClusterMap) {
        let was = |node: NodeId| before?.nodes.iter().find(|view| view.node == node);
        for NodeView { node, spec, .. } in &map.nodes {
            if *node != self.host.node() && was(*node).is_none_or(|was| was.spec.peer != spec.peer) {
                self.host.locate(*node, &spec.peer);
            }
        }
    }

    /// Waits until this node knows a map of `epoch` or a later one, for so long at most; whether it does.
    pub async fn learns_of(&self, epoch: Epoch, time: Duration) -> bool {
        self.map_once(|known| known >= epoch, Instant::now() + time).await.is_some()
    }

    pub(super) async fn later_map(&self, above: Epoch, until: Instant) -> Word {
        let later = self.map_once(|known| known > above, until).await;
        later.map_or(Word::Nothing, |map| Word::Map(Box::new(ClusterMap::clone(&map))))
    }

    /// The map that this node knows once its epoch is a wanted one; `None` where that is not so in time.
    async fn map_once(&self, is_wanted: impl Fn(Epoch) -> bool, until: Instant) -> Option<Arc<ClusterMap>> {
        let mut map = self.map.subscribe();
        let wanted = map.wait_for(|map| map.as_ref().is_some_and(|map| is_wanted(map.shard_map.epoch)));
        timeout_at(until, wanted).await.ok()?.ok()?.clone()
    }

    fn epoch(&self) -> Epoch {
        self.map.borrow().as_ref().map_or(Epoch(0), |map| map.shard_map.epoch)
    }

    /// Every other node that may know the controller, and where it is reached.
    pub(super) fn others(&self) -> BTreeMap<NodeId, String> {
        let mut others: BTreeMap<NodeId, String> =
            self.settings.seeds.iter().map(|(&node, address)| (node, address.peer.clone())).collect();
        if let Some(map) = self.map.borrow().as_ref() {
            others.extend(map.nodes.iter().map(|view| (view.node, view.spec.peer.clone())));
        }
        others.remove(&self.host.node());
        others
    }

    /// Keeps the map up to date from this node's replica, while it has one.
    pub(super) async fn follow_replica(self: Arc<Self>) {
        let mut present = self.group.subscribe();
        loop {
            let group = present.borrow_and_update().clone();
            let changed = match group {
                None => present.changed().await,
                Some(group) => tokio::select! {
                    changed = present.changed() => changed,
                    // It has ended; another may be opened.
                    () = self.follow_group(&group) => present.changed().await,
                },
            };
            if changed.is_err() {
                return;
            }
        }
    }

    async fn follow_group(&self, group: &Group<ControllerMachine>) {
        let mut applied = group.applied();
        loop {
            let known = self.epoch();
            let later = group.read_stale(|machine| {
                let controller = machine.controller();
                (controller.epoch() > known).then(|| controller.cluster_map().ok()).flatten()
            });
            if let Some(map) = later {
                self.learn(map);
            }
            if applied.changed().await.is_err() {
                return;
            }
        }
    }

    /// Keeps the map up to date from other nodes, while this one has no replica or a replica that is out of
    /// touch: one that was removed from its group is not told so by its log.
    pub(super) async fn follow_others(self: Arc<Self>) {
        let mut turn = 0;
        loop {
            if self.group().is_some_and(|group| is_in_touch(&group)) {
                sleep(LIFE_PACE).await;
                continue;
            }
            let others: Vec<(NodeId, String)> = self.others().into_iter().collect();
            let wait_ms = u32::try_from(FOLLOW_TIME.as_millis()).unwrap_or(u32::MAX);
            let question = Question::Follow { above: self.epoch(), wait_ms };
            let until = Instant::now() + FOLLOW_TIME + ATTEMPT_TIME_MAX;
            let heard = match others.get(turn % others.len().max(1)) {
                Some((node, address)) => self.ask(*node, address, &question, until).await,
                None => Err(CallError::NotDelivered("no other node is known".to_owned())),
            };
            match heard {
                Ok(Word::Map(map)) => self.learn(*map),
                // Who knows nothing later may follow this node in turn: then neither ever would.
                Ok(Word::Nothing) => turn += 1,
                Ok(_) | Err(_) => {
                    turn += 1;
                    sleep(LIFE_PACE).await;
                }
            }
        }
    }
}
