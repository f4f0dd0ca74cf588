//! What a run comes to, as a table.

use crate::verdict::Judgement;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// The result of a run.
#[derive(Debug)]
pub struct Report {
    pub(crate) seed: u64,
    pub(crate) network: String,
    pub(crate) missing: Vec<String>,
    pub(crate) faults: BTreeMap<&'static str, u64>,
    pub(crate) findings: Vec<String>,
    pub(crate) judgement: Judgement,
    /// How long after the last fault every group served again; `None` where that did not come.
    pub(crate) healthy_after: Option<Duration>,
    pub(crate) settled_after: Option<Duration>,
    pub(crate) folder: PathBuf,
}

impl Report {
    /// Whether nothing is wrong and nothing unknown.
    pub fn passed(&self) -> bool {
        !self.failed() && self.judgement.unknown.is_empty()
    }

    /// Whether something is certainly wrong.
    pub fn failed(&self) -> bool {
        let judgement = &self.judgement;
        !(self.findings.is_empty() && judgement.wrong.is_empty() && judgement.appends_wrong.is_empty())
    }

    /// How many faults were inflicted, and of how many kinds.
    pub fn faults(&self) -> (u64, usize) {
        (self.faults.values().sum(), self.faults.len())
    }

    /// How many operations were asked for.
    pub fn operations(&self) -> u64 {
        self.judgement.operations()
    }

    /// Where the history and the nodes' logs are.
    pub fn folder(&self) -> &std::path::Path {
        &self.folder
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let judgement = &self.judgement;
        writeln!(f, "seed {}; links: {}", self.seed, self.network)?;
        for missing in &self.missing {
            writeln!(f, "not here: {missing}")?;
        }
        let (faults, kinds) = self.faults();
        writeln!(f, "\nFAULT             COUNT")?;
        for (kind, count) in &self.faults {
            writeln!(f, "{kind:<16}{count:>7}")?;
        }
        writeln!(f, "{:<16}{faults:>7}   of {kinds} kinds", "all")?;
        writeln!(f, "\nOPERATION         OK    FAIL    INFO")?;
        for asked in ["get", "put", "append", "cas", "delete"] {
            let count = |ended| judgement.counts.get(&(asked, ended)).copied().unwrap_or(0);
            writeln!(f, "{asked:<10}{:>10}{:>8}{:>8}", count("ok"), count("fail"), count("info"))?;
        }
        let seconds = judgement.length.as_secs_f64();
        let rate = judgement.answered() as f64 / seconds.max(1.0);
        writeln!(f, "{} operations on {} keys in {seconds:.0} s", judgement.operations(), judgement.keys)?;
        writeln!(f, "{rate:.0} answered a second")?;
        for (from, to) in &judgement.silences {
            let (silence, from) = (to.saturating_sub(*from), from.as_secs_f64());
            writeln!(f, "no answer for {silence:.2?}, from {from:.2}s on")?;
        }
        let after = |what: Option<Duration>| what.map_or("never".into(), |after| format!("{after:.1?}"));
        writeln!(f, "healthy {} after the last fault", after(self.healthy_after))?;
        writeln!(f, "map at rest {} after that", after(self.settled_after))?;
        let wrong = judgement.appends_wrong.len();
        writeln!(f, "{} appends acknowledged, {wrong} lost, doubled or made up", judgement.appends)?;
        for what in self.findings.iter().chain(&judgement.appends_wrong) {
            writeln!(f, "FINDING: {what}")?;
        }
        for key in &judgement.wrong {
            writeln!(f, "NOT LINEARIZABLE: {key}")?;
        }
        for key in &judgement.unknown {
            writeln!(f, "UNKNOWN: {key}")?;
        }
        for page in &judgement.pages {
            writeln!(f, "drawn: {}", page.display())?;
        }
        let verdict = match (self.failed(), self.passed()) {
            (true, _) => "FAILED",
            (_, true) => "linearizable, nothing lost",
            _ => "UNKNOWN",
        };
        writeln!(f, "verdict: {verdict}")
    }
}
