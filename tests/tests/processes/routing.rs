//! The Rust client on a real cluster whose shards move and whose nodes join: straight to the leaders, by its
//! own map.

use client::{
    BATCH_CONTENT_TYPE, Client, EPOCH_HEADER, FORWARDED_HEADER, Operation, Request, Response, Transport,
    TransportError,
};
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tests::{Cluster, Shape, eventually, http, run};

/// How many keys are written: several for every shard.
const KEYS: usize = 120;

/// Real HTTP that counts what nodes say they had to send on.
#[derive(Debug, Default)]
struct Counting {
    forwarded: AtomicU64,
}

fn number<T: FromStr>(response: &reqwest::Response, header: &str) -> Option<T> {
    response.headers().get(header).and_then(|value| value.to_str().ok()?.parse().ok())
}

impl Transport for Counting {
    fn send<'a>(
        &'a self,
        request: Request<'a>,
    ) -> Pin<Box<dyn Future<Output = Result<Response, TransportError>> + Send + 'a>> {
        Box::pin(async move {
            let url = format!("http://{}{}", request.address, request.path);
            let asked = match request.body {
                Some(body) => http().post(url).header("content-type", BATCH_CONTENT_TYPE).body(body),
                None => http().get(url),
            };
            // Nothing is known of a request that failed: whatever its reason, it may have been sent.
            let unknown = |error: reqwest::Error| TransportError::NoAnswer(error.to_string());
            let response = asked.timeout(request.timeout).send().await.map_err(unknown)?;
            let (status, epoch) = (response.status().as_u16(), number(&response, EPOCH_HEADER));
            let forwarded = number(&response, FORWARDED_HEADER).unwrap_or(0);
            self.forwarded.fetch_add(u64::from(forwarded), Ordering::Relaxed);
            let body = response.bytes().await.map_err(unknown)?;
            Ok(Response { status, retry_after: None, epoch, forwarded, body })
        })
    }
}

fn key(number: usize) -> String {
    format!("key{number:03}")
}

/// Gets every key once, and returns how many of these requests took a detour.
async fn detours(client: &Client, counting: &Counting) -> u64 {
    let before = counting.forwarded.load(Ordering::Relaxed);
    for got in client.batch((0..KEYS).map(|number| Operation::get(key(number)))).await {
        got.expect("a cluster that is well answers");
    }
    counting.forwarded.load(Ordering::Relaxed) - before
}

async fn operate(cluster: &Cluster, command: &[&str]) {
    let done = run([command, &["--nodes", &cluster.seeds().join(",")]].concat()).await;
    assert_eq!(done.code(), Some(0), "{command:?}: {}", done.stderr);
}

/// Waits until all shards are where they are to be, and the client's requests go straight to their leaders.
async fn settle(cluster: &Cluster, client: &Client, counting: &Counting) {
    operate(cluster, &["shard", "wait", "--for", "50s"]).await;
    eventually("no request takes a detour any more", async || {
        (detours(client, counting).await == 0).then_some(())
    })
    .await;
}

/// While groups come and go, the client is answered every call and every append takes effect once; each time
/// the shards are at rest again its calls go straight to the leaders. It was connected before a node joined,
/// and knows of it.
#[tokio::test(flavor = "multi_thread")]
async fn the_client_follows_the_map() {
    let settings = vec!["shards=24".to_owned()];
    let mut cluster = Cluster::start(Shape { groups: 2, settings, ..Shape::default() }).await;
    let counting = Arc::new(Counting::default());
    let client = Client::builder().seeds(cluster.seeds()).transport(counting.clone());
    let client = client.connect().await.expect("the cluster is ready");
    for done in
        client.batch((0..KEYS).map(|number| Operation::put(key(number), "", Default::default()))).await
    {
        done.expect("the cluster is ready");
    }
    settle(&cluster, &client, &counting).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..4_usize)
        .map(|writer| {
            let (client, stop) = (client.clone(), stop.clone());
            tokio::spawn(async move {
                let mut rounds = 0;
                while !stop.load(Ordering::Relaxed) {
                    for number in (writer..KEYS).step_by(4) {
                        let appended = client.append(key(number), format!("{rounds},")).await;
                        appended.expect("calls do not notice moves");
                    }
                    rounds += 1;
                }
                rounds
            })
        })
        .collect();
    operate(&cluster, &["group", "add"]).await;
    operate(&cluster, &["shard", "wait", "--for", "50s"]).await;
    operate(&cluster, &["group", "remove", "1"]).await;
    operate(&cluster, &["shard", "wait", "--for", "50s"]).await;
    stop.store(true, Ordering::Relaxed);
    for (writer, rounds) in writers.into_iter().enumerate() {
        let rounds: usize = rounds.await.expect("no call failed");
        let all: String = (0..rounds).map(|round| format!("{round},")).collect();
        for number in (writer..KEYS).step_by(4) {
            let value = client.get(key(number)).await.expect("answered").expect("written");
            assert_eq!(value.bytes, all, "{}", key(number));
        }
    }
    settle(&cluster, &client, &counting).await;
    cluster.join(4, &[1]).await;
    eventually("the client has heard of the new node", async || {
        let view = client.cluster().await.expect("answered");
        view.nodes.iter().any(|node| node.id.0 == 4).then_some(())
    })
    .await;
}
