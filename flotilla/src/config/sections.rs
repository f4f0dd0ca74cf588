//! The sections of the configuration: mirrors of what each component takes, with names in the file. Each field's
//! default is the component's own; a field added there fails to compile here until it has its name.

use super::Config;
use serde::{Deserialize, Serialize};

macro_rules! section {
    ($(#[$doc:meta])* $name:ident of $component:ty { $($field:ident: $type:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub(crate) struct $name {
            $(pub(crate) $field: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                let defaults = <$component>::default();
                Self { $($field: defaults.$field,)* }
            }
        }

        impl From<&$name> for $component {
            fn from(section: &$name) -> Self {
                Self { $($field: section.$field,)* }
            }
        }
    };
}

section! {
    /// `[limits]`: how large keys, values and batches may be.
    Limits of proto::Limits { key_bytes_max: usize, value_bytes_max: usize, batch_bytes_max: usize }
}

section! {
    /// `[raft]`: timing and bounds of the Raft groups.
    Raft of raftstore::RaftConfig {
        heartbeat_interval_ms: u64,
        election_timeout_ms_min: u64,
        election_timeout_ms_max: u64,
        entry_commands_max: usize,
        entry_bytes_max: usize,
        command_bytes_max: usize,
        entries_in_flight_max: usize,
        proposals_waiting_max: usize,
        reads_waiting_max: usize,
        snapshot_log_bytes_min: u64,
        log_bytes_kept: u64,
        snapshot_bytes_per_second_max: u64,
        snapshot_install_timeout_ms: u64,
    }
}

section! {
    /// `[transport]`: timing and bounds of the connections between nodes.
    Transport of raftstore::TransportConfig {
        connect_timeout_ms: u64,
        reconnect_ms_min: u64,
        reconnect_ms_max: u64,
        silence_timeout_ms: u64,
        progress_timeout_ms: u64,
        idle_timeout_ms: u64,
        window_bytes: usize,
        stream_window_bytes: usize,
        stream_requests_max: usize,
        append_bytes: usize,
        frame_bytes_max: usize,
        heartbeat_frame_bytes_max: usize,
        request_frame_bytes_max: usize,
        snapshot_window_bytes: usize,
        snapshots_max: usize,
        install_timeout_ms: u64,
        calls_max: usize,
        queue_bytes_max: usize,
        calls_in_progress_max: usize,
        connections_max: usize,
        write_bytes: usize,
    }
}

section! {
    /// `[storage]`: the log and the snapshots on disk.
    Storage of raftstore::StorageConfig {
        segment_bytes: u64,
        tail_bytes_max: usize,
        queue_bytes_max: usize,
        record_bytes_max: usize,
        read_bytes_max: usize,
        slack_bytes: u64,
        snapshot_part_bytes: usize,
    }
}

section! {
    /// `[http]`: bounds of the front end.
    Http of kvserver::http::Config {
        connections_max: usize,
        requests_in_flight_max: usize,
        body_bytes_in_flight_max: usize,
        header_bytes_max: usize,
        header_read_timeout_ms: u64,
        body_read_timeout_ms: u64,
        idle_timeout_ms: u64,
        timeout_ms_default: u64,
        timeout_ms_max: u64,
        batch_operations_max: usize,
        answer_bytes_max: usize,
        page_bytes_max: u32,
    }
}

/// What must hold between the fields; the message starts with the path of the offending one.
pub(super) fn check(config: &Config) -> Result<(), String> {
    check_limits(&config.limits, &config.raft).map_err(|what| format!("limits.{what}"))?;
    raftstore::RaftConfig::from(&config.raft).validate().map_err(|error| match error {
        raftstore::Fatal::Config(what) => format!("raft.{what}"),
        other => format!("raft {other}"),
    })?;
    raftstore::StorageConfig::from(&config.storage).validate().map_err(|what| format!("storage.{what}"))?;
    raftstore::TransportConfig::from(&config.transport)
        .validate()
        .map_err(|what| format!("transport.{what}"))?;
    let limits = (&config.limits).into();
    kvserver::http::Config::from(&config.http).validate(&limits).map_err(|what| format!("http.{what}"))
}

fn check_limits(limits: &Limits, raft: &Raft) -> Result<(), String> {
    if limits.key_bytes_max == 0 {
        return Err("key_bytes_max must be at least 1, not 0".into());
    }
    let both = limits.key_bytes_max.saturating_add(limits.value_bytes_max);
    if limits.batch_bytes_max < both {
        return Err(format!(
            "batch_bytes_max must hold the largest key and value, which are {both} bytes together, not {}",
            limits.batch_bytes_max
        ));
    }
    // A command carries the key, the value and at most this much besides.
    const COMMAND_OVERHEAD: usize = 1 << 10;
    if both.saturating_add(COMMAND_OVERHEAD) > raft.command_bytes_max {
        return Err(format!(
            "value_bytes_max and limits.key_bytes_max, {both} bytes together, must fit raft.command_bytes_max of {} \
             less {COMMAND_OVERHEAD}",
            raft.command_bytes_max
        ));
    }
    Ok(())
}
