//! The source's side: it hands out copies, freezes when it is asked to, and drops or thaws what it froze once
//! the map says how the move has ended.
//!
//! Owns the copies that this node serves, with the last pieces of each, so that they can be asked for again:
//! by whoever has not heard the answer, and by a successor of whoever has not got it into its log. Must never
//! drop or thaw by a map that is older than the move.

use super::failpoint::{Failpoint, reach};
use super::message::{Question, Word};
use super::pipeline::{PIECE_BYTES, WINDOW_PIECES};
use super::take;
use crate::machine::{Held, KvMachine, ShardCopyRefused};
use crate::replica::Replica;
use crate::residence::Residents;
use bytes::Bytes;
use proto::{ClusterMap, CopyToken, Epoch, GroupId, MoveCommand, MoveStep, MoveView, ShardId, ShardState};
use raftstore::mutation::{Mutation, is_on};
use raftstore::{Refusal, Role};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// The largest piece that is handed out, in bytes, unless a single record is larger.
const PIECE_BYTES_MAX: usize = PIECE_BYTES as usize;

/// How long the end of a move at its source is waited for before it is looked at again.
const STEP_TIME: Duration = Duration::from_secs(2);

/// A copy of which nobody has asked a piece for so long is ended.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// A copy that this node serves.
struct Copy {
    group: GroupId,
    /// The number of the piece that comes next.
    next: u64,
    /// The last pieces before it, as they were answered: at most [`WINDOW_PIECES`], for no piece that lies
    /// further back is asked for again.
    handed: VecDeque<Bytes>,
    asked: Instant,
}

impl Copy {
    /// The answer that holds piece `number`, where it was handed out and is kept.
    fn handed(&self, number: u64) -> Option<Bytes> {
        let back = usize::try_from(self.next.checked_sub(number)?).ok()?;
        self.handed.get(self.handed.len().checked_sub(back)?).cloned()
    }

    fn keep(&mut self, word: &Word) {
        self.handed.push_back(Bytes::from(proto::encode(word)));
        if self.handed.len() as u64 > WINDOW_PIECES {
            self.handed.pop_front();
        }
        self.next += 1;
    }
}

/// See the [module](self).
pub(crate) struct Source {
    residents: Arc<Residents>,
    copies: Mutex<BTreeMap<CopyToken, Copy>>,
}

