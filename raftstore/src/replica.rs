//! A machine as openraft sees it: entries are applied to it in order, snapshots are copied out of it while it
//! works, and a received snapshot replaces it.
//!
//! Owns the machine and the mark of what it has applied. Relies on the log being committed when it arrives
//! here. Must never hold the machine's lock over an await: readers and the next entry wait for it.

use crate::codec::ENTRY_OVERHEAD;
use crate::commands;
use crate::flow_control::FlowControl;
use crate::machine::{CopyId, Machine, Moment};
use crate::pace::Pace;
use crate::replicated_time::ReplicatedTime;
use crate::snapshot::{CopyRoom, Snapshot, SnapshotStore};
use crate::types::{Answers, LogId, Payload, SnapshotMeta, StoredMembership, TypeConfig};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use openraft::OptionalSend;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use proto::GroupId;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::sync::watch;
use tokio::time::Instant;

type OpenraftSnapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, Snapshot>;

/// How much of the machine is copied under one hold of its lock: tens of microseconds of work.
const COPY_BYTES: usize = 96 << 10;

/// A copy is finished under one hold of the lock once no more than this many bytes are left: a machine counts exactly
/// what remains, at least when it is this little.
pub const COPY_LAST_BYTES: u64 = 256 << 10;

/// A copy that has handed out this many times what it began with is outrun by its writers; it is finished
/// under one long hold of the lock instead of never.
const COPY_ROUNDS_MAX: u64 = 4;

/// How often a copy looks whether the machine has grown meanwhile.
const SIZED_BYTES: u64 = 16 << 20;

/// Makes an empty machine; called at start and for each snapshot that is taken in.
pub(crate) type Factory<M> = Arc<dyn Fn() -> M + Send + Sync>;

struct State<M> {
    machine: M,
    /// The last entry whose commands the machine holds; goes only forward.
    applied: Option<LogId>,
    /// The last membership among the applied entries.
    membership: StoredMembership,
}

/// A machine shared by the task that applies entries, the one that copies it, and every reader.
pub(crate) struct Shared<M> {
    group: GroupId,
    factory: Factory<M>,
    time: Arc<ReplicatedTime>,
    state: RwLock<State<M>>,
    /// The index up to which the machine may be read; 0 before the first entry. Follows `state.applied`.
    applied: watch::Sender<u64>,
    /// Entries and their bytes applied since this replica started.
    applied_entries: AtomicU64,
    applied_bytes: AtomicU64,
    /// How many of these bytes the last snapshot holds: made, or taken in.
    covered_bytes: AtomicU64,
    /// How many snapshots were taken in since this replica started.
    taken_in: AtomicU64,
}

impl<M: Machine> Shared<M> {
    pub(crate) fn new(group: GroupId, factory: Factory<M>, time: Arc<ReplicatedTime>) -> Arc<Self> {
        let state = State { machine: factory(), applied: None, membership: StoredMembership::default() };
        Arc::new(Self {
            group,
            factory,
            time,
            state: RwLock::new(state),
            applied: watch::Sender::new(0),
            applied_entries: AtomicU64::new(0),
            applied_bytes: AtomicU64::new(0),
            covered_bytes: AtomicU64::new(0),
            taken_in: AtomicU64::new(0),
        })
    }

