//! The real transport against a real HTTP server: headers, bodies, statuses, and which failures count as sent.

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use flotilla_client::{
    BATCH_CONTENT_TYPE, Client, Config, DEADLINE_MAX, EPOCH_HEADER, Error, FORWARDED_HEADER,
    REQUEST_ID_HEADER,
};
use proto::{BatchReply, BatchRequest, Operation, Reply, Revision, Version};
use std::time::Duration;
use tokio::net::TcpListener;

async fn view(port: u16) -> String {
    format!(
        r#"{{"cluster":"stub","shards":8,"nodes":[{{"id":1,"http":"127.0.0.1:{port}"}}],
            "groups":[{{"id":1,"leader":1,"term":1,"replicas":[1]}}],"shard_groups":[[0,7,1]]}}"#
    )
}

/// Answers puts with the value's length, after checking what a node would check.
async fn batch(headers: HeaderMap, body: Bytes) -> impl IntoResponse {
    let request: BatchRequest<'_> = proto::decode(&body).expect("the client encodes batches");
    assert_eq!(headers["content-type"], BATCH_CONTENT_TYPE);
    assert_eq!(headers[REQUEST_ID_HEADER], format!("{:032x}", request.request_id));
    assert!(request.deadline_ms > 0);
    let answers = request.items.iter().map(|item| match item.operation {
        Operation::Put { key: b"refused", .. } => {
            Err(proto::Error::new(proto::Code::ValueTooLarge, "value is longer than 3 bytes: 4"))
        }
        Operation::Put { value, .. } => {
            Ok(Reply::Written { version: Version(1), revision: Revision(1), length: value.len() as u64 })
        }
        ref other => panic!("unexpected {other:?}"),
    });
    let reply = proto::encode(&BatchReply { answers: answers.collect(), lag_ms: 0 });
    let headers = [("content-type", BATCH_CONTENT_TYPE), (EPOCH_HEADER, "9"), (FORWARDED_HEADER, "1")];
    (StatusCode::OK, headers, reply)
}

async fn serve() -> (u16, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
    let port = listener.local_addr().expect("a bound socket has an address").port();
    let router = Router::new().route("/v1/cluster", get(move || view(port))).route("/v1/batch", post(batch));
    let server =
        tokio::spawn(async move { axum::serve(listener, router).await.expect("serves until it is aborted") });
    (port, server)
}

/// Calls travel over HTTP and back, and a server that is gone is a refusal without effect.
#[tokio::test]
async fn over_real_http() {
    let (port, server) = serve().await;
    let client = Client::connect([format!("http://127.0.0.1:{port}/")]).await.unwrap();
    assert_eq!(client.put("k", "value").await.unwrap().length, 5);
    let puts =
        (0..200).map(|number| flotilla_client::Operation::put(format!("{number}"), "v", Default::default()));
    assert!(client.batch(puts).await.iter().all(Result::is_ok));
    let error = client.put("refused", "v").await.unwrap_err();
    assert_eq!(error.to_string(), "value_too_large: value is longer than 3 bytes: 4");
    server.abort();
    assert!(server.await.unwrap_err().is_cancelled());
    let hasty = client.with_deadline(Duration::from_millis(500)).unwrap();
    // A pooled connection may still be open on the first try, so that it counts as sent.
    let error = hasty.get("k").await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
}

/// A port that nobody listens on refuses the connection: nothing was sent, and the error names every node that was
/// tried with its reason.
#[tokio::test]
async fn a_closed_port_is_not_sent() {
    let (first, second) = (TcpListener::bind("127.0.0.1:0"), TcpListener::bind("127.0.0.1:0"));
    let closed = [first.await.unwrap(), second.await.unwrap()]
        .map(|listener| listener.local_addr().unwrap().to_string());
    let connect = Client::builder().seeds(closed.clone()).deadline(Duration::from_millis(300)).connect();
    let error = connect.await.unwrap_err();
    let Error::Unavailable { last, .. } = error else { panic!("{error}") };
    let wanted = format!("{}: not sent: cannot connect: Connection refused", closed.join(", "));
    assert!(last.starts_with(&wanted), "{last}");
}

/// Who would rather be told at once does not wait where every seed refuses, however much time there is; where one may
/// still answer, it is asked up to the deadline.
#[tokio::test]
async fn nobody_is_waited_for_where_all_refuse() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let listens = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let connect = |seeds: Vec<String>, deadline: Duration| {
        let config = Config { seeds, deadline, awaits_seeds: false, ..Config::default() };
        Client::builder().config(config).connect()
    };
    let told = async |seeds, deadline| match connect(seeds, deadline).await.unwrap_err() {
        Error::Unavailable { attempts, last } => (attempts, last),
        error => panic!("{error}"),
    };
    let (attempts, last) = told(vec![closed.clone()], DEADLINE_MAX).await;
    assert_eq!(attempts, 1, "{last}");
    assert!(last.contains("Connection refused"), "{last}");
    let silent = listens.local_addr().unwrap().to_string();
    let (_, last) = told(vec![closed, silent.clone()], Duration::from_millis(300)).await;
    assert!(
        last.contains("Connection refused") && last.contains(&format!("{silent}: no answer yet")),
        "{last}"
    );
}
