//! The HTTP front end over real sockets, with a fake node behind it: what the API promises, and what becomes of
//! requests that are slow, torn, too large or too many.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the answer")]

mod admin;
mod batches;
mod conditions;
mod contract;
#[path = "../controller_rig/mod.rs"]
mod controller_rig;
mod cost;
mod fake;
mod faults;
mod keys;
mod limits;
mod listing;
mod reads;
mod stopping;
mod wire;

use fake::Fake;
use kvserver::HttpConfig;
use kvserver::http::Server;
use std::net::SocketAddr;
use std::sync::Arc;

/// A front end with its fake node.
struct Stand {
    server: Server,
    fake: Arc<Fake>,
    address: SocketAddr,
}

impl Stand {
    async fn new() -> Self {
        Self::with(HttpConfig::default()).await
    }

    async fn with(config: HttpConfig) -> Self {
        let fake = Arc::new(Fake::default());
        let server = Server::bind("127.0.0.1:0", config, Arc::clone(&fake) as _).await.unwrap();
        let address = server.local_addr();
        Self { server, fake, address }
    }

    /// Sends one request on a connection of its own.
    async fn ask(&self, line: &str, headers: &[(&str, &str)], body: &[u8]) -> wire::Answer {
        let mut wire = wire::Wire::connect(self.address).await;
        wire.ask(line, headers, body).await
    }
}
