//! How much a shard or a machine holds, counted as it changes.
//!
//! Owns the counters only. They are derived from the state: two machines of equal state count alike.

/// What is held. For a machine, the sum over its shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Keys present.
    pub keys: u64,
    /// Bytes of keys and values, without any overhead.
    pub bytes: u64,
    /// Client sessions, counted once for each shard that the client writes to.
    pub sessions: u64,
    /// Those of them that are of named requests.
    pub named_sessions: u64,
    /// Answers kept by these sessions.
    pub answers: u64,
}

impl Usage {
    /// Takes a part that was counted as `before` and now counts `after` into this sum.
    pub(super) fn exchange(&mut self, before: Usage, after: Usage) {
        self.keys = self.keys - before.keys + after.keys;
        self.bytes = self.bytes - before.bytes + after.bytes;
        self.sessions = self.sessions - before.sessions + after.sessions;
        self.named_sessions = self.named_sessions - before.named_sessions + after.named_sessions;
        self.answers = self.answers - before.answers + after.answers;
    }

    /// About how many bytes a copy of this takes.
    pub(super) fn copy_bytes(&self) -> u64 {
        self.bytes + 24 * self.keys + 32 * self.sessions + 12 * self.answers
    }

    /// About how many bytes one record of a copy takes.
    pub(super) fn record_bytes(&self) -> u64 {
        self.copy_bytes() / (self.keys + self.sessions).max(1) + 1
    }
}
