//! The destination's side: the leader of the group to which a shard moves brings it in, from whatever state it finds.
//!
//! Owns nothing that outlives it: a leader that is lost half-way is followed by another, which reads in the machine
//! how far the move has come. Must never say that a move is done before the shard is served, nor that it was given up
//! before that stands in the log.

use super::message::{MOVE_SERVICE, Question, Word};
use super::source::{Source, settle_frozen};
use super::take;
use crate::replica::Replica;
use crate::residence::Residents;
use bytes::Bytes;
use proto::{
    ClusterMap, ControllerChange, CopyToken, Epoch, GroupId, LifecycleError, MoveCommand, MoveState,
    MoveStep, MoveView, NodeId, PieceEnd, ShardId, ShardState,
};
use raftstore::{CallError, Host};
use rand::RngExt;
use shardctrler::{ControllerHandle, ExecuteError};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

/// How often the map is looked at without being told that it has changed.
const PACE: Duration = Duration::from_millis(500);

/// The pause after something that did not succeed; twice as long for each setback of the shard, up to the most.
const SETBACK_PACE: Duration = Duration::from_millis(100);
const SETBACK_PACE_MAX: Duration = Duration::from_secs(10);

/// How long a source or the controller may take to answer.
const ASK_TIME: Duration = Duration::from_secs(2);

/// The source is asked to freeze once no more than this is left, in bytes: milliseconds of work.
const FREEZE_BYTES_MAX: u64 = 256 << 10;

/// A copy that has handed out this many times what it began with is outrun by its writers: the source is asked to freeze
/// with more left.
const COPY_ROUNDS_MAX: u64 = 3;

/// About how many bytes are asked for at once.
const PIECE_BYTES: u32 = 96 << 10;

/// A shard that is frozen while no copy of it has come in yet is brought in all the same up to this many bytes; where it
/// is larger the move is given up, so that it can be served again meanwhile.
const FROZEN_COPY_BYTES_MAX: u64 = 16 << 20;

/// The most copies that a move begins before it is given up.
const COPIES_MAX: u32 = 5;

/// The task that brings in the shards that move to the groups that this node leads, and ends the moves away from them.
pub(crate) struct Moves {
    pub(crate) host: Arc<Host>,
    pub(crate) controller: Arc<ControllerHandle>,
    pub(crate) residents: Arc<Residents>,
    /// For shards that come from a group that this node leads as well.
    pub(crate) source: Arc<Source>,
}

