//! From a batch of operations to the groups that answer them: here where this node leads, one hop away where
//! another does. A batch that came over that hop is never sent on: its sender hears who leads instead.
//!
//! Relies on stamps for writes that are sent again, which is its callers' business. Must never report "no effect"
//! for a write of which any attempt may be in a log, nor answer more than a reply may hold.

use crate::encoded::{self, Encoded};
use crate::merge;
use crate::refusal::{lost, not_leader, unanswered, within};
use crate::replica::{ANSWER_OVERHEAD, Replica};
use crate::residence::Residents;
use crate::routes::Routes;
use bytes::Bytes;
use futures_util::future::join_all;
use proto::{
    BatchRequest, ClusterMap, Code, Consistency, Error, GroupId, Item, Limits, NodeId, Operation, ShardId,
};
use raftstore::{Host, Refusal};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::time::Instant;

/// The number on the request lane under which nodes send each other batches.
pub(crate) const BATCH_SERVICE: u8 = 16;

/// The most items that one message between nodes carries; a larger batch travels in several.
const FORWARDED_ITEMS_MAX: usize = 2_048;

/// The room that a message between nodes keeps for all but keys and values: its items' stamps and counters, or
/// their answers' errors, 512 bytes each.
pub(crate) const FRAME_ROOM: usize = FORWARDED_ITEMS_MAX * 512;

/// How much longer than its deadline a forwarded batch is waited for: the leader's own word at the deadline says
/// which of its writes were confirmed, silence says nothing of any.
const HOP_GRACE: Duration = Duration::from_millis(100);

/// The pauses before an item is sent where it was said to belong, from the second time on: a shard that is being handed
/// over is served again within milliseconds.
const REROUTE_PAUSE_MIN: Duration = Duration::from_millis(2);
const REROUTE_PAUSE_MAX: Duration = Duration::from_millis(50);

/// The most records of one page of a scan, whatever its caller wants.
const PAGE_RECORDS_MAX: usize = 16 << 10;

/// What a batch came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Routed {
    /// One for each item.
    pub(crate) answers: Vec<Encoded>,
    /// The largest lag of a replica that answered a stale read.
    pub(crate) lag: Duration,
}

impl Routed {
    fn refused<'a>(items: &[&Item<'a>], error: impl Fn(&Item<'a>) -> Error) -> Self {
        Self {
            answers: items.iter().map(|item| Encoded::refused(error(item))).collect(),
            lag: Duration::ZERO,
        }
    }
}

/// Where a batch may go, and until when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) deadline: Instant,
    pub(crate) consistency: Consistency,
    pub(crate) request_id: u128,
    /// Whether another node may be asked.
    pub(crate) forward: bool,
}

