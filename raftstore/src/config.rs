//! How a node's groups behave: one struct, each field with its default, its unit and the reason to change it.

use crate::error::Fatal;
use crate::mutation::{self, Mutation};
use std::sync::Arc;
use std::time::Duration;

/// Timing and bounds of every group on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaftConfig {
    /// How often a leader shows itself to idle followers, in milliseconds (200). Raise it with hundreds of
    /// groups on a node: an idle group costs one message a follower each time.
    pub heartbeat_interval_ms: u64,
    /// The shortest time without a leader before a follower stands for election, in milliseconds (450), counted
    /// from the end of the lease below. At least two heartbeats; lower finds a dead leader sooner and suspects a slow
    /// one more often.
    pub election_timeout_ms_min: u64,
    /// The longest such time, in milliseconds (750). The wider the span, the rarer are split votes. Also
    /// the leader's lease: nobody votes for another before it has run out, so writes go on after the death of a
    /// leader once this and one election timeout have passed.
    pub election_timeout_ms_max: u64,
    /// The most commands that one log entry gathers (1,024).
    pub entry_commands_max: usize,
    /// The most bytes of commands that one log entry gathers, in bytes (1 MiB); a single larger command, up to
    /// `command_bytes_max`, stands alone.
    pub entry_bytes_max: usize,
    /// The largest command, in bytes (2 MiB).
    pub command_bytes_max: usize,
    /// The most entries of one group proposed and not yet applied (2). While they are under way, commands
    /// gather: more lowers the latency of a few clients, fewer makes larger entries for many.
    pub entries_in_flight_max: usize,
    /// The most commands that wait to be proposed in one group (8,192); more are refused as overloaded.
    pub proposals_waiting_max: usize,
    /// The most reads of one group that wait for the leader to be confirmed (16,384).
    pub reads_waiting_max: usize,
    /// A snapshot is made once this many bytes of entries were applied since the last one (64 MiB), or, where that is
    /// more, half of the last one, up to two thirds of the data where that has grown since; sooner where the last one
    /// takes more than the data, because much was written beside it.
    /// Also one where the data has shrunk by at least this much, to less than half of the last one. Log and snapshots
    /// take at most three times the data, twice this and two segments; writers wait where they would exceed that. Raise it to
    /// write less, lower it to restart sooner.
    pub snapshot_log_bytes_min: u64,
    /// How many bytes of log are kept behind a snapshot for followers that lag a little (16 MiB), so that they
    /// need not be sent the snapshot.
    pub log_bytes_kept: u64,
    /// The pace of a snapshot under heavy writing, in bytes a second (256 MiB): the rest of the disk stays with the
    /// log. A quarter of it as long as the log grows slowly.
    pub snapshot_bytes_per_second_max: u64,
    /// The longest time for a received snapshot to be installed, in milliseconds (600,000).
    pub snapshot_install_timeout_ms: u64,
}

impl Default for RaftConfig {
    fn default() -> Self {
        Self {
            heartbeat_interval_ms: 200,
            election_timeout_ms_min: 450,
            election_timeout_ms_max: 750,
            entry_commands_max: 1_024,
            entry_bytes_max: 1 << 20,
            command_bytes_max: 2 << 20,
            entries_in_flight_max: 2,
            proposals_waiting_max: 8_192,
            reads_waiting_max: 16_384,
            snapshot_log_bytes_min: 64 << 20,
            log_bytes_kept: 16 << 20,
            snapshot_bytes_per_second_max: 256 << 20,
            snapshot_install_timeout_ms: 600_000,
        }
    }
}

impl RaftConfig {
    /// Checks the fields against each other.
    ///
    /// # Errors
    /// [`Fatal::Config`] naming the field.
    pub fn validate(&self) -> Result<(), Fatal> {
        let refuse = |what: String| Err(Fatal::Config(what));
        let positive = [
            ("heartbeat_interval_ms", self.heartbeat_interval_ms),
            ("entry_commands_max", self.entry_commands_max as u64),
            ("entry_bytes_max", self.entry_bytes_max as u64),
            ("command_bytes_max", self.command_bytes_max as u64),
            ("entries_in_flight_max", self.entries_in_flight_max as u64),
            ("proposals_waiting_max", self.proposals_waiting_max as u64),
            ("reads_waiting_max", self.reads_waiting_max as u64),
            ("snapshot_log_bytes_min", self.snapshot_log_bytes_min),
            ("snapshot_bytes_per_second_max", self.snapshot_bytes_per_second_max),
            ("snapshot_install_timeout_ms", self.snapshot_install_timeout_ms),
        ];
        if let Some((field, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return refuse(format!("{field} must be at least 1, not 0"));
        }
        if self.election_timeout_ms_min < 2 * self.heartbeat_interval_ms {
            return refuse(format!(
                "election_timeout_ms_min must be at least 2 heartbeats of {} ms, not {}",
                self.heartbeat_interval_ms, self.election_timeout_ms_min
            ));
        }
        if self.election_timeout_ms_max <= self.election_timeout_ms_min {
            return refuse(format!(
                "election_timeout_ms_max must exceed election_timeout_ms_min of {}, not {}",
                self.election_timeout_ms_min, self.election_timeout_ms_max
            ));
        }
        if self.command_bytes_max > 4 << 20 {
            return refuse(format!(
                "command_bytes_max must not exceed 4 MiB, not {}",
                self.command_bytes_max
            ));
        }
        Ok(())
    }

    /// The time within which a leader that is there has shown itself.
    pub(crate) fn election_timeout_max(&self) -> Duration {
        Duration::from_millis(self.election_timeout_ms_max)
    }

    /// The same as openraft wants it. What is fixed here was decided once for all groups:
    /// snapshots and purges are driven by bytes (see [`crate::compaction`]), a restarted leader never takes up
    /// its old leadership without an election, and a candidate asks before it raises the term.
    pub(crate) fn openraft(&self) -> Result<Arc<openraft::Config>, Fatal> {
        let config = openraft::Config {
            cluster_name: "flotilla".into(),
            heartbeat_interval: self.heartbeat_interval_ms,
            election_timeout_min: self.election_timeout_ms_min,
            election_timeout_max: self.election_timeout_ms_max,
            install_snapshot_timeout: self.snapshot_install_timeout_ms,
            snapshot_policy: openraft::SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: u64::MAX,
            replication_lag_threshold: 1_000,
            max_payload_entries: 256,
            enable_pre_vote: Some(true),
            enable_leader_restore: Some(false),
            allow_log_reversion: Some(mutation::is_on(Mutation::CommitOneVoteTooFew)),
            backoff: "50ms 100ms ..500ms".into(),
            ..openraft::Config::default()
        };
        let config = config.validate().map_err(|error| Fatal::Config(error.to_string()))?;
        Ok(Arc::new(config))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The defaults hold together, and each contradiction is refused by the field's name.
    #[test]
    fn validation_names_the_field() {
        let good = RaftConfig::default();
        assert!(good.validate().is_ok());
        assert!(good.openraft().is_ok());
        let bad = [
            (RaftConfig { heartbeat_interval_ms: 0, ..good.clone() }, "heartbeat_interval_ms"),
            (RaftConfig { election_timeout_ms_min: 200, ..good.clone() }, "election_timeout_ms_min"),
            (RaftConfig { election_timeout_ms_max: 450, ..good.clone() }, "election_timeout_ms_max"),
            (RaftConfig { command_bytes_max: 5 << 20, ..good }, "command_bytes_max"),
        ];
        for (config, field) in bad {
            let error = config.validate().unwrap_err().to_string();
            assert!(error.contains(field), "{error}");
        }
    }
}
