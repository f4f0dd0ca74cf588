//! openraft's own suite for log storages, on both disks, with a machine that keeps what the suite asks for.

use super::*;
use crate::snapshot::{Snapshot, SnapshotStore};
use crate::types::{SnapshotMeta, StoredMembership};
use futures_util::{Stream, StreamExt};
use openraft::errors::ErrorSource;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::alias::ErrorSourceOf;

type OpenraftSnapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, Snapshot>;

/// A machine that remembers only how far it came.
#[derive(Clone)]
struct Follower {
    applied: Option<LogId>,
    membership: StoredMembership,
    snapshots: SnapshotStore,
}

impl Follower {
    async fn store(&self, meta: SnapshotMeta) -> Result<Snapshot, io::Error> {
        let mut writer = self.snapshots.create().await?;
        writer.append(b"state").await?;
        let snapshot = writer.finish(meta).await?;
        self.snapshots.install(&snapshot).await?;
        Ok(snapshot)
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Follower {
    type SnapshotData = Snapshot;

    async fn build_snapshot(&mut self) -> Result<OpenraftSnapshot, io::Error> {
        let meta = SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() };
        let snapshot = self.store(meta).await?;
        Ok(OpenraftSnapshot { meta: snapshot.meta.clone(), snapshot })
    }
}

impl RaftStateMachine<TypeConfig> for Follower {
    type SnapshotData = Snapshot;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + Send,
    {
        while let Some(item) = entries.next().await {
            let (entry, _) = item?;
            self.applied = Some(entry.log_id);
            if let Payload::Membership(membership) = entry.payload {
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Snapshot) -> Result<(), io::Error> {
        assert_eq!(snapshot.meta, *meta);
        self.store(meta.clone()).await?;
        (self.applied, self.membership) = (meta.last_log_id, meta.last_membership.clone());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<OpenraftSnapshot>, io::Error> {
        let current = self.snapshots.current();
        Ok(current.map(|snapshot| OpenraftSnapshot { meta: snapshot.meta.clone(), snapshot }))
    }
}

fn parts(storage: &Storage) -> (GroupLog, Follower) {
    let snapshots = storage.snapshots(G1);
    (storage.log(G1), Follower { applied: None, membership: StoredMembership::default(), snapshots })
}

fn suite_error(error: StorageError) -> openraft::StorageError<TypeConfig> {
    openraft::StorageError::read(ErrorSourceOf::<TypeConfig>::from_error(&error))
}

struct Simulated;

impl StoreBuilder<TypeConfig, GroupLog, Follower, Storage> for Simulated {
    async fn build(&self) -> Result<(Storage, GroupLog, Follower), openraft::StorageError<TypeConfig>> {
        let storage = open(&SimulatedDisk::new(), tiny()).await.map_err(suite_error)?;
        let (log, machine) = parts(&storage);
        Ok((storage, log, machine))
    }
}

struct Real;

impl StoreBuilder<TypeConfig, GroupLog, Follower, (Storage, TempDir)> for Real {
    async fn build(
        &self,
    ) -> Result<((Storage, TempDir), GroupLog, Follower), openraft::StorageError<TypeConfig>> {
        let folder = TempDir::new().unwrap();
        let storage = open_real(&folder, tiny()).await.map_err(suite_error)?;
        let (log, machine) = parts(&storage);
        Ok(((storage, folder), log, machine))
    }
}

/// openraft finds nothing to object to on the simulated disk.
#[test]
fn openraft_suite_simulated() {
    simulated(|_| async { Suite::test_all(Simulated).await.unwrap() });
}

/// openraft finds nothing to object to on the real disk.
#[test]
fn openraft_suite_real() {
    real(|_| async { Suite::test_all(Real).await.unwrap() });
}
