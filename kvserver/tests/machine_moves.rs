//! Shards move between two machines, driven as a driver would that forgets all it knew at any moment, over a
//! network that loses, repeats and reorders every step, while clients write and machines are replaced by
//! copies of themselves.
//!
//! Owns the driver, which is pure: what it does next it reads off the two machines. The model is a third
//! machine that serves all shards and never moves any: whatever is answered elsewhere, it must answer byte
//! for byte.

mod machine_rig;

use kvserver::machine::KvMachine;
use machine_rig::{owning, write};
use proptest::prelude::*;
use proptest::sample::Index;
use proto::{
    Answer, ClientId, Code, Command, CopyToken, Epoch, Expect, GroupId, LifecycleAnswer, LifecycleError,
    MoveCommand, MoveStep, Operation, PieceEnd, Revision, Sequence, ShardId, ShardState, Stamp, Version,
};
use raftstore::{CopyId, Machine, Moment};
use std::collections::{BTreeMap, BTreeSet};

const SHARDS: u32 = 2;

/// What happens next.
#[derive(Clone, Debug)]
enum Event {
    /// A client sends its next write, or one without a stamp.
    Write(Write),
    /// A write that was ever sent arrives at one of the machines, whichever serves its shard.
    Arrive(Index, usize),
    /// The controller has a shard move to the other machine.
    Move(u32),
    /// The controller calls a shard's move off.
    Cancel(u32),
    /// The driver of a shard's move looks at it and proposes the next steps, which arrive at once or later.
    Drive(u32, usize, bool),
    /// A step that was ever proposed arrives, once more perhaps.
    Step(Index),
    /// The driver of a shard's move is another from now on.
    Successor(u32),
    /// A group is led by its other replica from now on, and nobody asks the former leader for anything again.
    Lead(usize),
    /// The replica of a group that does not lead restarts from a snapshot: what it noted is gone.
    RestartFollower(usize),
    /// A machine is replaced by one loaded from a copy of it.
    Restart(usize, usize),
    /// The next piece of a copy of a machine that is made all the while.
    Snapshot(usize, usize),
    /// Time goes on for one machine.
    Clock(usize, u64),
}

#[derive(Clone, Debug)]
struct Write {
    shard: u32,
    client: Option<u128>,
    kind: u8,
    key: Vec<u8>,
    value: Vec<u8>,
    expect: Expect,
}

fn event() -> impl Strategy<Value = Event> {
    let expect = prop_oneof![
        5 => Just(Expect::Any),
        1 => Just(Expect::Absent),
        1 => (0..4_u64).prop_map(|version| Expect::Version(Version(version))),
    ];
    let key = prop::collection::vec(0..3_u8, 0..3);
    let value = prop::collection::vec(any::<u8>(), 0..20);
    let write = (0..SHARDS, prop::option::weighted(0.8, 0..3_u128), 0..3_u8, key, value, expect);
    let write = write.prop_map(|(shard, client, kind, key, value, expect)| {
        Event::Write(Write { shard, client, kind, key, value, expect })
    });
    prop_oneof![
        8 => write,
        14 => (any::<Index>(), 0..2_usize).prop_map(|(which, at)| Event::Arrive(which, at)),
        4 => (0..SHARDS).prop_map(Event::Move),
        2 => (0..SHARDS).prop_map(Event::Cancel),
        40 => (0..SHARDS, 0..250_usize, prop::bool::weighted(0.7))
            .prop_map(|(shard, bytes_max, at_once)| Event::Drive(shard, bytes_max, at_once)),
        14 => any::<Index>().prop_map(Event::Step),
        2 => (0..SHARDS).prop_map(Event::Successor),
        1 => (0..2_usize, 1..500_usize).prop_map(|(at, bytes_max)| Event::Restart(at, bytes_max)),
        3 => (0..2_usize).prop_map(Event::Lead),
        1 => (0..2_usize).prop_map(Event::RestartFollower),
        6 => (0..2_usize, 1..500_usize).prop_map(|(at, bytes_max)| Event::Snapshot(at, bytes_max)),
        2 => (0..2_usize, 0..2000_u64).prop_map(|(at, jump_ms)| Event::Clock(at, jump_ms)),
    ]
}

