//! Items on their way to the node that leads their group, and back.

use super::{BATCH_SERVICE, Routed, Router, Terms};
use crate::encoded::{self, Encoded};
use crate::refusal::{lost, not_leader, unanswered};
use crate::routes::Routes;
use bytes::Bytes;
use futures_util::future::join_all;
use proto::{BatchRequest, ClusterMap, Code, Consistency, GroupId, Item, NodeId, Outcome};
use raftstore::{CallError, Refusal};
use std::collections::BTreeSet;
use std::time::Duration;

/// The most items that one message between nodes carries; a larger batch travels in several.
pub(super) const ITEMS_MAX: usize = 2_048;

/// The room that a message between nodes keeps for all but keys and values: its items' stamps and counters,
/// or their answers' errors, 512 bytes each.
pub(crate) const FRAME_ROOM: usize = ITEMS_MAX * 512;

/// How much longer than its deadline a forwarded batch is waited for: the leader's own word at the deadline
/// says which of its writes were confirmed, silence says nothing of any.
const HOP_GRACE: Duration = Duration::from_millis(100);

/// The most nodes that are asked in turn who leads a group.
const ASKED_MAX: usize = 5;

impl Router {
    /// Sends items to the node that leads their group: to `first`, where somebody is thought to lead, and
    /// what is not answered there because another leads, to whom that node names, or to other members. Nobody
    /// is asked twice.
    pub(super) async fn ask(
        &self,
        map: &ClusterMap,
        group: GroupId,
        mut first: Option<(NodeId, String)>,
        items: &[&Item<'_>],
        terms: Terms,
    ) -> Routed {
        let mut asked = BTreeSet::from([self.host.node()]);
        let mut all = Routed::refused(items, |_| not_leader(group, None));
        let mut open: Vec<usize> = (0..items.len()).collect();
        while asked.len() <= ASKED_MAX && !terms.left().is_zero() {
            let first = first.take().filter(|(leader, _)| !self.routes.is_doubted(group, *leader));
            let (leader, address) = match first {
                Some((leader, address)) => (leader, Some(address)),
                None => match self.routes.next_to_ask(map, group, &asked) {
                    Some(leader) => (leader, Routes::peer_of(map, leader)),
                    None => break,
                },
            };
            asked.insert(leader);
            let Some(address) = address else { continue };
            let of: Vec<&Item<'_>> = open.iter().map(|&at| items[at]).collect();
            let (routed, word) = self.there(group, leader, &address, &of, terms).await;
            all.lag = all.lag.max(routed.lag);
            // Whoever leads may have been doubted meanwhile, because of a part that it did not answer.
            if word == Word::Leads {
                self.routes.led_by(group, leader);
            }
            let mut declined = Vec::new();
            for (at, answer) in open.into_iter().zip(routed.answers) {
                if let Some(code) = led_elsewhere(&answer) {
                    self.routes.learn(group, &code);
                    declined.push(at);
                }
                all.answers[at] = answer;
            }
            open = declined;
            if open.is_empty() {
                break;
            }
        }
        all
    }

    /// Sends items to the node that leads their group, in as many messages as they need; what came back, and what it
    /// says of whether the node leads.
    async fn there(
        &self,
        group: GroupId,
        leader: NodeId,
        address: &str,
        items: &[&Item<'_>],
        terms: Terms,
    ) -> (Routed, Word) {
        let messages = messages(items, self.payload_bytes_max);
        if let [all] = messages[..] {
            return self.sent(group, leader, address, all, terms).await;
        }
        let sent = messages.iter().map(|items| self.sent(group, leader, address, items, terms));
        let mut routed = Routed { answers: Vec::with_capacity(items.len()), lag: Duration::ZERO };
        let mut last = Word::Nothing;
        for (part, word) in join_all(sent).await {
            routed.answers.extend(part.answers);
            routed.lag = routed.lag.max(part.lag);
            last = last.max(word);
        }
        (routed, last)
    }

    /// Sends one message and takes its answers. Whoever did not answer it is doubted at once: other parts of a batch
    /// may wait for as long as the batch has, and its caller may go away meanwhile.
    async fn sent(
        &self,
        group: GroupId,
        leader: NodeId,
        address: &str,
        items: &[&Item<'_>],
        terms: Terms,
    ) -> (Routed, Word) {
        let left = terms.left();
        let request = BatchRequest {
            deadline_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX),
            consistency: terms.consistency,
            request_id: terms.request_id,
            items: items.iter().map(|&item| item.clone()).collect(),
        };
        let body = for_group(group, &proto::encode(&request));
        let called = self.host.call(leader, address, BATCH_SERVICE, body, left + HOP_GRACE).await;
        let (routed, word) = match called {
            Ok(reply) => {
                let routed = match encoded::split(&reply, items.len()) {
                    Some((answers, lag)) => Routed { answers, lag },
                    None => {
                        let why = || format!("leader {leader}: reply is malformed");
                        Routed::refused(items, |item| lost(item, why()))
                    }
                };
                let words = items.iter().zip(&routed.answers);
                let last = words.map(|(item, answer)| word(item, answer, terms.consistency)).max();
                (routed, last.unwrap_or(Word::Nothing))
            }
            Err(error) => {
                let is_full = matches!(error, CallError::Refused(Refusal::Overloaded(_)));
                let word = if is_full { Word::Nothing } else { Word::Silence };
                (Routed::refused(items, |item| unanswered(leader, item, &error)), word)
            }
        };
        if word == Word::Silence {
            self.routes.doubt(group, leader);
        }
        (routed, word)
    }
}

/// What an answer says of whether the node that gave it leads the group; of several answers the last of these counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Word {
    Nothing,
    /// It may believe so in vain.
    Silence,
    /// A quorum has followed it.
    Leads,
}

fn word(item: &Item<'_>, answer: &Encoded, consistency: Consistency) -> Word {
    let is_confirmed = consistency == Consistency::Linearizable || !item.operation.is_read();
    let Some(refusal) = answer.refusal() else {
        return if is_confirmed { Word::Leads } else { Word::Nothing };
    };
    match refusal.code {
        _ if refusal.outcome == Outcome::Unknown => Word::Silence,
        Code::Timeout => Word::Silence,
        // Only the machine says these.
        Code::NotFound
        | Code::VersionMismatch { .. }
        | Code::SessionExpired
        | Code::SequenceOutOfWindow
        | Code::IdempotencyKeyReused
            if is_confirmed =>
        {
            Word::Leads
        }
        _ => Word::Nothing,
    }
}

/// What an answer says where the node that was asked does not lead the group, or was not reached: another may
/// answer.
fn led_elsewhere(answer: &Encoded) -> Option<Code> {
    let refusal = answer.refusal().filter(|error| error.outcome == Outcome::None)?;
    let declines = matches!(refusal.code, Code::NotLeader { .. } | Code::NoLeader | Code::Unavailable);
    declines.then_some(refusal.code)
}

/// Cuts items into messages of at most `bytes_max` of keys and values; a larger item travels alone.
fn messages<'i, 'a>(items: &'i [&'a Item<'a>], bytes_max: usize) -> Vec<&'i [&'a Item<'a>]> {
    let mut messages = Vec::with_capacity(1);
    let (mut from, mut bytes) = (0, 0);
    for (at, item) in items.iter().enumerate() {
        let more = item.operation.payload_bytes();
        if at > from && (bytes + more > bytes_max || at - from == ITEMS_MAX) {
            messages.push(&items[from..at]);
            (from, bytes) = (at, 0);
        }
        bytes += more;
    }
    messages.push(&items[from..]);
    messages
}

/// `group u64 little-endian · batch`.
fn for_group(group: GroupId, batch: &[u8]) -> Bytes {
    let mut body = Vec::with_capacity(8 + batch.len());
    body.extend_from_slice(&group.0.to_le_bytes());
    body.extend_from_slice(batch);
    Bytes::from(body)
}

pub(super) fn of_group(body: &[u8]) -> Option<(GroupId, &[u8])> {
    let (group, batch) = body.split_first_chunk::<8>()?;
    Some((GroupId(u64::from_le_bytes(*group)), batch))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::{ClientId, Error, Expect, Operation, Reply, Sequence, Stamp, Version};

    /// A batch for a group names it in front; anything shorter names none.
    #[test]
    fn group_in_front() {
        assert_eq!(of_group(&for_group(GroupId(258), b"x")), Some((GroupId(258), &b"x"[..])));
        assert_eq!(of_group(b"1234567"), None);
    }

    fn put(value: &[u8]) -> Item<'_> {
        let most = u64::MAX;
        let stamp =
            Stamp { client: ClientId(u128::MAX), sequence: Sequence(most), lowest_open: Sequence(most) };
        Item { stamp: Some(stamp), operation: Operation::Put { key: b"key", value, expect: Expect::Any } }
    }

    /// Items keep their order over messages, none of which is empty, over full or over long.
    #[test]
    fn large_batches_travel_in_parts() {
        let value = [0; 100];
        let [small, large] = [put(b""), put(&value)];
        let lengths = |items: &[&Item<'_>], bytes_max| -> Vec<usize> {
            let messages = messages(items, bytes_max);
            assert_eq!(messages.concat(), items);
            messages.iter().map(|items| items.len()).collect()
        };
        assert_eq!(lengths(&[&small, &large, &small], 1_000), [3]);
        assert_eq!(lengths(&[&small, &large, &small], 106), [2, 1]);
        assert_eq!(lengths(&[&small, &large, &small], 50), [1, 1, 1]);
        let many = vec![&small; 2 * ITEMS_MAX + 1];
        assert_eq!(lengths(&many, 1 << 20), [ITEMS_MAX, ITEMS_MAX, 1]);
    }

    /// A full message of the smallest items fits the room that frames keep for all but keys and values.
    #[test]
    fn full_messages_fit_their_frame() {
        let item = put(b"");
        let items = vec![item; ITEMS_MAX];
        let request = BatchRequest {
            deadline_ms: u32::MAX,
            consistency: Consistency::Stale { lag_ms_max: Some(u64::MAX) },
            request_id: u128::MAX,
            items,
        };
        assert!(for_group(GroupId(1), &proto::encode(&request)).len() + 64 <= FRAME_ROOM);
    }

    /// Only what a quorum has confirmed shows that a node leads; one that was silent is not remembered as a leader.
    #[test]
    fn leaders_are_known_by_their_answers() {
        let read = Item { stamp: None, operation: Operation::Get { key: b"key" } };
        let of =
            |item: &Item<'_>, error: Error, consistency| word(item, &Encoded::refused(error), consistency);
        let (now, stale) = (Consistency::Linearizable, Consistency::Stale { lag_ms_max: None });
        let deleted = Encoded::of(&Ok(Reply::Deleted { revision: Default::default() }));
        assert_eq!(word(&put(b""), &deleted, stale), Word::Leads);
        assert_eq!((word(&read, &deleted, now), word(&read, &deleted, stale)), (Word::Leads, Word::Nothing));
        let mismatch = Code::VersionMismatch { current: Version(7) };
        assert_eq!(of(&put(b""), Error::new(mismatch, ""), now), Word::Leads);
        assert_eq!(of(&read, Error::new(Code::NotFound, ""), now), Word::Leads);
        assert_eq!(of(&read, Error::new(Code::NotFound, ""), stale), Word::Nothing);
        for silent in [Error::unknown(Code::Timeout, ""), Error::unknown(Code::Unavailable, "")] {
            assert_eq!(of(&put(b""), silent, now), Word::Silence);
        }
        assert_eq!(of(&read, Error::new(Code::Timeout, ""), now), Word::Silence);
        assert_eq!(of(&put(b""), Error::new(Code::Overloaded, ""), now), Word::Nothing);
        assert!(Word::Leads > Word::Silence && Word::Silence > Word::Nothing);
    }

    /// Only what certainly was not carried out is asked of another node.
    #[test]
    fn others_are_asked_where_nothing_was_done() {
        let group = GroupId(1);
        let code = |error: Error| led_elsewhere(&Encoded::refused(error));
        let hint = Code::NotLeader { group, leader: Some(NodeId(2)) };
        assert_eq!(code(Error::new(hint.clone(), "")), Some(hint));
        assert_eq!(code(Error::new(Code::NoLeader, "")), Some(Code::NoLeader));
        assert_eq!(code(Error::new(Code::Unavailable, "")), Some(Code::Unavailable));
        assert_eq!(code(Error::unknown(Code::Unavailable, "")), None);
        assert_eq!(code(Error::new(Code::NotFound, "")), None);
    }
}
