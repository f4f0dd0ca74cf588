//! Exactly once: admission, stored answers, expiry and eviction.

use super::super::bounds::{
    EVICTED_PER_COMMAND_MAX, EXPIRED_PER_COMMAND_MAX, SESSION_IDLE_MIN_MS, SESSION_TTL_MS, WINDOW,
};
use super::*;
use proto::Outcome as Effect;

/// A write that is sent again gets the first answer byte for byte and takes effect once, refusals included.
#[test]
fn retries_get_the_first_answer() {
    let mut rig = Rig::new();
    let operations = [
        append(b"k", b"x"),
        Operation::Put { key: b"k", value: b"y", expect: Expect::Absent },
        delete(b"absent"),
        delete(b"k"),
        put(&[0; bounds::KEY_BYTES_MAX + 1], b""),
        Operation::Get { key: b"k" },
    ]
    .map(|operation| operation.clone());
    let send = |rig: &mut Rig| -> Vec<Bytes> {
        let stamped = operations.iter().zip(1..);
        stamped.map(|(operation, n)| rig.apply(S0, Some(stamp(1, n, 1)), operation.clone())).collect()
    };
    let first = send(&mut rig);
    assert_eq!(written(&first[0]), (1, 1, 1));
    assert_eq!(refused(&first[1]).code, Code::VersionMismatch { current: Version(1) });
    assert_eq!(refused(&first[2]).code, Code::NotFound);
    assert_eq!(refused(&first[4]).code, Code::KeyTooLarge);
    assert_eq!(refused(&first[5]).code, Code::BadRequest);
    let after = rig.machine.digest();
    // What made the first answers no longer holds: only the session can know them.
    assert_eq!(send(&mut rig), first);
    assert_eq!(rig.machine.digest(), after);
}

/// Requests in flight may arrive in any order, and sessions of different clients and shards are apart.
#[test]
fn sequences_arrive_in_any_order() {
    let mut rig = Rig::new();
    for sequence in [3, 1, 4, 2, 3, 1] {
        rig.stamped(1, sequence, 1);
    }
    rig.stamped(2, 1, 1);
    rig.apply(ShardId(1), Some(stamp(1, 1, 1)), append(b"k", b"y"));
    assert_eq!(rig.value(b"k"), Some(&b"xxxxx"[..]));
    assert_eq!(rig.machine.get(ShardId(1), b"k").unwrap().value, b"y");
    assert_eq!(rig.machine.usage().sessions, 3);
}

/// Answers below the lowest open sequence are freed; sequences below it are refused, whatever a late stamp
/// says, as possibly carried out.
#[test]
fn the_lowest_open_sequence_frees() {
    let mut rig = Rig::new();
    (1..=10).for_each(|sequence| drop(rig.stamped(1, sequence, 1)));
    assert_eq!(rig.machine.usage().answers, 10);
    rig.stamped(1, 11, 10);
    assert_eq!(rig.machine.usage().answers, 2);
    let late = refused(&rig.stamped(1, 9, 1));
    assert_eq!((late.code, late.outcome), (Code::SequenceOutOfWindow, Effect::Unknown));
    assert_eq!(written(&rig.stamped(1, 10, 1)), (10, 10, 10));
    assert_eq!(rig.value(b"k").unwrap().len(), 11);
}

/// The window is as wide as promised and no wider, and a session never keeps more answers.
#[test]
fn the_window_is_bounded() {
    let mut rig = Rig::new();
    rig.stamped(1, 1 + WINDOW, 1);
    let far = refused(&rig.stamped(1, 2 + WINDOW, 1));
    assert_eq!((far.code, far.outcome), (Code::SequenceOutOfWindow, Effect::None));
    (1..=2 * WINDOW).for_each(|lowest| drop(rig.stamped(1, lowest + WINDOW, lowest)));
    assert_eq!(rig.machine.usage().answers, WINDOW + 1);
    rig.stamped(1, u64::MAX, u64::MAX);
    assert_eq!(rig.machine.usage().answers, 1);
}

/// Stamps that break their invariant are refused and open no session.
#[test]
fn bad_stamps_are_refused() {
    let mut rig = Rig::new();
    for (sequence, lowest_open) in [(0, 0), (1, 0), (1, 2), (0, 1)] {
        assert_eq!(refused(&rig.stamped(1, sequence, lowest_open)).code, Code::BadRequest);
    }
    assert_eq!(rig.machine.usage(), Usage::default());
}

/// Only a client that has seen no answer opens a session; any other has lost one, and is told.
#[test]
fn unknown_sessions_have_expired() {
    let mut rig = Rig::new();
    let expired = refused(&rig.stamped(1, 2, 2));
    assert_eq!((expired.code, expired.outcome), (Code::SessionExpired, Effect::Unknown));
    assert_eq!(rig.machine.usage().sessions, 0);
    written(&rig.stamped(1, 2, 1));
    written(&rig.stamped(1, 3, 3));
}

