//! What is to be seen on a plot, in one sentence that is computed from its figures alone.
//!
//! The words are as careful as the figures: what lies within [`SAME`] is not told apart, and a law is told only where it
//! accounts for nearly all that was measured.

use crate::plot::Line;

/// Figures within this factor of each other count as the same: runs of a few seconds differ by as much.
const SAME: f64 = 1.25;

/// The share of the logarithms' variance that a power of what is varied must account for, to be told.
const FIT: f64 = 0.98;

/// A power with an exponent this close to 1 or -1 is a proportion.
const NEAR: f64 = 0.1;

/// What was varied, and what it came to, from the least varied to the most.
type Figure = (f64, f64);

/// How figures go. An index is that of a figure.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Shape {
    Single,
    /// All count as the same.
    Flat,
    /// One way, as a power of what is varied with this exponent.
    Power(f64),
    /// One way up to there, where it is flat from then on.
    LevelsOff(usize),
    /// Flat up to there, then one way.
    SetsIn(usize),
    /// One way, most of it, for its width, up to there from the figure before.
    Uneven(usize),
    /// One way up to there, then the other.
    Turns(usize),
    /// To and fro.
    Wavers,
}

/// The sentence on some lines over the same axis, with their figures' unit; `None` where nothing was measured.
pub(crate) fn sentence(axis: &str, unit: &str, lines: &[Line]) -> Option<String> {
    let measured = || lines.iter().filter(|line| !line.points.is_empty());
    let columns = || measured().flat_map(|line| line.points.iter().map(|point| point.at));
    let (first, last) = (columns().min()?, columns().max()?);
    let begin = match first == last {
        true => format!("At {first} {axis}"),
        false => format!("From {first} to {last} {axis}"),
    };
    let clause = |line: &Line| {
        let mut figures: Vec<Figure> =
            line.points.iter().map(|point| (point.at as f64, point.median)).collect();
        figures.sort_by(|one, other| one.0.total_cmp(&other.0));
        format!("{} {}", line.name, clause(&figures, unit))
    };
    Some(format!("{begin}, {}.", measured().map(clause).collect::<Vec<_>>().join("; ")))
}

/// What one line does, from its verb on. There is at least one figure.
fn clause(figures: &[Figure], unit: &str) -> String {
    let shown = |index: usize| format!("{}{unit}", shown(figures[index].1));
    let at = |index: usize| figures[index].0;
    let end = figures.len() - 1;
    let grew = |from: usize, to: usize| match figures[to].1 > figures[from].1 {
        true => "grew",
        false => "fell",
    };
    let way = |from: usize, to: usize| format!("{} from {} to {}", grew(from, to), shown(from), shown(to));
    match shape(figures) {
        Shape::Single => format!("came to {}", shown(0)),
        Shape::Flat => between(figures, unit),
        Shape::Power(exponent) => format!("{}, {}", way(0, end), law(exponent)),
        Shape::LevelsOff(from) => {
            format!("{} at {}, and {} from there on", way(0, from), at(from), between(&figures[from..], unit))
        }
        Shape::SetsIn(from) => {
            let before = between(&figures[..=from], unit);
            format!("{before} up to {}, and {} to {} from there on", at(from), grew(from, end), shown(end))
        }
        Shape::Uneven(_) if end == 1 => format!("{}, {}", way(0, end), total(figures, unit)),
        Shape::Uneven(step) => {
            let (from, to) = (at(step - 1), at(step));
            format!("{}, {}, fastest between {from} and {to}", way(0, end), total(figures, unit))
        }
        Shape::Turns(turn) => {
            format!(
                "{} at {}, and {} to {} from there on",
                way(0, turn),
                at(turn),
                grew(turn, end),
                shown(end)
            )
        }
        Shape::Wavers => {
            let (low, high) = (least(figures), most(figures));
            format!(
                "went up and down between {} at {} and {} at {}",
                shown(low),
                at(low),
                shown(high),
                at(high)
            )
        }
    }
}

/// The span of figures that count as the same.
fn between(figures: &[Figure], unit: &str) -> String {
    let (low, high) = (shown(figures[least(figures)].1), shown(figures[most(figures)].1));
    match low == high {
        true => format!("stayed at {low}{unit}"),
        false => format!("stayed between {low}{unit} and {high}{unit}"),
    }
}

/// A power, in words.
fn law(exponent: f64) -> String {
    if (exponent - 1.0).abs() <= NEAR {
        return "in proportion".to_owned();
    }
    if (exponent + 1.0).abs() <= NEAR {
        return "in inverse proportion".to_owned();
    }
    format!("by a factor of {} for each tenfold", shown(10f64.powf(exponent.abs())))
}

