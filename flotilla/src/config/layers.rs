//! One configuration out of three layers: the file, over it the environment, over that the flags. This owns the
//! order and the errors, which say where the wrong word stands; it reads the file and nothing else.

use super::schema::{self, Field, fields, nearest};
use super::{Config, Members};
use crate::error::Error;
use std::path::Path;
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

/// A file larger than this is not a configuration.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Variables that other commands and the log read; they are no settings of a node, and no slips either.
const OTHER_VARIABLES: [&str; 2] = ["FLOTILLA_LOG", "FLOTILLA_NODES"];

/// What there is besides the file.
#[derive(Debug, Default)]
pub(crate) struct Layers<'a> {
    /// The process's environment, names and values.
    pub(crate) environment: Vec<(String, String)>,
    /// `field=value` from the command line, in order.
    pub(crate) flags: &'a [String],
}

/// The valid configuration, and warnings about variables that look like settings and are none.
pub(crate) fn load(file: Option<&Path>, layers: &Layers<'_>) -> Result<(Config, Vec<String>), Error> {
    let text = match file {
        None => String::new(),
        Some(path) => read(path)?,
    };
    let mut table = match file {
        None => Table::new(),
        Some(path) => {
            parse(&text).map_err(|(line, why)| Error::Usage(format!("{}:{line}: {why}", path.display())))?
        }
    };
    let fields = fields();
    let warnings = environment(&mut table, &fields, &layers.environment)?;
    flags(&mut table, &fields, layers.flags)?;
    let config: Config = table.try_into().map_err(|error: toml::de::Error| {
        Error::Usage(format!("the configuration makes no sense: {}", error.message()))
    })?;
    config.validate().map_err(|error| {
        let message = error.to_string();
        let place = place(&message, &fields, layers, &text);
        let place = match (place, file) {
            (Some(Place::Line(line)), Some(path)) => format!("{}:{line}: ", path.display()),
            (Some(Place::Other(name)), _) => format!("{name}: "),
            (_, Some(path)) => format!("{}: ", path.display()),
            (_, None) => String::new(),
        };
        Error::Usage(format!("{place}{message}"))
    })?;
    Ok((config, warnings))
}

/// Where a setting was said.
enum Place {
    /// A line of the file, from 1.
    Line(usize),
    /// A variable or a flag, by its name.
    Other(String),
}

