//! This node's replica of a group, as the router asks it: reads under one confirmation, writes proposed together.
//!
//! Owns what was decided here before a command enters the log, and when the replica's memory may be shown. Relies
//! on the machine for everything after it. Must never report "no effect" for a write that it proposed and of
//! which it heard nothing.

use crate::appends::Appends;
use crate::encoded::Encoded;
use crate::machine::KvMachine;
use crate::refusal::{too_stale, unread, unwritten};
use crate::router::{Routed, Terms};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, FutureExt};
use proto::{
    Answer, Code, Command, Consistency, Epoch, Error, Item, Operation, Record, Reply, ShardSet, ShardState,
    Write,
};
use raftstore::{Group, Machine, ReadError, Role};
use std::mem;
use std::pin::pin;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// What an answer takes in a reply beside its keys, values and messages, in bytes; no answer takes more.
pub(crate) const ANSWER_OVERHEAD: usize = 40;

/// The epoch of the map with which a cluster is born.
const BIRTH: Epoch = Epoch(1);

/// The bounds of one replica's answers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// How many shards the cluster was born with.
    pub(crate) shards: u32,
    /// The longest value that a write may leave.
    pub(crate) value_bytes_max: usize,
    /// The most bytes that the reads of one batch are answered; further ones are to be asked again. A larger
    /// answer goes alone, and not to another node.
    pub(crate) answer_bytes_max: usize,
}

/// The pause before a replica looks again whether its group has been given its shards.
const BIRTH_PACE: Duration = Duration::from_millis(20);

/// A group's replica on this node.
pub(crate) struct Replica {
    pub(crate) group: Group<KvMachine>,
    /// The shards that the group is born with.
    born: ShardSet,
    bounds: Bounds,
    appends: Appends,
}

impl Replica {
    pub(crate) fn new(group: Group<KvMachine>, born: ShardSet, bounds: Bounds) -> Self {
        Self { group, born, bounds, appends: Appends::default() }
    }

    /// Sees to it that the group gets the shards that it is born with: whoever leads says so in its log, as often as
    /// need be, for once they were here they are not born again. Ends when they are known here, or with the replica.
    pub(crate) async fn give_birth(&self) {
        let command = Command::Own { shards: self.born.clone(), epoch: BIRTH };
        let command = Bytes::from(proto::encode(&command));
        while !self.is_born() && self.group.status().role != Role::Stopped {
            // Before, this replica may just not know yet that they were born long ago.
            if self.group.has_recovered() {
                match self.group.propose(command.clone()).await {
                    Ok(_) => continue,
                    Err(error) => {
                        tracing::trace!(group = %self.group.id(), %error, "shards are not born from here");
                    }
                }
            }
            tokio::time::sleep(BIRTH_PACE).await;
        }
    }

    /// Whether the shards that the group is born with have come into being, as far as is known here.
    fn is_born(&self) -> bool {
        let is_known = |machine: &KvMachine, shard| machine.lifecycle(shard) != ShardState::Absent;
        self.group.read_stale(|machine| self.born.iter().all(|shard| is_known(machine, shard)))
    }

    /// Waits for a leader, for recovery, and for the shards to be born.
    ///
    /// # Errors
    /// What is missing after `deadline`.
    pub(crate) async fn ready(&self, deadline: Duration) -> Result<(), String> {
        let until = Instant::now() + deadline;
        let leaderless =
            |error: ReadError| if self.waits() { waiting(&self.group) } else { error.to_string() };
        self.group.wait_for_leader(deadline).await.map_err(leaderless)?;
        let left = until.saturating_duration_since(Instant::now());
        let missing = |_| format!("replica of {} has not recovered", self.group.id());
        self.group.wait_for_recovery(left).await.map_err(missing)?;
        let born = async {
            while !self.is_born() {
                tokio::time::sleep(BIRTH_PACE).await;
            }
        };
        timeout_at(until, born).await.map_err(|_| format!("{} has no shards yet", self.group.id()))
    }

