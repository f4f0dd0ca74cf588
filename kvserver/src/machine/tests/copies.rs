//! Copies made while the machine works.

use super::super::bounds::{EVENTS_MAX, KEY_BYTES_MAX, SESSION_TTL_MS, VALUE_BYTES_MAX};
use super::super::piece::{StateRecord, records};
use super::*;

fn assert_equal(copy: &KvMachine, machine: &KvMachine) {
    assert_eq!(copy.digest(), machine.digest());
    assert_eq!(copy.usage(), machine.usage());
}

/// The records of some pieces.
pub(super) fn records_of(pieces: &[Vec<u8>]) -> Vec<StateRecord<'_>> {
    pieces.iter().flat_map(|piece| records(piece).unwrap()).map(Result::unwrap).collect()
}

/// A machine with 100 keys and 10 sessions over 4 shards.
fn filled() -> Rig {
    let mut rig = Rig::new();
    for number in 0..100_u64 {
        let stamp = (number < 10).then(|| stamp(u128::from(number), 1, 1));
        let key = format!("key{number:03}").into_bytes();
        rig.apply(ShardId((number % 4) as u32), stamp, put(&key, &[7; 50]));
    }
    rig
}

/// A copy of an empty machine is whole after one step, and the next step hands out nothing.
#[test]
fn an_empty_machine_copies() {
    let mut machine = KvMachine::new();
    let copy = machine.copy_begin();
    let step = machine.copy_next(copy, 1000);
    assert_eq!(step.remaining, 0);
    assert_equal(&loaded(&[step.bytes]), &machine);
    assert_eq!(machine.copy_next(copy, 1000), CopyStep { bytes: vec![], remaining: 0 });
    loaded(&[vec![]]);
}

/// The longest key with the longest value travels in one piece that a snapshot takes.
#[test]
fn the_longest_value_fits_a_piece() {
    let mut rig = Rig::new();
    rig.apply(ShardId(0), None, put(&[b'k'; KEY_BYTES_MAX], &vec![7; VALUE_BYTES_MAX]));
    let copy = rig.machine.copy_begin();
    let mut longest = 0;
    loop {
        let step = rig.machine.copy_next(copy, 1);
        longest = longest.max(step.bytes.len());
        if step.remaining == 0 {
            break;
        }
    }
    assert!((VALUE_BYTES_MAX..=raftstore::PIECE_BYTES_MAX).contains(&longest), "{longest}");
}

/// Copies are exact whatever the size of their pieces; pieces stay within it; what remains goes down.
#[test]
fn pieces_of_any_size_make_a_copy() {
    let mut rig = filled();
    for bytes_max in [0, 1, 150, 151, 200, 1000, 5000, usize::MAX] {
        let copy = rig.machine.copy_begin();
        let mut pieces = Vec::new();
        let mut remaining = u64::MAX;
        while remaining > 0 {
            let step = rig.machine.copy_next(copy, bytes_max);
            assert!(step.remaining <= remaining, "{} after {remaining}", step.remaining);
            assert!(step.bytes.len() <= bytes_max.max(150), "{} of {bytes_max}", step.bytes.len());
            remaining = step.remaining;
            pieces.push(step.bytes);
        }
        rig.machine.copy_end(copy);
        assert_equal(&loaded(&pieces), &rig.machine);
    }
}

/// What a copy would take is told before it begins as its first step tells it, but for what that step hands out.
#[test]
fn a_copys_size_is_known_before_it_begins() {
    let mut rig = filled();
    for operation in [put(b"large", &[7; 10_000]), delete(b"key000")] {
        rig.apply(S0, None, operation);
        let told = rig.machine.copy_bytes();
        let copy = rig.machine.copy_begin();
        let first = rig.machine.copy_next(copy, 1);
        rig.machine.copy_end(copy);
        assert!(first.remaining <= told && told <= first.remaining + 100, "{told}, {}", first.remaining);
    }
}

