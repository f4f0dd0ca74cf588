//! Lines over the number of operations in flight, drawn as SVG: nothing else is needed to look at them.

use crate::html::escape;

/// The picture's size, and what stays free around the lines for words.
const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 48.0;

/// How many colours the page has; further lines begin anew with the first.
pub(crate) const COLOURS: usize = 8;

/// About how many lines the scale on the left has.
const STEPS: f64 = 5.0;

/// A measured figure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Point {
    pub(crate) in_flight: u32,
    pub(crate) median: f64,
    /// The ends of its rounds; both the median itself where there was one round.
    pub(crate) min: f64,
    pub(crate) max: f64,
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
    pub(crate) lines: Vec<Line>,
}

impl Plot {
    /// The picture as an SVG element. From left to right every doubling is as wide as any other; the scale on the left
    /// begins at 0.
    pub(crate) fn svg(&self) -> String {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let mut in_flight: Vec<u32> = points().map(|point| point.in_flight).collect();
        in_flight.sort_unstable();
        in_flight.dedup();
        let scale = Scale::of(&in_flight, points().map(|point| point.max).fold(0.0, f64::max));
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" xmlns=\"http://www.w3.org/2000/svg\">\n<text x=\"{LEFT}\" y=\"18\" class=\"title\">{}</text>\n",
            escape(&self.title)
        );
        svg += &scale.axes(&in_flight);
        for (index, line) in self.lines.iter().enumerate() {
            svg += &scale.line(line, index);
        }
        svg + "</svg>\n"
    }
}

/// Where figures lie in the picture.
struct Scale {
    first: f64,
    last: f64,
    step: f64,
    top: f64,
}

impl Scale {
    fn of(in_flight: &[u32], max: f64) -> Self {
        let log = |in_flight: Option<&u32>| f64::from(in_flight.copied().unwrap_or(1)).log2();
        let step = round_step(max / STEPS);
        let top = step * (max / step).ceil().max(1.0);
        Self { first: log(in_flight.first()), last: log(in_flight.last()), step, top }
    }

    fn x(&self, in_flight: u32) -> f64 {
        let width = WIDTH - LEFT - RIGHT;
        // A single column stands in the middle.
        let share = match self.last > self.first {
            true => (f64::from(in_flight).log2() - self.first) / (self.last - self.first),
            false => 0.5,
        };
        LEFT + share * width
    }

    fn y(&self, figure: f64) -> f64 {
        HEIGHT - BOTTOM - figure / self.top * (HEIGHT - TOP - BOTTOM)
    }

    fn axes(&self, in_flight: &[u32]) -> String {
        let mut svg = String::new();
        let decimals =
            usize::from(self.step < 1.0) + usize::from(self.step < 0.1) + usize::from(self.step < 0.01);
        for index in 0..=(self.top / self.step).round() as u32 {
            let figure = f64::from(index) * self.step;
            let (y, end) = (self.y(figure), WIDTH - RIGHT);
            svg +=
                &format!("<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{end}\" y2=\"{y:.1}\" class=\"grid\"/>\n");
            let (x, y) = (LEFT - 8.0, y + 4.0);
            svg += &format!("<text x=\"{x}\" y=\"{y:.1}\" text-anchor=\"end\">{figure:.decimals$}</text>\n");
        }
        for &column in in_flight {
            let (x, y) = (self.x(column), HEIGHT - BOTTOM + 18.0);
            svg += &format!("<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{column}</text>\n");
        }
        let (x, y) = ((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 10.0);
        svg += &format!("<text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\">in flight</text>\n");
        svg
    }

    fn line(&self, line: &Line, index: usize) -> String {
        let colour = index % COLOURS;
        let at = |point: &Point| format!("{:.1},{:.1}", self.x(point.in_flight), self.y(point.median));
        let path: Vec<String> = line.points.iter().map(at).collect();
        let mut svg = format!("<g class=\"c{colour}\">\n<polyline points=\"{}\"/>\n", path.join(" "));
        for point in &line.points {
            let (x, y) = (self.x(point.in_flight), self.y(point.median));
            let (low, high) = (self.y(point.min), self.y(point.max));
            svg += &format!("<line x1=\"{x:.1}\" y1=\"{low:.1}\" x2=\"{x:.1}\" y2=\"{high:.1}\"/>\n");
            let Point { in_flight, median, min, max } = point;
            let title = format!("{}, {in_flight} in flight: {median:.2} ({min:.2} to {max:.2})", line.name);
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

    fn plot(points: &[(u32, f64)]) -> Plot {
        let point = |&(in_flight, median)| Point { in_flight, median, min: median / 2.0, max: median * 2.0 };
        let line = |name: &str| Line { name: name.into(), points: points.iter().map(point).collect() };
        Plot { title: "put, ops/s".into(), lines: vec![line("flotilla"), line("<etcd> & \"others\"")] }
    }

    /// Scales are round, and reach as far as the highest figure.
    #[test]
    fn scales() {
        for (least, step) in
            [(0.0, 1.0), (1.0, 1.0), (1.1, 2.0), (3_700.0, 5_000.0), (0.03, 0.05), (9.9, 10.0)]
        {
            assert!((round_step(least) - step).abs() < 1e-9, "{least}: {}", round_step(least));
        }
        let scale = Scale::of(&[1, 64, 256], 11_000.0);
        assert!((scale.top - 15_000.0).abs() < 1e-6, "{}", scale.top);
        assert!((scale.x(1) - LEFT).abs() < 1e-9 && (scale.x(256) - (WIDTH - RIGHT)).abs() < 1e-9);
        assert!((scale.y(0.0) - (HEIGHT - BOTTOM)).abs() < 1e-9);
    }

    /// Every figure lies within the picture, also a single one, none, and nothing but zeros.
    #[test]
    fn figures_lie_within() {
        for points in [&[(1, 100.0), (64, 9_000.0), (1024, 12_345.0)][..], &[(64, 0.0)], &[(1, 0.002)], &[]] {
            let svg = plot(points).svg();
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
