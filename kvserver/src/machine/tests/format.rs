//! The bytes of copies: held fast, and checked when they come back.

use super::super::bounds::{COUNTER_MAX, KEY_BYTES_MAX, SHARDS_MAX, WINDOW};
use super::super::piece::{StateRecord, VERSION};
use super::super::shard_copy::Held;
use super::*;
use proto::{GroupId, MoveCommand, MoveStep};

/// The layout of a piece, byte for byte: these bytes are on disks.
#[test]
fn golden_piece() {
    let mut rig = Rig::over(owning(KvMachine::new(), [2]));
    rig.time_ms = 300_000;
    rig.apply(ShardId(2), Some(stamp(0xAB, 1, 1)), put(b"key", b"value"));
    rig.apply(ShardId(2), Some(stamp(0xAB, 2, 1)), delete(b"absent"));
    rig.apply(ShardId(2), None, put(b"a", b""));
    rig.apply(ShardId(2), None, delete(b"a"));
    let golden: &[&[u8]] = &[
        b"\x02",                                 // version
        b"\x00\xfc\xe0\x93\x04\x00",             // time: 300,000 ms
        b"\x07\x02\x02\x01\x01",                 // state: shard, serving, epoch, fence
        b"\x01\x02\x03key\x05value\x01\x01\x01", // key: shard, key, value, version, created, modified
        b"\x03\x02\xab\x01\xfb\x2c\x01\x07",     // session: shard, client, lowest open, active at 300 s
        b"\x00\x00\x01\x01\x05",                 // at distance 0: written, version, revision, length
        b"\x01\x02",                             // at distance 1: not found
        b"\x05\x02\x01\x00\x03key",              // event: shard, revision 1, written, key
        b"\x05\x02\x02\x00\x01a",                // event: revision 2, written
        b"\x05\x02\x03\x01\x01a",                // event: revision 3, deleted
        b"\x06\x02\x00\x03",                     // tail: shard, floor, revision
    ];
    assert_eq!(pieces(&mut rig.machine, usize::MAX), [golden.concat()]);
    let copy = rig.machine.copy_begin();
    let before = rig.machine.copy_next(copy, usize::MAX).bytes;
    rig.apply(ShardId(2), None, delete(b"key"));
    rig.time_ms += 7_200_000;
    rig.pass_time();
    let golden: &[&[u8]] = &[
        b"\x02",
        b"\x00\xfc\xe0\x70\x72\x00", // time: 7,500,000 ms
        b"\x02\x02\x03key",          // key gone: shard, key
        b"\x04\x02\xab",             // session gone: shard, client
        b"\x05\x02\x04\x01\x03key",  // event
        b"\x06\x02\x00\x04",         // tail
    ];
    let after = rig.machine.copy_next(copy, usize::MAX).bytes;
    assert_eq!(after, golden.concat());
    assert_eq!(loaded(&[before, after]).digest(), rig.machine.digest());
}

/// A shard that is emptied at once is told of by one record, and its state by another.
#[test]
fn golden_lifecycle() {
    let mut rig = Rig::over(owning(KvMachine::new(), [2]));
    rig.time_ms = 300_000;
    let copy = rig.machine.copy_begin();
    rig.machine.copy_next(copy, usize::MAX);
    for step in [MoveStep::Freeze { to: GroupId(4) }, MoveStep::Drop] {
        let command = Command::Move(MoveCommand { shard: ShardId(2), epoch: Epoch(9), step });
        rig.apply_bytes(&proto::encode(&command));
    }
    let golden: &[&[u8]] = &[
        b"\x02",
        b"\x00\xfc\xe0\x93\x04\x00", // time
        b"\x08\x02",                 // cleared: shard
        b"\x07\x02\x04\x04\x09",     // state: shard, dropped, to, epoch
        b"\x06\x02\x00\x00",         // tail
    ];
    assert_eq!(rig.machine.copy_next(copy, usize::MAX).bytes, golden.concat());
}

/// A copy that is taken over tells of what is absent in a record of its own, whether or not the loader ever had it.
#[test]
fn golden_takeover() {
    let shard = ShardId(2);
    let mut rig = Rig::over(owning(KvMachine::new(), [2]));
    rig.time_ms = 300_000;
    let command = Command::Move(MoveCommand { shard, epoch: Epoch(9), step: MoveStep::Export });
    rig.apply_bytes(&proto::encode(&command));
    let [(_, _, copy)] = rig.machine.exports()[..] else { panic!("one shard is exported") };
    rig.apply(shard, None, put(b"a", b"1"));
    rig.apply(shard, None, delete(b"a"));
    rig.apply(shard, None, put(b"z", b"2"));
    let held = Held { key: Some(b"k".to_vec()), ..Held::default() };
    rig.machine.shard_copy_resume(shard, copy, &held).unwrap();
    let golden: &[&[u8]] = &[
        b"\x02",
        b"\x00\xfc\xe0\x93\x04\x00",       // time
        b"\x01\x02\x01z\x012\x01\x03\x03", // key
        b"\x05\x02\x01\x00\x01a",          // event
        b"\x05\x02\x02\x01\x01a",          // event
        b"\x05\x02\x03\x00\x01z",          // event
        b"\x06\x02\x00\x03",               // tail
        b"\x09\x02\x01a",                  // key absent
    ];
    let step = rig.machine.shard_copy_next(copy, usize::MAX).unwrap();
    assert_eq!((step.bytes, step.remaining), (golden.concat(), 0));
}

