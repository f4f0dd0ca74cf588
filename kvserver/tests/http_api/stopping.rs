//! Starting and stopping.

use crate::Stand;
use crate::fake::Fake;
use crate::wire::{Wire, patiently};
use kvserver::HttpConfig;
use kvserver::http::{BindError, Drained, Server};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;

const LONG: Duration = Duration::from_secs(60);

/// A stopping front end finishes what is in flight, closes what rests and takes nothing new.
#[tokio::test]
async fn requests_in_flight_are_finished() {
    let stand = Stand::new().await;
    let mut idle = Wire::connect(stand.address).await;
    assert_eq!(idle.ask("GET /healthz", &[], b"").await.status, 200);
    stand.fake.hold();
    let mut busy = Wire::connect(stand.address).await;
    let mut pipelined = Wire::request("PUT /v1/kv/k", &[], b"x");
    pipelined.extend(Wire::request("PUT /v1/kv/second", &[], b"x"));
    busy.send(pipelined).await;
    stand.fake.holds(1).await;
    let (address, fake) = (stand.address, stand.fake);
    let stopping = tokio::spawn(stand.server.shutdown(LONG));
    idle.closed().await;
    patiently(async { while TcpStream::connect(address).await.is_ok() {} }).await;
    fake.release();
    let answer = busy.answer(false).await;
    assert_eq!((answer.status, answer.header("connection")), (201, Some("close")));
    assert_eq!(patiently(stopping).await.unwrap(), Drained::All);
    assert_eq!(fake.keys(), ["k"]);
}

/// What does not finish in time is cut off, and counted.
#[tokio::test]
async fn time_runs_out() {
    let stand = Stand::new().await;
    stand.fake.hold();
    let mut busy = Wire::connect(stand.address).await;
    busy.send(Wire::request("PUT /v1/kv/k", &[], b"x")).await;
    stand.fake.holds(1).await;
    let drained = patiently(stand.server.shutdown(Duration::from_millis(10))).await;
    assert_eq!(drained, Drained::CutOff(1));
    busy.closed().await;
    assert_eq!(stand.fake.calls(), 0);
}

/// Dropping a front end ends it at once, and the port is free again.
#[tokio::test]
async fn dropped() {
    let stand = Stand::new().await;
    let mut wire = Wire::connect(stand.address).await;
    assert_eq!(wire.ask("GET /healthz", &[], b"").await.status, 200);
    let address = stand.address.to_string();
    drop(stand.server);
    wire.closed().await;
    let again = async {
        loop {
            let fake = Arc::new(Fake::default());
            match Server::bind(&address, HttpConfig::default(), fake).await {
                Ok(server) => break server,
                Err(BindError::InUse(_)) => tokio::task::yield_now().await,
                Err(other) => panic!("{other}"),
            }
        }
    };
    assert_eq!(patiently(again).await.local_addr().to_string(), address);
}

/// A port that is taken, an address that is none and a setting that cannot be are each named.
#[tokio::test]
async fn cannot_start() {
    let stand = Stand::new().await;
    let taken = stand.address.to_string();
    let bind = async |address: &str, config: HttpConfig| {
        Server::bind(address, config, Arc::new(Fake::default())).await.unwrap_err()
    };
    let error = bind(&taken, HttpConfig::default()).await;
    assert!(matches!(&error, BindError::InUse(address) if *address == taken), "{error}");
    assert_eq!(error.to_string(), format!("address is already in use: {taken}"));
    let error = bind("nowhere", HttpConfig::default()).await;
    assert!(matches!(error, BindError::Listen { .. }) && error.to_string().contains("nowhere"), "{error}");
    let error = bind("127.0.0.1:0", HttpConfig { connections_max: 0, ..HttpConfig::default() }).await;
    assert!(
        matches!(error, BindError::Config(_)) && error.to_string().contains("connections_max"),
        "{error}"
    );
}
