//! Every bound and wait of the client in one struct: this owns the defaults and their validation. It reads no
//! file and no environment; whoever builds a client hands the values in.

use crate::Error;
use proto::Consistency;
use std::time::Duration;

/// No call may wait longer than this. Under pressure a server forgets a session after ten idle minutes, and a
/// session's first writes, sent again after that, would take effect twice. Five minutes leaves as much again for
/// copies that are late and for clocks that differ.
pub const DEADLINE_MAX: Duration = Duration::from_secs(300);

/// The longest time that one node may be given to answer in.
pub const ATTEMPT_TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// How a [`Client`](crate::Client) behaves. `Config::default()` with seeds suits a cluster in one place.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to ask first, as `host:port` or `http://host:port`; at least one. More are learned from the
    /// cluster. Default: none.
    pub seeds: Vec<String>,
    /// Whether connecting goes on up to the deadline although every seed refuses the connection: a program may start
    /// before its cluster. Default true. Say false where somebody waits who would rather be told at once.
    pub awaits_seeds: bool,
    /// The time that a call may take in all, retries included. Default 10 s, at most [`DEADLINE_MAX`]. Shorten
    /// it where a late answer is worthless, lengthen it to sit out longer faults.
    pub deadline: Duration,
    /// The time for one batch to be answered by one node before another node is tried, and a second more for each
    /// 256 KiB of keys and values in it. Default 2 s, at most [`ATTEMPT_TIMEOUT_MAX`]. Lengthen it over slow links,
    /// shorten it to leave hanging nodes sooner.
    pub attempt_timeout: Duration,
    /// The time to open a connection. Default 1 s, at most `attempt_timeout`.
    pub connect_timeout: Duration,
    /// The first wait between two attempts of one call; it doubles from there. Default 20 ms.
    pub backoff_min: Duration,
    /// The longest wait between two attempts of one call. Default 200 ms.
    pub backoff_max: Duration,
    /// How old the view of the cluster (who leads which group) may become before it is fetched again beside
    /// the next call. Default 5 s.
    pub map_age_max: Duration,
    /// Calls on their way at once, over all nodes; further callers wait their turn. Default 4096.
    pub in_flight_max: usize,
    /// Bytes of keys and values on their way at once; further callers wait their turn, and a single call of more
    /// goes alone. Default 64 MiB.
    pub in_flight_bytes_max: usize,
    /// Batches on their way at once to each node, at most: one leaves beside another once as much waits as that one
    /// carries, or once that one has taken long. Default 2.
    pub batches_per_node: usize,
    /// Operations in one batch. Default 1024.
    pub batch_items_max: usize,
    /// How fresh reads are. Default [`Consistency::Linearizable`].
    pub consistency: Consistency,
    /// Makes client ids, request ids and jitter repeatable. For simulations only: two clients of one seed would
    /// share their sessions, and writes would be lost. Default: the operating system's randomness.
    pub seed: Option<u64>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            seeds: Vec::new(),
            awaits_seeds: true,
            deadline: Duration::from_secs(10),
            attempt_timeout: Duration::from_secs(2),
            connect_timeout: Duration::from_secs(1),
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_millis(200),
            map_age_max: Duration::from_secs(5),
            in_flight_max: 4096,
            in_flight_bytes_max: 64 << 20,
            batches_per_node: 2,
            batch_items_max: 1024,
            consistency: Consistency::Linearizable,
            seed: None,
        }
    }
}

impl Config {
    /// Checks every field against its bounds.
    ///
    /// # Errors
    /// [`Error::Config`] that names the first field out of bounds.
    pub fn validate(&self) -> Result<(), Error> {
        let checks = [
            ("seeds", !self.seeds.is_empty(), "name at least one node"),
            ("deadline", within(self.deadline, DEADLINE_MAX), "must be above 0 and at most 300 s"),
            (
                "attempt_timeout",
                within(self.attempt_timeout, ATTEMPT_TIMEOUT_MAX),
                "must be above 0 and at most 60 s",
            ),
            (
                "connect_timeout",
                within(self.connect_timeout, self.attempt_timeout),
                "must be above 0 and at most attempt_timeout",
            ),
            (
                "backoff_min",
                within(self.backoff_min, self.backoff_max),
                "must be above 0 and at most backoff_max",
            ),
            ("backoff_max", within(self.backoff_max, Duration::from_secs(60)), "must be at most 60 s"),
            ("map_age_max", !self.map_age_max.is_zero(), "must be above 0"),
            ("in_flight_max", (1..=1 << 20).contains(&self.in_flight_max), "must be 1 to 1048576"),
            (
                "in_flight_bytes_max",
                (1 << 10..=1 << 31).contains(&self.in_flight_bytes_max),
                "must be 1 KiB to 2 GiB",
            ),
            ("batches_per_node", (1..=64).contains(&self.batches_per_node), "must be 1 to 64"),
            ("batch_items_max", (1..=1 << 16).contains(&self.batch_items_max), "must be 1 to 65536"),
        ];
        match checks.into_iter().find(|(_, holds, _)| !holds) {
            None => Ok(()),
            Some((field, _, reason)) => Err(Error::Config { field, reason: reason.to_owned() }),
        }
    }
}

fn within(duration: Duration, max: Duration) -> bool {
    !duration.is_zero() && duration <= max
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The defaults are valid once there is a seed, and a bad field is named.
    #[test]
    fn validation_names_the_field() {
        let good = Config { seeds: vec!["127.0.0.1:7101".into()], ..Config::default() };
        assert!(good.validate().is_ok());
        let field = |config: Config| match config.validate() {
            Err(Error::Config { field, .. }) => field,
            other => panic!("expected a refusal, got {other:?}"),
        };
        assert_eq!(field(Config::default()), "seeds");
        assert_eq!(field(Config { deadline: DEADLINE_MAX * 2, ..good.clone() }), "deadline");
        let slow = Config { attempt_timeout: ATTEMPT_TIMEOUT_MAX * 2, ..good.clone() };
        assert_eq!(field(slow), "attempt_timeout");
        assert_eq!(
            field(Config { connect_timeout: Duration::from_secs(3), ..good.clone() }),
            "connect_timeout"
        );
        assert_eq!(field(Config { in_flight_bytes_max: 1, ..good.clone() }), "in_flight_bytes_max");
        assert_eq!(field(Config { batches_per_node: 0, ..good }), "batches_per_node");
    }
}
