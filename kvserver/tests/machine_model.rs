//! Properties of the machine over random histories: it agrees with a naive model, and a copy made while it
//! works agrees with it. Owns the model, which keeps whole answers where the machine keeps outcomes, walks
//! over all sessions where the machine keeps them in order, and knows no copies.

mod machine_rig;

use kvserver::machine::bounds::{EXPIRED_PER_COMMAND_MAX, SESSION_TTL_MS, WINDOW};
use kvserver::machine::{KvMachine, Usage};
use machine_rig::owning;
use proptest::prelude::*;
use proto::{
    Answer, ClientId, Code, Command, Epoch, Error, Expect, Operation, Reply, Revision, Sequence, ShardId,
    Stamp, Version,
};
use raftstore::{CopyId, Machine, Moment};
use std::collections::BTreeMap;

/// One step of a random history.
#[derive(Clone, Debug)]
enum Step {
    Write(Write),
    /// The same write so many times, unstamped: more than a shard remembers events.
    Burst(Write, usize),
    /// A command that changes nothing but time.
    Idle,
    /// Time goes on, or the leader's clock goes back.
    Clock(i64),
    CopyBegin,
    /// A step of one of the copies.
    CopyNext(prop::sample::Index, usize),
    CopyEnd(prop::sample::Index),
}

#[derive(Clone, Debug)]
struct Write {
    shard: u32,
    stamp: Option<(u128, u64, u64)>,
    kind: u8,
    key: Vec<u8>,
    value: Vec<u8>,
    expect: Expect,
}

impl Write {
    fn command(&self) -> Vec<u8> {
        let (key, value, expect) = (&self.key[..], &self.value[..], self.expect);
        let operation = match self.kind {
            0 => Operation::Put { key, value, expect },
            1 => Operation::Append { key, value, expect },
            2 => Operation::Delete { key, expect },
            _ => Operation::Get { key },
        };
        let stamp = self.stamp.map(|(client, sequence, lowest_open)| Stamp {
            client: ClientId(client),
            sequence: Sequence(sequence),
            lowest_open: Sequence(lowest_open),
        });
        machine_rig::write(ShardId(self.shard), stamp, operation)
    }
}

fn write() -> impl Strategy<Value = Write> {
    let expect = prop_oneof![
        4 => Just(Expect::Any),
        1 => Just(Expect::Absent),
        1 => Just(Expect::Present),
        2 => (0..4_u64).prop_map(|version| Expect::Version(Version(version))),
    ];
    // Few sequences, so that retries, late ones and lost sessions are all frequent.
    let stamp =
        prop::option::weighted(0.7, (0..6_u128, prop_oneof![8 => 0..8_u64, 1 => 1020..1030_u64], 0..5_u64));
    let key = prop::collection::vec(0..3_u8, 0..3);
    let kind = prop_oneof![4 => Just(0_u8), 3 => Just(1), 3 => Just(2), 1 => Just(3)];
    let value = prop::collection::vec(any::<u8>(), 0..40);
    (0..4_u32, stamp, kind, key, value, expect).prop_map(|(shard, stamp, kind, key, value, expect)| Write {
        shard,
        stamp,
        kind,
        key,
        value,
        expect,
    })
}

fn step() -> impl Strategy<Value = Step> {
    let jump = prop_oneof![
        8 => 0..3000_i64,
        1 => -20_000..0_i64,
        2 => (0..3_i64).prop_map(|hours| hours * SESSION_TTL_MS as i64 / 2),
    ];
    prop_oneof![
        40 => write().prop_map(Step::Write),
        1 => (write(), 250..600_usize).prop_map(|(write, times)| Step::Burst(write, times)),
        1 => Just(Step::Idle),
        6 => jump.prop_map(Step::Clock),
        2 => Just(Step::CopyBegin),
        12 => (any::<prop::sample::Index>(), 0..1500_usize).prop_map(|(which, max)| Step::CopyNext(which, max)),
        1 => any::<prop::sample::Index>().prop_map(Step::CopyEnd),
    ]
}

#[derive(Default)]
struct ModelSession {
    lowest: u64,
    active_s: u64,
    answers: BTreeMap<u64, Vec<u8>>,
}

/// Value, version and the revision of the last change.
type ModelEntry = (Vec<u8>, u64, u64);

/// The machine as its documentation says, without regard to cost.
#[derive(Default)]
struct Model {
    time_ms: u64,
    data: BTreeMap<(u32, Vec<u8>), ModelEntry>,
    revisions: BTreeMap<u32, u64>,
    sessions: BTreeMap<(u32, u128), ModelSession>,
}

