//! Shards come and go: which step is taken in which state, who is served, and what is forgotten.

use super::super::bounds::{KEY_BYTES_MAX, SESSION_IDLE_MIN_MS, SESSION_TTL_MS, SHARDS_MAX};
use super::super::piece::{StateRecord, VERSION};
use super::super::shard_copy::{EXPORT_BYTES_MAX, Held};
use super::copies::records_of;
use super::*;
use proto::{CopyToken, GroupId, LifecycleError, MoveCommand, MoveStep, Outcome as Effect, PieceEnd};

const HERE: GroupId = GroupId(1);
const THERE: GroupId = GroupId(2);
const ONE: CopyToken = CopyToken(1);
const TWO: CopyToken = CopyToken(2);

impl Rig {
    /// A machine that knows of no shard.
    fn empty() -> Self {
        Self::over(KvMachine::new())
    }

    /// Takes a step of shard 0's move `epoch`.
    pub(super) fn step(&mut self, epoch: u64, step: MoveStep<'_>) -> LifecycleAnswer {
        let command = Command::Move(MoveCommand { shard: S0, epoch: Epoch(epoch), step });
        proto::decode(&self.apply_bytes(&proto::encode(&command))).unwrap()
    }

    fn state(&self) -> ShardState {
        self.machine.lifecycle(S0)
    }

    /// All pieces of a copy of shard 0 that are left.
    fn rest_of_shard(&self, copy: CopyToken, bytes_max: usize) -> Vec<Vec<u8>> {
        let mut pieces = Vec::new();
        loop {
            let step = self.machine.shard_copy_next(copy, bytes_max).unwrap();
            pieces.push(step.bytes);
            if step.remaining == 0 {
                return pieces;
            }
        }
    }

    /// Moves shard 0 to another machine, from freezing it to serving it there.
    fn hand_over(&mut self, to: &mut Rig, epoch: u64) {
        let copy = CopyToken(epoch);
        self.step(epoch, MoveStep::Freeze { to: THERE }).unwrap();
        self.machine.shard_copy_begin(S0, copy).unwrap();
        to.step(epoch, MoveStep::ImportBegin { from: HERE, copy }).unwrap();
        let pieces = self.rest_of_shard(copy, 300);
        for (number, bytes) in (0..).zip(&pieces) {
            let end = if number + 1 == pieces.len() as u64 { PieceEnd::Activate } else { PieceEnd::More };
            to.step(epoch, MoveStep::ImportPiece { copy, number, end, bytes }).unwrap();
        }
        self.machine.shard_copy_end(copy);
        self.step(epoch, MoveStep::Drop).unwrap();
    }
}

fn piece(copy: CopyToken, number: u64, end: PieceEnd, bytes: &[u8]) -> MoveStep<'_> {
    MoveStep::ImportPiece { copy, number, end, bytes }
}

/// A machine whose shard 0 is in the state of that name since move 5.
fn in_state(name: &str) -> Rig {
    let mut rig = Rig::empty();
    if ["frozen", "dropped", "thawed"].contains(&name) {
        rig.machine = owning(KvMachine::new(), [0]);
    }
    let begin = MoveStep::ImportBegin { from: THERE, copy: ONE };
    let freeze = MoveStep::Freeze { to: THERE };
    let steps = match name {
        "absent" => vec![],
        "importing" => vec![begin],
        "complete" => vec![begin, piece(ONE, 0, PieceEnd::Last, b"")],
        "arrived" => vec![begin, piece(ONE, 0, PieceEnd::Activate, b"")],
        "frozen" => vec![freeze],
        "dropped" => vec![freeze, MoveStep::Drop],
        "aborted" => vec![MoveStep::Abort],
        "thawed" => vec![freeze, MoveStep::Thaw],
        other => panic!("no such state: {other}"),
    };
    rig.pass_time();
    steps.into_iter().for_each(|step| rig.step(5, step).unwrap());
    rig
}

