//! What clerks ask of a key and are told, in their own words and in the checker's.

use checker::{Answer, Operation};

/// What is asked of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Put(String),
    Append(String),
    Get,
}

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The key's version then; 0 where it was absent.
    pub(crate) version: u64,
    /// What a read showed.
    pub(crate) value: Option<String>,
}

impl What {
    pub(crate) fn operation(&self, key: &str) -> Operation {
        match self {
            What::Put(value) => Operation::put(key, value),
            What::Append(value) => Operation::append(key, value),
            What::Get => Operation::get(key),
        }
    }
}

impl Seen {
    /// The answer to `what`.
    pub(crate) fn answer(&self, what: &What) -> Answer {
        match (what, &self.value) {
            (What::Get, None) => Answer::Absent,
            (What::Get, Some(value)) => Answer::value(value, self.version),
            (What::Put(_) | What::Append(_), _) => Answer::written(self.version),
        }
    }
}
