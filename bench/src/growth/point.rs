//! What each series varies, and what it leaves as it is. Owns the points and their estimate of memory; measures nothing.

use super::GrowthArgs;
use crate::cluster::NODES;
use crate::keys::key;
use clap::ValueEnum;
use serde::Serialize;

/// What a series does not vary.
const KEYS: u64 = 10_000;
const VALUE_BYTES: u64 = 256;
const GROUPS: u64 = 1;
const IN_FLIGHT: u64 = 256;

/// So many bytes of values there are at most where values grow, and are in flight at most: fewer, larger ones, so that
/// neither the servers nor the client hold more than they would with small ones.
const DATA_BYTES_MAX: u64 = 64 << 20;
const IN_FLIGHT_BYTES_MAX: u64 = 8 << 20;

/// What a node is estimated to need at its peak: itself with the end of its log and all that is under way, which was up
/// to 300 MiB with large values, and for each key beside key and value. A million keys of 22 bytes with values of 256 were
/// measured to take up to 713 bytes each.
const NODE_BYTES: u64 = 384 << 20;
const KEY_BYTES: u64 = 512;

/// What grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Series {
    /// The values' size.
    ValueSize,
    /// How many keys there are; with the time until a cluster is back after the end of all its nodes.
    DataSet,
    /// How many groups the keys are spread over.
    Groups,
    /// How many operations are in flight.
    Clients,
}

impl Series {
    /// In results and titles.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::ValueSize => "value size",
            Self::DataSet => "data set",
            Self::Groups => "groups",
            Self::Clients => "clients",
        }
    }

    /// What is varied, after its number.
    pub(super) fn axis(self) -> &'static str {
        match self {
            Self::ValueSize => "bytes a value",
            Self::DataSet => "keys",
            Self::Groups => "groups",
            Self::Clients => "operations in flight",
        }
    }

    /// What is not varied.
    pub(super) fn constants(self) -> String {
        let keys = format!("{KEYS} keys");
        let values = format!("values of {VALUE_BYTES} bytes");
        let groups = format!("groups: {GROUPS}");
        let in_flight = format!("{IN_FLIGHT} operations in flight");
        match self {
            Self::ValueSize => format!(
                "{keys}, or as many as {} MiB of values are; {in_flight}, or as many as {} MiB are; {groups}",
                DATA_BYTES_MAX >> 20,
                IN_FLIGHT_BYTES_MAX >> 20
            ),
            Self::DataSet => format!("{values}; {in_flight}; {groups}"),
            Self::Groups => format!("{keys}; {values}; {in_flight}"),
            Self::Clients => format!("{keys}; {values}; {groups}"),
        }
    }

    /// Its points, from the least to the greatest.
    pub(super) fn points(self, args: &GrowthArgs) -> Vec<Point> {
        let mut varied = match self {
            Self::ValueSize => args.value_bytes.clone(),
            Self::DataSet => args.keys.clone(),
            Self::Groups => args.groups.clone(),
            Self::Clients => args.clients.clone(),
        };
        varied.sort_unstable();
        varied.dedup();
        varied.into_iter().map(|at| Point::new(self, at)).collect()
    }
}

/// A cluster, and how it is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Point {
    pub(super) series: Series,
    /// The number that is varied.
    pub(super) at: u64,
    pub(super) keys: u64,
    pub(super) value_bytes: u64,
    pub(super) groups: u64,
    /// Operations that are in flight.
    pub(super) in_flight: u64,
}

impl Point {
    fn new(series: Series, at: u64) -> Self {
        let usual =
            Self { series, at, keys: KEYS, value_bytes: VALUE_BYTES, groups: GROUPS, in_flight: IN_FLIGHT };
        match series {
            Series::ValueSize => Self {
                value_bytes: at,
                keys: KEYS.min((DATA_BYTES_MAX / at).max(1)),
                in_flight: IN_FLIGHT.min((IN_FLIGHT_BYTES_MAX / at).max(1)),
                ..usual
            },
            Series::DataSet => Self { keys: at, ..usual },
            Series::Groups => Self { groups: at, ..usual },
            Series::Clients => Self { in_flight: at, ..usual },
        }
    }

    /// How messages call it.
    pub(super) fn name(&self) -> String {
        format!("{} {}", self.at, self.series.axis())
    }

    /// What each key is estimated to take on a node, itself and its value included.
    pub(super) fn bytes_per_key(&self) -> u64 {
        key(0).len() as u64 + self.value_bytes + KEY_BYTES
    }

    /// What all nodes together are estimated to need.
    pub(super) fn memory_bytes(&self) -> u64 {
        let node = NODE_BYTES.saturating_add(self.keys.saturating_mul(self.bytes_per_key()));
        node.saturating_mul(NODES as u64)
    }

    /// Why it is left out on a machine that can give no more than so much memory; `None` where it is not.
    pub(super) fn lacks(&self, available_bytes: u64) -> Option<String> {
        let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
        let needed = self.memory_bytes();
        (needed > available_bytes).then(|| {
            format!(
                "left out: {NODES} nodes are estimated to need {:.1} GiB of memory, {} MiB each and {} bytes a key, \
                 and {:.1} GiB are available",
                gib(needed),
                NODE_BYTES >> 20,
                self.bytes_per_key(),
                gib(available_bytes)
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::parse;
    use super::*;

    /// Each series varies its own number, in order, and each number once.
    #[test]
    fn series_vary_one_number() {
        let args = parse(&["--keys=50,7,50", "--groups=2", "--clients=3", "--value-bytes=5"]);
        let args = args.expect("good arguments");
        let of = |series: Series| series.points(&args);
        assert_eq!(of(Series::DataSet).iter().map(|point| point.keys).collect::<Vec<_>>(), [7, 50]);
        assert_eq!((of(Series::Groups)[0].groups, of(Series::Clients)[0].in_flight), (2, 3));
        assert_eq!(
            (of(Series::ValueSize)[0].value_bytes, of(Series::ValueSize)[0].in_flight),
            (5, IN_FLIGHT)
        );
        for series in Series::value_variants() {
            assert!(of(*series).iter().all(|point| point.series == *series));
        }
    }

    /// Large values are few, and few of them are in flight, but never none.
    #[test]
    fn large_values_are_bounded() {
        for at in [1, 16, 4_096, 65_536, 1 << 20, 1 << 30] {
            let point = Point::new(Series::ValueSize, at);
            assert!(point.keys == 1 || point.keys * at <= DATA_BYTES_MAX, "{point:?}");
            assert!(point.in_flight == 1 || point.in_flight * at <= IN_FLIGHT_BYTES_MAX, "{point:?}");
            assert!(point.keys >= 1 && point.in_flight >= 1);
        }
        let largest = Point::new(Series::ValueSize, 1 << 20);
        assert_eq!((largest.keys, largest.in_flight), (64, 8));
    }

    /// What a machine's memory does not allow is left out, and it is said why.
    #[test]
    fn memory_allows() {
        let point = Point::new(Series::DataSet, 10_000_000);
        assert_eq!(point.lacks(point.memory_bytes()), None);
        let why = point.lacks(point.memory_bytes() - 1).expect("a byte is missing");
        let estimate = "3 nodes are estimated to need 23.2 GiB of memory, 384 MiB each and 790 bytes a key";
        assert!(why.contains(estimate), "{why}");
        assert!(Point::new(Series::DataSet, u64::MAX).lacks(u64::MAX - 1).is_some(), "no estimate overflows");
    }
}
