//! Medians of a few rounds, and how far the rounds lie apart.

use serde::Serialize;

/// The middle of some figures, and the ends.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    /// Of an even number of figures, the mean of the two in the middle.
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// `None` where there are no figures, or one is no number.
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut figures: Vec<f64> = figures.into_iter().collect();
        if figures.iter().any(|figure| !figure.is_finite()) {
            return None;
        }
        figures.sort_unstable_by(f64::total_cmp);
        let (&min, &max) = (figures.first()?, figures.last()?);
        let middle = figures.len() / 2;
        let median = match figures.len() % 2 {
            1 => figures[middle],
            _ => f64::midpoint(figures[middle - 1], figures[middle]),
        };
        Some(Self { median, min, max })
    }

    /// Of the ratios of figures that were taken one after the other in the same round: what changes from round to round
    /// changes both. `None` also where something is divided by nothing.
    pub(crate) fn of_ratios(pairs: impl IntoIterator<Item = (f64, f64)>) -> Option<Self> {
        Self::of(pairs.into_iter().map(|(ours, theirs)| ours / theirs))
    }

    /// As `median (min..max)`, with so many decimals; the median alone where there was one round.
    pub(crate) fn shown(self, decimals: usize) -> String {
        let Self { median, min, max } = self;
        if min == max {
            return format!("{median:.decimals$}");
        }
        format!("{median:.decimals$} ({min:.decimals$}..{max:.decimals$})")
    }
}

/// The median of some figures; `None` where there are none.
pub(crate) fn median(figures: impl IntoIterator<Item = f64>) -> Option<f64> {
    Spread::of(figures).map(|spread| spread.median)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The median lies in the middle, whatever the order and the number of figures.
    #[test]
    fn medians() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median([7.0]), Some(7.0));
        assert_eq!(median([]), None);
        assert_eq!(median([1.0, f64::NAN]), None);
    }

    /// Ratios are those of the rounds, not that of the medians.
    #[test]
    fn ratios_are_of_rounds() {
        let rounds = [(10.0, 5.0), (30.0, 10.0), (20.0, 20.0)];
        assert_eq!(Spread::of_ratios(rounds), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(Spread::of_ratios([(1.0, 2.0), (1.0, 0.0)]), None);
        assert_eq!(Spread::of_ratios([(0.0, 0.0)]), None);
    }

    /// The spread is shown where there is one.
    #[test]
    fn shown() {
        let spread = Spread { median: 2.0, min: 1.0, max: 3.25 };
        assert_eq!(spread.shown(1), "2.0 (1.0..3.2)");
        assert_eq!(Spread::of([2.0]).expect("a figure").shown(2), "2.00");
    }
}
