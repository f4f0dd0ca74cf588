//! The destination's side: the leader of the group to which a shard moves brings it in, from whatever state
//! it finds.
//!
//! Owns nothing that outlives it: a leader that is lost half-way is followed by another, which reads in the
//! machine how far the move has come. Must never say that a move is done before the shard is served, nor that
//! it was given up before that stands in the log.

use super::failpoint::{Failpoint, follow_controller, reach};
use super::progress::{Freeze, MovePhase, Progress, Tracked};
use super::source::{Source, settle_exports, settle_frozen};
use super::source_link::{ASK_TIME, SourceLink};
use super::take;
use crate::replica::Replica;
use crate::residence::Residents;
use proto::{
    ControllerChange, CopyToken, Epoch, LifecycleAnswer, LifecycleError, MoveCommand, MoveState, MoveStep,
    MoveView, NodeId, ShardId, ShardState,
};
use raftstore::{Host, ProposeError};
use shardctrler::{ControllerHandle, ExecuteError};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep};

/// How often the map is looked at without being told that it has changed.
pub(super) const PACE: Duration = Duration::from_millis(500);

/// The pause after something that did not succeed.
const SETBACK_PACE: Duration = Duration::from_millis(100);

/// The pause before a shard that had setbacks is brought in: twice as long for each, up to this. What stands in
/// the way may stay for hours, a source of another build for one, and each try is two versions of the map.
const SETBACK_PAUSE_MAX: Duration = Duration::from_secs(30);

fn setback_pause(setbacks: u32) -> Duration {
    match setbacks {
        0 => Duration::ZERO,
        _ => SETBACK_PACE.saturating_mul(1 << setbacks.min(10)).min(SETBACK_PAUSE_MAX),
    }
}

/// How many records of a shard that has left are freed at once, and the pause before the next: a tenth of a
/// millisecond's work, and ten seconds or so for a gigabyte of small records.
const FREED_RECORDS: usize = 1_024;
const FREE_PACE: Duration = Duration::from_millis(1);

/// How often in a row a copy may be cut short without a piece of it having come in, before the move is given
/// up.
const FAILURES_MAX: u32 = 15;

/// The task that brings in the shards that move to the groups that this node leads, and ends the moves away
/// from them.
pub(crate) struct Moves {
    pub(crate) host: Arc<Host>,
    pub(crate) controller: Arc<ControllerHandle>,
    pub(crate) residents: Arc<Residents>,
    /// For shards that come from a group that this node leads as well.
    pub(crate) source: Arc<Source>,
    /// What is shown of the moves that are driven here.
    pub(crate) progress: Arc<Progress>,
}

impl Moves {
    /// Runs until it is dropped, and every move that it drives with it.
    pub(crate) async fn run(self) {
        follow_controller();
        let mut map = self.controller.map();
        let mut driven: BTreeMap<(ShardId, Epoch), AbortHandle> = BTreeMap::new();
        let mut tasks = JoinSet::new();
        loop {
            let known = map.borrow_and_update().clone();
            self.source.end_idle();
            if let Some(map) = known {
                settle_exports(&self.residents, &map);
                settle_frozen(&self.residents, &map).await;
                driven.retain(|_, task| !task.is_finished());
                for moving in &map.moves {
                    let key = (moving.shard, moving.id);
                    let Some(replica) = self.residents.get(moving.to) else { continue };
                    if driven.contains_key(&key) || !replica.group.leads() {
                        continue;
                    }
                    let setbacks = map.setbacks.iter().find(|setback| setback.shard == moving.shard);
                    let link = SourceLink {
                        host: self.host.clone(),
                        controller: self.controller.clone(),
                        residents: self.residents.clone(),
                        source: self.source.clone(),
                        from: moving.from,
                        unreadable: Arc::default(),
                    };
                    let drive = Drive {
                        link,
                        replica,
                        moving: moving.clone(),
                        setbacks: setbacks.map_or(0, |setback| setback.count),
                        tracked: self.progress.begin(moving),
                        token: None,
                        holder: None,
                        lost: None,
                        freezing_since: None,
                        freeze: None,
                        copies: 0,
                        failures: 0,
                    };
                    driven.insert(key, tasks.spawn(drive.run()));
                }
            }
            while tasks.try_join_next().is_some() {}
            self.free_garbage(&mut tasks);
            if tokio::time::timeout(PACE, map.changed()).await.is_ok_and(|changed| changed.is_err()) {
                return;
            }
        }
    }