/// A session outlives any idleness up to its time to live, and is forgotten soon after it, by the time that
/// commands carry.
#[test]
fn idle_sessions_expire() {
    let mut rig = Rig::new();
    rig.stamped(1, 1, 1);
    rig.time_ms += SESSION_TTL_MS;
    assert_eq!(written(&rig.stamped(1, 1, 1)).0, 1);
    rig.time_ms += SESSION_TTL_MS;
    assert_eq!(written(&rig.stamped(1, 2, 2)).0, 2);
    rig.time_ms += SESSION_TTL_MS + 1000;
    assert_eq!(refused(&rig.stamped(1, 3, 3)).code, Code::SessionExpired);
    assert_eq!(rig.machine.usage().sessions, 0);
}

/// Time never goes back inside the machine, so a session does not live longer for a clock that does.
#[test]
fn time_never_goes_back() {
    let mut rig = Rig::new();
    rig.stamped(1, 1, 1);
    rig.time_ms += SESSION_TTL_MS;
    rig.write(put(b"other", b""));
    let latest = rig.time_ms;
    rig.time_ms = 5;
    rig.write(put(b"other", b""));
    assert_eq!(rig.machine.time_ms(), latest);
    rig.time_ms = latest + 1000;
    rig.pass_time();
    assert_eq!(rig.machine.usage().sessions, 0);
    rig.time_ms = u64::MAX;
    rig.stamped(1, 1, 1);
    rig.stamped(1, 2, 1);
    assert_eq!(rig.machine.time_ms(), u64::MAX);
}

/// One command forgets a bounded number of sessions, the idlest first.
#[test]
fn expiry_is_amortised() {
    let mut rig = Rig::new();
    let sessions = 3 * EXPIRED_PER_COMMAND_MAX as u64;
    for client in 0..sessions {
        rig.time_ms += 1000;
        rig.stamped(u128::from(client), 1, 1);
    }
    rig.time_ms += SESSION_TTL_MS + 1000;
    for round in 1..=3 {
        rig.write(put(b"other", b""));
        let forgotten = round * EXPIRED_PER_COMMAND_MAX as u64;
        assert_eq!(rig.machine.usage().sessions, sessions - forgotten);
        let left = rig.machine.shards[&S0].sessions.keys().map(|client| client.0);
        assert!(left.eq(u128::from(forgotten)..u128::from(sessions)));
    }
}

/// When there are too many sessions, a newcomer takes the place of the idlest, but of none that may still
/// repeat its first request.
#[test]
fn eviction_spares_whoever_may_retry() {
    let bounds = SessionBounds { sessions_max: 2, answers_max: 100, ..SessionBounds::FORMAT };
    let mut rig = Rig::over(owning(KvMachine::with_bounds(bounds), 0..4));
    rig.stamped(1, 1, 1);
    rig.time_ms += 1000;
    rig.stamped(2, 1, 1);
    let full = refused(&rig.stamped(3, 1, 1));
    assert_eq!((full.code, full.outcome), (Code::Overloaded, Effect::None));
    assert_eq!(written(&rig.stamped(1, 1, 1)).0, 1);
    rig.time_ms += SESSION_IDLE_MIN_MS - 1000;
    rig.stamped(1, 2, 1);
    assert_eq!(refused(&rig.stamped(3, 1, 1)).code, Code::Overloaded);
    rig.time_ms += 2000;
    assert_eq!(written(&rig.stamped(3, 1, 1)).0, 4);
    assert_eq!(refused(&rig.stamped(2, 2, 2)).code, Code::SessionExpired);
    assert_eq!(written(&rig.stamped(1, 3, 3)).0, 5);
}

/// A request that is named, by whatever digest, takes effect once under its name; any other under the same
/// name is told so and changes nothing, also where the session came in with a copy.
#[test]
fn a_name_is_for_one_request() {
    let mut rig = Rig::new();
    let name = ClientId::named(7).0;
    for (digest, shard) in [(1, ShardId(0)), (5_000, ShardId(1)), (u64::MAX, ShardId(2))] {
        let ask = |rig: &mut Rig, digest: u64, operation| {
            rig.apply(shard, Some(stamp(name, digest, digest)), operation)
        };
        let first = ask(&mut rig, digest, append(b"k", b"x"));
        assert_eq!(written(&first), (1, 1, 1));
        rig = Rig::over(loaded(&pieces(&mut rig.machine, 10)));
        assert_eq!(ask(&mut rig, digest, append(b"k", b"x")), first);
        let before = rig.machine.digest();
        for other in [digest - 1, digest.wrapping_add(1), digest / 2].into_iter().filter(|other| *other > 0) {
            let reused = refused(&ask(&mut rig, other, append(b"k", b"y")));
            assert_eq!((reused.code, reused.outcome), (Code::IdempotencyKeyReused, Effect::None));
        }
        let two = rig.apply(shard, Some(stamp(name, digest, digest - 1)), append(b"k", b"y"));
        assert_eq!(refused(&two).code, Code::BadRequest);
        assert_eq!(rig.machine.digest(), before);
    }
    rig.time_ms += SESSION_TTL_MS + 1000;
    (0..2).for_each(|_| drop(rig.write(put(b"other", b""))));
    assert_eq!(written(&rig.stamped(name, 9, 9)).2, 2, "a name that is forgotten is free again");
}

