//! The way from a move's destination to its source: whoever leads it, and whoever hands out a copy of its
//! shard.
//!
//! Owns whom to ask, for how long, and whom next. Must never take a node's silence for its word that it knows
//! nothing of a copy.

use super::message::{MOVE_SERVICE, Question, Word};
use super::source::Source;
use crate::machine::check_piece;
use crate::residence::Residents;
use crate::routes::Routes;
use bytes::Bytes;
use proto::{ClusterMap, CopyToken, Epoch, GroupId, NodeId};
use raftstore::{CallError, Host};
use shardctrler::ControllerHandle;
use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long a source or the controller may take to answer.
pub(super) const ASK_TIME: Duration = Duration::from_secs(2);

/// The pause before somebody is asked again who gave no answer.
const PACE: Duration = Duration::from_millis(100);

/// How long a node of the source may take to hand out a piece before another is asked.
const PIECE_TIME: Duration = Duration::from_millis(700);

/// A piece as the source answered it.
#[derive(Debug)]
pub(super) struct Piece {
    /// The node that hands the copy out.
    pub(super) holder: NodeId,
    pub(super) bytes: Vec<u8>,
    pub(super) remaining: u64,
    pub(super) frozen: Option<Epoch>,
}

/// What a node of the source says when it is asked for a piece.
#[derive(Debug)]
enum Said {
    Piece(Piece),
    /// It knows nothing of the copy.
    Ended,
    /// A piece that this build cannot read, and why.
    Unreadable(String),
    /// Nothing from which it could be told whether it knows the copy.
    Unheard(String),
}

