//! Judges the history file of a run: each key by the checker, and the keys of appends once more, in so many
//! words.

use crate::workload::LOGS;
use anyhow::{Context, Result};
use checker::{Answer, End, Entry, Event, Exceeded, Failure, History, Limits, Operation, Verdict};
use checker::{check, html, jsonl, shrink};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long one key may take, and once more to make a failure small.
const KEY_TIME: Duration = Duration::from_secs(60);

/// So many failing keys are drawn.
const DRAWN_MAX: usize = 5;

/// So many times without an answer are told.
const SILENCES_SHOWN: usize = 3;

/// What a history comes to.
#[derive(Debug, Default)]
pub(crate) struct Judgement {
    /// Operations by what was asked and how that ended.
    pub(crate) counts: BTreeMap<(&'static str, &'static str), u64>,
    pub(crate) keys: usize,
    /// Keys whose history has no order.
    pub(crate) wrong: Vec<String>,
    /// Keys of which it could not be told.
    pub(crate) unknown: Vec<String>,
    /// Appends that are missing, doubled or out of place.
    pub(crate) appends_wrong: Vec<String>,
    /// Appends that were acknowledged.
    pub(crate) appends: u64,
    /// The longest times in which nothing was answered, each from when to when, the longest first.
    pub(crate) silences: Vec<(Duration, Duration)>,
    /// From the first line to the last.
    pub(crate) length: Duration,
    /// Pages that show what is wrong.
    pub(crate) pages: Vec<PathBuf>,
}

impl Judgement {
    pub(crate) fn operations(&self) -> u64 {
        self.counts.values().sum()
    }

    pub(crate) fn answered(&self) -> u64 {
        self.counts.iter().filter(|((_, end), _)| *end == "ok").map(|(_, count)| count).sum()
    }
}

/// Reads the history and judges it; pages of failures go to `folder`.
pub(crate) fn judge(path: &Path, folder: &Path) -> Result<Judgement> {
    let file = File::open(path).with_context(|| format!("{}", path.display()))?;
    let history = jsonl::read(BufReader::new(file))?;
    let mut judgement = tally(&history);
    let keys = by_key(&history)?;
    judgement.keys = keys.len();
    let limits = Limits { time: KEY_TIME, ..Limits::default() };
    for (key, history) in &keys {
        match check(history, &limits) {
            Verdict::Linearizable => {}
            Verdict::Unknown(Exceeded::Time | Exceeded::Memory) => judgement.unknown.push(key.clone()),
            Verdict::NotLinearizable(failure) => {
                if judgement.pages.len() < DRAWN_MAX {
                    judgement.pages.push(draw(history, &failure, &limits, folder, judgement.pages.len())?);
                }
                judgement.wrong.push(key.clone());
            }
        }
        if key.starts_with(LOGS) {
            let (acknowledged, wrong) = appends(key, history);
            judgement.appends += acknowledged;
            judgement.appends_wrong.extend(wrong);
        }
    }
    Ok(judgement)
}

fn draw(
    history: &History,
    failure: &Failure,
    limits: &Limits,
    folder: &Path,
    number: usize,
) -> Result<PathBuf> {
    let (small, failure) = shrink(history, failure, limits);
    let page = folder.join(format!("failure-{number}.html"));
    std::fs::write(&page, html::page(&small, &failure))?;
    Ok(page)
}

/// Counts, and the longest silence.
fn tally(history: &History) -> Judgement {
    let mut judgement = Judgement::default();
    for call in history.calls() {
        let asked = match call.operation {
            Operation::Get { .. } => "get",
            Operation::Put { .. } => "put",
            Operation::Append { .. } => "append",
            Operation::CompareAndSet { .. } => "cas",
            Operation::Delete { .. } => "delete",
            Operation::Scan { .. } => "scan",
        };
        let ended = match call.end {
            End::Answered(_) => "ok",
            End::Failed => "fail",
            End::Unknown => "info",
        };
        *judgement.counts.entry((asked, ended)).or_default() += 1;
    }
    let entries = history.entries();
    let answered = entries.iter().filter(|entry| matches!(entry.event, Event::Ok(_)));
    let times: Vec<u64> = answered.map(|entry| entry.time_ns).collect();
    let mut silences: Vec<(u64, u64)> = times.windows(2).map(|pair| (pair[0], pair[1])).collect();
    silences.sort_by_key(|(from, to)| std::cmp::Reverse(to - from));
    silences.truncate(SILENCES_SHOWN);
    let time = Duration::from_nanos;
    judgement.silences = silences.into_iter().map(|(from, to)| (time(from), time(to))).collect();
    let of = |entry: Option<&Entry>| entry.map_or(0, |entry| entry.time_ns);
    judgement.length = time(of(entries.last()) - of(entries.first()));
    judgement
}

