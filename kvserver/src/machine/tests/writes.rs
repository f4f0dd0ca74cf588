//! What writes do to keys, versions, revisions and events.

use super::super::bounds::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use super::*;
use proto::{CopyToken, PieceEnd};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A key's version counts its changes from its creation, a shard's revision all of the shard's.
#[test]
fn versions_and_revisions_count() {
    let mut rig = Rig::new();
    assert_eq!(written(&rig.write(put(b"a", b"one"))), (1, 1, 3));
    assert_eq!(written(&rig.write(put(b"b", b""))), (1, 2, 0));
    assert_eq!(written(&rig.write(append(b"a", b"+two"))), (2, 3, 7));
    assert_eq!(written(&rig.apply(ShardId(1), None, put(b"a", b"x"))), (1, 1, 1));
    let record = rig.machine.get(S0, b"a").unwrap();
    assert_eq!((record.value, record.version, record.revision), (&b"one+two"[..], Version(2), Revision(3)));
}

/// A deleted key is gone; deleted again it is not found; created again it counts from 1.
#[test]
fn deletes() {
    let mut rig = Rig::new();
    rig.write(put(b"a", b"one"));
    rig.write(put(b"a", b"two"));
    let answer = rig.write(delete(b"a"));
    assert_eq!(proto::decode::<Answer<'_>>(&answer).unwrap(), Ok(Reply::Deleted { revision: Revision(3) }));
    assert_eq!(rig.value(b"a"), None);
    assert_eq!(refused(&rig.write(delete(b"a"))).code, Code::NotFound);
    assert_eq!(written(&rig.write(append(b"a", b"3"))), (1, 4, 1));
    assert_eq!(rig.machine.usage(), Usage { keys: 1, bytes: 2, ..Usage::default() });
}

/// Every condition holds or fails on present and absent keys as documented, for every kind of write, and a
/// write whose condition fails changes nothing.
#[test]
fn conditions() {
    let cases = [
        (Expect::Any, true, true),
        (Expect::Absent, true, false),
        (Expect::Present, false, true),
        (Expect::Version(Version(0)), true, false),
        (Expect::Version(Version(2)), false, true),
        (Expect::Version(Version(3)), false, false),
    ];
    for (expect, on_absent, on_present) in cases {
        for (present, holds) in [(false, on_absent), (true, on_present)] {
            let operations = [
                Operation::Put { key: b"k", value: b"v", expect },
                Operation::Append { key: b"k", value: b"v", expect },
                Operation::Delete { key: b"k", expect },
            ];
            for operation in operations {
                let mut rig = Rig::new();
                rig.write(put(b"other", b""));
                if present {
                    (0..2).for_each(|_| drop(rig.write(put(b"k", b"before"))));
                }
                let before = rig.machine.digest();
                let answer = rig.write(operation.clone());
                let answer = proto::decode::<Answer<'_>>(&answer).unwrap().map_err(|error| error.code);
                let current = Version(if present { 2 } else { 0 });
                let is_delete = matches!(operation, Operation::Delete { .. });
                match &answer {
                    Ok(_) => assert!(holds && (present || !is_delete), "{operation:?}, present: {present}"),
                    Err(Code::NotFound) => assert!(holds && is_delete && !present),
                    Err(code) => assert!(!holds && *code == Code::VersionMismatch { current }),
                }
                let unchanged = rig.machine.digest() == before;
                assert_eq!(unchanged, answer.is_err(), "{operation:?}, present: {present}");
            }
        }
    }
}

/// Keys and values beyond the format's maximum are refused, also where an append would grow beyond it.
#[test]
fn sizes_are_bounded() {
    let mut rig = Rig::new();
    let value = vec![7; VALUE_BYTES_MAX];
    let key = vec![7; KEY_BYTES_MAX + 1];
    assert_eq!(refused(&rig.write(put(&key, b""))).code, Code::KeyTooLarge);
    assert_eq!(written(&rig.write(put(&key[1..], b""))).0, 1);
    assert_eq!(written(&rig.write(put(b"k", &value))).2, VALUE_BYTES_MAX as u64);
    let before = rig.machine.digest();
    assert_eq!(refused(&rig.write(append(b"k", b"x"))).code, Code::ValueTooLarge);
    assert_eq!(rig.machine.digest(), before);
    assert_eq!(written(&rig.write(append(b"k", b""))).0, 2);
}

/// A command that this build cannot read stops the machine before anything has changed, expiry included: replicas of
/// a build that can read it would go on otherwise.
#[test]
fn what_cannot_be_read_stops_the_machine() {
    let mut rig = Rig::new();
    rig.write(put(b"k", b"v"));
    let before = (rig.machine.digest(), rig.machine.time_ms());
    rig.time_ms += 3_600_000;
    let step = MoveStep::ImportPiece { copy: CopyToken(1), number: 0, end: PieceEnd::More, bytes: b"\x03" };
    let later_piece = proto::encode(&Command::Move(MoveCommand { shard: ShardId(0), epoch: Epoch(5), step }));
    for (bytes, why) in [
        (&b""[..], "message is empty"),
        (b"\x02\x00", "message has format version 2, this build reads 1"),
        (b"\x01\xfa", "message is malformed"),
        (b"\x01\x01\x00\x01\x00", "stray bytes"),
        (&later_piece, "piece has format version 3, this build reads 2"),
    ] {
        let panic = catch_unwind(AssertUnwindSafe(|| rig.apply_bytes(bytes))).unwrap_err();
        let told = panic.downcast_ref::<String>().unwrap();
        assert!(told.contains("cannot be read by this build") && told.contains(why), "{told}");
        assert_eq!((rig.machine.digest(), rig.machine.time_ms()), before);
    }
}

/// Commands that make no sense are answered so, and change nothing.
#[test]
fn nonsense_is_answered() {
    let mut rig = Rig::new();
    rig.write(put(b"k", b"v"));
    let before = rig.machine.digest();
    assert_eq!(refused(&rig.write(Operation::Get { key: b"k" })).code, Code::BadRequest);
    let far = rig.apply(ShardId(bounds::SHARDS_MAX), None, put(b"k", b"v"));
    assert_eq!(refused(&far).code, Code::BadRequest);
    assert_eq!(rig.machine.digest(), before);
}

/// Watches can resume from any revision that the window still reaches, and are told where it does not.
#[test]
fn events_resume() {
    let mut rig = Rig::new();
    rig.write(put(b"a", b"1"));
    rig.write(append(b"b", b"2"));
    rig.write(delete(b"a"));
    let seen = |rig: &Rig, after| -> Option<Vec<(u64, Change, Vec<u8>)>> {
        let events = rig.machine.events_after(S0, Revision(after))?;
        Some(events.map(|event| (event.revision.0, event.change, event.key.to_vec())).collect())
    };
    let all = [(1, Change::Written, b"a".to_vec()), (2, Change::Written, b"b".to_vec())];
    assert_eq!(seen(&rig, 0).unwrap()[..2], all);
    assert_eq!(seen(&rig, 2).unwrap(), [(3, Change::Deleted, b"a".to_vec())]);
    assert_eq!(seen(&rig, 3).unwrap(), []);
    (0..bounds::EVENTS_MAX).for_each(|_| drop(rig.write(put(b"c", b""))));
    assert_eq!(seen(&rig, 2), None);
    assert_eq!(seen(&rig, 3).unwrap().len(), bounds::EVENTS_MAX);
    assert_eq!(rig.machine.events_after(ShardId(9), Revision(0)).unwrap().count(), 0);
}