    /// Frees what was dropped, bit by bit: nobody waits for it, nor should anybody wait because of it.
    fn free_garbage(&self, tasks: &mut JoinSet<()>) {
        for replica in self.residents.all() {
            let mut garbage = replica.group.read_stale(crate::machine::KvMachine::take_garbage);
            if !garbage.is_empty() {
                tasks.spawn(async move {
                    while !garbage.is_empty() {
                        garbage.free(FREED_RECORDS);
                        sleep(FREE_PACE).await;
                    }
                });
            }
        }
    }
}

/// How a move ends here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The shard is served here.
    Active,
    /// It was given up, and that stands in the log.
    Aborted(String),
    /// Another leads, or the move is past: nothing to tell.
    Left,
}

/// What a try at a copy came to.
pub(super) enum Try {
    End(End),
    /// It did not succeed; another may.
    Again(String),
    /// The move is to be given up.
    GiveUp(String),
}

/// One move.
pub(super) struct Drive {
    pub(super) link: SourceLink,
    pub(super) replica: Arc<Replica>,
    pub(super) moving: MoveView,
    setbacks: u32,
    pub(super) tracked: Tracked,
    /// The copy that is taken in.
    pub(super) token: Option<CopyToken>,
    /// The node that hands it out.
    pub(super) holder: Option<NodeId>,
    /// A copy of which no node of the source knows anything any more.
    pub(super) lost: Option<CopyToken>,
    /// Since when the source is being asked to freeze.
    pub(super) freezing_since: Option<Instant>,
    /// When nobody was served.
    pub(super) freeze: Option<Freeze>,
    /// How many copies were begun.
    pub(super) copies: u32,
    /// How many tries have failed since the last piece came in.
    pub(super) failures: u32,
}

impl Drive {
    async fn run(mut self) {
        let MoveView { shard, from, to, id, .. } = self.moving;
        self.reach(Failpoint::Started).await;
        self.wait_out_setbacks().await;
        let end = self.bring_in().await;
        let (change, aborted, told) = match end {
            End::Active => {
                tracing::info!(
                    step = "active", %shard, %from, %to, %id,
                    pause = ?self.freeze.map(|freeze| freeze.pause()),
                    "shard has arrived"
                );
                self.reach(Failpoint::Activated).await;
                (ControllerChange::MoveDone { shard, from, to, id }, None, Failpoint::DoneTold)
            }
            End::Aborted(why) => {
                tracing::info!(step = "aborted", %shard, %from, %to, %id, why, "move is given up");
                self.reach(Failpoint::Aborted).await;
                let change = ControllerChange::MoveAborted { shard, id, why: why.clone() };
                (change, Some(why), Failpoint::AbortTold)
            }
            End::Left => return,
        };
        if let (Some(copy), Some(holder)) = (self.token, self.holder) {
            self.link.end_copy(holder, copy).await;
        }
        self.tracked.enter(MovePhase::Reporting);
        // Until the map says so; whoever leads next will say it as well.
        while self.is_listed() && self.leads() {
            match self.link.controller.execute(None, change.clone(), ASK_TIME).await {
                Ok(_) | Err(ExecuteError::Refused(_)) => {
                    tracing::info!(
                        step = "reported", %shard, %from, %to, %id,
                        "controller knows of a move's end"
                    );
                    break;
                }
                Err(error) => tracing::debug!(%shard, %id, %error, "the end of a move was not told yet"),
            }
            sleep(SETBACK_PACE).await;
        }
        self.tracked.end(aborted, self.freeze);
        self.reach(told).await;
        // This node's map lags behind the controller: a driver that left earlier would be followed by another.
        while self.is_listed() && self.leads() {
            sleep(SETBACK_PACE).await;
        }
    }

