//! The network as one host has it until its plug is pulled: every read and write is traced, and a host
//! without power neither says nor hears anything. One that stands still does so for a while.

use crate::lock;
use crate::trace::Trace;
use futures_util::future::BoxFuture;
use raftstore::{Listener, Network, Stream};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Shared with the host that is plugged in.
#[derive(Clone, Debug, Default)]
pub struct Plug(Arc<Mutex<Power>>);

#[derive(Debug, Default)]
struct Power {
    /// Once it was pulled.
    gone: bool,
    /// For how many reasons the host stands still.
    pauses: u32,
    /// Who goes on when it does.
    waiting: Vec<Waker>,
}

impl Plug {
    /// Cuts the host's power, for good.
    pub fn pull(&self) {
        let mut power = lock(&self.0);
        power.gone = true;
        power.wake();
    }

    /// Lets the host stand still as a stopped process does: what reaches it waits, and it says nothing.
    pub fn pause(&self) {
        lock(&self.0).pauses += 1;
    }

    /// Takes one [`pause`](Self::pause) back.
    pub fn resume(&self) {
        let mut power = lock(&self.0);
        power.pauses = power.pauses.saturating_sub(1);
        if power.pauses == 0 {
            power.wake();
        }
    }

    fn check(&self) -> io::Result<()> {
        match lock(&self.0).gone {
            true => Err(io::Error::new(io::ErrorKind::NetworkDown, "the power went")),
            false => Ok(()),
        }
    }

    /// Ready where the host has power and does not stand still.
    fn poll_runs(&self, context: &Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        let mut power = lock(&self.0);
        if power.pauses == 0 {
            return Poll::Ready(Ok(()));
        }
        power.waiting.push(context.waker().clone());
        Poll::Pending
    }

    /// Waits while the host stands still.
    ///
    /// # Errors
    /// Once its power is gone.
    pub async fn runs(&self) -> io::Result<()> {
        std::future::poll_fn(|context| self.poll_runs(context)).await
    }
}

impl Power {
    fn wake(&mut self) {
        self.waiting.drain(..).for_each(Waker::wake);
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
            self.plug.runs().await?;
            let stream = self.network.connect(address).await?;
            // It may have been made while the plug was pulled, or the host stood still.
            self.plug.runs().await?;
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
            self.wire.plug.runs().await?;
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
        std::task::ready!(self.wire.plug.poll_runs(context)?);
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
        std::task::ready!(self.wire.plug.poll_runs(context)?);
        let count = std::task::ready!(Pin::new(&mut self.stream).poll_write(context, from))?;
        self.note("tells", &from[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.wire.plug.poll_runs(context)?);
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.wire.plug.poll_runs(context)?);
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