impl Moves {
    /// Runs until it is dropped, and every move that it drives with it.
    pub(crate) async fn run(self) {
        let mut map = self.controller.map();
        let mut driven: BTreeMap<(ShardId, Epoch), AbortHandle> = BTreeMap::new();
        let mut tasks = JoinSet::new();
        loop {
            let known = map.borrow_and_update().clone();
            if let Some(map) = known {
                settle_frozen(&self.residents, &map).await;
                driven.retain(|_, task| !task.is_finished());
                for moving in &map.moves {
                    let key = (moving.shard, moving.id);
                    let Some(replica) = self.residents.get(moving.to) else { continue };
                    if driven.contains_key(&key) || !replica.group.leads() {
                        continue;
                    }
                    let setbacks = map.setbacks.iter().find(|setback| setback.shard == moving.shard);
                    let drive = Drive {
                        host: self.host.clone(),
                        controller: self.controller.clone(),
                        residents: self.residents.clone(),
                        source: self.source.clone(),
                        replica,
                        moving: moving.clone(),
                        setbacks: setbacks.map_or(0, |setback| setback.count),
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

    /// Frees what was dropped, where nobody waits for it.
    fn free_garbage(&self, tasks: &mut JoinSet<()>) {
        for replica in self.residents.all() {
            let garbage = replica.group.read_stale(crate::machine::KvMachine::take_garbage);
            if !garbage.is_empty() {
                tasks.spawn_blocking(move || drop(garbage));
            }
        }
    }
}

/// How a move ends here.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    /// The shard is served here.
    Active,
    /// It was given up, and that stands in the log.
    Aborted(String),
    /// Another leads, or the move is past: nothing to tell.
    Left,
}

/// What a try at a copy came to.
enum Try {
    End(End),
    /// It did not succeed; another may.
    Again(String),
    /// The move is to be given up.
    GiveUp(String),
}

/// One move.
struct Drive {
    host: Arc<Host>,
    controller: Arc<ControllerHandle>,
    residents: Arc<Residents>,
    source: Arc<Source>,
    replica: Arc<Replica>,
    moving: MoveView,
    setbacks: u32,
}

impl Drive {
    async fn run(self) {
        let MoveView { shard, from, to, id, .. } = self.moving;
        let pause = SETBACK_PACE.saturating_mul(1 << self.setbacks.min(10)).min(SETBACK_PACE_MAX);
        if self.setbacks > 0 {
            sleep(pause).await;
        }
        let end = self.bring_in().await;
        tracing::info!(%shard, %from, %to, %id, ?end, "move has ended at its destination");
        let change = match end {
            End::Active => ControllerChange::MoveDone { shard, from, to, id },
            End::Aborted(why) => ControllerChange::MoveAborted { shard, id, why },
            End::Left => return,
        };
        // Until the map says so; whoever leads next will say it as well.
        while self.is_listed() && self.leads() {
            match self.controller.execute(None, change.clone(), ASK_TIME).await {
                Ok(_) | Err(ExecuteError::Refused(_)) => return,
                Err(error) => tracing::debug!(%shard, %id, %error, "the end of a move was not told yet"),
            }
            sleep(SETBACK_PACE).await;
        }
    }

    fn map(&self) -> Option<Arc<ClusterMap>> {
        self.controller.map().borrow().clone()
    }

    fn listed(&self) -> Option<MoveView> {
        let map = self.map()?;
        let listed =
            map.moves.iter().find(|moving| moving.shard == self.moving.shard && moving.id == self.moving.id);
        listed.cloned()
    }

    fn is_listed(&self) -> bool {
        self.listed().is_some()
    }

    fn is_cancelled(&self) -> bool {
        self.listed().is_some_and(|moving| moving.state == MoveState::Cancelling)
    }

    fn leads(&self) -> bool {
        self.replica.group.leads()
    }

    fn state(&self) -> ShardState {
        self.replica.group.read_stale(|machine| machine.lifecycle(self.moving.shard))
    }

    async fn bring_in(&self) -> End {
        let mut copies = 0;
        loop {
            if !self.is_listed() || !self.leads() {
                return End::Left;
            }
            let state = self.state();
            if state.arrived_with(self.moving.id) {
                return End::Active;
            }
            if state == (ShardState::Aborted { epoch: self.moving.id }) {
                return End::Aborted("it was called off".to_owned());
            }
            let tried = match copies {
                _ if self.is_cancelled() => Try::GiveUp("it was cancelled".to_owned()),
                COPIES_MAX => Try::GiveUp("every copy was cut short".to_owned()),
                _ => self.copy().await,
            };
            match tried {
                Try::End(end) => return end,
                Try::GiveUp(why) => {
                    if let Some(end) = self.give_up(why).await {
                        return end;
                    }
                }
                Try::Again(why) => {
                    copies += 1;
                    let MoveView { shard, id, .. } = self.moving;
                    tracing::info!(%shard, %id, copies, %why, "a copy of a shard was cut short");
                }
            }
            sleep(SETBACK_PACE).await;
        }
    }

    async fn step(&self, step: MoveStep<'_>) -> Result<(), Try> {
        let command = MoveCommand { shard: self.moving.shard, epoch: self.moving.id, step };
        match take(&self.replica, command).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(LifecycleError::Active)) => Err(Try::End(End::Active)),
            Ok(Err(LifecycleError::Stale { .. })) => Err(Try::End(End::Left)),
            Ok(Err(refused)) => Err(Try::Again(refused.to_string())),
            Err(error) => Err(Try::Again(error.to_string())),
        }
    }

    /// Gives the move up; `None` where that did not succeed yet.
    async fn give_up(&self, why: String) -> Option<End> {
        match self.step(MoveStep::Abort).await {
            Ok(()) => Some(End::Aborted(why)),
            Err(Try::End(end)) => Some(end),
            Err(Try::Again(_) | Try::GiveUp(_)) => None,
        }
    }

    /// One copy, from its beginning to the shard's arrival.
    async fn copy(&self) -> Try {
        let token = CopyToken(rand_token());
        let copied = self.copied(token).await;
        self.end_copy(token).await;
        match copied {
            Ok(()) => Try::End(End::Active),
            Err(tried) => tried,
        }
    }

    async fn copied(&self, copy: CopyToken) -> Result<(), Try> {
        let MoveView { shard, from, to, id, .. } = self.moving;
        let (began_with, frozen) = match self.ask_source(Question::Begin { group: from, shard, copy }).await?
        {
            Word::Begun { bytes, frozen } => (bytes, frozen),
            other => return Err(Try::Again(format!("{other:?}"))),
        };
        if frozen.is_some_and(|frozen| frozen == id) && began_with > FROZEN_COPY_BYTES_MAX {
            return Err(Try::GiveUp("the copy was lost after the shard was frozen".to_owned()));
        }
        self.step(MoveStep::ImportBegin { from, copy }).await?;
        let (mut number, mut handed) = (0_u64, 0_u64);
        let mut due = Instant::now();
        let mut frozen_here = frozen == Some(id);
        loop {
            if !frozen_here {
                self.rest(&mut due).await?;
            }
            let question = Question::Next { copy, number, bytes_max: PIECE_BYTES };
            let Word::Piece { bytes, remaining, frozen } = self.ask_source(question).await? else {
                return Err(Try::Again("the source has lost the copy".to_owned()));
            };
            handed += bytes.len() as u64;
            if let Some(pace) = self.bytes_per_second() {
                due += Duration::from_secs_f64(bytes.len() as f64 / pace as f64);
            }
            let last = remaining == 0 && frozen == Some(id);
            let end = if last { PieceEnd::Activate } else { PieceEnd::More };
            self.step(MoveStep::ImportPiece { copy, number, end, bytes: &bytes }).await?;
            number += 1;
            if last {
                return Ok(());
            }
            let outrun = handed > began_with.max(FREEZE_BYTES_MAX).saturating_mul(COPY_ROUNDS_MAX);
            if !frozen_here && (remaining <= FREEZE_BYTES_MAX || outrun) {
                match self.ask_source(Question::Freeze { group: from, shard, to, epoch: id }).await? {
                    Word::Taken(Ok(())) => frozen_here = true,
                    Word::Taken(Err(LifecycleError::Stale { .. })) => {
                        return Err(Try::GiveUp("the source is past it".to_owned()));
                    }
                    other => return Err(Try::Again(format!("{other:?}"))),
                }
            }
        }
    }

    /// Waits for the copy's turn: as long as moves rest, and for what was handed out too fast.
    async fn rest(&self, due: &mut Instant) -> Result<(), Try> {
        while self.map().is_some_and(|map| map.settings.moves_paused) && !self.is_cancelled() {
            sleep(PACE).await;
            if !self.leads() {
                return Err(Try::End(End::Left));
            }
        }
        if self.is_cancelled() {
            return Err(Try::GiveUp("it was cancelled".to_owned()));
        }
        let now = Instant::now();
        // What was late is not made up for.
        *due = (*due).max(now);
        if *due > now {
            sleep_until(*due).await;
        }
        Ok(())
    }

    /// This move's share of what all copies together may take.
    fn bytes_per_second(&self) -> Option<u64> {
        let map = self.map()?;
        let all = map.settings.copy_bytes_per_second?;
        Some((all / (map.moves.len() as u64).max(1)).max(1))
    }

    /// Asks whoever leads the source.
    async fn ask_source(&self, question: Question) -> Result<Word, Try> {
        let until = Instant::now() + ASK_TIME;
        let mut leader = self.source_leader();
        let mut why = "nobody leads the source".to_owned();
        while Instant::now() < until {
            let Some((node, address)) = leader.take().or_else(|| self.source_leader()) else {
                sleep(SETBACK_PACE).await;
                continue;
            };
            let left = until.saturating_duration_since(Instant::now());
            match self.ask(node, &address, &question, left).await.map(|answer| proto::decode::<Word>(&answer))
            {
                Ok(Ok(Word::NotLeader(next))) => {
                    leader = next.and_then(|next| Some((next, self.address_of(next)?)));
                    sleep(SETBACK_PACE / 4).await;
                }
                Ok(Ok(word)) => return Ok(word),
                Ok(Err(malformed)) => return Err(Try::Again(malformed.to_string())),
                Err(error) => {
                    why = error.to_string();
                    sleep(SETBACK_PACE).await;
                }
            }
        }
        Err(Try::Again(why))
    }

    async fn ask(
        &self,
        node: NodeId,
        address: &str,
        question: &Question,
        deadline: Duration,
    ) -> Result<Bytes, CallError> {
        let body = Bytes::from(proto::encode(question));
        if node == self.host.node() {
            return Ok(self.source.serve(&body).await?);
        }
        self.host.call(node, address, MOVE_SERVICE, body, deadline).await
    }

    fn address_of(&self, node: NodeId) -> Option<String> {
        let map = self.map()?;
        map.nodes.iter().find(|view| view.node == node).map(|view| view.spec.peer.clone())
    }

    /// Who leads the source, by its own replica here, or by the map.
    fn source_leader(&self) -> Option<(NodeId, String)> {
        let from: GroupId = self.moving.from;
        let here = self.residents.get(from).and_then(|replica| replica.group.leader());
        let leader = here.or_else(|| {
            let map = self.map()?;
            map.groups.iter().find(|view| view.group == from)?.leader
        })?;
        Some((leader, self.address_of(leader)?))
    }

    async fn end_copy(&self, copy: CopyToken) {
        let Some((node, address)) = self.source_leader() else { return };
        // The source ends it by itself where this does not arrive.
        if let Err(error) = self.ask(node, &address, &Question::End { copy }, ASK_TIME).await {
            tracing::debug!(%copy, %error, "the source was not told that a copy has ended");
        }
    }
}

fn rand_token() -> u64 {
    raftstore::random().random()
}
