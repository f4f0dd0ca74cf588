//! What a key costs in memory, measured: ignored by default, because it wants a machine for itself. Run
//! `cargo test -p kvserver --release -- --ignored memory_per_key --nocapture`.

mod machine_rig;

use kvserver::machine::KvMachine;
use machine_rig::{owning, write};
use proto::{Expect, Operation};
use raftstore::{Machine, Moment};

const KEYS: u64 = 1_000_000;
const VALUE_BYTES: usize = 256;

/// Resident bytes of this process.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux tells");
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.expect("the second number is the resident pages") * 4096
}

/// A million keys of 16 bytes with values of 256 cost less than 200 bytes each beside these, whether they
/// come in order or at random.
#[test]
#[ignore = "measures the whole process"]
fn memory_per_key() {
    let mut held = vec![];
    for (order, factor) in [("in order", 1), ("at random", 0x9E37_79B9_7F4A_7C15_u64)] {
        let before = resident_bytes();
        let mut machine = owning(KvMachine::new(), 256);
        for number in 0..KEYS {
            let key = format!("{:016x}", number.wrapping_mul(factor));
            let (key, value) = (key.as_bytes(), &[7; VALUE_BYTES]);
            let operation = Operation::Put { key, value, expect: Expect::Any };
            let command = write(proto::shard_of(key, 256), None, operation);
            machine.apply(Moment { index: number, time_ms: number }, &command);
        }
        let each = (resident_bytes() - before) / KEYS;
        let own = machine.usage().bytes / KEYS;
        println!("{order}: {each} bytes a key, of which {own} are its own and its value's");
        assert_eq!(machine.usage().keys, KEYS);
        assert!(each < own + 200, "{each}");
        held.push(machine);
    }
}
