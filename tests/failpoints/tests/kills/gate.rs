//! A gate at which the first process that comes is held.

use kvserver::moves::failpoint::{Failpoint, gates};
use proto::{NodeId, ShardId};
use std::fs;
use std::path::{Path, PathBuf};
use tests::eventually;

/// See the module.
pub(crate) struct Gate {
    directory: PathBuf,
    shard: ShardId,
    point: Failpoint,
}

impl Gate {
    /// Shuts the gate at `point` for a shard.
    pub(crate) fn shut(directory: &Path, point: Failpoint, shard: u64) -> Self {
        let shard = ShardId(u32::try_from(shard).expect("shards have small numbers"));
        fs::write(gates::shut(directory, shard, point), []).expect("a directory of the test's own");
        Self { directory: directory.to_owned(), shard, point }
    }

    fn held(&self, node: u64) -> PathBuf {
        gates::held(&self.directory, self.shard, self.point, NodeId(node))
    }

    /// Waits until one of `nodes` is held; which.
    pub(crate) async fn reached(&self, nodes: &[u64]) -> u64 {
        let holds = |node: &&u64| self.held(**node).exists();
        eventually(&format!("a node is held at {:?}", self.point), || {
            std::future::ready(nodes.iter().find(holds).copied())
        })
        .await
    }

    /// Lets `node` through, which is held or was.
    pub(crate) fn open(self, node: u64) {
        fs::remove_file(self.held(node)).expect("the gate holds it");
    }
}
