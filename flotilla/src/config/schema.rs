//! Which fields there are: this owns the list of all settings by path, derived from the defaults themselves, so
//! that no second list can fall behind, and the search for what a mistyped name may have meant. It reads nothing.

use super::Config;
use toml::{Table, Value};

/// The one field that holds a table of the operator's own names.
const MAP: &str = "members";

/// One setting: `path` as in `raft.heartbeat_interval_ms`, and its default, which also tells its type.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Field {
    pub(crate) path: String,
    pub(crate) default: Value,
}

impl Field {
    /// The environment variable that sets this field: `FLOTILLA_RAFT_HEARTBEAT_INTERVAL_MS`.
    pub(crate) fn variable(&self) -> String {
        format!("FLOTILLA_{}", self.path.replace('.', "_").to_uppercase())
    }

    /// `text`, from a variable or a flag, as a value of this field's type.
    pub(crate) fn parse(&self, text: &str) -> Result<Value, String> {
        let parsed = match &self.default {
            Value::Integer(_) => text.replace('_', "").parse().ok().map(Value::Integer),
            Value::Boolean(_) => text.parse().ok().map(Value::Boolean),
            Value::Float(_) => text.parse().ok().map(Value::Float),
            _ => Some(Value::String(text.to_owned())),
        };
        let value =
            parsed.ok_or_else(|| format!("{} must be {}, not \"{text}\"", self.path, kind(&self.default)))?;
        self.check(&value)?;
        Ok(value)
    }

    /// Whether `value` is of this field's type; what else it must be is said elsewhere. A map's own notations are its
    /// type's to check.
    pub(crate) fn check(&self, value: &Value) -> Result<(), String> {
        if self.path == MAP {
            return Ok(());
        }
        let mut table = Table::new();
        match self.path.split_once('.') {
            Some((section, name)) => {
                table.insert(section.into(), Value::Table(Table::from_iter([(name.into(), value.clone())])))
            }
            None => table.insert(self.path.clone(), value.clone()),
        };
        match (table.try_into::<Config>(), value) {
            (Ok(_), _) => Ok(()),
            (Err(_), Value::Integer(below)) if *below < 0 => {
                Err(format!("{} must be {} from 0, not {below}", self.path, kind(&self.default)))
            }
            (Err(_), Value::Integer(beyond)) if matches!(self.default, Value::Integer(_)) => {
                Err(format!("{} must be a smaller number, not {beyond}", self.path))
            }
            (Err(_), other) => Err(format!("{} must be {}, not {other}", self.path, kind(&self.default))),
        }
    }
}

/// What a value is called in messages.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Integer(_) => "a whole number",
        Value::Boolean(_) => "true or false",
        Value::Float(_) => "a number",
        Value::Table(_) => "a table",
        _ => "a text",
    }
}

/// Every setting, in alphabetical order of sections and fields.
pub(crate) fn fields() -> Vec<Field> {
    let defaults =
        Table::try_from(Config::default()).expect("the defaults are plain data that TOML can hold");
    let mut fields = Vec::new();
    collect(&defaults, "", &mut fields);
    fields
}

fn collect(table: &Table, prefix: &str, into: &mut Vec<Field>) {
    for (name, value) in table {
        let path = format!("{prefix}{name}");
        match value {
            Value::Table(section) if path != MAP => collect(section, &format!("{path}."), into),
            _ => into.push(Field { path, default: value.clone() }),
        }
    }
}

/// The candidate that `name` most likely meant, where one is near enough to be worth saying.
pub(crate) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let far = 2.max(name.len() / 3);
    let ranked = candidates.into_iter().map(|candidate| (distance(name, candidate), candidate));
    ranked.filter(|(distance, _)| *distance <= far).min().map(|(_, candidate)| candidate)
}

/// Levenshtein's distance: how many single bytes must be added, removed or replaced.
fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.bytes().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// No two fields share an environment variable, though sections and fields are joined by one underscore.
    #[test]
    fn variables_are_distinct() {
        let fields = fields();
        let variables: BTreeSet<String> = fields.iter().map(Field::variable).collect();
        assert_eq!(variables.len(), fields.len());
        assert!(variables.contains("FLOTILLA_RAFT_HEARTBEAT_INTERVAL_MS"));
        assert!(variables.contains("FLOTILLA_MEMBERS"));
    }

    /// A slip of the fingers finds the name that was meant; another word finds nothing.
    #[test]
    fn nearest_name() {
        let names = ["heartbeat_interval_ms", "http_listen", "peer_listen"];
        assert_eq!(nearest("heartbeat_intervall_ms", names), Some("heartbeat_interval_ms"));
        assert_eq!(nearest("http_listn", names), Some("http_listen"));
        assert_eq!(nearest("colour", names), None);
    }

    /// A value that the field's type cannot hold is refused by the field's name, with the value.
    #[test]
    fn types_are_checked() {
        let all = fields();
        let check = |path: &str, value: Value| {
            let field = all.iter().find(|field| field.path == path).expect("a field");
            field.check(&value)
        };
        assert_eq!(check("groups", Value::Integer(7)), Ok(()));
        assert_eq!(check("raft.log_bytes_kept", Value::Integer(7)), Ok(()));
        for (path, value, message) in [
            ("groups", Value::Integer(-1), "groups must be a whole number from 0, not -1"),
            ("groups", Value::Integer(1 << 40), "groups must be a smaller number, not 1099511627776"),
            ("raft.log_bytes_kept", Value::Float(1.5), "raft.log_bytes_kept must be a whole number, not 1.5"),
            ("cluster", Value::Integer(1), "cluster must be a text, not 1"),
        ] {
            assert_eq!(check(path, value), Err(message.to_owned()));
        }
    }

    /// The distance counts edits in both directions.
    #[test]
    fn distances() {
        for (from, to, edits) in
            [("", "abc", 3), ("abc", "", 3), ("kitten", "sitting", 3), ("same", "same", 0)]
        {
            assert_eq!(distance(from, to), edits, "{from} {to}");
        }
    }
}
