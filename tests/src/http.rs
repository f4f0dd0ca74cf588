//! HTTP as the tests speak it: straight to the node, and never for ever.

use std::sync::OnceLock;
use std::time::Duration;

/// The time for one answer: longer than any node may take, and short enough for another look within
/// [`PATIENCE`](crate::PATIENCE).
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// The one client of all tests of a process. It goes through no proxy, whatever the environment says, and keeps no
/// connections: they would outlive the node, and the test's runtime, that they belong to.
///
/// # Panics
/// If there can be none.
pub fn http() -> &'static reqwest::Client {
    static HTTP: OnceLock<reqwest::Client> = OnceLock::new();
    HTTP.get_or_init(|| {
        let client = reqwest::Client::builder().no_proxy().timeout(ANSWER_MAX).pool_max_idle_per_host(0);
        client.build().expect("a client without certificates can be built")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::process::{Command, Stdio};

    /// A node that takes connections and never answers is no answer; the paused clock makes the wait short.
    #[tokio::test(start_paused = true)]
    async fn silence_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let error = http().get(format!("http://{address}/")).send().await.expect_err("nobody answers");
        assert!(error.is_timeout(), "{error}");
    }

    /// A proxy in the environment is passed by. The variable is set for a process of its own: this very test.
    #[tokio::test]
    async fn no_proxy_is_asked() {
        if let Ok(address) = std::env::var("TESTS_ASK") {
            let answer = http().get(format!("http://{address}/")).send().await.expect("answered by the node");
            assert_eq!(answer.status(), 204);
            return;
        }
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address").to_string();
        let mut asks = Command::new(std::env::current_exe().expect("a running test knows its executable"));
        let mut asks = asks
            .args(["--exact", "--nocapture", "http::tests::no_proxy_is_asked"])
            // Its result line is none of this run's results.
            .stdout(Stdio::null())
            .env("TESTS_ASK", &address)
            .env("http_proxy", "http://127.0.0.1:9")
            .spawn()
            .expect("the test can be started");
        listener.set_nonblocking(true).expect("a socket of ours");
        let mut node = crate::eventually("the node is asked, or the asking has ended", || {
            let ended = asks.try_wait().expect("a child of ours can be waited for");
            assert!(ended.is_none(), "the node was not asked: {ended:?}");
            std::future::ready(listener.accept().ok())
        })
        .await
        .0;
        node.set_nonblocking(false).expect("a socket of ours");
        assert!(node.read(&mut [0; 1024]).expect("a request") > 0);
        node.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").expect("the asker waits");
        assert!(asks.wait().expect("a child of ours can be waited for").success());
    }
}