/// A name takes a place where its shard is, and makes room nowhere while its shard is frozen: so the places
/// of names that went are free again, and those that came count at their new home, and in every copy.
#[test]
fn names_count_where_their_shard_is() {
    let bounds = SessionBounds { sessions_max_for_named: 2, ..SessionBounds::FORMAT };
    let mut here = Rig::over(owning(KvMachine::with_bounds(bounds), [0, 1]));
    let mut there = Rig::over(owning(KvMachine::with_bounds(bounds), [2]));
    let ask = |rig: &mut Rig, shard, number| {
        rig.apply(ShardId(shard), Some(stamp(ClientId::named(number).0, 50, 50)), append(b"k", b"x"))
    };
    for number in 1..=2 {
        written(&ask(&mut here, 0, number));
    }
    assert_eq!(loaded(&pieces(&mut here.machine, 10)).usage(), here.machine.usage());
    here.time_ms += SESSION_IDLE_MIN_MS + 1000;
    here.step(5, MoveStep::Freeze { to: THERE }).unwrap();
    assert_eq!(refused(&ask(&mut here, 1, 3)).code, Code::Overloaded, "a frozen shard forgets nobody");
    here.hand_over(&mut there, 5);
    assert_eq!((here.machine.usage().named_sessions, there.machine.usage().named_sessions), (0, 2));
    for number in 3..=4 {
        written(&ask(&mut here, 1, number));
    }
    assert_eq!(refused(&ask(&mut here, 1, 5)).code, Code::Overloaded);
    // Both came as idle as they were, and the first of them makes room.
    written(&ask(&mut there, 2, 3));
    assert_eq!(there.machine.usage().named_sessions, 2);
}

/// Every step in every state, of the move before, the same move and the next one: taken (`!`), taken before
/// (`.`), or refused as stale (`S`), active (`A`), out of place (`W`) or for its copy (`C`), and then nothing
/// has changed.
#[test]
fn every_step_in_every_state() {
    let steps = [
        MoveStep::ImportBegin { from: THERE, copy: ONE },
        MoveStep::ImportBegin { from: THERE, copy: TWO },
        piece(ONE, 0, PieceEnd::More, b""),
        MoveStep::Activate { copy: ONE },
        MoveStep::Freeze { to: THERE },
        MoveStep::Drop,
        MoveStep::Abort,
        MoveStep::Thaw,
        MoveStep::Export,
    ];
    // Begin, begin another copy, piece 0, activate, freeze, drop, abort, thaw, export; of moves 4, 5 and 6.
    let expected = [
        ("absent", ["!!WWWW!WW", "!!WWWW!WW", "!!WWWW!WW"]),
        ("importing", ["SSSSSSSSS", ".!!CSS!SS", "WWWWWWWWW"]),
        ("complete", ["SSSSSSSSS", ".!.!SS!SS", "WWWWWWWWW"]),
        ("arrived", ["SSSSSSSSS", "AA..SSASS", "WWWW!WW!."]),
        ("frozen", ["SSSSSSSSS", "SSSS.!S!.", "WWWWWWWWW"]),
        ("dropped", ["SSSSSSSSS", "SSSS..SSS", "!!WWWW!WW"]),
        ("aborted", ["SSSSSSSSS", "SSSSSS.SS", "!!WWWW!WW"]),
        ("thawed", ["SSSSSSS.S", "SSSSSSS.S", "WWWW!WW!."]),
    ];
    for (name, rows) in expected {
        for (epoch, row) in (4..).zip(rows) {
            for (step, wanted) in steps.iter().zip(row.chars()) {
                let mut rig = in_state(name);
                let (before, digest) = (rig.state(), rig.machine.digest());
                let answer = rig.step(epoch, step.clone());
                let changed = rig.machine.digest() != digest;
                let got = match &answer {
                    Ok(()) if changed => '!',
                    Ok(()) => '.',
                    Err(LifecycleError::Stale { epoch }) if *epoch == before.epoch() => 'S',
                    Err(LifecycleError::Active) => 'A',
                    Err(LifecycleError::State { state }) if *state == before => 'W',
                    Err(LifecycleError::Copy { copy: ONE, next: 0 }) => 'C',
                    other => panic!("{name}, e{epoch}, {step:?}: {other:?}"),
                };
                assert_eq!(got, wanted, "{name}, e{epoch}, {step:?}");
                assert!(answer.is_ok() || !changed, "{name}, e{epoch}, {step:?}");
                if answer.is_ok() {
                    let after = rig.machine.digest();
                    assert_eq!(rig.step(epoch, step.clone()), Ok(()), "again: {name}, e{epoch}, {step:?}");
                    assert_eq!(rig.machine.digest(), after, "again: {name}, e{epoch}, {step:?}");
                }
            }
        }
    }
}

