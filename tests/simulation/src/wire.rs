//! The network as one host has it until its plug is pulled: every read and write is traced, and a host
//! without power neither says nor hears anything.

use crate::trace::Trace;
use futures_util::future::BoxFuture;
use raftstore::{Listener, Network, Stream};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Shared with the host that is plugged in; true once it was pulled.
#[derive(Clone, Debug, Default)]
pub struct Plug(Arc<AtomicBool>);

impl Plug {
    /// Cuts the host's power, for good.
    pub fn pull(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn check(&self) -> io::Result<()> {
        match self.0.load(Ordering::Relaxed) {
            true => Err(io::Error::new(io::ErrorKind::NetworkDown, "the power went")),
            false => Ok(()),
        }
    }
}

/// What of a message the trace tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Its length and checksum.
    Bytes,
    /// Its length: HTTP's answers hold the date of the real world.
    Length,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Wire {
    network: Arc<dyn Network>,
    name: Arc<str>,
    plug: Plug,
    trace: Trace,
    detail: Detail,
}

impl Wire {
    /// `network` as the host `name` has it.
    pub fn new(network: Arc<dyn Network>, name: &str, plug: &Plug, trace: &Trace, detail: Detail) -> Self {
        Self { network, name: name.into(), plug: plug.clone(), trace: trace.clone(), detail }
    }

    fn stream(&self, stream: Box<dyn Stream>, peer: &str) -> Box<dyn Stream> {
        Box::new(WireStream { stream, wire: self.clone(), peer: peer.into() })
    }
}

impl Network for Wire {
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Stream>>> {
        Box::pin(async move {
            self.plug.check()?;
            let stream = self.network.connect(address).await?;
            // It may have been made while the plug was pulled.
            self.plug.check()?;
            self.trace.note(format_args!("{} connects to {address}", self.name));
            Ok(self.stream(stream, address))
        })
    }

    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let listener = self.network.listen(address).await?;
            Ok(Box::new(WireListener { listener, wire: self.clone() }) as Box<dyn Listener>)
        })
    }
}

struct WireListener {
    listener: Box<dyn Listener>,
    wire: Wire,
}

impl Listener for WireListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Box<dyn Stream>, String)>> {
        Box::pin(async move {
            let (stream, peer) = self.listener.accept().await?;
            self.wire.plug.check()?;
            Ok((self.wire.stream(stream, &peer), peer))
        })
    }

    fn local_address(&self) -> &str {
        self.listener.local_address()
    }
}

struct WireStream {
    stream: Box<dyn Stream>,
    wire: Wire,
    peer: Arc<str>,
}

impl WireStream {
    fn note(&self, what: &str, bytes: &[u8]) {
        let Wire { trace, name, detail, .. } = &self.wire;
        let (peer, length) = (&self.peer, bytes.len());
        match detail {
            Detail::Bytes => {
                let crc = crc32fast::hash(bytes);
                trace.note(format_args!("{name} {what} {peer} {length} {crc:08x}"));
            }
            Detail::Length => trace.note(format_args!("{name} {what} {peer} {length}")),
        }
    }
}

impl AsyncRead for WireStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.wire.plug.check()?;
        let before = into.filled().len();
        std::task::ready!(Pin::new(&mut self.stream).poll_read(context, into))?;
        self.note("hears", &into.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for WireStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.wire.plug.check()?;
        let count = std::task::ready!(Pin::new(&mut self.stream).poll_write(context, from))?;
        self.note("tells", &from[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wire.plug.check()?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wire.plug.check()?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
