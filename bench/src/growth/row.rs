//! What one point came to: as a table's row, as an object, and as points of plots with their sentences.

use super::point::{Point, Series};
use crate::measure::Measured;
use crate::plot::{self, Line, Plot};
use crate::process::Usage;
use crate::report::{Table, figure};
use crate::shape::sentence;
use anyhow::Result;
use serde::Serialize;

/// A plot whose figures reach over more than this factor would show the small ones as nothing on a scale from 0.
const TENFOLD_FROM: f64 = 20.0;

/// What operations of one kind came to.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Work {
    pub(super) ops_per_s: f64,
    /// Of keys and values that were acknowledged.
    mib_per_s: f64,
    p50_ms: f64,
    p99_ms: f64,
    /// Of all nodes.
    cpu_us_per_op: f64,
}

impl Work {
    pub(super) fn of(measured: &Measured<Usage>) -> Result<Self> {
        let usage = measured.after.since(measured.before)?;
        Ok(Self {
            ops_per_s: measured.throughput(),
            mib_per_s: mib(measured.tally.stored_bytes) / measured.seconds,
            p50_ms: measured.tally.millis(0.5),
            p99_ms: measured.tally.millis(0.99),
            cpu_us_per_op: measured.per_operation(usage.cpu.as_secs_f64() * 1e6),
        })
    }
}

/// From the moment when all nodes were started again after SIGKILL to all.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Recovery {
    /// Until the first linearizable get was answered.
    pub(super) answers_s: f64,
    /// Until each node said that it is ready.
    pub(super) ready_s: f64,
}

/// Figures of one point.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Row {
    #[serde(flatten)]
    pub(super) point: Point,
    pub(super) puts: Work,
    pub(super) gets: Work,
    /// Resident in all nodes together after both were measured.
    pub(super) memory_bytes: u64,
    /// The sum of the most that each node had until then.
    pub(super) memory_peak_bytes: u64,
    /// Where that was measured.
    pub(super) recovery: Option<Recovery>,
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1 << 20) as f64
}

impl Row {
    /// An empty table for the rows of a series.
    pub(super) fn table(series: Series) -> Table {
        let varied = match series {
            Series::ValueSize => ("VALUE B", 8),
            Series::DataSet => ("KEYS", 10),
            Series::Groups => ("GROUPS", 6),
            Series::Clients => ("IN FLIGHT", 9),
        };
        let mut columns = vec![varied];
        columns.extend([
            ("PUTS/S", 8),
            ("PUT MIB/S", 9),
            ("PUT P50 MS", 10),
            ("PUT P99 MS", 10),
            ("PUT CPU µs", 10),
        ]);
        columns.extend([("GETS/S", 8), ("GET P50 MS", 10), ("GET P99 MS", 10), ("GET CPU µs", 10)]);
        columns.extend([("MIB", 7), ("PEAK MIB", 8)]);
        if series == Series::DataSet {
            columns.extend([("ANSWERS S", 9), ("READY S", 7)]);
        }
        Table::new(columns)
    }

    pub(super) fn cells(&self) -> Vec<String> {
        let Self { puts, gets, .. } = self;
        let shown = |number: f64, decimals: usize| figure(Some(number), decimals);
        let mut cells = vec![
            self.point.at.to_string(),
            shown(puts.ops_per_s, 0),
            shown(puts.mib_per_s, 2),
            shown(puts.p50_ms, 2),
            shown(puts.p99_ms, 2),
            shown(puts.cpu_us_per_op, 1),
            shown(gets.ops_per_s, 0),
            shown(gets.p50_ms, 2),
            shown(gets.p99_ms, 2),
            shown(gets.cpu_us_per_op, 1),
            shown(mib(self.memory_bytes), 0),
            shown(mib(self.memory_peak_bytes), 0),
        ];
        if self.point.series == Series::DataSet {
            cells.push(figure(self.recovery.map(|recovery| recovery.answers_s), 2));
            cells.push(figure(self.recovery.map(|recovery| recovery.ready_s), 2));
        }
        cells
    }
}

