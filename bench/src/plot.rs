//! Lines over a number that is varied, drawn as SVG: nothing else is needed to look at them.

use crate::html::escape;

/// The picture's size, and what stays free around the lines for words.
const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 32.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 48.0;

/// How many colours the page has; further lines begin anew with the first.
pub(crate) const COLOURS: usize = 8;

/// About how many lines a scale from 0 has.
const STEPS: f64 = 5.0;

/// A measured figure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Point {
    /// The number that is varied.
    pub(crate) at: u64,
    pub(crate) median: f64,
    /// The ends of its rounds; both the median itself where there was one round.
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Point {
    /// Of a single round.
    pub(crate) fn once(at: u64, figure: f64) -> Self {
        Self { at, median: figure, min: figure, max: figure }
    }
}

/// Points of one kind.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) points: Vec<Point>,
}

/// A picture of several lines.
#[derive(Clone, Debug)]
pub(crate) struct Plot {
    pub(crate) title: String,
    /// What is varied.
    pub(crate) axis: &'static str,
    pub(crate) lines: Vec<Line>,
    /// Whether every tenfold is as high as any other, where no figure is 0; the scale on the left begins at 0 otherwise.
    pub(crate) tenfold: bool,
    /// What is to be seen on it.
    pub(crate) sentence: Option<String>,
}

impl Plot {
    /// With a scale that begins at 0, and without words.
    pub(crate) fn new(title: String, axis: &'static str, lines: Vec<Line>) -> Self {
        Self { title, axis, lines, tenfold: false, sentence: None }
    }

    /// The picture as an SVG element. From left to right every doubling is as wide as any other.
    pub(crate) fn svg(&self) -> String {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let mut columns: Vec<u64> = points().map(|point| point.at).collect();
        columns.sort_unstable();
        columns.dedup();
        let min = points().map(|point| point.min).fold(f64::INFINITY, f64::min);
        let max = points().map(|point| point.max).fold(0.0, f64::max);
        let rows = match self.tenfold && min > 0.0 && min.is_finite() {
            true => Rows::tenfold(min, max),
            false => Rows::from_zero(max),
        };
        let scale = Scale::of(&columns, rows);
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" xmlns=\"http://www.w3.org/2000/svg\">\n<text x=\"{LEFT}\" y=\"18\" class=\"title\">{}</text>\n",
            escape(&self.title)
        );
        svg += &scale.rows();
        svg += &scale.columns(&columns, self.axis);
        for (index, line) in self.lines.iter().enumerate() {
            svg += &scale.line(line, self.axis, index);
        }
        svg + "</svg>\n"
    }
}

/// The scale on the left.
enum Rows {
    /// So many steps of the same size.
    FromZero { step: f64, steps: u32 },
    /// From one power of ten to another.
    Tenfold { low: i32, high: i32 },
}

impl Rows {
    fn from_zero(max: f64) -> Self {
        let step = round_step(max / STEPS);
        Self::FromZero { step, steps: (max / step).ceil().max(1.0) as u32 }
    }

    fn tenfold(min: f64, max: f64) -> Self {
        let low = min.log10().floor() as i32;
        Self::Tenfold { low, high: (max.log10().ceil() as i32).max(low + 1) }
    }

    /// How high a figure lies, from 0 at the bottom to 1.
    fn height(&self, figure: f64) -> f64 {
        match *self {
            Self::FromZero { step, steps } => figure / (step * f64::from(steps)),
            Self::Tenfold { low, high } => (figure.log10() - f64::from(low)) / f64::from(high - low),
        }
    }

    /// The figures that have a line, each with its decimals.
    fn figures(&self) -> Vec<(f64, usize)> {
        match *self {
            Self::FromZero { step, steps } => {
                let decimals = usize::from(step < 1.0) + usize::from(step < 0.1) + usize::from(step < 0.01);
                (0..=steps).map(|index| (f64::from(index) * step, decimals)).collect()
            }
            Self::Tenfold { low, high } => {
                (low..=high).map(|power| (10f64.powi(power), power.min(0).unsigned_abs() as usize)).collect()
            }
        }
    }
}

/// Where figures lie in the picture.
struct Scale {
    first: f64,
    last: f64,
    rows: Rows,
}

impl Scale {
    fn of(columns: &[u64], rows: Rows) -> Self {
        let log = |column: Option<&u64>| (column.copied().unwrap_or(1) as f64).log2();
        Self { first: log(columns.first()), last: log(columns.last()), rows }
    }

    fn x(&self, at: u64) -> f64 {
        let width = WIDTH - LEFT - RIGHT;
        // A single column stands in the middle.
        let share = match self.last > self.first {
            true => ((at as f64).log2() - self.first) / (self.last - self.first),
            false => 0.5,
        };
        LEFT + share * width
    }

    fn y(&self, figure: f64) -> f64 {
        HEIGHT - BOTTOM - self.rows.height(figure) * (HEIGHT - TOP - BOTTOM)
    }

