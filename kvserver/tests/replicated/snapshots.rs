//! Snapshots cut logs short while clerks are at work, and nothing is lost by that.

use crate::cluster::{Cluster, Shape, examine};
use crate::faults::{Faults, survive};
use crate::request::{Seen, What};
use crate::wait::eventually;
use proto::{
    BatchReply, BatchRequest, ClientId, Consistency, Expect, Item, Operation, Reply, Sequence, Stamp,
};
use reqwest::Method;

/// How many puts of one key a snapshot must stay small through.
const PUTS: u64 = 400;

/// What the examination allows for a snapshot of one small key, in bytes.
const SNAPSHOT_BYTES_MAX: u64 = 500;

/// What this service keeps beside it, in bytes: the last 256 changes of the key's shard at eight bytes each,
/// and the state of every shard.
const OVERHEAD_BYTES: u64 = 2_500;

/// The client that keeps a session; clerks have smaller numbers.
const SESSION: u64 = 1_000;

const SNAPSHOTS: Faults = Faults { unreliable: false, partitions: false, restarts: false, snapshots: true };

/// Puts as a client does that keeps a session.
async fn put_in_session(cluster: &Cluster, sequence: u64, value: &str) -> Option<u64> {
    let stamp = Stamp {
        client: ClientId(u128::from(SESSION)),
        sequence: Sequence(sequence),
        lowest_open: Sequence(sequence),
    };
    let operation = Operation::Put { key: b"x", value: value.as_bytes(), expect: Expect::Any };
    let batch = BatchRequest {
        deadline_ms: 2_000,
        consistency: Consistency::Linearizable,
        request_id: 1,
        items: vec![Item { stamp: Some(stamp), operation }],
    };
    let headers = [("content-type", "application/vnd.flotilla.batch")];
    let doors = cluster.doors();
    let door = &doors[sequence as usize % doors.len()];
    let answer = door.ask(Method::POST, "/v1/batch", &headers, proto::encode(&batch)).await;
    let reply: BatchReply<'_> = proto::decode(&answer.body).ok()?;
    match reply.answers.into_iter().next()? {
        Ok(Reply::Written { version, .. }) => Some(version.0),
        _ => None,
    }
}

/// SnapshotSize: after four hundred puts to one key by one client, a snapshot is no larger than one small key
/// and a stated overhead, on every replica.
#[tokio::test(flavor = "multi_thread")]
async fn snapshot_size() {
    examine(Shape::new(5, 40).with_snapshots(), async |cluster| {
        for sequence in 1..=PUTS {
            let value = (sequence % 2).to_string();
            let asked = cluster.history.invoke(SESSION, "x", What::Put(value.clone()));
            let answered =
                eventually("a put is answered", async || put_in_session(cluster, sequence, &value).await);
            let version = answered.await;
            cluster.history.complete(asked, Seen { version, value: None });
        }
        assert_eq!(cluster.clerk().get("x").await.as_deref(), Some("0"));
        for status in cluster.replicas() {
            println!("snapshot of {} bytes on {}", status.snapshot_bytes, status.node);
            assert!(status.snapshot_bytes <= SNAPSHOT_BYTES_MAX + OVERHEAD_BYTES, "{status:?}");
        }
    })
    .await;
}

/// SnapshotRecover: what one client was told holds through crashes of all nodes, whose logs no longer hold
/// it.
#[tokio::test(flavor = "multi_thread")]
async fn snapshot_recover() {
    survive(1, 5, Faults { restarts: true, ..SNAPSHOTS }, 42).await;
}

/// SnapshotRecoverManyClients: the same of twenty clients.
#[tokio::test(flavor = "multi_thread")]
async fn snapshot_recover_many_clients() {
    survive(20, 5, Faults { restarts: true, ..SNAPSHOTS }, 43).await;
}

/// SnapshotUnreliable: five clients are served while snapshots are made, and messages are late and lost.
#[tokio::test(flavor = "multi_thread")]
async fn snapshot_unreliable() {
    survive(5, 5, Faults { unreliable: true, ..SNAPSHOTS }, 44).await;
}

/// SnapshotUnreliableRecover: the same through crashes of all nodes.
#[tokio::test(flavor = "multi_thread")]
async fn snapshot_unreliable_recover() {
    survive(5, 5, Faults { unreliable: true, restarts: true, ..SNAPSHOTS }, 45).await;
}

/// SnapshotUnreliableRecoverConcurrentPartition: the same while the network is cut.
#[tokio::test(flavor = "multi_thread")]
async fn snapshot_unreliable_recover_concurrent_partition() {
    survive(5, 5, Faults { unreliable: true, restarts: true, partitions: true, ..SNAPSHOTS }, 46).await;
}

/// SnapshotUnreliableRecoverConcurrentPartitionLinearizable: the same of fifteen clients at random keys and
/// seven nodes; the history is linearizable.
#[tokio::test(flavor = "multi_thread")]
async fn snapshot_unreliable_recover_concurrent_partition_linearizable() {
    survive(15, 7, Faults { unreliable: true, restarts: true, partitions: true, ..SNAPSHOTS }, 47).await;
}
