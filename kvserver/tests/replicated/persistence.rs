//! Nodes crash and start again while clerks are at work, one at a time and all at once; what was not synced
//! is lost.

use crate::faults::{Faults, survive};

const RESTARTS: Faults = Faults { unreliable: false, partitions: false, restarts: true, snapshots: false };

/// PersistOneClient: what one client was told holds through crashes of all nodes.
#[tokio::test(flavor = "multi_thread")]
async fn persist_one_client() {
    survive(1, 5, RESTARTS, 30).await;
}

/// PersistConcurrent: what five clients were told holds through crashes of all nodes.
#[tokio::test(flavor = "multi_thread")]
async fn persist_concurrent() {
    survive(5, 5, RESTARTS, 31).await;
}

/// PersistConcurrentUnreliable: the same while messages are late and lost.
#[tokio::test(flavor = "multi_thread")]
async fn persist_concurrent_unreliable() {
    survive(5, 5, Faults { unreliable: true, ..RESTARTS }, 32).await;
}

/// PersistPartition: the same while the network is cut.
#[tokio::test(flavor = "multi_thread")]
async fn persist_partition() {
    survive(5, 5, Faults { partitions: true, ..RESTARTS }, 33).await;
}

/// PersistPartitionUnreliable: the same while the network is cut, and messages are late and lost.
#[tokio::test(flavor = "multi_thread")]
async fn persist_partition_unreliable() {
    survive(5, 5, Faults { unreliable: true, partitions: true, ..RESTARTS }, 34).await;
}

/// PersistPartitionUnreliableLinearizable: fifteen clients at random keys and seven nodes, through cuts and
/// crashes, while messages are late and lost; the history is linearizable.
#[tokio::test(flavor = "multi_thread")]
async fn persist_partition_unreliable_linearizable() {
    survive(15, 7, Faults { unreliable: true, partitions: true, ..RESTARTS }, 35).await;
}