    /// Whether it waits to be added to its group: it knows nothing yet, not even who leads, and its node answers for
    /// the group as one without a replica.
    pub(crate) fn waits(&self) -> bool {
        waits(&self.group)
    }

    /// Whether the group counts on it, as far as it knows itself. One without a vote waits to be added, or catches
    /// up, and nobody misses it.
    pub(crate) fn has_vote(&self) -> bool {
        let status = self.group.status();
        status.voters.contains(&status.node)
    }

    /// What keeps this replica from serving, where anything does; see [`missing`].
    pub(crate) fn missing(&self, touch_max: Duration) -> Option<String> {
        let unborn = || (!self.is_born()).then(|| format!("{} has no shards yet", self.group.id()));
        missing(&self.group, touch_max).or_else(unborn)
    }

    /// Answers all items, reads and writes side by side.
    pub(crate) async fn answer(&self, items: &[&Item<'_>], terms: Terms) -> Routed {
        if items.is_empty() {
            return Routed { answers: Vec::new(), lag: Duration::ZERO };
        }
        let is_read = |item: &&Item<'_>| item.operation.is_read();
        if items.iter().all(is_read) {
            let (answers, lag) = self.read(items.iter().map(|item| &item.operation), terms).await;
            return Routed { answers, lag };
        }
        let (reads, writes): (Vec<usize>, Vec<usize>) = (0..items.len()).partition(|&at| is_read(&items[at]));
        let reading = async {
            match reads.is_empty() {
                true => (Vec::new(), Duration::ZERO),
                false => self.read(reads.iter().map(|&at| &items[at].operation), terms).await,
            }
        };
        let writing = self.write(writes.iter().map(|&at| items[at]), terms);
        let ((read, lag), written) = tokio::join!(reading, writing);
        let mut answers = vec![Encoded::default(); items.len()];
        reads.into_iter().zip(read).for_each(|(at, answer)| answers[at] = answer);
        writes.into_iter().zip(written).for_each(|(at, answer)| answers[at] = answer);
        Routed { answers, lag }
    }

    /// Reads under one confirmation of leadership, and how far the replica lags where none is asked for.
    async fn read<'a>(
        &self,
        operations: impl ExactSizeIterator<Item = &'a Operation<'a>> + Send,
        terms: Terms,
    ) -> (Vec<Encoded>, Duration) {
        let count = operations.len();
        let bounds = self.bounds;
        let travels = !terms.forward;
        let answer = move |machine: &KvMachine| answers_of(machine, operations, bounds, travels);
        let (read, lag): (BoxFuture<'_, Result<_, ReadError>>, _) = match terms.consistency {
            Consistency::Linearizable => (self.group.read(answer).boxed(), Duration::ZERO),
            Consistency::Follower => {
                (self.group.read_following(terms.left(), answer).boxed(), Duration::ZERO)
            }
            Consistency::Stale { lag_ms_max } => match self.may_show(lag_ms_max) {
                Ok(lag) => return (self.group.read_stale(answer), lag),
                Err((error, lag)) => return (vec![Encoded::refused(error); count], lag),
            },
        };
        let answers = match timeout(terms.left(), read).await {
            Ok(Ok(answers)) => answers,
            Ok(Err(error)) => vec![Encoded::refused(unread(error)); count],
            Err(_) => {
                vec![Encoded::refused(Error::new(Code::Timeout, "read was not confirmed in time")); count]
            }
        };
        (answers, lag)
    }

    /// Whether memory may be shown as it stands, and how far it lags.
    fn may_show(&self, lag_ms_max: Option<u64>) -> Result<Duration, (Error, Duration)> {
        let group = self.group.id();
        let unavailable = |why: String| Err((Error::new(Code::Unavailable, why), Duration::ZERO));
        if !self.group.has_recovered() {
            return unavailable(format!(
                "replica of {group} has not recovered what it showed before its start"
            ));
        }
        match self.group.lag() {
            None => unavailable(format!("replica of {group} has not heard of a leader since its start")),
            Some(lag) if lag_ms_max.is_some_and(|most| lag > Duration::from_millis(most)) => {
                Err((too_stale(group, lag), lag))
            }
            Some(lag) => Ok(lag),
        }
    }

