//! From a batch of operations to the groups that answer them: here where this node leads, one hop away where
//! another does. A batch that came over that hop is never sent on: its sender hears who leads instead, and
//! asks each node once at most, so that no request goes round in circles.
//!
//! A shard on its way to another group is served by neither for a few commits. What concerns it is sent where
//! it goes, and waits there, at the replica that leads its new group, until it has arrived: nothing polls for
//! it.
//!
//! Relies on stamps for writes that are sent again, which is its callers' business. Must never report "no effect"
//! for a write of which any attempt may be in a log, nor answer more than a reply may hold.

mod forward;
mod listing;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use forward::FRAME_ROOM;

use crate::encoded::{self, Encoded};
use crate::machine::KvMachine;
use crate::refusal::{not_leader, within};
use crate::replica::Replica;
use crate::residence::Residents;
use crate::routes::Routes;
use bytes::Bytes;
use futures_util::future::join_all;
use proto::{
    BatchRequest, ClusterMap, Code, Consistency, Error, GroupId, Item, Limits, Operation, ShardId, ShardState,
};
use raftstore::mutation::{Mutation, is_on};
use raftstore::{Host, Refusal, random};
use rand::RngExt;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use tracing::Instrument;

/// The number on the request lane under which nodes send each other batches.
pub(crate) const BATCH_SERVICE: u8 = 16;

/// How long a message waits, where a shard is to arrive, before it is told that it has not: an arrival takes
/// milliseconds, and one that takes longer may have been given up.
const ARRIVAL_WAIT: Duration = Duration::from_millis(200);

/// The pauses, less a random part, before an item is sent where it was said to belong, from the second time
/// on.
const REROUTE_PAUSE_MIN: Duration = Duration::from_millis(1);
const REROUTE_PAUSE_MAX: Duration = Duration::from_millis(50);

/// For how long items are sent where they are said to belong before their callers hear of it.
const REROUTE_TIME_MAX: Duration = Duration::from_secs(1);

/// The same where others of the batch are answered, and should not be held up by a shard that hangs between
/// groups.
const REROUTE_TIME_SHARED: Duration = Duration::from_millis(100);

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
        self.route_counted(items, terms).await.0
    }
}

/// What one attempt came to.
struct Attempt {
    routed: Routed,
    /// For each item, whether another node was asked for it because its group is led there. Never for a scan.
    sent_on: Vec<bool>,
}

impl Attempt {
    fn unsent(routed: Routed) -> Self {
        let sent_on = vec![false; routed.answers.len()];
        Self { routed, sent_on }
    }

    fn take(&mut self, at: usize, answer: Encoded, sent_on: bool) {
        (self.routed.answers[at], self.sent_on[at]) = (answer, sent_on);
    }

    fn take_all(&mut self, at: Vec<usize>, routed: Routed, sent_on: bool) {
        assert_eq!(at.len(), routed.answers.len(), "every item is answered");
        self.routed.lag = self.routed.lag.max(routed.lag);
        at.into_iter().zip(routed.answers).for_each(|(at, answer)| self.take(at, answer, sent_on));
    }
}

