//! What is said of a run.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::lock;

/// Of one seed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Over all events, in order.
    pub trace_hash: String,
    /// How many events there were.
    pub events: u64,
    /// How many operations clients called.
    pub operations: u64,
    /// How many of them were answered.
    pub answered: u64,
    /// How often each kind of fault happened.
    pub faults: BTreeMap<String, u64>,
    /// How long it was, the rest at the end included, in simulated milliseconds.
    pub simulated_ms: u64,
    /// What was seen that must not be; empty where all is well.
    pub violations: Vec<String>,
}

/// What must not be, as it is seen; clones are the same list.
#[derive(Clone, Debug, Default)]
pub struct Violations(Arc<Mutex<Vec<String>>>);

/// More than these are not listed.
const VIOLATIONS_MAX: usize = 20;

impl Violations {
    /// Adds one, unless it is listed already.
    pub fn add(&self, what: String) {
        let mut list = lock(&self.0);
        if list.len() < VIOLATIONS_MAX && !list.contains(&what) {
            list.push(what);
        }
    }

    /// Whether there is any.
    pub fn any(&self) -> bool {
        !lock(&self.0).is_empty()
    }

    /// All of them.
    pub fn list(&self) -> Vec<String> {
        lock(&self.0).clone()
    }
}

/// How often what happened; clones are the same count.
#[derive(Clone, Debug, Default)]
pub struct Tally(Arc<Mutex<BTreeMap<String, u64>>>);

impl Tally {
    /// Counts one.
    pub fn count(&self, what: &str) {
        *lock(&self.0).entry(what.to_owned()).or_default() += 1;
    }

    /// All counts.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        lock(&self.0).clone()
    }
}
