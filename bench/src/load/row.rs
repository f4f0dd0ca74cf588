//! What one workload at one concurrency came to: as a table's row, as an object, and as points of plots.

use super::{LoadArgs, Spent};
use crate::measure::Measured;
use crate::plot::{Line, Plot, Point};
use crate::report::{Table, figure};
use crate::workload::Workload;
use anyhow::Result;
use serde::Serialize;

const COLUMNS: [(&str, usize); 14] = [
    ("WORKLOAD", 15),
    ("IN FLIGHT", 9),
    ("RATE", 7),
    ("OPS/S", 8),
    ("P50 MS", 8),
    ("P99 MS", 8),
    ("P99.9 MS", 8),
    ("MAX MS", 8),
    ("REFUSED", 7),
    ("CPU µs/OP", 9),
    ("SYNCS/OP", 8),
    ("LOG B/OP", 8),
    ("DISK B/B", 8),
    ("PEAK MIB", 8),
];

/// Figures of one measurement. `None` stands for what was not asked for or cannot be known.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    workload: String,
    in_flight: u32,
    /// Operations a second that were due, in an open loop.
    rate: Option<u32>,
    ops_per_s: f64,
    p50_ms: f64,
    p99_ms: f64,
    p999_ms: f64,
    max_ms: f64,
    /// Operations of an open loop that found too many waiting.
    refused: Option<u64>,
    cpu_us_per_op: Option<f64>,
    syncs_per_op: f64,
    log_bytes_per_op: f64,
    /// Bytes that all servers wrote to their disks for each byte of key and value that was acknowledged.
    disk_bytes_per_byte: Option<f64>,
    /// The sum of the most memory that each server has had since its start.
    memory_peak_bytes: Option<u64>,
}

impl Row {
    pub(super) fn new(
        workload: Workload,
        in_flight: u32,
        args: &LoadArgs,
        measured: &Measured<Spent>,
    ) -> Result<Self> {
        let usage = measured.after.usage.since(measured.before.usage)?;
        let logs = measured.after.logs.since(measured.before.logs)?;
        let tally = &measured.tally;
        // Of processes that were not named nothing is known, which is not nothing.
        let known = !args.pids.is_empty();
        let stored_bytes = tally.stored_bytes;
        Ok(Self {
            workload: workload.name(),
            in_flight,
            rate: args.rate,
            ops_per_s: measured.throughput(),
            p50_ms: tally.millis(0.5),
            p99_ms: tally.millis(0.99),
            p999_ms: tally.millis(0.999),
            max_ms: tally.millis(1.0),
            refused: args.rate.map(|_| measured.refused),
            cpu_us_per_op: known.then(|| measured.per_operation(usage.cpu.as_secs_f64() * 1e6)),
            syncs_per_op: measured.per_operation(logs.syncs as f64),
            log_bytes_per_op: measured.per_operation(logs.bytes as f64),
            disk_bytes_per_byte: (known && stored_bytes > 0)
                .then(|| usage.written_bytes as f64 / stored_bytes as f64),
            memory_peak_bytes: known.then_some(usage.memory_peak_bytes),
        })
    }

    /// An empty table for such rows.
    pub(super) fn table() -> Table {
        Table::new(COLUMNS.to_vec())
    }

    pub(super) fn cells(&self) -> Vec<String> {
        let whole = |number: Option<u64>| figure(number.map(|number| number as f64), 0);
        vec![
            self.workload.clone(),
            self.in_flight.to_string(),
            whole(self.rate.map(u64::from)),
            figure(Some(self.ops_per_s), 0),
            figure(Some(self.p50_ms), 2),
            figure(Some(self.p99_ms), 2),
            figure(Some(self.p999_ms), 2),
            figure(Some(self.max_ms), 2),
            whole(self.refused),
            figure(self.cpu_us_per_op, 1),
            figure(Some(self.syncs_per_op), 3),
            figure(Some(self.log_bytes_per_op), 0),
            figure(self.disk_bytes_per_byte, 1),
            whole(self.memory_peak_bytes.map(|bytes| bytes >> 20)),
        ]
    }
}

/// Throughput and p99 of all workloads.
pub(super) fn plots(rows: &[Row]) -> Vec<Plot> {
    let mut workloads: Vec<&str> = rows.iter().map(|row| row.workload.as_str()).collect();
    workloads.dedup();
    let plot = |title: &str, figure: fn(&Row) -> f64| {
        let line = |workload: &&str| {
            let rows = rows.iter().filter(|row| row.workload == **workload);
            let point = |row: &Row| {
                let figure = figure(row);
                Point::once(row.in_flight.into(), figure)
            };
            Line { name: (*workload).to_owned(), points: rows.map(point).collect() }
        };
        Plot::new(title.to_owned(), "in flight", workloads.iter().map(line).collect())
    };
    vec![plot("operations a second", |row| row.ops_per_s), plot("p99, ms", |row| row.p99_ms)]
}

#[cfg(test)]
mod tests {
    use super::super::Command;
    use super::*;
    use crate::metrics::Logs;
    use crate::process::Usage;
    use crate::tally::Tally;
    use clap::Parser;
    use std::time::Duration;

    fn row(arguments: &[&str]) -> Row {
        let arguments = std::iter::once("bench").chain(arguments.iter().copied());
        let args = Command::try_parse_from(arguments).expect("good arguments").load;
        let mut tally = Tally::new().expect("a histogram");
        (0..100).for_each(|_| tally.record(Duration::from_millis(2), 50).expect("a latency"));
        let spent = |cpu, written_bytes, syncs| Spent {
            usage: Usage {
                cpu: Duration::from_millis(cpu),
                written_bytes,
                memory_bytes: 2 << 20,
                memory_peak_bytes: 3 << 20,
            },
            logs: Logs { syncs, bytes: 0 },
        };
        let (before, after) = (spent(10, 0, 5), spent(35, 15_000, 15));
        let measured = Measured { tally, refused: 7, seconds: 2.0, before, after };
        Row::new(Workload::Put, 64, &args, &measured).expect("counters grew")
    }

    /// What was spent is each operation's part, and writes are compared with what was stored.
    #[test]
    fn costs_are_each_operations_part() {
        let row = row(&["--pids", "1,2", "--rate", "100"]);
        assert_eq!(
            (row.ops_per_s, row.syncs_per_op, row.cpu_us_per_op, row.disk_bytes_per_byte),
            (50.0, 0.1, Some(250.0), Some(3.0))
        );
        assert_eq!((row.refused, row.memory_peak_bytes), (Some(7), Some(3 << 20)));
    }

    /// Where no process was named, nothing is said of what they spent, not that it was nothing.
    #[test]
    fn unknown_costs_are_not_zero() {
        let row = row(&[]);
        assert_eq!((row.cpu_us_per_op, row.disk_bytes_per_byte, row.memory_peak_bytes), (None, None, None));
        assert_eq!(row.refused, None, "a closed loop refuses nothing");
        assert_eq!(row.cells().iter().filter(|cell| *cell == "-").count(), 5);
        let json = serde_json::to_value(&row).expect("an object");
        assert!(json["cpu_us_per_op"].is_null() && json["ops_per_s"] == 50.0);
    }

    /// Each workload is a line of its own, and each concurrency a point.
    #[test]
    fn plots_have_a_line_for_each_workload() {
        let (one, mut other) = (row(&[]), row(&[]));
        other.workload = "get".into();
        let plots = plots(&[one.clone(), one, other]);
        let lines: Vec<usize> = plots[0].lines.iter().map(|line| line.points.len()).collect();
        assert_eq!((plots.len(), lines), (2, vec![2, 1]));
    }
}