/// Each key's own history.
fn by_key(history: &History) -> Result<BTreeMap<String, History>> {
    let mut keys: BTreeMap<String, History> = BTreeMap::new();
    let mut under_way: BTreeMap<u64, String> = BTreeMap::new();
    for entry in history.entries() {
        if let Event::Invoke(operation) = &entry.event {
            let key = operation.key().context("the workload lists nothing")?;
            under_way.insert(entry.process, String::from_utf8_lossy(key).into_owned());
        }
        let key = under_way.get(&entry.process).context("a completion follows its invocation")?;
        let entry: Entry = entry.clone();
        keys.entry(key.clone()).or_default().push(entry)?;
    }
    Ok(keys)
}

/// Holds the last read of a key of appends against what was appended: what was acknowledged stands there
/// once, what is unknown at most once, each process's in its order, and nothing else does. Returns how many
/// were acknowledged, and what is wrong.
fn appends(key: &str, history: &History) -> (u64, Vec<String>) {
    let (mut acknowledged, mut possible) = (Vec::new(), BTreeSet::new());
    let mut last = None;
    for call in history.calls() {
        match (call.operation, call.end) {
            (Operation::Append { value, .. }, end) => {
                let token = String::from_utf8_lossy(value).into_owned();
                if matches!(end, End::Answered(_)) {
                    acknowledged.push(token.clone());
                }
                if !matches!(end, End::Failed) {
                    possible.insert(token);
                }
            }
            (Operation::Get { .. }, End::Answered(Answer::Value { value, .. })) => {
                last = Some(String::from_utf8_lossy(value).into_owned());
            }
            (Operation::Get { .. }, End::Answered(_)) => last = Some(String::new()),
            _ => {}
        }
    }
    let Some(last) = last else { return (0, vec![format!("{key} could not be read at the end")]) };
    let mut wrong = Vec::new();
    let mut found = BTreeSet::new();
    for token in last.split_inclusive(',') {
        if !possible.contains(token) {
            wrong.push(format!("{key} holds {token} which nobody appended"));
        }
        if !found.insert(token) {
            wrong.push(format!("{key} holds {token} twice"));
        }
    }
    let lost = acknowledged.iter().filter(|token| !found.contains(token.as_str()));
    wrong.extend(lost.map(|token| format!("{key} lacks {token} which was acknowledged")));
    (acknowledged.len() as u64, wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use checker::Recorder;

    fn history(read: &str) -> History {
        let recorder = Recorder::new();
        let append = |token: &str| recorder.invoke(1, Operation::append("log/1", token));
        append("1.1,").ok(Answer::written(1));
        append("1.2,").info();
        append("1.3,").fail();
        recorder.invoke(1, Operation::get("log/1")).ok(Answer::value(read, None));
        recorder.history()
    }

    /// Appends are missed, and noticed where they stand twice, failed or come from nowhere; an unknown one
    /// may stand there or not.
    #[test]
    fn appends_are_counted() {
        for right in ["1.1,", "1.1,1.2,"] {
            assert_eq!(appends("log/1", &history(right)), (1, Vec::new()));
        }
        for wrong in ["", "1.2,", "1.1,1.1,", "1.1,1.3,", "1.1,2.1,"] {
            assert_eq!(appends("log/1", &history(wrong)).1.len(), 1, "{wrong}");
        }
    }

    /// Each key has a history of its own, in the order of the whole.
    #[test]
    fn keys_are_told_apart() {
        let recorder = Recorder::new();
        let put = recorder.invoke(1, Operation::put("a", "x"));
        recorder.invoke(2, Operation::get("b")).ok(Answer::Absent);
        put.ok(Answer::written(1));
        let keys = by_key(&recorder.history()).unwrap();
        assert_eq!(keys.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert!(keys.values().all(|history| history.calls().len() == 1));
        let judgement = tally(&recorder.history());
        assert_eq!((judgement.operations(), judgement.answered()), (2, 2));
    }
}
