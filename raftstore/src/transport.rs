//! How nodes talk: frames over a few connections a peer, shared by all groups.
//!
//! ```text
//!   openraft ─▶ Client (group, peer) ─▶ Queue ─┬─▶ entries   ─▶┐
//!                                              ├─▶ heartbeat ─▶│ one connection    Server ─▶ Inbound ─▶ Replica
//!                                              ├─▶ bulk      ─▶│ each, on demand      │
//!   front end ─▶ Transport::call ──────────────┴─▶ request   ─▶┘                      └──────▶ Inbound::call
//! ```
//!
//! A **lane** is a connection for one kind of traffic, so that a snapshot never delays an entry and an entry never
//! delays a heartbeat. A **call** is asked once and answered once; a **stream** is a run of appends answered in
//! order; a **transfer** is a snapshot. Each has an id that the process never uses again, and none outlives the
//! connection that carried any of it: so no answer can be taken for another's. Whatever waits in a lane when the
//! writer is free leaves in one write.
//!
//! Bounds: bytes of appends under way to a peer ([`TransportConfig::window_bytes`]), bytes and calls that wait
//! ([`TransportConfig::queue_bytes_max`], [`TransportConfig::calls_max`]), the size of every frame, and what a
//! connection may have in progress at the receiver. All waits have deadlines.
//!
//! Not here yet: TLS, which the [`Network`] will wrap around its streams.

mod addresses;
pub(crate) mod append;
mod batch;
mod call;
mod config;
mod frame;
mod handshake;
mod inbound;
mod lane;
mod message;
mod peer;
mod queue;
mod raft_client;
mod receive;
mod receive_append;
mod receive_snapshot;
mod server;
mod snapshot;
mod stats;
#[cfg(test)]
mod tests;

pub(crate) use append::LogFloor;
pub use call::CallError;
pub use config::TransportConfig;
pub use handshake::{GreetError, Unwelcome};
pub use inbound::Refusal;
pub(crate) use inbound::{Inbound, Replica, SnapshotSink, Stopped};
pub(crate) use server::Server;
use snapshot::Pieces;
pub use stats::{LaneStats, RaftCalls, TransportStats};

use crate::network::Network;
use crate::types::Address;
use bytes::Bytes;
use handshake::{ADDRESS_BYTES_MAX, CLUSTER_BYTES_MAX};
use lane::{LaneKind, Local};
use peer::Peer;
use proto::{GroupId, NodeId};
use raft_client::{Client, Factory};
use std::collections::BTreeMap;
use std::io;
use std::marker::PhantomData;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A node's side of all its connections.
pub(crate) struct Transport {
    local: Arc<Local>,
    peers: Mutex<Peers>,
}

#[derive(Default)]
struct Peers {
    /// By id alone: while a node moves, groups may know it at different addresses, and share its lanes all the same.
    known: BTreeMap<NodeId, Arc<Peer>>,
    closed: bool,
}

impl Transport {
    /// A transport of `node` that has no connection yet.
    ///
    /// # Panics
    /// If the configuration is invalid (see [`TransportConfig::validate`]) or the cluster's name is longer than
    /// 255 bytes.
    pub(crate) fn new(
        node: NodeId,
        cluster: String,
        network: Arc<dyn Network>,
        config: TransportConfig,
    ) -> Arc<Self> {
        assert_eq!(config.validate(), Ok(()), "the transport is given a configuration that was validated");
        assert!(cluster.len() <= CLUSTER_BYTES_MAX, "a cluster's name has at most {CLUSTER_BYTES_MAX} bytes");
        let local = Local {
            node,
            cluster,
            network,
            config: Arc::new(config),
            addresses: Arc::default(),
            counters: Arc::default(),
            ids: Arc::new(AtomicU64::new(1)),
        };
        Arc::new(Self { local: Arc::new(local), peers: Mutex::default() })
    }

    /// Listens on `listen` for other nodes and passes what they send to `inbound`.
    ///
    /// # Errors
    /// Where the address cannot be listened on.
    pub(crate) async fn serve(&self, listen: &str, inbound: Arc<dyn Inbound>) -> io::Result<Server> {
        let listener = self.local.network.listen(listen).await?;
        Ok(Server::start(self.local.clone(), listener, inbound))
    }

    /// The clients that openraft makes for `group`; `floor` ends the streams of followers that its log has outgrown, and
    /// `D` is its snapshot data.
    pub(crate) fn factory<D: Pieces>(self: &Arc<Self>, group: GroupId, floor: LogFloor) -> Factory<D> {
        Factory { transport: self.clone(), group, floor, snapshots: PhantomData }
    }

    /// One group's client for one peer. Connects only when used.
    pub(crate) fn client<D: Pieces>(&self, group: GroupId, target: NodeId, address: &Address) -> Client<D> {
        let peer = self.peer(target, &address.peer);
        let (local, floor) = (self.local.clone(), LogFloor::default());
        Client { local, peer, group, heartbeats: false, floor, snapshots: PhantomData }
    }

    /// Asks `target` at `address` for one of its services, for at most `deadline`.
    ///
    /// # Errors
    /// [`CallError`] says whether it may have been carried out.
    pub(crate) async fn call(
        &self,
        target: NodeId,
        address: &str,
        service: u8,
        body: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, CallError> {
        let queue = self.peer(target, address).queue(&self.local, LaneKind::Request);
        call::call(&queue, &self.local.config, service, &body, deadline).await
    }

    /// Says where others reach this node, which tells them at each connection that it makes from now on.
    ///
    /// # Panics
    /// If the address is longer than 255 bytes.
    pub(crate) fn advertise(&self, own: &str) {
        assert!(own.len() <= ADDRESS_BYTES_MAX, "an address has at most {ADDRESS_BYTES_MAX} bytes");
        self.local.addresses.advertise(own);
    }

    /// Says that `node` is at `address` now; the next connection to it is tried there first.
    pub(crate) fn locate(&self, node: NodeId, address: &str) {
        self.local.addresses.locate(node, address);
    }

    /// Asks whoever is at `address` who that is.
    ///
    /// # Errors
    /// [`GreetError`].
    pub(crate) async fn who_is(&self, address: &str) -> Result<NodeId, GreetError> {
        handshake::who_is(&self.local, address).await
    }

    /// What was sent and received since the start.
    pub(crate) fn stats(&self) -> TransportStats {
        self.local.counters.read()
    }

    /// Ends all lanes; what waits fails, and so does whatever is asked afterwards. The server is stopped by
    /// itself.
    pub(crate) async fn shutdown(&self) {
        let peers = {
            let mut peers = self.lock();
            peers.closed = true;
            std::mem::take(&mut peers.known)
        };
        for peer in peers.into_values() {
            peer.shut_down().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Peers> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn peer(&self, id: NodeId, address: &str) -> Arc<Peer> {
        self.local.addresses.told(id, address);
        let mut peers = self.lock();
        if let Some(peer) = peers.known.get(&id) {
            return peer.clone();
        }
        let peer = Arc::new(Peer::new(id, &self.local.config, peers.closed));
        if !peers.closed {
            peers.known.insert(id, peer.clone());
        }
        peer
    }
}