/// By how much figures grew or fell in all, where that can be said.
fn total(figures: &[Figure], unit: &str) -> String {
    let (first, last) = (figures[0].1, figures[figures.len() - 1].1);
    let (low, high) = (first.min(last), first.max(last));
    match low > 0.0 {
        true => format!("by a factor of {}", shown(high / low)),
        false => format!("by {}{unit}", shown(high - low)),
    }
}

fn shape(figures: &[Figure]) -> Shape {
    let end = figures.len() - 1;
    if end == 0 {
        return Shape::Single;
    }
    if is_flat(figures) {
        return Shape::Flat;
    }
    if goes_one_way(figures) {
        let within = |index: &usize| *index > 0 && *index < end;
        let levels_off = (0..end).find(|from| is_flat(&figures[*from..])).filter(within);
        let sets_in = (0..end).rev().find(|to| is_flat(&figures[..=*to])).filter(within);
        return match (power(figures), levels_off, sets_in) {
            (Some(exponent), ..) => Shape::Power(exponent),
            (None, Some(from), _) => Shape::LevelsOff(from),
            (None, None, Some(from)) => Shape::SetsIn(from),
            (None, None, None) => Shape::Uneven(steepest(figures)),
        };
    }
    let turns_at = |turn: usize| {
        turn > 0 && turn < end && goes_one_way(&figures[..=turn]) && goes_one_way(&figures[turn..])
    };
    match [most(figures), least(figures)].into_iter().find(|turn| turns_at(*turn)) {
        Some(turn) => Shape::Turns(turn),
        None => Shape::Wavers,
    }
}

fn least(figures: &[Figure]) -> usize {
    (0..figures.len()).min_by(|one, other| figures[*one].1.total_cmp(&figures[*other].1)).unwrap_or(0)
}

fn most(figures: &[Figure]) -> usize {
    (0..figures.len()).max_by(|one, other| figures[*one].1.total_cmp(&figures[*other].1)).unwrap_or(0)
}

/// Whether all count as the same.
fn is_flat(figures: &[Figure]) -> bool {
    figures[most(figures)].1 <= figures[least(figures)].1 * SAME
}

/// Whether none goes back behind an earlier one by more than counts as the same, and the last is not the same as the
/// first.
fn goes_one_way(figures: &[Figure]) -> bool {
    let pairs = || {
        figures.iter().enumerate().flat_map(|(nth, one)| figures[nth..].iter().map(|next| (one.1, next.1)))
    };
    let (first, last) = (figures[0].1, figures[figures.len() - 1].1);
    let grows = last > first * SAME && pairs().all(|(one, next)| next * SAME >= one);
    let falls = first > last * SAME && pairs().all(|(one, next)| next <= one * SAME);
    grows || falls
}

/// The exponent of the power that goes through the figures; `None` where none does well enough, and of two figures,
/// through which one always does.
fn power(figures: &[Figure]) -> Option<f64> {
    if figures.len() < 3 || figures.iter().any(|(at, figure)| *at <= 0.0 || *figure <= 0.0) {
        return None;
    }
    let count = figures.len() as f64;
    let logs = || figures.iter().map(|(at, figure)| (at.ln(), figure.ln()));
    let (x_mean, y_mean) =
        (logs().map(|(x, _)| x).sum::<f64>() / count, logs().map(|(_, y)| y).sum::<f64>() / count);
    let sum =
        |product: fn(f64, f64) -> f64| logs().map(|(x, y)| product(x - x_mean, y - y_mean)).sum::<f64>();
    let (xx, xy, yy) = (sum(|x, _| x * x), sum(|x, y| x * y), sum(|_, y| y * y));
    // What is not varied has no law, and neither has what does not vary.
    (xy * xy >= FIT * xx * yy && xx > 0.0 && yy > 0.0).then(|| xy / xx)
}

/// The figure before which the way was longest, for the width in which it was gone: by the figures' ratio, or, where one
/// is 0, by their difference.
fn steepest(figures: &[Figure]) -> usize {
    let has_ratios = figures.iter().all(|(_, figure)| *figure > 0.0);
    let slope = |nth: &usize| {
        let ((x, y), (next_x, next_y)) = (figures[nth - 1], figures[*nth]);
        let height = if has_ratios { (next_y / y).ln() } else { next_y - y };
        (height / (next_x / x).ln()).abs()
    };
    (1..figures.len()).max_by(|one, other| slope(one).total_cmp(&slope(other))).unwrap_or(0)
}

