//! Gates that hold the processes of a test: files in a directory, which the test makes and takes away.
//!
//! ```text
//!   test:     makes  Frozen-s17               the gate is shut
//!   process:  renames it  Frozen-s17.held-by-n2   only the first who comes can, and waits
//!   test:     kills whom it wants, then takes the file away: who waits goes on
//! ```
//!
//! A gate holds one process once: one that comes back after it was killed passes, and so does its successor.

use super::Failpoint;
use proto::{NodeId, ShardId};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;
use tokio::time::sleep;

/// The variable that names the directory.
pub const VARIABLE: &str = "FAILPOINT_GATES";

/// How often a process looks whether it may go on.
const PACE: Duration = Duration::from_millis(5);

static DIRECTORY: LazyLock<Option<PathBuf>> = LazyLock::new(|| std::env::var_os(VARIABLE).map(PathBuf::from));

/// The file that shuts the gate at a point for a shard.
pub fn shut(directory: &Path, shard: ShardId, point: Failpoint) -> PathBuf {
    directory.join(format!("{point:?}-{shard}"))
}

/// The file that says that the gate holds a node.
pub fn held(directory: &Path, shard: ShardId, point: Failpoint, node: NodeId) -> PathBuf {
    directory.join(format!("{point:?}-{shard}.held-by-{node}"))
}

/// Waits at the gate, where there is one and nobody waits there.
pub(super) async fn pass(node: NodeId, shard: ShardId, point: Failpoint) {
    let Some(directory) = &*DIRECTORY else { return };
    let held = held(directory, shard, point, node);
    match std::fs::rename(shut(directory, shard, point), &held) {
        Ok(()) => {
            tracing::info!(%node, %shard, ?point, "held at a gate");
            while held.exists() {
                sleep(PACE).await;
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => tracing::error!(%node, %shard, ?point, %error, "a gate cannot be used"),
    }
}