/// A shard that is not served is refused to readers and writers, with what is known of where it went; it is
/// never said to be empty, and a write leaves nothing behind, not even in its session.
#[test]
fn what_is_not_served_is_refused() {
    let hints = [
        ("absent", None, 0),
        ("importing", None, 5),
        ("complete", None, 5),
        ("frozen", Some(THERE), 5),
        ("dropped", Some(THERE), 5),
        ("aborted", None, 5),
    ];
    for (name, to, epoch) in hints {
        let mut rig = in_state(name);
        let wrong = Code::WrongGroup { shard: S0, to, epoch: Epoch(epoch) };
        let refused_so = |error: &Error| {
            assert_eq!((&error.code, error.outcome), (&wrong, Effect::None), "{name}");
            assert!(error.retryable());
        };
        refused_so(&rig.machine.query(&Operation::Get { key: b"k" }, 1).unwrap_err());
        let scan = |prefix| Operation::Scan { prefix, after: None, start: b"", limit: 9, bytes_max: 9 };
        refused_so(&rig.machine.query(&scan(b"{k}"), 1).unwrap_err());
        let Ok(Reply::Share { shards, records, more: false }) = rig.machine.query(&scan(b""), 1) else {
            panic!("a share")
        };
        assert_eq!((shards, records), (ShardSet::default(), vec![]));
        assert_eq!(rig.machine.get(S0, b"k"), None);
        let digest = rig.machine.digest();
        refused_so(&refused(&rig.stamped(1, 1, 1)));
        refused_so(&refused(&rig.write(put(b"k", b"v"))));
        assert_eq!(rig.machine.digest(), digest, "{name}");
    }
    for name in ["arrived", "thawed"] {
        let mut rig = in_state(name);
        written(&rig.stamped(1, 1, 1));
        assert!(rig.machine.query(&Operation::Get { key: b"k" }, 1).is_ok(), "{name}");
    }
}

/// A scan says of which shards it tells: those that are served, also where they hold nothing.
#[test]
fn shares_name_their_shards() {
    let mut rig = Rig::over(owning(KvMachine::new(), [0, 1, 70]));
    rig.write(put(b"k", b"v"));
    let share = |rig: &Rig| {
        let all = ScanRange { prefix: b"", after: None, start: b"", limit: 9, bytes_max: 9 };
        let Reply::Share { shards, records, .. } = rig.machine.scan(&all) else { panic!("a share") };
        (shards.iter().map(|shard| shard.0).collect::<Vec<_>>(), records.len())
    };
    assert_eq!(share(&rig), (vec![0, 1, 70], 1));
    rig.step(5, MoveStep::Freeze { to: THERE }).unwrap();
    assert_eq!(share(&rig), (vec![1, 70], 0));
    rig.step(5, MoveStep::Thaw).unwrap();
    assert_eq!(share(&rig), (vec![0, 1, 70], 1));
}

/// Shards are born once: what was ever here, in whatever state it is now, is left as it is.
#[test]
fn births_never_resurrect() {
    for name in ["importing", "complete", "arrived", "frozen", "dropped", "aborted", "thawed"] {
        let rig = in_state(name);
        let before = rig.machine.digest();
        assert_eq!(owning(rig.machine, [0]).digest(), before, "{name}");
    }
    let mut rig = Rig::over(owning(KvMachine::new(), [0, 9]));
    rig.write(put(b"k", b"v"));
    let before = rig.machine.digest();
    assert_eq!(owning(rig.machine, [9, 0]).digest(), before);
    let far = [ShardId(3), ShardId(SHARDS_MAX)];
    let command = Command::Own { shards: far.into_iter().collect(), epoch: Epoch(1) };
    let mut rig = Rig::empty();
    let answer = rig.apply_bytes(&proto::encode(&command));
    let invalid = Err(LifecycleError::Invalid { shard: far[1] });
    assert_eq!(proto::decode::<LifecycleAnswer>(&answer), Ok(invalid.clone()));
    assert_eq!(rig.machine.lifecycle(far[0]), ShardState::Absent);
    let command = Command::Move(MoveCommand { shard: far[1], epoch: Epoch(5), step: MoveStep::Abort });
    assert_eq!(proto::decode::<LifecycleAnswer>(&rig.apply_bytes(&proto::encode(&command))), Ok(invalid));
}