/// A machine with four places for sessions, two of which names may take.
fn with_few_places() -> Rig {
    let bounds = SessionBounds { sessions_max: 4, sessions_max_for_named: 2, answers_max: 100 };
    Rig::over(owning(KvMachine::with_bounds(bounds), 0..4))
}

/// A request named by `number`.
fn ask(rig: &mut Rig, number: u128) -> Bytes {
    rig.stamped(ClientId::named(number).0, 50, 50)
}

fn assert_full(answer: &[u8]) {
    let full = refused(answer);
    assert_eq!((full.code, full.outcome), (Code::Overloaded, Effect::None));
}

/// The names and the other clients that have a session with shard 0.
fn present(rig: &Rig) -> (Vec<u128>, Vec<u128>) {
    let (named, others): (Vec<ClientId>, Vec<ClientId>) =
        rig.machine.shards[&S0].sessions.keys().partition(|client| client.is_named());
    let number = |client: &ClientId| client.0 ^ ClientId::named(0).0;
    (named.iter().map(number).collect(), others.iter().map(|client| client.0).collect())
}

/// Requests that are named one by one take their share of the places for sessions and no more: then the next
/// is refused, and who keeps a session goes on and still opens one. A full house refuses all newcomers alike
/// and serves whoever is in it.
#[test]
fn named_requests_leave_room() {
    let mut rig = with_few_places();
    written(&rig.stamped(1, 1, 1));
    let first = ask(&mut rig, 1);
    written(&first);
    written(&ask(&mut rig, 2));
    assert_full(&ask(&mut rig, 3));
    written(&rig.stamped(2, 1, 1));
    assert_full(&rig.stamped(3, 1, 1));
    assert_full(&ask(&mut rig, 3));
    for sequence in 2..=9 {
        written(&rig.stamped(1, sequence, sequence));
    }
    assert_eq!(ask(&mut rig, 1), first);
    assert_eq!(present(&rig), (vec![1, 2], vec![1, 2]));
    assert_eq!(rig.machine.usage().named_sessions, 2);
}

/// Sessions without a name take nothing of what names may have: however many there are, a name is refused
/// only where no place is left at all.
#[test]
fn others_leave_room_for_names() {
    let mut rig = with_few_places();
    for client in 1..=3 {
        written(&rig.stamped(client, 1, 1));
    }
    written(&ask(&mut rig, 1));
    assert_full(&ask(&mut rig, 2));
    assert_eq!(present(&rig), (vec![1], vec![1, 2, 3]));
}

/// Where names hold their share, the next takes the place of the idlest name, or none: nobody without a name
/// is forgotten for it, however idle, in a full house no more than in one with room.
#[test]
fn a_name_takes_the_place_of_a_name() {
    let mut rig = with_few_places();
    written(&rig.stamped(1, 1, 1));
    for number in 1..=2 {
        rig.time_ms += 1000;
        written(&ask(&mut rig, number));
    }
    rig.time_ms += SESSION_IDLE_MIN_MS + 1000;
    written(&ask(&mut rig, 3));
    assert_eq!(present(&rig), (vec![2, 3], vec![1]));
    written(&rig.stamped(2, 1, 1));
    written(&ask(&mut rig, 4));
    assert_eq!(present(&rig), (vec![3, 4], vec![1, 2]));
    assert_full(&ask(&mut rig, 5));
    assert_eq!(present(&rig), (vec![3, 4], vec![1, 2]));
    written(&rig.stamped(3, 1, 1));
    assert_eq!(present(&rig), (vec![3, 4], vec![2, 3]));
}

/// In a full house in which names do not hold their share, a newcomer takes the place of the idlest, of
/// whichever kind it is itself, and of whichever kind that one is.
#[test]
fn a_full_house_forgets_the_idlest_of_all() {
    let mut rig = with_few_places();
    written(&rig.stamped(1, 1, 1));
    rig.time_ms += 1000;
    written(&ask(&mut rig, 1));
    for client in 2..=3 {
        written(&rig.stamped(client, 1, 1));
    }
    rig.time_ms += SESSION_IDLE_MIN_MS + 1000;
    written(&ask(&mut rig, 2));
    assert_eq!(present(&rig), (vec![1, 2], vec![2, 3]));
    for (client, left) in [(4, vec![3, 4]), (5, vec![4, 5])] {
        written(&rig.stamped(client, 1, 1));
        assert_eq!(present(&rig), (vec![1, 2], left), "of equals, the first went");
    }
    written(&rig.stamped(6, 1, 1));
    assert_eq!(present(&rig), (vec![2], vec![4, 5, 6]));
}

