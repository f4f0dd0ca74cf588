//! From a batch of operations to the groups that answer them: here where this node leads, one hop away where
//! another does, and once more where leadership moved meanwhile.
//!
//! Relies on stamps for writes that are sent again. Must never report "no effect" for a write of which any
//! attempt may be in a log.

use crate::machine::KvMachine;
use crate::merge;
use crate::shard_map::ShardMap;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, FutureExt, join_all};
use futures_util::stream::FuturesUnordered;
use proto::{
    Answer, BatchReply, BatchRequest, Code, Command, Consistency, Error, GroupId, Item, Limits, NodeId,
    Operation, Outcome, ShardId,
};
use raftstore::{CallError, Group, Host, ProposeError, ReadError, Refusal};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The number on the request lane under which nodes send each other batches. A batch that came so is never
/// sent on: its sender hears who leads instead.
pub(crate) const BATCH_SERVICE: u8 = 16;

/// The most bytes that the reads of one batch answer from one group; further ones are to be asked again. Below
/// what one reply between nodes may hold.
const ANSWER_BYTES_MAX: usize = 3 << 20;

/// The most bytes that one page of a scan asks for, whatever its caller wants.
const PAGE_BYTES_MAX: u32 = 2 << 20;

/// An answer in its encoding: machines give it so, and the wire takes it so.
pub(crate) type Encoded = Bytes;

/// What a batch came to.
pub(crate) struct Routed {
    /// One for each item.
    pub(crate) answers: Vec<Encoded>,
    /// The largest lag of a replica that answered a stale read.
    pub(crate) lag: Duration,
}

/// Knows the groups on this node and the way to all others.
pub(crate) struct Router {
    pub(crate) host: Arc<Host>,
    pub(crate) groups: BTreeMap<GroupId, Group<KvMachine>>,
    pub(crate) map: ShardMap,
    pub(crate) limits: Limits,
}

/// Where a batch may go, and until when.
#[derive(Clone, Copy)]
pub(crate) struct Terms {
    pub(crate) deadline: Instant,
    pub(crate) consistency: Consistency,
    pub(crate) request_id: u128,
    /// Whether another node may be asked.
    pub(crate) forward: bool,
}

