//! Who lives: a node joins and gives signs of life; whoever leads the controller hears them, judges, and has the cluster
//! born at first.
//!
//! Relies on [`Liveness`] for what silence means. Must never judge, nor hear anybody, while a quorum is out of the
//! leader's reach.

use super::{
    ADMISSIONS_MAX, ATTEMPT_PACE, ATTEMPT_TIME_MAX, ControllerHandle, ExecuteError, LIFE_PACE, Shape,
    is_in_touch,
};
use crate::api::{Question, Sign};
use crate::liveness::Liveness;
use proto::{
    Birth, ClusterMap, ControllerChange, ControllerError, Epoch, GroupId, NodeId, NodeSpec, NodeState,
};
use raftstore::Address;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

impl ControllerHandle {
    /// Joins the cluster and gives signs of life.
    pub(super) async fn live(self: Arc<Self>) {
        loop {
            let next = Instant::now() + LIFE_PACE;
            if let Some(epoch) = self.is_to_join() {
                self.join(epoch).await;
            }
            // By its sign whoever leads knows that the node will not join again once it is removed.
            let is_member = self.lock_standing().is_remembered;
            if is_member {
                self.give_sign().await;
            }
            sleep_until(next).await;
        }
    }

    async fn give_sign(&self) {
        let sign = Sign {
            node: self.host.node(),
            incarnation: self.host.incarnation(),
            groups: self.host.stored_groups().into_iter().filter(|group| *group != GroupId(0)).collect(),
        };
        match self.ask_leader(&Question::Alive(sign), LIFE_PACE).await {
            Ok(_) => self.lock_standing().heard = Some(Instant::now()),
            Err(error) => tracing::debug!(%error, "no sign of life was given"),
        }
    }

    /// Joins at the map of `epoch`, by which this node is no member, or at a later one by which it is none either: what
    /// comes late is carried out at no other, and nobody comes back who was removed meanwhile.
    async fn join(&self, mut epoch: Epoch) {
        let node = self.host.node();
        let change = ControllerChange::NodeJoin { node, spec: self.settings.spec.clone() };
        let mut attempts = 1..ADMISSIONS_MAX;
        let why = loop {
            let joined = self.execute(Some(epoch), change.clone(), ATTEMPT_TIME_MAX).await;
            match joined.err() {
                Some(ExecuteError::Refused(ControllerError::EpochMismatch { current }))
                    if attempts.next().is_some() =>
                {
                    self.learns_of(current, ATTEMPT_TIME_MAX).await;
                    let Some(now) = self.is_to_join() else { return };
                    epoch = now;
                }
                why => break why.map(|error| error.to_string()),
            }
        };
        let is_news = self.note_refusal(why.as_deref());
        match why {
            Some(why) if is_news => {
                tracing::warn!(%node, %why, "node has not joined the cluster yet");
            }
            Some(_) => {}
            None => {
                tracing::info!(%node, "node has joined the cluster");
                return;
            }
        }
        if let Some(spec) = self.without_address() {
            let change = ControllerChange::NodeJoin { node, spec };
            if let Err(error) = self.execute(Some(epoch), change, ATTEMPT_TIME_MAX).await {
                tracing::debug!(%node, %error, "the node's old address was not given up");
            }
        }
    }

    /// Takes why the controller refuses this node, and returns whether that is new.
    fn note_refusal(&self, why: Option<&str>) -> bool {
        let refused = &mut self.lock_standing().refused;
        let is_news = refused.as_deref() != why;
        *refused = why.map(str::to_owned);
        is_news
    }

    /// What this node says of itself where its address is still another's on the map: that it is no longer at its
    /// own old one. Nodes that came back at each other's addresses would else wait for each other for ever.
    fn without_address(&self) -> Option<NodeSpec> {
        let map = self.map.borrow();
        let map = map.as_ref()?;
        let own = self.view_in(map).filter(|view| view.spec.incarnation == self.host.incarnation())?;
        let peer = &self.settings.spec.peer;
        let mut others = map.nodes.iter().filter(|view| view.node != self.host.node());
        let is_taken = others.any(|view| view.spec.peer == *peer && view.state != NodeState::Dead);
        let gives_up = is_taken && own.spec.peer != *peer && !own.spec.peer.is_empty();
        gives_up.then(|| NodeSpec { peer: String::new(), ..own.spec.clone() })
    }

