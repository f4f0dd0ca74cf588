//! Decides when a replica's clock ticks, so that an idle group is left alone.
//!
//! openraft looks at a replica's timers about five times a heartbeat, whatever there is to see. A leader has
//! one timer, its next heartbeat, and a follower one, its election; and a follower that has just heard of its
//! leader cannot stand for election before the shortest election timeout has passed since. So openraft's own
//! ticks stand still while there is nothing that they could find: the heartbeats of a leader are asked for from
//! here, and a follower ticks from the moment on when an election may be due.
//!
//! The heartbeats of all groups in a process fall on the same lines of the [`grid`], so that those to one peer
//! leave together. Must never leave a replica without ticks that this does not look at any more: nobody else
//! would start its election.

use super::{Runtime, grid};
use crate::config::RaftConfig;
use crate::types::TypeConfig;
use openraft::async_runtime::{AsyncRuntime, Instant, WatchReceiver};
use openraft::storage::RaftStateMachine;
use openraft::{Raft, ServerState};
use std::time::Duration;

/// The task that keeps one replica's ticks. It ends when the replica stops.
pub(crate) struct Ticker<S: RaftStateMachine<TypeConfig>> {
    raft: Raft<TypeConfig, S>,
    heartbeat_interval: Duration,
    election_timeout_min: Duration,
}

impl<S: RaftStateMachine<TypeConfig>> Drop for Ticker<S> {
    // However this ends, by a panic too.
    fn drop(&mut self) {
        self.raft.runtime_config().tick(true);
    }
}

impl<S: RaftStateMachine<TypeConfig>> Ticker<S> {
    pub(crate) fn new(raft: Raft<TypeConfig, S>, config: &RaftConfig) -> Self {
        Self {
            raft,
            heartbeat_interval: Duration::from_millis(config.heartbeat_interval_ms),
            election_timeout_min: Duration::from_millis(config.election_timeout_ms_min),
        }
    }

    pub(crate) async fn run(self) {
        let mut server = self.raft.server_metrics();
        loop {
            let leads = server.borrow_and_update().state == ServerState::Leader;
            let pause = if leads { Some(self.lead()) } else { self.follow().await };
            let Some(pause) = pause else { return };
            tokio::select! {
                biased;
                changed = server.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    continue;
                }
                () = tokio::time::sleep(pause) => {}
            }
            if leads && self.raft.trigger().heartbeat().await.is_err() {
                return;
            }
        }
    }

    /// Leaves a leader without ticks; how long it is until its next heartbeat.
    fn lead(&self) -> Duration {
        self.raft.runtime_config().tick(false);
        grid::until_line(self.heartbeat_interval)
    }

    /// Lets a follower tick where an election may be due; how long to leave it at that. `None` once the replica
    /// has stopped.
    async fn follow(&self) -> Option<Duration> {
        let heard = self.raft.with_raft_state(|state| state.vote_last_modified()).await.ok()?;
        let now = <Runtime as AsyncRuntime>::Instant::now();
        let quiet = heard.map_or(Duration::ZERO, |heard| {
            (heard + self.election_timeout_min).saturating_duration_since(now)
        });
        self.raft.runtime_config().tick(quiet.is_zero());
        let pause = if quiet.is_zero() { self.heartbeat_interval } else { quiet };
        Some(pause + grid::delay(pause))
    }
}

#[cfg(test)]
mod tests;