/// When too many answers are kept, writes that would add one are refused without effect, and those that free
/// some are not.
#[test]
fn answers_are_bounded() {
    let bounds = SessionBounds { sessions_max: 10, answers_max: 3, ..SessionBounds::FORMAT };
    let mut rig = Rig::over(owning(KvMachine::with_bounds(bounds), 0..4));
    (1..=3).for_each(|sequence| drop(rig.stamped(1, sequence, 1)));
    for (client, sequence) in [(1, 4), (2, 1)] {
        let full = refused(&rig.stamped(client, sequence, 1));
        assert_eq!((full.code, full.outcome), (Code::Overloaded, Effect::None));
    }
    assert_eq!(written(&rig.stamped(1, 3, 1)).0, 3);
    assert_eq!(written(&rig.stamped(1, 4, 3)).0, 4);
    assert_eq!(written(&rig.stamped(2, 1, 1)).0, 5);
    assert_eq!(rig.machine.usage(), Usage { keys: 1, bytes: 6, sessions: 2, named_sessions: 0, answers: 3 });
}

/// When too many answers are kept, idle sessions give theirs up, the idlest first and only as many as needed, a
/// bounded number at a command; none that may still repeat a request.
#[test]
fn full_answers_evict_the_idle() {
    const SESSIONS: u64 = 2 + 2 * EVICTED_PER_COMMAND_MAX as u64;
    let bounds = SessionBounds { sessions_max: 100, answers_max: SESSIONS, ..SessionBounds::FORMAT };
    let mut rig = Rig::over(owning(KvMachine::with_bounds(bounds), 0..4));
    (1..=SESSIONS).for_each(|client| drop(rig.stamped(u128::from(client), 1, 1)));
    rig.time_ms += 1000;
    rig.stamped(3, 1, 1);
    assert_eq!(refused(&rig.stamped(50, 1, 1)).code, Code::Overloaded);
    rig.time_ms += SESSION_IDLE_MIN_MS;
    written(&rig.stamped(50, 1, 1));
    assert_eq!(refused(&rig.stamped(1, 2, 2)).code, Code::SessionExpired, "of equals, the first went");
    written(&rig.stamped(50, 2, 1));
    written(&rig.stamped(51, 1, 1));
    let clients = |rig: &Rig| rig.machine.shards[&S0].sessions.keys().map(|id| id.0).collect::<Vec<_>>();
    assert_eq!(clients(&rig), [3, 5, 6, 7, 8, 9, 10, 50, 51]);
    // Far over its bound, a command evicts its share and no more.
    rig.machine.bounds.answers_max = 1;
    assert_eq!(refused(&rig.stamped(51, 2, 1)).code, Code::Overloaded);
    assert_eq!(clients(&rig), [3, 9, 10, 50, 51]);
    let twin = loaded(&pieces(&mut rig.machine, 300));
    assert_eq!(twin.digest(), rig.machine.digest());
}

/// 100,000 sessions with an answer each take at most 200 bytes of replicated state apiece.
#[test]
fn sessions_are_small() {
    const SESSIONS: u128 = 100_000;
    let mut machine = owning_all();
    let time_ms = 1_800_000_000_000;
    for number in 0..SESSIONS {
        // Spread over the whole space, as random ids are: small numbers would encode too well.
        let client = (number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
        let shard = ShardId((number % 256) as u32);
        for stamp in [stamp(client, 1, 1), stamp(client, 1_000_000, 999_999)] {
            let write = Write { shard, stamp: Some(stamp), operation: put(b"k", b"v") };
            let command = Command::Write(write);
            machine.apply(Moment { index: 1, time_ms }, &proto::encode(&command));
        }
    }
    assert_eq!(machine.usage().sessions, 100_000);
    assert_eq!(machine.usage().answers, 100_000);
    let mut without = KvMachine::new();
    pieces(&mut machine, usize::MAX).iter().for_each(|piece| without.load(piece).unwrap());
    without.shards.values_mut().for_each(|shard| shard.sessions.clear());
    let with = pieces(&mut machine, usize::MAX).concat().len();
    let bytes = with - pieces(&mut without, usize::MAX).concat().len();
    println!("{} bytes a session", bytes as f64 / SESSIONS as f64);
    assert!(bytes as u128 <= 200 * SESSIONS, "{bytes}");
}