    /// The epoch of the map, where that knows this node not, or otherwise than it is. Whoever was removed does
    /// not come back by itself, and a map from before this node joined says nothing.
    fn is_to_join(&self) -> Option<Epoch> {
        let map = self.map.borrow();
        let map = map.as_ref()?;
        let is_to_join = match self.view_in(map) {
            Some(view) => view.spec != self.settings.spec,
            None => self.named() == Epoch(0),
        };
        is_to_join.then_some(map.shard_map.epoch)
    }

    /// While this node's replica leads: has the cluster born, and judges who lives.
    pub(super) async fn lead(self: Arc<Self>) {
        loop {
            let next = Instant::now() + self.lead_pace();
            let map = self.map.borrow().clone();
            match map {
                Some(map) => self.judge(&map).await,
                None => self.bear().await,
            }
            sleep_until(next).await;
        }
    }

    fn lead_pace(&self) -> Duration {
        let is_born = self.map.borrow().is_some();
        if is_born { LIFE_PACE } else { ATTEMPT_PACE }
    }

    /// Has the cluster born of the members of group 0.
    async fn bear(&self) {
        let group = self.group().filter(|group| group.leads() && is_in_touch(group));
        let (Some(shape), Some(group)) = (self.settings.birth, group) else { return };
        match self.execute(None, birth(shape, &group.status()), ATTEMPT_TIME_MAX).await {
            // This node will see the map of the cluster that was born otherwise.
            Ok(_) | Err(ExecuteError::Refused(ControllerError::Born)) => {}
            Err(ExecuteError::Refused(why)) => {
                let why = why.to_string();
                if self.note_refusal(Some(&why)) {
                    tracing::error!(%why, "the cluster cannot be born as it is configured");
                }
            }
            Err(error) => tracing::debug!(%error, "the cluster is not born yet"),
        }
    }

    /// Judges who lives.
    async fn judge(&self, map: &ClusterMap) {
        for change in self.verdicts(map) {
            // The one before it may have taken its time, and this node its leave.
            if self.verdicts(map).contains(&change) {
                self.tell(change).await;
            }
        }
    }

    /// What is due by now. A leader that a quorum does not hear goes on in its role, so the role alone says
    /// nothing: it may have been superseded long ago, and whoever is silent may be so to this node only. It
    /// has heard nothing then, and the whole time of silence begins anew once it is in touch again.
    fn verdicts(&self, map: &ClusterMap) -> Vec<ControllerChange> {
        let judges = self.group().is_some_and(|group| group.leads() && is_in_touch(&group));
        let now = Instant::now();
        let mut liveness = self.lock_liveness();
        if !judges {
            *liveness = None;
            return Vec::new();
        }
        liveness.get_or_insert_with(|| Liveness::new(now)).judge(now, map)
    }

    async fn tell(&self, change: ControllerChange) {
        if let Err(error) = self.execute(None, change.clone(), ATTEMPT_TIME_MAX).await {
            tracing::debug!(?change, %error, "the controller was not told");
        }
    }

    pub(super) fn lock_liveness(&self) -> std::sync::MutexGuard<'_, Option<Liveness>> {
        self.liveness.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The birth of a cluster of the members of group 0.
fn birth(shape: Shape, status: &raftstore::GroupStatus) -> ControllerChange {
    let spec = |(node, address): (&NodeId, &Address)| {
        let incarnation = status.incarnations.get(node).copied().unwrap_or_default();
        let (peer, http) = (address.peer.clone(), address.http.clone());
        (*node, NodeSpec { peer, http, zone: String::new(), weight: 1, incarnation })
    };
    let nodes = status.members.iter().map(spec).collect();
    ControllerChange::Birth(Birth {
        shards: shape.shards,
        groups: shape.groups,
        replicas: shape.replicas,
        nodes,
    })
}
