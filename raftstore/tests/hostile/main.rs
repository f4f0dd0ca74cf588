//! Hostile bytes at the two doors through which bytes come in: the wire, where a peer may say anything, and
//! the disk, where anything may stand. A node answers, refuses or stops with the reason; it never panics, and
//! holds no more memory than it is sent.

#[path = "../../../proto/tests/hostile/damage.rs"]
mod damage;
mod disk;
mod log;
#[path = "../../../proto/tests/hostile/memory.rs"]
mod memory;
mod panics;
mod wire;

use damage::damaged;
use disk::Outcome;
use memory::Bound;
use proptest::prelude::*;
use std::sync::Once;

/// What a node of one group takes by itself, and what it takes for each byte that it is sent or finds.
const BOUND: Bound = Bound { own: 8 << 20, each: 64 };

fn bounded<T>(input: &[u8], work: impl FnOnce(&[u8]) -> T) -> T {
    // What a process allocates once is none of the input's doing.
    static FIRST: Once = Once::new();
    FIRST.call_once(|| drop((wire::talk(&[]), disk::start(&[]))));
    BOUND.hold(input, || work(input))
}

/// The kind of the frame by which a node welcomes a peer.
const WELCOME: u8 = 2;

/// Samples get past the greeting, each is answered, and frames reach the replica that they are addressed to.
#[test]
fn samples_are_understood() {
    const FAILED: u8 = 81;
    for (number, sample) in wire::samples().into_iter().enumerate() {
        let heard = bounded(&sample, wire::talk);
        assert_eq!(heard.get(9), Some(&WELCOME), "sample {number}: {heard:?}");
        let mut kinds = Vec::new();
        let mut rest = &heard[..];
        while let Some((length, _)) = rest.split_first_chunk::<4>() {
            kinds.push(rest[9]);
            rest = &rest[4 + u32::from_le_bytes(*length) as usize..];
        }
        println!("sample {number} is answered by {kinds:?}");
        assert!(kinds.len() > 1 || number == 5, "sample {number} is not answered");
        // Of calls, one asks for what is not there; of a snapshot, the replica need not have any use.
        let may_fail = number == 3 || number == 4;
        assert!(may_fail || !kinds.contains(&FAILED), "sample {number} is not understood: {kinds:?}");
    }
}

/// What a later leader says of a log that no leader can have is refused with the reason, and openraft, which would
/// panic, never hears of it: found by damaged talk.
#[test]
fn impossible_logs_are_refused() {
    // Where a sample holds the terms of its vote, of the entry before and of its entries, or of the snapshot's last.
    let changed = |sample: usize, changes: &[(usize, u8)]| {
        let mut said = wire::samples().swap_remove(sample);
        changes.iter().for_each(|(at, byte)| said[*at] = *byte);
        String::from_utf8_lossy(&bounded(&said, wire::talk)).into_owned()
    };
    let contradicts = "contradicts what was committed";
    let append = changed(0, &[(14, 3), (52, 2), (73, 2), (98, 2)]);
    assert!(append.contains(contradicts), "{append}");
    let heartbeat = changed(2, &[(6, 3), (23, 2)]);
    assert!(heartbeat.contains(contradicts), "{heartbeat}");
    let snapshot = changed(3, &[(23, 2), (31, 0)]);
    assert!(snapshot.contains(contradicts), "{snapshot}");
    let beyond = changed(3, &[(24, 7)]);
    let untouched = changed(3, &[]);
    assert!(beyond.len() < untouched.len(), "{beyond} is said where {untouched} would be");
}

/// A heartbeat of somebody whom nobody has elected is refused: openraft asserts that there is none. Found by the fuzzer.
#[test]
fn candidates_do_not_lead() {
    let said = [4, 32, 0, 0, 71, 0, 0, 0, 0, 0, 91, 0, 0, 122, 0, 0, 33, 1, 0, 0, 0, 0, 0, 0];
    bounded(&said, wire::talk);
}

/// The disk as it was left starts, with all that was written.
#[test]
fn the_whole_disk_starts() {
    assert_eq!(disk::start(&[]), Outcome::Serves(40 * 60));
}

/// An entry that was committed and is of another term now, under a checksum that fits, is refused: found by the
/// fuzzer.
#[test]
fn committed_entries_of_another_term_are_refused() {
    let outcome = disk::start(&[0xe4, 0xff, 0xbd, 0x02, 0x86]);
    assert!(matches!(&outcome, Outcome::Refuses(why) if why.contains("in the log")), "{outcome:?}");
}

/// A length that nothing follows costs no more than any other frame, on any lane once it was greeted and
/// before any greeting: neither one that is within the lane's bound nor one beyond it.
#[test]
fn lengths_without_bytes_cost_nothing() {
    const CLAIMS: [u32; 5] = [60 << 10, 3 << 20, 7 << 20, 100 << 20, u32::MAX];
    for lane in 0..=*wire::LANES.end() {
        for claim in CLAIMS {
            let said = [&[wire::RAW | lane][..], &claim.to_le_bytes()].concat();
            let heard = bounded(&said, wire::talk);
            let is_welcome = heard.get(9) == Some(&WELCOME);
            assert_eq!(is_welcome, wire::LANES.contains(&lane), "lane {lane}, {claim} bytes: {heard:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// A peer that sends any bytes, greeted or not, is answered or sent away.
    #[test]
    fn arbitrary_talk(
        lane in 0..=5_u8,
        raw in prop::sample::select(vec![0, wire::RAW]),
        said in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let said = [&[lane | raw][..], &said].concat();
        bounded(&said, wire::talk);
    }

    /// So is one that sends well sealed frames of every kind whose payloads make no sense.
    #[test]
    fn arbitrary_frames(
        lane in wire::LANES,
        frames in prop::collection::vec(
            (prop::sample::select(vec![1, 4, 16, 18, 32, 33, 34, 35, 48, 49, 50, 64, 80, 99_u8]), 0..12_u8,
             prop::collection::vec(0..4_u8, 0..120)),
            0..6,
        ),
    ) {
        let mut said = vec![lane];
        for (kind, whom, payload) in frames {
            said.extend([kind, whom, u8::try_from(payload.len()).unwrap_or(0), 0]);
            said.extend(payload);
        }
        bounded(&said, wire::talk);
    }

    /// And one that says something sensible in which bytes were replaced, that breaks off, or that goes on.
    #[test]
    fn damaged_talk(said in damaged(wire::samples())) {
        bounded(&said, wire::talk);
    }

    /// A node on a disk that was changed behind its back says why it does not start, or starts with all that
    /// it had acknowledged, unless the checksums were made to fit.
    #[test]
    fn damaged_disks(changes in prop::collection::vec(any::<[u8; 5]>(), 0..4), seals in any::<bool>()) {
        let seal = if seals { 0xff } else { 0x7f };
        let changes: Vec<u8> = changes.iter().flat_map(|[place, how, at @ ..]| {
            [&[*place, how & seal], &at[..]].concat()
        }).collect();
        bounded(&changes, disk::start);
    }
}