/// Changes ahead of a copy cost it nothing; changes behind it are handed out again, removals as tombstones.
#[test]
fn changes_behind_the_copy_follow() {
    let mut rig = filled();
    let copy = rig.machine.copy_begin();
    let mut pieces = vec![rig.machine.copy_next(copy, 1000).bytes];
    rig.apply(ShardId(3), None, put(b"key003", b"ahead"));
    let behind = [put(b"key000", b"behind"), delete(b"key004"), put(b"key0", b"new")];
    behind.iter().for_each(|operation| drop(rig.apply(S0, None, operation.clone())));
    pieces.extend(rest_of(&mut rig.machine, copy, 1000));
    assert_equal(&loaded(&pieces), &rig.machine);
    let records = records_of(&pieces);
    let times = |wanted: &[u8]| {
        let of = |record: &&StateRecord<'_>| matches!(record, StateRecord::Key { key, .. } if *key == wanted);
        records.iter().filter(of).count()
    };
    assert_eq!((times(b"key000"), times(b"key003"), times(b"key004"), times(b"key0")), (2, 1, 1, 1));
    assert!(records.contains(&StateRecord::KeyGone { shard: S0, key: b"key004" }));
}

/// Keys and sessions that come and go behind a copy leave no trace in it, so that its memory is bounded.
#[test]
fn what_comes_and_goes_is_forgotten() {
    let mut rig = filled();
    let copy = rig.machine.copy_begin();
    let mut pieces = rest_of(&mut rig.machine, copy, 1000);
    for number in 0..1000_u32 {
        rig.write(put(&number.to_be_bytes(), b"v"));
        rig.write(delete(&number.to_be_bytes()));
    }
    let rest = rest_of(&mut rig.machine, copy, usize::MAX);
    assert!(records_of(&rest).iter().all(|record| !matches!(record, StateRecord::KeyGone { .. })));
    let events =
        records_of(&rest).iter().filter(|record| matches!(record, StateRecord::Event { .. })).count();
    assert_eq!(events, EVENTS_MAX);
    pieces.extend(rest);
    assert_equal(&loaded(&pieces), &rig.machine);
}

/// Time alone, sessions that are only touched, freed answers and expired sessions all reach the copy.
#[test]
fn quiet_changes_reach_the_copy() {
    let mut rig = filled();
    let copy = rig.machine.copy_begin();
    let mut pieces = rest_of(&mut rig.machine, copy, 500);
    let follow = |rig: &mut Rig, pieces: &mut Vec<Vec<u8>>| {
        let before = loaded(pieces).digest();
        assert_ne!(before, rig.machine.digest(), "something changed");
        pieces.extend(rest_of(&mut rig.machine, copy, 500));
        assert_equal(&loaded(pieces), &rig.machine);
    };
    rig.time_ms += 5000;
    rig.pass_time();
    follow(&mut rig, &mut pieces);
    rig.time_ms += 5000;
    rig.stamped(0, 1, 1);
    follow(&mut rig, &mut pieces);
    rig.stamped(0, 2, 2);
    follow(&mut rig, &mut pieces);
    rig.time_ms += SESSION_TTL_MS;
    for _ in 0..3 {
        rig.pass_time();
        follow(&mut rig, &mut pieces);
    }
    assert_eq!(rig.machine.usage().sessions, 1);
}

/// Copies that run at the same time are each exact; one that has ended costs nothing and hurts nobody.
#[test]
fn copies_run_side_by_side() {
    let mut rig = filled();
    let (one, two, three) = (rig.machine.copy_begin(), rig.machine.copy_begin(), rig.machine.copy_begin());
    let mut first = vec![rig.machine.copy_next(one, 700).bytes];
    rig.machine.copy_next(three, 2000);
    rig.apply(ShardId(2), Some(stamp(99, 1, 1)), put(b"key002", b"changed"));
    let mut second = vec![rig.machine.copy_next(two, 3000).bytes];
    rig.machine.copy_end(three);
    rig.write(delete(b"key000"));
    rig.apply(ShardId(9), None, put(b"a new shard", b""));
    first.extend(rest_of(&mut rig.machine, one, 700));
    second.extend(rest_of(&mut rig.machine, two, 3000));
    assert_equal(&loaded(&first), &rig.machine);
    assert_equal(&loaded(&second), &rig.machine);
}