/// What `holder` has answered. A piece that cannot be read here ends here: what is proposed stands in a log,
/// where every replica of this build would stop at it.
fn said(holder: NodeId, answer: Result<Bytes, CallError>) -> Said {
    let word = match answer {
        Ok(answer) => proto::decode::<Word>(&answer).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match word {
        Ok(Word::Piece { bytes, remaining, frozen }) => match check_piece(&bytes) {
            Ok(()) => Said::Piece(Piece { holder, bytes, remaining, frozen }),
            Err(why) => Said::Unreadable(why),
        },
        Ok(Word::Ended) => Said::Ended,
        Ok(other) => Said::Unheard(format!("{other:?}")),
        Err(why) => Said::Unheard(why),
    }
}

/// See the [module](self). Cheap to clone: each question on its way has its own.
#[derive(Clone)]
pub(super) struct SourceLink {
    pub(super) host: Arc<Host>,
    pub(super) controller: Arc<ControllerHandle>,
    pub(super) residents: Arc<Residents>,
    /// For shards that come from a group that this node leads as well.
    pub(super) source: Arc<Source>,
    /// The source.
    pub(super) from: GroupId,
    /// Why a piece that the source has handed out cannot be read by this build, once there was one.
    pub(super) unreadable: Arc<OnceLock<String>>,
}

impl SourceLink {
    /// The map as this node knows it.
    pub(super) fn map(&self) -> Option<Arc<ClusterMap>> {
        self.controller.map().borrow().clone()
    }

    /// Asks whoever leads the source; also who it is.
    ///
    /// # Errors
    /// Why nobody has answered in [`ASK_TIME`].
    pub(super) async fn ask_leader(&self, question: &Question) -> Result<(NodeId, Word), String> {
        let until = Instant::now() + ASK_TIME;
        let mut leader = self.leader();
        let mut why = "nobody leads the source".to_owned();
        while Instant::now() < until {
            let Some((node, address)) = leader.take().or_else(|| self.leader()) else {
                sleep(PACE).await;
                continue;
            };
            let left = until.saturating_duration_since(Instant::now());
            let answer = self.ask(node, &address, question, left).await;
            match answer.map(|answer| proto::decode::<Word>(&answer)) {
                Ok(Ok(Word::NotLeader(next))) => {
                    leader = next.and_then(|next| Some((next, self.address_of(next)?)));
                    sleep(PACE / 4).await;
                }
                Ok(Ok(word)) => return Ok((node, word)),
                Ok(Err(malformed)) => return Err(malformed.to_string()),
                Err(error) => {
                    why = error.to_string();
                    sleep(PACE).await;
                }
            }
        }
        Err(why)
    }

    /// A piece of a copy, from whichever node of the source knows it, `holder` before all; `None` where none
    /// does, and for as long as `patience` none that was silent has come back, or where it cannot be read.
    pub(super) async fn piece(
        self,
        holder: Option<NodeId>,
        (copy, number, bytes_max): (CopyToken, u64, u32),
        patience: Duration,
    ) -> Option<Piece> {
        let question = Question::Next { copy, number, bytes_max };
        let until = Instant::now() + patience;
        loop {
            let mut unheard = false;
            for (node, address) in self.nodes(holder) {
                let answer = self.ask(node, &address, &question, PIECE_TIME).await;
                match said(node, answer) {
                    Said::Piece(piece) => return Some(piece),
                    Said::Ended => {}
                    Said::Unreadable(why) => {
                        tracing::warn!(%copy, number, %node, %why, "the source runs another build");
                        self.unreadable.get_or_init(|| why);
                        return None;
                    }
                    Said::Unheard(why) => {
                        tracing::debug!(%copy, number, %node, %why, "a node of the source gives no piece");
                        unheard = true;
                    }
                }
            }
            if !unheard || Instant::now() >= until {
                return None;
            }
            sleep(PACE).await;
        }
    }

    /// Tells whoever hands a copy out that it is not needed any more. The source ends it by itself where this
    /// does not arrive.
    pub(super) async fn end_copy(&self, holder: NodeId, copy: CopyToken) {
        let Some(address) = self.address_of(holder) else { return };
        if let Err(error) = self.ask(holder, &address, &Question::End { copy }, ASK_TIME).await {
            tracing::debug!(%copy, %error, "the source was not told that a copy has ended");
        }
    }

    async fn ask(
        &self,
        node: NodeId,
        address: &str,
        question: &Question,
        deadline: Duration,
    ) -> Result<Bytes, CallError> {
        let body = Bytes::from(proto::encode(question));
        if node == self.host.node() {
            return Ok(self.source.serve(&body).await?);
        }
        self.host.call(node, address, MOVE_SERVICE, body, deadline).await
    }

    /// The nodes of the source, by how probable it is that they know a copy that `holder` handed out.
    fn nodes(&self, holder: Option<NodeId>) -> Vec<(NodeId, String)> {
        let leader = self.leader().map(|(node, _)| node);
        let mut nodes: Vec<NodeId> = holder.into_iter().chain(leader).collect();
        if let Some(map) = self.map()
            && let Some(view) = map.groups.iter().find(|view| view.group == self.from)
        {
            nodes.extend(view.voters.keys().copied());
        }
        let mut known = BTreeSet::new();
        nodes.retain(|node| known.insert(*node));
        nodes.into_iter().filter_map(|node| Some((node, self.address_of(node)?))).collect()
    }

    fn address_of(&self, node: NodeId) -> Option<String> {
        Routes::peer_of(&*self.map()?, node)
    }

    /// Who leads the source, by its own replica here, or by the map.
    fn leader(&self) -> Option<(NodeId, String)> {
        let here = self.residents.get(self.from).and_then(|replica| replica.group.leader());
        let leader = here.or_else(|| {
            let map = self.map()?;
            map.groups.iter().find(|view| view.group == self.from)?.leader
        })?;
        Some((leader, self.address_of(leader)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A piece is handed on where this build can read it to its end; one of a later build, or a damaged one,
    /// never is, so that it is never proposed.
    #[test]
    fn only_pieces_that_can_be_read_are_handed_on() {
        let answered = |bytes: &[u8]| {
            let word = Word::Piece { bytes: bytes.to_vec(), remaining: 1, frozen: None };
            said(NodeId(2), Ok(Bytes::from(proto::encode(&word))))
        };
        for good in [&b""[..], b"\x02", b"\x02\x00\x07"] {
            let said = answered(good);
            assert!(matches!(&said, Said::Piece(piece) if piece.bytes == good), "{said:?} of {good:?}");
        }
        for (bad, why) in [
            (&b"\x03\x00\x07"[..], "piece has format version 3, this build reads 2"),
            (b"\x02\xfa", ""),
            (b"\x02\x00", ""),
        ] {
            let said = answered(bad);
            assert!(matches!(&said, Said::Unreadable(told) if told.contains(why)), "{said:?} of {bad:?}");
        }
        let ended = Ok(Bytes::from(proto::encode(&Word::Ended)));
        assert!(matches!(said(NodeId(2), ended), Said::Ended));
        for unheard in [Ok(Bytes::from_static(b"\x02")), Err(CallError::MaybeDelivered("late".to_owned()))] {
            assert!(matches!(said(NodeId(2), unheard), Said::Unheard(_)));
        }
    }
}