/// Pieces come in without a gap and of one copy; another copy begins from nothing.
#[test]
fn pieces_come_in_order() {
    let mut source = Rig::over(owning(KvMachine::new(), [0]));
    (0..20_u8).for_each(|number| drop(source.write(put(&[number], &[7; 50]))));
    source.step(5, MoveStep::Freeze { to: THERE }).unwrap();
    source.machine.shard_copy_begin(S0, ONE).unwrap();
    let pieces = source.rest_of_shard(ONE, 300);
    let last = pieces.len() as u64 - 1;
    assert!(last > 3);
    let mut rig = in_state("importing");
    let next = |rig: &Rig| match rig.state() {
        ShardState::Importing { next, complete, .. } => (next, complete),
        other => panic!("{other:?}"),
    };
    let out_of_order = |next| Err(LifecycleError::Copy { copy: ONE, next });
    for number in 0..=last {
        let bytes = &pieces[number as usize];
        assert_eq!(rig.step(5, piece(ONE, number + 1, PieceEnd::More, b"")), out_of_order(number));
        assert_eq!(rig.step(5, piece(TWO, number, PieceEnd::More, bytes)), out_of_order(number));
        assert_eq!(rig.step(5, MoveStep::Activate { copy: ONE }), out_of_order(number));
        let end = if number == last { PieceEnd::Last } else { PieceEnd::More };
        rig.step(5, piece(ONE, number, end, bytes)).unwrap();
        let digest = rig.machine.digest();
        (0..=number)
            .for_each(|again| rig.step(5, piece(ONE, again, PieceEnd::More, b"\x02nonsense")).unwrap());
        assert_eq!((next(&rig), rig.machine.digest()), ((number + 1, number == last), digest));
    }
    assert_eq!(rig.step(5, piece(ONE, last + 1, PieceEnd::More, b"")), out_of_order(last + 1));
    assert_eq!(rig.machine.usage().keys, 20);
    // The last piece again, now to be served with it.
    let mut served = Rig::over(loaded(&super::pieces(&mut rig.machine, 500)));
    served.step(5, piece(ONE, last, PieceEnd::Activate, b"")).unwrap();
    rig.step(5, MoveStep::Activate { copy: ONE }).unwrap();
    assert_eq!(served.machine.digest(), rig.machine.digest());
    let mut rig = in_state("importing");
    rig.step(5, piece(ONE, 0, PieceEnd::More, &pieces[0])).unwrap();
    assert!(rig.machine.usage().keys > 0);
    rig.step(5, MoveStep::ImportBegin { from: THERE, copy: TWO }).unwrap();
    assert_eq!((rig.machine.usage(), next(&rig)), (Usage::default(), (0, false)));
    assert!(!rig.machine.take_garbage().is_empty());
}

