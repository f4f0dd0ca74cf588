//! What the rounds came to: medians and spreads for each system, ratios within rounds, and plots of both.

use crate::measure::Measured;
use crate::plot::{Line, Plot, Point};
use crate::process::Usage;
use crate::report::{Table, UNKNOWN, figure};
use crate::statistics::{Spread, median};
use anyhow::Result;
use serde::Serialize;
use serde_json::{Map, Value, json};

const COLUMNS: [(&str, usize); 8] = [
    ("WORKLOAD", 8),
    ("IN FLIGHT", 9),
    ("SERVER", 8),
    ("OPS/S", 22),
    ("P50 MS", 22),
    ("P99 MS", 24),
    ("CPU µs/OP", 26),
    ("DISK B/B", 8),
];

const RATIO_COLUMNS: [(&str, usize); 7] = [
    ("WORKLOAD", 8),
    ("IN FLIGHT", 9),
    ("RATIO", 14),
    ("OPS/S", 19),
    ("P50", 20),
    ("P99", 20),
    ("CPU/OP", 21),
];

/// What was spent so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spent {
    /// By the system's processes.
    pub(super) usage: Usage,
    /// Written to the disk by all that use it, where that is known.
    pub(super) disk_bytes: Option<u64>,
}

/// What one system came to in one round.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Sample {
    pub(super) ops_per_s: f64,
    p50_ms: f64,
    p99_ms: f64,
    /// Of all its processes.
    cpu_us_per_op: f64,
    /// Bytes that were written to the disk for each byte of key and value that was acknowledged, where that is known.
    disk_bytes_per_byte: Option<f64>,
}

impl Sample {
    pub(super) fn of(measured: &Measured<Spent>) -> Result<Self> {
        let (before, after) = (measured.before, measured.after);
        let usage = after.usage.since(before.usage)?;
        let disk_bytes =
            after.disk_bytes.zip(before.disk_bytes).and_then(|(after, before)| after.checked_sub(before));
        let stored_bytes = Some(measured.tally.stored_bytes).filter(|bytes| *bytes > 0);
        Ok(Self {
            ops_per_s: measured.throughput(),
            p50_ms: measured.tally.millis(0.5),
            p99_ms: measured.tally.millis(0.99),
            cpu_us_per_op: measured.per_operation(usage.cpu.as_secs_f64() * 1e6),
            disk_bytes_per_byte: disk_bytes
                .zip(stored_bytes)
                .map(|(disk, stored)| disk as f64 / stored as f64),
        })
    }
}

/// A figure of a sample, with its name in objects and the decimals that it is shown with.
struct Figure {
    name: &'static str,
    of: fn(&Sample) -> f64,
    decimals: usize,
}

/// The figures that are compared, in the order of the columns.
const FIGURES: [Figure; 4] = [
    Figure { name: "ops_per_s", of: |sample| sample.ops_per_s, decimals: 0 },
    Figure { name: "p50_ms", of: |sample| sample.p50_ms, decimals: 2 },
    Figure { name: "p99_ms", of: |sample| sample.p99_ms, decimals: 2 },
    Figure { name: "cpu_us_per_op", of: |sample| sample.cpu_us_per_op, decimals: 1 },
];

/// One workload at one concurrency.
#[derive(Debug)]
struct Setting {
    workload: &'static str,
    in_flight: u32,
    /// For each system its rounds; none where it does not speak the workload's language.
    samples: Vec<Vec<Sample>>,
}

/// A row, as a table's line and as an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) text: String,
    pub(super) json: String,
}

/// All that was measured so far.
#[derive(Debug)]
pub(super) struct Comparison {
    /// The systems, ours first.
    systems: Vec<&'static str>,
    settings: Vec<Setting>,
    /// The rows of all systems.
    pub(super) table: Table,
}

impl Comparison {
    pub(super) fn new(systems: Vec<&'static str>) -> Self {
        Self { systems, settings: Vec::new(), table: Table::new(COLUMNS.to_vec()) }
    }

    /// The head of the rows.
    pub(super) fn head(&self) -> String {
        self.table.head()
    }

