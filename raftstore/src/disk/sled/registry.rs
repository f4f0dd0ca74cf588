//! Which tables are open, and which names somebody is at.
//!
//! sled must never open one directory twice, and opening one makes it anew where it is not there. So a name
//! is claimed while its folder is made, opened or renamed, and it is listed from then until its database is
//! closed. The lock is held for looking at these lists alone, never while the disk works.

use super::super::{Table, lock};
use super::table::SledTable;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Registry {
    names: Mutex<Names>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Names {
    /// A table is here from before anyone has it until after its database is closed.
    open: BTreeMap<String, Weak<SledTable>>,
    claimed: BTreeSet<String>,
    /// Tables that were let go of and are not closed yet.
    releasing: usize,
}

/// The right to make, open or rename a table's folder.
#[derive(Debug)]
pub(super) struct Claim<'a> {
    registry: &'a Registry,
    table: &'a str,
}

/// A table on its way to be closed.
#[derive(Debug)]
pub(super) struct Releasing {
    registry: Arc<Registry>,
    table: Option<Arc<dyn Table>>,
}

impl Registry {
    fn wait<'a>(&self, names: MutexGuard<'a, Names>) -> MutexGuard<'a, Names> {
        self.changed.wait(names).unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Names) -> T) -> T {
        let changed = change(&mut lock(&self.names));
        self.changed.notify_all();
        changed
    }

    /// Waits for the right to do something to the folder of a table, whether or not it is open.
    pub(super) fn claim<'a>(&'a self, table: &'a str) -> Claim<'a> {
        let mut names = lock(&self.names);
        while names.claimed.contains(table) {
            names = self.wait(names);
        }
        names.claimed.insert(table.to_owned());
        Claim { registry: self, table }
    }

    /// The table where it is open, the right to open it where it is not.
    pub(super) fn find<'a>(&'a self, table: &'a str) -> Result<Arc<SledTable>, Claim<'a>> {
        let mut names = lock(&self.names);
        loop {
            if !names.claimed.contains(table) {
                match names.open.get(table).map(Weak::upgrade) {
                    Some(Some(open)) => return Ok(open),
                    // Its last handle is being dropped at this moment.
                    Some(None) => {}
                    None => break,
                }
            }
            names = self.wait(names);
        }
        names.claimed.insert(table.to_owned());
        Err(Claim { registry: self, table })
    }

    /// Says that the database of a table is closed.
    pub(super) fn closed(&self, table: &str) {
        self.change(|names| names.open.remove(table));
    }

    /// Counts a table as let go of until what this returns is dropped, and the table with it.
    pub(super) fn release(registry: &Arc<Self>, table: Arc<dyn Table>) -> Releasing {
        registry.change(|names| names.releasing += 1);
        Releasing { registry: Arc::clone(registry), table: Some(table) }
    }

    /// Waits until every table that was let go of is closed, as far as nobody else has it.
    pub(super) fn settle(&self) {
        let mut names = lock(&self.names);
        while names.releasing > 0 {
            names = self.wait(names);
        }
    }

    /// The names of the tables that are open.
    #[cfg(test)]
    pub(super) fn open(&self) -> Vec<String> {
        lock(&self.names).open.keys().cloned().collect()
    }
}

impl Claim<'_> {
    /// Lists the table as open, and ends the claim.
    pub(super) fn opened(self, table: &Arc<SledTable>) {
        let name = self.table.to_owned();
        self.registry.change(|names| names.open.insert(name, Arc::downgrade(table)));
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.registry.change(|names| names.claimed.remove(self.table));
    }
}

impl Drop for Releasing {
    fn drop(&mut self) {
        drop(self.table.take());
        self.registry.change(|names| names.releasing -= 1);
    }
}
