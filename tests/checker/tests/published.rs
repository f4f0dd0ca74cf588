//! Published histories, with the verdicts that another checker gives of them: Jepsen's logs of an early etcd,
//! and key/value histories of the project porcupine. They are not part of this repository:
//! `FLOTILLA_HISTORIES` names their folder, otherwise one is looked for beside the repository; where there is
//! none, nothing is checked.

use checker::{Answer, Entry, Event, History, Interval, Limits, Model, Operation, Verdict, check, search};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where each file must be decided within.
const LIMITS: Limits = Limits { time: Duration::from_secs(10), memo_bytes: 256 << 20 };

fn folder() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/histories");
    let folder = std::env::var_os("FLOTILLA_HISTORIES").map_or(beside, PathBuf::from);
    let found = folder.is_dir();
    if !found {
        let said = writeln!(std::io::stderr(), "no histories at {}: nothing is checked", folder.display());
        said.expect("stderr of a test is open");
    }
    found.then_some(folder)
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// One integer that is read, written and compared by value; no value at the beginning.
struct CasRegister;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Asked {
    Read,
    Write(i64),
    Cas(i64, i64),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Told {
    Value(Option<i64>),
    Done,
    Mismatch,
}

impl Model for CasRegister {
    type Operation = Asked;
    type Answer = Told;
    type State = Option<i64>;

    fn initial(&self) -> Option<i64> {
        None
    }

    fn step(&self, state: &Option<i64>, asked: &Asked, told: Option<&Told>) -> Option<Option<i64>> {
        let (answer, next) = match *asked {
            Asked::Read => (Told::Value(*state), *state),
            Asked::Write(value) => (Told::Done, Some(value)),
            Asked::Cas(from, to) if *state == Some(from) => (Told::Done, Some(to)),
            Asked::Cas(..) => (Told::Mismatch, *state),
        };
        told.is_none_or(|told| *told == answer).then_some(next)
    }

    fn is_read(&self, asked: &Asked, told: &Told) -> bool {
        *asked == Asked::Read || *told == Told::Mismatch
    }
}

/// The operations of a log like `INFO  jepsen.util - 2 :invoke :cas [3 0]`, with tabs before what starts with
/// a colon and before the last field.
fn jepsen(text: &str) -> Vec<Interval<Asked, Told>> {
    let mut intervals: Vec<Interval<Asked, Told>> = Vec::new();
    let mut under_way: BTreeMap<&str, usize> = BTreeMap::new();
    for (at, line) in text.lines().enumerate() {
        let at = at as u64;
        let Some(line) = line.strip_prefix("INFO  jepsen.util - ") else { continue };
        let fields: Vec<&str> = line.split('\t').collect();
        let [process, kind, asked, value] = fields[..] else { panic!("line {at}: {line}") };
        let numbers: Vec<i64> =
            value.trim_matches(['[', ']']).split(' ').filter_map(|number| number.parse().ok()).collect();
        if kind == ":invoke" {
            let operation = match (asked, &numbers[..]) {
                (":read", []) => Asked::Read,
                (":write", [value]) => Asked::Write(*value),
                (":cas", [from, to]) => Asked::Cas(*from, *to),
                _ => panic!("line {at}: {line}"),
            };
            assert_eq!(under_way.insert(process, intervals.len()), None, "line {at}: {line}");
            intervals.push(Interval { operation, invoked: at, answered: None });
            continue;
        }
        let interval = &mut intervals[under_way.remove(process).expect("it was invoked")];
        interval.answered = match (kind, interval.operation) {
            (":ok", Asked::Read) => Some((at, Told::Value(numbers.first().copied()))),
            (":ok", _) => Some((at, Told::Done)),
            (":fail", Asked::Cas(..)) => Some((at, Told::Mismatch)),
            (":info", _) => None,
            _ => panic!("line {at}: {line}"),
        };
    }
    // A read of unknown outcome says nothing.
    intervals.retain(|it| it.operation != Asked::Read || it.answered.is_some());
    intervals
}

/// The history in lines like `{:process 0, :type :ok, :f :get, :key "7", :value ""}`. An absent key is read
/// as empty there.
fn porcupine(text: &str) -> History {
    let mut history = History::new();
    for (at, line) in text.lines().enumerate() {
        let field = |name: &str| {
            let (_, behind) =
                line.split_once(&format!(":{name} ")).unwrap_or_else(|| panic!("line {at}: {line}"));
            behind.strip_prefix('"').map_or_else(
                || behind.split([',', '}']).next().unwrap_or_default(),
                |quoted| quoted.split('"').next().unwrap_or_default(),
            )
        };
        let (key, value) = (field("key"), field("value"));
        let event = match (field("type"), field("f")) {
            (":invoke", ":get") => Event::Invoke(Operation::get(key)),
            (":invoke", ":put") => Event::Invoke(Operation::put(key, value)),
            (":invoke", ":append") => Event::Invoke(Operation::append(key, value)),
            (":ok", ":get") if value.is_empty() => Event::Ok(Answer::Absent),
            (":ok", ":get") => Event::Ok(Answer::value(value, None)),
            (":ok", _) => Event::Ok(Answer::written(None)),
            _ => panic!("line {at}: {line}"),
        };
        let process = field("process").parse().expect("processes are numbers");
        let entry = Entry { process, time_ns: at as u64, node: None, event };
        history.push(entry).unwrap_or_else(|error| panic!("line {at}: {error}"));
    }
    history
}

fn word<F>(verdict: &Verdict<F>) -> String {
    match verdict {
        Verdict::Linearizable => "linearizable".to_owned(),
        Verdict::NotLinearizable(_) => "not-linearizable".to_owned(),
        Verdict::Unknown(exceeded) => exceeded.to_string(),
    }
}

/// Each of etcd's logs gets its known verdict, within seconds.
#[test]
fn etcds_logs_get_their_verdicts() {
    let Some(folder) = folder() else { return };
    let verdicts = read(&folder.join("etcd/VERDICTS.tsv"));
    let mut checked = 0;
    for row in verdicts.lines() {
        let (name, expected) = row.split_once('\t').expect("a name and a verdict");
        let intervals = jepsen(&read(&folder.join("etcd").join(name)));
        let verdict = search(&CasRegister, &intervals, &LIMITS);
        assert_eq!(word(&verdict), expected, "{name}");
        checked += 1;
    }
    assert_eq!(checked, 51);
}

/// Each of the key/value histories gets the verdict in its name, within seconds.
#[test]
fn key_value_histories_get_their_verdicts() {
    let Some(folder) = folder() else { return };
    let entries = std::fs::read_dir(folder.join("kv")).expect("a folder");
    let paths: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
    assert!(!paths.is_empty());
    for path in paths {
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let expected = if name.ends_with("-ok") { "linearizable" } else { "not-linearizable" };
        let verdict = check(&porcupine(&read(&path)), &LIMITS);
        assert_eq!(word(&verdict), expected, "{name}");
    }
}
