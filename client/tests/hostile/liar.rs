//! A cluster that answers whatever it was told to: what views and batches look like that are right, and calls
//! of every kind on what comes of wrong ones.

use crate::panics;
use bytes::Bytes;
use flotilla_client::{
    Client, Cluster, Config, Error, Operation, Page, Range, Request, Response, Transport, TransportError,
};
use futures_util::future::BoxFuture;
use proto::{
    Answer, BatchReply, Code, Epoch, GroupId, NodeId, Outcome, Record, Reply, Revision, ShardId, ShardSet,
    Version,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Builder;
use tokio::time::{sleep, timeout};

const DEADLINE: Duration = Duration::from_secs(2);

/// Longer than a call may take.
const SILENCE: Duration = Duration::from_secs(10);

/// Answers every question for the cluster's view with one thing, every batch with another.
#[derive(Clone, Debug)]
pub struct Liar {
    pub view: Response,
    pub batch: Response,
}

impl Transport for Liar {
    fn send<'a>(&'a self, request: Request<'a>) -> BoxFuture<'a, Result<Response, TransportError>> {
        Box::pin(async move {
            sleep(Duration::from_millis(1)).await;
            Ok(if request.body.is_none() { self.view.clone() } else { self.batch.clone() })
        })
    }
}

/// A response of status 200.
pub fn ok(body: &[u8]) -> Response {
    Response { status: 200, body: Bytes::copy_from_slice(body), ..Response::default() }
}

/// A cluster of two nodes and two groups.
pub const VIEW: &str = r#"{"cluster":"c","epoch":9,"shards":4,"limits":{"value_bytes_max":100},
    "nodes":[{"id":1,"http":"n1:1"},{"id":2,"http":"n2:1"}],
    "groups":[{"id":1,"leader":1,"term":3,"replicas":[1,2]},{"id":2,"leader":null,"term":1,"replicas":[2]}],
    "shard_groups":[[0,1,1],[2,3,2]]}"#;

/// A refusal of a whole batch that explains itself.
pub const PROBLEM: &str = r#"{"code":"no_leader","detail":"why","retryable":true,"outcome":"none"}"#;

/// What a node may answer for one operation, of each kind.
pub fn answers() -> Vec<Answer<'static>> {
    let (version, revision) = (Version(u64::MAX), Revision(3));
    let record = |key| Record { key, value: b"value", version, revision };
    let codes = [
        Code::NotFound,
        Code::VersionMismatch { current: Version(u64::MAX) },
        Code::SessionExpired,
        Code::SequenceOutOfWindow,
        Code::NotLeader { group: GroupId(1), leader: Some(NodeId(2)) },
        Code::NotLeader { group: GroupId(u64::MAX), leader: Some(NodeId(u64::MAX)) },
        Code::WrongGroup { shard: ShardId(u32::MAX), to: Some(GroupId(2)), epoch: Epoch(u64::MAX) },
        Code::Timeout,
    ];
    let refused = codes.into_iter().flat_map(|code| {
        [Outcome::None, Outcome::Unknown]
            .map(|outcome| Err(proto::Error { code: code.clone(), outcome, message: "m".into() }))
    });
    let mut all: Vec<Answer<'static>> = vec![
        Ok(Reply::Value { value: b"value", version, revision }),
        Ok(Reply::Written { version, revision, length: u64::MAX }),
        Ok(Reply::Deleted { revision }),
        Ok(Reply::Page { records: vec![record(b"a"), record(b"b")], more: true }),
        Ok(Reply::Page { records: vec![], more: true }),
        Ok(Reply::Share { shards: ShardSet::default(), records: vec![record(b"a")], more: false }),
    ];
    all.extend(refused);
    all
}

/// Replies to batches of one, of each kind.
pub fn replies() -> Vec<Vec<u8>> {
    answers()
        .into_iter()
        .map(|answer| proto::encode(&BatchReply { answers: vec![answer], lag_ms: 1 }))
        .collect()
}

/// What calls came to.
#[derive(Debug)]
pub struct Results {
    pub replies: Vec<Result<flotilla_client::Reply, Error>>,
    pub page: Result<Option<Page>, Error>,
    pub cluster: Result<Cluster, Error>,
}

/// Connects to a cluster that answers so, and where that succeeds makes a call of each kind. Everything ends
/// within its deadline, and nothing panics.
pub fn call(liar: &Liar) -> Result<Results, Error> {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
    let liar = Arc::new(liar.clone());
    panics::none_in(|| runtime.expect("a runtime can be had").block_on(converse(liar)))
}

async fn converse(liar: Arc<Liar>) -> Result<Results, Error> {
    let config =
        Config { seeds: vec!["n1:1".into()], deadline: DEADLINE, seed: Some(1), ..Config::default() };
    let connect = Client::builder().config(config).transport(liar).connect();
    let client = timeout(SILENCE, connect).await.expect("connecting ends")?;
    let operations = [
        Operation::get("k"),
        Operation::put("k", "value", Default::default()),
        Operation::append("l", "value", Default::default()),
        Operation::delete("m", Default::default()),
    ];
    let mut replies = Vec::new();
    // One after the other: batches of one are what the answers fit.
    for operation in operations {
        let mut reply = timeout(SILENCE, client.batch([operation])).await.expect("a call ends");
        replies.append(&mut reply);
    }
    let mut scan = client.scan(Range::default());
    let page = timeout(SILENCE, scan.next_page()).await.expect("a scan ends");
    let cluster = timeout(SILENCE, client.cluster()).await.expect("a question ends");
    Ok(Results { replies, page, cluster })
}
