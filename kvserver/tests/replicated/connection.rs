//! A client's connection to a node, over the simulated network.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::http::request::Builder;
use hyper_util::rt::TokioIo;
use raftstore::SimulatedNetwork;

/// See the module.
pub(crate) struct Connection(SendRequest<Full<Bytes>>);

impl Connection {
    /// From the network's host `client`.
    pub(crate) async fn open(network: &SimulatedNetwork, to: &str) -> Self {
        let stream = network.host("client").connect(to).await.unwrap();
        let (sender, driver) = handshake(TokioIo::new(stream)).await.unwrap();
        // Ends with its connection; whoever waits for an answer hears of it.
        drop(tokio::spawn(driver));
        Self(sender)
    }

    /// The answer to a request, which must be carried out.
    pub(crate) async fn done(&mut self, request: Builder, body: impl Into<Bytes>) -> hyper::Response<Bytes> {
        self.0.ready().await.unwrap();
        let request = request.header("host", "flotilla").body(Full::new(body.into())).unwrap();
        let (head, body) = self.0.send_request(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        assert!(head.status.is_success(), "{head:?} {body:?}");
        hyper::Response::from_parts(head, body)
    }
}