impl Source {
    pub(crate) fn new(residents: Arc<Residents>) -> Self {
        Self { residents, copies: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<CopyToken, Copy>> {
        self.copies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers a destination.
    ///
    /// # Errors
    /// [`Refusal::Unsupported`] where the question is not understood.
    pub(crate) async fn serve(&self, body: &[u8]) -> Result<Bytes, Refusal> {
        let question = proto::decode(body).map_err(|error| Refusal::Unsupported(error.to_string()))?;
        let word = match question {
            Question::Begin { group, shard, epoch } => self.begin(group, shard, epoch).await,
            Question::Resume { group, shard, copy, number, held } => {
                self.resume(group, shard, copy, number, &held).await
            }
            Question::Next { copy, number, bytes_max } => {
                let handed = self.next(copy, number, bytes_max as usize);
                return Ok(handed.unwrap_or_else(|| Bytes::from(proto::encode(&Word::Ended))));
            }
            Question::Freeze { group, shard, to, epoch } => {
                self.freeze(group, MoveCommand { shard, epoch, step: MoveStep::Freeze { to } }).await
            }
            Question::End { copy } => {
                self.end(copy);
                Word::Done
            }
            Question::State { group, shard } => self.state(group, shard),
        };
        Ok(Bytes::from(proto::encode(&word)))
    }

    /// The replica, where it leads.
    fn leading(&self, group: GroupId) -> Result<Arc<Replica>, Word> {
        let replica = self.residents.get(group).ok_or(Word::NotLeader(None))?;
        match replica.group.status() {
            status if status.role == Role::Leader => Ok(replica),
            status => Err(Word::NotLeader(status.leader)),
        }
    }

    fn state(&self, group: GroupId, shard: ShardId) -> Word {
        let replica = match self.leading(group) {
            Ok(replica) => replica,
            Err(word) => return word,
        };
        let frozen = match replica.group.read_stale(|machine| machine.lifecycle(shard)) {
            ShardState::Frozen { epoch, .. } => Some(epoch),
            _ => None,
        };
        Word::State { frozen }
    }

    /// Exports the shard, so that every replica can go on with the copy, and begins it.
    async fn begin(&self, group: GroupId, shard: ShardId, epoch: Epoch) -> Word {
        let replica = match self.leading(group) {
            Ok(replica) => replica,
            Err(word) => return word,
        };
        match take(&replica, MoveCommand { shard, epoch, step: MoveStep::Export }).await {
            Ok(Ok(())) => {}
            Ok(Err(refused)) => return Word::Taken(Err(refused)),
            Err(raftstore::ProposeError::NotLeader { leader, .. }) => return Word::NotLeader(leader),
            Err(error) => return Word::Busy(error.to_string()),
        }
        let begun = replica.group.read_stale(|machine| {
            let exported = machine.exports().into_iter().find(|(of, by, _)| (*of, *by) == (shard, epoch));
            let Some((_, _, copy)) = exported else { return Ok(None) };
            machine.shard_copy_begin(shard, copy)?;
            Ok::<_, ShardCopyRefused>(Some((copy, begun(machine, shard, copy))))
        });
        match begun {
            Ok(Some((copy, word))) => {
                self.hold(group, copy, 0);
                word
            }
            Ok(None) => Word::Busy("too much has changed at once".to_owned()),
            Err(refused) => Word::Busy(refused.to_string()),
        }
    }

    /// Goes on with a copy that another node has begun.
    async fn resume(
        &self,
        group: GroupId,
        shard: ShardId,
        copy: CopyToken,
        number: u64,
        held: &Held,
    ) -> Word {
        let replica = match self.leading(group) {
            Ok(replica) => replica,
            Err(word) => return word,
        };
        // What the other had applied when it handed out what is held is committed: this one must have applied
        // it too.
        let resumed = replica.group.read(|machine| {
            machine.shard_copy_resume(shard, copy, held).map(|()| begun(machine, shard, copy))
        });
        match resumed.await {
            Ok(Ok(word)) => {
                self.hold(group, copy, number);
                word
            }
            Ok(Err(ShardCopyRefused::NotExported { .. })) => Word::Ended,
            Ok(Err(refused)) => Word::Busy(refused.to_string()),
            Err(error) => Word::Busy(error.to_string()),
        }
    }

    fn hold(&self, group: GroupId, copy: CopyToken, next: u64) {
        let begun = Copy { group, next, handed: VecDeque::new(), asked: Instant::now() };
        self.lock().insert(copy, begun);
    }

    /// The answer that holds piece `number`; `None` where the copy is not here, or not at that piece.
    ///
    /// Questions overtake each other on their way: those up to `number` are handed out with it, each under a
    /// hold of the machine of its own, and wait to be asked for.
    fn next(&self, token: CopyToken, number: u64, bytes_max: usize) -> Option<Bytes> {
        let mut copies = self.lock();
        let copy = copies.get_mut(&token)?;
        copy.asked = Instant::now();
        if number >= copy.next.saturating_add(WINDOW_PIECES) {
            return None;
        }
        let replica = self.residents.get(copy.group)?;
        let bytes_max = bytes_max.clamp(1, PIECE_BYTES_MAX);
        while copy.next <= number {
            let step = replica.group.read_stale(|machine| machine.shard_copy_next(token, bytes_max)).ok()?;
            copy.keep(&Word::Piece { bytes: step.bytes, remaining: step.remaining, frozen: step.frozen });
        }
        copy.handed(number)
    }

    async fn freeze(&self, group: GroupId, command: MoveCommand<'_>) -> Word {
        let replica = match self.leading(group) {
            Ok(replica) => replica,
            Err(word) => return word,
        };
        let (node, shard) = (replica.group.status().node, command.shard);
        reach(node, shard, Failpoint::BeforeFreeze).await;
        let taken = take(&replica, command).await;
        if taken == Ok(Ok(())) {
            reach(node, shard, Failpoint::Frozen).await;
        }
        match taken {
            Ok(answer) => Word::Taken(answer),
            Err(raftstore::ProposeError::NotLeader { leader, .. }) => Word::NotLeader(leader),
            Err(error) => Word::Busy(error.to_string()),
        }
    }

    fn end(&self, token: CopyToken) {
        let ended = self.lock().remove(&token);
        let replica = ended.and_then(|copy| self.residents.get(copy.group));
        if let Some(replica) = replica {
            replica.group.read_stale(|machine| machine.shard_copy_end(token));
        }
    }

    /// Ends the copies that nobody asks for any more: their destination has lost its leader, or gone on
    /// elsewhere.
    pub(crate) fn end_idle(&self) {
        let idle: Vec<CopyToken> = {
            let copies = self.lock();
            let idle = copies.iter().filter(|(_, copy)| copy.asked.elapsed() >= IDLE_MAX);
            idle.map(|(token, _)| *token).collect()
        };
        idle.into_iter().for_each(|token| self.end(token));
    }
}

/// The answer to whoever is to follow a copy that goes on from here.
fn begun(machine: &KvMachine, shard: ShardId, copy: CopyToken) -> Word {
    let view = machine.shards().find(|view| view.shard == shard);
    let frozen = match machine.lifecycle(shard) {
        ShardState::Frozen { epoch, .. } => Some(epoch),
        _ => None,
    };
    Word::Begun { bytes: view.map_or(0, |view| view.usage.bytes), frozen, copy }
}

/// Forgets what changed in shards since they were exported for moves that are past.
pub(crate) fn settle_exports(residents: &Residents, map: &ClusterMap) {
    for replica in residents.all() {
        replica.group.read_stale(|machine| {
            for (shard, epoch, _) in machine.exports() {
                let listed = |moving: &MoveView| (moving.shard, moving.id) == (shard, epoch);
                if map.shard_map.epoch >= epoch && !map.moves.iter().any(listed) {
                    machine.export_end(shard, epoch);
                }
            }
        });
    }
}

/// What is to become of a shard that `group` froze, as a map says that is no older than the move.
fn ending(
    map: &ClusterMap,
    group: GroupId,
    shard: ShardId,
    state: ShardState,
) -> Option<MoveCommand<'static>> {
    let ShardState::Frozen { epoch, .. } = state else { return None };
    let under_way = map.moves.iter().any(|moving| moving.shard == shard && moving.id == epoch);
    if (map.shard_map.epoch < epoch && !is_on(Mutation::IgnoreEpoch)) || under_way {
        return None;
    }
    let step = match map.shard_map.owner_of(shard)? == group {
        true => MoveStep::Thaw,
        false => MoveStep::Drop,
    };
    Some(MoveCommand { shard, epoch, step })
}

/// Drops or thaws what the groups that this node leads have frozen, where the map says how the moves have
/// ended.
pub(crate) async fn settle_frozen(residents: &Residents, map: &ClusterMap) {
    for replica in residents.all() {
        let group = replica.group.id();
        if !replica.group.leads() {
            continue;
        }
        let endings: Vec<MoveCommand<'static>> = replica.group.read_stale(|machine| {
            machine.shards().filter_map(|view| ending(map, group, view.shard, view.state)).collect()
        });
        let node = replica.group.status().node;
        for command in endings {
            let (shard, epoch) = (command.shard, command.epoch);
            let (step, before, after) = match command.step {
                MoveStep::Thaw => ("thawed", Failpoint::BeforeThaw, Failpoint::Thawed),
                _ => ("dropped", Failpoint::BeforeDrop, Failpoint::Dropped),
            };
            reach(node, shard, before).await;
            // A group that has lost its quorum must not keep the others waiting; the step is taken again.
            let Ok(taken) = timeout(STEP_TIME, take(&replica, command)).await else { continue };
            match taken {
                Ok(Ok(())) => {
                    tracing::info!(step, %group, %shard, id = %epoch, "a move has ended at its source");
                    reach(node, shard, after).await;
                }
                Ok(Err(refused)) => tracing::debug!(%group, %shard, %epoch, %refused, "a move does not end"),
                Err(error) => tracing::debug!(%group, %shard, %epoch, %error, "a move does not end yet"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::{ClusterSettings, MoveState, ShardMap, ShardRun};

    fn map(epoch: u64, owner: u64, moving: Option<u64>) -> ClusterMap {
        let (first, owner) = (ShardId(0), GroupId(owner));
        let runs = vec![ShardRun { first, count: 4, owner, target: GroupId(2) }];
        let moving = moving.map(|id| MoveView {
            shard: ShardId(3),
            from: GroupId(1),
            to: GroupId(2),
            id: Epoch(id),
            state: MoveState::Running,
        });
        ClusterMap {
            shard_map: ShardMap { epoch: Epoch(epoch), shards: 4, runs },
            settings: ClusterSettings {
                moves_paused: false,
                copy_bytes_per_second: None,
                moves_max: 4,
                replicas: 3,
                dead_after_ms: 1,
            },
            nodes: vec![],
            groups: vec![],
            moves: moving.into_iter().collect(),
            setbacks: vec![],
            groups_at_birth: 1,
        }
    }

    /// What was frozen is dropped once the shard is elsewhere, thaws once the move was given up, and stays
    /// while the move goes on or the map is older than it.
    #[test]
    fn maps_say_how_moves_end() {
        let state = ShardState::Frozen { to: GroupId(2), epoch: Epoch(7), since: Epoch(1) };
        let step = |map: ClusterMap| ending(&map, GroupId(1), ShardId(3), state).map(|command| command.step);
        assert_eq!(step(map(6, 1, None)), None);
        assert_eq!(step(map(6, 2, None)), None);
        assert_eq!(step(map(8, 1, Some(7))), None);
        assert_eq!(step(map(8, 1, None)), Some(MoveStep::Thaw));
        assert_eq!(step(map(9, 1, Some(8))), Some(MoveStep::Thaw));
        assert_eq!(step(map(8, 2, None)), Some(MoveStep::Drop));
        let serving = ShardState::Serving { epoch: Epoch(1), fence: Epoch(1) };
        assert_eq!(ending(&map(8, 2, None), GroupId(1), ShardId(3), serving), None);
    }
}
