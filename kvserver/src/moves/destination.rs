//! The destination's side: the leader of the group to which a shard moves brings it in, from whatever state
//! it finds.
//!
//! Owns nothing that outlives it: a leader that is lost half-way is followed by another, which reads in the
//! machine how far the move has come. Must never say that a move is done before the shard is served, nor that
//! it was given up before that stands in the log.

use super::failpoint::{Failpoint, reach};
use super::message::{MOVE_SERVICE, Question, Word};
use super::progress::{MovePhase, Progress, Tracked};
use super::source::{Source, settle_exports, settle_frozen};
use super::take;
use crate::replica::Replica;
use crate::residence::Residents;
use crate::routes::Routes;
use bytes::Bytes;
use proto::{
    ClusterMap, ControllerChange, CopyToken, Epoch, GroupId, LifecycleError, MoveCommand, MoveState,
    MoveStep, MoveView, NodeId, PieceEnd, ShardId, ShardState,
};
use raftstore::{CallError, Host};
use shardctrler::{ControllerHandle, ExecuteError};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

/// How often the map is looked at without being told that it has changed.
const PACE: Duration = Duration::from_millis(500);

/// The pause after something that did not succeed; twice as long for each setback of the shard, up to the
/// most.
const SETBACK_PACE: Duration = Duration::from_millis(100);
const SETBACK_PACE_MAX: Duration = Duration::from_secs(1);

/// How long a source or the controller may take to answer.
const ASK_TIME: Duration = Duration::from_secs(2);

/// The source is asked to freeze once no more than this is left, in bytes: milliseconds of work.
const FREEZE_BYTES_MAX: u64 = 256 << 10;

/// A copy that has handed out this many times what it began with is outrun by its writers: the source is
/// asked to freeze with more left.
const COPY_ROUNDS_MAX: u64 = 3;

/// About how many bytes are asked for at once.
const PIECE_BYTES: u32 = 96 << 10;

/// A shard that is frozen while no copy of it has come in yet is brought in all the same up to this many
/// bytes; where it is larger the move is given up, so that it can be served again meanwhile.
const FROZEN_COPY_BYTES_MAX: u64 = 16 << 20;

/// The most copies that a move begins before it is given up.
const COPIES_MAX: u32 = 5;

/// How often in a row a copy may be cut short without a piece of it having come in, before the move is given
/// up.
const FAILURES_MAX: u32 = 15;

/// How long a node of the source may take to hand out a piece before another is asked.
const PIECE_TIME: Duration = Duration::from_millis(700);

