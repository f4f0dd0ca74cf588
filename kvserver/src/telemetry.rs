//! The node's own metrics, beside those of its front end.

use crate::machine::{KvMachine, Usage};
use crate::replica::Replica;
use crate::router::Router;
use crate::service::{MetricKind, MetricsText};
use proto::GroupId;
use raftstore::{Group, GroupStatus, LATENCY_BUCKETS, LaneStats, Role, StorageStats};
use shardctrler::ControllerMachine;
use std::io;
use std::sync::Arc;

/// One number of a replica, by name.
type Sample<T> = (&'static str, MetricKind, &'static str, fn(&T) -> u64);

/// Of every group, the controller's own among them.
const GROUP: &[Sample<GroupStatus>] = &[
    ("flotilla_group_term", MetricKind::Gauge, "The replica's term.", |status| status.term),
    ("flotilla_group_is_leader", MetricKind::Gauge, "1 where this replica leads its group.", |status| {
        u64::from(status.role == Role::Leader)
    }),
    ("flotilla_group_last_index", MetricKind::Gauge, "The last entry in the replica's log.", |status| {
        status.last_index.unwrap_or(0)
    }),
    ("flotilla_group_committed_index", MetricKind::Gauge, "The last entry that a quorum holds.", |status| {
        status.committed_index.unwrap_or(0)
    }),
    ("flotilla_group_applied_index", MetricKind::Gauge, "The last entry that was applied.", |status| {
        status.applied_index.unwrap_or(0)
    }),
    ("flotilla_group_log_bytes", MetricKind::Gauge, "Bytes of the log that are not purged.", |status| {
        status.log_bytes
    }),
    ("flotilla_group_snapshot_bytes", MetricKind::Gauge, "Bytes of the last snapshot.", |status| {
        status.snapshot_bytes
    }),
    (
        "flotilla_group_recovered",
        MetricKind::Gauge,
        "1 once the replica holds all that it showed before its start.",
        |status| u64::from(status.recovered),
    ),
];

/// Of groups that hold data.
const DATA: &[Sample<Usage>] = &[
    ("flotilla_group_keys", MetricKind::Gauge, "Keys present.", |usage| usage.keys),
    ("flotilla_group_bytes", MetricKind::Gauge, "Bytes of keys and values.", |usage| usage.bytes),
    ("flotilla_group_sessions", MetricKind::Gauge, "Client sessions remembered.", |usage| usage.sessions),
];

/// One number of a lane, by name.
type LaneSample = (&'static str, MetricKind, &'static str, fn(&LaneStats) -> u64);

const LANE: &[LaneSample] = &[
    ("flotilla_lane_frames_sent_total", MetricKind::Counter, "Frames written.", |lane| lane.frames_sent),
    ("flotilla_lane_bytes_sent_total", MetricKind::Counter, "Bytes written.", |lane| lane.bytes_sent),
    ("flotilla_lane_writes_total", MetricKind::Counter, "Writes that the frames left in.", |lane| {
        lane.writes
    }),
    ("flotilla_lane_frames_received_total", MetricKind::Counter, "Frames read.", |lane| lane.frames_received),
    ("flotilla_lane_bytes_received_total", MetricKind::Counter, "Bytes read.", |lane| lane.bytes_received),
    ("flotilla_lane_connects_total", MetricKind::Counter, "Connections made.", |lane| lane.connects),
    ("flotilla_lane_in_flight", MetricKind::Gauge, "Calls and streams under way.", |lane| lane.in_flight),
    ("flotilla_lane_timeouts_total", MetricKind::Counter, "Calls and streams that timed out.", |lane| {
        lane.timeouts
    }),
    ("flotilla_lane_refused_total", MetricKind::Counter, "Calls refused unsent.", |lane| lane.refused),
];

/// Appends the numbers of the node's groups, log and transport; `own` is its replica of the controller's group.
pub(crate) fn node(router: &Router, own: Option<Group<ControllerMachine>>, into: &mut MetricsText) {
    let replicas = router.residents.all();
    let id = |group: GroupId| group.0.to_string();
    let own = own.map(|group| (id(group.id()), group.status()));
    let data = replicas.iter().map(|replica| (id(replica.group.id()), replica.group.status()));
    let groups: Vec<(String, GroupStatus)> = own.into_iter().chain(data).collect();
    samples(GROUP, &groups, into);
    let usage = |replica: &Arc<Replica>| replica.group.read_stale(KvMachine::usage);
    let data: Vec<(String, Usage)> =
        replicas.iter().map(|replica| (id(replica.group.id()), usage(replica))).collect();
    samples(DATA, &data, into);
    lags(&groups, into);
    storage(&router.host.storage_stats(), into);
    let stats = router.host.transport_stats();
    let lanes = [
        ("entries", stats.entries),
        ("heartbeat", stats.heartbeat),
        ("bulk", stats.bulk),
        ("request", stats.request),
    ];
    for (name, kind, help, value) in LANE {
        into.family(name, *kind, help);
        for (lane, stats) in &lanes {
            into.sample(name, &[("lane", lane)], value(stats));
        }
    }
}

