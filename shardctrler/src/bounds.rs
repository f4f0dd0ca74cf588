//! The numbers that are part of the machine's format.
//!
//! Owns every constant on which the controller's state depends. All of its replicas must agree on them for
//! ever, so they are constants and never settings; changing one of them is a change of format. Together they
//! bound the state: at most about 20 MiB, half of which only where 65,536 shards failed to move. A cluster of
//! 256 shards, 16 groups and 5 nodes takes less than 8 KiB, with hundreds of epochs in its history.

pub use proto::SHARDS_MAX;

/// The most nodes.
pub const NODES_MAX: usize = 1024;

/// The most data groups at once.
pub const GROUPS_MAX: usize = 1024;

/// The highest id that a group may be given: the next free one must not run out.
pub const GROUP_ID_MAX: u64 = 1 << 48;

/// No epoch of a copy may be above this: counting does not get there, damage does.
pub const EPOCH_MAX: u64 = 1 << 62;

/// The most replicas of one group.
pub const REPLICAS_MAX: u32 = 9;

/// The most members that one group may report: those that are wanted, and those that are not any more.
pub const MEMBERS_MAX: usize = 64;

/// The longest address, in bytes.
pub const ADDRESS_BYTES_MAX: usize = 256;

/// The longest name of a zone, in bytes.
pub const ZONE_BYTES_MAX: usize = 64;

/// How much is kept of the reason why a move was given up, in bytes.
pub const WHY_BYTES_MAX: usize = 128;

/// How many lost disks of a node are remembered, so that a late message from one of them is not taken for
/// another loss.
pub const FORMER_MAX: usize = 8;

/// The most moves at once that can be allowed.
pub const MOVES_MAX: u32 = 256;

/// The moves that one group may give, and those that it may take, at once: a group that is slow or dead
/// leaves room for the others.
pub const MOVES_PER_SIDE_MAX: u32 = 2;

/// The most moves at once, unless set otherwise.
pub const MOVES_DEFAULT: u32 = 4;

/// What all copies together take, in bytes a second, unless set otherwise: it leaves those who use the shards
/// what they need (`docs/decisions/2026-11-22-copies-take-8-mib-a-second.md`).
pub const COPY_BYTES_PER_SECOND_DEFAULT: u64 = 8 << 20;

/// How long a node may be silent before it counts as dead, unless set otherwise, in milliseconds.
pub const DEAD_AFTER_DEFAULT_MS: u64 = 60_000;

/// The shortest such time, in milliseconds. Nodes give a sign of life each second, and may take three more to
/// notice that the one whom they give it to does not lead any more: less than this would take many for dead
/// with every change of leaders.
pub const DEAD_AFTER_MIN_MS: u64 = 5_000;

/// The most epochs back that the map is known, beside the present one.
pub const HISTORY_EPOCHS_MAX: usize = 4096;

/// The most runs of shards that the history holds in all, of at most [`HISTORY_RUN_BYTES_MAX`] each.
pub const HISTORY_RUNS_MAX: usize = 1 << 16;

/// What one run of shards takes in the history, in memory; encoded it is smaller.
pub const HISTORY_RUN_BYTES_MAX: usize = 24;