impl Terms {
    pub(crate) fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

/// Answers batches: the router itself, or a test in its place.
pub(crate) trait Route: Sync {
    /// Answers each item on its own, once; sending any of them again is the caller's to decide.
    fn route(&self, items: &[Item<'_>], terms: Terms) -> impl Future<Output = Routed> + Send;
}

/// Knows the groups on this node and the way to all others.
pub(crate) struct Router {
    pub(crate) host: Arc<Host>,
    /// The replicas on this node.
    pub(crate) residents: Arc<Residents>,
    pub(crate) routes: Routes,
    /// How many shards there are, fixed when the cluster is born.
    pub(crate) shards: u32,
    pub(crate) limits: Limits,
    /// The most bytes of keys and values that a message between nodes carries, either way, and that the reads of
    /// one batch are answered.
    pub(crate) payload_bytes_max: usize,
    /// Set once the node has begun to stop.
    pub(crate) stopping: AtomicBool,
}

impl Route for Router {
    async fn route(&self, items: &[Item<'_>], terms: Terms) -> Routed {
        let mut routed = self.attempt(items, terms).await;
        let mut pause = Duration::ZERO;
        loop {
            let misdirected = |at: &usize| terms.forward && self.is_misdirected(&routed.answers[*at]);
            let at: Vec<usize> = (0..items.len()).filter(misdirected).collect();
            if at.is_empty() || terms.left() <= pause {
                break;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).clamp(REROUTE_PAUSE_MIN, REROUTE_PAUSE_MAX);
            let again: Vec<Item<'_>> = at.iter().map(|&at| items[at].clone()).collect();
            let more = self.attempt(&again, terms).await;
            routed.lag = routed.lag.max(more.lag);
            at.into_iter().zip(more.answers).for_each(|(at, answer)| routed.answers[at] = answer);
        }
        self.bound(items, &mut routed.answers);
        routed
    }
}

impl Router {
    /// Whether an answer says that its question was sent to the wrong place, and was not carried out there: a shard has
    /// moved, or a group of which nothing is known here but a hint is led by another.
    fn is_misdirected(&self, answer: &Encoded) -> bool {
        match answer.refusal().map(|error| error.code) {
            Some(Code::WrongGroup { .. }) => true,
            Some(Code::NotLeader { group, .. }) => self.residents.get(group).is_none(),
            _ => false,
        }
    }

    /// Sends each item where it belongs by what is known now.
    async fn attempt(&self, items: &[Item<'_>], terms: Terms) -> Routed {
        let map = match self.routes.map() {
            Ok(map) => map,
            Err(error) => return Routed::refused(&items.iter().collect::<Vec<_>>(), |_| error.clone()),
        };
        let mut by_group: BTreeMap<GroupId, Vec<usize>> = BTreeMap::new();
        let mut scans = Vec::new();
        let mut answers = vec![Encoded::default(); items.len()];
        for (at, item) in items.iter().enumerate() {
            match (within(&self.limits, &item.operation), item.operation.key()) {
                (Err(error), _) => answers[at] = Encoded::refused(error),
                (Ok(()), Some(key)) => {
                    let shard = proto::shard_of(key, self.shards);
                    match self.routes.group_of(&map, shard) {
                        Some(group) => by_group.entry(group).or_default().push(at),
                        None => answers[at] = Encoded::refused(unmapped(shard)),
                    }
                }
                (Ok(()), None) => scans.push(at),
            }
        }
        let map = &*map;
        let groups = by_group.into_iter().map(|(group, at)| async move {
            let of_group: Vec<&Item<'_>> = at.iter().map(|&at| &items[at]).collect();
            (at, self.group(map, group, &of_group, terms).await)
        });
        let scanning = self.scans(map, items, &scans, terms);
        let (groups, (scanned, mut lag)) = tokio::join!(join_all(groups), scanning);
        scans.into_iter().zip(scanned).for_each(|(at, answer)| answers[at] = answer);
        for (at, routed) in groups {
            assert_eq!(at.len(), routed.answers.len(), "every item is answered");
            lag = lag.max(routed.lag);
            at.into_iter().zip(routed.answers).for_each(|(at, answer)| answers[at] = answer);
        }
        Routed { answers, lag }
    }

    /// Each group keeps to what one reply holds; this holds all of them together to the same, but for a
    /// single answer that is larger. A write's answer is never withheld.
    fn bound(&self, items: &[Item<'_>], answers: &mut [Encoded]) {
        let mut left = self.payload_bytes_max;
        for (_, answer) in items.iter().zip(answers).filter(|(item, _)| item.operation.is_read()) {
            match left.checked_sub(answer.len()) {
                Some(rest) => left = rest,
                None if left == self.payload_bytes_max => left = 0,
                None => *answer = spent(),
            }
        }
    }

    /// Scans one after the other, as many as there is time and one reply has room for: each may bring a page from
    /// every group.
    async fn scans(
        &self,
        map: &ClusterMap,
        items: &[Item<'_>],
        at: &[usize],
        terms: Terms,
    ) -> (Vec<Encoded>, Duration) {
        let mut bytes_left = self.payload_bytes_max;
        let (mut answers, mut lag) = (Vec::with_capacity(at.len()), Duration::ZERO);
        for &at in at {
            let answer = match turn(bytes_left, terms).await {
                Err(refused) => refused,
                Ok(()) => {
                    let (answer, of) = self.scan(map, &items[at], terms).await;
                    lag = lag.max(of);
                    bytes_left = bytes_left.saturating_sub(answer.len());
                    answer
                }
            };
            answers.push(answer);
        }
        (answers, lag)
    }

    /// A scan asks the one group of its prefix, or else every group, and merges their shares.
    async fn scan(&self, map: &ClusterMap, item: &Item<'_>, terms: Terms) -> (Encoded, Duration) {
        let item = &self.page_of(item);
        let Operation::Scan { prefix, .. } = item.operation else { unreachable!("only scans have no key") };
        let only = proto::shard_of_prefix(prefix, self.shards);
        let groups = match only.map(|shard| (shard, self.routes.group_of(map, shard))) {
            None => self.routes.groups(map),
            Some((_, Some(group))) => vec![group],
            Some((shard, None)) => return (Encoded::refused(unmapped(shard)), Duration::ZERO),
        };
        let asked = groups.into_iter().map(|group| self.group_share(map, group, item, terms));
        let mut lag = Duration::ZERO;
        let mut shares = Vec::new();
        for routed in join_all(asked).await {
            lag = lag.max(routed.lag);
            shares.extend(routed.answers);
        }
        match only {
            Some(_) => (shares.remove(0), lag),
            None => (merge::shares(&item.operation, &shares, self.shards), lag),
        }
    }

    async fn group_share(&self, map: &ClusterMap, group: GroupId, item: &Item<'_>, terms: Terms) -> Routed {
        self.group(map, group, &[item], terms).await
    }

    /// The same scan, asking for no more than fits a reply with room to spare.
    fn page_of<'a>(&self, scan: &Item<'a>) -> Item<'a> {
        let half = self.payload_bytes_max / 2;
        let most = |bound: usize| u32::try_from(bound).unwrap_or(u32::MAX);
        let mut page = scan.clone();
        if let Operation::Scan { limit, bytes_max, .. } = &mut page.operation {
            *bytes_max = most(half).min(*bytes_max);
            *limit =
                most(PAGE_RECORDS_MAX.min((half / ANSWER_OVERHEAD).saturating_sub(2).max(1))).min(*limit);
        }
        page
    }

    /// Answers items that all concern one group. A scan among them is answered with this group's share.
    async fn group(&self, map: &ClusterMap, id: GroupId, items: &[&Item<'_>], terms: Terms) -> Routed {
        let routed = match self.residents.get(id) {
            Some(replica) => self.resident(&replica, items, terms).await,
            None => self.elsewhere(map, id, items, terms).await,
        };
        for error in routed.answers.iter().filter_map(Encoded::refusal) {
            self.routes.learn(id, &error.code);
        }
        routed
    }

    /// Answers items that concern a group of which there is a replica here.
    async fn resident(&self, replica: &Replica, items: &[&Item<'_>], terms: Terms) -> Routed {
        let id = replica.group.id();
        let local_reads = terms.consistency != Consistency::Linearizable;
        let leader = replica.group.leader();
        if leader == Some(self.host.node())
            || (local_reads && items.iter().all(|item| item.operation.is_read()))
        {
            return replica.answer(items, terms).await;
        }
        match leader {
            Some(leader) if terms.forward => {
                let Some(address) = replica.group.address_of(leader) else {
                    return Routed::refused(items, |_| not_leader(id, None));
                };
                let routed = self.there(id, leader, &address.peer, items, terms).await;
                here_instead(replica, items, routed, terms).await
            }
            leader => Routed::refused(items, |_| not_leader(id, leader)),
        }
    }

    /// Sends items that concern a group of which there is no replica here to whoever is thought to lead it.
    async fn elsewhere(&self, map: &ClusterMap, id: GroupId, items: &[&Item<'_>], terms: Terms) -> Routed {
        let leader = self.routes.leader_of(map, id).filter(|leader| *leader != self.host.node());
        match leader.and_then(|leader| Some((leader, Routes::peer_of(map, leader)?))) {
            Some((leader, address)) if terms.forward => self.there(id, leader, &address, items, terms).await,
            _ => Routed::refused(items, |_| not_leader(id, leader)),
        }
    }

    /// Sends items to the node that leads their group, in as many messages as they need.
    async fn there(
        &self,
        group: GroupId,
        leader: NodeId,
        address: &str,
        items: &[&Item<'_>],
        terms: Terms,
    ) -> Routed {
        let messages = messages(items, self.payload_bytes_max);
        if let [all] = messages[..] {
            return self.sent(group, leader, address, all, terms).await;
        }
        let sent = messages.iter().map(|items| self.sent(group, leader, address, items, terms));
        let mut routed = Routed { answers: Vec::with_capacity(items.len()), lag: Duration::ZERO };
        for part in join_all(sent).await {
            routed.answers.extend(part.answers);
            routed.lag = routed.lag.max(part.lag);
        }
        routed
    }

    /// Sends one message and takes its answers.
    async fn sent(
        &self,
        group: GroupId,
        leader: NodeId,
        address: &str,
        items: &[&Item<'_>],
        terms: Terms,
    ) -> Routed {
        let left = terms.left();
        let request = BatchRequest {
            deadline_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX),
            consistency: terms.consistency,
            request_id: terms.request_id,
            items: items.iter().map(|&item| item.clone()).collect(),
        };
        let body = for_group(group, &proto::encode(&request));
        let called = self.host.call(leader, address, BATCH_SERVICE, body, left + HOP_GRACE).await;
        match called.map(|reply| encoded::split(&reply, items.len())) {
            Ok(Some((answers, lag))) => Routed { answers, lag },
            Ok(None) => {
                Routed::refused(items, |item| lost(item, format!("leader {leader}: reply is malformed")))
            }
            Err(error) => {
                self.routes.forget_leader(group);
                Routed::refused(items, |item| unanswered(leader, item, &error))
            }
        }
    }

    /// Answers a batch that another node sent here for one group. What that group does not serve its machine refuses.
    ///
    /// # Errors
    /// [`Refusal::Unsupported`], with nothing done, where the sender speaks another format.
    pub(crate) async fn serve(&self, body: Bytes, deadline: Duration) -> Result<Bytes, Refusal> {
        let (group, request) =
            of_group(&body).ok_or_else(|| Refusal::Unsupported("batch names no group".into()))?;
        let request: BatchRequest<'_> =
            proto::decode(request).map_err(|error| Refusal::Unsupported(error.to_string()))?;
        if request.items.len() > FORWARDED_ITEMS_MAX {
            let why = format!("batch has {} items, limit is {FORWARDED_ITEMS_MAX}", request.items.len());
            return Err(Refusal::Unsupported(why));
        }
        let terms = Terms {
            deadline: Instant::now() + deadline.min(Duration::from_millis(u64::from(request.deadline_ms))),
            consistency: request.consistency,
            request_id: request.request_id,
            forward: false,
        };
        let items: Vec<&Item<'_>> = request.items.iter().collect();
        let routed = match self.residents.get(group) {
            Some(replica) => self.resident(&replica, &items, terms).await,
            None => Routed::refused(&items, |_| not_leader(group, None)),
        };
        Ok(encoded::join(&routed.answers, routed.lag))
    }
}

/// Reads here what the leader could not send, because it is larger than a message between nodes: the value
/// was written when limits were higher, or grew beyond them while leaders changed.
async fn here_instead(replica: &Replica, items: &[&Item<'_>], mut routed: Routed, terms: Terms) -> Routed {
    let too_large =
        |answer: &Encoded| answer.refusal().is_some_and(|error| error.code == Code::ValueTooLarge);
    let unsent = |at: &usize| items[*at].operation.is_read() && too_large(&routed.answers[*at]);
    let at: Vec<usize> = (0..items.len()).filter(unsent).collect();
    if !at.is_empty() {
        let reads: Vec<&Item<'_>> = at.iter().map(|&at| items[at]).collect();
        let here = replica.answer(&reads, Terms { consistency: Consistency::Follower, ..terms }).await;
        at.into_iter().zip(here.answers).for_each(|(at, answer)| routed.answers[at] = answer);
    }
    routed
}

/// Whether one more scan may be made. Lets others run first: a stale one never waits for anything.
async fn turn(bytes_left: usize, terms: Terms) -> Result<(), Encoded> {
    if bytes_left == 0 {
        return Err(spent());
    }
    if terms.left().is_zero() {
        return Err(Encoded::refused(Error::new(Code::Timeout, "deadline passed before the scan was made")));
    }
    tokio::task::yield_now().await;
    Ok(())
}

fn unmapped(shard: ShardId) -> Error {
    Error::new(Code::Internal, format!("the cluster's map has no {shard}"))
}

fn spent() -> Encoded {
    Encoded::refused(Error::new(Code::Overloaded, "answers of the batch reach their limit: ask again"))
}

/// Cuts items into messages of at most `bytes_max` of keys and values; a larger item travels alone.
fn messages<'i, 'a>(items: &'i [&'a Item<'a>], bytes_max: usize) -> Vec<&'i [&'a Item<'a>]> {
    let mut messages = Vec::with_capacity(1);
    let (mut from, mut bytes) = (0, 0);
    for (at, item) in items.iter().enumerate() {
        let more = item.operation.payload_bytes();
        if at > from && (bytes + more > bytes_max || at - from == FORWARDED_ITEMS_MAX) {
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

fn of_group(body: &[u8]) -> Option<(GroupId, &[u8])> {
    let (group, batch) = body.split_first_chunk::<8>()?;
    Some((GroupId(u64::from_le_bytes(*group)), batch))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use proto::{ClientId, Expect, Outcome, Sequence, Stamp};

    /// A batch for a group names it in front; anything shorter names none.
    #[test]
    fn group_in_front() {
        assert_eq!(of_group(&for_group(GroupId(258), b"x")), Some((GroupId(258), &b"x"[..])));
        assert_eq!(of_group(b"1234567"), None);
    }

    /// Between scans others have their turn; one that is out of time or room is refused by name and waits for
    /// nothing.
    #[tokio::test(start_paused = true)]
    async fn scans_take_turns() {
        let deadline = Instant::now() + Duration::from_millis(10);
        let terms = Terms { deadline, consistency: Consistency::Linearizable, request_id: 7, forward: true };
        let mut first = std::pin::pin!(turn(1, terms));
        assert!(futures_util::poll!(first.as_mut()).is_pending());
        assert_eq!(first.await, Ok(()));
        let told = |refused: Result<(), Encoded>| {
            let refused = refused.unwrap_err();
            let error = refused.answer().unwrap_err();
            (error.code, error.outcome)
        };
        assert_eq!(turn(0, terms).now_or_never().map(told), Some((Code::Overloaded, Outcome::None)));
        tokio::time::advance(Duration::from_millis(10)).await;
        assert_eq!(turn(1, terms).now_or_never().map(told), Some((Code::Timeout, Outcome::None)));
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
        let many = vec![&small; 2 * FORWARDED_ITEMS_MAX + 1];
        assert_eq!(lengths(&many, 1 << 20), [FORWARDED_ITEMS_MAX, FORWARDED_ITEMS_MAX, 1]);
    }

    /// A full message of the smallest items fits the room that frames keep for all but keys and values.
    #[test]
    fn full_messages_fit_their_frame() {
        let item = put(b"");
        let items = vec![item; FORWARDED_ITEMS_MAX];
        let request = BatchRequest {
            deadline_ms: u32::MAX,
            consistency: Consistency::Stale { lag_ms_max: Some(u64::MAX) },
            request_id: u128::MAX,
            items,
        };
        assert!(for_group(GroupId(1), &proto::encode(&request)).len() + 64 <= FRAME_ROOM);
    }
}