/// With about three digits.
fn shown(figure: f64) -> String {
    let decimals = match figure.abs() {
        100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        _ => 3,
    };
    format!("{figure:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plot::Point;

    fn told(points: &[(u64, f64)]) -> String {
        let line = Line {
            name: "puts".into(),
            points: points.iter().map(|(at, figure)| Point::once(*at, *figure)).collect(),
        };
        sentence("clients", "/s", &[line]).expect("there are figures")
    }

    /// Whatever the figures do is told, with the figures where it changes.
    #[test]
    fn shapes() {
        for (points, expected) in [
            (&[(64, 812.4)][..], "At 64 clients, puts came to 812/s."),
            (
                &[(1, 100.0), (10, 110.0), (100, 95.0)],
                "From 1 to 100 clients, puts stayed between 95.0/s and 110/s.",
            ),
            (&[(1, 7.0), (4, 7.0)], "From 1 to 4 clients, puts stayed at 7.00/s."),
            (
                &[(1, 50.0), (10, 520.0), (100, 5_000.0)],
                "From 1 to 100 clients, puts grew from 50.0/s to 5000/s, in proportion.",
            ),
            (
                &[(1, 5_000.0), (10, 480.0), (100, 50.0)],
                "From 1 to 100 clients, puts fell from 5000/s to 50.0/s, in inverse proportion.",
            ),
            (
                &[(1, 10.0), (100, 100.0), (10_000, 1_000.0)],
                "From 1 to 10000 clients, puts grew from 10.0/s to 1000/s, by a factor of 3.16 for each tenfold.",
            ),
            (
                &[(1, 1_000.0), (100, 100.0), (10_000, 10.0)],
                "From 1 to 10000 clients, puts fell from 1000/s to 10.0/s, by a factor of 3.16 for each tenfold.",
            ),
            (
                &[(1, 100.0), (16, 1_500.0), (64, 4_000.0), (256, 4_400.0), (1_024, 4_200.0)],
                "From 1 to 1024 clients, puts grew from 100/s to 4000/s at 64, \
                 and stayed between 4000/s and 4400/s from there on.",
            ),
            (
                &[(10, 200.0), (100, 210.0), (1_000, 220.0), (10_000, 2_000.0)],
                "From 10 to 10000 clients, puts stayed between 200/s and 220/s up to 1000, \
                 and grew to 2000/s from there on.",
            ),
            (
                &[(1, 100.0), (10, 150.0), (100, 3_000.0), (1_000, 4_500.0)],
                "From 1 to 1000 clients, puts grew from 100/s to 4500/s, \
                 by a factor of 45.0, fastest between 10 and 100.",
            ),
            (
                &[(1, 100.0), (4, 250.0)],
                "From 1 to 4 clients, puts grew from 100/s to 250/s, by a factor of 2.50.",
            ),
            (
                &[(1, 100.0), (16, 900.0), (64, 1_000.0), (256, 400.0)],
                "From 1 to 256 clients, puts grew from 100/s to 1000/s at 64, and fell to 400/s from there on.",
            ),
            (
                &[(1, 900.0), (16, 100.0), (64, 700.0)],
                "From 1 to 64 clients, puts fell from 900/s to 100/s at 16, and grew to 700/s from there on.",
            ),
            (
                &[(1, 100.0), (4, 300.0), (16, 90.0), (64, 400.0)],
                "From 1 to 64 clients, puts went up and down between 90.0/s at 16 and 400/s at 64.",
            ),
        ] {
            assert_eq!(told(points), expected);
        }
    }

    /// Zeros have no logarithm, and are told all the same.
    #[test]
    fn zeros() {
        assert_eq!(told(&[(1, 0.0), (4, 0.0)]), "From 1 to 4 clients, puts stayed at 0.000/s.");
        let grown =
            "From 1 to 16 clients, puts grew from 0.000/s to 9.00/s, by 9.00/s, fastest between 4 and 16.";
        assert_eq!(told(&[(1, 0.0), (4, 2.0), (16, 9.0)]), grown);
    }

    /// A dent that counts as the same neither turns a line nor hides its law.
    #[test]
    fn dents() {
        assert!(
            told(&[(1, 10.0), (10, 100.0), (20, 180.0), (25, 170.0), (100, 900.0)])
                .ends_with("in proportion.")
        );
    }

    /// Several lines share their sentence, whatever the order of the points, and what was not measured is not told.
    #[test]
    fn lines_share_a_sentence() {
        let line = |name: &str, points: &[(u64, f64)]| Line {
            name: name.into(),
            points: points.iter().map(|(at, figure)| Point::once(*at, *figure)).collect(),
        };
        let lines = [
            line("puts", &[(4, 200.0), (1, 100.0)]),
            line("scans", &[]),
            line("gets", &[(1, 50.0), (4, 51.0)]),
        ];
        assert_eq!(
            sentence("groups", " ms", &lines).expect("there are figures"),
            "From 1 to 4 groups, puts grew from 100 ms to 200 ms, by a factor of 2.00; \
             gets stayed between 50.0 ms and 51.0 ms."
        );
        assert_eq!(sentence("groups", " ms", &lines[1..2]), None);
    }
}