    fn rows(&self) -> String {
        let mut svg = String::new();
        for (figure, decimals) in self.rows.figures() {
            let (y, end) = (self.y(figure), WIDTH - RIGHT);
            svg +=
                &format!("<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{end}\" y2=\"{y:.1}\" class=\"grid\"/>\n");
            let (x, y) = (LEFT - 8.0, y + 4.0);
            svg += &format!("<text x=\"{x}\" y=\"{y:.1}\" text-anchor=\"end\">{figure:.decimals$}</text>\n");
        }
        svg
    }

    fn columns(&self, columns: &[u64], axis: &str) -> String {
        let mut svg = String::new();
        for &column in columns {
            let (x, y) = (self.x(column), HEIGHT - BOTTOM + 18.0);
            svg += &format!("<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{column}</text>\n");
        }
        let (x, y) = ((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 10.0);
        svg + &format!("<text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\">{}</text>\n", escape(axis))
    }

    fn line(&self, line: &Line, axis: &str, index: usize) -> String {
        let colour = index % COLOURS;
        let at = |point: &Point| format!("{:.1},{:.1}", self.x(point.at), self.y(point.median));
        let path: Vec<String> = line.points.iter().map(at).collect();
        let mut svg = format!("<g class=\"c{colour}\">\n<polyline points=\"{}\"/>\n", path.join(" "));
        for point in &line.points {
            let (x, y) = (self.x(point.at), self.y(point.median));
            let (low, high) = (self.y(point.min), self.y(point.max));
            svg += &format!("<line x1=\"{x:.1}\" y1=\"{low:.1}\" x2=\"{x:.1}\" y2=\"{high:.1}\"/>\n");
            let Point { at, median, min, max } = point;
            let title = format!("{}, {at} {axis}: {median:.2} ({min:.2} to {max:.2})", line.name);
            svg += &format!(
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\"><title>{}</title></circle>\n",
                escape(&title)
            );
        }
        svg + "</g>\n"
    }
}

/// The smallest of 1, 2, 5, 10, 20, 50, … that is no less; and the like below 1.
fn round_step(least: f64) -> f64 {
    if least <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(least.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0];
    steps.into_iter().map(|step| step * power).find(|step| *step >= least).unwrap_or(10.0 * power)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(points: &[(u64, f64)]) -> Plot {
        let point = |&(at, median)| Point { at, median, min: median / 2.0, max: median * 2.0 };
        let line = |name: &str| Line { name: name.into(), points: points.iter().map(point).collect() };
        let lines = vec![line("flotilla"), line("<etcd> & \"others\"")];
        Plot::new("put, ops/s".into(), "in flight", lines)
    }

    /// Scales are round, and reach as far as the highest figure.
    #[test]
    fn scales() {
        for (least, step) in
            [(0.0, 1.0), (1.0, 1.0), (1.1, 2.0), (3_700.0, 5_000.0), (0.03, 0.05), (9.9, 10.0)]
        {
            assert!((round_step(least) - step).abs() < 1e-9, "{least}: {}", round_step(least));
        }
        let scale = Scale::of(&[1, 64, 256], Rows::from_zero(11_000.0));
        assert!((scale.rows.height(15_000.0) - 1.0).abs() < 1e-9);
        assert!((scale.x(1) - LEFT).abs() < 1e-9 && (scale.x(256) - (WIDTH - RIGHT)).abs() < 1e-9);
        assert!((scale.y(0.0) - (HEIGHT - BOTTOM)).abs() < 1e-9);
    }

    /// Where every tenfold is as high as any other, the scale's lines are the powers of ten around all figures.
    #[test]
    fn tenfold_scales() {
        let rows = Rows::tenfold(0.05, 900.0);
        let figures = rows.figures();
        let names: Vec<String> =
            figures.iter().map(|(figure, decimals)| format!("{figure:.decimals$}")).collect();
        assert_eq!(names, ["0.01", "0.1", "1", "10", "100", "1000"]);
        for (index, (figure, _)) in figures.iter().enumerate() {
            assert!((rows.height(*figure) - index as f64 / 5.0).abs() < 1e-9, "{figure}");
        }
        assert_eq!(Rows::tenfold(10.0, 10.0).figures().len(), 2, "one power of ten is not the whole scale");
    }

    /// Every figure lies within the picture, also a single one, none, and nothing but zeros.
    #[test]
    fn figures_lie_within() {
        for points in [&[(1, 100.0), (64, 9_000.0), (1024, 12_345.0)][..], &[(64, 0.0)], &[(1, 0.002)], &[]] {
            for tenfold in [false, true] {
                let svg = Plot { tenfold, ..plot(points) }.svg();
                assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
                for name in ["cx", "cy", "x1", "y1", "x2", "y2"] {
                    for value in svg.split(&format!(" {name}=\"")).skip(1) {
                        let value: f64 = value.split('"').next().expect("a value").parse().expect("a number");
                        assert!((0.0..=WIDTH).contains(&value), "{name}={value}");
                    }
                }
            }
        }
    }
}
