//! Single requests over plain HTTP/1.1, the same way to each system: connections that are kept, one request on its way on
//! each, nothing gathered.

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use std::pin::pin;
use tokio::net::TcpStream;

/// Which paths and bodies a system understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// The key in the path, the value as the body.
    Flotilla,
    /// Both as base64 in JSON.
    Etcd,
}

/// Where a system speaks HTTP.
#[derive(Clone, Debug)]
pub(super) struct Gateway {
    pub(super) dialect: Dialect,
    /// `host:port`.
    pub(super) address: String,
}

impl Gateway {
    /// A connection of its own.
    pub(super) async fn connect(&self) -> Result<Connection> {
        let context = || format!("cannot connect to {}", self.address);
        let stream = TcpStream::connect(&self.address).await.with_context(context)?;
        stream.set_nodelay(true)?;
        let (sender, wire) = handshake(TokioIo::new(stream)).await.with_context(context)?;
        Ok(Connection { gateway: self.clone(), sender, wire: Some(Box::new(wire)) })
    }
}

/// A connection, for one request after the other.
pub(super) struct Connection {
    gateway: Gateway,
    sender: SendRequest<Full<Bytes>>,
    /// What reads and writes, in the task that asks: another one would have to be woken twice for each request. `None`
    /// once it has ended.
    wire: Option<Box<http1::Connection<TokioIo<TcpStream>, Full<Bytes>>>>,
}

impl Connection {
    pub(super) async fn put(&mut self, key: &str, value: Vec<u8>) -> Result<()> {
        let request = self.gateway.dialect.put(key, value);
        self.ask(request).await.map(drop)
    }

    /// Whether the key is there.
    pub(super) async fn get(&mut self, key: &str) -> Result<bool> {
        let dialect = self.gateway.dialect;
        let answer = self.ask(dialect.get(key)).await?;
        Ok(dialect.found(&answer))
    }

    async fn ask(&mut self, asked: Asked) -> Result<Bytes> {
        let request = Request::builder()
            .method(asked.method)
            .uri(asked.path)
            .header(HOST, &self.gateway.address)
            .header(CONTENT_TYPE, asked.content_type)
            .body(Full::new(asked.body))?;
        let (status, body) = self.exchange(request).await?;
        ensure!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&body));
        Ok(body)
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes)> {
        let Self { sender, wire, .. } = self;
        let mut answer = pin!(async {
            sender.ready().await?;
            let answer = sender.send_request(request).await?;
            let status = answer.status();
            anyhow::Ok((status, answer.into_body().collect().await?.to_bytes()))
        });
        let open = wire.as_mut().context("the connection was closed")?;
        tokio::select! {
            biased;
            answer = &mut answer => return answer,
            ended = open => {
                *wire = None;
                ended?;
            }
        }
        // An answer that came before the end is there by now.
        answer.await
    }
}

/// A request in one of the dialects.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    method: Method,
    path: String,
    content_type: &'static str,
    body: Bytes,
}

impl Dialect {
    fn put(self, key: &str, value: Vec<u8>) -> Asked {
        match self {
            Self::Flotilla => Asked::bytes(Method::PUT, key, value.into()),
            Self::Etcd => {
                let (key, value) = (STANDARD.encode(key), STANDARD.encode(value));
                Asked::json("/v3/kv/put", format!("{{\"key\":\"{key}\",\"value\":\"{value}\"}}"))
            }
        }
    }

    /// Linearizable, as both are unless asked otherwise.
    fn get(self, key: &str) -> Asked {
        match self {
            Self::Flotilla => Asked::bytes(Method::GET, key, Bytes::new()),
            Self::Etcd => {
                let key = STANDARD.encode(key);
                Asked::json("/v3/kv/range", format!("{{\"key\":\"{key}\"}}"))
            }
        }
    }

    /// Whether a good answer to a get has a value. flotilla answers with another status where there is none.
    fn found(self, answer: &[u8]) -> bool {
        match self {
            Self::Flotilla => true,
            Self::Etcd => answer.windows(6).any(|word| word == b"\"kvs\":"),
        }
    }
}

impl Asked {
    fn bytes(method: Method, key: &str, body: Bytes) -> Self {
        Self { method, path: format!("/v1/kv/{key}"), content_type: "application/octet-stream", body }
    }

    fn json(path: &str, body: String) -> Self {
        let content_type = "application/json";
        Self { method: Method::POST, path: path.to_owned(), content_type, body: body.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// Each system is asked in its own words.
    #[test]
    fn dialects() {
        let put = Dialect::Flotilla.put("bench/1", b"v".into());
        assert_eq!(
            (put.method, put.path.as_str(), &put.body[..]),
            (Method::PUT, "/v1/kv/bench/1", &b"v"[..])
        );
        let put = Dialect::Etcd.put("k", b"v".into());
        assert_eq!((put.method, put.path.as_str()), (Method::POST, "/v3/kv/put"));
        assert_eq!(&put.body[..], br#"{"key":"aw==","value":"dg=="}"#);
        assert_eq!(&Dialect::Etcd.get("k").body[..], br#"{"key":"aw=="}"#);
        assert!(Dialect::Etcd.found(br#"{"header":{},"kvs":[{}],"count":"1"}"#));
        assert!(!Dialect::Etcd.found(br#"{"header":{}}"#));
    }

    /// Answers to what was sent over one connection, as `answers` say.
    async fn gateway(answers: &'static [&'static str]) -> Gateway {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            for answer in answers {
                let mut request = Vec::new();
                while !request.windows(4).any(|word| word == b"\r\n\r\n") {
                    request.push(stream.read_u8().await.expect("a request"));
                }
                stream.write_all(answer.as_bytes()).await.expect("a reader");
            }
        });
        Gateway { dialect: Dialect::Flotilla, address }
    }

    /// A connection is used again, and a refusal is an error with the server's words.
    #[tokio::test]
    async fn one_connection_for_all() {
        let answers = &[
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nv",
            "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 9\r\n\r\nno leader",
        ];
        let mut connection = gateway(answers).await.connect().await.expect("it listens");
        assert!(connection.get("k").await.expect("an answer"));
        let why = connection.get("k").await.expect_err("a refusal").to_string();
        assert_eq!(why, "503 Service Unavailable: no leader");
        assert!(connection.get("k").await.is_err(), "the connection was closed");
    }
}
