//! Hostile bytes: a configuration, whoever wrote it and wherever it stands, is taken or refused with a
//! reason, within the memory that its bytes pay for.

#[path = "../../proto/tests/hostile/damage.rs"]
pub(crate) mod damage;
#[path = "../../proto/tests/hostile/memory.rs"]
pub(crate) mod memory;

use crate::config::{Config, Layers, SAMPLE, load};
use crate::error::Error;
use damage::damaged;
use kvserver::NodeConfig;
use memory::Bound;
use proptest::prelude::*;
use proptest::sample::select;
use std::io::Write;

/// What loading takes, of which the list of all fields is the most, and what it takes for each byte of the
/// file: a value of three bytes is a name and a value in several trees.
const BOUND: Bound = Bound { own: 1 << 20, each: 1 << 10 };

/// Loads what stands in a file; refusals name the file, or nothing could be done about them.
fn load_file(bytes: &[u8]) -> Result<Config, String> {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(bytes).expect("written");
    let path = file.path().display().to_string();
    match BOUND.hold(bytes, || load(Some(file.path()), &Layers::default())) {
        Ok((config, _)) => Ok(taken(config)),
        Err(Error::Usage(why)) => {
            assert!(why.contains(&path), "{why}");
            Err(why)
        }
        Err(other) => panic!("{other}"),
    }
}

/// A configuration that is taken is one of a node, and the same when it is checked again.
fn taken(config: Config) -> Config {
    config.validate().expect("it was valid");
    drop(NodeConfig::from(&config));
    config
}

fn samples() -> Vec<Vec<u8>> {
    let members =
        "node = 2\n[members]\n1 = { peer = 'a:1', http = 'a:2' }\n2 = { peer = 'b:1', http = 'b:2' }";
    let joins =
        "node = 4\njoin = ['a:1', '[::1]:2']\npeer_advertise = 'c:1'\nhttp_advertise = 'c:2'\nzone = 'z'";
    let sections = "insecure = true\n[limits]\nkey_bytes_max = 2_048\n[raft]\nheartbeat_interval_ms = 70";
    [SAMPLE, members, joins, sections].map(|text| text.as_bytes().to_vec()).into()
}

/// Samples are taken, and so is nothing at all.
#[test]
fn samples_are_taken() {
    for sample in [vec![], SAMPLE.as_bytes().to_vec()].into_iter().chain(samples()) {
        if let Err(why) = load_file(&sample) {
            panic!("{why}: {}", sample.escape_ascii());
        }
    }
}

/// What has no bottom is refused before the stack ends, and what is long within the memory that it pays for.
#[test]
fn depth_and_length_are_refused() {
    const COUNT: usize = 100_000;
    for text in [
        format!("a = {}", "[".repeat(COUNT)),
        format!("a = {}", "{a=".repeat(COUNT)),
        format!("{}a = 1", "a.".repeat(COUNT)),
        format!("[{}a]", "a.".repeat(COUNT)),
        format!("[[{}a]]", "a.".repeat(COUNT)),
        format!("raft = {{ {}a = 1 }}", "a.".repeat(COUNT)),
        // A name that is unknown is compared with all that are known, which takes its time.
        format!("{} = 1", "a".repeat(4_000)),
        format!("join = [{}]", "'h:1',".repeat(COUNT) + "'h'"),
        format!("members = '{}'", "1=h:1/h:2,".repeat(COUNT)),
        "[raft]\n".repeat(COUNT),
        "\u{feff}".repeat(COUNT),
    ] {
        let why = load_file(text.as_bytes()).expect_err("it makes no sense");
        println!("{:.40}… is refused: {:.120}", text, why);
    }
}

/// Numbers that somebody thinks of.
fn number() -> impl Strategy<Value = i64> {
    let bounds =
        [0, 1, 2, 7, 100, 1 << 16, 1 << 20, i64::from(i32::MAX), i64::from(u32::MAX), 1 << 40, i64::MAX];
    select(bounds.iter().flat_map(|bound| [*bound, bound - 1, -bound]).collect::<Vec<_>>())
}

/// The names of all fields that hold a number.
fn number_fields() -> Vec<String> {
    let table = toml::Table::try_from(Config::default()).expect("the defaults are plain data");
    let names = table.iter().flat_map(|(name, value)| match value {
        toml::Value::Table(section) => section
            .iter()
            .filter(|(_, value)| value.is_integer())
            .map(|(field, _)| format!("{name}.{field}"))
            .collect::<Vec<_>>(),
        toml::Value::Integer(_) => vec![name.clone()],
        _ => vec![],
    });
    names.collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    /// Files of any bytes, good ones that were damaged, and what is made of TOML's parts.
    #[test]
    fn any_file(
        any in prop::collection::vec(any::<u8>(), 0..200),
        damaged in damaged(samples()),
        words in prop::collection::vec(
            select(vec![
                "[", "]", "{", "}", "=", ".", ",", "\n", "#", "\"", "'", "'''", "\\u", "raft", "members",
                "join", "limits", "node", "cluster", "heartbeat_interval_ms", "1", "-1", "1.5", "nan", "true",
                "1979-05-27", "0xffffffffffffffff", "9223372036854775807", "peer", "http", "\u{feff}", "\r", "ä",
            ]),
            0..30,
        ),
    ) {
        for bytes in [any, damaged, words.concat().into_bytes()] {
            drop(load_file(&bytes));
        }
    }

    /// Numbers of any size are taken or refused, whichever fields hold them: no sum of them goes wrong.
    #[test]
    fn any_numbers(numbers in prop::collection::vec((select(number_fields()), number()), 1..6)) {
        let lines: Vec<String> = numbers.iter().map(|(field, number)| format!("{field}={number}")).collect();
        match load(None, &Layers { flags: &lines, ..Layers::default() }) {
            Ok((config, _)) => drop(taken(config)),
            Err(error) => prop_assert!(matches!(error, Error::Usage(_)), "{error}"),
        }
    }

    /// Variables and flags that say anything, well or badly named.
    #[test]
    fn any_variable_or_flag(
        name in select(vec!["NODE", "MEMBERS", "JOIN", "RAFT_LOG_BYTES_KEPT", "INSECURE", "CLUSTER", ""]),
        field in select(vec!["node", "members", "join", "raft.log_bytes_kept", "insecure", "raft", ".", ""]),
        text in prop_oneof![
            select(vec!["", "0", "-1", "true", "1=a:1/a:2", "1=a:1/a:2,", "a:1,b", "h:1", "=", "1e9", "_"])
                .prop_map(str::to_owned),
            any::<String>(),
        ],
        split in select(vec!["=", "", " = ", "=="]),
    ) {
        let variable = (format!("FLOTILLA_{name}"), text.clone());
        let flag = [format!("{field}{split}{text}")];
        let both = Layers { environment: vec![variable.clone()], flags: &flag };
        for layers in [Layers { environment: vec![variable], flags: &[] }, both] {
            match BOUND.hold(text.as_bytes(), || load(None, &layers)) {
                Ok((config, _)) => drop(taken(config)),
                Err(error) => prop_assert!(matches!(error, Error::Usage(_)), "{error}"),
            }
        }
    }
}