/// A write that was sent: its shard, its bytes.
type Sent = (ShardId, Vec<u8>);

/// What a client has written to one shard.
#[derive(Default)]
struct Client {
    sent: u64,
    open: BTreeSet<u64>,
}

/// A move that the controller wants.
struct Move {
    epoch: Epoch,
    from: usize,
    to: usize,
    cancelling: bool,
    copy: Option<Copying>,
}

/// What a driver remembers of the copy that it makes.
struct Copying {
    token: CopyToken,
    /// The number of `piece`.
    number: u64,
    piece: Vec<u8>,
    end: PieceEnd,
    remaining: u64,
}

struct World {
    machines: [KvMachine; 2],
    /// The other replica of each group: whatever is applied to one is applied to the other.
    followers: [KvMachine; 2],
    /// The index of the last entry of each group's log.
    indexes: [u64; 2],
    /// How many copies were gone on with by another replica.
    resumed: u64,
    clocks: [u64; 2],
    model: KvMachine,
    epoch: u64,
    owners: BTreeMap<ShardId, usize>,
    moves: BTreeMap<ShardId, Move>,
    /// Every step that was ever proposed, and to whom.
    steps: Vec<(usize, Vec<u8>)>,
    clients: BTreeMap<(u128, ShardId), Client>,
    writes: Vec<Sent>,
    snapshots: [(CopyId, Vec<Vec<u8>>); 2],
}

/// What is loaded from a copy of a machine.
fn loaded(machine: &mut KvMachine, bytes_max: usize) -> KvMachine {
    let copy = machine.copy_begin();
    let mut loaded = KvMachine::new();
    loop {
        let step = machine.copy_next(copy, bytes_max);
        loaded.load(&step.bytes).expect("the pieces of a copy load");
        if step.remaining == 0 {
            break;
        }
    }
    machine.copy_end(copy);
    assert_eq!(loaded.digest(), machine.digest());
    loaded
}

fn group(at: usize) -> GroupId {
    GroupId(at as u64 + 1)
}

impl World {
    /// The first machine serves all shards but the last, which the second one serves.
    fn new() -> Self {
        let owners: BTreeMap<ShardId, usize> =
            (0..SHARDS).map(|shard| (ShardId(shard), usize::from(shard + 1 == SHARDS))).collect();
        let mut machines = [KvMachine::new(), KvMachine::new()];
        let mut followers = [KvMachine::new(), KvMachine::new()];
        for at in 0..2 {
            let shards = owners.iter().filter(|(_, owner)| **owner == at).map(|(shard, _)| *shard).collect();
            let command = proto::encode(&Command::Own { shards, epoch: Epoch(1) });
            machines[at].apply(Moment { index: 0, time_ms: 0 }, &command);
            followers[at].apply(Moment { index: 0, time_ms: 0 }, &command);
        }
        let snapshots = [0, 1].map(|at: usize| (machines[at].copy_begin(), vec![]));
        Self {
            machines,
            followers,
            indexes: [0, 0],
            resumed: 0,
            clocks: [1_000_000_000, 7_000_500],
            model: owning(KvMachine::new(), SHARDS),
            epoch: 1,
            owners,
            moves: BTreeMap::new(),
            steps: vec![],
            clients: BTreeMap::new(),
            writes: vec![],
            snapshots,
        }
    }

    fn take(&mut self, event: &Event) {
        match event {
            Event::Write(write) => self.send(write),
            Event::Arrive(which, at) => {
                if !self.writes.is_empty() {
                    self.arrive(which.index(self.writes.len()), *at);
                }
            }
            Event::Move(shard) => self.start(ShardId(*shard)),
            Event::Cancel(shard) => {
                if let Some(moving) = self.moves.get_mut(&ShardId(*shard)) {
                    moving.cancelling = true;
                }
            }
            Event::Drive(shard, bytes_max, at_once) => self.drive(ShardId(*shard), *bytes_max, *at_once),
            Event::Step(which) => {
                if !self.steps.is_empty() {
                    self.deliver(which.index(self.steps.len()));
                }
            }
            Event::Successor(shard) => {
                if let Some(moving) = self.moves.get_mut(&ShardId(*shard)) {
                    moving.copy = None;
                }
            }
            Event::Restart(at, bytes_max) => self.restart(*at, *bytes_max),
            Event::Lead(at) => self.lead(*at),
            Event::RestartFollower(at) => self.followers[*at] = loaded(&mut self.machines[*at], 500),
            Event::Snapshot(at, bytes_max) => self.snapshot(*at, *bytes_max),
            Event::Clock(at, jump_ms) => self.clocks[*at] += jump_ms,
        }
        self.check();
    }

