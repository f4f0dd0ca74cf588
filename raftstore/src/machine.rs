//! What a replicated machine is to this crate: commands in, answers out, and a copy of itself made while it
//! goes on working.
//!
//! A machine is pure. It never sees a clock, a socket or a random source: time comes with each command, and
//! every replica that applies the same commands holds the same state and gives the same answers.

use bytes::Bytes;
use std::fmt;

/// Where and when a command is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The log index of the entry that carries the command; several commands may share one.
    pub index: u64,
    /// Replicated time: milliseconds since the Unix epoch by the wall clock at the group's birth, and since then by
    /// the monotonic clocks of its leaders. Never before the machine's own [`time_ms`](Machine::time_ms).
    pub time_ms: u64,
}

/// One step of a copy, see [`Machine::copy_next`].
#[derive(Debug, Default, PartialEq, Eq)]
pub struct CopyStep {
    /// Bytes for [`Machine::load`], empty where there was nothing left to copy.
    pub bytes: Vec<u8>,
    /// About how many bytes are still to be copied; 0 says that everything handed out so far, loaded in order,
    /// is exactly the machine's present state.
    pub remaining: u64,
}

/// A copy under way; a machine may have several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CopyId(pub u64);

/// Stops a machine at a command whose bytes this build cannot read, and with it the node: a build that can has proposed
/// it, whose replicas carry it out. Whoever went on without it would hold another state than they do, and not know.
/// Nothing that a client or another node has sent gets here: it is read before it is proposed.
///
/// # Panics
/// Always.
pub fn unreadable(at: Moment, why: &dyn fmt::Display) -> ! {
    panic!(
        "a command in entry {} cannot be read by this build: {why}; start the node with the build that wrote it, or a \
         later one",
        at.index
    )
}

/// Why a copy cannot be loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("copied state is malformed: {0}")]
pub struct LoadError(pub String);

/// A replicated state machine that lives in memory.
///
/// **Copy, then tail.** A snapshot never stops the machine. [`copy_begin`](Self::copy_begin) starts one;
/// each [`copy_next`](Self::copy_next) hands out a bounded piece: first every record in order, then, again and
/// again, the records that changed since they were handed out (a removed one as a tombstone). Commands are
/// applied between the pieces. When a step says that nothing remains, the pieces loaded in order give exactly
/// the state at that instant.
pub trait Machine: Send + Sync + 'static {
    /// Applies one command and returns its answer, in the machine's own encoding.
    ///
    /// A command that makes no sense is answered so, never a panic: it is in the log already, and every
    /// replica would meet it again at every restart. Only what this build cannot read at all ends in
    /// [`unreadable`].
    fn apply(&mut self, at: Moment, command: &[u8]) -> Bytes;

    /// Applies one command to whose answer nobody listens, as on every replica but the one that proposed it: does to
    /// the machine exactly what [`apply`](Self::apply) does.
    fn apply_unanswered(&mut self, at: Moment, command: &[u8]) {
        drop(self.apply(at, command));
    }

    /// The latest time of all that was applied or loaded, from which time goes on; 0 where nothing was, or where the
    /// machine has no use for time.
    fn time_ms(&self) -> u64;

    /// About how many bytes a copy would take now. Asked several times a second, while others read: a machine that may
    /// be large answers from what it counts anyway.
    fn copy_bytes(&self) -> u64;

    /// Starts a copy.
    fn copy_begin(&mut self) -> CopyId;

    /// The next piece of a copy: about `bytes_max` bytes (more only for a single larger record).
    ///
    /// # Panics
    /// If `copy` was not begun or has ended.
    fn copy_next(&mut self, copy: CopyId, bytes_max: usize) -> CopyStep;

    /// Ends a copy, finished or not, and frees what was kept for it.
    fn copy_end(&mut self, copy: CopyId);

    /// Takes in one piece of a copy. Pieces come in the order in which they were handed out, starting with an
    /// empty machine.
    ///
    /// # Errors
    /// [`LoadError`] where the bytes are not a piece; the machine is then unusable.
    fn load(&mut self, piece: &[u8]) -> Result<(), LoadError>;
}
