//! The machine's rules, one by one. This file owns the rig that the tests share; properties over random
//! histories are in the crate's `tests/` folder.

mod copies;
mod format;
mod lifecycle;
mod reads;
mod sessions;
mod writes;

use super::idleness::IdleSessions;
use super::*;
use proto::{ClientId, Epoch, Expect, LifecycleAnswer, Sequence, Stamp, Version};

pub(super) const S0: ShardId = ShardId(0);

/// A machine with its log position and clock.
pub(super) struct Rig {
    pub(super) machine: KvMachine,
    pub(super) time_ms: u64,
    index: u64,
}

impl Rig {
    pub(super) fn new() -> Self {
        Self::over(owning_all())
    }

    pub(super) fn over(machine: KvMachine) -> Self {
        Self { time_ms: machine.time_ms().max(1_000_000), machine, index: 0 }
    }

    pub(super) fn apply(&mut self, shard: ShardId, stamp: Option<Stamp>, operation: Operation<'_>) -> Bytes {
        self.apply_bytes(&proto::encode(&Command::Write(Write { shard, stamp, operation })))
    }

    pub(super) fn apply_bytes(&mut self, command: &[u8]) -> Bytes {
        self.index += 1;
        let answer = self.machine.apply(Moment { index: self.index, time_ms: self.time_ms }, command);
        check(&self.machine);
        answer
    }

    /// Applies a command that changes nothing by itself.
    pub(super) fn pass_time(&mut self) {
        self.apply_bytes(&proto::encode(&Command::Own { shards: ShardSet::default(), epoch: Epoch(1) }));
    }

    /// An unstamped write to shard 0.
    pub(super) fn write(&mut self, operation: Operation<'_>) -> Bytes {
        self.apply(S0, None, operation)
    }

    /// A stamped append of one byte to key `k` of shard 0.
    pub(super) fn stamped(&mut self, client: u128, sequence: u64, lowest_open: u64) -> Bytes {
        self.apply(S0, Some(stamp(client, sequence, lowest_open)), append(b"k", b"x"))
    }

    /// The value of `key` in shard 0.
    pub(super) fn value(&self, key: &[u8]) -> Option<&[u8]> {
        self.machine.get(S0, key).map(|record| record.value)
    }
}

/// A machine that serves as many shards as these tests use.
pub(super) fn owning_all() -> KvMachine {
    owning(KvMachine::new(), 0..256)
}

/// A machine that now serves these shards, too.
pub(super) fn owning(mut machine: KvMachine, shards: impl IntoIterator<Item = u32>) -> KvMachine {
    let shards = shards.into_iter().map(ShardId).collect();
    let command = proto::encode(&Command::Own { shards, epoch: Epoch(1) });
    let answer = machine.apply(Moment { index: 0, time_ms: 0 }, &command);
    assert_eq!(proto::decode::<LifecycleAnswer>(&answer), Ok(Ok(())));
    machine
}

pub(super) fn stamp(client: u128, sequence: u64, lowest_open: u64) -> Stamp {
    Stamp { client: ClientId(client), sequence: Sequence(sequence), lowest_open: Sequence(lowest_open) }
}

pub(super) fn put<'a>(key: &'a [u8], value: &'a [u8]) -> Operation<'a> {
    Operation::Put { key, value, expect: Expect::Any }
}

pub(super) fn append<'a>(key: &'a [u8], value: &'a [u8]) -> Operation<'a> {
    Operation::Append { key, value, expect: Expect::Any }
}

pub(super) fn delete(key: &[u8]) -> Operation<'_> {
    Operation::Delete { key, expect: Expect::Any }
}

/// Version, revision and length of a write that took effect.
pub(super) fn written(answer: &[u8]) -> (u64, u64, u64) {
    match proto::decode::<Answer<'_>>(answer).unwrap() {
        Ok(Reply::Written { version, revision, length }) => (version.0, revision.0, length),
        other => panic!("not written: {other:?}"),
    }
}

/// The error of a write that was refused.
pub(super) fn refused(answer: &[u8]) -> Error {
    proto::decode::<Answer<'_>>(answer).unwrap().expect_err("the write was carried out")
}

/// All pieces of a whole copy, begun and ended here.
pub(super) fn pieces(machine: &mut KvMachine, bytes_max: usize) -> Vec<Vec<u8>> {
    let copy = machine.copy_begin();
    let pieces = rest_of(machine, copy, bytes_max);
    machine.copy_end(copy);
    pieces
}

/// The pieces of a copy that are left.
pub(super) fn rest_of(machine: &mut KvMachine, copy: CopyId, bytes_max: usize) -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    loop {
        let step = machine.copy_next(copy, bytes_max);
        pieces.push(step.bytes);
        if step.remaining == 0 {
            return pieces;
        }
    }
}

/// A machine made of pieces.
pub(super) fn loaded(pieces: &[Vec<u8>]) -> KvMachine {
    let mut machine = KvMachine::new();
    pieces.iter().for_each(|piece| machine.load(piece).unwrap());
    check(&machine);
    machine
}

/// Everything derived agrees with what it is derived from.
pub(super) fn check(machine: &KvMachine) {
    let mut total = Usage::default();
    let mut idleness = Idleness::default();
    for (&id, shard) in &machine.shards {
        let bytes = shard.data.iter().map(|(key, entry)| key.len() + entry.value.len()).sum::<usize>();
        let usage = Usage {
            keys: shard.data.len() as u64,
            bytes: bytes as u64,
            sessions: shard.sessions.len() as u64,
            named_sessions: shard.sessions.keys().filter(|client| client.is_named()).count() as u64,
            answers: shard.sessions.values().map(|session| session.answers()).sum(),
        };
        assert_eq!(shard.usage, usage);
        total.exchange(Usage::default(), usage);
        let mut idle = IdleSessions::default();
        for (&client, session) in &shard.sessions {
            let order = if client.is_named() { &mut idle.named } else { &mut idle.others };
            order.insert((session.active_s(), client));
        }
        assert_eq!(shard.idle, idle);
        if !matches!(shard.state, ShardState::Frozen { .. }) {
            idleness.named.extend(idle.named.first().map(|(active_s, _)| (*active_s, id)));
            idleness.others.extend(idle.others.first().map(|(active_s, _)| (*active_s, id)));
        }
        let holds_nothing = matches!(shard.state, ShardState::Dropped { .. } | ShardState::Aborted { .. });
        assert!(!holds_nothing || (usage == Usage::default() && shard.events.revision() == Revision(0)));
        assert_ne!(shard.state, ShardState::Absent);
        // What changed last comes in first, its revision behind it.
        let is_on_its_way = matches!(shard.state, ShardState::Importing { .. });
        assert!(shard.data.values().all(|entry| entry.version > Version(0)
            && entry.created <= entry.modified
            && (is_on_its_way || entry.modified <= shard.events.revision())));
    }
    assert_eq!(machine.total, total);
    assert_eq!(machine.idleness, idleness);
}