    /// Reads the machine as it stands.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&M) -> T) -> T {
        read(&self.lock_read().machine)
    }

    /// Follows the index of the last applied entry.
    pub(crate) fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// How many entries were applied since this replica started.
    pub(crate) fn applied_entries(&self) -> u64 {
        self.applied_entries.load(Ordering::Relaxed)
    }

    /// How many bytes of entries were applied since this replica started.
    pub(crate) fn applied_bytes(&self) -> u64 {
        self.applied_bytes.load(Ordering::Relaxed)
    }

    /// How many bytes of entries were applied since the last snapshot, or since this replica started.
    pub(crate) fn uncovered_bytes(&self) -> u64 {
        self.applied_bytes().saturating_sub(self.covered_bytes.load(Ordering::Relaxed))
    }

    /// How many snapshots were taken in since this replica started.
    pub(crate) fn taken_in(&self) -> u64 {
        self.taken_in.load(Ordering::Relaxed)
    }

    /// Whether this replica cannot follow the leader of `term` with a log of these ids, first to last: where the last
    /// applied entry stands here, another does in it, or one of a later term before.
    pub(crate) fn is_contradicted(&self, term: u64, log: impl IntoIterator<Item = LogId>) -> bool {
        let Some(applied) = self.lock_read().applied else { return false };
        // Of an earlier term, the leader was deposed, and its log may end as it likes.
        if term < applied.committed_leader_id().term {
            return false;
        }
        let mut known = log.into_iter().take_while(|id| id.index() <= applied.index());
        known.any(|id| id > applied || id.index() == applied.index() && id != applied)
    }

    /// About how many bytes a copy of the machine would take now.
    pub(crate) fn data_bytes(&self) -> u64 {
        self.read(M::copy_bytes)
    }

    // A panic inside a machine stops the group's task; readers may still look at what it left, which is no
    // worse than before the command that it could not finish.
    fn lock_read(&self) -> RwLockReadGuard<'_, State<M>> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_write(&self) -> RwLockWriteGuard<'_, State<M>> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies an entry; `own` are those that this replica proposed.
    fn apply(&self, log_id: LogId, payload: Payload, own: bool) -> io::Result<Answers> {
        let mut answers = Vec::new();
        let mut bytes = ENTRY_OVERHEAD;
        {
            let mut state = self.lock_write();
            assert!(
                state.applied.is_none_or(|applied| applied.index() + 1 == log_id.index()),
                "entries are applied without gap or repetition: {:?} then {log_id}",
                state.applied
            );
            match payload {
                Payload::Blank => {}
                Payload::Membership(membership) => {
                    state.membership = StoredMembership::new(Some(log_id), membership);
                }
                Payload::Normal(data) => {
                    bytes += data.0.len();
                    let (time_ms, commands) = commands::unpack(&data.0).map_err(io::Error::other)?;
                    let time_ms = time_ms.max(state.machine.time_ms());
                    let at = Moment { index: log_id.index(), time_ms };
                    if own {
                        answers.extend(commands.into_iter().map(|command| state.machine.apply(at, command)));
                    } else {
                        commands.into_iter().for_each(|command| state.machine.apply_unanswered(at, command));
                        self.time.follow(state.machine.time_ms());
                    }
                }
            }
            state.applied = Some(log_id);
        }
        self.applied_entries.fetch_add(1, Ordering::Relaxed);
        self.applied_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.applied.send_replace(log_id.index());
        Ok(Answers(answers))
    }

    /// Loads a snapshot beside the machine in use, then takes its place.
    async fn install(&self, meta: &SnapshotMeta, snapshot: &Snapshot) -> io::Result<()> {
        let mut machine = (self.factory)();
        let mut pieces = snapshot.read();
        while let Some(piece) = pieces.next().await? {
            machine.load(&piece).map_err(io::Error::other)?;
        }
        let mut state = self.lock_write();
        self.time.follow(machine.time_ms());
        assert!(
            state.applied <= meta.last_log_id,
            "a snapshot never takes a machine back: {:?}",
            state.applied
        );
        let loaded = State { machine, applied: meta.last_log_id, membership: meta.last_membership.clone() };
        let replaced = std::mem::replace(&mut *state, loaded);
        drop(state);
        self.covered_bytes.fetch_max(self.applied_bytes(), Ordering::Relaxed);
        self.taken_in.fetch_add(1, Ordering::Relaxed);
        // Nobody has to wait while a large machine is taken down.
        drop(replaced);
        self.applied.send_replace(meta.last_log_id.map_or(0, |id| id.index()));
        Ok(())
    }
}

/// What openraft drives.
pub(crate) struct StateMachine<M> {
    pub(crate) shared: Arc<Shared<M>>,
    pub(crate) snapshots: SnapshotStore,
    pub(crate) flow: Arc<FlowControl>,
    pub(crate) copy_bytes_per_second_max: u64,
}

