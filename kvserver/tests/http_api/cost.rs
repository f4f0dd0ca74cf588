//! What a request costs the front end. A measurement, to be read rather than passed.

use crate::Stand;
use crate::wire::Wire;
use std::sync::mpsc;
use std::time::Duration;

const CONNECTIONS: usize = 16;
const REQUESTS: usize = 10_000;

/// Nanoseconds that this thread has spent on a processor.
fn busy_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

/// Prints the processor time of the front end, with the fake behind it and the kernel's share, for each request.
#[test]
#[ignore = "a measurement: run it alone, in release, with --nocapture"]
fn cost_of_a_request() {
    for (name, line, body) in
        [("PUT", "PUT /v1/kv/bench/key", &[7; 256][..]), ("GET", "GET /v1/kv/bench/key", b"")]
    {
        let (started, starts) = mpsc::channel();
        let (finish, finished) = tokio::sync::oneshot::channel::<()>();
        let serve = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let stand = Stand::new().await;
                stand.fake.state.lock().unwrap().forgets = true;
                let before = busy_ns();
                started.send(stand.address).unwrap();
                finished.await.unwrap();
                let spent = busy_ns() - before;
                stand.server.shutdown(Duration::ZERO).await;
                spent
            })
        };
        let server = std::thread::Builder::new().name("front-end".into()).spawn(serve).unwrap();
        let address = starts.recv().unwrap();
        let clients = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        clients.block_on(async {
            let mut connections = tokio::task::JoinSet::new();
            for _ in 0..CONNECTIONS {
                connections.spawn(async move {
                    let mut wire = Wire::connect(address).await;
                    let request = Wire::request(line, &[], body);
                    for _ in 0..REQUESTS {
                        wire.send(&request).await;
                        let status = wire.answer(false).await.status;
                        assert!([200, 201, 404].contains(&status), "{status}");
                    }
                });
            }
            while let Some(ended) = connections.join_next().await {
                ended.unwrap();
            }
        });
        finish.send(()).unwrap();
        let spent = server.join().unwrap();
        println!(
            "{name}: {:.1} µs of processor a request",
            spent as f64 / 1e3 / (CONNECTIONS * REQUESTS) as f64
        );
    }
}
