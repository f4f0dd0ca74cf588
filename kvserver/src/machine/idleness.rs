//! The order in which sessions are forgotten: the idlest first, those of named requests and all others apart,
//! because each kind must be able to make room for its own.
//!
//! Owns no sessions: everything here is derived from them, and kept up as they change.

use proto::{ClientId, ShardId};
use std::collections::BTreeSet;

/// One for the sessions of named requests ([`ClientId::is_named`]), one for all others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ByKind<T> {
    pub(super) named: T,
    pub(super) others: T,
}

/// The idlest first, each by the second in which it was active last.
pub(super) type Order<T> = BTreeSet<(u64, T)>;

/// A shard's sessions, each once.
pub(super) type IdleSessions = ByKind<Order<ClientId>>;

/// The second in which the idlest session of each kind was active last.
pub(super) type Idlest = ByKind<Option<u64>>;

/// The shards that have a session which may be forgotten, each by its idlest one. Within a shard its sessions
/// have an order of their own, so that a shard comes and goes at once however many it has.
pub(super) type Idleness = ByKind<Order<ShardId>>;

impl IdleSessions {
    /// The order in which the session of `client` has its place.
    pub(super) fn of(&mut self, client: ClientId) -> &mut Order<ClientId> {
        if client.is_named() { &mut self.named } else { &mut self.others }
    }

    pub(super) fn idlest(&self) -> Idlest {
        let first = |order: &Order<ClientId>| order.first().map(|(active_s, _)| *active_s);
        Idlest { named: first(&self.named), others: first(&self.others) }
    }
}

impl Idleness {
    /// The second in which the idlest session of all was active last.
    pub(super) fn idlest_s(&self) -> Option<u64> {
        let first = |order: &Order<ShardId>| order.first().map(|(active_s, _)| *active_s);
        first(&self.named).into_iter().chain(first(&self.others)).min()
    }

    /// Notes that the idlest sessions of shard `id` are no longer `before` but `now`.
    pub(super) fn exchange(&mut self, id: ShardId, before: Idlest, now: Idlest) {
        exchange(&mut self.named, id, before.named, now.named);
        exchange(&mut self.others, id, before.others, now.others);
    }
}

fn exchange(order: &mut Order<ShardId>, id: ShardId, before: Option<u64>, now: Option<u64>) {
    if now != before {
        if let Some(before) = before {
            order.remove(&(before, id));
        }
        order.extend(now.map(|now| (now, id)));
    }
}