impl<M: Machine> RaftStateMachine<TypeConfig> for StateMachine<M> {
    type SnapshotData = Snapshot;
    type SnapshotBuilder = Builder<M>;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let state = self.shared.lock_read();
        Ok((state.applied, state.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let answers = self.shared.apply(entry.log_id, entry.payload, responder.is_some())?;
            if let Some(responder) = responder {
                responder.send(answers);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder<M> {
        Builder {
            shared: self.shared.clone(),
            snapshots: self.snapshots.clone(),
            flow: self.flow.clone(),
            bytes_per_second_max: self.copy_bytes_per_second_max,
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Snapshot) -> io::Result<()> {
        let _room = self.snapshots.room().install().await;
        // Durable and current before anything vouches for it: after this the log below it may be purged.
        self.snapshots.install(&snapshot).await?;
        self.shared.install(meta, &snapshot).await?;
        tracing::info!(group = %self.shared.group, bytes = snapshot.bytes, meta = %meta, "snapshot installed");
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<OpenraftSnapshot>> {
        let current = self.snapshots.current();
        Ok(current.map(|snapshot| OpenraftSnapshot { meta: snapshot.meta.clone(), snapshot }))
    }
}

/// Copies a machine into a snapshot while it goes on.
pub(crate) struct Builder<M> {
    shared: Arc<Shared<M>>,
    snapshots: SnapshotStore,
    flow: Arc<FlowControl>,
    bytes_per_second_max: u64,
}

/// Ends the copy however the builder ends, so that the machine does not go on keeping track for nobody.
struct CopyGuard<'a, M: Machine> {
    shared: &'a Shared<M>,
    copy: CopyId,
}

impl<M: Machine> Drop for CopyGuard<'_, M> {
    fn drop(&mut self) {
        self.shared.lock_write().machine.copy_end(self.copy);
    }
}

/// What one hold of the machine's lock copied.
struct Step {
    pieces: Vec<Bytes>,
    /// About how much is still to be copied.
    remaining: u64,
    /// Where the copy is exact, once nothing remains.
    end: Option<SnapshotMeta>,
    /// What this replica had applied by then.
    applied_bytes: u64,
}

impl<M: Machine> Builder<M> {
    /// Copies a piece; or, where little remains or `finish` says so, all that remains, so that writers cannot
    /// keep adding to it.
    fn step(&self, copy: CopyId, finish: bool) -> Step {
        let mut state = self.shared.lock_write();
        let (mut pieces, applied_bytes) = (Vec::new(), self.shared.applied_bytes());
        loop {
            let step = state.machine.copy_next(copy, COPY_BYTES);
            if !step.bytes.is_empty() {
                pieces.push(Bytes::from(step.bytes));
            }
            if step.remaining == 0 {
                let end =
                    SnapshotMeta { last_log_id: state.applied, last_membership: state.membership.clone() };
                return Step { pieces, remaining: 0, end: Some(end), applied_bytes };
            }
            if step.remaining > COPY_LAST_BYTES && !finish {
                return Step { pieces, remaining: step.remaining, end: None, applied_bytes };
            }
        }
    }

    /// Makes a snapshot, or waits for the one that its leader sends meanwhile.
    async fn build(&mut self) -> io::Result<OpenraftSnapshot> {
        let last_log_id = |snapshot: &Snapshot| snapshot.meta.last_log_id;
        let before = self.snapshots.current().as_ref().and_then(last_log_id);
        loop {
            let room = self.snapshots.room().copy().await;
            if let Some(snapshot) = self.snapshots.current().filter(|current| last_log_id(current) > before) {
                return Ok(OpenraftSnapshot { meta: snapshot.meta.clone(), snapshot });
            }
            if let Some(made) = self.copy(&room).await? {
                return Ok(made);
            }
            tracing::info!(group = %self.shared.group, "snapshot given up: the leader sends one");
        }
    }

    /// Copies the machine; `None` where the copy had to give way, and nothing is left of it.
    async fn copy(&self, room: &CopyRoom) -> io::Result<Option<OpenraftSnapshot>> {
        let started = Instant::now();
        let mut writer = self.snapshots.create().await?;
        let copy = self.shared.lock_write().machine.copy_begin();
        let _ends = CopyGuard { shared: &self.shared, copy };
        let (mut copied, mut began_with) = (0_u64, None);
        let mut pace = Pace::new(started, self.bytes_per_second_max);
        let last_bytes = self.snapshots.current().map_or(0, |snapshot| snapshot.bytes);
        let (mut flow, mut sized) = (self.flow.begin(last_bytes, self.shared.data_bytes()), 0);
        let (applied_before, waited_before) = (self.shared.applied_bytes(), self.flow.waited());
        let (meta, covered_bytes) = loop {
            let outrun = began_with.is_some_and(|bytes: u64| copied > bytes.saturating_mul(COPY_ROUNDS_MAX));
            let step = self.step(copy, outrun);
            began_with.get_or_insert(step.remaining.max(COPY_LAST_BYTES));
            let before = copied;
            for piece in step.pieces {
                copied += piece.len() as u64;
                writer.append(piece).await?;
            }
            // What is dealt out is on disk by then, but for what gathers: a disk that is slow deals out slowly.
            if copied - sized >= SIZED_BYTES {
                sized = copied;
                flow.resize(self.shared.data_bytes());
            }
            flow.copied(copied - before, step.remaining);
            if let Some(meta) = step.end {
                break (meta, step.applied_bytes);
            }
            let log_bytes = self.shared.applied_bytes() - applied_before;
            let (now, awaited) = (Instant::now(), self.flow.is_full());
            tokio::select! {
                biased;
                () = room.wanted() => return Ok(None),
                () = tokio::time::sleep_until(pace.next(now, copied - before, log_bytes, awaited)) => {}
            }
        };
        let snapshot = writer.finish(meta.clone()).await?;
        self.snapshots.install(&snapshot).await?;
        drop(flow);
        self.shared.covered_bytes.fetch_max(covered_bytes, Ordering::Relaxed);
        let took_ms = started.elapsed().as_millis();
        let writers_waited_ms = (self.flow.waited() - waited_before).as_millis();
        let (group, bytes) = (self.shared.group, snapshot.bytes);
        tracing::info!(%group, bytes, took_ms, writers_waited_ms, meta = %meta, "snapshot made");
        Ok(Some(OpenraftSnapshot { meta, snapshot }))
    }
}

impl<M: Machine> RaftSnapshotBuilder<TypeConfig> for Builder<M> {
    type SnapshotData = Snapshot;

    async fn build_snapshot(&mut self) -> io::Result<OpenraftSnapshot> {
        self.build().await
    }
}
