//! A node's HTTP front end, as curl would meet it.

use bytes::Bytes;
use reqwest::{Client, Method};
use serde_json::Value;
use std::net::SocketAddr;
use std::time::Duration;

/// A test that waits longer hangs: it fails here instead.
const PATIENCE: Duration = Duration::from_secs(30);

/// The way to one node.
#[derive(Clone, Debug)]
pub(crate) struct Door {
    http: Client,
    address: SocketAddr,
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The status, or a problem's code and outcome.
    pub(crate) fn said(&self) -> (u16, String, String) {
        let problem = self.json();
        let text = |name: &str| problem[name].as_str().unwrap_or_else(|| panic!("{self:?}")).to_owned();
        (self.status, text("code"), text("outcome"))
    }

    pub(crate) fn is_done(&self) -> bool {
        [200, 201, 204].contains(&self.status)
    }

    /// All that must be the same whichever node answers.
    pub(crate) fn essence(&self) -> (u16, Vec<Option<&str>>, &[u8]) {
        let names = ["etag", "flotilla-revision", "flotilla-shard", "flotilla-length", "content-type"];
        (self.status, names.into_iter().map(|name| self.header(name)).collect(), &self.body)
    }
}

impl Door {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { http: Client::builder().timeout(PATIENCE).no_proxy().build().unwrap(), address }
    }

    /// Sends a request; an error where no answer came.
    pub(crate) async fn try_ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> reqwest::Result<Answer> {
        let mut request =
            self.http.request(method, format!("http://{}{path}", self.address)).body(body.into());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await?;
        let status = response.status().as_u16();
        let header = |(name, value): (&reqwest::header::HeaderName, &reqwest::header::HeaderValue)| {
            (name.as_str().to_owned(), value.to_str().unwrap().to_owned())
        };
        let headers = response.headers().iter().map(header).collect();
        Ok(Answer { status, headers, body: response.bytes().await? })
    }

    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        self.try_ask(method, path, headers, body).await.unwrap_or_else(|error| panic!("{path}: {error:?}"))
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path, &[], "").await
    }

    pub(crate) async fn put(&self, key: &str, value: impl Into<Bytes>) -> Answer {
        self.ask(Method::PUT, &format!("/v1/kv/{key}"), &[], value).await
    }

    pub(crate) async fn append(&self, key: &str, value: impl Into<Bytes>) -> Answer {
        self.ask(Method::POST, &format!("/v1/kv/{key}"), &[], value).await
    }

    pub(crate) async fn value(&self, key: &str) -> Option<Bytes> {
        let answer = self.get(&format!("/v1/kv/{key}")).await;
        match answer.status {
            200 => Some(answer.body),
            404 => None,
            _ => panic!("{key}: {answer:?}"),
        }
    }

    /// A JSON batch.
    pub(crate) async fn batch(&self, operations: &Value) -> Answer {
        let body = serde_json::to_vec(&serde_json::json!({ "operations": operations })).unwrap();
        self.ask(Method::POST, "/v1/batch", &[("content-type", "application/json")], body).await
    }
}