/// A line's name, and its figure where a row has one.
type Of = (&'static str, fn(&Row) -> Option<f64>);

/// What is plotted against what grows.
struct Figure {
    title: &'static str,
    unit: &'static str,
    /// The series that alone has it.
    only: Option<Series>,
    lines: &'static [Of],
}

const FIGURES: [Figure; 6] = [
    Figure {
        title: "operations a second",
        unit: "/s",
        only: None,
        lines: &[("puts", |row| Some(row.puts.ops_per_s)), ("gets", |row| Some(row.gets.ops_per_s))],
    },
    Figure {
        title: "keys and values that puts stored, MiB a second",
        unit: " MiB/s",
        only: Some(Series::ValueSize),
        lines: &[("puts", |row| Some(row.puts.mib_per_s))],
    },
    Figure {
        title: "p99, ms",
        unit: " ms",
        only: None,
        lines: &[("p99 of puts", |row| Some(row.puts.p99_ms)), ("p99 of gets", |row| Some(row.gets.p99_ms))],
    },
    Figure {
        title: "CPU time of all nodes, µs an operation",
        unit: " µs",
        only: None,
        lines: &[
            ("CPU time of a put", |row| Some(row.puts.cpu_us_per_op)),
            ("CPU time of a get", |row| Some(row.gets.cpu_us_per_op)),
        ],
    },
    Figure {
        title: "memory of all nodes, MiB",
        unit: " MiB",
        only: None,
        lines: &[
            ("peak memory", |row| Some(mib(row.memory_peak_bytes))),
            ("memory at the end", |row| Some(mib(row.memory_bytes))),
        ],
    },
    Figure {
        title: "recovery after SIGKILL to all nodes, s",
        unit: " s",
        only: Some(Series::DataSet),
        lines: &[
            ("time to the first get", |row| Some(row.recovery?.answers_s)),
            ("time until all are ready", |row| Some(row.recovery?.ready_s)),
        ],
    },
];

/// The plots of a series, each with its sentence; none where nothing was measured.
pub(super) fn plots(series: Series, rows: &[Row]) -> Vec<Plot> {
    let has = |figure: &&Figure| figure.only.is_none_or(|only| only == series);
    FIGURES.iter().filter(has).filter_map(|figure| plot(series, figure, rows)).collect()
}

fn plot(series: Series, figure: &Figure, rows: &[Row]) -> Option<Plot> {
    let line = |(name, of): &Of| {
        let point = |row: &Row| Some(plot::Point::once(row.point.at, of(row)?));
        Line { name: (*name).to_owned(), points: rows.iter().filter_map(point).collect() }
    };
    let lines: Vec<Line> = figure.lines.iter().map(line).collect();
    let sentence = sentence(series.axis(), figure.unit, &lines)?;
    let figures = || lines.iter().flat_map(|line| line.points.iter().map(|point| point.median));
    let tenfold = figures().fold(0.0, f64::max) > TENFOLD_FROM * figures().fold(f64::INFINITY, f64::min);
    let title = format!("{}: {}", series.name(), figure.title);
    Some(Plot { tenfold, sentence: Some(sentence), ..Plot::new(title, series.axis(), lines) })
}

#[cfg(test)]
mod tests {
    use super::super::tests::parse;
    use super::*;
    use crate::tally::Tally;
    use clap::ValueEnum;
    use std::time::Duration;

    fn rows(series: Series) -> Vec<Row> {
        let work =
            |ops_per_s| Work { ops_per_s, mib_per_s: 0.5, p50_ms: 1.0, p99_ms: 2.0, cpu_us_per_op: 9.0 };
        let row = |point: Point| Row {
            point,
            puts: work(100.0 * point.at as f64),
            gets: work(7.0),
            memory_bytes: 5 << 20,
            memory_peak_bytes: 6 << 20,
            recovery: (series == Series::DataSet).then_some(Recovery { answers_s: 1.5, ready_s: 2.0 }),
        };
        let args = parse(&["--keys=1,8,64", "--groups=1,8,64", "--clients=1,8,64", "--value-bytes=1,8,64"]);
        series.points(&args.expect("good arguments")).into_iter().map(row).collect()
    }

    /// What was spent is each operation's part.
    #[test]
    fn work() {
        let mut tally = Tally::new().expect("a histogram");
        (0..100).for_each(|_| tally.record(Duration::from_millis(2), 1 << 20).expect("a latency"));
        let spent = |cpu| Usage { cpu: Duration::from_millis(cpu), ..Usage::default() };
        let measured = Measured { tally, refused: 0, seconds: 2.0, before: spent(10), after: spent(35) };
        let work = Work::of(&measured).expect("counters grew");
        assert_eq!((work.ops_per_s, work.mib_per_s, work.cpu_us_per_op), (50.0, 50.0, 250.0));
    }

    /// Every series has a cell for each of its columns, and recovery where it was measured.
    #[test]
    fn cells() {
        for &series in Series::value_variants() {
            let mut table = Row::table(series);
            rows(series).iter().for_each(|row| drop(table.add(row.cells())));
            let recovers = table.columns().any(|column| column == "READY S");
            assert_eq!(recovers, series == Series::DataSet);
        }
        let json = serde_json::to_value(rows(Series::DataSet)[0]).expect("an object");
        assert_eq!((&json["series"], &json["at"], &json["keys"]), (&"data-set".into(), &1.into(), &1.into()));
        assert_eq!(json["recovery"]["answers_s"], 1.5);
    }

    /// Each plot has a sentence that tells its figures, and a scale that shows them; what was not measured has no plot.
    #[test]
    fn sentences() {
        for (&series, count) in Series::value_variants().iter().zip([5, 5, 4, 4]) {
            let plots = plots(series, &rows(series));
            assert_eq!(plots.len(), count, "{series:?}");
            let axis = series.axis();
            let expected = format!(
                "From 1 to 64 {axis}, puts grew from 100/s to 6400/s, in proportion; gets stayed at 7.00/s."
            );
            assert_eq!(plots[0].sentence, Some(expected));
            assert!(plots[0].tenfold && !plots[count - 1].tenfold);
        }
        let recovery = plots(Series::DataSet, &rows(Series::DataSet)).pop().expect("a plot");
        assert!(recovery.sentence.expect("a sentence").contains("time to the first get stayed at 1.50 s"));
        assert!(plots(Series::Groups, &[]).is_empty());
    }
}
