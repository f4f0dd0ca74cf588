//! The HTTP front end as somebody uses it who sends whatever comes to mind. Also what fuzzing runs.

#[path = "../controller_rig/mod.rs"]
mod controller_rig;

use crate::panics;
use bytes::Bytes;
use controller_rig::born;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use kvserver::HttpConfig;
use kvserver::http::Server;
use kvserver::service::{
    Answer, Answers, BatchAnswer, Call, ClusterView, MetricsText, NodeStatus, Operation, Record, Reply,
    Service,
};
use proto::{
    ClusterMap, Code, ControllerChange, ControllerCommand, ControllerReply, Epoch, Error, Limits, NodeId,
    Revision, ShardMap, Version,
};
use raftstore::{Network, SimulatedNetwork};
use shardctrler::{Controller, ExecuteError, Plan};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

const AT: &str = "10.0.0.1:80";

/// Longer than the front end waits for anything.
const SILENCE: Duration = Duration::from_secs(120);

/// A node that answers at once: keys of an even length are there, and a scan finds two.
struct Node(Mutex<Controller>);

impl Node {
    fn new() -> Self {
        Self(Mutex::new(born(4)))
    }

    fn controller<T>(
        &self,
        ask: impl FnOnce(&mut Controller) -> Result<T, proto::ControllerError>,
    ) -> Result<T, ExecuteError> {
        Ok(ask(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))?)
    }
}

fn answer(operation: &Operation) -> Answer {
    let (version, revision) = (Version(1), Revision(1));
    let record = |key: &[u8]| Record {
        key: Bytes::copy_from_slice(key),
        value: Bytes::from_static(b"\xff value"),
        version,
        revision,
    };
    match operation {
        Operation::Get { key } if key.len() % 2 == 0 => {
            Ok(Reply::Value { value: Bytes::from_static(b"value"), version, revision })
        }
        Operation::Get { .. } => Err(Error::new(Code::NotFound, "key does not exist")),
        Operation::Put { value, .. } | Operation::Append { value, .. } => {
            Ok(Reply::Written { version, revision, length: value.len() as u64 })
        }
        Operation::Delete { .. } => Ok(Reply::Deleted { revision }),
        Operation::Scan { prefix, start, .. } => {
            let first = prefix.max(start);
            let second = [first, &b"\0"[..]].concat();
            Ok(Reply::Page { records: vec![record(first), record(&second)], more: true })
        }
    }
}

impl Service for Node {
    fn batch(&self, request: Bytes) -> BoxFuture<'_, Result<BatchAnswer, Error>> {
        async move {
            let batch: proto::BatchRequest<'_> =
                proto::decode(&request).map_err(|error| Error::new(Code::BadRequest, error.to_string()))?;
            let answers =
                batch.items.iter().map(|_| Err(Error::new(Code::NotFound, "nothing here"))).collect();
            let reply = Bytes::from(proto::encode(&proto::BatchReply { answers, lag_ms: 0 }));
            Ok(BatchAnswer { reply, epoch: Some(Epoch(1)), forwarded: 0 })
        }
        .boxed()
    }

    fn execute(&self, call: Call) -> BoxFuture<'_, Result<Answers, Error>> {
        let answers = call.operations.iter().map(answer).collect();
        async move { Ok(Answers { answers, lag_ms: 1, node: NodeId(1) }) }.boxed()
    }

    fn cluster_map(&self) -> Result<ClusterMap, Error> {
        self.controller(|controller| controller.cluster_map())
            .map_err(|error| Error::new(Code::Unavailable, error.to_string()))
    }

    fn shard_map(&self, epoch: Epoch, _deadline: Instant) -> BoxFuture<'_, Result<ShardMap, ExecuteError>> {
        let map = self.controller(move |controller| controller.shard_map(Some(epoch)));
        async move { map }.boxed()
    }

    fn change(
        &self,
        expect: Option<Epoch>,
        change: ControllerChange,
        _deadline: Instant,
    ) -> BoxFuture<'_, Result<ControllerReply, ExecuteError>> {
        let done =
            self.controller(move |controller| controller.execute(&ControllerCommand { expect, change }));
        async move { done }.boxed()
    }

    fn plan(
        &self,
        expect: Option<Epoch>,
        change: ControllerChange,
        _deadline: Instant,
    ) -> BoxFuture<'_, Result<Plan, ExecuteError>> {
        let plan = self.controller(move |controller| {
            let moves = controller.plan(&ControllerCommand { expect, change })?;
            Ok(Plan { epoch: controller.epoch(), moves })
        });
        async move { plan }.boxed()
    }

    fn cluster(&self) -> ClusterView {
        ClusterView { cluster: "hostile".into(), shards: 16, ..ClusterView::default() }
    }

    fn status(&self) -> NodeStatus {
        NodeStatus { id: 1, cluster: "hostile".into(), ..NodeStatus::default() }
    }

    fn readiness(&self) -> Result<(), String> {
        Ok(())
    }

    fn metrics(&self, _into: &mut MetricsText) {}

    fn offload(&self, work: BoxFuture<'static, ()>) -> BoxFuture<'static, ()> {
        work
    }

    fn shards(&self) -> u32 {
        16
    }

    fn limits(&self) -> Limits {
        Limits::default()
    }
}

