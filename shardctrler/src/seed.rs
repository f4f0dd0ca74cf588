//! What a node finds out from the nodes of a running cluster before it is one of them: who they are, the map,
//! and whether somebody goes by its number.
//!
//! A seed is given by its address alone, so it is asked first who it is.

use crate::api::{CONTROLLER_SERVICE, Question, Word};
use bytes::Bytes;
use proto::{ClusterMap, Epoch, Incarnation, NodeId};
use raftstore::{CallError, GreetError, Host, Unwelcome};
use std::time::Duration;

/// How long one answer may take.
const ANSWER_TIME: Duration = Duration::from_secs(2);

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

/// What the node at `address` knows of the cluster; it is found there from now on.
///
/// # Errors
/// [`SeedError`].
pub async fn map_of(host: &Host, address: &str) -> Result<ClusterMap, SeedError> {
    let seed = host.who_is(address).await.map_err(|error| told(address, error))?;
    host.locate(seed, address);
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

/// What it means that the node at `address` did not say who it is.
fn told(address: &str, error: GreetError) -> SeedError {
    let why = format!("{address}: {error}");
    match error {
        GreetError::Refused(Unwelcome::Protocol(_) | Unwelcome::Cluster(_) | Unwelcome::NumberInUse(_)) => {
            SeedError::Refused(why)
        }
        GreetError::Refused(Unwelcome::Node(_) | Unwelcome::Busy(_) | Unwelcome::Malformed(_))
        | GreetError::Unreached(_) => SeedError::Unreached(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only what asking again cannot change counts as a refusal.
    #[test]
    fn refusals_that_stay() {
        let of = |error: GreetError| matches!(told("a:1", error), SeedError::Refused(why) if why.starts_with("a:1: "));
        let refused = |unwelcome: fn(String) -> Unwelcome| of(GreetError::Refused(unwelcome("no".into())));
        for stays in [Unwelcome::Protocol, Unwelcome::Cluster, Unwelcome::NumberInUse] {
            assert!(refused(stays));
        }
        for passes in [Unwelcome::Node, Unwelcome::Busy, Unwelcome::Malformed] {
            assert!(!refused(passes));
        }
        assert!(!of(GreetError::Unreached("no".into())));
    }
}
