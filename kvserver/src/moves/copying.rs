//! A copy of a shard on its way in: begun or gone on with, taken in piece by piece while the source serves,
//! closed while nobody does.
//!
//! Owns when the source is asked to freeze. While much is left, pieces are asked for ahead; once little is,
//! one follows the other, each as small as what was written since the one before, so that the freeze comes
//! when next to nothing is on its way. What nobody is served for is then the commit of the freeze at the
//! source, and that of the last piece here.

use super::destination::{Drive, End, PACE, Try, judge};
use super::failpoint::Failpoint;
use super::message::{Question, Word};
use super::pipeline::{Arrival, PIECE_BYTES, Pipeline, Taken, WINDOW_PIECES};
use super::progress::{Freeze, MovePhase};
use super::source_link::{ASK_TIME, Piece};
use futures_util::future::{FutureExt, try_join_all};
use proto::{CopyToken, LifecycleError, MoveStep, MoveView, PieceEnd, ShardState};
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

/// Pieces are asked for ahead as long as more than this is left, in bytes; and more than this is never left
/// to be copied while nobody is served, unless writers outrun the copy.
const CLOSE_BYTES: u64 = 256 << 10;

/// The source is asked to freeze once no more than this is left, in bytes: a fraction of a millisecond's
/// work.
const FREEZE_BYTES_MAX: u64 = 32 << 10;

/// With up to [`CLOSE_BYTES`] left, it is asked all the same after so many pieces that followed each other:
/// its writers write as much as a piece while it is taken in.
const CLOSING_PIECES_MAX: u32 = 8;

/// A copy that has handed out this many times what it began with is outrun by its writers: the source is
/// asked to freeze with more left.
const COPY_ROUNDS_MAX: u64 = 3;

/// A shard that is frozen while no copy of it has come in yet is brought in all the same up to this many
/// bytes; where it is larger the move is given up, so that it can be served again meanwhile.
const FROZEN_COPY_BYTES_MAX: u64 = 16 << 20;

/// The most copies that a move begins before it is given up.
const COPIES_MAX: u32 = 5;

/// The pause before a node that hands out a copy is asked again whether it has applied that the shard is
/// frozen.
const LAG_PACE: Duration = Duration::from_millis(5);

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
    /// About what was left after the last piece that was handed out, in bytes, and whether the node that
    /// handed it out knew the shard to be frozen for this move; `None` before its first piece.
    last: Option<(u64, bool)>,
    /// How many pieces were asked for with no more than [`CLOSE_BYTES`] left, while the source served.
    closing: u32,
    /// When the throttle lets the next piece be asked for.
    due: Instant,
}

impl Copying {
    fn new(copy: CopyToken, number: u64, frozen: bool, began_with: Option<u64>) -> Self {
        let now = Instant::now();
        let frozen_at = frozen.then_some(now);
        Self { copy, number, frozen, frozen_at, began_with, handed: 0, last: None, closing: 0, due: now }
    }

    /// About what is left to be asked for, where that is known.
    fn remaining(&self) -> Option<u64> {
        self.last.map(|(remaining, _)| remaining).or(self.began_with)
    }

    /// Whether writers write as fast as is copied.
    fn is_outrun(&self) -> bool {
        let began_with = self.began_with.unwrap_or_default().max(CLOSE_BYTES);
        self.handed > began_with.saturating_mul(COPY_ROUNDS_MAX)
    }

    /// Whether one piece follows the other from now on, up to the freeze.
    fn closes(&self) -> bool {
        let little = self.last.is_some_and(|(remaining, _)| remaining <= CLOSE_BYTES);
        !self.frozen && self.last.is_some() && (little || self.is_outrun())
    }

    /// Whether the source is asked to freeze once nothing is on its way.
    fn is_to_freeze(&self) -> bool {
        let enough = |(remaining, _)| remaining <= FREEZE_BYTES_MAX || self.closing >= CLOSING_PIECES_MAX;
        self.closes() && (self.last.is_some_and(enough) || self.is_outrun())
    }

    /// Whether the node that hands the copy out has not applied yet that the shard is frozen.
    fn holder_lags(&self) -> bool {
        self.frozen && self.last == Some((0, false))
    }
}

