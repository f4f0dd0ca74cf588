//! The numbers that are part of the machine's format.
//!
//! Owns every constant on which the machine's state depends. All replicas of a group must agree on them for
//! ever, because a replica that refused what another accepts would hold other data. They are therefore
//! constants and never settings: what an operator configures ([`proto::Limits`]) is enforced by the front end,
//! before a command enters the log, and must not exceed what is written here. Changing one of these numbers
//! is a change of format.

/// The longest key that the machine stores, in bytes.
pub const KEY_BYTES_MAX: usize = 16 << 10;

/// The longest value that the machine stores, in bytes; an append that would grow beyond it is refused. As
/// much as the largest command brings: a value must also travel whole, in one piece of a copy.
pub const VALUE_BYTES_MAX: usize = 4 << 20;

/// Shard ids are below this, so that damaged commands cannot fill memory with empty shards.
pub use proto::SHARDS_MAX;

/// A write's sequence may lie at most this far above the lowest that its client still waits for. A session
/// keeps at most one answer more than this.
pub const WINDOW: u64 = 1024;

/// A session that was idle for longer than this, by replicated time, is forgotten.
pub const SESSION_TTL_MS: u64 = 3_600_000;

/// A session is never evicted before it was idle for this long, whatever the pressure. Nobody may send a
/// stamped write again when this much time has passed since it was sent first.
pub const SESSION_IDLE_MIN_MS: u64 = 600_000;

/// The most sessions of one machine, over all its shards.
pub const SESSIONS_MAX: u64 = 1 << 20;

/// The most sessions of one machine that idempotency keys name: each such request takes a place for itself,
/// and the other half is for clients whose sessions last.
pub const SESSIONS_MAX_FOR_NAMED: u64 = SESSIONS_MAX / 2;

/// The most stored answers of one machine, over all its sessions.
pub const ANSWERS_MAX: u64 = 4 << 20;

/// How many expired sessions one command may forget; more than it can create, so that the backlog always shrinks.
pub const EXPIRED_PER_COMMAND_MAX: usize = 4;

/// How many idle sessions one command may evict to make room for its answer.
pub const EVICTED_PER_COMMAND_MAX: usize = 4;

/// No version or revision of a copy may be above this: counting does not get there, damage does.
pub const COUNTER_MAX: u64 = 1 << 62;

/// The most events that a shard remembers.
pub const EVENTS_MAX: usize = 256;

/// The most bytes of keys among the events that a shard remembers.
pub const EVENT_BYTES_MAX: usize = 32 << 10;

/// The most records that one page of a scan holds. Pages may be cut anywhere: this one is no part of the state.
pub const SCAN_RECORDS_MAX: usize = 1 << 16;

/// The most bytes of keys and values that one page of a scan holds, unless its only record is larger.
pub const SCAN_BYTES_MAX: usize = 16 << 20;
