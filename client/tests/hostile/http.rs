//! The client's own transport, and a server that writes whatever comes to mind.

use crate::damage::damaged;
use crate::liar::{PROBLEM, VIEW};
use crate::memory::Bound;
use crate::panics;
use flotilla_client::{Client, Config};
use proptest::prelude::*;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::Builder;

/// What an HTTP client takes with its buffers, and for each byte that is answered.
const BOUND: Bound = Bound { own: 4 << 20, each: 256 };

/// Short, for a client asks again until then where it cannot make sense of what it heard.
const DEADLINE: Duration = Duration::from_millis(40);

fn answer(head: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn samples() -> Vec<Vec<u8>> {
    let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nvalue\r\nffffffffffffffff\r\n";
    vec![
        answer("200 OK\r\nflotilla-epoch: 9\r\nflotilla-forwarded: 1", VIEW.as_bytes()),
        answer("429 Too Many Requests\r\nretry-after: 18446744073709551615", PROBLEM.as_bytes()),
        answer("200 OK\r\nflotilla-epoch: 18446744073709551616\r\nflotilla-forwarded: -1", b"{}"),
        chunked.to_vec(),
        b"HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551615\r\n\r\n{".to_vec(),
        b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n".to_vec(),
    ]
}

/// Connects to a server that answers every connection so, and reads a key where that succeeds. What it comes
/// to is the caller's to judge; nothing may panic.
fn talk(said: &[u8]) -> bool {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime can be had");
    panics::none_in(|| runtime.block_on(converse(said)))
}

async fn converse(said: &[u8]) -> bool {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
    let address = listener.local_addr().expect("a bound socket has an address").to_string();
    let serve = async {
        loop {
            let (mut stream, _) = listener.accept().await.expect("a listener accepts");
            let mut asked = [0; 1 << 10];
            // Whoever goes away before the end of the answer has heard enough.
            if let Ok(1..) = stream.read(&mut asked).await
                && stream.write_all(said).await.is_ok()
            {
                drop(stream.shutdown().await);
            }
        }
    };
    let use_it = async {
        let (seeds, deadline) = (vec![address], DEADLINE);
        let (attempt_timeout, connect_timeout) = (deadline, deadline);
        let config =
            Config { seeds, deadline, attempt_timeout, connect_timeout, seed: Some(1), ..Config::default() };
        let Ok(client) = Client::builder().config(config).connect().await else { return false };
        client.get("k").await.is_err()
    };
    tokio::select! {
        never = serve => never,
        connected = use_it => connected,
    }
}

/// The first sample is a view that is taken, though what its node says of keys makes no sense.
#[test]
fn the_right_view_is_taken() {
    let view = samples().swap_remove(0);
    assert!(BOUND.hold(&view, || talk(&view)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, failure_persistence: None, ..ProptestConfig::default() })]

    /// A server that answers with any bytes, or with good ones that were damaged, is given up in time.
    #[test]
    fn damaged_responses(said in prop_oneof![
        1 => prop::collection::vec(any::<u8>(), 0..200),
        4 => damaged(samples()),
    ]) {
        BOUND.hold(&said, || talk(&said));
    }
}