/// A copy made of a copy is the same, and both go on alike.
#[test]
fn a_copy_goes_on_as_the_original() {
    let mut rig = filled();
    let mut twin = Rig::over(loaded(&pieces(&mut rig.machine, 300)));
    twin = Rig::over(loaded(&pieces(&mut twin.machine, 900)));
    for round in 0..20_u128 {
        rig.time_ms += SESSION_TTL_MS / 10;
        twin.time_ms = rig.time_ms;
        for sequence in [1, 2] {
            assert_eq!(rig.stamped(round, sequence, 1), twin.stamped(round, sequence, 1));
        }
        assert_equal(&twin.machine, &rig.machine);
    }
}

/// A write to shard 0 that takes effect; unlike the rig's, it does not check the whole machine.
fn quick(rig: &mut Rig, operation: &Operation<'_>) {
    assert!(rig.machine.execute_unstamped(S0, operation).is_ok(), "{operation:?}");
}

/// However sizes are skewed, what remains is never less than what a copy then hands out, as long as it is little:
/// whoever takes the rest under a lock knows how much that is. More is told as more.
#[test]
fn what_remains_is_not_understated() {
    const MIB: usize = 1 << 20;
    let large = vec![7; MIB];
    let mut rig = Rig::new();
    (0..4_u32).for_each(|number| drop(rig.write(put(&number.to_be_bytes(), &large))));
    let small = |number: u32| format!("small{number:05}").into_bytes();
    (0..20_000).for_each(|number| quick(&mut rig, &put(&small(number), b"v")));
    let copy = rig.machine.copy_begin();
    rest_of(&mut rig.machine, copy, usize::MAX);
    let remaining = |rig: &mut Rig| usize::try_from(rig.machine.copy_next(copy, 0).remaining).unwrap();
    let check_rest = |rig: &mut Rig, most: usize| {
        let told = remaining(rig);
        let bytes = rest_of(&mut rig.machine, copy, usize::MAX).concat().len();
        assert!(bytes <= told && told <= most, "{bytes} bytes, {told} were told");
    };
    // Four records of an average of some 250 bytes.
    (0..4_u32).for_each(|number| drop(rig.write(append(&number.to_be_bytes(), b"more"))));
    assert!(remaining(&mut rig) > MIB);
    rest_of(&mut rig.machine, copy, usize::MAX);
    // One large record among a hundred small ones, in any order, then small ones alone.
    (0..100).for_each(|number| quick(&mut rig, &put(&small(number), b"w")));
    check_rest(&mut rig, 64 << 10);
    rig.write(put(b"the last", &large[..MIB / 2]));
    (0..100).for_each(|number| quick(&mut rig, &delete(&small(number))));
    check_rest(&mut rig, MIB / 2 + (64 << 10));
    (0..200_u64).for_each(|sequence| drop(rig.stamped(1, 1 + sequence, 1)));
    check_rest(&mut rig, 64 << 10);
    (0..20_000).for_each(|number| quick(&mut rig, &put(&small(number), b"x")));
    assert!(remaining(&mut rig) > MIB);
}

/// A machine that is being copied does not load.
#[test]
fn no_loading_while_copying() {
    let mut rig = filled();
    let pieces = pieces(&mut rig.machine, 1000);
    let mut machine = KvMachine::new();
    machine.copy_begin();
    assert!(machine.load(&pieces[0]).is_err());
}