fn samples<T>(samples: &[Sample<T>], groups: &[(String, T)], into: &mut MetricsText) {
    for (name, kind, help, value) in samples {
        into.family(name, *kind, help);
        for (id, of) in groups {
            into.sample(name, &[("group", id)], value(of));
        }
    }
}

/// A replica that has not heard of a leader yet has no lag: no number would be true.
fn lags(groups: &[(String, GroupStatus)], into: &mut MetricsText) {
    let name = "flotilla_group_lag_ms";
    let help = "How long ago the replica was known to be as fresh as a leader that a quorum confirmed.";
    into.family(name, MetricKind::Gauge, help);
    for (id, status) in groups {
        if let Some(lag) = status.lag {
            into.sample(name, &[("group", id)], lag.as_millis());
        }
    }
}

fn storage(stats: &StorageStats, into: &mut MetricsText) {
    let counters = [
        ("flotilla_log_records_total", "Records written, one for each group commit.", stats.records),
        ("flotilla_log_syncs_total", "Syncs of the log.", stats.syncs),
        ("flotilla_log_bytes_total", "Bytes of records written.", stats.bytes_written),
        ("flotilla_log_entries_total", "Entries appended.", stats.entries),
        (
            "flotilla_log_carried_bytes_total",
            "Bytes written again to free old segments.",
            stats.bytes_carried,
        ),
        ("flotilla_log_disk_reads_total", "Reads that memory could not serve.", stats.disk_reads),
    ];
    for (name, help, value) in counters {
        into.single(name, MetricKind::Counter, help, value);
    }
    let gauges = [
        ("flotilla_log_segments", "Segments of the log.", stats.segments),
        ("flotilla_log_segment_bytes", "Bytes in the log's segments.", stats.segment_bytes),
        ("flotilla_log_live_bytes", "Bytes of entries still needed.", stats.live_bytes),
        ("flotilla_log_tail_bytes", "Bytes of entries kept in memory.", stats.tail_bytes),
    ];
    for (name, help, value) in gauges {
        into.single(name, MetricKind::Gauge, help, value);
    }
    let name = "flotilla_log_sync_seconds";
    into.family(name, MetricKind::Histogram, "How long syncs of the log took.");
    let mut below = 0;
    // The last bucket has no upper end: it is what the infinite one adds.
    for (bucket, count) in stats.sync_micros[..LATENCY_BUCKETS - 1].iter().enumerate() {
        below += count;
        let seconds = (1_u64 << bucket) as f64 / 1e6;
        into.sample("flotilla_log_sync_seconds_bucket", &[("le", &seconds.to_string())], below);
    }
    let all: u64 = stats.sync_micros.iter().sum();
    into.sample("flotilla_log_sync_seconds_bucket", &[("le", "+Inf")], all);
    into.sample("flotilla_log_sync_seconds_sum", &[], stats.sync_micros_sum as f64 / 1e6);
    into.sample("flotilla_log_sync_seconds_count", &[], all);
}

/// The process's resident memory, where the operating system tells.
///
/// # Errors
/// Where it does not.
pub(crate) fn resident_bytes() -> io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    resident_in(&status).ok_or_else(|| io::Error::other("the process's status has no VmRSS in kB"))
}

fn resident_in(status: &str) -> Option<u64> {
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = resident.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    kilobytes.checked_mul(1 << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Resident memory is read from the line that has it, and nothing else passes for it.
    #[test]
    fn resident_memory() {
        let status = "Name:\tflotilla\nVmPeak:\t  900 kB\nVmRSS:\t   1234 kB\nThreads:\t4\n";
        assert_eq!(resident_in(status), Some(1234 << 10));
        for bad in ["", "VmPeak:\t 9 kB", "VmRSS:\t 12 pages", "VmRSS:\t x kB"] {
            assert_eq!(resident_in(bad), None, "{bad:?}");
        }
    }
}
