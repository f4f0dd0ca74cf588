//! When the operator wants the process to end: Ctrl-C (SIGINT) and SIGTERM, the first as a request to finish, the
//! second as an order to stop at once. Owns the handlers; ends nothing itself.

use crate::error::Error;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Both signals, caught from its creation on: one that arrives before [`recv`](Self::recv) is not lost.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Catches the signals from now on.
    pub(crate) fn catch() -> Result<Self, Error> {
        let catch =
            |kind| signal(kind).map_err(|error| Error::Failed(format!("cannot catch signals: {error}")));
        Ok(Self { interrupt: catch(SignalKind::interrupt())?, terminate: catch(SignalKind::terminate())? })
    }

    /// Waits for the next signal and returns its name.
    pub(crate) async fn recv(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}