impl Router {
    /// Answers each item, and tells how many of them concern groups that are led elsewhere: their sender
    /// might have gone there at once.
    pub(crate) async fn route_counted(&self, items: &[Item<'_>], terms: Terms) -> (Routed, usize) {
        let began = Instant::now();
        let mut all = self.attempt(items, terms).await;
        let mut pause = Duration::ZERO;
        loop {
            let misdirected = |at: &usize| terms.forward && self.is_misdirected(&all.routed.answers[*at]);
            let at: Vec<usize> = (0..items.len()).filter(misdirected).collect();
            let patience = if at.len() < items.len() { REROUTE_TIME_SHARED } else { REROUTE_TIME_MAX };
            if at.is_empty() || terms.left() <= pause || began.elapsed() >= patience {
                break;
            }
            tokio::time::sleep(pause.mul_f64(random().random_range(0.5..=1.0))).await;
            pause = (pause * 2).clamp(REROUTE_PAUSE_MIN, REROUTE_PAUSE_MAX);
            let again: Vec<Item<'_>> = at.iter().map(|&at| items[at].clone()).collect();
            let more = self.attempt(&again, terms).await;
            all.routed.lag = all.routed.lag.max(more.routed.lag);
            let more = more.routed.answers.into_iter().zip(more.sent_on);
            at.into_iter().zip(more).for_each(|(at, (answer, sent_on))| all.take(at, answer, sent_on));
        }
        self.bound(items, &mut all.routed.answers);
        (all.routed, all.sent_on.into_iter().filter(|sent_on| *sent_on).count())
    }

    /// Whether an answer says that its question was sent to the wrong place, and was not carried out there: a shard has
    /// moved, or a group of which nothing is known here but a hint is led by another.
    fn is_misdirected(&self, answer: &Encoded) -> bool {
        match answer.refusal().map(|error| error.code) {
            Some(Code::WrongGroup { .. }) => true,
            Some(Code::NotLeader { group, .. }) => self.replica_of(group).is_none(),
            _ => false,
        }
    }

    /// This node's replica of a group, where it has one that takes part in it.
    pub(crate) fn replica_of(&self, group: GroupId) -> Option<Arc<Replica>> {
        self.residents.get(group).filter(|replica| !replica.waits())
    }

    /// Sends each item where it belongs by what is known now.
    async fn attempt(&self, items: &[Item<'_>], terms: Terms) -> Attempt {
        let map = match self.routes.map() {
            Ok(map) => map,
            Err(error) => {
                let items: Vec<&Item<'_>> = items.iter().collect();
                return Attempt::unsent(Routed::refused(&items, |_| error.clone()));
            }
        };
        let mut by_group: BTreeMap<GroupId, Vec<usize>> = BTreeMap::new();
        let mut scans = Vec::new();
        let answers = vec![Encoded::default(); items.len()];
        let mut all = Attempt::unsent(Routed { answers, lag: Duration::ZERO });
        for (at, item) in items.iter().enumerate() {
            match (within(&self.limits, &item.operation), item.operation.key()) {
                (Err(error), _) => all.take(at, Encoded::refused(error), false),
                (Ok(()), Some(key)) => {
                    let shard = proto::shard_of(key, self.shards);
                    match self.routes.group_of(&map, shard) {
                        Some(group) => by_group.entry(group).or_default().push(at),
                        None => all.take(at, Encoded::refused(unmapped(shard)), false),
                    }
                }
                (Ok(()), None) => scans.push(at),
            }
        }
        let map = &*map;
        // Most batches concern one group alone, and most calls are but one operation.
        if let (true, 1) = (scans.is_empty(), by_group.len())
            && let Some((group, at)) = by_group.pop_first()
        {
            let of_group: Vec<&Item<'_>> = at.iter().map(|&at| &items[at]).collect();
            let (routed, sent_on) = self.group(map, group, &of_group, terms).await;
            all.take_all(at, routed, sent_on);
            return all;
        }
        // What spreads is rare, and its future larger than all others together.
        Box::pin(self.spread(map, items, by_group, scans, terms, all)).await
    }

    /// Asks several groups side by side, and all of them for the scans.
    async fn spread(
        &self,
        map: &ClusterMap,
        items: &[Item<'_>],
        by_group: BTreeMap<GroupId, Vec<usize>>,
        scans: Vec<usize>,
        terms: Terms,
        mut all: Attempt,
    ) -> Attempt {
        let groups = by_group.into_iter().map(|(group, at)| async move {
            let of_group: Vec<&Item<'_>> = at.iter().map(|&at| &items[at]).collect();
            (at, self.group(map, group, &of_group, terms).await)
        });
        let scanning = self.scans(map, items, &scans, terms);
        let (groups, (scanned, lag)) = tokio::join!(join_all(groups), scanning);
        all.routed.lag = lag;
        scans.into_iter().zip(scanned).for_each(|(at, answer)| all.take(at, answer, false));
        groups.into_iter().for_each(|(at, (routed, sent_on))| all.take_all(at, routed, sent_on));
        all
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

    /// Answers items that all concern one group, and tells whether another node was asked. A scan among them
    /// is answered with this group's share.
    async fn group(
        &self,
        map: &ClusterMap,
        id: GroupId,
        items: &[&Item<'_>],
        terms: Terms,
    ) -> (Routed, bool) {
        let (routed, sent_on) = match self.replica_of(id) {
            Some(replica) => self.resident(map, &replica, items, terms).await,
            None if terms.forward => (self.ask(map, id, None, items, terms).await, true),
            None => (Routed::refused(items, |_| not_leader(id, None)), false),
        };
        for error in routed.answers.iter().filter_map(Encoded::refusal) {
            self.routes.learn(id, &error.code);
        }
        (routed, sent_on)
    }

    /// Answers items that concern a group of which there is a replica here.
    async fn resident(
        &self,
        map: &ClusterMap,
        replica: &Replica,
        items: &[&Item<'_>],
        terms: Terms,
    ) -> (Routed, bool) {
        let (id, node) = (replica.group.id(), self.host.node());
        let local_reads = terms.consistency != Consistency::Linearizable;
        let leader = replica.group.leader();
        if leader == Some(node) || (local_reads && items.iter().all(|item| item.operation.is_read())) {
            return (self.here(map, replica, items, terms).await, false);
        }
        // A replica that is no member any more hears of no leader, and of no other than it last had.
        if !terms.forward || (leader.is_none() && Routes::is_member(map, id, node)) {
            return (Routed::refused(items, |_| not_leader(id, leader)), false);
        }
        let address = leader.and_then(|leader| replica.group.address_of(leader));
        let first = leader.zip(address.map(|address| address.peer));
        let routed = self.ask(map, id, first, items, terms).await;
        (here_instead(replica, items, routed, terms).await, true)
    }

    /// Answers items at a replica of this node. What concerns shards that the replica knows not to be served
    /// by its group is refused without a place in the log; what concerns those that are to arrive waits for
    /// them.
    async fn here(&self, map: &ClusterMap, replica: &Replica, items: &[&Item<'_>], terms: Terms) -> Routed {
        let group = replica.group.id();
        let shards: Vec<Option<ShardId>> =
            items.iter().map(|item| shard_of(&item.operation, self.shards)).collect();
        let is_expected = |shard: &ShardId| self.routes.group_of(map, *shard) == Some(group);
        if !self.routes.is_moving(map) && shards.iter().flatten().all(is_expected) {
            return replica.answer(items, terms).await;
        }
        Box::pin(self.while_moving(replica, items, shards, terms)).await
    }

    /// Answers items at a replica while shards are on their way.
    async fn while_moving(
        &self,
        replica: &Replica,
        items: &[&Item<'_>],
        shards: Vec<Option<ShardId>>,
        terms: Terms,
    ) -> Routed {
        let states = states_of(replica, &shards);
        let (now, later): (Vec<usize>, Vec<usize>) =
            (0..items.len()).partition(|&at| !matches!(states[at], Some((_, ShardState::Importing { .. }))));
        let of = |at: &[usize]| -> Vec<&Item<'_>> { at.iter().map(|&at| items[at]).collect() };
        let waiting = async {
            let shards: BTreeSet<ShardId> = later.iter().filter_map(|&at| shards[at]).collect();
            if !shards.is_empty() {
                self.arrival(replica, &shards, terms.deadline).await;
            }
            served(replica, &of(&later), self.shards, terms).await
        };
        let of_now = of(&now);
        let (at_once, waited) = tokio::join!(served(replica, &of_now, self.shards, terms), waiting);
        let mut answers = vec![Encoded::default(); items.len()];
        now.into_iter().zip(at_once.answers).for_each(|(at, answer)| answers[at] = answer);
        later.into_iter().zip(waited.answers).for_each(|(at, answer)| answers[at] = answer);
        Routed { answers, lag: at_once.lag.max(waited.lag) }
    }

    /// Waits until none of `shards` is on its way to a replica's group any more, for a while.
    async fn arrival(&self, replica: &Replica, shards: &BTreeSet<ShardId>, deadline: Instant) {
        let Some(_place) = self.routes.waiting_place() else { return };
        let until = deadline.min(Instant::now() + ARRIVAL_WAIT);
        let mut applied = replica.group.applied();
        loop {
            applied.borrow_and_update();
            let importing = |machine: &KvMachine| {
                shards.iter().any(|shard| matches!(machine.lifecycle(*shard), ShardState::Importing { .. }))
            };
            if !replica.group.read_stale(importing) {
                return;
            }
            match timeout_at(until, applied.changed()).await {
                Ok(Ok(())) => {}
                // It is late, or the replica has ended: what the machine says is answered.
                Ok(Err(_)) | Err(_) => return,
            }
        }
    }

    /// Answers a batch that another node sent here for one group. What that group does not serve its machine refuses.
    ///
    /// # Errors
    /// [`Refusal::Unsupported`], with nothing done, where the sender speaks another format.
    pub(crate) async fn serve(&self, body: Bytes, deadline: Duration) -> Result<Bytes, Refusal> {
        let (group, request) =
            forward::of_group(&body).ok_or_else(|| Refusal::Unsupported("batch names no group".into()))?;
        let request: BatchRequest<'_> =
            proto::decode(request).map_err(|error| Refusal::Unsupported(error.to_string()))?;
        if request.items.len() > forward::ITEMS_MAX {
            let why = format!("batch has {} items, limit is {}", request.items.len(), forward::ITEMS_MAX);
            return Err(Refusal::Unsupported(why));
        }
        let terms = Terms {
            deadline: Instant::now() + deadline.min(Duration::from_millis(u64::from(request.deadline_ms))),
            consistency: request.consistency,
            request_id: request.request_id,
            forward: false,
        };
        let items: Vec<&Item<'_>> = request.items.iter().collect();
        let answering = async {
            match self.routes.map() {
                Ok(map) => self.group(&map, group, &items, terms).await.0,
                Err(error) => Routed::refused(&items, |_| error.clone()),
            }
        };
        let span = tracing::debug_span!("forwarded", id = %format_args!("{:032x}", terms.request_id), %group);
        let routed = answering.instrument(span).await;
        Ok(encoded::join(&routed.answers, routed.lag))
    }
}

/// The one shard that an operation concerns; none for a scan over several.
fn shard_of(operation: &Operation<'_>, shards: u32) -> Option<ShardId> {
    match *operation {
        Operation::Scan { prefix, .. } => proto::shard_of_prefix(prefix, shards),
        _ => operation.key().map(|key| proto::shard_of(key, shards)),
    }
}

/// What a replica knows of each of `shards`.
fn states_of(replica: &Replica, shards: &[Option<ShardId>]) -> Vec<Option<(ShardId, ShardState)>> {
    replica.group.read_stale(|machine| {
        shards.iter().map(|shard| shard.map(|shard| (shard, machine.lifecycle(shard)))).collect()
    })
}

/// Answers items at a replica, those on shards that it does not know to be served by saying so: a log that
/// learns of a write to a shard that is elsewhere learns nothing.
async fn served(replica: &Replica, items: &[&Item<'_>], shards: u32, terms: Terms) -> Routed {
    let of_items: Vec<Option<ShardId>> = items.iter().map(|item| shard_of(&item.operation, shards)).collect();
    let refusals: Vec<Option<Error>> = states_of(replica, &of_items).into_iter().map(not_served).collect();
    if refusals.iter().all(Option::is_none) {
        return replica.answer(items, terms).await;
    }
    let at: Vec<usize> = (0..items.len()).filter(|&at| refusals[at].is_none()).collect();
    let asked: Vec<&Item<'_>> = at.iter().map(|&at| items[at]).collect();
    let routed = replica.answer(&asked, terms).await;
    let mut answers: Vec<Encoded> =
        refusals.into_iter().map(|refusal| refusal.map_or_else(Encoded::default, Encoded::refused)).collect();
    at.into_iter().zip(routed.answers).for_each(|(at, answer)| answers[at] = answer);
    Routed { answers, lag: routed.lag }
}

/// What the machine would say of a shard that it does not serve.
fn not_served(of: Option<(ShardId, ShardState)>) -> Option<Error> {
    let (shard, state) = of?;
    let code = Code::WrongGroup { shard, to: state.moved_to(), epoch: state.epoch() };
    let reads_on = is_on(Mutation::ServeReadsAfterFreeze) && matches!(state, ShardState::Frozen { .. });
    let is_served = reads_on || matches!(state, ShardState::Serving { .. });
    (!is_served).then(|| Error::new(code, format!("{shard} is not served by this group, it is {state}")))
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

fn unmapped(shard: ShardId) -> Error {
    Error::new(Code::Internal, format!("the cluster's map has no {shard}"))
}

fn spent() -> Encoded {
    Encoded::refused(Error::new(Code::Overloaded, "answers of the batch reach their limit: ask again"))
}
