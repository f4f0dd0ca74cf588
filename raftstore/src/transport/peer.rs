//! One node as this one reaches it: its lanes, each started when it is first needed, and the bounds that all
//! groups share towards it.

use super::config::TransportConfig;
use super::lane::{Lane, LaneKind, Local};
use super::queue::Queue;
use proto::NodeId;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Semaphore;

#[derive(Default)]
struct Lanes {
    started: [Option<Lane>; LaneKind::ALL.len()],
    /// No lane is kept any more; one that is asked for is closed from the start.
    closed: bool,
}

/// A node, wherever it is.
pub(crate) struct Peer {
    pub(crate) id: NodeId,
    lanes: Mutex<Lanes>,
    /// Bytes of appends that may be under way.
    pub(crate) window: Arc<Semaphore>,
    /// Snapshots that may be sent at the same time.
    pub(crate) snapshots: Arc<Semaphore>,
}

impl Peer {
    pub(crate) fn new(id: NodeId, config: &TransportConfig, closed: bool) -> Self {
        Self {
            id,
            lanes: Mutex::new(Lanes { closed, ..Lanes::default() }),
            window: Arc::new(Semaphore::new(config.window_bytes)),
            snapshots: Arc::new(Semaphore::new(config.snapshots_max)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The queue of a lane.
    pub(crate) fn queue(&self, local: &Arc<Local>, kind: LaneKind) -> Arc<Queue> {
        let mut lanes = self.lock();
        let closed = lanes.closed;
        let slot = &mut lanes.started[kind as usize - 1];
        if let Some(lane) = slot {
            return lane.queue.clone();
        }
        let lane = Lane::start(local.clone(), kind, self.id);
        let queue = lane.queue.clone();
        if !closed {
            *slot = Some(lane);
        }
        queue
    }

    /// Fails whatever waits and ends the lanes' tasks.
    pub(crate) async fn shut_down(&self) {
        let started = {
            let mut lanes = self.lock();
            lanes.closed = true;
            std::mem::take(&mut lanes.started)
        };
        for lane in started.into_iter().flatten() {
            lane.shut_down().await;
        }
    }
}
