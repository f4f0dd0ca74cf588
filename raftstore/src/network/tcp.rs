//! TCP through tokio, without Nagle's delay: the transport gathers what belongs together itself.

use super::{Listener, Network, Stream};
use futures_util::future::BoxFuture;
use std::io;
use tokio::net::{TcpListener, TcpStream};

/// The world's network.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpNetwork;

impl Network for TcpNetwork {
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Stream>>> {
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }

    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let named = |error: io::Error| {
                io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
            };
            let listener = TcpListener::bind(address).await.map_err(named)?;
            let address = listener.local_addr()?.to_string();
            Ok(Box::new(Tcp { listener, address }) as Box<dyn Listener>)
        })
    }
}

struct Tcp {
    listener: TcpListener,
    address: String,
}

impl Listener for Tcp {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Box<dyn Stream>, String)>> {
        Box::pin(async move {
            let (stream, peer) = self.listener.accept().await?;
            stream.set_nodelay(true)?;
            Ok((Box::new(stream) as Box<dyn Stream>, peer.to_string()))
        })
    }

    fn local_address(&self) -> &str {
        &self.address
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Bytes cross in both directions, and port 0 is replaced by the port that was taken.
    #[tokio::test]
    async fn bytes_cross() {
        let mut listener = TcpNetwork.listen("127.0.0.1:0").await.unwrap();
        let address = listener.local_address().to_owned();
        assert!(!address.ends_with(":0"));
        let (mut near, accepted) = tokio::join!(TcpNetwork.connect(&address), listener.accept());
        let (near, far) = (near.as_mut().unwrap(), &mut accepted.unwrap().0);
        near.write_all(b"ping").await.unwrap();
        far.write_all(b"pong").await.unwrap();
        let (mut there, mut here) = ([0; 4], [0; 4]);
        far.read_exact(&mut there).await.unwrap();
        near.read_exact(&mut here).await.unwrap();
        assert_eq!((&there, &here), (b"ping", b"pong"));
    }

    /// A taken port is refused with the address in the message.
    #[tokio::test]
    async fn a_taken_port_is_named() {
        let first = TcpNetwork.listen("127.0.0.1:0").await.unwrap();
        let error = TcpNetwork.listen(first.local_address()).await.err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains(first.local_address()), "{error}");
    }
}
