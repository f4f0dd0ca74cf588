//! What a node finds out from the nodes of a running cluster before it is one of them: who they are, the map,
//! and whether somebody goes by its number.
//!
//! A seed is given by its address alone, and a node takes a connection only from whoever means it by its
//! number; so the seed is asked for under a number that nobody has, and its refusal tells whose address it
//! is.

use crate::api::{CONTROLLER_SERVICE, Question, Word};
use bytes::Bytes;
use proto::{ClusterMap, Epoch, Incarnation, NodeId};
use raftstore::{CallError, Host};
use std::time::Duration;

/// How long one answer may take.
const ANSWER_TIME: Duration = Duration::from_secs(2);

/// No node has this number.
const NOBODY: NodeId = NodeId(0);

/// Why a seed told nothing, by what the asker does next.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SeedError {
    /// Correct the seed, or what this node calls itself: it will never answer this node.
    #[error("{0}")]
    Refused(String),
    /// Ask again, or another.
    #[error("{0}")]
    Unreached(String),
}

/// What the node at `address` knows of the cluster.
///
/// # Errors
/// [`SeedError`].
pub async fn map_of(host: &Host, address: &str) -> Result<ClusterMap, SeedError> {
    let seed = who_is(host, address).await?;
    if seed == host.node() {
        return Err(SeedError::Refused(format!("{address} is a node that calls itself {seed}, as this one")));
    }
    match ask(host, seed, address, &Question::Follow { above: Epoch(0), wait_ms: 0 }).await {
        Ok(Word::Map(map)) => Ok(*map),
        Ok(_) => Err(SeedError::Unreached(format!("{seed} at {address} does not know the map yet"))),
        Err(error) => Err(SeedError::Unreached(format!("{seed} at {address}: {error}"))),
    }
}

/// For how long the controller has not heard of `node` on `disk`; `None` where it never did since its leader
/// leads, or where none of the map's nodes could be asked.
pub async fn silence_of(host: &Host, map: &ClusterMap, node: NodeId, disk: Incarnation) -> Option<Duration> {
    let question = Question::Silence { node, incarnation: disk, relay: true };
    for view in map.nodes.iter().filter(|view| view.node != host.node()) {
        if let Ok(Word::Silent(ms)) = ask(host, view.node, &view.spec.peer, &question).await {
            return ms.map(Duration::from_millis);
        }
    }
    None
}

async fn ask(host: &Host, node: NodeId, address: &str, question: &Question) -> Result<Word, CallError> {
    let body = Bytes::from(proto::encode(question));
    let answer = host.call(node, address, CONTROLLER_SERVICE, body, ANSWER_TIME).await?;
    proto::decode(&answer).map_err(|error| CallError::MaybeDelivered(error.to_string()))
}

/// Whose address this is.
async fn who_is(host: &Host, address: &str) -> Result<NodeId, SeedError> {
    match ask(host, NOBODY, address, &Question::History(None)).await {
        Err(CallError::NotDelivered(why)) => match named_in(&why) {
            Some(node) => Ok(node),
            None if ["cluster", "protocol"]
                .iter()
                .any(|what| why.starts_with(&format!("{what} does not match"))) =>
            {
                Err(SeedError::Refused(format!("{address}: {why}")))
            }
            None => Err(SeedError::Unreached(format!("{address}: {why}"))),
        },
        Err(error) => Err(SeedError::Unreached(format!("{address}: {error}"))),
        Ok(_) => Err(SeedError::Refused(format!("{address} answers to any name, so it is no node"))),
    }
}

/// The node that refuses whoever looks for another.
fn named_in(refusal: &str) -> Option<NodeId> {
    let (_, named) = refusal.strip_prefix("node does not match: ")?.split_once(", this is n")?;
    named.parse().ok().filter(|id| *id > 0).map(NodeId)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who refuses is known from the refusal, and nothing else passes for one.
    #[test]
    fn refusals_name_the_node() {
        let of = |text: &str| named_in(text).map(|node| node.0);
        assert_eq!(of("node does not match: you look for n0, this is n17"), Some(17));
        for other in [
            "node does not match: you look for n0, this is n0",
            "node does not match: you look for n0, this is nobody",
            "node does not match: you call yourself n1, and so does this node",
            "cluster does not match: you are of \"a\", this is n1",
            "Connection refused (os error 111)",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