impl Model {
    fn apply(&mut self, time_ms: u64, write: &Write) -> Vec<u8> {
        self.tick(time_ms);
        let Some((client, sequence, lowest_open)) = write.stamp else { return self.write(write) };
        if lowest_open < 1 || sequence < lowest_open {
            let message = format!("stamp breaks 1 <= lowest_open <= sequence: {lowest_open}, {sequence}");
            return error(Error::new(Code::BadRequest, message));
        }
        if sequence > lowest_open + WINDOW {
            let message = format!("sequence {sequence} is more than {WINDOW} above {lowest_open}");
            return error(Error::new(Code::SequenceOutOfWindow, message));
        }
        let place = (write.shard, client);
        if lowest_open > 1 && !self.sessions.contains_key(&place) {
            let client = ClientId(client);
            let message =
                format!("session is unknown or was idle for more than {SESSION_TTL_MS} ms: {client}");
            return error(Error::unknown(Code::SessionExpired, message));
        }
        let session = self.sessions.entry(place).or_default();
        session.active_s = self.time_ms / 1000;
        session.lowest = session.lowest.max(lowest_open);
        let lowest = session.lowest;
        session.answers.retain(|sequence, _| *sequence >= lowest);
        if sequence < lowest {
            let message = format!("sequence {sequence} is below {lowest}");
            return error(Error::unknown(Code::SequenceOutOfWindow, message));
        }
        if let Some(answer) = session.answers.get(&sequence) {
            return answer.clone();
        }
        let answer = self.write(write);
        self.sessions.entry(place).or_default().answers.insert(sequence, answer.clone());
        answer
    }

    fn tick(&mut self, time_ms: u64) {
        self.time_ms = self.time_ms.max(time_ms);
        let now = self.time_ms;
        let is_expired = |session: &ModelSession| now >= (session.active_s + 1) * 1000 + SESSION_TTL_MS;
        let expired = self.sessions.iter().filter(|(_, session)| is_expired(session));
        let mut expired: Vec<_> = expired.map(|(&(shard, client), s)| (s.active_s, shard, client)).collect();
        expired.sort_unstable();
        for (_, shard, client) in expired.into_iter().take(EXPIRED_PER_COMMAND_MAX) {
            self.sessions.remove(&(shard, client));
        }
    }

    fn write(&mut self, write: &Write) -> Vec<u8> {
        let place = (write.shard, write.key.clone());
        let before = self.data.get(&place).cloned();
        let current = before.as_ref().map_or(0, |(_, version, _)| *version);
        let holds = match write.expect {
            Expect::Any => true,
            Expect::Absent => current == 0,
            Expect::Present => current != 0,
            Expect::Version(version) => version.0 == current,
        };
        if write.kind > 2 {
            return error(Error::new(Code::BadRequest, "a read does not belong in the log"));
        }
        if !holds {
            let code = Code::VersionMismatch { current: Version(current) };
            let message = format!("condition does not hold, the key is at version {current}");
            return error(Error::new(code, message));
        }
        if write.kind == 2 && before.is_none() {
            return error(Error::new(Code::NotFound, "key does not exist"));
        }
        let revision = self.revisions.entry(write.shard).or_default();
        *revision += 1;
        let revision = *revision;
        if write.kind == 2 {
            self.data.remove(&place);
            return answer(&Ok(Reply::Deleted { revision: Revision(revision) }));
        }
        let mut value = before.map_or(vec![], |(value, _, _)| value);
        if write.kind == 0 {
            value.clear();
        }
        value.extend_from_slice(&write.value);
        let (version, length) = (Version(current + 1), value.len() as u64);
        self.data.insert(place, (value, current + 1, revision));
        answer(&Ok(Reply::Written { version, revision: Revision(revision), length }))
    }

    fn usage(&self) -> Usage {
        Usage {
            keys: self.data.len() as u64,
            bytes: self.data.iter().map(|((_, key), (value, ..))| (key.len() + value.len()) as u64).sum(),
            sessions: self.sessions.len() as u64,
            named_sessions: 0,
            answers: self.sessions.values().map(|session| session.answers.len() as u64).sum(),
        }
    }
}

fn error(error: Error) -> Vec<u8> {
    answer(&Err(error))
}

fn answer(answer: &Answer<'_>) -> Vec<u8> {
    proto::encode(answer)
}

/// The machine under test, beside its model and its copies.
struct Run {
    machine: KvMachine,
    model: Model,
    clock_ms: u64,
    index: u64,
    copies: Vec<(CopyId, Vec<Vec<u8>>)>,
}