impl Drive {
    /// Takes a copy in, to the shard's arrival: the one that the machine knows, or another where the source
    /// has lost it.
    pub(super) async fn copy(&mut self) -> Result<(), Try> {
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
                Copying::new(copy, next, false, None)
            }
            ShardState::Importing { epoch, copy, next, .. } if epoch == id => {
                match self.resume(copy, next).await? {
                    Some(copying) => copying,
                    None => self.begin().await?,
                }
            }
            _ => self.begin().await?,
        };
        self.token = Some(copying.copy);
        self.tracked.update(|moving| {
            moving.phase = MovePhase::Copying;
            (moving.copied_bytes, moving.pieces) = (0, copying.number);
        });
        self.take_in(&mut copying).await
    }

    /// Begins another copy.
    async fn begin(&mut self) -> Result<Copying, Try> {
        let MoveView { shard, from, id, .. } = self.moving;
        if self.copies >= COPIES_MAX {
            return Err(Try::GiveUp("every copy was cut short".to_owned()));
        }
        self.holder = None;
        let question = Question::Begin { group: from, shard, epoch: id };
        let (began_with, frozen, copy) = match self.link.ask_leader(&question).await.map_err(Try::Again)?.1 {
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
        Ok(Copying::new(copy, 0, frozen, Some(began_with)))
    }

    /// Goes on with a copy of which the node is gone that handed it out; `None` where nobody can.
    ///
    /// Pieces that were proposed may still be on their way, and the node may come back, at most a window
    /// beyond what is taken, to hand out those of a window more. So pieces that hold nothing take all numbers
    /// that either could still use. What is held is read behind them.
    async fn resume(&mut self, copy: CopyToken, next: u64) -> Result<Option<Copying>, Try> {
        let MoveView { shard, from, id, .. } = self.moving;
        let end = PieceEnd::More;
        let void = (next..next + 2 * WINDOW_PIECES)
            .map(|number| self.step(MoveStep::ImportPiece { copy, number, end, bytes: &[] }));
        try_join_all(void).await?;
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
        let question = Question::Resume { group: from, shard, copy, number, held };
        let (node, word) = self.link.ask_leader(&question).await.map_err(Try::Again)?;
        let Word::Begun { frozen, .. } = word else {
            tracing::info!(%shard, %id, %copy, ?word, "copy of a shard cannot be gone on with");
            return Ok(None);
        };
        tracing::info!(
            step = "taken_over", %shard, %id, %copy, number, %node,
            "copy of a shard goes on elsewhere"
        );
        (self.holder, self.lost) = (Some(node), None);
        Ok(Some(Copying::new(copy, number, frozen == Some(id), None)))
    }

    /// Takes in what is left of a copy, to the shard's arrival.
    async fn take_in(&mut self, copying: &mut Copying) -> Result<(), Try> {
        let MoveView { shard, id, .. } = self.moving;
        let mut pipeline = Pipeline::new(self.replica.clone(), (shard, id), copying.copy, copying.number);
        let mut whole = false;
        loop {
            // A frozen shard as well: to abort takes no longer than to arrive, and spares the way back.
            if self.is_cancelled() {
                return Err(Try::GiveUp("it was cancelled".to_owned()));
            }
            if pipeline.is_empty() {
                self.settle(copying).await?;
            }
            self.tracked.enter(if copying.frozen { MovePhase::Activating } else { MovePhase::Copying });
            let mut has_turn = true;
            while !whole && self.may_ask(copying, &pipeline) && has_turn {
                has_turn = !self.may_rest(copying) || copying.due <= Instant::now();
                if has_turn {
                    self.ask(copying, &mut pipeline);
                }
            }
            // Nothing is on its way where moves have just been told to rest.
            let looks_again = !has_turn || pipeline.is_empty();
            let turn = copying.due.min(Instant::now() + PACE);
            tokio::select! {
                arrival = pipeline.next() => match arrival {
                    Arrival::Handed(piece) => whole |= self.hand_over(copying, &mut pipeline, piece).await?,
                    Arrival::Taken(taken) => {
                        if self.taken(copying, taken).await? {
                            return Ok(());
                        }
                    }
                },
                () = sleep_until(turn), if looks_again => {}
            }
        }
    }

    /// What is to be done while nothing is on its way, before the next piece is asked for.
    async fn settle(&mut self, copying: &mut Copying) -> Result<(), Try> {
        if self.may_rest(copying) && self.rest().await? {
            copying.frozen = true;
            copying.frozen_at.get_or_insert_with(Instant::now);
        }
        if copying.is_to_freeze() {
            self.freeze(copying).await?;
        } else if copying.holder_lags() {
            self.await_frozen(copying).await?;
        }
        Ok(())
    }

    /// Whether the next piece may be asked for, but for the throttle.
    fn may_ask(&self, copying: &Copying, pipeline: &Pipeline) -> bool {
        let alone = pipeline.is_empty();
        let rests = self.may_rest(copying) && self.is_paused();
        let waits = rests || copying.closes() || copying.holder_lags();
        if waits { alone && !rests } else { pipeline.has_room(copying.remaining()) }
    }

    fn ask(&self, copying: &mut Copying, pipeline: &mut Pipeline) {
        if copying.closes() {
            copying.closing += 1;
        }
        if self.may_rest(copying)
            && let Some(time) = self.time_of(u64::from(PIECE_BYTES))
        {
            // What was late is not made up for.
            copying.due = copying.due.max(Instant::now()) + time;
        }
        // While nobody serves the shard, another copy is better than a holder that may come back.
        let patience = if copying.frozen { Duration::ZERO } else { ASK_TIME };
        let (link, holder, copy) = (self.link.clone(), self.holder, copying.copy);
        pipeline.ask(|number| link.piece(holder, (copy, number, PIECE_BYTES), patience).boxed());
    }

    /// Proposes a piece that the source has handed out; whether it is the last.
    async fn hand_over(
        &mut self,
        copying: &mut Copying,
        pipeline: &mut Pipeline,
        piece: Option<Piece>,
    ) -> Result<bool, Try> {
        let MoveView { shard, id, .. } = self.moving;
        let copy = copying.copy;
        let Some(piece) = piece else {
            self.lost = Some(copy);
            return Err(Try::Again("the source has lost the copy".to_owned()));
        };
        self.holder = Some(piece.holder);
        let (length, number) = (piece.bytes.len() as u64, copying.number);
        copying.began_with.get_or_insert(piece.remaining + length);
        copying.handed += length;
        copying.number += 1;
        self.correct_due(copying, length);
        let is_frozen = piece.frozen == Some(id);
        copying.last = Some((piece.remaining, is_frozen));
        if is_frozen {
            copying.frozen = true;
            copying.frozen_at.get_or_insert_with(Instant::now);
        }
        let last = piece.remaining == 0 && is_frozen;
        let end = if last { PieceEnd::Activate } else { PieceEnd::More };
        if last {
            pipeline.end_asking();
            tracing::info!(step = "activate", %shard, %id, %copy, pieces = number + 1, "copy is whole");
            self.tracked.enter(MovePhase::Activating);
            self.reach(Failpoint::BeforeActivate).await;
        }
        pipeline.propose(number, piece, end);
        Ok(last)
    }

    /// A piece is in the log, or was refused; whether the shard has arrived with it.
    async fn taken(&mut self, copying: &Copying, taken: Taken) -> Result<bool, Try> {
        judge(taken.answer)?;
        self.failures = 0;
        self.tracked.update(|moving| {
            moving.copied_bytes = copying.handed;
            moving.remaining_bytes = taken.remaining;
            moving.pieces = taken.number + 1;
        });
        if taken.end == PieceEnd::Activate {
            self.freeze = self.freezing_since.map(|asked| Freeze { asked, served: Instant::now() });
            return Ok(true);
        }
        self.reach(Failpoint::PieceTaken).await;
        Ok(false)
    }

    /// Asks the source to freeze the shard.
    async fn freeze(&mut self, copying: &mut Copying) -> Result<(), Try> {
        let MoveView { shard, from, to, id, .. } = self.moving;
        tracing::info!(
            step = "copied", %shard, %id, bytes = copying.handed, remaining = copying.remaining(),
            "little is left to copy"
        );
        self.reach(Failpoint::Copied).await;
        if self.is_cancelled() {
            return Err(Try::GiveUp("it was cancelled".to_owned()));
        }
        self.tracked.enter(MovePhase::Freezing);
        let asked = *self.freezing_since.get_or_insert_with(Instant::now);
        tracing::info!(step = "freeze", %shard, %from, %to, %id, "source is asked to freeze");
        let question = Question::Freeze { group: from, shard, to, epoch: id };
        match self.link.ask_leader(&question).await.map_err(Try::Again)?.1 {
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

    /// Whether an operator may have this copy wait, by a pause or the throttle. What may be frozen does not
    /// rest, for nobody serves it; and of a copy that is gone on with, nobody knows before its first piece.
    fn may_rest(&self, copying: &Copying) -> bool {
        copying.began_with.is_some() && !copying.frozen && self.freezing_since.is_none()
    }

    fn is_paused(&self) -> bool {
        self.link.map().is_some_and(|map| map.settings.moves_paused)
    }

    /// Waits as long as moves rest; whether the shard has turned out to be frozen, which ends it.
    async fn rest(&self) -> Result<bool, Try> {
        while self.is_paused() && !self.is_cancelled() {
            self.tracked.enter(MovePhase::Paused);
            sleep(PACE).await;
            if !self.leads() {
                return Err(Try::End(End::Left));
            }
            // A predecessor may have asked for it, and its word have come late.
            let MoveView { shard, from, id, .. } = self.moving;
            let state = self.link.ask_leader(&Question::State { group: from, shard }).await;
            if matches!(state, Ok((_, Word::State { frozen: Some(frozen) })) if frozen == id) {
                return Ok(true);
            }
        }
        match self.is_cancelled() {
            true => Err(Try::GiveUp("it was cancelled".to_owned())),
            false => Ok(false),
        }
    }

    /// How long so many bytes take by the throttle, where there is one: this move's share of what all copies
    /// together may take.
    fn time_of(&self, bytes: u64) -> Option<Duration> {
        let map = self.link.map()?;
        let all = map.settings.copy_bytes_per_second?;
        let pace = (all / (map.moves.len() as u64).max(1)).max(1);
        Some(Duration::from_secs_f64(bytes as f64 / pace as f64))
    }

    /// A piece is paid for when it is asked for, as one of the usual size; here its own size is known.
    fn correct_due(&self, copying: &mut Copying, bytes: u64) {
        let (asked_for, now) = (u64::from(PIECE_BYTES), Instant::now());
        if let Some(time) = self.time_of(bytes.abs_diff(asked_for)) {
            copying.due = match bytes > asked_for {
                true => copying.due.max(now) + time,
                false => copying.due.checked_sub(time).unwrap_or(now),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(remaining: u64, frozen: bool) -> Copying {
        let mut copying = Copying::new(CopyToken(1), 1, false, Some(64 << 20));
        copying.last = Some((remaining, frozen));
        copying
    }

    /// Much that is left is asked for ahead; little follows piece by piece, and freezes the shard once it is
    /// next to nothing.
    #[tokio::test]
    async fn the_freeze_waits_until_next_to_nothing_is_left() {
        let begun = Copying::new(CopyToken(1), 0, false, Some(0));
        assert!(!begun.closes() && !begun.is_to_freeze(), "not before the first piece");
        let decided = |copying: Copying| (copying.closes(), copying.is_to_freeze());
        assert_eq!(decided(after(CLOSE_BYTES + 1, false)), (false, false));
        assert_eq!(decided(after(CLOSE_BYTES, false)), (true, false));
        assert_eq!(decided(after(FREEZE_BYTES_MAX, false)), (true, true));
        assert_eq!(decided(Copying { frozen: true, ..after(0, true) }), (false, false));
    }

    /// Writers who write as fast as is copied do not keep a shard from moving: neither those who keep a piece
    /// left, nor those who keep much.
    #[tokio::test]
    async fn busy_writers_do_not_put_the_freeze_off() {
        let closing = Copying { closing: CLOSING_PIECES_MAX, ..after(CLOSE_BYTES, false) };
        assert!(closing.is_to_freeze());
        let handed = (64 << 20) * COPY_ROUNDS_MAX + 1;
        let outrun = Copying { handed, ..after(100 << 20, false) };
        assert!(outrun.closes() && outrun.is_to_freeze());
    }

    /// A node that has handed out everything, and does not know of the freeze, lags.
    #[tokio::test]
    async fn a_holder_may_lag() {
        let frozen = |remaining, knows| Copying { frozen: true, ..after(remaining, knows) }.holder_lags();
        assert!(frozen(0, false));
        assert!(!frozen(1, false) && !frozen(0, true));
        assert!(!after(0, false).holder_lags());
    }
}