    /// At no time two machines serve a shard.
    fn check(&self) {
        for shard in (0..SHARDS).map(ShardId) {
            let serving = self.serving(shard);
            assert!(serving.len() <= 1, "{shard} is served by {serving:?}");
        }
    }

    fn serving(&self, shard: ShardId) -> Vec<usize> {
        let serves = |at: &usize| matches!(self.machines[*at].lifecycle(shard), ShardState::Serving { .. });
        (0..2).filter(serves).collect()
    }

    fn send(&mut self, written: &Write) {
        let shard = ShardId(written.shard);
        let (key, value, expect) = (&written.key[..], &written.value[..], written.expect);
        let operation = match written.kind {
            0 => Operation::Put { key, value, expect },
            1 => Operation::Append { key, value, expect },
            _ => Operation::Delete { key, expect },
        };
        let stamp = written.client.map(|client| {
            let sender = self.clients.entry((client, shard)).or_default();
            sender.sent += 1;
            sender.open.insert(sender.sent);
            let lowest_open = sender.open.first().copied().expect("one is open");
            Stamp {
                client: ClientId(client),
                sequence: Sequence(sender.sent),
                lowest_open: Sequence(lowest_open),
            }
        });
        self.writes.push((shard, write(shard, stamp, operation)));
    }

    /// A machine either does not serve the shard, or answers as one that always did.
    fn arrive(&mut self, which: usize, at: usize) {
        let (shard, bytes) = self.writes[which].clone();
        let serves = self.serving(shard) == [at];
        let before = self.machines[at].usage();
        let answer = self.apply(at, &bytes);
        if !serves {
            let refused = proto::decode::<Answer<'_>>(&answer)
                .expect("an answer is well formed")
                .expect_err("it is not served here");
            let Code::WrongGroup { shard: of, epoch, .. } = refused.code else { panic!("{refused:?}") };
            assert!(of == shard && epoch.0 <= self.epoch && refused.retryable());
            assert_eq!((refused.outcome, self.machines[at].usage()), (proto::Outcome::None, before));
            return;
        }
        assert_eq!(answer, self.model.apply(Moment { index: 1, time_ms: 1 }, &bytes));
        let Ok(Command::Write(proto::Write { stamp: Some(stamp), .. })) = proto::decode(&bytes) else {
            return;
        };
        let sender = self.clients.get_mut(&(stamp.client.0, shard)).expect("it has sent");
        sender.open.remove(&stamp.sequence.0);
    }

    /// Both replicas of a group apply the next entry of its log.
    fn apply(&mut self, at: usize, bytes: &[u8]) -> bytes::Bytes {
        self.indexes[at] += 1;
        let moment = Moment { index: self.indexes[at], time_ms: self.clocks[at] };
        let answer = self.machines[at].apply(moment, bytes);
        assert_eq!(answer, self.followers[at].apply(moment, bytes));
        answer
    }

    /// The other replica leads. What is made all the while of the one that led before begins anew.
    fn lead(&mut self, at: usize) {
        std::mem::swap(&mut self.machines[at], &mut self.followers[at]);
        self.snapshots[at] = (self.machines[at].copy_begin(), vec![]);
        for moving in self.moves.values_mut().filter(|moving| moving.from == at || moving.to == at) {
            moving.copy = None;
        }
    }

    fn start(&mut self, shard: ShardId) {
        let from = self.owners[&shard];
        if !self.moves.contains_key(&shard) {
            self.epoch += 1;
            let epoch = Epoch(self.epoch);
            let moving = Move { epoch, from, to: 1 - from, cancelling: false, copy: None };
            self.moves.insert(shard, moving);
        }
    }

