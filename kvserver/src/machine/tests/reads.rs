//! What reads answer.

use super::super::bounds::SCAN_RECORDS_MAX;
use super::*;

/// 64 keys over 8 shards: `a/00` to `a/31`, then `b/00` to `b/31`, each with a value of 10 bytes.
fn filled() -> (KvMachine, Vec<Vec<u8>>) {
    let mut rig = Rig::new();
    let keys = |prefix: &'static str| (0..32).map(move |n| format!("{prefix}/{n:02}").into_bytes());
    let keys: Vec<_> = keys("a").chain(keys("b")).collect();
    for key in &keys {
        rig.apply(proto::shard_of(key, 8), None, put(key, b"0123456789"));
    }
    (rig.machine, keys)
}

fn scan(machine: &KvMachine, operation: Operation<'_>) -> (Vec<Vec<u8>>, bool) {
    match machine.query(&operation, 8).unwrap() {
        Reply::Page { records, more } | Reply::Share { records, more, .. } => {
            (records.iter().map(|record| record.key.to_vec()).collect(), more)
        }
        other => panic!("not a page: {other:?}"),
    }
}

const ALL: u32 = u32::MAX;

/// A scan lists the keys of all shards in byte order, within prefix, start and after.
#[test]
fn scans_merge_shards_in_order() {
    let (machine, keys) = filled();
    let of = |prefix, after, start| {
        scan(&machine, Operation::Scan { prefix, after, start, limit: ALL, bytes_max: ALL })
    };
    assert_eq!(of(b"", None, b""), (keys.clone(), false));
    assert_eq!(of(b"b", None, b""), (keys[32..].to_vec(), false));
    assert_eq!(of(b"a", None, b"a/30"), (keys[30..32].to_vec(), false));
    assert_eq!(of(b"a", Some(b"a/30"), b"a/1"), (keys[31..32].to_vec(), false));
    assert_eq!(of(b"a", Some(b"a/30"), b"a/31"), (keys[31..32].to_vec(), false));
    assert_eq!(of(b"b", Some(b"a/30"), b""), (keys[32..].to_vec(), false));
    assert_eq!(of(b"", Some(b"b/31"), b""), (vec![], false));
    assert_eq!(of(b"a/", None, b"b"), (vec![], false));
    assert_eq!(of(b"zz", None, b""), (vec![], false));
}

/// Pages end at the limit or at the bytes, whichever comes first, hold at least one record where there is one,
/// and say exactly whether more follows.
#[test]
fn pages_are_cut_exactly() {
    let (machine, keys) = filled();
    let of = |after: Option<&[u8]>, limit, bytes_max| {
        scan(&machine, Operation::Scan { prefix: b"a", after, start: b"", limit, bytes_max })
    };
    assert_eq!(of(None, 32, ALL), (keys[..32].to_vec(), false));
    assert_eq!(of(None, 31, ALL), (keys[..31].to_vec(), true));
    assert_eq!(of(None, 0, ALL), (vec![], true));
    assert_eq!(of(Some(b"a/31"), 0, ALL), (vec![], false));
    assert_eq!(of(None, ALL, 28), (keys[..2].to_vec(), true));
    assert_eq!(of(None, ALL, 27), (keys[..1].to_vec(), true));
    assert_eq!(of(Some(b"a/30"), ALL, 0), (keys[31..32].to_vec(), false));
    assert_eq!(of(None, ALL, 32 * 14), (keys[..32].to_vec(), false));
}

/// Whatever a scan asks for, a page is bounded, and says that more follows.
#[test]
fn pages_are_bounded() {
    let mut machine = owning_all();
    for number in 0..=SCAN_RECORDS_MAX as u32 {
        let key = number.to_be_bytes();
        let write = Write { shard: S0, stamp: None, operation: put(&key, b"") };
        let command = proto::encode(&Command::Write(write));
        machine.apply(Moment { index: 1, time_ms: 1 }, &command);
    }
    let all = Operation::Scan { prefix: b"", after: None, start: b"", limit: ALL, bytes_max: ALL };
    let (keys, more) = scan(&machine, all);
    assert_eq!((keys.len(), more), (SCAN_RECORDS_MAX, true));
}

/// A prefix that decides the shard by its braces finds what a scan of all shards finds.
#[test]
fn braces_confine_a_scan() {
    let mut rig = Rig::new();
    let keys: [&[u8]; 4] = [b"x{room1}/a", b"x{room1}/b", b"x{room10}/a", b"x{room2}/a"];
    keys.iter().for_each(|key| drop(rig.apply(proto::shard_of(key, 8), None, put(key, b"v"))));
    let of = |prefix| {
        let all = Operation::Scan { prefix, after: None, start: b"", limit: ALL, bytes_max: ALL };
        scan(&rig.machine, all).0
    };
    assert_eq!(of(b"x{room1}"), keys[..2]);
    assert_eq!(of(b"x{room1"), [keys[2], keys[0], keys[1]]);
    assert_eq!(of(b"x{room1}/b"), keys[1..2]);
}

/// A get answers value, version and revision, or that the key does not exist; writes are no queries.
#[test]
fn gets() {
    let (mut machine, _) = filled();
    let value = Reply::Value { value: b"0123456789", version: Version(1), revision: Revision(1) };
    let first = machine.query(&Operation::Get { key: b"a/00" }, 8).unwrap();
    assert!(matches!(first, Reply::Value { value: b"0123456789", version: Version(1), .. }), "{first:?}");
    assert_eq!(machine.query(&Operation::Get { key: b"nope" }, 8).unwrap_err().code, Code::NotFound);
    assert_eq!(machine.query(&put(b"a", b""), 8).unwrap_err().code, Code::BadRequest);
    let write = Write { shard: ShardId(0), stamp: None, operation: put(b"", b"0123456789") };
    let command = Command::Write(write);
    machine = owning_all();
    machine.apply(Moment { index: 1, time_ms: 1 }, &proto::encode(&command));
    assert_eq!(machine.query(&Operation::Get { key: b"" }, 8), Ok(value));
}
