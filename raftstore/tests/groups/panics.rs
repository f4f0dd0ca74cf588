//! Machines that panic: their group fails, with the reason, and the node with it.

use crate::cluster::{Cluster, ELECTION, SECOND, Settings, address_of};
use bytes::Bytes;
use proto::{GroupId, NodeId};
use raftstore::{CopyId, CopyStep, Fatal, Group, LoadError, Machine, Moment};
use std::collections::BTreeMap;
use tokio::time::timeout;

const FRAGILE: GroupId = GroupId(7);

/// Where a machine breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Breaks {
    Applying,
    Beginning,
    Copying,
}

/// A machine that breaks at the command "break", or while it is copied.
struct Fragile {
    breaks: Breaks,
}

impl Machine for Fragile {
    fn apply(&mut self, _: Moment, command: &[u8]) -> Bytes {
        assert!(self.breaks != Breaks::Applying || command != b"break", "cannot apply");
        Bytes::new()
    }

    fn time_ms(&self) -> u64 {
        0
    }

    fn copy_bytes(&self) -> u64 {
        0
    }

    fn copy_begin(&mut self) -> CopyId {
        assert!(self.breaks != Breaks::Beginning, "cannot begin");
        CopyId(0)
    }

    fn copy_next(&mut self, _: CopyId, _: usize) -> CopyStep {
        assert!(self.breaks != Breaks::Copying, "cannot copy");
        CopyStep::default()
    }

    fn copy_end(&mut self, _: CopyId) {}

    fn load(&mut self, _: &[u8]) -> Result<(), LoadError> {
        Ok(())
    }
}

async fn found(cluster: &Cluster, breaks: Breaks) -> Group<Fragile> {
    let group = cluster.node(1).host.open_group(FRAGILE, move || Fragile { breaks }).await.unwrap();
    group.bootstrap(&BTreeMap::from([(NodeId(1), address_of(1))])).await.unwrap();
    group.wait_for_leader(ELECTION).await.unwrap();
    group
}

/// A panic of a machine fails its group and the node, and says what it was, whether it came when a command
/// was applied or when the machine was copied for a snapshot; and nothing that waits for the group hangs
/// after it.
#[tokio::test(start_paused = true)]
async fn a_panic_of_a_machine_fails_the_node() {
    let places = [
        (Breaks::Applying, "cannot apply"),
        (Breaks::Beginning, "cannot begin"),
        (Breaks::Copying, "cannot copy"),
    ];
    for (breaks, reason) in places {
        let cluster = Cluster::start(Settings::new(1, 170).with_snapshots()).await;
        cluster.leader().await;
        let group = found(&cluster, breaks).await;
        for _ in 0..10 {
            let command = Bytes::from(vec![b'x'; 100]);
            timeout(SECOND, group.propose(command)).await.expect("a proposal is answered").ok();
        }
        if breaks == Breaks::Applying {
            let told = timeout(SECOND, group.propose(Bytes::from_static(b"break"))).await;
            assert!(told.expect("the one that broke it is answered, too").is_err());
        }
        let fatal = cluster.node(1).failure(ELECTION).await.expect("a node whose machine panics stops");
        let says = |why: &str| why.contains("panicked") && why.contains(reason);
        assert!(
            matches!(&fatal, Fatal::Group { group, why } if *group == FRAGILE && says(why)),
            "{breaks:?}: {fatal}"
        );
        let told = timeout(SECOND, group.propose(Bytes::from_static(b"late"))).await;
        assert!(told.expect("a group that failed answers").is_err());
        drop(group);
        // No task of it outlives the node.
        cluster.end().await;
    }
}
