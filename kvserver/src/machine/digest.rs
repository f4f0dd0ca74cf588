//! One number for a machine's whole state.
//!
//! Owns the digest: FNV-1a over the records of a copy, in their order. Machines of equal state have equal
//! digests, on every node and in every build that writes the same format of copies. It is no seal against
//! people: FNV collides on purpose with ease.

use super::KvMachine;
use super::copy::key_record;
use super::piece::StateRecord;
use super::shard::Shard;
use proto::{Revision, ShardId};

/// FNV-1a, 64 bits.
struct Fnv(u64);

impl Fnv {
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// The digest of everything that a copy of `machine` would hold.
pub(super) fn digest(machine: &KvMachine) -> u64 {
    let mut fnv = Fnv(0xcbf2_9ce4_8422_2325);
    let mut bytes = Vec::new();
    let mut add = |record: &StateRecord<'_>| {
        bytes.clear();
        record.encode(&mut bytes);
        fnv.add(&bytes);
    };
    add(&StateRecord::Time { time_ms: machine.time_ms });
    machine.shards.iter().for_each(|(id, shard)| shard_records(*id, shard, &mut add));
    fnv.0
}

fn shard_records(id: ShardId, shard: &Shard, add: &mut impl FnMut(&StateRecord<'_>)) {
    add(&StateRecord::State { shard: id, state: shard.state });
    shard.data.iter().for_each(|(key, entry)| add(&key_record(id, key, entry)));
    for (&client, session) in &shard.sessions {
        let (lowest, active_s) = (session.lowest(), session.active_s());
        let answers = session.encode_answers();
        add(&StateRecord::Session { shard: id, client, lowest, active_s, answers: &answers });
    }
    for event in shard.events.after(Revision(0)) {
        let (revision, change, key) = (event.revision, event.change, event.key);
        add(&StateRecord::Event { shard: id, revision, change, key });
    }
    let (floor, revision) = (shard.events.floor(), shard.events.revision());
    add(&StateRecord::Tail { shard: id, floor, revision });
}