/// A piece that is none, of another shard or with what no shard's copy has, is refused, and with it all that
/// had come in: a copy with a hole is never served. The same copy may come in again from its first piece.
#[test]
fn a_malformed_piece_voids_the_copy() {
    let mut other = Rig::over(owning(KvMachine::new(), [0, 1]));
    other.apply(ShardId(1), None, put(b"k", b"v"));
    other.machine.shard_copy_begin(ShardId(1), TWO).unwrap();
    let of_another = other.machine.shard_copy_next(TWO, 1000).unwrap().bytes;
    let whole = super::pieces(&mut other.machine, usize::MAX).concat();
    let session = StateRecord::Session {
        shard: S0,
        client: ClientId(1),
        lowest: Sequence(1),
        active_s: 0,
        answers: b"",
    };
    let gone = StateRecord::KeyGone { shard: S0, key: b"never was" };
    let with = |records: &[StateRecord<'_>]| {
        let mut piece = vec![VERSION];
        records.iter().for_each(|record| record.encode(&mut piece));
        piece
    };
    let good = with(&[StateRecord::Time { time_ms: 1 }, session.clone()]);
    let cut = &good[..good.len() - 1];
    let cleared = with(&[StateRecord::Cleared { shard: S0 }]);
    let bad = [cut, &of_another, &whole, &with(&[session]), &with(&[gone]), &cleared];
    for bad in bad {
        let mut rig = in_state("importing");
        rig.step(5, piece(ONE, 0, PieceEnd::More, &good)).unwrap();
        assert_eq!(rig.machine.usage().sessions, 1);
        for end in [PieceEnd::Activate, PieceEnd::More] {
            let refused = rig.step(5, piece(ONE, 1, end, bad));
            assert!(matches!(
                refused,
                Err(LifecycleError::Piece { .. } | LifecycleError::Copy { copy: ONE, next: 0 })
            ));
            assert_eq!(rig.machine.usage(), Usage::default());
        }
        rig.step(5, piece(ONE, 0, PieceEnd::Activate, &good)).unwrap();
        assert_eq!(rig.machine.usage().sessions, 1);
    }
}

/// Sessions travel: a write that is sent again is answered by the new owner as by the old one, the next one
/// takes effect there, and the shard's counters go on where they were.
#[test]
fn retries_are_answered_by_the_new_owner() {
    let mut source = Rig::over(owning(KvMachine::new(), [0]));
    let mut there = Rig::empty();
    there.time_ms = 40_000;
    let first: Vec<Bytes> = (1..=3).map(|sequence| source.stamped(1, sequence, 1)).collect();
    let named = source.stamped(ClientId::named(7).0, 99, 99);
    source.hand_over(&mut there, 5);
    for (sequence, first) in (1..).zip(&first) {
        assert_eq!(there.stamped(1, sequence, 1), *first);
        let gone = refused(&source.stamped(1, sequence, 1));
        assert!(matches!(gone.code, Code::WrongGroup { to: Some(THERE), .. }));
    }
    assert_eq!(there.stamped(ClientId::named(7).0, 99, 99), named);
    assert_eq!(written(&there.stamped(1, 4, 4)), (5, 5, 5));
    there.hand_over(&mut source, 6);
    assert_eq!(written(&source.stamped(1, 5, 4)), (6, 6, 6));
    assert_eq!(written(&source.stamped(1, 4, 4)), (5, 5, 5));
    assert_eq!(source.value(b"k"), Some(&b"xxxxxx"[..]));
    assert_eq!(there.machine.usage(), Usage::default());
}

/// A session stays as idle as it was where its shard goes, whatever the clock there says.
#[test]
fn idleness_travels() {
    for clock_ms in [SESSION_TTL_MS, 40_000_000_000] {
        let mut source = Rig::over(owning(KvMachine::new(), [0]));
        let mut there = Rig::empty();
        there.time_ms = clock_ms;
        source.stamped(1, 1, 1);
        source.time_ms += SESSION_TTL_MS / 2;
        source.stamped(2, 1, 1);
        source.hand_over(&mut there, 5);
        there.time_ms += SESSION_TTL_MS / 2;
        assert_eq!(written(&there.stamped(1, 1, 1)).0, 1, "not forgotten too early");
        source = Rig::empty();
        there.time_ms += 10_000;
        there.hand_over(&mut source, 6);
        source.time_ms += SESSION_TTL_MS / 2 - 10_000;
        assert_eq!(written(&source.stamped(2, 1, 1)).0, 2, "not forgotten too early");
        source.time_ms += SESSION_TTL_MS / 2 + 12_000;
        source.pass_time();
        assert_eq!(source.machine.usage().sessions, 1);
        assert_eq!(refused(&source.stamped(1, 2, 2)).code, Code::SessionExpired);
    }
}

