//! Who the cluster consists of, as the operator writes it: a table in the file, or one line in a variable or a
//! flag. This owns both notations and nothing else.

use proto::NodeId;
use raftstore::Address;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};
use std::collections::BTreeMap;
use std::fmt;

/// Where each member is reached, by its id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Members(pub(crate) BTreeMap<NodeId, Address>);

/// One member in the file; a private mirror, so that wrong field names are refused there.
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Member {
    peer: String,
    http: String,
}

impl std::str::FromStr for Members {
    type Err = String;

    /// `1=host:7201/host:7101,2=…`: the peer address, then the HTTP address.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut members = BTreeMap::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let wrong = || format!("a member is written id=peer_host:port/http_host:port, not \"{part}\"");
            let (id, addresses) = part.split_once('=').ok_or_else(wrong)?;
            let (peer, http) = addresses.split_once('/').ok_or_else(wrong)?;
            let address = Address { peer: peer.trim().to_owned(), http: http.trim().to_owned() };
            if members.insert(node_id(id)?, address).is_some() {
                return Err(format!("member {} is named twice", id.trim()));
            }
        }
        Ok(Self(members))
    }
}

fn node_id(text: &str) -> Result<NodeId, String> {
    match text.trim().parse() {
        Ok(id) if id > 0 => Ok(NodeId(id)),
        _ => Err(format!("a node's id is a whole number from 1, not \"{}\"", text.trim())),
    }
}

impl Serialize for Members {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (id, address) in &self.0 {
            let member = Member { peer: address.peer.clone(), http: address.http.clone() };
            map.serialize_entry(&id.0.to_string(), &member)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Notation)
    }
}

/// Takes whichever of the two notations is there.
struct Notation;

impl<'de> Visitor<'de> for Notation {
    type Value = Members;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("members: a table of id = { peer = \"host:port\", http = \"host:port\" }")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Members, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
        let mut members = BTreeMap::new();
        while let Some((id, member)) = map.next_entry::<String, Member>()? {
            let id = node_id(&id).map_err(A::Error::custom)?;
            members.insert(id, Address { peer: member.peer, http: member.http });
        }
        Ok(Members(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The line and the table say the same.
    #[test]
    fn both_notations() {
        let line: Members = "1=a:7201/a:7101, 2=b:7201/b:7101".parse().expect("a good line");
        let table: Members = toml::from_str(
            "1 = { peer = 'a:7201', http = 'a:7101' }\n2 = { peer = 'b:7201', http = 'b:7101' }",
        )
        .expect("a good table");
        assert_eq!(line, table);
        assert_eq!(line.0[&NodeId(2)].http, "b:7101");
        let again: Members =
            toml::from_str(&toml::to_string(&table).expect("plain data")).expect("its own output");
        assert_eq!(again, table);
    }

    /// What is not a member is refused with the form that was expected.
    #[test]
    fn bad_lines() {
        for (bad, reason) in [
            ("1", "id=peer_host:port"),
            ("1=a:1", "id=peer_host:port"),
            ("0=a:1/a:2", "from 1"),
            ("x=a:1/a:2", "from 1"),
            ("1=a:1/a:2,1=b:1/b:2", "twice"),
        ] {
            let error = bad.parse::<Members>().expect_err(bad);
            assert!(error.contains(reason), "{error}");
        }
    }
}