    /// Sends a step on its way; it arrives now, or later, or never.
    fn propose(&mut self, at: usize, shard: ShardId, epoch: Epoch, step: MoveStep<'_>, at_once: bool) {
        self.steps.push((at, proto::encode(&Command::Move(MoveCommand { shard, epoch, step }))));
        if at_once {
            self.deliver(self.steps.len() - 1);
        }
    }

    /// Steps are taken, were taken, or are refused: never for what their bytes are.
    fn deliver(&mut self, which: usize) {
        let (at, bytes) = self.steps[which].clone();
        let answer = self.apply(at, &bytes);
        let answer = proto::decode::<LifecycleAnswer>(&answer).expect("an answer is well formed");
        let is_malformed =
            matches!(answer, Err(LifecycleError::Piece { .. } | LifecycleError::Invalid { .. }));
        assert!(!is_malformed, "{answer:?}");
    }

    /// Looks at both machines and proposes what is next.
    fn drive(&mut self, shard: ShardId, bytes_max: usize, at_once: bool) {
        let Some(moving) = self.moves.get(&shard) else { return };
        let Move { epoch, from, to, cancelling, .. } = *moving;
        let (source, destination) =
            (self.machines[from].lifecycle(shard), self.machines[to].lifecycle(shard));
        if destination.arrived_with(epoch) {
            match source {
                ShardState::Dropped { .. } => {
                    self.owners.insert(shard, to);
                    self.moves.remove(&shard);
                }
                _ => self.propose(from, shard, epoch, MoveStep::Drop, at_once),
            }
        } else if destination == (ShardState::Aborted { epoch }) {
            match source {
                ShardState::Serving { fence, .. } if fence == epoch => drop(self.moves.remove(&shard)),
                _ => self.propose(from, shard, epoch, MoveStep::Thaw, at_once),
            }
        } else if cancelling {
            self.propose(to, shard, epoch, MoveStep::Abort, at_once);
        } else {
            self.copy(shard, bytes_max, at_once);
        }
    }

    /// Goes on with the copy, or begins another.
    fn copy(&mut self, shard: ShardId, bytes_max: usize, at_once: bool) {
        let moving = &self.moves[&shard];
        let (epoch, from, to) = (moving.epoch, moving.from, moving.to);
        let state = self.machines[to].lifecycle(shard);
        let Some(copying) = &moving.copy else {
            if let ShardState::Importing { copy, next, complete: false, .. } = state
                && state.epoch() == epoch
                && self.resume(shard, copy, next, bytes_max)
            {
                return;
            }
            self.propose(from, shard, epoch, MoveStep::Export, true);
            let exports = self.machines[from].exports();
            let exported = exports.into_iter().find(|(of, by, _)| (*of, *by) == (shard, epoch));
            let Some((_, _, token)) = exported else { return };
            self.machines[from].shard_copy_begin(shard, token).expect("the source holds the shard");
            self.next_piece(shard, token, 0, bytes_max);
            return self.propose(
                to,
                shard,
                epoch,
                MoveStep::ImportBegin { from: group(from), copy: token },
                at_once,
            );
        };
        let token = copying.token;
        match state {
            ShardState::Importing { copy, next, complete, .. } if copy == token => {
                let (number, end, remaining) = (copying.number, copying.end, copying.remaining);
                if complete {
                    self.propose(to, shard, epoch, MoveStep::Activate { copy }, at_once);
                } else if next > number {
                    // A driver in a hurry freezes early; what it proposes may also be lost.
                    if remaining < 500 || bytes_max.is_multiple_of(7) {
                        self.propose(from, shard, epoch, MoveStep::Freeze { to: group(to) }, at_once);
                    }
                    self.next_piece(shard, token, next, bytes_max);
                } else if next == number {
                    let bytes = copying.piece.clone();
                    let step = MoveStep::ImportPiece { copy, number, end, bytes: &bytes };
                    self.propose(to, shard, epoch, step, at_once);
                } else {
                    // The destination began the same copy anew: pieces before this one are gone.
                    self.end_copy(shard);
                }
            }
            ShardState::Importing { .. } => self.end_copy(shard),
            _ => {
                self.propose(
                    to,
                    shard,
                    epoch,
                    MoveStep::ImportBegin { from: group(from), copy: token },
                    at_once,
                );
            }
        }
    }