/// Nothing of a frozen shard changes: its sessions neither expire nor make room for others. Once thawed, they
/// do.
#[test]
fn frozen_shards_keep_still() {
    let bounds = SessionBounds { sessions_max: 2, answers_max: 100, ..SessionBounds::FORMAT };
    let mut rig = Rig::over(owning(KvMachine::with_bounds(bounds), 0..2));
    (1..=2).for_each(|client| drop(rig.stamped(client, 1, 1)));
    rig.machine.shard_copy_begin(S0, ONE).unwrap();
    rig.step(5, MoveStep::Freeze { to: THERE }).unwrap();
    rig.rest_of_shard(ONE, 1000);
    rig.time_ms += SESSION_TTL_MS + 1000;
    let newcomer = rig.apply(ShardId(1), Some(stamp(3, 1, 1)), put(b"k", b"v"));
    assert_eq!(refused(&newcomer).code, Code::Overloaded);
    (0..3).for_each(|_| drop(rig.write(put(b"k", b"v"))));
    let step = rig.machine.shard_copy_next(ONE, 1000).unwrap();
    assert_eq!((step.bytes.len(), step.remaining, step.frozen), (0, 0, Some(Epoch(5))));
    assert_eq!(rig.machine.usage().sessions, 2);
    rig.step(5, MoveStep::Thaw).unwrap();
    rig.pass_time();
    assert_eq!(rig.machine.usage().sessions, 0);
}

/// Sessions that come in may be forgotten before their shard is served, by the same rule as all others, and
/// hear no more of then; whoever writes again opens no second one where it had one.
#[test]
fn sessions_may_expire_on_their_way() {
    let mut source = Rig::over(owning(KvMachine::new(), [0]));
    let mut there = Rig::empty();
    source.stamped(1, 1, 1);
    source.machine.shard_copy_begin(S0, ONE).unwrap();
    there.step(5, MoveStep::ImportBegin { from: HERE, copy: ONE }).unwrap();
    let first = source.machine.shard_copy_next(ONE, 10_000).unwrap().bytes;
    there.step(5, piece(ONE, 0, PieceEnd::More, &first)).unwrap();
    there.time_ms += SESSION_TTL_MS + 2000;
    there.pass_time();
    assert_eq!(there.machine.usage().sessions, 0);
    source.time_ms += SESSION_TTL_MS + 2000;
    source.pass_time();
    source.step(5, MoveStep::Freeze { to: THERE }).unwrap();
    let last = source.machine.shard_copy_next(ONE, 10_000).unwrap();
    assert_eq!((last.remaining, last.frozen), (0, Some(Epoch(5))));
    there.step(5, piece(ONE, 1, PieceEnd::Activate, &last.bytes)).unwrap();
    assert_eq!(refused(&there.stamped(1, 2, 2)).code, Code::SessionExpired);
}

/// What is dropped counts no more at once, is in no copy and no digest, and waits apart to be freed.
#[test]
fn what_is_dropped_is_set_aside() {
    let mut rig = Rig::over(owning(KvMachine::new(), 0..2));
    (0..100_u8).for_each(|number| drop(rig.write(put(&[number], &[7; 1000]))));
    rig.stamped(1, 1, 1);
    assert!(rig.machine.take_garbage().is_empty());
    rig.step(5, MoveStep::Freeze { to: THERE }).unwrap();
    rig.step(5, MoveStep::Drop).unwrap();
    assert_eq!(rig.machine.usage(), Usage::default());
    assert!(super::pieces(&mut rig.machine, usize::MAX).concat().len() < 100);
    let digest = rig.machine.digest();
    assert_eq!(loaded(&super::pieces(&mut rig.machine, 10)).digest(), digest);
    assert!(!rig.machine.take_garbage().is_empty());
    assert!(rig.machine.take_garbage().is_empty());
    assert_eq!(rig.machine.digest(), digest);
    rig.time_ms += SESSION_IDLE_MIN_MS;
    rig.pass_time();
    let views: Vec<_> = rig.machine.shards().collect();
    let (state, usage) = (ShardState::Dropped { to: THERE, epoch: Epoch(5) }, Usage::default());
    assert_eq!(views[0], ShardView { shard: S0, state, revision: Revision(0), usage });
    assert!(matches!(views[1].state, ShardState::Serving { .. }));
}

