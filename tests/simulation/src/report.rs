//! What is said of a run.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
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
    pub violations: Vec<Violation>,
}

/// What a run is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// The clients' history is linearizable.
    Linearizability,
    /// Replicas that have applied the same entries are the same.
    EvenReplicas,
    /// A group has one leader a term.
    OneLeader,
    /// A read that a quorum confirmed shows what was applied anywhere before it began.
    FreshReads,
    /// A shard is served by one group.
    OneGroup,
    /// A map of one epoch is one map.
    OneMap,
    /// No session is forgotten before its time.
    Sessions,
    /// What clients ask is not refused.
    Refusals,
    /// A node that was killed starts again.
    Start,
    /// A node stops if and only if its disk gave it a reason.
    Stop,
    /// No task panics: no assertion of the product is broken.
    Panic,
    /// The cluster is formed, and once all is mended it comes to rest and can be read.
    Rest,
    /// The run ends with a verdict.
    Verdict,
}

impl Check {
    /// Its name, as in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Linearizability => "linearizability",
            Self::EvenReplicas => "even replicas",
            Self::OneLeader => "one leader a term",
            Self::FreshReads => "fresh reads",
            Self::OneGroup => "one group for a shard",
            Self::OneMap => "one map an epoch",
            Self::Sessions => "sessions are kept",
            Self::Refusals => "no refusals",
            Self::Start => "nodes start again",
            Self::Stop => "nodes stop for a reason",
            Self::Panic => "no panic",
            Self::Rest => "all is well at the end",
            Self::Verdict => "a verdict",
        }
    }
}

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// Who saw it.
    pub check: Check,
    /// What.
    pub what: String,
}

impl Violation {
    /// What `check` saw.
    pub fn new(check: Check, what: impl Into<String>) -> Self {
        Self { check, what: what.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.check.name(), self.what)
    }
}

/// What must not be, as it is seen; clones are the same list.
#[derive(Clone, Debug, Default)]
pub struct Violations(Arc<Mutex<Vec<Violation>>>);

/// More than these are not listed.
const VIOLATIONS_MAX: usize = 20;

impl Violations {
    /// Adds one, unless it is listed already.
    pub fn add(&self, check: Check, what: impl Into<String>) {
        let mut list = lock(&self.0);
        let violation = Violation::new(check, what);
        if list.len() < VIOLATIONS_MAX && !list.contains(&violation) {
            list.push(violation);
        }
    }

    /// Whether there is any.
    pub fn any(&self) -> bool {
        !lock(&self.0).is_empty()
    }

    /// All of them.
    pub fn list(&self) -> Vec<Violation> {
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