impl Run {
    fn new() -> Self {
        let (machine, model) = (owning(KvMachine::new(), 4), Model::default());
        Self { machine, model, clock_ms: 1_800_000_000_000, index: 0, copies: vec![] }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Write(write) => self.write(write),
            Step::Burst(write, times) => {
                let write = Write { stamp: None, ..write.clone() };
                (0..*times).for_each(|_| self.write(&write));
            }
            Step::Idle => {
                self.model.tick(self.clock_ms);
                let (shards, epoch) = ([].into_iter().collect(), Epoch(1));
                self.apply(&proto::encode(&Command::Own { shards, epoch }));
            }
            Step::Clock(jump_ms) => self.clock_ms = self.clock_ms.saturating_add_signed(*jump_ms),
            Step::CopyBegin => {
                if self.copies.len() < 3 {
                    self.copies.push((self.machine.copy_begin(), vec![]));
                }
            }
            Step::CopyNext(which, bytes_max) => {
                if !self.copies.is_empty() {
                    self.copy_next(which.index(self.copies.len()), *bytes_max);
                }
            }
            Step::CopyEnd(which) => {
                if !self.copies.is_empty() {
                    let (copy, _) = self.copies.remove(which.index(self.copies.len()));
                    self.machine.copy_end(copy);
                }
            }
        }
    }

    fn write(&mut self, write: &Write) {
        let answer = self.apply(&write.command());
        assert_eq!(answer, self.model.apply(self.clock_ms, write), "{write:?}");
    }

    fn apply(&mut self, command: &[u8]) -> Vec<u8> {
        self.index += 1;
        self.machine.apply(Moment { index: self.index, time_ms: self.clock_ms }, command).to_vec()
    }

    /// Takes a step of a copy; where nothing remains, what was handed out must be the state as it is now.
    fn copy_next(&mut self, which: usize, bytes_max: usize) -> bool {
        let (copy, pieces) = &mut self.copies[which];
        let step = self.machine.copy_next(*copy, bytes_max);
        // A piece is larger than asked for where its only record is: bursts grow values to tens of thousands of
        // bytes, and sessions of these histories take less than a thousand.
        let longest = self.model.data.iter().map(|((_, key), (value, ..))| key.len() + value.len()).max();
        let most = bytes_max.max(longest.unwrap_or(0) + 1_000);
        assert!(step.bytes.len() <= most, "{} of {bytes_max}, at most {most}", step.bytes.len());
        pieces.push(step.bytes);
        if step.remaining == 0 {
            let copy = loaded(pieces);
            assert_eq!(copy.digest(), self.machine.digest());
            assert_eq!(copy.usage(), self.machine.usage());
        }
        step.remaining == 0
    }

    fn check(&self) {
        assert_eq!(self.machine.usage(), self.model.usage());
        for ((shard, key), (value, version, revision)) in &self.model.data {
            let record = self.machine.get(ShardId(*shard), key).expect("the model has the key");
            assert_eq!(
                (record.value, record.version.0, record.revision.0),
                (&value[..], *version, *revision)
            );
        }
        self.check_scan();
    }

    /// A scan in small pages lists what the model lists in one.
    fn check_scan(&self) {
        let prefix: &[u8] = &[1];
        let mut wanted: Vec<_> = self.model.data.keys().map(|(_, key)| key.clone()).collect();
        wanted.retain(|key| key.starts_with(prefix));
        wanted.sort_unstable();
        // Histories put the same key into several shards, which only a broken caller would: then a page that
        // ends between them skips the second.
        wanted.dedup();
        let mut seen: Vec<Vec<u8>> = vec![];
        loop {
            let after = seen.last().map(Vec::as_slice);
            let operation = Operation::Scan { prefix, after, start: b"", limit: 7, bytes_max: 100 };
            let Ok(Reply::Share { records, more, .. }) = self.machine.query(&operation, 4) else {
                panic!("a share")
            };
            let keys: Vec<_> = records.iter().map(|record| record.key.to_vec()).collect();
            assert!(!more || !keys.is_empty());
            seen.extend(keys);
            seen.dedup();
            if !more {
                break;
            }
        }
        assert_eq!(seen, wanted);
    }
}

fn loaded(pieces: &[Vec<u8>]) -> KvMachine {
    let mut machine = KvMachine::new();
    pieces.iter().for_each(|piece| machine.load(piece).expect("the pieces of a copy load"));
    machine
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Over random histories the machine gives the model's answers, byte for byte, and holds what it holds.
    #[test]
    fn the_machine_agrees_with_the_model(steps in prop::collection::vec(step(), 1..400)) {
        let mut run = Run::new();
        for step in &steps {
            run.take(step);
        }
        run.check();
    }

    /// A copy made while random writes go on is exact whenever nothing remains, and a machine loaded from it
    /// then answers any further history, late retries and expiry included, as the original does.
    #[test]
    fn a_copy_is_exact_and_goes_on_alike(
        before in prop::collection::vec(step(), 0..200),
        during in prop::collection::vec(step(), 0..200),
        sizes in prop::collection::vec(0..3000_usize, 1..8),
        after in prop::collection::vec(step(), 0..200),
    ) {
        let mut run = Run::new();
        run.take(&Step::CopyBegin);
        before.iter().for_each(|step| run.take(step));
        run.copies.push((run.machine.copy_begin(), vec![]));
        let last = run.copies.len() - 1;
        let mut sizes = sizes.iter().cycle();
        for step in during.iter().filter(|step| !matches!(step, Step::CopyEnd(_))) {
            run.take(step);
            run.copy_next(last, *sizes.next().unwrap());
        }
        while !run.copy_next(last, *sizes.next().unwrap()) {}
        let mut twin = loaded(&run.copies[last].1);
        for step in &after {
            if let Step::Write(write) = step {
                let command = write.command();
                let at = Moment { index: 1, time_ms: run.clock_ms };
                prop_assert_eq!(twin.apply(at, &command), run.machine.apply(at, &command));
            } else if let Step::Clock(_) = step {
                run.take(step);
            }
        }
        prop_assert_eq!(twin.digest(), run.machine.digest());
    }
}