/// A copy of one shard holds that shard and nothing else, follows its writers, ends with it, and is one of a
/// bounded number.
#[test]
fn copies_of_one_shard() {
    let mut rig = Rig::over(owning(KvMachine::new(), 0..3));
    for shard in [0, 1, 2] {
        (0..30_u8).for_each(|number| drop(rig.apply(ShardId(shard), None, put(&[number], b"value"))));
    }
    let machine = &rig.machine;
    assert_eq!(machine.shard_copy_next(ONE, 9), Err(ShardCopyEnded(ONE)));
    let state = ShardState::Absent;
    assert_eq!(machine.shard_copy_begin(ShardId(9), ONE), Err(ShardCopyRefused::NotHere { state }));
    machine.shard_copy_begin(ShardId(1), ONE).unwrap();
    assert_eq!(machine.shard_copy_begin(S0, ONE), Err(ShardCopyRefused::Running { copy: ONE }));
    (2..=SHARD_COPIES_MAX as u64).for_each(|token| machine.shard_copy_begin(S0, CopyToken(token)).unwrap());
    assert_eq!(machine.shard_copy_begin(S0, CopyToken(99)), Err(ShardCopyRefused::TooMany));
    machine.shard_copy_end(CopyToken(3));
    machine.shard_copy_end(CopyToken(3));
    machine.shard_copy_begin(S0, CopyToken(99)).unwrap();

    let mut pieces = vec![machine.shard_copy_next(ONE, 300).unwrap()];
    assert_eq!((pieces[0].frozen, pieces[0].remaining > 0), (None, true));
    assert!(pieces[0].bytes.len() <= 300);
    rig.apply(ShardId(1), None, delete(&[0]));
    rig.apply(ShardId(0), None, delete(&[0]));
    rig.apply(ShardId(1), Some(stamp(1, 1, 1)), put(&[29], b"ahead"));
    while pieces.last().unwrap().remaining > 0 {
        pieces.push(rig.machine.shard_copy_next(ONE, 300).unwrap());
    }
    let bytes: Vec<Vec<u8>> = pieces.into_iter().map(|step| step.bytes).collect();
    let records = records_of(&bytes);
    assert!(records.iter().all(|record| record.shard().is_none_or(|shard| shard == ShardId(1))));
    assert!(!records.iter().any(|record| matches!(record, StateRecord::State { .. })));
    let ended = rig.machine.shard_copy_next(ONE, 300).unwrap();
    assert_eq!((ended.bytes.len(), ended.remaining), (0, 0));

    rig.step(5, MoveStep::Freeze { to: THERE }).unwrap();
    assert_eq!(rig.machine.shard_copy_next(CopyToken(2), 300).unwrap().frozen, Some(Epoch(5)));
    rig.step(5, MoveStep::Drop).unwrap();
    assert_eq!(rig.machine.shard_copy_next(CopyToken(2), 300), Err(ShardCopyEnded(CopyToken(2))));
    assert!(rig.machine.shard_copy_next(ONE, 300).is_ok());
}

/// A copy of the whole machine follows shards that are emptied, come in and are born behind it, wherever it
/// has come.
#[test]
fn copies_follow_shards() {
    let mut source = Rig::over(owning(KvMachine::new(), [0]));
    (0..20_u8).for_each(|number| drop(source.write(put(&[number], &[8; 30]))));
    source.stamped(9, 1, 1);
    source.machine.shard_copy_begin(S0, ONE).unwrap();
    let incoming = source.rest_of_shard(ONE, 200);
    for steps_before in 0..14 {
        let mut rig = Rig::over(owning(KvMachine::new(), [0, 1]));
        (0..20_u8).for_each(|number| drop(rig.write(put(&[number * 2], &[7; 30]))));
        rig.stamped(1, 1, 1);
        let copy = rig.machine.copy_begin();
        let mut pieces = Vec::new();
        let next = |rig: &mut Rig, pieces: &mut Vec<Vec<u8>>| {
            pieces.push(rig.machine.copy_next(copy, 200).bytes);
        };
        (0..steps_before).for_each(|_| next(&mut rig, &mut pieces));
        rig.step(5, MoveStep::Freeze { to: THERE }).unwrap();
        rig.step(5, MoveStep::Drop).unwrap();
        next(&mut rig, &mut pieces);
        rig.step(6, MoveStep::ImportBegin { from: THERE, copy: ONE }).unwrap();
        rig.step(6, piece(ONE, 0, PieceEnd::More, &incoming[0])).unwrap();
        next(&mut rig, &mut pieces);
        rig.step(6, MoveStep::ImportBegin { from: THERE, copy: TWO }).unwrap();
        for (number, bytes) in (0..).zip(&incoming) {
            rig.step(6, piece(TWO, number, PieceEnd::More, bytes)).unwrap();
            next(&mut rig, &mut pieces);
        }
        rig.machine = owning(rig.machine, [2]);
        pieces.extend(rest_of(&mut rig.machine, copy, 200));
        let twin = loaded(&pieces);
        assert_eq!((twin.digest(), twin.usage()), (rig.machine.digest(), rig.machine.usage()));
        assert_eq!(twin.usage(), source.machine.usage());
    }
}