    /// Proposes all writes at once; each is answered by the machine, or by what became of it.
    async fn write<'a>(
        &self,
        items: impl ExactSizeIterator<Item = &'a Item<'a>>,
        terms: Terms,
    ) -> Vec<Encoded> {
        if items.len() > 0 && terms.left().is_zero() {
            let late = Error::new(Code::Timeout, "deadline passed before the write was proposed");
            return vec![Encoded::refused(late); items.len()];
        }
        let mut answers: Vec<Option<Encoded>> = vec![None; items.len()];
        let mut under_way = Vec::with_capacity(items.len());
        let (mut commands, mut ends) = (Vec::new(), Vec::with_capacity(items.len()));
        for (at, item) in items.enumerate() {
            let key = item.operation.key().expect("writes have keys: scans are reads");
            let shard = proto::shard_of(key, self.bounds.shards);
            let hold = match self.appends.admit(&self.group, shard, item, self.bounds.value_bytes_max) {
                Ok(hold) => hold,
                Err(error) => {
                    answers[at] = Some(Encoded::refused(error));
                    continue;
                }
            };
            let write = Write { shard, stamp: item.stamp, operation: item.operation.clone() };
            proto::encode_into(&Command::Write(write), &mut commands);
            ends.push(commands.len());
            under_way.push((at, hold));
        }
        let mut commands = Bytes::from(commands);
        let mut began = 0;
        let commands = ends.into_iter().map(|end| commands.split_to(end - mem::replace(&mut began, end)));
        let mut proposed = pin!(self.group.propose_all(commands));
        let all = async {
            while let Some((place, answer)) = proposed.next().await {
                let (at, hold) = &mut under_way[place];
                drop(hold.take());
                answers[*at] = Some(match answer {
                    Ok(message) => Encoded::from_message(message),
                    Err(error) => Encoded::refused(unwritten(error)),
                });
            }
        };
        if timeout_at(terms.deadline, all).await.is_err() {
            tracing::debug!(group = %self.group.id(), "writes were not confirmed in time");
        }
        let late = || Encoded::refused(Error::unknown(Code::Timeout, "write was not confirmed in time"));
        answers.into_iter().map(|answer| answer.unwrap_or_else(late)).collect()
    }
}

/// Whether a replica waits to be added to its group.
fn waits<M: Machine>(group: &Group<M>) -> bool {
    if group.leader().is_some() {
        return false;
    }
    let status = group.status();
    !status.members.contains_key(&status.node)
}

fn waiting<M: Machine>(group: &Group<M>) -> String {
    format!("replica of {} is not a member yet", group.id())
}

/// What keeps a replica of any group from being up to date, where anything does. `touch_max` is how long it may be out
/// of touch with a leader, or as the leader with a quorum: both go on believing in the leader that they last knew.
pub(crate) fn missing<M: Machine>(of: &Group<M>, touch_max: Duration) -> Option<String> {
    let group = of.id();
    let lag = of.lag().map(|lag| (lag, lag.as_millis()));
    match (of.leader(), of.has_recovered(), lag) {
        (None, ..) if waits(of) => Some(waiting(of)),
        (None, ..) => Some(format!("{group} has no leader")),
        (_, false, _) => Some(format!("replica of {group} has not recovered")),
        (_, _, None) => Some(format!("{group} has a leader that was not confirmed yet")),
        (_, _, Some((lag, ms))) if lag > touch_max => {
            Some(format!("{group} has a leader that was last confirmed here {ms} ms ago"))
        }
        _ => None,
    }
}

