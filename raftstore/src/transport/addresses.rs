//! Where other nodes may be reached: of each, the addresses at which it was ever said to be, the likeliest first.
//!
//! A node keeps its number and its disk when it comes back at another address, and nobody learns of that at once: a
//! membership says where its nodes were when it was written, a map or a configuration where they were later, and the
//! node itself where it is now. None of them is believed: whoever connects says whom it means, and nobody else answers
//! with a welcome (see [`super::handshake`]). So an address that is wrong costs an attempt, and the next one is tried;
//! and no order in which addresses are heard can make a node unreachable that is at one of them.
//!
//! Must never grow by what strangers say: what is kept of a node is bounded, and a hello adds nothing of nodes that
//! nobody else has spoken of.

use proto::NodeId;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The most addresses that are kept of one node; beyond them, the least likely is forgotten.
const ADDRESSES_MAX: usize = 8;

#[derive(Debug, Default)]
struct Known {
    own: String,
    others: BTreeMap<NodeId, VecDeque<String>>,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Addresses(Mutex<Known>);

impl Addresses {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where others reach this node; empty where it does not say.
    pub(crate) fn own(&self) -> String {
        self.lock().own.clone()
    }

    /// Says where others reach this node.
    pub(crate) fn advertise(&self, own: &str) {
        self.lock().own = own.to_owned();
    }

    /// A node was said to be here, some time: news where nobody has said so before.
    pub(crate) fn told(&self, node: NodeId, address: &str) {
        let mut known = self.lock();
        let addresses = known.others.entry(node).or_default();
        if !addresses.iter().any(|known| known == address) {
            first(addresses, address);
        }
    }

    /// A node is said to be here now.
    pub(crate) fn locate(&self, node: NodeId, address: &str) {
        first(self.lock().others.entry(node).or_default(), address);
    }

    /// Whoever calls itself `node` says that it is here now.
    pub(crate) fn heard(&self, node: NodeId, address: &str) {
        if let Some(addresses) = self.lock().others.get_mut(&node) {
            first(addresses, address);
        }
    }

    /// Where to try next; empty where nobody has said where the node is.
    pub(crate) fn likeliest(&self, node: NodeId) -> String {
        let known = self.lock();
        known.others.get(&node).and_then(|addresses| addresses.front()).cloned().unwrap_or_default()
    }

    /// The node was not reached here: another address is tried before this one again.
    pub(crate) fn failed(&self, node: NodeId, address: &str) {
        let mut known = self.lock();
        let addresses = known.others.get_mut(&node);
        // Another of the node's lanes may have come to that before.
        if let Some(addresses) = addresses.filter(|of| of.front().is_some_and(|front| front == address)) {
            addresses.rotate_left(1);
        }
    }
}

fn first(addresses: &mut VecDeque<String>, address: &str) {
    if address.is_empty() {
        return;
    }
    addresses.retain(|known| known != address);
    addresses.push_front(address.to_owned());
    addresses.truncate(ADDRESSES_MAX);
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(3);

    /// What is said of now goes before what was said some time, and what was heard once is no news again.
    #[test]
    fn news_come_first() {
        let addresses = Addresses::default();
        assert_eq!(addresses.likeliest(NODE), "");
        for address in ["a:1", "b:1", "", "a:1"] {
            addresses.told(NODE, address);
        }
        assert_eq!(addresses.likeliest(NODE), "b:1");
        addresses.locate(NODE, "a:1");
        assert_eq!(addresses.likeliest(NODE), "a:1");
        addresses.heard(NODE, "c:1");
        assert_eq!(addresses.likeliest(NODE), "c:1");
    }

    /// Every address is tried in its turn, also where several lanes find the same one wrong.
    #[test]
    fn every_address_has_its_turn() {
        let addresses = Addresses::default();
        for address in ["a:1", "b:1", "c:1"] {
            addresses.told(NODE, address);
        }
        let mut tried = Vec::new();
        for _ in 0..4 {
            let address = addresses.likeliest(NODE);
            addresses.failed(NODE, &address);
            addresses.failed(NODE, &address);
            tried.push(address);
        }
        assert_eq!(tried, ["c:1", "b:1", "a:1", "c:1"]);
    }

    /// Strangers' hellos leave nothing behind, and nobody's addresses are kept without end.
    #[test]
    fn what_is_kept_is_bounded() {
        let addresses = Addresses::default();
        addresses.heard(NODE, "a:1");
        assert_eq!(addresses.likeliest(NODE), "");
        for port in 0..100 {
            addresses.told(NODE, &format!("a:{port}"));
        }
        assert_eq!(addresses.lock().others[&NODE].len(), ADDRESSES_MAX);
        assert_eq!(addresses.likeliest(NODE), "a:99");
    }
}