/// Sends `said` on one connection, and returns what is answered until the front end closes it. Nothing may
/// panic, and nothing may be an error of the front end's own making; the next caller is served.
pub fn ask(said: &[u8]) -> Vec<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    panics::none_in(|| {
        runtime.expect("a runtime can be had").block_on(async {
            raftstore::seed(1);
            let network = SimulatedNetwork::new();
            let (own, caller) = (network.host("10.0.0.1"), network.host("10.0.0.2"));
            let server = Server::bind_on(&*own, AT, HttpConfig::default(), Arc::new(Node::new())).await;
            let server = server.expect("the address is free");
            let heard = exchange(&*caller, said).await;
            let own_fault = heard.windows(13).any(|bytes| bytes == b"HTTP/1.1 500 ");
            assert!(!own_fault, "{}", String::from_utf8_lossy(&heard));
            let next =
                exchange(&*caller, b"GET /healthz HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").await;
            assert!(next.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&next));
            server.shutdown(SILENCE).await;
            heard
        })
    })
}

async fn exchange(caller: &dyn Network, said: &[u8]) -> Vec<u8> {
    let mut stream = caller.connect(AT).await.expect("the front end listens");
    // Whoever has heard enough closes; what was answered before is read below.
    if let Ok(Ok(())) = timeout(SILENCE, stream.write_all(said)).await {
        drop(stream.flush().await);
    }
    let mut heard = Vec::new();
    while let Ok(Ok(1..)) = timeout(SILENCE, stream.read_buf(&mut heard)).await {}
    heard
}

/// Requests as they are sent, one of each kind.
pub fn samples() -> Vec<Vec<u8>> {
    let with = |line: &str, headers: &str, body: &[u8]| {
        let length = body.len();
        let head = format!("{line} HTTP/1.1\r\nhost: h\r\n{headers}content-length: {length}\r\n\r\n");
        [head.as_bytes(), body].concat()
    };
    let json = "content-type: application/json\r\n";
    let batch = br#"{"operations":[{"op":"put","key":"a","value":"1"},{"op":"get","key":"/w==","b64":true},
        {"op":"cas","key":"a","value":"x","version":7},{"op":"delete","key":"a","version":2}]}"#;
    let message = proto::encode(&proto::BatchRequest {
        deadline_ms: 1_000,
        consistency: proto::Consistency::Linearizable,
        request_id: 1,
        items: vec![proto::Item { stamp: None, operation: proto::Operation::Get { key: b"a" } }],
    });
    vec![
        with("GET /v1/kv/a%2fbc?consistency=stale&max-lag=7&timeout=100", "if-none-match: \"1\"\r\n", b""),
        with("HEAD /v1/kv/ab", "if-match: \"1\"\r\n", b""),
        with("PUT /v1/kv/%ff%00", "if-match: \"7\"\r\nidempotency-key: k-1\r\n", b"value"),
        with("POST /v1/kv/ab", "if-none-match: *\r\n", b"more"),
        with("DELETE /v1/kv/ab?timeout=60000", "", b""),
        with("GET /v1/kv?prefix=a&start=ab&limit=2&keys-only", "", b""),
        with("GET /v1/kv?prefix=a&cursor=AAAA", "", b""),
        with("POST /v1/batch?consistency=follower", json, batch),
        with("POST /v1/batch", "content-type: application/vnd.flotilla.batch\r\n", &message),
        with("POST /v1/cluster/shards/3/move", json, br#"{"to":2}"#),
        with("POST /v1/cluster/groups", json, br#"{"count":1}"#),
        with("POST /v1/cluster/plan", json, br#"{"add_groups":1}"#),
        with("PUT /v1/cluster/moves", json, br#"{"paused":true}"#),
        with("PUT /v1/cluster/nodes", json, br#"{"dead_after_ms":5000}"#),
        with("POST /v1/cluster/nodes/4/drain", "if-match: \"1\"\r\n", b""),
        with("GET /v1/cluster/map?epoch=1", "", b""),
        with("GET /metrics", "accept: */*\r\nflotilla-request-id: 0\r\n", b""),
        b"PUT /v1/kv/ab HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n5\r\nvalue\r\n0\r\n\r\n"
            .to_vec(),
    ]
}
