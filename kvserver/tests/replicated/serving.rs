//! Clients are served, one and many, on a good network and on a bad one, by nodes that all run.

use crate::faults::{Faults, survive};

/// Basic: one client is served by five replicas, nothing being wrong.
#[tokio::test(flavor = "multi_thread")]
async fn basic() {
    survive(1, 5, Faults::default(), 10).await;
}

/// Concurrent: five clients are served at once.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent() {
    survive(5, 5, Faults::default(), 11).await;
}

/// Unreliable: five clients are served while messages are late and lost.
#[tokio::test(flavor = "multi_thread")]
async fn unreliable() {
    survive(5, 5, Faults { unreliable: true, ..Faults::default() }, 12).await;
}