/// The encoding of every outcome that a session may keep.
#[test]
fn golden_outcomes() {
    let (version, revision) = (Version(1), Revision(2));
    let golden: [(Outcome, &[u8]); 7] = [
        (Outcome::Written { version, revision, length: 3 }, b"\x00\x01\x02\x03"),
        (Outcome::Deleted { revision }, b"\x01\x02"),
        (Outcome::NotFound, b"\x02"),
        (Outcome::VersionMismatch { current: version }, b"\x03\x01"),
        (Outcome::KeyTooLarge { length: 4 }, b"\x04\x04"),
        (Outcome::ValueTooLarge { length: 5 }, b"\x05\x05"),
        (Outcome::NotAWrite, b"\x06"),
    ];
    for (outcome, bytes) in golden {
        let encoded = bincode::encode_to_vec(outcome, bincode::config::standard()).unwrap();
        assert_eq!(encoded, bytes, "{outcome:?}");
    }
}

/// A digest depends on the state alone, and is held fast: nodes of different builds compare theirs.
#[test]
fn golden_digest() {
    assert_eq!(KvMachine::new().digest(), 0x0832_8807_b4eb_6fed);
}

fn load(records: &[StateRecord<'_>]) -> Result<(), LoadError> {
    let state = ShardState::Serving { epoch: Epoch(1), fence: Epoch(1) };
    let mut piece = vec![VERSION];
    StateRecord::State { shard: S0, state }.encode(&mut piece);
    records.iter().for_each(|record| record.encode(&mut piece));
    KvMachine::new().load(&piece)
}

/// Records that cannot be the next of any copy are refused, each with its reason.
#[test]
fn impossible_records_are_refused() {
    let key = |key, version, created, modified| {
        let (version, created, modified) = (Version(version), Revision(created), Revision(modified));
        StateRecord::Key { shard: S0, key, value: b"", version, created, modified }
    };
    let session = |lowest, answers| {
        let (client, lowest) = (ClientId(1), Sequence(lowest));
        StateRecord::Session { shard: S0, client, lowest, active_s: 0, answers }
    };
    let tail = |shard, floor, revision| StateRecord::Tail {
        shard,
        floor: Revision(floor),
        revision: Revision(revision),
    };
    let event = |revision| StateRecord::Event {
        shard: S0,
        revision: Revision(revision),
        change: Change::Written,
        key: b"",
    };
    assert_eq!(
        load(&[key(b"k", 1, 1, 1), session(1, b"\x00\x02\x01\x02"), event(1), tail(S0, 0, 1)]),
        Ok(())
    );
    let long = [0; KEY_BYTES_MAX + 1];
    let mut far = bincode::encode_to_vec(WINDOW + 1, bincode::config::standard()).unwrap();
    far.push(2);
    let unknown = ShardId(1);
    let state = |shard, state| StateRecord::State { shard, state };
    let served = ShardState::Serving { epoch: Epoch(1), fence: Epoch(1) };
    assert_eq!(load(&[state(unknown, served), tail(unknown, 0, 0)]), Ok(()));
    let impossible: [&[StateRecord<'_>]; 24] = [
        &[StateRecord::Time { time_ms: 2 }, StateRecord::Time { time_ms: 1 }],
        &[key(&long, 1, 1, 1)],
        &[key(b"k", 0, 1, 1)],
        &[key(b"k", 1, 0, 1)],
        &[key(b"k", 1, 2, 1)],
        &[key(b"k", COUNTER_MAX + 1, 1, 1)],
        &[key(b"k", 1, 1, 2), key(b"k", 1, 1, 1)],
        &[StateRecord::KeyGone { shard: S0, key: b"k" }],
        &[key(b"k", 1, 1, 1), StateRecord::KeyAbsent { shard: S0, key: b"k" }],
        &[session(0, b"")],
        &[session(1, b"\x00")],
        &[session(1, b"\x00\x07")],
        &[session(1, b"\x01\x02\x00\x02")],
        &[session(1, &far)],
        &[session(u64::MAX, b"\x01\x02")],
        &[StateRecord::SessionGone { shard: S0, client: ClientId(1) }],
        &[event(2), event(2)],
        &[event(0)],
        &[event(COUNTER_MAX + 1)],
        &[tail(unknown, 0, 0)],
        &[StateRecord::SessionGone { shard: unknown, client: ClientId(1) }],
        &[StateRecord::Cleared { shard: unknown }],
        &[state(S0, ShardState::Absent)],
        &[state(ShardId(SHARDS_MAX), served)],
    ];
    for records in impossible {
        assert!(load(records).is_err(), "{records:?}");
    }
    for (floor, revision) in [(0, 2), (2, 1), (1, 2), (u64::MAX, 1)] {
        assert!(load(&[event(1), tail(S0, floor, revision)]).is_err(), "{floor} to {revision}");
    }
}

/// Other versions, and pieces cut short anywhere but between records, are refused.
#[test]
fn damaged_pieces_are_refused() {
    let mut rig = Rig::over(owning(KvMachine::new(), [0]));
    rig.stamped(u128::MAX, 1, 1);
    let pieces = pieces(&mut rig.machine, usize::MAX);
    let [piece] = &pieces[..] else { panic!("one piece") };
    for version in [0, 1, 3, 255] {
        let mut other = piece.clone();
        other[0] = version;
        assert!(KvMachine::new().load(&other).is_err());
    }
    let cuts = (0..piece.len()).filter(|cut| KvMachine::new().load(&piece[..*cut]).is_ok()).count();
    assert_eq!(cuts, 7, "nothing, the version, time, state, key, session, event");
    for length in [0xfc, 0xfd] {
        let huge = [&[VERSION, 1, 0, length][..], &[0xff; 8]].concat();
        assert!(KvMachine::new().load(&huge).is_err());
    }
}