/// The machine's answers as long as they fit. What does not is not even encoded: the machine is locked meanwhile.
fn answers_of<'a>(
    machine: &KvMachine,
    operations: impl Iterator<Item = &'a Operation<'a>>,
    bounds: Bounds,
    travels: bool,
) -> Vec<Encoded> {
    let mut left = bounds.answer_bytes_max;
    operations
        .map(|operation| {
            let answer = machine.query(operation, bounds.shards);
            match room(encoded_bytes_max(&answer), left, bounds.answer_bytes_max, travels) {
                Ok(rest) => {
                    left = rest;
                    Encoded::of(&answer)
                }
                Err(error) => Encoded::refused(error),
            }
        })
        .collect()
}

/// What is left of `left` after an answer of `bytes`. One that is larger than `most` takes all of it here,
/// and has no room in a message to another node.
fn room(bytes: usize, left: usize, most: usize, travels: bool) -> Result<usize, Error> {
    match left.checked_sub(bytes) {
        Some(rest) => Ok(rest),
        None if bytes > most && travels => {
            let why = format!("answer takes {bytes} bytes, limit of a message between nodes is {most}");
            Err(Error::new(Code::ValueTooLarge, why))
        }
        None if bytes > most && left == most => Ok(0),
        None => Err(Error::new(Code::Overloaded, "answers of the batch reach their limit: ask again")),
    }
}

/// The most bytes that an answer takes in its encoding.
fn encoded_bytes_max(answer: &Answer<'_>) -> usize {
    ANSWER_OVERHEAD
        + match answer {
            Ok(Reply::Value { value, .. }) => value.len(),
            Ok(Reply::Page { records, .. }) => page_bytes_max(records),
            Ok(Reply::Share { shards, records, .. }) => page_bytes_max(records) + shards.encoded_bytes_max(),
            Ok(Reply::Written { .. } | Reply::Deleted { .. }) => 0,
            Err(error) => error.message.len(),
        }
}

fn page_bytes_max(records: &[Record<'_>]) -> usize {
    records.iter().map(|record| record.key.len() + record.value.len() + ANSWER_OVERHEAD).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::{GroupId, NodeId, Revision, ShardId, Version};

    /// No answer takes more than its bound, whatever its counters.
    #[test]
    fn encodings_keep_to_their_bounds() {
        let (version, revision) = (Version(u64::MAX), Revision(u64::MAX));
        let value = vec![0; 70_000];
        let record = Record { key: &value[..300], value: &value, version, revision };
        let code = Code::NotLeader { group: GroupId(u64::MAX), leader: Some(NodeId(u64::MAX)) };
        let moved = Code::WrongGroup {
            shard: ShardId(u32::MAX),
            to: Some(GroupId(u64::MAX)),
            epoch: Epoch(u64::MAX),
        };
        let shards = ShardSet::from_iter((0..300).map(|number| ShardId(number * 3)));
        let answers: [Answer<'_>; 7] = [
            Ok(Reply::Value { value: &value, version, revision }),
            Ok(Reply::Written { version, revision, length: u64::MAX }),
            Ok(Reply::Deleted { revision }),
            Ok(Reply::Page { records: vec![record.clone(); 300], more: true }),
            Ok(Reply::Share { shards, records: vec![record; 300], more: true }),
            Err(Error::new(moved, "m".repeat(300))),
            Err(Error::new(code, "m".repeat(300))),
        ];
        for answer in answers {
            let (bytes, most) = (Encoded::of(&answer).len(), encoded_bytes_max(&answer));
            assert!(bytes <= most, "{bytes} bytes, not {most}");
        }
    }

    /// What does not fit now may fit later. What fits no message is answered here, where nothing was before
    /// it, and is told to other nodes as too large.
    #[test]
    fn answers_keep_to_their_room() {
        for travels in [false, true] {
            let code = |bytes, left| room(bytes, left, 10, travels).map_err(|error| error.code);
            assert_eq!(code(4, 10), Ok(6));
            assert_eq!(code(10, 10), Ok(0));
            assert_eq!(code(4, 3), Err(Code::Overloaded));
            let too_large = Err(Code::ValueTooLarge);
            assert_eq!(code(11, 10), if travels { too_large.clone() } else { Ok(0) });
            assert_eq!(code(11, 9), if travels { too_large } else { Err(Code::Overloaded) });
        }
    }
}