/// Where the setting was said, last and so to hold, with whose path `message` begins; `None` where nobody said it.
fn place(message: &str, fields: &[Field], layers: &Layers<'_>, text: &str) -> Option<Place> {
    let path = message.split(' ').next()?;
    let is_of = |field: &&Field| {
        path.strip_prefix(field.path.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    let field = fields.iter().find(is_of)?;
    let sets = |flag: &&String| flag.split_once('=').is_some_and(|(name, _)| name.trim() == field.path);
    if let Some(flag) = layers.flags.iter().rev().find(sets) {
        return Some(Place::Other(format!("flag for {flag}")));
    }
    let variable = field.variable();
    if layers.environment.iter().any(|(name, _)| *name == variable) {
        return Some(Place::Other(variable));
    }
    line_of(path, text).map(Place::Line)
}

/// The line on which the file names `path`, or the last part of it that has one.
fn line_of(path: &str, text: &str) -> Option<usize> {
    let names = DeTable::parse(text).ok()?;
    let (mut table, mut at) = (names.get_ref(), None);
    for part in path.split('.') {
        let Some((name, value)) = table.iter().find(|(name, _)| name.get_ref() == part) else { break };
        at = Some(start(name));
        match value.get_ref() {
            DeValue::Table(inner) => table = inner,
            _ => break,
        }
    }
    at.map(|at| line(text, at))
}

fn read(path: &Path) -> Result<String, Error> {
    let refuse =
        |why: String| Error::Usage(format!("cannot read the configuration {}: {why}", path.display()));
    let size = std::fs::metadata(path).map_err(|error| refuse(error.to_string()))?.len();
    if size > FILE_BYTES_MAX {
        return Err(refuse(format!("it is larger than {FILE_BYTES_MAX} bytes")));
    }
    std::fs::read_to_string(path).map_err(|error| refuse(error.to_string()))
}

/// The file's table, or the line (from 1) of the first thing wrong and what it is.
fn parse(text: &str) -> Result<Table, (usize, String)> {
    let located = |error: toml::de::Error| {
        (line(text, error.span().map_or(0, |span| span.start)), error.message().trim().replace('\n', ", "))
    };
    let names = DeTable::parse(text).map_err(located)?;
    let table: Table = text.parse().map_err(located)?;
    check_fields(names.get_ref(), &table, "", &fields()).map_err(|(at, why)| (line(text, at), why))?;
    toml::from_str::<Config>(text).map_err(located)?;
    Ok(table)
}

fn line(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count()
}

/// Every name in `table` is a field with a value of its type, or a section of them; otherwise its place and what is
/// wrong. `values` is the same table without places.
fn check_fields(
    table: &DeTable<'_>,
    values: &Table,
    prefix: &str,
    fields: &[Field],
) -> Result<(), (usize, String)> {
    for (name, value) in table {
        let path = format!("{prefix}{}", name.get_ref());
        let known = values.get(name.get_ref().as_ref());
        if let Some((field, value)) = fields.iter().find(|field| field.path == path).zip(known) {
            field.check(value).map_err(|why| (start(name), why))?;
            continue;
        }
        let section = format!("{path}.");
        match value.get_ref() {
            DeValue::Table(inner) if fields.iter().any(|field| field.path.starts_with(&section)) => {
                let values = known.and_then(Value::as_table).cloned().unwrap_or_default();
                check_fields(inner, &values, &section, fields)?;
            }
            _ => return Err((start(name), unknown(&path, fields))),
        }
    }
    Ok(())
}

fn start<T>(spanned: &Spanned<T>) -> usize {
    spanned.span().start
}

fn unknown(path: &str, fields: &[Field]) -> String {
    let name = path.rsplit('.').next().unwrap_or(path);
    let siblings =
        |field: &&Field| field.path.rsplit_once('.').map(|it| it.0) == path.rsplit_once('.').map(|it| it.0);
    let near_path = nearest(path, fields.iter().map(|field| field.path.as_str()));
    let elsewhere = || fields.iter().find(|field| field.path.rsplit('.').next() == Some(name));
    match near_path.or_else(|| elsewhere().map(|field| field.path.as_str())) {
        Some(near) => format!("unknown field {path}, did you mean {near}?"),
        None => {
            let known: Vec<&str> = fields.iter().filter(siblings).map(|field| field.path.as_str()).collect();
            match known.is_empty() {
                true => format!("unknown field {path}; flotilla server --sample-config shows all fields"),
                false => format!("unknown field {path}, fields here are {}", known.join(", ")),
            }
        }
    }
}

fn environment(table: &mut Table, fields: &[Field], all: &[(String, String)]) -> Result<Vec<String>, Error> {
    let mut warnings = Vec::new();
    for (name, text) in all.iter().filter(|(name, _)| name.starts_with("FLOTILLA_")) {
        match fields.iter().find(|field| field.variable() == *name) {
            Some(field) => {
                let value = field.parse(text).map_err(|why| Error::Usage(format!("{name}: {why}")))?;
                set(table, field, value).map_err(|why| Error::Usage(format!("{name}: {why}")))?;
            }
            None if OTHER_VARIABLES.contains(&name.as_str()) => {}
            None => warnings.push(stray_variable(name, fields)),
        }
    }
    Ok(warnings)
}

/// A warning, not a refusal: container platforms set variables named after services on their own.
fn stray_variable(name: &str, fields: &[Field]) -> String {
    let variables: Vec<String> = fields.iter().map(Field::variable).collect();
    match nearest(name, variables.iter().map(String::as_str)) {
        Some(near) => {
            format!("environment variable {name} is no setting and is ignored, did you mean {near}?")
        }
        None => format!("environment variable {name} is no setting and is ignored"),
    }
}

fn flags(table: &mut Table, fields: &[Field], settings: &[String]) -> Result<(), Error> {
    for setting in settings {
        let refuse = |why: String| Error::Usage(format!("flag for {setting}: {why}"));
        let (path, text) =
            setting.split_once('=').ok_or_else(|| refuse("a setting is written field=value".into()))?;
        let field = fields.iter().find(|field| field.path == path.trim());
        let field = field.ok_or_else(|| refuse(unknown(path.trim(), fields)))?;
        let value = field.parse(text).map_err(refuse)?;
        set(table, field, value).map_err(refuse)?;
    }
    Ok(())
}

/// Puts `value` where `field` stands, making its sections where they are absent.
fn set(table: &mut Table, field: &Field, value: Value) -> Result<(), String> {
    if let (Value::Table(_), Value::String(line)) = (&field.default, &value) {
        line.parse::<Members>()?;
    }
    let (sections, name) = match field.path.rsplit_once('.') {
        Some((sections, name)) => (sections.split('.').collect(), name),
        None => (Vec::new(), field.path.as_str()),
    };
    let mut at = table;
    for section in sections {
        let inner = at.entry(section).or_insert_with(|| Value::Table(Table::new()));
        let found = schema::kind(inner);
        at = inner.as_table_mut().ok_or_else(|| format!("{section} must be a table, not {found}"))?;
    }
    at.insert(name.to_owned(), value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(text.as_bytes()).expect("written");
        file
    }

    fn refused(text: &str) -> String {
        let file = file(text);
        match load(Some(file.path()), &Layers::default()) {
            Err(Error::Usage(message)) => message,
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    /// The environment overrules the file, flags overrule both, and what nobody names keeps its default.
    #[test]
    fn order_of_layers() {
        let file = file(
            "cluster = 'file'\nnode = 3\n[raft]\nheartbeat_interval_ms = 70\nelection_timeout_ms_min = 400",
        );
        let layers = Layers {
            environment: vec![
                ("FLOTILLA_CLUSTER".into(), "environment".into()),
                ("FLOTILLA_RAFT_HEARTBEAT_INTERVAL_MS".into(), "80".into()),
                ("PATH".into(), "/bin".into()),
            ],
            flags: &["cluster=flag".into(), "limits.key_bytes_max=2_048".into()],
        };
        let (config, warnings) = load(Some(file.path()), &layers).expect("a good configuration");
        assert_eq!((config.cluster.as_str(), config.node), ("flag", 3));
        assert_eq!((config.raft.heartbeat_interval_ms, config.raft.election_timeout_ms_min), (80, 400));
        assert_eq!(config.limits.key_bytes_max, 2048);
        assert_eq!(config.groups, Config::default().groups);
        assert!(warnings.is_empty(), "{warnings:?}");
    }

    /// Members come from any layer, in the file's notation or in one line.
    #[test]
    fn members_from_a_variable() {
        let layers = Layers {
            environment: vec![("FLOTILLA_MEMBERS".into(), "1=a:1/a:2,2=b:1/b:2".into())],
            ..Layers::default()
        };
        let (config, _) = load(None, &layers).expect("a good configuration");
        assert_eq!(config.members.0.len(), 2);
    }

    /// A wrong name is refused with its line and the name that was probably meant.
    #[test]
    fn unknown_fields() {
        for (text, line, reason) in [
            ("node = 1\nhttp_listn = 'x'", 2, "did you mean http_listen?"),
            ("\n\n[raft]\nheartbeat_interval = 5", 4, "did you mean raft.heartbeat_interval_ms?"),
            ("heartbeat_interval_ms = 5", 1, "did you mean raft.heartbeat_interval_ms?"),
            ("[raff]\nheartbeat_interval_ms = 5", 1, "unknown field raff"),
            ("[members.1]\npeer = 'a:1'\nhttp = 'a:2'\ncolour = 'red'", 4, "unknown field `colour`"),
        ] {
            let message = refused(text);
            assert!(message.contains(&format!(":{line}: ")) && message.contains(reason), "{message}");
        }
    }

    /// A number that no field could be is refused by the field's name, whatever layer it comes from.
    #[test]
    fn impossible_numbers() {
        let wrong = "raft.log_bytes_kept must be a whole number from 0, not -5";
        let message = refused("[raft]\nlog_bytes_kept = -5");
        assert!(message.ends_with(&format!(":2: {wrong}")), "{message}");
        let variable = ("FLOTILLA_RAFT_LOG_BYTES_KEPT".to_owned(), "-5".to_owned());
        let flag = ["raft.log_bytes_kept=-5".to_owned()];
        for layers in
            [Layers { environment: vec![variable], flags: &[] }, Layers { environment: vec![], flags: &flag }]
        {
            let error = load(None, &layers).expect_err("no such number").to_string();
            assert!(error.ends_with(wrong), "{error}");
        }
    }

    /// A value out of bounds is refused with the place where it was said: the line, the variable or the flag, whichever
    /// holds; where the file says nothing of the field, with the file.
    #[test]
    fn bounds_name_their_place() {
        for (text, place) in [
            ("\nnode = 0", ":2: node must be at least 1"),
            ("node = 1\n[raft]\n\nelection_timeout_ms_min = 1", ":4: raft.election_timeout_ms_min"),
            (
                "[members]\n1 = { peer = 'a:1', http = 'a:2' }\n2 = { peer = 'b', http = 'b:2' }",
                ":3: members.2.peer",
            ),
            ("[limits]\nkey_bytes_max = 1048576", ": limits.batch_bytes_max must hold"),
        ] {
            let message = refused(text);
            assert!(message.contains(place), "{message}");
        }
        let file = file("node = 0");
        let variable = [("FLOTILLA_NODE".to_owned(), "0".to_owned())];
        let flag = ["node=0".to_owned()];
        for (environment, flags, place) in
            [(&variable[..], &[][..], "FLOTILLA_NODE: node"), (&variable, &flag, "flag for node=0: node")]
        {
            let layers = Layers { environment: environment.to_vec(), flags };
            let error = load(Some(file.path()), &layers).expect_err("no node 0").to_string();
            assert!(error.starts_with(place), "{error}");
        }
    }

    /// Text that is no TOML, and values of the wrong type, are refused with their line.
    #[test]
    fn wrong_types_and_syntax() {
        for (text, line) in [("node = 1\nnode = 2", 2), ("= 3", 1), ("cluster = 'a'\nnode = 'one'", 2)] {
            let message = refused(text);
            assert!(message.contains(&format!(":{line}: ")), "{message}");
        }
    }

    /// A variable or flag that is no whole number where one is due is refused by its own name.
    #[test]
    fn bad_variables_and_flags() {
        let variable = ("FLOTILLA_NODE".to_owned(), "one".to_owned());
        let error = load(None, &Layers { environment: vec![variable], flags: &[] }).expect_err("no number");
        assert!(error.to_string().contains("FLOTILLA_NODE: node must be a whole number"), "{error}");
        for (flag, reason) in
            [("node", "field=value"), ("nodee=1", "did you mean node?"), ("members=1", "id=peer_host")]
        {
            let flags = [flag.to_owned()];
            let error = load(None, &Layers { environment: vec![], flags: &flags }).expect_err(flag);
            assert!(error.to_string().contains(reason), "{error}");
        }
    }

    /// A mistyped variable is pointed out; what belongs to other commands is not.
    #[test]
    fn stray_variables_are_warned_of() {
        let environment =
            ["FLOTILLA_HTTP_LISTN", "FLOTILLA_LOG", "FLOTILLA_NODES", "FLOTILLA_PORT_7101_TCP_ADDR"];
        let environment = environment.iter().map(|name| ((*name).to_owned(), "x".to_owned())).collect();
        let (_, warnings) = load(None, &Layers { environment, flags: &[] }).expect("warnings only");
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[0].contains("did you mean FLOTILLA_HTTP_LISTEN?"), "{warnings:?}");
    }

    /// A file that is not there is named together with the reason.
    #[test]
    fn missing_file() {
        let error = load(Some(Path::new("/nonexistent/node.toml")), &Layers::default()).expect_err("no file");
        assert!(error.to_string().contains("/nonexistent/node.toml: No such file"), "{error}");
    }
}
