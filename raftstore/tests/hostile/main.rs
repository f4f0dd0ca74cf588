//! Hostile bytes at the two doors through which bytes come in: the wire, where a peer may say anything, and
//! the disk, where anything may stand. A node answers, refuses or stops with the reason; it never panics, and
//! holds no more memory than it is sent.

mod disk;
mod log;
mod panics;
mod wire;

use proptest::prelude::*;
use proptest::sample::Index;
use std::sync::Once;

/// What a node of one group takes by itself, and what it takes for each byte that it is sent or finds.
const NODE_BYTES_MAX: u64 = 8 << 20;
const BYTES_EACH_MAX: u64 = 64;

fn bounded<T>(length: usize, work: impl FnOnce() -> T) -> T {
    // What a process allocates once is none of the input's doing.
    static FIRST: Once = Once::new();
    FIRST.call_once(|| drop((wire::talk(&[]), disk::start(&[]))));
    let mut done = None;
    let held = allocation_counter::measure(|| done = Some(work())).bytes_max;
    let bound = NODE_BYTES_MAX + BYTES_EACH_MAX * length as u64;
    assert!(held <= bound, "{held} bytes were held for {length}");
    done.expect("it was done")
}

/// Samples get past the greeting, each is answered, and frames reach the replica that they are addressed to.
#[test]
fn samples_are_understood() {
    const WELCOME: u8 = 2;
    const FAILED: u8 = 81;
    for (number, sample) in wire::samples().into_iter().enumerate() {
        let heard = bounded(sample.len(), || wire::talk(&sample));
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

/// The disk as it was left starts, with all that was written.
#[test]
fn the_whole_disk_starts() {
    assert_eq!(disk::start(&[]), Ok(40 * 60));
}

/// A length that nothing follows costs no more than any other frame, on any lane and before any greeting.
#[test]
fn lengths_without_bytes_cost_nothing() {
    for lane in 0..=*wire::LANES.end() {
        let claims = [vec![lane, 16, 4, 0xff, 0xff], vec![lane, 0xff, 0xff, 0xff, 0x00]];
        claims.iter().for_each(|said| drop(bounded(said.len(), || wire::talk(said))));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// A peer that sends any bytes, greeted or not, is answered or sent away.
    #[test]
    fn arbitrary_talk(lane in 0..=5_u8, said in prop::collection::vec(any::<u8>(), 0..300)) {
        let said = [&[lane][..], &said].concat();
        bounded(said.len(), || wire::talk(&said));
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
        bounded(said.len(), || wire::talk(&said));
    }

    /// And one that says something sensible in which bytes were replaced, or that breaks off.
    #[test]
    fn damaged_talk(
        which in any::<Index>(),
        changes in prop::collection::vec((any::<Index>(), any::<u8>()), 0..4),
        end in prop::option::of(any::<Index>()),
    ) {
        let all = wire::samples();
        let mut said = all[which.index(all.len())].clone();
        for (at, byte) in changes {
            let at = at.index(said.len());
            said[at] = byte;
        }
        said.truncate(end.map_or(said.len(), |end| 1 + end.index(said.len())));
        bounded(said.len(), || wire::talk(&said));
    }

    /// A node on a disk that was changed behind its back starts, or says why it does not.
    #[test]
    fn damaged_disks(changes in prop::collection::vec(any::<[u8; 5]>(), 0..4)) {
        let changes = changes.concat();
        match bounded(changes.len(), || disk::start(&changes)) {
            Ok(held) => prop_assert!(held <= 1 << 20),
            Err(why) => prop_assert!(!why.is_empty()),
        }
    }
}