    /// Takes in the rounds of each system, in the systems' order, and returns a row for each that has any.
    pub(super) fn add(
        &mut self,
        workload: &'static str,
        in_flight: u32,
        samples: Vec<Vec<Option<Sample>>>,
    ) -> Result<Vec<Said>> {
        let samples: Vec<Vec<Sample>> =
            samples.into_iter().map(|rounds| rounds.into_iter().flatten().collect()).collect();
        let mut said = Vec::new();
        for (system, rounds) in self.systems.iter().zip(&samples) {
            if rounds.is_empty() {
                continue;
            }
            let spreads = FIGURES.map(|it| (it.name, Spread::of(rounds.iter().map(it.of)), it.decimals));
            let disk = median(rounds.iter().filter_map(|sample| sample.disk_bytes_per_byte));
            let mut cells = vec![workload.to_owned(), in_flight.to_string(), (*system).to_owned()];
            cells.extend(spreads.iter().map(|(_, spread, decimals)| shown(*spread, *decimals)));
            cells.push(figure(disk, 1));
            let mut json = object("row", workload, in_flight, &spreads)?;
            json.insert("server".to_owned(), json!(system));
            json.insert("disk_bytes_per_byte".to_owned(), json!(disk));
            json.insert("rounds".to_owned(), json!(rounds));
            said.push(Said { text: self.table.add(cells), json: Value::Object(json).to_string() });
        }
        self.settings.push(Setting { workload, in_flight, samples });
        Ok(said)
    }

    /// Our figures by those of each other system, round by round.
    pub(super) fn ratios(&self) -> Result<(Table, Vec<Said>)> {
        let mut table = Table::new(RATIO_COLUMNS.to_vec());
        let mut said = Vec::new();
        for line in &self.settings {
            let [ours, others @ ..] = &line.samples[..] else { continue };
            for (system, theirs) in self.systems[1..].iter().zip(others) {
                if theirs.is_empty() {
                    continue;
                }
                let ratio = |it: Figure| {
                    let pairs =
                        ours.iter().zip(theirs).map(|(ours, theirs)| ((it.of)(ours), (it.of)(theirs)));
                    (it.name, Spread::of_ratios(pairs), 2)
                };
                let ratios = FIGURES.map(ratio);
                let name = format!("{}/{system}", self.systems[0]);
                let mut cells = vec![line.workload.to_owned(), line.in_flight.to_string(), name.clone()];
                cells.extend(ratios.iter().map(|(_, spread, decimals)| shown(*spread, *decimals)));
                let mut json = object("ratio", line.workload, line.in_flight, &ratios)?;
                json.insert("of".to_owned(), json!(name));
                said.push(Said { text: table.add(cells), json: Value::Object(json).to_string() });
            }
        }
        Ok((table, said))
    }

    /// Throughput and p99 against what is in flight, a pair for each workload, where several concurrencies were measured
    /// or not.
    pub(super) fn plots(&self) -> Vec<Plot> {
        let mut workloads: Vec<&str> = self.settings.iter().map(|line| line.workload).collect();
        workloads.dedup();
        let both = |workload: &&str| {
            [self.plot(workload, "operations a second", 0), self.plot(workload, "p99, ms", 2)]
        };
        workloads.iter().flat_map(both).collect()
    }

    fn plot(&self, workload: &str, title: &str, figure: usize) -> Plot {
        let figure = FIGURES[figure].of;
        let line = |(index, system): (usize, &&str)| {
            let lines = self.settings.iter().filter(|line| line.workload == workload);
            let point = |line: &Setting| {
                let Spread { median, min, max } = Spread::of(line.samples[index].iter().map(figure))?;
                Some(Point { at: line.in_flight.into(), median, min, max })
            };
            Line { name: (*system).to_owned(), points: lines.filter_map(point).collect() }
        };
        let lines = self.systems.iter().enumerate().map(line).filter(|line| !line.points.is_empty());
        Plot::new(format!("{workload}: {title}"), "in flight", lines.collect())
    }
}

fn shown(spread: Option<Spread>, decimals: usize) -> String {
    spread.map_or_else(|| UNKNOWN.to_owned(), |spread| spread.shown(decimals))
}