/// The pause before a node that hands out a copy is asked again whether it has applied that the shard is
/// frozen.
const LAG_PACE: Duration = Duration::from_millis(5);

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
                    let drive = Drive {
                        host: self.host.clone(),
                        controller: self.controller.clone(),
                        residents: self.residents.clone(),
                        source: self.source.clone(),
                        replica,
                        moving: moving.clone(),
                        setbacks: setbacks.map_or(0, |setback| setback.count),
                        tracked: self.progress.begin(moving),
                        token: None,
                        holder: None,
                        lost: None,
                        freezing_since: None,
                        freeze_pause: None,
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

    /// Frees what was dropped, where nobody waits for it.
    fn free_garbage(&self, tasks: &mut JoinSet<()>) {
        for replica in self.residents.all() {
            let garbage = replica.group.read_stale(crate::machine::KvMachine::take_garbage);
            if !garbage.is_empty() {
                tasks.spawn(self.host.offload(Box::pin(async move { drop(garbage) })));
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

/// What is known of the copy that is taken in.
struct Copying {
    copy: CopyToken,
    /// The piece that comes next.
    number: u64,
    /// Whether the shard is frozen for this move, as far as is known.
    frozen: bool,
    /// When the shard was known to be frozen here for the first time.
    frozen_at: Option<Instant>,
    /// About how large the copy was when this driver began with it, in bytes; `None` before its first piece.
    began_with: Option<u64>,
    /// What this driver was handed, in bytes.
    handed: u64,
}

/// A piece as the source answered it.
struct Piece {
    bytes: Vec<u8>,
    remaining: u64,
    frozen: Option<Epoch>,
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
    tracked: Tracked,
    /// The copy that is taken in.
    token: Option<CopyToken>,
    /// The node that hands it out.
    holder: Option<NodeId>,
    /// A copy of which no node of the source knows anything any more.
    lost: Option<CopyToken>,
    /// Since when the source is being asked to freeze.
    freezing_since: Option<Instant>,
    /// How long nobody was served.
    freeze_pause: Option<Duration>,
    /// How many copies were begun.
    copies: u32,
    /// How many tries have failed since the last piece came in.
    failures: u32,
}

impl Drive {
    async fn run(mut self) {
        let MoveView { shard, from, to, id, .. } = self.moving;
        self.reach(Failpoint::Started).await;
        let pause = SETBACK_PACE.saturating_mul(1 << self.setbacks.min(10)).min(SETBACK_PACE_MAX);
        if self.setbacks > 0 {
            sleep(pause).await;
        }
        let end = self.bring_in().await;
        let (change, aborted, told) = match end {
            End::Active => {
                tracing::info!(
                    step = "active", %shard, %from, %to, %id, pause = ?self.freeze_pause,
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
        self.end_copy().await;
        self.tracked.enter(MovePhase::Reporting);
        // Until the map says so; whoever leads next will say it as well.
        while self.is_listed() && self.leads() {
            match self.controller.execute(None, change.clone(), ASK_TIME).await {
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
        self.tracked.end(aborted, self.freeze_pause);
        self.reach(told).await;
    }

    async fn reach(&self, point: Failpoint) {
        reach(self.host.node(), self.moving.shard, point).await;
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
                return End::Aborted("it was called off".to_owned());
            }
            let tried = match () {
                () if self.is_cancelled() => Try::GiveUp("it was cancelled".to_owned()),
                () if self.failures >= FAILURES_MAX => Try::GiveUp("no piece came in any more".to_owned()),
                () => match self.copy().await {
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

    /// Takes a copy in, to the shard's arrival: the one that the machine knows, or another where the source
    /// has lost it.
    async fn copy(&mut self) -> Result<(), Try> {
        let MoveView { shard, id, .. } = self.moving;
        // A leader that is new may not have applied what its predecessor took in: pieces that it asked for
        // then would be gone at the source.
        let state = self.replica.group.read(|machine| machine.lifecycle(shard)).await;
        let state = state.map_err(|error| Try::Again(error.to_string()))?;
        let mut copying = match state {
            ShardState::Importing { epoch, copy, complete: true, .. } if epoch == id => {
                return self.step(MoveStep::Activate { copy }).await;
            }
            ShardState::Importing { epoch, copy, next, .. } if epoch == id && self.lost != Some(copy) => {
                tracing::info!(step = "resume", %shard, %id, %copy, next, "copy of a shard goes on");
                Copying { copy, number: next, frozen: false, frozen_at: None, began_with: None, handed: 0 }
            }
            ShardState::Importing { epoch, copy, next, .. } if epoch == id => {
                match self.resume(copy, next).await? {
                    Some(copying) => copying,
                    None => self.begin().await?,
                }
            }
            _ => self.begin().await?,
        };
        let resumed = copying.began_with.is_none();
        self.token = Some(copying.copy);
        self.tracked.update(|moving| {
            moving.phase = MovePhase::Copying;
            (moving.copied_bytes, moving.pieces) = (0, copying.number);
        });
        let mut due = Instant::now();
        // Of a copy that is gone on with nobody knows whether the shard is frozen already, and a frozen one
        // never rests.
        let mut rests = !resumed;
        while !self.next_piece(&mut copying, &mut due, rests).await? {
            rests = true;
        }
        Ok(())
    }

    /// Begins another copy.
    async fn begin(&mut self) -> Result<Copying, Try> {
        let MoveView { shard, from, id, .. } = self.moving;
        if self.copies >= COPIES_MAX {
            return Err(Try::GiveUp("every copy was cut short".to_owned()));
        }
        self.holder = None;
        let question = Question::Begin { group: from, shard, epoch: id };
        let (began_with, frozen, copy) = match self.ask_source(question).await? {
            Word::Begun { bytes, frozen, copy } => (bytes, frozen == Some(id), copy),
            Word::Taken(Err(LifecycleError::Stale { .. })) => {
                return Err(Try::GiveUp("the source is past it".to_owned()));
            }
            other => return Err(Try::Again(format!("{other:?}"))),
        };
        self.copies += 1;
        self.tracked.update(|moving| {
            moving.remaining_bytes = began_with;
            moving.copies = self.copies;
        });
        if frozen && began_with > FROZEN_COPY_BYTES_MAX {
            return Err(Try::GiveUp("the copy was lost after the shard was frozen".to_owned()));
        }
        self.step(MoveStep::ImportBegin { from, copy }).await?;
        tracing::info!(
            step = "import_begin", %shard, %from, %id, %copy, bytes = began_with,
            "shard is copied"
        );
        self.reach(Failpoint::ImportBegun).await;
        let frozen_at = frozen.then(Instant::now);
        Ok(Copying { copy, number: 0, frozen, frozen_at, began_with: Some(began_with), handed: 0 })
    }

    /// Goes on with a copy of which the node is gone that handed it out; `None` where nobody can.
    ///
    /// A piece that was proposed may still be on its way, and the node may come back: so two pieces that hold
    /// nothing take the numbers that either could still use. What is held is read behind them.
    async fn resume(&mut self, copy: CopyToken, next: u64) -> Result<Option<Copying>, Try> {
        let MoveView { shard, from, id, .. } = self.moving;
        for number in [next, next + 1] {
            self.step(MoveStep::ImportPiece { copy, number, end: PieceEnd::More, bytes: &[] }).await?;
        }
        let held = self.replica.group.read(|machine| (machine.lifecycle(shard), machine.held(shard))).await;
        let (state, held) = held.map_err(|error| Try::Again(error.to_string()))?;
        let number = match state {
            ShardState::Importing { epoch, copy: same, next, complete: false, .. }
                if epoch == id && same == copy =>
            {
                next
            }
            other => return Err(Try::Again(format!("the shard is {other}"))),
        };
        self.holder = None;
        let (node, word) =
            self.ask_source_node(Question::Resume { group: from, shard, copy, number, held }).await?;
        let Word::Begun { frozen, .. } = word else {
            tracing::info!(%shard, %id, %copy, ?word, "copy of a shard cannot be gone on with");
            return Ok(None);
        };
        tracing::info!(
            step = "taken_over", %shard, %id, %copy, number, %node,
            "copy of a shard goes on elsewhere"
        );
        (self.holder, self.lost) = (Some(node), None);
        let frozen = frozen == Some(id);
        let frozen_at = frozen.then(Instant::now);
        Ok(Some(Copying { copy, number, frozen, frozen_at, began_with: None, handed: 0 }))
    }

    /// Takes in the next piece of a copy; whether the shard has arrived with it.
    async fn next_piece(
        &mut self,
        copying: &mut Copying,
        due: &mut Instant,
        rests: bool,
    ) -> Result<bool, Try> {
        let MoveView { shard, id, .. } = self.moving;
        // A frozen shard as well: to abort takes no longer than to arrive, and spares the way back.
        if self.is_cancelled() {
            return Err(Try::GiveUp("it was cancelled".to_owned()));
        }
        // What may be frozen does not rest: nobody serves it.
        if rests && !copying.frozen && self.freezing_since.is_none() {
            self.rest(due).await?;
        }
        self.tracked.enter(if copying.frozen { MovePhase::Activating } else { MovePhase::Copying });
        let (copy, number) = (copying.copy, copying.number);
        // While nobody serves the shard, another copy is better than a holder that may come back.
        let patience = if copying.frozen { Duration::ZERO } else { ASK_TIME };
        let Some(Piece { bytes, remaining, frozen }) = self.ask_piece(copy, number, patience).await else {
            self.lost = Some(copy);
            return Err(Try::Again("the source has lost the copy".to_owned()));
        };
        let began_with = *copying.began_with.get_or_insert(remaining + bytes.len() as u64);
        copying.handed += bytes.len() as u64;
        if let Some(pace) = self.bytes_per_second() {
            *due += Duration::from_secs_f64(bytes.len() as f64 / pace as f64);
        }
        let is_frozen = frozen == Some(id);
        if is_frozen {
            copying.frozen = true;
            copying.frozen_at.get_or_insert_with(Instant::now);
        }
        let last = remaining == 0 && is_frozen;
        let end = if last { PieceEnd::Activate } else { PieceEnd::More };
        if last {
            tracing::info!(step = "activate", %shard, %id, %copy, pieces = number + 1, "copy is whole");
            self.tracked.enter(MovePhase::Activating);
            self.reach(Failpoint::BeforeActivate).await;
        }
        self.step(MoveStep::ImportPiece { copy, number, end, bytes: &bytes }).await?;
        copying.number += 1;
        self.failures = 0;
        self.tracked.update(|moving| {
            moving.copied_bytes = copying.handed;
            moving.remaining_bytes = remaining;
            moving.pieces = copying.number;
        });
        if last {
            self.freeze_pause = self.freezing_since.map(|since| since.elapsed());
            return Ok(true);
        }
        self.reach(Failpoint::PieceTaken).await;
        let outrun = copying.handed > began_with.max(FREEZE_BYTES_MAX).saturating_mul(COPY_ROUNDS_MAX);
        if !copying.frozen && (remaining <= FREEZE_BYTES_MAX || outrun) {
            self.freeze(copying, remaining).await?;
        } else if remaining == 0 && !is_frozen {
            self.await_frozen(copying).await?;
        }
        Ok(false)
    }

    /// Asks the source to freeze the shard.
    async fn freeze(&mut self, copying: &mut Copying, remaining: u64) -> Result<(), Try> {
        let MoveView { shard, from, to, id, .. } = self.moving;
        tracing::info!(
            step = "copied", %shard, %id, bytes = copying.handed, remaining,
            "little is left to copy"
        );
        self.reach(Failpoint::Copied).await;
        if self.is_cancelled() {
            return Err(Try::GiveUp("it was cancelled".to_owned()));
        }
        self.tracked.enter(MovePhase::Freezing);
        let asked = *self.freezing_since.get_or_insert_with(Instant::now);
        tracing::info!(step = "freeze", %shard, %from, %to, %id, "source is asked to freeze");
        match self.ask_source(Question::Freeze { group: from, shard, to, epoch: id }).await? {
            Word::Taken(Ok(())) => {
                tracing::info!(
                    step = "frozen", %shard, %from, %to, %id, took = ?asked.elapsed(),
                    "source is frozen"
                );
                self.reach(Failpoint::FreezeAnswered).await;
                copying.frozen = true;
                copying.frozen_at = Some(Instant::now());
                Ok(())
            }
            Word::Taken(Err(LifecycleError::Stale { .. })) => {
                Err(Try::GiveUp("the source is past it".to_owned()))
            }
            other => Err(Try::Again(format!("{other:?}"))),
        }
    }

    /// The shard is frozen where the source is led, and the node that hands out its copy has not applied that
    /// yet.
    async fn await_frozen(&mut self, copying: &Copying) -> Result<(), Try> {
        if copying.frozen_at.is_some_and(|at| at.elapsed() >= ASK_TIME) {
            self.lost = Some(copying.copy);
            return Err(Try::Again("the copy is handed out by a node that lags".to_owned()));
        }
        sleep(LAG_PACE).await;
        Ok(())
    }

    /// A piece of a copy, from whichever node of the source knows it; `None` where none does, and for as long
    /// as
    /// `patience` none that was silent has come back.
    async fn ask_piece(&mut self, copy: CopyToken, number: u64, patience: Duration) -> Option<Piece> {
        let question = Question::Next { copy, number, bytes_max: PIECE_BYTES };
        let until = Instant::now() + patience;
        loop {
            let mut unheard = false;
            for (node, address) in self.source_nodes() {
                let answer = self.ask(node, &address, &question, PIECE_TIME).await;
                match answer.map(|answer| proto::decode::<Word>(&answer)) {
                    Ok(Ok(Word::Piece { bytes, remaining, frozen })) => {
                        self.holder = Some(node);
                        return Some(Piece { bytes, remaining, frozen });
                    }
                    Ok(Ok(Word::Ended)) => {}
                    other => {
                        tracing::debug!(%copy, number, %node, ?other, "a node of the source gives no piece");
                        unheard = true;
                    }
                }
            }
            if !unheard || Instant::now() >= until {
                return None;
            }
            sleep(SETBACK_PACE).await;
        }
    }

    /// The nodes of the source, by how probable it is that they know the copy.
    fn source_nodes(&self) -> Vec<(NodeId, String)> {
        let leader = self.source_leader().map(|(node, _)| node);
        let mut nodes: Vec<NodeId> = self.holder.into_iter().chain(leader).collect();
        if let Some(map) = self.map()
            && let Some(view) = map.groups.iter().find(|view| view.group == self.moving.from)
        {
            nodes.extend(view.voters.keys().copied());
        }
        let mut known = BTreeSet::new();
        nodes.retain(|node| known.insert(*node));
        nodes.into_iter().filter_map(|node| Some((node, self.address_of(node)?))).collect()
    }

    /// Waits for the copy's turn: as long as moves rest, and for what was handed out too fast.
    async fn rest(&self, due: &mut Instant) -> Result<(), Try> {
        while self.map().is_some_and(|map| map.settings.moves_paused) && !self.is_cancelled() {
            self.tracked.enter(MovePhase::Paused);
            sleep(PACE).await;
            if !self.leads() {
                return Err(Try::End(End::Left));
            }
            // A predecessor may have asked for it, and its word have come late.
            let MoveView { shard, from, id, .. } = self.moving;
            let state = self.ask_source(Question::State { group: from, shard }).await;
            if matches!(state, Ok(Word::State { frozen: Some(frozen) }) if frozen == id) {
                return Ok(());
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
        Ok(self.ask_source_node(question).await?.1)
    }

    /// As [`ask_source`](Self::ask_source); also who it is.
    async fn ask_source_node(&self, question: Question) -> Result<(NodeId, Word), Try> {
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
                Ok(Ok(word)) => return Ok((node, word)),
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
        Routes::peer_of(&*self.map()?, node)
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

    /// Tells whoever hands the copy out that it is not needed any more.
    async fn end_copy(&self) {
        let (Some(copy), Some(holder)) = (self.token, self.holder) else { return };
        let Some(address) = self.address_of(holder) else { return };
        // The source ends it by itself where this does not arrive.
        if let Err(error) = self.ask(holder, &address, &Question::End { copy }, ASK_TIME).await {
            tracing::debug!(%copy, %error, "the source was not told that a copy has ended");
        }
    }
}
