//! Three nodes of etcd, and as much of its gRPC interface as is needed: the leader is asked directly, over several
//! connections.

mod wire;

use super::CONNECTIONS;
use super::http::{Dialect, Gateway};
use super::store::{Doors, Native};
use crate::cluster::NODES;
use crate::ports;
use crate::servers::{Program, START_TIME, Servers};
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::time::Duration;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;
use wire::{PutRequest, PutResponse, RangeRequest, RangeResponse, StatusRequest, StatusResponse};

/// How long a connection may take to be made.
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// Its history of a long run of puts is to fit in: by default it would refuse writes beyond 2 GiB.
const QUOTA_BYTES: &str = "8589934592";

/// What to do where it is missing.
const ADVICE: &str = "install etcd 3.4 or newer (on Debian: etcd-server), name it with --etcd PATH, or leave it out with --vs redis";

/// The nodes, as they were started.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) pids: Vec<u32>,
    /// Where they answer clients, `host:port`.
    clients: Vec<String>,
}

impl Cluster {
    /// Starts the nodes, and waits until one leads.
    pub(super) async fn start(servers: &mut Servers, executable: &Path, dir: &Path) -> Result<Self> {
        let ports: [u16; 2 * NODES] = ports::free()?;
        let (peers, clients) = ports.split_at(NODES);
        let url = |port: &u16| format!("http://127.0.0.1:{port}");
        let member = |(index, port): (usize, &u16)| format!("etcd-{}={}", index + 1, url(port));
        let members: Vec<String> = peers.iter().enumerate().map(member).collect();
        let members = members.join(",");
        let mut pids = Vec::new();
        for (index, (peer, client)) in peers.iter().zip(clients).enumerate() {
            let name = format!("etcd-{}", index + 1);
            let (peer, client, data) = (url(peer), url(client), dir.join(&name));
            let text = [
                ["--name", &name],
                ["--initial-cluster", &members],
                ["--initial-cluster-state", "new"],
                ["--initial-advertise-peer-urls", &peer],
                ["--listen-peer-urls", &peer],
                ["--advertise-client-urls", &client],
                ["--listen-client-urls", &client],
                ["--quota-backend-bytes", QUOTA_BYTES],
                ["--log-level", "warn"],
            ];
            let mut arguments: Vec<_> = text.concat().into_iter().map(Into::into).collect();
            arguments.extend(["--data-dir".into(), data.into()]);
            pids.push(servers.start(Program { name, path: executable, arguments, advice: ADVICE })?);
        }
        let cluster =
            Self { pids, clients: clients.iter().map(|port| format!("127.0.0.1:{port}")).collect() };
        let leader = async || cluster.leader().await;
        servers.until("etcd has a leader", START_TIME, leader).await?;
        Ok(cluster)
    }

    /// Where the leader answers, and its version.
    async fn leader(&self) -> Result<(&str, String)> {
        let mut leader = None;
        for address in &self.clients {
            let status: StatusResponse =
                unary(&connection(address).await?, "/etcdserverpb.Maintenance/Status", StatusRequest {})
                    .await?;
            let member = status.header.context("a status without a header")?.member_id;
            if status.leader == member {
                leader = Some((address.as_str(), status.version));
            }
        }
        leader.context("nobody leads etcd")
    }

    pub(super) async fn connect(&self) -> Result<Doors> {
        let (leader, version) = self.leader().await?;
        let mut natives = Vec::new();
        for _ in 0..CONNECTIONS {
            natives.push(Native::Etcd(Kv { channel: connection(leader).await? }));
        }
        Ok(Doors {
            natives,
            http: Some(Gateway { dialect: Dialect::Etcd, address: leader.to_owned() }),
            about: format!(
                "{version}, {NODES} nodes, default settings but a quota of 8 GiB; gRPC over {CONNECTIONS} connections to the leader, linearizable reads; HTTP: the leader's JSON gateway"
            ),
        })
    }
}

async fn connection(address: &str) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?.connect_timeout(CONNECT_TIME);
    Ok(endpoint.connect().await?)
}

/// Its keys and values, over one connection.
#[derive(Clone)]
pub(super) struct Kv {
    channel: Channel,
}

impl Kv {
    pub(super) async fn put(&self, key: &str, value: &[u8]) -> Result<()> {
        let request = PutRequest { key: key.into(), value: value.into() };
        let answer: PutResponse = unary(&self.channel, "/etcdserverpb.KV/Put", request).await?;
        if answer.header.is_none() {
            bail!("etcd answered a put with nothing");
        }
        Ok(())
    }

    /// Whether the key is there; linearizable, as everything that is not asked for otherwise.
    pub(super) async fn get(&self, key: &str) -> Result<bool> {
        let request = RangeRequest { key: key.into(), serializable: false };
        let answer: RangeResponse = unary(&self.channel, "/etcdserverpb.KV/Range", request).await?;
        Ok(!answer.kvs.is_empty())
    }
}

async fn unary<Q, A>(channel: &Channel, path: &'static str, request: Q) -> Result<A>
where
    Q: prost::Message + 'static,
    A: prost::Message + Default + 'static,
{
    let path = hyper::Uri::from_static(path).into_parts().path_and_query.context("a method has a path")?;
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await?;
    let answer = grpc.unary(tonic::Request::new(request), path, ProstCodec::default()).await?;
    Ok(answer.into_inner())
}
