//! The listening socket: accepts, bounds the connections, and drains them at the end.

use crate::http::config::{Config, ConfigError};
use crate::http::connection::{self, PARTING_TIMEOUT, part, stopped};
use crate::http::front::Front;
use crate::http::problem::Problem;
use crate::http::request_id::RequestId;
use crate::http::router::router;
use crate::service::Service;
use axum::Router;
use proto::{Code, Error};
use raftstore::{Listener, Network, Stream, TcpNetwork};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinError, JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

/// How many connections beyond the limit are told so at once; still more are closed without a word.
const REFUSALS_MAX: usize = 64;

/// How long to wait after the system has refused to accept, for example because file descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why a front end cannot start.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process listens there. Choose another port, or stop that process.
    #[error("address is already in use: {0}")]
    InUse(String),
    /// The address is malformed, not this machine's, or not permitted.
    #[error("{source}")]
    Listen {
        /// The address as it was given.
        address: String,
        /// The system's reason, which names the address.
        source: io::Error,
    },
    /// A setting contradicts another or the node's limits.
    #[error("http configuration: {0}")]
    Config(#[from] ConfigError),
}

/// How a front end ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Every request in flight was answered.
    All,
    /// Time ran out; so many connections were cut off.
    CutOff(usize),
}

/// A front end that serves. Dropping it cuts every connection off; [`shutdown`](Self::shutdown) is the gentle way.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    accepting: JoinHandle<JoinSet<()>>,
}

impl Server {
    /// Listens on `address`, as `host:port`, and serves `service`. With port 0 the system chooses.
    ///
    /// # Errors
    /// [`BindError`]; nothing is left behind then.
    pub async fn bind(address: &str, config: Config, service: Arc<dyn Service>) -> Result<Self, BindError> {
        Self::bind_on(&TcpNetwork, address, config, service).await
    }

    /// Listens as [`bind`](Self::bind) does, on another network than this machine's; its hosts have IP addresses for
    /// names.
    ///
    /// # Errors
    /// [`BindError`]; nothing is left behind then.
    pub async fn bind_on(
        network: &dyn Network,
        address: &str,
        config: Config,
        service: Arc<dyn Service>,
    ) -> Result<Self, BindError> {
        config.validate(&service.limits())?;
        let refused = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => BindError::InUse(address.into()),
            _ => BindError::Listen { address: address.into(), source },
        };
        let listener = network.listen(address).await.map_err(refused)?;
        let unparsed = |error| refused(io::Error::new(io::ErrorKind::InvalidInput, error));
        let local = listener.local_address().parse().map_err(unparsed)?;
        let (stop, stopped) = watch::channel(false);
        let front = Arc::new(Front::new(config, service));
        let router = router(Arc::clone(&front));
        let accepting = tokio::spawn(accept(listener, front, router, stopped));
        tracing::info!("http listens on {local}");
        Ok(Self { address: local, stop, accepting })
    }

    /// The address that is listened on.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Stops accepting at once, lets requests in flight finish within `within`, then cuts off the rest.
    pub async fn shutdown(mut self, within: Duration) -> Drained {
        self.stop.send_replace(true);
        let mut connections = match (&mut self.accepting).await {
            Ok(connections) => connections,
            Err(error) => {
                tracing::error!("accepting ended early: {error}");
                return Drained::CutOff(0);
            }
        };
        let drain = async { while reap(connections.join_next().await) {} };
        if timeout(within, drain).await.is_ok() {
            return Drained::All;
        }
        let left = connections.len();
        connections.shutdown().await;
        Drained::CutOff(left)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Accepts until told to stop; hands back the connections that are still open.
async fn accept(
    mut listener: Box<dyn Listener>,
    front: Arc<Front>,
    router: Router,
    mut stop: watch::Receiver<bool>,
) -> JoinSet<()> {
    let open = Arc::new(Semaphore::new(front.config.connections_max));
    let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
    let mut connections = JoinSet::new();
    let for_connections = stop.clone();
    loop {
        tokio::select! {
            biased;
            () = stopped(&mut stop) => return connections,
            Some(ended) = connections.join_next() => {
                reap(Some(ended));
            }
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    tracing::trace!("accepted {peer}");
                    admit(stream, &front, &router, &open, &refusals, &for_connections, &mut connections);
                }
                Err(error) => {
                    tracing::warn!("cannot accept connections: {error}");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

/// Serves a connection, refuses it, or closes it without a word, by what there is room for.
fn admit(
    stream: Box<dyn Stream>,
    front: &Arc<Front>,
    router: &Router,
    open: &Arc<Semaphore>,
    refusals: &Arc<Semaphore>,
    stop: &watch::Receiver<bool>,
    connections: &mut JoinSet<()>,
) {
    if let Ok(permit) = Arc::clone(open).try_acquire_owned() {
        let (front, router, stop) = (Arc::clone(front), router.clone(), stop.clone());
        connections.spawn(async move {
            connection::serve(stream, front, router, stop).await;
            drop(permit);
        });
        return;
    }
    front.traffic.connection_refused();
    if let Ok(permit) = Arc::clone(refusals).try_acquire_owned() {
        connections.spawn(refuse(stream, permit, front.config.connections_max));
    }
}

/// Says 503 once the caller has begun to ask, so that it knows what the answer answers.
async fn refuse(mut stream: Box<dyn Stream>, permit: OwnedSemaphorePermit, connections_max: usize) {
    let asked = timeout(PARTING_TIMEOUT, stream.read(&mut [0; 1])).await;
    if let Ok(Ok(1..)) = asked {
        let message = format!("connections have reached their limit of {connections_max}");
        let problem = Problem::from(Error::new(Code::Unavailable, message));
        part(stream, &problem.into_message(RequestId::fresh())).await;
    }
    drop(permit);
}

/// Whether a connection ended; one that ended by a panic is reported and harms no other.
fn reap(ended: Option<Result<(), JoinError>>) -> bool {
    match ended {
        None => false,
        Some(Ok(())) => true,
        Some(Err(error)) => {
            tracing::error!("connection failed: {error}");
            true
        }
    }
}