fn object(
    kind: &str,
    workload: &str,
    in_flight: u32,
    spreads: &[(&'static str, Option<Spread>, usize)],
) -> Result<Map<String, Value>> {
    let mut object = Map::new();
    object.insert("kind".to_owned(), json!(kind));
    object.insert("workload".to_owned(), json!(workload));
    object.insert("in_flight".to_owned(), json!(in_flight));
    for (name, spread, _) in spreads {
        object.insert((*name).to_owned(), serde_json::to_value(spread)?);
    }
    Ok(object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tally::Tally;
    use std::time::Duration;

    fn sample(ops_per_s: f64) -> Option<Sample> {
        let (p50_ms, p99_ms, cpu_us_per_op) = (1.0, 2.0, 0.0);
        Some(Sample { ops_per_s, p50_ms, p99_ms, cpu_us_per_op, disk_bytes_per_byte: Some(4.0) })
    }

    fn comparison() -> Comparison {
        let mut comparison = Comparison::new(vec!["flotilla", "etcd", "redis"]);
        let rounds = vec![
            vec![sample(200.0), sample(300.0), sample(400.0)],
            vec![sample(100.0), sample(100.0), sample(400.0)],
            vec![None, None, None],
        ];
        assert_eq!(comparison.add("http-put", 64, rounds).expect("figures").len(), 2, "Redis has no HTTP");
        comparison
    }

    /// A system's costs are those of its processes, but for the disk, which all share.
    #[test]
    fn samples() {
        let mut tally = Tally::new().expect("a histogram");
        (0..100).for_each(|_| tally.record(Duration::from_millis(2), 50).expect("a latency"));
        let spent = |cpu, disk_bytes| Spent {
            usage: Usage { cpu: Duration::from_millis(cpu), ..Usage::default() },
            disk_bytes,
        };
        let of = |before, after| {
            let measured = Measured { tally: tally.clone(), refused: 0, seconds: 2.0, before, after };
            Sample::of(&measured)
        };
        let sample = of(spent(10, Some(100)), spent(35, Some(15_100))).expect("counters grew");
        assert_eq!(
            (sample.ops_per_s, sample.cpu_us_per_op, sample.disk_bytes_per_byte),
            (50.0, 250.0, Some(3.0))
        );
        let unknown = of(spent(10, None), spent(35, None)).expect("counters grew");
        assert_eq!(unknown.disk_bytes_per_byte, None);
        assert!(of(spent(35, None), spent(10, None)).is_err(), "a server was restarted");
    }

    /// Rows have medians and spreads, as text and as objects.
    #[test]
    fn rows() {
        let comparison = comparison();
        let [ours, theirs] = comparison.table.rows() else { panic!("two rows") };
        assert_eq!(ours[3], "300 (200..400)");
        assert_eq!((theirs[3].as_str(), theirs[4].as_str()), ("100 (100..400)", "1.00"));
        assert_eq!(ours[7], "4.0");
    }

    /// Ratios are taken within rounds; where something is divided by nothing, there is none.
    #[test]
    fn ratios() {
        let (table, said) = comparison().ratios().expect("figures");
        assert_eq!(table.rows().len(), 1);
        assert_eq!(table.rows()[0][2..], ["flotilla/etcd", "2.00 (1.00..3.00)", "1.00", "1.00", "-"]);
        let json: Value = serde_json::from_str(&said[0].json).expect("an object");
        assert_eq!((&json["kind"], &json["of"]), (&json!("ratio"), &json!("flotilla/etcd")));
        assert_eq!(json["ops_per_s"], json!({"median": 2.0, "min": 1.0, "max": 3.0}));
        assert!(json["cpu_us_per_op"].is_null());
    }

    /// Each workload has a plot of throughput and one of p99, with a line for each system that was measured.
    #[test]
    fn plots() {
        let plots = comparison().plots();
        let titles: Vec<&str> = plots.iter().map(|plot| plot.title.as_str()).collect();
        assert_eq!(titles, ["http-put: operations a second", "http-put: p99, ms"]);
        assert_eq!(plots[0].lines.len(), 2);
        assert!((plots[0].lines[1].points[0].max - 400.0).abs() < 1e-9);
    }
}