    /// Goes on with a copy that the destination knows and this driver does not: behind two empty pieces, so
    /// that no piece that was ever handed out for it is taken in any more.
    fn resume(&mut self, shard: ShardId, copy: CopyToken, next: u64, bytes_max: usize) -> bool {
        let moving = &self.moves[&shard];
        let (epoch, from, to) = (moving.epoch, moving.from, moving.to);
        for number in [next, next + 1] {
            let step = MoveStep::ImportPiece { copy, number, end: PieceEnd::More, bytes: b"" };
            self.propose(to, shard, epoch, step, true);
        }
        let held = self.machines[to].held(shard);
        if self.machines[from].shard_copy_resume(shard, copy, &held).is_err() {
            return false;
        }
        self.resumed += 1;
        self.next_piece(shard, copy, next + 2, bytes_max);
        true
    }

    fn end_copy(&mut self, shard: ShardId) {
        let moving = self.moves.get_mut(&shard).expect("it moves");
        let token = moving.copy.take().expect("it is copied").token;
        self.machines[moving.from].shard_copy_end(token);
    }

    fn next_piece(&mut self, shard: ShardId, token: CopyToken, number: u64, bytes_max: usize) {
        let moving = self.moves.get_mut(&shard).expect("it moves");
        let Ok(step) = self.machines[moving.from].shard_copy_next(token, bytes_max) else {
            moving.copy = None;
            return;
        };
        let end = match (step.remaining, step.frozen == Some(moving.epoch)) {
            (0, true) if bytes_max.is_multiple_of(2) => PieceEnd::Activate,
            (0, true) => PieceEnd::Last,
            _ => PieceEnd::More,
        };
        moving.copy = Some(Copying { token, number, piece: step.bytes, end, remaining: step.remaining });
    }

    fn restart(&mut self, at: usize, bytes_max: usize) {
        let mut machine = loaded(&mut self.machines[at], bytes_max);
        self.snapshots[at] = (machine.copy_begin(), vec![]);
        self.machines[at] = machine;
    }

    /// A copy made all the while is exact whenever nothing remains of it.
    fn snapshot(&mut self, at: usize, bytes_max: usize) {
        let (copy, pieces) = &mut self.snapshots[at];
        let step = self.machines[at].copy_next(*copy, bytes_max);
        pieces.push(step.bytes);
        if step.remaining == 0 {
            let mut loaded = KvMachine::new();
            pieces.iter().for_each(|piece| loaded.load(piece).expect("the pieces of a copy load"));
            assert_eq!(loaded.digest(), self.machines[at].digest());
            assert_eq!(loaded.usage(), self.machines[at].usage());
        }
    }

    /// Everything comes to its end: moves arrive or are called off, and all writes are answered.
    fn end(&mut self) {
        for shard in (0..SHARDS).map(ShardId) {
            let mut left = 10_000;
            while self.moves.contains_key(&shard) {
                self.drive(shard, 200, true);
                self.check();
                left -= 1;
                assert!(left > 0, "the move of {shard} never ends");
            }
            assert_eq!(self.serving(shard), [self.owners[&shard]]);
        }
        for which in 0..self.writes.len() {
            self.arrive(which, self.owners[&self.writes[which].0]);
        }
        assert!(self.clients.values().all(|client| client.open.is_empty()));
        self.compare();
        for at in 0..2 {
            assert_eq!(self.machines[at].digest(), self.followers[at].digest());
        }
        // What is past does nothing any more, in whatever order it comes.
        let before = [0, 1].map(|at: usize| self.states(at));
        (0..self.steps.len()).rev().for_each(|which| self.deliver(which));
        assert_eq!([0, 1].map(|at: usize| self.states(at)), before);
        self.compare();
    }

    fn states(&self, at: usize) -> Vec<ShardState> {
        (0..SHARDS).map(|shard| self.machines[at].lifecycle(ShardId(shard))).collect()
    }