    /// Waits as long as the shard's setbacks ask for, unless the move is called off or another leads meanwhile.
    async fn wait_out_setbacks(&self) {
        let until = Instant::now() + setback_pause(self.setbacks);
        while Instant::now() < until && self.is_listed() && self.leads() && !self.is_cancelled() {
            sleep(PACE.min(until.saturating_duration_since(Instant::now()))).await;
        }
    }

    pub(super) async fn reach(&self, point: Failpoint) {
        reach(self.link.host.node(), self.moving.shard, point).await;
    }

    fn listed(&self) -> Option<MoveView> {
        let map = self.link.map()?;
        let listed =
            map.moves.iter().find(|moving| moving.shard == self.moving.shard && moving.id == self.moving.id);
        listed.cloned()
    }

    fn is_listed(&self) -> bool {
        self.listed().is_some()
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.listed().is_some_and(|moving| moving.state == MoveState::Cancelling)
    }

    pub(super) fn leads(&self) -> bool {
        self.replica.group.leads()
    }

    fn state(&self) -> ShardState {
        self.replica.group.read_stale(|machine| machine.lifecycle(self.moving.shard))
    }

    /// Why the move is to be given up before anything else is tried.
    fn hopeless(&self) -> Option<String> {
        if self.is_cancelled() {
            return Some("it was cancelled".to_owned());
        }
        let unreadable = self.link.unreadable.get();
        let unreadable = unreadable.map(|why| format!("the source runs another build: {why}"));
        unreadable.or_else(|| (self.failures >= FAILURES_MAX).then(|| "no piece came in any more".to_owned()))
    }

    async fn bring_in(&mut self) -> End {
        loop {
            if !self.is_listed() || !self.leads() {
                return End::Left;
            }
            let state = self.state();
            if state.arrived_with(self.moving.id) {
                return End::Active;
            }
            if state == (ShardState::Aborted { epoch: self.moving.id }) {
                return End::Aborted("a leader before had given it up".to_owned());
            }
            let tried = match self.hopeless() {
                Some(why) => Try::GiveUp(why),
                None => match self.copy().await {
                    Ok(()) => Try::End(End::Active),
                    Err(tried) => tried,
                },
            };
            match tried {
                Try::End(end) => return end,
                Try::GiveUp(why) => {
                    self.tracked.enter(MovePhase::GivingUp);
                    if let Some(end) = self.give_up(why).await {
                        return end;
                    }
                }
                Try::Again(why) => {
                    self.failures += 1;
                    self.tracked.enter(MovePhase::Waiting);
                    let MoveView { shard, id, .. } = self.moving;
                    tracing::info!(
                        %shard, %id, failures = self.failures, %why,
                        "a copy of a shard was cut short"
                    );
                }
            }
            sleep(SETBACK_PACE).await;
        }
    }

    pub(super) async fn step(&self, step: MoveStep<'_>) -> Result<(), Try> {
        let command = MoveCommand { shard: self.moving.shard, epoch: self.moving.id, step };
        judge(take(&self.replica, command).await)
    }

    /// Gives the move up; `None` where that did not succeed yet.
    async fn give_up(&self, why: String) -> Option<End> {
        match self.step(MoveStep::Abort).await {
            Ok(()) => Some(End::Aborted(why)),
            Err(Try::End(end)) => Some(end),
            Err(Try::Again(_) | Try::GiveUp(_)) => None,
        }
    }
}

/// What the answer to a step says of the try that it was a part of.
pub(super) fn judge(answer: Result<LifecycleAnswer, ProposeError>) -> Result<(), Try> {
    match answer {
        Ok(Ok(())) => Ok(()),
        Ok(Err(LifecycleError::Active)) => Err(Try::End(End::Active)),
        Ok(Err(LifecycleError::Stale { .. })) => Err(Try::End(End::Left)),
        Ok(Err(refused)) => Err(Try::Again(refused.to_string())),
        Err(error) => Err(Try::Again(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A shard that cannot be brought in is tried at once, soon again, and in the end twice a minute.
    #[test]
    fn setbacks_make_moves_wait() {
        assert_eq!([0, 1, 3].map(setback_pause).map(|pause| pause.as_millis()), [0, 200, 800]);
        assert_eq!([9, 10, u32::MAX].map(setback_pause), [SETBACK_PAUSE_MAX; 3]);
    }
}