/// The longest key with the longest value that may be configured travels in a command of its own: what can be
/// written can be moved.
#[test]
fn the_largest_record_travels() {
    let (key, value) = ([b'k'; bounds::KEY_BYTES_MAX], vec![7; bounds::VALUE_BYTES_MAX]);
    let key_record = StateRecord::Key {
        shard: ShardId(SHARDS_MAX - 1),
        key: &key,
        value: &value,
        version: Version(u64::MAX),
        created: Revision(u64::MAX),
        modified: Revision(u64::MAX),
    };
    let mut bytes = vec![VERSION];
    StateRecord::Time { time_ms: u64::MAX }.encode(&mut bytes);
    key_record.encode(&mut bytes);
    let step = piece(CopyToken(u64::MAX), u64::MAX, PieceEnd::Activate, &bytes);
    let shard = ShardId(SHARDS_MAX - 1);
    let command = proto::encode(&Command::Move(MoveCommand { shard, epoch: Epoch(u64::MAX), step }));
    assert!(command.len() <= key.len() + value.len() + crate::config::COMMAND_OVERHEAD, "{}", command.len());
}

/// What is noted of an exported shard is bounded, whatever comes and goes in it; beyond, nobody takes the
/// copy over. It ends with the shard, with a thaw, and with the next export.
#[test]
fn exports_are_bounded_and_end() {
    let exported =
        |rig: &Rig| rig.machine.exports().into_iter().map(|(_, epoch, _)| epoch.0).collect::<Vec<_>>();
    let mut rig = Rig::over(owning(KvMachine::new(), [0]));
    rig.step(5, MoveStep::Export).unwrap();
    let [(_, _, first)] = rig.machine.exports()[..] else { panic!("one shard is exported") };
    rig.step(5, MoveStep::Export).unwrap();
    let [(_, _, second)] = rig.machine.exports()[..] else { panic!("one shard is exported") };
    let (not_exported, held) = (Err(ShardCopyRefused::NotExported { copy: first }), Held::default());
    assert_ne!(first, second, "a step that is taken again begins another copy");
    assert_eq!(rig.machine.shard_copy_resume(S0, first, &held), not_exported);
    assert_eq!(rig.machine.shard_copy_resume(S0, second, &held), Ok(()));
    let key = vec![b'k'; KEY_BYTES_MAX - 8];
    for number in 0..(EXPORT_BYTES_MAX / KEY_BYTES_MAX) as u64 + 8 {
        let key = [&key[..], &number.to_be_bytes()].concat();
        rig.write(put(&key, b""));
        rig.write(delete(&key));
    }
    assert_eq!(exported(&rig), [0_u64; 0]);
    for (end, at) in [(MoveStep::Thaw, "thaw"), (MoveStep::Drop, "drop")] {
        let mut rig = Rig::over(owning(KvMachine::new(), [0]));
        rig.step(5, MoveStep::Export).unwrap();
        rig.step(5, MoveStep::Freeze { to: THERE }).unwrap();
        assert_eq!(exported(&rig), [5], "before {at}");
        rig.step(5, end).unwrap();
        assert_eq!(exported(&rig), [0_u64; 0], "after {at}");
    }
    let rig = in_state("frozen");
    rig.machine.export_end(S0, Epoch(5));
    assert_eq!(exported(&rig), [0_u64; 0]);
}