impl Terms {
    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

pub(crate) fn refused(error: Error) -> Encoded {
    Bytes::from(proto::encode::<Answer<'_>>(&Err(error)))
}

impl Router {
    /// Answers each item on its own.
    pub(crate) async fn route(&self, items: &[Item<'_>], terms: Terms) -> Routed {
        let mut by_group: BTreeMap<GroupId, Vec<usize>> = BTreeMap::new();
        let mut scans = Vec::new();
        let mut answers = vec![Bytes::new(); items.len()];
        for (at, item) in items.iter().enumerate() {
            if let Err(error) = within(&self.limits, &item.operation) {
                answers[at] = refused(error);
                continue;
            }
            match item.operation.key() {
                Some(key) => by_group.entry(self.map.group_of_key(key)).or_default().push(at),
                None => scans.push(at),
            }
        }
        let groups = by_group.into_iter().map(|(group, at)| async move {
            let of_group: Vec<&Item<'_>> = at.iter().map(|&at| &items[at]).collect();
            (at, self.group(group, &of_group, terms).await)
        });
        let scans = scans.into_iter().map(|at| async move { (vec![at], self.scan(&items[at], terms).await) });
        let (groups, scans) = tokio::join!(join_all(groups), join_all(scans));

        let mut lag = Duration::ZERO;
        for (at, routed) in groups.into_iter().chain(scans) {
            assert_eq!(at.len(), routed.answers.len(), "every item is answered");
            lag = lag.max(routed.lag);
            at.into_iter().zip(routed.answers).for_each(|(at, answer)| answers[at] = answer);
        }
        Routed { answers, lag }
    }

    /// A scan asks every group and merges the pages.
    async fn scan(&self, item: &Item<'_>, terms: Terms) -> Routed {
        let item = &bounded(item);
        let pages = join_all(self.map.group_ids().map(|group| self.group(group, std::slice::from_ref(&item), terms)));
        let mut lag = Duration::ZERO;
        let pages: Vec<Encoded> = pages.await.into_iter().flat_map(|routed| {
            lag = lag.max(routed.lag);
            routed.answers
        }).collect();
        Routed { answers: vec![merge::pages(&item.operation, &pages)], lag }
    }

    /// Answers items that all concern one group. A scan among them is answered with this group's share.
    async fn group(&self, id: GroupId, items: &[&Item<'_>], terms: Terms) -> Routed {
        let all = |error: Error| Routed { answers: vec![refused(error); items.len()], lag: Duration::ZERO };
        let Some(group) = self.groups.get(&id) else {
            return all(Error::new(Code::Unavailable, format!("this node has no replica of {id}")));
        };
        let local_reads = terms.consistency != Consistency::Linearizable;
        let leader = group.leader();
        if leader == Some(self.host.node()) || (local_reads && items.iter().all(|item| item.operation.is_read())) {
            return self.here(group, items, terms).await;
        }
        match leader {
            Some(leader) if terms.forward => self.there(group, leader, items, terms).await,
            leader => all(not_leader(id, leader)),
        }
    }

    /// Answers from the replica on this node.
    async fn here(&self, group: &Group<KvMachine>, items: &[&Item<'_>], terms: Terms) -> Routed {
        let (reads, writes): (Vec<usize>, Vec<usize>) =
            (0..items.len()).partition(|&at| items[at].operation.is_read());
        let reading = async {
            match reads.is_empty() {
                true => (Vec::new(), Duration::ZERO),
                false => self.read(group, reads.iter().map(|&at| &items[at].operation), terms).await,
            }
        };
        let writing = self.write(group, writes.iter().map(|&at| items[at]), terms);
        let ((read, lag), written) = tokio::join!(reading, writing);
        let mut answers = vec![Bytes::new(); items.len()];
        reads.into_iter().zip(read).for_each(|(at, answer)| answers[at] = answer);
        writes.into_iter().zip(written).for_each(|(at, answer)| answers[at] = answer);
        Routed { answers, lag }
    }

    /// Reads under one confirmation of leadership.
    async fn read<'a>(
        &self,
        group: &Group<KvMachine>,
        operations: impl ExactSizeIterator<Item = &'a Operation<'a>> + Send,
        terms: Terms,
    ) -> (Vec<Encoded>, Duration) {
        let count = operations.len();
        let shards = self.map.shards;
        let answer = move |machine: &KvMachine| -> Vec<Encoded> {
            let mut left = ANSWER_BYTES_MAX;
            operations
                .map(|operation| {
                    let answer = Bytes::from(proto::encode(&machine.query(operation, shards)));
                    match left.checked_sub(answer.len()) {
                        Some(rest) => {
                            left = rest;
                            answer
                        }
                        None => refused(Error::new(Code::Overloaded, "answers of the batch reach their limit")),
                    }
                })
                .collect()
        };
        let (read, lag): (BoxFuture<'_, _>, _) = match terms.consistency {
            Consistency::Linearizable => (group.read(answer).boxed(), Duration::ZERO),
            Consistency::Follower => (group.read_following(terms.left(), answer).boxed(), Duration::ZERO),
            Consistency::Stale { lag_ms_max } => match group.lag() {
                Some(lag) if lag_ms_max.is_none_or(|most| lag <= Duration::from_millis(most)) => {
                    (std::future::ready(Ok(group.read_stale(answer))).boxed(), lag)
                }
                lag => return (vec![refused(too_stale(group.id(), lag)); count], lag.unwrap_or_default()),
            },
        };
        let answers = match tokio::time::timeout_at(terms.deadline, read).await {
            Ok(Ok(answers)) => answers,
            Ok(Err(error)) => vec![refused(read_error(error)); count],
            Err(_) => vec![refused(Error::new(Code::Timeout, "read was not confirmed in time")); count],
        };
        (answers, lag)
    }

    /// Proposes all writes at once; each is answered by the machine, or by what became of it.
    async fn write<'a>(
        &self,
        group: &Group<KvMachine>,
        items: impl ExactSizeIterator<Item = &'a Item<'a>>,
        terms: Terms,
    ) -> Vec<Encoded> {
        let late = || refused(Error::unknown(Code::Timeout, "write was not confirmed in time"));
        let mut answers: Vec<Option<Encoded>> = vec![None; items.len()];
        let mut under_way = FuturesUnordered::new();
        for (at, item) in items.enumerate() {
            let key = item.operation.key().expect("writes have keys: scans are reads");
            let shard = proto::shard_of(key, self.map.shards);
            if let Err(error) = self.appendable(group, shard, item) {
                answers[at] = Some(refused(error));
                continue;
            }
            let command = Command { shard, stamp: item.stamp, operation: item.operation.clone() };
            let proposed = group.propose(Bytes::from(proto::encode(&command)));
            under_way.push(async move { (at, proposed.await) });
        }
        let all = async {
            while let Some((at, answer)) = under_way.next().await {
                answers[at] = Some(answer.unwrap_or_else(|error| refused(propose_error(error))));
            }
        };
        if tokio::time::timeout_at(terms.deadline, all).await.is_err() {
            tracing::debug!(group = %group.id(), "writes were not confirmed in time");
        }
        answers.into_iter().map(|answer| answer.unwrap_or_else(late)).collect()
    }

    /// Refuses an append that would outgrow the configured limit, judged by the value as it stands: appends
    /// that race may end up above it, never above what the machine's format allows. An append that is sent
    /// again may have been the one that filled the value, so it goes to the machine, which remembers.
    fn appendable(&self, group: &Group<KvMachine>, shard: ShardId, item: &Item<'_>) -> Result<(), Error> {
        let Operation::Append { key, value, .. } = item.operation else { return Ok(()) };
        let (present, answered) = group.read_stale(|machine| {
            let present = machine.get(shard, key).map_or(0, |record| record.value.len());
            (present, item.stamp.is_some_and(|stamp| machine.has_answered(shard, &stamp)))
        });
        let (length, most) = (present + value.len(), self.limits.value_bytes_max);
        if length <= most || answered {
            return Ok(());
        }
        Err(Error::new(Code::ValueTooLarge, format!("value would become {length} bytes long, limit is {most}")))
    }

    /// Sends items to the node that leads their group, and takes its answers.
    async fn there(&self, group: &Group<KvMachine>, leader: NodeId, items: &[&Item<'_>], terms: Terms) -> Routed {
        let all = |answer: &dyn Fn(&Item<'_>) -> Error| Routed {
            answers: items.iter().map(|item| refused(answer(item))).collect(),
            lag: Duration::ZERO,
        };
        let Some(address) = group.address_of(leader) else {
            return all(&|_| not_leader(group.id(), None));
        };
        let request = BatchRequest {
            deadline_ms: u32::try_from(terms.left().as_millis()).unwrap_or(u32::MAX),
            consistency: terms.consistency,
            request_id: terms.request_id,
            items: items.iter().map(|&item| item.clone()).collect(),
        };
        let body = for_group(group.id(), &proto::encode(&request));
        let called = self.host.call(leader, &address.peer, BATCH_SERVICE, body, terms.left()).await;
        match called.map(|reply| split_reply(&reply, items.len())) {
            Ok(Some((answers, lag))) => Routed { answers, lag },
            Ok(None) => all(&|item| lost(item, "the leader's reply is malformed".into())),
            Err(error) if error.may_have_happened() => all(&|item| lost(item, format!("leader {leader}: {error}"))),
            Err(CallError::Refused(Refusal::Overloaded(why))) => all(&|_| Error::new(Code::Overloaded, why.clone())),
            Err(error) => all(&|_| Error::new(Code::Unavailable, format!("leader {leader}: {error}"))),
        }
    }

    /// Answers a batch that another node sent here for one group.
    pub(crate) async fn serve(&self, body: Bytes, deadline: Duration) -> Bytes {
        let Some((group, request)) = of_group(&body) else {
            return reply(&[refused(Error::new(Code::BadRequest, "batch names no group"))], Duration::ZERO);
        };
        let request: BatchRequest<'_> = match proto::decode(request) {
            Ok(request) => request,
            Err(error) => {
                return reply(&[refused(Error::new(Code::BadRequest, error.to_string()))], Duration::ZERO);
            }
        };
        let terms = Terms {
            deadline: Instant::now() + deadline.min(Duration::from_millis(u64::from(request.deadline_ms))),
            consistency: request.consistency,
            request_id: request.request_id,
            forward: false,
        };
        let items: Vec<&Item<'_>> = request.items.iter().collect();
        let routed = self.group(group, &items, terms).await;
        reply(&routed.answers, routed.lag)
    }
}

/// The same scan, asking for no more than a page.
fn bounded<'a>(scan: &Item<'a>) -> Item<'a> {
    let mut bounded = scan.clone();
    if let Operation::Scan { bytes_max, .. } = &mut bounded.operation {
        *bytes_max = PAGE_BYTES_MAX.min(*bytes_max);
    }
    bounded
}

/// Whether an operation's key and value are of a size that is taken.
fn within(limits: &Limits, operation: &Operation<'_>) -> Result<(), Error> {
    let Some(key) = operation.key() else { return Ok(()) };
    if key.is_empty() {
        return Err(Error::new(Code::BadRequest, "key is empty"));
    }
    if key.len() > limits.key_bytes_max {
        let why = format!("key is {} bytes long, limit is {}", key.len(), limits.key_bytes_max);
        return Err(Error::new(Code::KeyTooLarge, why));
    }
    match operation {
        Operation::Put { value, .. } | Operation::Append { value, .. } if value.len() > limits.value_bytes_max => {
            let why = format!("value is {} bytes long, limit is {}", value.len(), limits.value_bytes_max);
            Err(Error::new(Code::ValueTooLarge, why))
        }
        _ => Ok(()),
    }
}

fn not_leader(group: GroupId, leader: Option<NodeId>) -> Error {
    match leader {
        Some(_) => Error::new(Code::NotLeader { group, leader }, format!("this node does not lead {group}")),
        None => Error::new(Code::NoLeader, format!("{group} has no leader that is known here")),
    }
}

fn too_stale(group: GroupId, lag: Option<Duration>) -> Error {
    let lag = lag.map_or("unknown".into(), |lag| format!("{} ms", lag.as_millis()));
    Error::new(Code::TooStale, format!("replica of {group} lags too far: {lag}"))
}

fn lost(item: &Item<'_>, why: String) -> Error {
    match item.operation.is_read() {
        true => Error::new(Code::Unavailable, why),
        false => Error::unknown(Code::Unavailable, why),
    }
}

fn read_error(error: ReadError) -> Error {
    match error {
        ReadError::NotLeader { group, leader } => not_leader(group, leader),
        ReadError::NoQuorum(_) => Error::new(Code::NoLeader, error.to_string()),
        ReadError::Overloaded(_) => Error::new(Code::Overloaded, error.to_string()),
        ReadError::Stopped(_) => Error::new(Code::Unavailable, error.to_string()),
    }
}

fn propose_error(error: ProposeError) -> Error {
    match error {
        ProposeError::NotLeader { group, leader } => not_leader(group, leader),
        ProposeError::Overloaded(_) => Error::new(Code::Overloaded, error.to_string()),
        ProposeError::TooLarge { .. } => Error::new(Code::BatchTooLarge, error.to_string()),
        ProposeError::Unknown { .. } => Error::unknown(Code::Unavailable, error.to_string()),
    }
}

/// `group u64 little-endian · batch`.
fn for_group(group: GroupId, batch: &[u8]) -> Bytes {
    let mut body = Vec::with_capacity(8 + batch.len());
    body.extend_from_slice(&group.0.to_le_bytes());
    body.extend_from_slice(batch);
    Bytes::from(body)
}

fn of_group(body: &[u8]) -> Option<(GroupId, &[u8])> {
    let (group, batch) = body.split_first_chunk::<8>()?;
    Some((GroupId(u64::from_le_bytes(*group)), batch))
}

/// The bytes of a [`BatchReply`] with these answers.
pub(crate) fn reply(answers: &[Encoded], lag: Duration) -> Bytes {
    let answers = answers.iter().map(|answer| decoded(answer)).collect();
    let lag_ms = u64::try_from(lag.as_millis()).unwrap_or(u64::MAX);
    Bytes::from(proto::encode(&BatchReply { answers, lag_ms }))
}

/// An answer that this cluster's own nodes encoded.
pub(crate) fn decoded(answer: &Encoded) -> Answer<'_> {
    proto::decode::<Answer<'_>>(answer).unwrap_or_else(|error| {
        Err(Error::unknown(Code::Internal, format!("answer is malformed: {error}")))
    })
}

