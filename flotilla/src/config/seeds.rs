//! Whom a node asks that joins a cluster, as the operator writes it: a list in the file, or one line in a
//! variable or a flag. This owns both notations and nothing else.

use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};
use std::convert::Infallible;
use std::fmt;

/// Addresses, `host:port`, in the order in which they are asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seeds(pub(crate) Vec<String>);

impl std::str::FromStr for Seeds {
    type Err = Infallible;

    /// `host:7201,host:7201`
    fn from_str(text: &str) -> Result<Self, Infallible> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        Ok(Self(parts.map(str::to_owned).collect()))
    }
}

impl Serialize for Seeds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.join(","))
    }
}

impl<'de> Deserialize<'de> for Seeds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Notation)
    }
}

/// Takes whichever of the two notations is there.
struct Notation;

impl<'de> Visitor<'de> for Notation {
    type Value = Seeds;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("join: a list of \"host:port\", or one line of them with commas")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Seeds, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Seeds, A::Error> {
        let mut seeds = Vec::new();
        while let Some(seed) = list.next_element()? {
            seeds.push(seed);
        }
        Ok(Seeds(seeds))
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, Layers, load};

    /// The line and the list say the same.
    #[test]
    fn both_notations() {
        let list: Config = toml::from_str("join = ['a:1', 'b:2']").expect("a list");
        let line: Config = toml::from_str("join = ' a:1, b:2,'").expect("a line");
        assert_eq!(list.join.0, ["a:1", "b:2"]);
        assert_eq!(line, list);
        assert!(toml::from_str::<Config>("join = 7").is_err());
        let advertised = ["peer", "http"].map(|of| format!("{of}_advertise=c:1"));
        let flags = [vec!["join=a:1,b:2".to_owned()], advertised.to_vec()].concat();
        let (flag, _) = load(None, &Layers { flags: &flags, ..Layers::default() }).expect("a flag");
        assert_eq!(flag.join, list.join);
    }
}
