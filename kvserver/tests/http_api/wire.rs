//! A client that says exactly what it is told, byte by byte: no pooling, no normalised paths, no retries.

use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A test that waits longer hangs: it fails here instead.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) async fn patiently<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("this happens in time")
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The code of a problem, after checking that it is a whole one and agrees with the status line and headers.
    pub(crate) fn code(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem = self.json();
        let code = problem["code"].as_str().unwrap().to_owned();
        assert_eq!(problem["type"], format!("urn:flotilla:error:{code}"));
        assert_eq!(problem["status"], self.status);
        assert_eq!(problem["request_id"].as_str(), self.header("flotilla-request-id"));
        assert!(problem["retryable"].is_boolean() && problem["title"].is_string());
        assert!(!problem["detail"].as_str().unwrap().is_empty());
        assert!(["none", "unknown"].contains(&problem["outcome"].as_str().unwrap()));
        assert_eq!(self.header("retry-after").is_some(), [429, 503].contains(&self.status), "{self:?}");
        code
    }

    pub(crate) fn detail(&self) -> String {
        self.json()["detail"].as_str().unwrap().to_owned()
    }
}

pub(crate) struct Wire {
    pub(crate) stream: TcpStream,
    buffer: Vec<u8>,
}

impl Wire {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new() }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        patiently(self.stream.write_all(bytes.as_ref())).await.unwrap();
    }

    /// A request with its length and a host.
    pub(crate) fn request(line: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
        let mut text = format!("{line} HTTP/1.1\r\nhost: test\r\n");
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() || line.starts_with('P') {
            text.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        [text.as_bytes(), b"\r\n", body].concat()
    }

    pub(crate) async fn ask(&mut self, line: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.send(Self::request(line, headers, body)).await;
        self.answer(line.starts_with("HEAD ")).await
    }

    /// The next answer; one to `HEAD` has no body whatever its length says.
    pub(crate) async fn answer(&mut self, to_head: bool) -> Answer {
        let end = loop {
            if let Some(at) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            assert!(
                self.fill().await > 0,
                "closed within a head: {:?}",
                String::from_utf8_lossy(&self.buffer)
            );
        };
        let head = String::from_utf8(self.buffer.drain(..end).collect()).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: Vec<_> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        let mut answer = Answer { status, headers, body: Vec::new() };
        let bodiless = to_head || [100, 204, 304].contains(&status);
        let length = match answer.header("content-length") {
            Some(length) if !bodiless => length.parse().unwrap(),
            _ => 0,
        };
        while self.buffer.len() < length {
            assert!(self.fill().await > 0, "closed within a body");
        }
        answer.body = self.buffer.drain(..length).collect();
        answer
    }

    /// Waits for the other side to close cleanly, with nothing left to say.
    pub(crate) async fn closed(&mut self) {
        assert_eq!(self.fill().await, 0, "{:?}", String::from_utf8_lossy(&self.buffer));
        assert!(self.buffer.is_empty());
    }

    async fn fill(&mut self) -> usize {
        patiently(self.stream.read_buf(&mut self.buffer)).await.unwrap()
    }
}