fn split_reply(reply: &[u8], items: usize) -> Option<(Vec<Encoded>, Duration)> {
    let reply: BatchReply<'_> = proto::decode(reply).ok()?;
    if reply.answers.len() != items {
        return None;
    }
    let answers = reply.answers.iter().map(|answer| Bytes::from(proto::encode(answer))).collect();
    Some((answers, Duration::from_millis(reply.lag_ms)))
}

/// Whether the error leaves open what the write did.
pub(crate) fn is_unknown(answer: &Answer<'_>) -> bool {
    matches!(answer, Err(error) if error.outcome == Outcome::Unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A batch for a group names it in front; anything shorter names none.
    #[test]
    fn group_in_front() {
        assert_eq!(of_group(&for_group(GroupId(258), b"x")), Some((GroupId(258), &b"x"[..])));
        assert_eq!(of_group(b"1234567"), None);
    }

    /// A reply with another number of answers than there were items is no reply.
    #[test]
    fn a_reply_answers_every_item() {
        let answer = refused(Error::new(Code::NotFound, "key does not exist"));
        let bytes = reply(&[answer.clone()], Duration::from_millis(7));
        assert_eq!(split_reply(&bytes, 1), Some((vec![answer], Duration::from_millis(7))));
        assert_eq!(split_reply(&bytes, 2), None);
        assert_eq!(split_reply(b"", 1), None);
    }
}