    /// Each shard is, wherever it is, what it is in the model, and nowhere else anything is held of it.
    fn compare(&self) {
        for (&shard, &owner) in &self.owners {
            let view = |machine: &KvMachine| machine.shards().find(|view| view.shard == shard);
            let of = |machine: &KvMachine| view(machine).map(|view| (view.revision, view.usage));
            assert_eq!(of(&self.machines[owner]), of(&self.model));
            let elsewhere = view(&self.machines[1 - owner]).map(|view| view.usage).unwrap_or_default();
            assert_eq!(elsewhere, Default::default());
            let keys = (0..3_u8).flat_map(|a| (0..3_u8).map(move |b| vec![a, b]));
            let keys = keys.chain((0..3_u8).map(|a| vec![a])).chain([vec![]]);
            for key in keys {
                assert_eq!(self.machines[owner].get(shard, &key), self.model.get(shard, &key));
            }
            let events = |machine: &KvMachine| -> Option<Vec<_>> {
                let events = machine.events_after(shard, Revision(0))?;
                Some(events.map(|event| (event.revision, event.change, event.key.to_vec())).collect())
            };
            assert_eq!(events(&self.machines[owner]), events(&self.model));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the network, drivers and restarts do: no shard is ever served twice, in the end each is
    /// served once with just what was written to it, every stamped write took effect once, and whoever
    /// retries hears the same from the new owner.
    #[test]
    fn shards_move_whole(events in prop::collection::vec(event(), 1..600)) {
        let mut world = World::new();
        events.iter().for_each(|event| world.take(event));
        world.end();
    }
}

/// The driver of these tests gets shards across within a few hundred events, so that the property above is
/// about moves that arrive and not only about such that begin.
#[test]
fn moves_arrive() {
    let mut world = World::new();
    let write = |key: u8| Write {
        shard: 0,
        client: Some(1),
        kind: 0,
        key: vec![key],
        value: vec![7; 100],
        expect: Expect::Any,
    };
    for round in 0..4 {
        world.take(&Event::Write(write(round % 3)));
        let owner = world.owners[&ShardId(0)];
        world.arrive(usize::from(round), owner);
        world.take(&Event::Move(0));
        (0..30).for_each(|_| world.take(&Event::Drive(0, 100, true)));
        assert_eq!((world.serving(ShardId(0)), world.moves.len()), (vec![1 - owner], 0));
    }
    world.end();
}

/// A source's other replica goes on with a copy, whatever changed meanwhile on either side of what was handed
/// out: keys written, gone, come and gone again, and it is taken in whole.
#[test]
fn another_replica_goes_on() {
    let write = |kind: u8, key: &[u8], fill: u8| Write {
        shard: 0,
        client: Some(u128::from(fill)),
        kind,
        key: key.to_vec(),
        value: vec![fill; 60],
        expect: Expect::Any,
    };
    let mut world = World::new();
    let put = |world: &mut World, written: Write| {
        world.take(&Event::Write(written));
        world.arrive(world.writes.len() - 1, 0);
    };
    for key in 0..3_u8 {
        (0..3_u8).for_each(|second| put(&mut world, write(0, &[key, second], 1)));
    }
    world.take(&Event::Move(0));
    // ImportBegin, then pieces of a record or two each.
    (0..9).for_each(|_| world.take(&Event::Drive(0, 101, true)));
    let ShardState::Importing { next, copy, .. } = world.machines[1].lifecycle(ShardId(0)) else {
        panic!("it comes in")
    };
    assert!((2..8).contains(&next), "it came in in part: {next}");
    put(&mut world, write(2, &[0, 0], 2));
    put(&mut world, write(0, &[0, 1], 2));
    put(&mut world, write(0, &[0], 2));
    put(&mut world, write(2, &[0], 2));
    put(&mut world, write(2, &[2, 2], 2));
    put(&mut world, write(0, &[2], 2));
    world.take(&Event::Lead(0));
    (0..200).for_each(|_| world.take(&Event::Drive(0, 101, true)));
    assert_eq!((world.resumed, world.serving(ShardId(0)), world.moves.len()), (1, vec![1], 0), "{copy}");
    world.end();

    // A replica that was loaded meanwhile knows nothing of what changed, and says so.
    world.take(&Event::Move(0));
    (0..9).for_each(|_| world.take(&Event::Drive(0, 101, true)));
    world.take(&Event::RestartFollower(1));
    world.take(&Event::Lead(1));
    (0..200).for_each(|_| world.take(&Event::Drive(0, 101, true)));
    assert_eq!((world.resumed, world.serving(ShardId(0)), world.moves.len()), (1, vec![0], 0));
    world.end();
}
