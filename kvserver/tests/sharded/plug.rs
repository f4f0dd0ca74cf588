//! A node's network until its plug is pulled: then no connection is made or taken any more. Those that stand are cut
//! by whoever pulls it.

use futures_util::future::BoxFuture;
use raftstore::{Listener, Network, Stream};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Shared with the node that is plugged in; true once it was pulled.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plug(Arc<AtomicBool>);

impl Plug {
    pub(crate) fn pull(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    fn is_pulled(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Plugged {
    pub(crate) network: Arc<dyn Network>,
    pub(crate) plug: Plug,
}

fn without_power() -> io::Error {
    io::Error::new(io::ErrorKind::NetworkDown, "the power went")
}

impl Network for Plugged {
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Stream>>> {
        Box::pin(async move {
            if self.plug.is_pulled() {
                return Err(without_power());
            }
            let stream = self.network.connect(address).await?;
            // It may have been made while the plug was pulled.
            if self.plug.is_pulled() { Err(without_power()) } else { Ok(stream) }
        })
    }

    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let listener = self.network.listen(address).await?;
            Ok(Box::new(PluggedListener { listener, plug: self.plug.clone() }) as Box<dyn Listener>)
        })
    }
}

struct PluggedListener {
    listener: Box<dyn Listener>,
    plug: Plug,
}

impl Listener for PluggedListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Box<dyn Stream>, String)>> {
        Box::pin(async move {
            loop {
                let accepted = self.listener.accept().await?;
                if !self.plug.is_pulled() {
                    return Ok(accepted);
                }
            }
        })
    }

    fn local_address(&self) -> &str {
        self.listener.local_address()
    }
}
