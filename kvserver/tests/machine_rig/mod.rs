//! What the tests of the machine share: machines that serve shards, and commands.

use kvserver::machine::KvMachine;
use proto::{Command, Epoch, LifecycleAnswer, Operation, ShardId, Stamp, Write};
use raftstore::{Machine, Moment};

/// The bytes of a write's command.
pub fn write(shard: ShardId, stamp: Option<Stamp>, operation: Operation<'_>) -> Vec<u8> {
    proto::encode(&Command::Write(Write { shard, stamp, operation }))
}

/// The machine, serving besides the first `shards` shards, as far as they were never in it.
pub fn owning(mut machine: KvMachine, shards: u32) -> KvMachine {
    let shards = (0..shards).map(ShardId).collect();
    let command = proto::encode(&Command::Own { shards, epoch: Epoch(1) });
    let answer = machine.apply(Moment { index: 0, time_ms: 0 }, &command);
    assert_eq!(proto::decode::<LifecycleAnswer>(&answer), Ok(Ok(())));
    machine
}
